//! Replies drawn at random under a grammar, judged by a validator of others' making.

mod constraints;
mod judged;

use std::time::{Duration, Instant};

use domain::Sampling;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::fake::{FakeVocabulary, request};
use crate::sampler::Sampler;
use crate::splitting::Splitting;

/// Tokens of several bytes as real vocabularies have them: words with quotes and commas in them,
/// halves of characters, and one control token whose text must never be drawn.
struct Pieces(Vec<&'static [u8]>);

const CONTROL: Token = 0;
const PIECES_END: Token = 1;

impl Pieces {
    fn new() -> Self {
        const SINGLE: &[u8; 256] = &{
            let mut bytes = [0; 256];
            let mut at = 0;
            while at < 256 {
                bytes[at] = at as u8;
                at += 1;
            }
            bytes
        };
        let mut pieces: Vec<&[u8]> = vec![b"<tool_call>", b""];
        pieces.extend(SINGLE.chunks(1));
        let words: [&[u8]; 24] = [
            b"{\"",
            b"\":",
            b"\": ",
            b"\": \"",
            b"\",",
            b"\", \"",
            b"\"}",
            b"\"]",
            b"},",
            b"}]",
            b"]}",
            b"}}",
            b"[\"",
            b"[{\"",
            b"true",
            b"false",
            b"null",
            b"name",
            b" a",
            b"10",
            b"000",
            b".5",
            b"  ",
            b"\xe2\x82",
        ];
        pieces.extend(words);
        Self(pieces)
    }
}

impl Vocabulary for Pieces {
    fn size(&self) -> u32 {
        self.0.len() as u32
    }

    fn splitting(&self) -> Splitting {
        Splitting::Flat
    }

    fn tokenize(&self, _: &str, _: bool, _: &mut Vec<Token>) {}

    fn piece(&self, token: Token, bytes: &mut Vec<u8>) {
        bytes.extend(self.0[token as usize]);
    }

    fn is_control(&self, token: Token) -> bool {
        token == CONTROL
    }

    fn is_end(&self, token: Token) -> bool {
        token == PIECES_END
    }

    fn first_token(&self) -> Option<Token> {
        None
    }

    fn controls(&self) -> &[String] {
        &[]
    }

    fn piece_bytes_max(&self) -> u32 {
        16
    }
}

fn held(format: &OutputFormat) -> ChatRequest {
    request("a", |request| request.format = format.clone())
}

fn named(schema: &Value) -> OutputFormat {
    OutputFormat::JsonSchema(json!({"name": "n", "strict": true, "schema": schema}))
}

fn draw(
    vocabulary: &dyn Vocabulary,
    grammars: &Grammars,
    format: &OutputFormat,
    seed: u64,
) -> Result<String, BackendError> {
    let mut grammar = grammars.grammar(None, &held(format))?.unwrap();
    let drawn = draw_up_to(20_000, vocabulary, &mut grammar, seed)?;
    Ok(drawn.expect("it never ends"))
}

/// What is drawn at temperature 1 from random logits, which lean towards ending what was begun.
/// `None` where `tokens_max` tokens are not all of it.
fn draw_up_to(
    tokens_max: usize,
    vocabulary: &dyn Vocabulary,
    grammar: &mut Grammar,
    seed: u64,
) -> Result<Option<String>, BackendError> {
    let sampling = Sampling {
        seed: Some(seed as i64),
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(&sampling, 1.0, 0);
    let mut random = StdRng::seed_from_u64(seed);
    let mut text = Vec::new();
    for _ in 0..tokens_max {
        let logits: Vec<f32> = (0..vocabulary.size() as Token)
            .map(|token| {
                let mut piece = Vec::new();
                vocabulary.piece(token, &mut piece);
                let closes = piece.iter().any(|byte| b"\"}]".contains(byte));
                let leans = closes || vocabulary.is_end(token);
                random.random_range(-2.0..2.0) + if leans { 4.0 } else { 0.0 }
            })
            .collect();
        let allowed = grammar.allowed()?;
        let token = sampler.draw(&logits, Some(&allowed)).unwrap();
        if vocabulary.is_end(token) {
            return Ok(Some(String::from_utf8(text).unwrap()));
        }
        vocabulary.piece(token, &mut text);
        if grammar.accept(token)? {
            return Ok(Some(String::from_utf8(text).unwrap()));
        }
    }
    Ok(None)
}

/// Draws of each schema from each vocabulary.
const SEEDS: u64 = 10;

/// The kinds of schemas that callers write, each by what it is for.
fn schemas() -> Vec<(&'static str, Value)> {
    let object = |properties: Value| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({"type": "object", "properties": properties, "required": required,
            "additionalProperties": false})
    };
    let mut schemas = vec![
        ("any", json!({})),
        ("always true", json!(true)),
        ("null", json!({"type": "null"})),
        ("boolean", json!({"type": "boolean"})),
        ("integer", json!({"type": "integer"})),
        ("number", json!({"type": "number"})),
        ("string", json!({"type": "string"})),
        ("array", json!({"type": "array"})),
        ("object", json!({"type": "object"})),
        ("types", json!({"type": ["integer", "null", "string"]})),
        ("no type", json!({"minimum": 3, "maxLength": 2})),
        (
            "strings of words",
            json!({"enum": ["a", "b c", "d\"e", "é\n", ""]}),
        ),
        (
            "values of all kinds",
            json!({"enum": [1, 1.5, "x", null, true, [1, "y"], {"a": {"b": 2}}]}),
        ),
        ("const", json!({"const": {"k": ["v", 1e3, -0.25]}})),
        ("const with escapes", json!({"const": "a\\b\"c\n\t"})),
        (
            "between",
            json!({"type": "integer", "minimum": -3, "maximum": 12}),
        ),
        (
            "between, not at the ends",
            json!({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}),
        ),
        (
            "between numbers",
            json!({"type": "number", "minimum": 0.5, "maximum": 2.25}),
        ),
        ("above", json!({"type": "number", "exclusiveMinimum": 0})),
        ("below", json!({"type": "number", "maximum": -1.5})),
        ("at most", json!({"type": "integer", "maximum": 100})),
        (
            "far bounds",
            json!({"type": "integer", "minimum": -9_223_372_036_854_775_808_i64, "maximum": 18_446_744_073_709_551_615_u64}),
        ),
        (
            "up to what is exact",
            json!({"type": "integer", "minimum": 9_007_199_254_740_000_u64, "maximum": 9_007_199_254_740_991_u64}),
        ),
        (
            "multiples",
            json!({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000}),
        ),
        (
            "multiples of a fraction",
            json!({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 3}),
        ),
        (
            "lengths",
            json!({"type": "string", "minLength": 2, "maxLength": 5}),
        ),
        (
            "pattern",
            json!({"type": "string", "pattern": "^[A-Z]{2}-\\d{3}(x|yz)?$"}),
        ),
        (
            "pattern anywhere",
            json!({"type": "string", "pattern": "ab+", "maxLength": 12}),
        ),
        (
            "pattern of words",
            json!({"type": "string", "pattern": "^\\w+( \\w+){1,3}$", "maxLength": 40}),
        ),
        (
            "items",
            json!({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4}),
        ),
        (
            "no items",
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 0}),
        ),
        (
            "many items",
            json!({"type": "array", "items": {"enum": [0]}, "minItems": 50, "maxItems": 60}),
        ),
        (
            "tuple",
            json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false, "minItems": 2}),
        ),
        (
            "tuple of old",
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "boolean"}], "additionalItems": false, "minItems": 1}),
        ),
        (
            "map",
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
        ),
        (
            "map, not empty",
            json!({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1}),
        ),
        (
            "map, not large",
            json!({"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2}),
        ),
        (
            "open",
            json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
        ),
        (
            "names by pattern",
            json!({"type": "object", "patternProperties": {"^n_[a-z]{1,4}$": {"type": "integer"}}, "additionalProperties": false}),
        ),
        (
            "optional",
            json!({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "required": ["b"], "additionalProperties": false}),
        ),
        (
            "one of two members",
            json!({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "minProperties": 1, "maxProperties": 1, "additionalProperties": false}),
        ),
        (
            "either",
            json!({"anyOf": [{"type": "integer"}, object(json!({"a": {"type": "string"}}))]}),
        ),
        (
            "one by kind",
            json!({"oneOf": [object(json!({"kind": {"const": "a"}, "x": {"type": "integer"}})), object(json!({"kind": {"const": "b"}, "y": {"type": "null"}}))]}),
        ),
        (
            "all of",
            json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
        ),
        (
            "beside a choice",
            json!({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "additionalProperties": false, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        ),
        (
            "reference",
            json!({"$defs": {"p": object(json!({"x": {"type": "number"}}))}, "type": "array", "items": {"$ref": "#/$defs/p"}, "maxItems": 2}),
        ),
        (
            "reference beside a bound",
            json!({"definitions": {"n": {"type": "integer"}}, "$ref": "#/definitions/n", "minimum": 3}),
        ),
        (
            "tree",
            json!({"$defs": {"t": {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 2}}, "required": ["v"], "additionalProperties": false}}, "$ref": "#/$defs/t"}),
        ),
        (
            "itself",
            json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"], "additionalProperties": false}),
        ),
        (
            "described",
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://a.b/c", "title": "T", "description": "d", "type": "object", "properties": {"a": {"type": "integer", "default": 3, "examples": [1], "x-order": 1}}, "required": ["a"], "additionalProperties": false}),
        ),
        (
            "a person",
            object(
                json!({"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "email": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}]}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}, "address": object(json!({"city": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}))}),
            ),
        ),
    ];
    schemas.extend(formats::FORMATS.map(|format| {
        let schema = json!({"type": "string", "format": format.name});
        (format.name, schema)
    }));
    schemas.push((
        "a format and a pattern",
        json!({"type": "string", "format": "date", "pattern": "^20.*-02-29$"}),
    ));
    schemas
}

#[test]
fn whatever_is_drawn_is_valid() {
    let vocabularies: [Box<dyn Vocabulary>; 2] =
        [Box::new(FakeVocabulary::default()), Box::new(Pieces::new())];
    let mut faults = Vec::new();
    for vocabulary in &vocabularies {
        let grammars = Grammars::new(vocabulary.as_ref()).unwrap();
        for (what, schema) in schemas() {
            let judge = jsonschema::options()
                .should_validate_formats(true)
                .build(&schema)
                .unwrap();
            for seed in 0..SEEDS {
                match draw(vocabulary.as_ref(), &grammars, &named(&schema), seed) {
                    Ok(text) => match serde_json::from_str(&text) {
                        Ok(value) if judge.is_valid(&value) => {}
                        // A number may have an exponent that this reader cannot hold.
                        Err(error) if error.to_string().contains("out of range") => {}
                        other => faults.push(format!("{what}, seed {seed}: {text} {other:?}")),
                    },
                    Err(error) => faults.push(format!("{what}, seed {seed}: {error:?}")),
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn control_tokens_are_never_drawn() {
    let grammars = Grammars::new(&Pieces::new()).unwrap();
    for format in [
        OutputFormat::JsonObject,
        named(&json!({"type": "string"})),
        named(&json!({"const": "<tool_call>"})),
    ] {
        let mut grammar = grammars.grammar(None, &held(&format)).unwrap().unwrap();
        for byte in b"{\"<tool" {
            let allowed = grammar.allowed().unwrap();
            assert!(!allowed.has(CONTROL as usize) && !allowed.has(PIECES_END as usize));
            if allowed.has(usize::from(*byte) + 2) {
                grammar.accept(Token::from(*byte) + 2).unwrap();
            }
        }
    }
}

/// A tag that is one token is drawn as that token, and only where the tag belongs.
#[test]
fn a_forced_call_begins_with_the_control_token_for_it() {
    let vocabulary = Pieces::new();
    let grammars = Grammars::new(&vocabulary).unwrap();
    let grammars = grammars.with_forced(crate::calls::HERMES.forced.as_ref());
    let asked = request("a", |request| {
        request.tool_choice = domain::ToolChoice::Required;
        request.tools = vec![domain::Tool {
            name: "f".to_owned(),
            description: None,
            parameters: json!({"type": "object", "properties": {}, "additionalProperties": false}),
            extra: domain::Extra::new(),
        }];
    });
    let mut grammar = grammars.grammar(None, &asked).unwrap().unwrap();
    let allowed = grammar.allowed().unwrap();
    assert_eq!(allowed.tokens().collect::<Vec<_>>(), [CONTROL as usize]);
    assert!(!grammar.accept(CONTROL).unwrap());
    for byte in b"\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>" {
        let token = Token::from(*byte) + 2;
        let allowed = grammar.allowed().unwrap();
        assert!(allowed.has(token as usize), "{}", char::from(*byte));
        assert!(!allowed.has(CONTROL as usize) && !allowed.has(PIECES_END as usize));
        grammar.accept(token).unwrap();
    }
    assert!(grammar.allowed().unwrap().has(PIECES_END as usize));
}

#[test]
fn any_object_is_an_object_and_ends_with_its_brace() {
    let vocabulary = FakeVocabulary::default();
    let grammars = Grammars::new(&vocabulary).unwrap();
    for seed in 0..50 {
        let text = draw(&vocabulary, &grammars, &OutputFormat::JsonObject, seed).unwrap();
        assert!(
            text.starts_with('{') && text.trim_end().ends_with('}'),
            "{text}"
        );
        let read = serde_json::from_str::<Value>(&text);
        assert!(
            read.as_ref().is_ok_and(Value::is_object)
                || read.is_err_and(|error| error.to_string().contains("out of range")),
            "{text}"
        );
    }
}

#[test]
fn a_schema_without_a_schema_is_any_object() {
    let vocabulary = FakeVocabulary::default();
    let grammars = Grammars::new(&vocabulary).unwrap();
    let format = OutputFormat::JsonSchema(json!({"name": "n"}));
    assert_eq!(
        draw(&vocabulary, &grammars, &format, 3).unwrap(),
        draw(&vocabulary, &grammars, &OutputFormat::JsonObject, 3).unwrap()
    );
}

#[test]
fn a_kept_grammar_draws_what_a_new_one_does() {
    let vocabulary = Pieces::new();
    let grammars = Grammars::new(&vocabulary).unwrap();
    for (what, schema) in schemas().into_iter().take(20) {
        let format = named(&schema);
        let first = draw(&vocabulary, &grammars, &format, 5).unwrap();
        let second = draw(&vocabulary, &grammars, &format, 5).unwrap();
        assert_eq!(first, second, "{what}");
    }
}

#[test]
fn a_vocabulary_that_never_ends_takes_no_formats() {
    struct Endless(Pieces);
    impl Vocabulary for Endless {
        fn size(&self) -> u32 {
            self.0.size()
        }
        fn splitting(&self) -> Splitting {
            Splitting::Flat
        }
        fn tokenize(&self, _: &str, _: bool, _: &mut Vec<Token>) {}
        fn piece(&self, token: Token, bytes: &mut Vec<u8>) {
            self.0.piece(token, bytes);
        }
        fn is_control(&self, _: Token) -> bool {
            false
        }
        fn is_end(&self, _: Token) -> bool {
            false
        }
        fn first_token(&self) -> Option<Token> {
            None
        }
        fn controls(&self) -> &[String] {
            &[]
        }
        fn piece_bytes_max(&self) -> u32 {
            1
        }
    }
    assert!(Grammars::new(&Endless(Pieces::new())).is_none());
}

/// Generous: builds for tests are slow, and so are busy machines.
const HOSTILE_MAX: Duration = Duration::from_secs(4);

/// What is meant to take the machine's time or memory is refused, or costs little.
#[test]
fn hostile_schemas_are_refused_or_cheap() {
    let chain = |length: usize, link: &dyn Fn(usize) -> Value| {
        let mut defs: serde_json::Map<String, Value> = (0..length)
            .map(|n| (format!("d{n}"), link(n + 1)))
            .collect();
        defs.insert(format!("d{length}"), json!({"type": "integer"}));
        json!({"$defs": defs, "$ref": "#/$defs/d0"})
    };
    let to = |n: usize| json!({"$ref": format!("#/$defs/d{n}")});
    let deep = (0..120).fold(json!({}), |inner, _| json!({"items": inner}));
    let wide = |n: usize| -> serde_json::Map<String, Value> {
        (0..n)
            .map(|n| (format!("p{n}"), json!({"type": "string"})))
            .collect()
    };
    let many: Vec<String> = (0..1_000)
        .map(|n| format!("value number {n} of them"))
        .collect();
    let ways: Vec<Value> = (0..30)
        .map(|n| json!({"required": [format!("p{n}")]}))
        .collect();
    let cases = [
        ("deep", deep),
        ("a long chain", chain(450, &|n| to(n))),
        (
            "a long chain through members",
            chain(200, &|n| json!({"properties": {"a": to(n)}})),
        ),
        (
            "doubling",
            chain(
                40,
                &|n| json!({"type": "array", "prefixItems": [to(n), to(n)], "minItems": 2}),
            ),
        ),
        (
            "doubling by merging",
            chain(40, &|n| json!({"allOf": [to(n), to(n)]})),
        ),
        (
            "doubling by choice",
            chain(40, &|n| json!({"anyOf": [to(n), to(n)]})),
        ),
        (
            "merged choices",
            json!({"allOf": vec![json!({"anyOf": ways}); 4]}),
        ),
        (
            "a choice beside much",
            json!({"type": "object", "properties": wide(450), "anyOf": ways}),
        ),
        ("wide", json!({"type": "object", "properties": wide(450)})),
        (
            "wide and required",
            json!({"type": "object", "properties": wide(450), "required": wide(450).keys().collect::<Vec<_>>()}),
        ),
        ("many values", json!({"enum": many})),
        (
            "many items",
            json!({"type": "array", "maxItems": 1_000_000_000}),
        ),
        (
            "many items of many",
            json!({"type": "array", "maxItems": 10_000, "items": {"type": "array", "minItems": 9_999, "items": {"type": "string", "maxLength": 10_000}}}),
        ),
        (
            "a long text",
            json!({"type": "string", "minLength": 10_000}),
        ),
        (
            "backtracking",
            json!({"type": "string", "pattern": "^(a+)+$"}),
        ),
        (
            "far from the end",
            json!({"type": "string", "pattern": "(a|b)*a(a|b){60}$"}),
        ),
        (
            "powers",
            json!({"type": "string", "pattern": "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"}),
        ),
        (
            "powers and a length",
            json!({"type": "string", "pattern": "((a{1,99}){1,99}){1,99}", "minLength": 5_000}),
        ),
        (
            "all letters",
            json!({"type": "string", "pattern": "^[\\p{L}\\p{N}]{5000}$"}),
        ),
        (
            "many patterns",
            json!({"anyOf": (0..64).map(|n| json!({"type": "string", "pattern": format!("(x|y)*{n}(x|y){{40}}")})).collect::<Vec<_>>()}),
        ),
        (
            "names by patterns",
            json!({"type": "object", "patternProperties": (0..8).map(|n| (format!("^{n}(a|b)*a(a|b){{12}}$"), json!({}))).collect::<serde_json::Map<_, _>>()}),
        ),
        ("nothing", json!(false)),
        (
            "nothing within",
            json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
        ),
        (
            "nothing between",
            json!({"type": "integer", "minimum": 3, "maximum": 2}),
        ),
        (
            "no multiple between",
            json!({"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 5}),
        ),
        (
            "endless",
            json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        ),
        (
            "endless in itself",
            json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
        ),
        (
            "endless and merged",
            json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}),
        ),
    ];
    let vocabulary = Pieces::new();
    let grammars = Grammars::new(&vocabulary).unwrap();
    for (what, schema) in cases {
        let began = Instant::now();
        let made = grammars.grammar(None, &held(&named(&schema)));
        let took = began.elapsed();
        // A bound that is gone shows here: most take milliseconds.
        assert!(took < HOSTILE_MAX, "{what} took {took:?}");
        let Ok(Some(mut grammar)) = made else {
            continue;
        };
        for step in 0..300 {
            let began = Instant::now();
            let Ok(allowed) = grammar.allowed() else {
                break;
            };
            assert!(began.elapsed() < HOSTILE_MAX / 4, "{what}, step {step}");
            let tokens: Vec<usize> = allowed.tokens().collect();
            let token = tokens[(step * 7) % tokens.len()] as Token;
            if vocabulary.is_end(token) || grammar.accept(token).unwrap_or(true) {
                break;
            }
        }
    }
}

/// It was answered with 500, as if the fault were ours.
#[test]
fn a_format_whose_steps_cost_too_much_is_declined() {
    let vocabulary = Pieces::new();
    let grammars = Grammars::new(&vocabulary).unwrap();
    let texts: Vec<String> = (0..3_000).map(|_| "\"a\"".to_owned()).collect();
    let text = format!("root ::= ({})+", texts.join("|"));
    let stopped = draw(&vocabulary, &grammars, &OutputFormat::Grammar(text), 1);
    let is_declined = matches!(stopped, Err(BackendError::Declined { .. }));
    assert!(is_declined, "{stopped:?}");
}
