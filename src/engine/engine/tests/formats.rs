//! Replies held to a `response_format`.

use domain::{ReplyChoice, Sampling, ToolCall};
use serde_json::Value;

use super::*;

/// Likes nothing in particular, so that all form comes from the format.
fn babbling(decoder: &mut FakeDecoder) {
    decoder.script = Box::new(|_| 0);
    decoder.noise = babble;
}

fn schema(schema: Value) -> OutputFormat {
    OutputFormat::JsonSchema(json!({"name": "n", "schema": schema, "strict": true}))
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    })
}

fn drawn(format: OutputFormat, seed: i64) -> ChatRequest {
    request("a", |request| {
        request.format = format;
        request.sampling = Sampling {
            temperature: Some(1.0),
            seed: Some(seed),
            ..Sampling::default()
        };
    })
}

async fn only(engine: &Engine, request: ChatRequest) -> ReplyChoice {
    ask(engine, request).await.unwrap().choices.remove(0)
}

#[tokio::test]
async fn a_reply_is_valid_by_its_schema_and_repeated_by_its_seed() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let judge = jsonschema::validator_for(&person()).unwrap();
    let mut texts = Vec::new();
    for seed in [1, 2, 3, 1, 2, 3] {
        let choice = only(&engine, drawn(schema(person()), seed)).await;
        let value = serde_json::from_str(&choice.text()).unwrap();
        assert!(judge.is_valid(&value), "{value}");
        assert_eq!(choice.reason, FinishReason::Stop);
        texts.push(choice.text());
    }
    assert_eq!(texts[..3], texts[3..]);
    assert_ne!(texts[0], texts[1]);
}

#[tokio::test]
async fn json_object_gives_an_object() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    for seed in 0..5 {
        let choice = only(&engine, drawn(OutputFormat::JsonObject, seed)).await;
        if choice.reason == FinishReason::Stop {
            let value: Value = serde_json::from_str(&choice.text()).unwrap();
            assert!(value.is_object(), "{value}");
        }
    }
}

#[tokio::test]
async fn greedy_replies_keep_to_their_format_too() {
    // It would say the prompt back, were it free to.
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let format = schema(json!({"enum": ["yes", "no"]}));
    let choice = only(&engine, request("\"no\"", |r| r.format = format)).await;
    assert_eq!(choice.text(), "\"no\"");
    let format = schema(json!({"enum": ["yes"]}));
    let choice = only(&engine, request("\"no\"", |r| r.format = format)).await;
    assert_eq!(choice.text(), "\"yes\"");
}

#[tokio::test]
async fn a_chat_beside_one_in_a_format_says_what_it_says_alone() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let held = request("x", |r| r.format = schema(person()));
    let (held, free) = futures::join!(
        only(&engine, held),
        only(&engine, request("hello {", |_| ()))
    );
    assert!(held.text().starts_with('{'), "{}", held.text());
    assert_eq!(free.text(), "hello {");
}

#[tokio::test]
async fn bounds_and_stop_strings_end_a_reply_in_a_format() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let whole = only(&engine, drawn(schema(person()), 1)).await.text();
    let mut short = drawn(schema(person()), 1);
    short.output_tokens_max = Some(Tokens(5));
    let choice = only(&engine, short).await;
    assert_eq!(choice.reason, FinishReason::Length);
    assert_eq!(choice.text().as_bytes(), &whole.as_bytes()[..5]);
    let mut stopped = drawn(schema(person()), 1);
    stopped.sampling.stop = vec!["name".to_owned()];
    let choice = only(&engine, stopped).await;
    assert_eq!(choice.reason, FinishReason::Stop);
    assert_eq!(choice.text(), whole.split("name").next().unwrap());
}

#[tokio::test]
async fn a_format_that_leads_nowhere_ends_in_an_error_and_not_in_free_text() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let nowhere = json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "type": "array",
        "items": {"$ref": "#/$defs/a"}, "minItems": 1});
    let ended = ask(&engine, drawn(schema(nowhere), 1)).await;
    assert!(
        matches!(ended, Err(BackendError::Engine(reason)) if reason.contains("format")),
        "{ended:?}"
    );
    // The slot is well.
    let choice = only(&engine, drawn(schema(person()), 1)).await;
    assert_eq!(choice.reason, FinishReason::Stop);
}

