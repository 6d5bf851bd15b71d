//! Many schemas of others' and our own making, each either refused at a place or kept to.
//!
//! `fixtures/README.md` says where they come from. A fixture also has values that are valid by its
//! schema and values that are not: none of the latter can be said.

use super::*;

/// Draws of each schema.
const SEEDS: u64 = 4;

/// Tokens of one draw. What has not ended by then is cut off, as by a reply's own bound.
const TOKENS_MAX: usize = 1_000;

/// Schemas in the fixtures, at least, and those of them that are kept to.
const SCHEMAS_MIN: usize = 600;
const KEPT_MIN: usize = 300;

/// Of the valid values, how many of a hundred can be said at least. The others are written in
/// another way (`1.0` for 1), or have forms of a format that is drawn more narrowly.
const SAYABLE_PERCENT_MIN: usize = 93;

/// Members of an object that are tried in every order.
const SHUFFLED_MAX: usize = 4;

/// Schemas put together at random.
const RANDOM_SCHEMAS: u64 = 250;

/// One schema of a fixture.
struct Case {
    at: String,
    schema: Value,
    valid: Vec<Value>,
    invalid: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let fixtures = [
        include_str!("../fixtures/suite.json"),
        include_str!("../fixtures/own.json"),
    ];
    let items = |value: &mut Value| value.as_array_mut().map(std::mem::take).unwrap();
    let mut cases = Vec::new();
    for fixture in fixtures {
        let read: Vec<Value> = serde_json::from_str(fixture).unwrap();
        cases.extend(read.into_iter().map(|mut case| Case {
            at: case["at"].as_str().unwrap().to_owned(),
            schema: case["schema"].take(),
            valid: items(&mut case["valid"]),
            invalid: items(&mut case["invalid"]),
        }));
    }
    cases
}

/// True when `grammar` can say `text` and end there.
pub(super) fn takes(grammar: &Grammar, text: &str) -> bool {
    let mut grammar = grammar.again();
    for (at, byte) in text.bytes().enumerate() {
        let Ok(allowed) = grammar.allowed() else {
            return false;
        };
        if !allowed.has(usize::from(byte)) {
            return false;
        }
        match grammar.accept(Token::from(byte)) {
            Ok(true) => return at + 1 == text.len(),
            Ok(false) => {}
            Err(_) => return false,
        }
    }
    let end = crate::fake::END as usize;
    grammar.allowed().is_ok_and(|allowed| allowed.has(end))
}

/// As [`takes`], with the members of `value` in any order.
fn takes_value(grammar: &Grammar, value: &Value) -> bool {
    let members = match value {
        Value::Object(members) if members.len() <= SHUFFLED_MAX => members,
        _ => return takes(grammar, &value.to_string()),
    };
    let mut orders: Vec<Vec<(&String, &Value)>> = vec![Vec::new()];
    for member in members {
        let longer = |order: Vec<_>| {
            (0..=order.len()).map(move |at| {
                let mut order = order.clone();
                order.insert(at, member);
                order
            })
        };
        orders = orders.into_iter().flat_map(longer).collect();
    }
    orders.iter().any(|order| {
        let members = order
            .iter()
            .map(|(name, value)| ((*name).clone(), (*value).clone()));
        takes(grammar, &Value::Object(members.collect()).to_string())
    })
}

/// `None` where `schema` is refused. What is drawn of it and not valid goes to `faults`.
fn judge(
    vocabulary: &dyn Vocabulary,
    grammars: &Grammars,
    at: &str,
    schema: &Value,
    faults: &mut Vec<String>,
) -> Option<Grammar> {
    let grammar = match grammars.grammar(None, &held(&named(schema))) {
        Ok(grammar) => grammar.unwrap(),
        Err(BackendError::Declined { reason }) => {
            let param = reason.param.unwrap_or_default();
            if !param.starts_with(PLACE) || reason.message.is_empty() {
                faults.push(format!("{at}: refused at `{param}`: {}", reason.message));
            }
            return None;
        }
        Err(other) => {
            faults.push(format!("{at}: {other:?}"));
            return None;
        }
    };
    let options = jsonschema::options().should_validate_formats(true);
    let judge = match options.build(schema) {
        Ok(judge) => judge,
        Err(error) => {
            faults.push(format!("{at}: {schema} is taken, and malformed: {error}"));
            return None;
        }
    };
    for seed in 0..SEEDS {
        match draw_up_to(TOKENS_MAX, vocabulary, &mut grammar.again(), seed) {
            Ok(None) => {}
            Ok(Some(text)) => match serde_json::from_str::<Value>(&text) {
                Ok(value) if judge.is_valid(&value) => {}
                // A number may have an exponent that this reader cannot hold.
                Err(error) if error.to_string().contains("out of range") => {}
                _ => faults.push(format!("{at}, seed {seed}: {schema} gave {text}")),
            },
            Err(error) => faults.push(format!("{at}, seed {seed}: {schema}: {error:?}")),
        }
    }
    Some(grammar)
}