#[tokio::test]
async fn schemas_and_requests_that_cannot_be_are_declined_at_their_place() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let place = "response_format.json_schema.schema";
    let unknown = schema(json!({"properties": {"a": {"not": {}}}}));
    let impossible = schema(json!({"type": "integer", "minimum": 2, "maximum": 1}));
    let cases = [
        (
            request("a", |r| r.format = unknown),
            format!("{place}.properties.a.not"),
        ),
        (request("a", |r| r.format = impossible), place.to_owned()),
        (
            request("a", |r| {
                r.format = OutputFormat::JsonObject;
                r.tools = vec![tool()];
            }),
            "response_format".to_owned(),
        ),
    ];
    for (request, param) in cases {
        let refused = ask(&engine, request).await.unwrap_err();
        assert!(refused.may_try_next());
        let BackendError::Declined { reason } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(reason.param, Some(param));
    }
    let unused = request("a", |r| {
        r.format = schema(json!({"const": 1}));
        r.tools = vec![tool()];
        r.tool_choice = ToolChoice::None;
    });
    assert_eq!(only(&engine, unused).await.text(), "1");
}

#[tokio::test]
async fn under_a_format_a_thought_is_closed_and_all_is_content() {
    let thinking = FakeTemplate {
        tail: "<think>\n",
        ..ECHO
    };
    let (engine, _driver) = start(thinking, |_| (), babbling);
    let stream = engine.chat(sealed(drawn(schema(person()), 1))).await;
    let reply = collect(stream.unwrap()).await.unwrap();
    let choice = &reply.choices[0];
    let no_calls: &[ToolCall] = &[];
    assert!(choice.text().starts_with('{') && choice.tool_calls == no_calls);
    let prompt = "a<think>\n\n</think>\n\n";
    let usage = reply.usage.unwrap();
    assert_eq!(usage.prompt_tokens.0 as usize, prompt.len());
    assert_eq!(usage.reasoning_tokens.0, 0);
}

#[tokio::test]
async fn expressions_choices_and_grammars_hold_streams_too() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let choice = ["yes", "no", "it depends"];
    let formats = [
        OutputFormat::Regex("[a-c]{3}-[0-9]{2}".to_owned()),
        OutputFormat::Choice(choice.map(str::to_owned).to_vec()),
        OutputFormat::Grammar("root ::= \"<\" [x-z]{1,4} \">\"".to_owned()),
    ];
    for format in formats {
        for seed in 0..3 {
            let mut request = drawn(format.clone(), seed);
            request.delivery = domain::Delivery::Streamed {
                includes_usage: false,
            };
            let choice_drawn = only(&engine, request).await;
            let text = choice_drawn.text();
            let is_kept_to = match &format {
                OutputFormat::Regex(_) => text.len() == 6 && text.as_bytes()[3] == b'-',
                OutputFormat::Choice(texts) => texts.contains(&text),
                _ => text.starts_with('<') && text.ends_with('>') && text.len() < 7,
            };
            assert!(is_kept_to, "{format:?} gave {text}");
            assert_eq!(choice_drawn.reason, FinishReason::Stop);
        }
    }
}

#[tokio::test]
async fn a_constraint_that_cannot_be_is_declined_at_its_place() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let format = OutputFormat::Grammar("root ::= nothing".to_owned());
    let refused = ask(&engine, request("a", |r| r.format = format)).await;
    let Err(BackendError::Declined { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(reason.param.as_deref(), Some("structured_outputs.grammar"));
}

#[tokio::test]
async fn the_card_tells_of_formats() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let abilities = engine.card().models[0].abilities;
    assert!(abilities.has(Ability::JsonObject) && abilities.has(Ability::JsonSchema));
    assert!(abilities.has(Ability::Constraints));
}