#[test]
fn each_of_many_schemas_is_refused_at_a_place_or_kept_to() {
    let vocabulary = FakeVocabulary::default();
    let grammars = Grammars::new(&vocabulary).unwrap();
    let (mut judged, mut kept, mut valid, mut sayable) = (0, 0, 0, 0);
    let mut faults = Vec::new();
    for case in cases() {
        judged += 1;
        let Some(grammar) = judge(&vocabulary, &grammars, &case.at, &case.schema, &mut faults)
        else {
            continue;
        };
        kept += 1;
        for value in &case.invalid {
            if takes_value(&grammar, value) {
                faults.push(format!("{}: {} can give {value}", case.at, case.schema));
            }
        }
        valid += case.valid.len();
        sayable += case
            .valid
            .iter()
            .filter(|value| takes_value(&grammar, value))
            .count();
    }
    println!("{judged} schemas, {kept} kept to; {sayable} of {valid} valid values can be said");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(judged >= SCHEMAS_MIN && kept >= KEPT_MIN);
    assert!(sayable * 100 >= valid * SAYABLE_PERCENT_MIN);
}

/// A schema of a few keywords that mostly go together.
fn random_schema(random: &mut StdRng, depth: usize) -> Value {
    let mut words = serde_json::Map::new();
    let leaf = depth == 0;
    match random.random_range(0..if leaf { 6 } else { 13 }) {
        0 => {
            words.insert("type".into(), json!("integer"));
            random_bounds(random, &mut words);
        }
        1 => {
            words.insert("type".into(), json!("number"));
            random_bounds(random, &mut words);
        }
        2 | 3 => {
            words.insert("type".into(), json!("string"));
            random_string(random, &mut words);
        }
        4 => {
            return random_choice(
                random,
                &[
                    json!({"type": "null"}),
                    json!({"type": "boolean"}),
                    json!(true),
                    json!({}),
                ],
            );
        }
        5 => {
            let values: Vec<Value> = (0..random.random_range(1..4))
                .map(|_| {
                    random_choice(
                        random,
                        &[
                            json!("a"),
                            json!("ab"),
                            json!(1),
                            json!(2.5),
                            json!(null),
                            json!(true),
                            json!(["a", 1]),
                            json!({"a": 1}),
                        ],
                    )
                })
                .collect();
            words.insert("enum".into(), json!(values));
        }
        6..9 => {
            words.insert("type".into(), json!("object"));
            random_object(random, &mut words, depth);
        }
        9 | 10 => {
            words.insert("type".into(), json!("array"));
            if random.random_bool(0.7) {
                words.insert("items".into(), random_schema(random, depth - 1));
            }
            if random.random_bool(0.3) {
                let items: Vec<Value> = (0..random.random_range(1..3))
                    .map(|_| random_schema(random, depth - 1))
                    .collect();
                words.insert("prefixItems".into(), json!(items));
            }
            random_counts(random, &mut words, "minItems", "maxItems", 4);
        }
        _ => {}
    }
    if !leaf && random.random_bool(0.3) {
        let word = random_choice(random, &[json!("anyOf"), json!("allOf"), json!("oneOf")]);
        let branches: Vec<Value> = (0..random.random_range(1..4))
            .map(|_| random_schema(random, depth - 1))
            .collect();
        words.insert(word.as_str().unwrap().into(), json!(branches));
    }
    if random.random_bool(0.1) {
        words.insert(
            "$ref".into(),
            random_choice(
                random,
                &[json!("#/$defs/a"), json!("#/$defs/b"), json!("#")],
            ),
        );
    }
    if random.random_bool(0.15) {
        words.remove("type");
    }
    Value::Object(words)
}

fn random_choice(random: &mut StdRng, of: &[Value]) -> Value {
    of[random.random_range(0..of.len())].clone()
}

fn random_bounds(random: &mut StdRng, words: &mut serde_json::Map<String, Value>) {
    let bounds = [
        json!(-3),
        json!(-0.5),
        json!(0),
        json!(1),
        json!(1.25),
        json!(7),
        json!(100),
        json!(1e6),
    ];
    for word in ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"] {
        if random.random_bool(0.25) {
            words.insert(word.into(), random_choice(random, &bounds));
        }
    }
    if random.random_bool(0.1) {
        words.insert(
            "multipleOf".into(),
            random_choice(random, &[json!(2), json!(3), json!(0.5), json!(10)]),
        );
    }
}

fn random_string(random: &mut StdRng, words: &mut serde_json::Map<String, Value>) {
    random_counts(random, words, "minLength", "maxLength", 6);
    if random.random_bool(0.5) {
        words.insert("pattern".into(), json!(random_pattern(random, 2)));
    }
    if random.random_bool(0.1) {
        let format = formats::FORMATS[random.random_range(0..formats::FORMATS.len())].name;
        words.insert("format".into(), json!(format));
    }
}

fn random_pattern(random: &mut StdRng, depth: usize) -> String {
    let mut pattern = String::new();
    for _ in 0..random.random_range(1..4) {
        let parts = [
            "a", "b", ".", "\\d", "\\w", "\\s", "\\S", "\\W", "[a-c]", "[^a]", "[&&-]", "\\.", "é",
            "^", "$", "a|b", "[\\s\\d]", "\\/",
        ];
        let part = if depth > 0 && random.random_bool(0.3) {
            format!("({})", random_pattern(random, depth - 1))
        } else {
            parts[random.random_range(0..parts.len())].to_owned()
        };
        pattern.push_str(&part);
        let ends_open = part.ends_with(['^', '$']);
        if !ends_open && random.random_bool(0.3) {
            pattern.push_str(["*", "+", "?", "{2}", "{1,3}", "+?"][random.random_range(0..6)]);
        }
    }
    if random.random_bool(0.4) {
        pattern = format!("^({pattern})$");
    }
    pattern
}

fn random_counts(
    random: &mut StdRng,
    words: &mut serde_json::Map<String, Value>,
    least: &str,
    most: &str,
    limit: u64,
) {
    if random.random_bool(0.3) {
        words.insert(least.into(), json!(random.random_range(0..limit / 2 + 1)));
    }
    if random.random_bool(0.5) {
        words.insert(most.into(), json!(random.random_range(limit / 2..=limit)));
    }
}

fn random_object(random: &mut StdRng, words: &mut serde_json::Map<String, Value>, depth: usize) {
    let names = ["a", "b", "ab", "c1", "\"", "ü"];
    let mut members = serde_json::Map::new();
    for name in names {
        if random.random_bool(0.35) {
            members.insert(name.into(), random_schema(random, depth - 1));
        }
    }
    let required: Vec<&str> = names
        .into_iter()
        .filter(|_| random.random_bool(0.25))
        .collect();
    words.insert("properties".into(), Value::Object(members));
    words.insert("required".into(), json!(required));
    if random.random_bool(0.7) {
        let more = if random.random_bool(0.6) {
            json!(false)
        } else {
            random_schema(random, depth - 1)
        };
        words.insert("additionalProperties".into(), more);
    }
    if random.random_bool(0.2) {
        let mut patterns = serde_json::Map::new();
        for pattern in ["^a", "^[b-d]\\d$", "\\d$"] {
            if random.random_bool(0.4) {
                patterns.insert(pattern.into(), random_schema(random, depth - 1));
            }
        }
        words.insert("patternProperties".into(), Value::Object(patterns));
    }
    if random.random_bool(0.2) {
        random_counts(random, words, "minProperties", "maxProperties", 3);
    }
}

#[test]
fn schemas_put_together_at_random_are_refused_at_a_place_or_kept_to() {
    let vocabulary = FakeVocabulary::default();
    let grammars = Grammars::new(&vocabulary).unwrap();
    let (mut faults, mut kept) = (Vec::new(), 0);
    for seed in 0..RANDOM_SCHEMAS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut schema = random_schema(&mut random, 3);
        if let Value::Object(words) = &mut schema {
            let defs =
                json!({"a": random_schema(&mut random, 1), "b": random_schema(&mut random, 2)});
            words.insert("$defs".into(), defs);
        }
        let at = format!("schema {seed}");
        kept += usize::from(judge(&vocabulary, &grammars, &at, &schema, &mut faults).is_some());
    }
    println!("{kept} of {RANDOM_SCHEMAS} kept to");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(kept * 4 > RANDOM_SCHEMAS as usize);
}
