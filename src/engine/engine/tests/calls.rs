//! Replies that must call a tool.

use domain::{Message, ReplyChoice, Role, Sampling};
use serde_json::Value;

use super::*;
use crate::calls::{FAMILIES, Family};

/// Likes nothing in particular, so that all form comes from the grammar.
fn babbling(decoder: &mut FakeDecoder) {
    decoder.script = Box::new(|_| 0);
    decoder.noise = babble;
}

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 9},
            "unit": {"enum": ["c", "f"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": false,
    })
}

fn named(name: &str, parameters: Value) -> Tool {
    Tool {
        name: name.to_owned(),
        parameters,
        ..tool()
    }
}

fn forced(choice: ToolChoice, parallel: Option<bool>, seed: i64) -> ChatRequest {
    request("a", |request| {
        request.tools = vec![named("weather", weather()), named("now", json!({}))];
        request.tool_choice = choice;
        request.parallel_tool_calls = parallel;
        request.output_tokens_max = Some(Tokens(220));
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
async fn a_named_tool_is_called_once_with_arguments_by_its_schema() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let judge = jsonschema::validator_for(&weather()).unwrap();
    for seed in 0..5 {
        let choice = only(
            &engine,
            forced(ToolChoice::Named("weather".into()), None, seed),
        )
        .await;
        assert_eq!(choice.reason, FinishReason::ToolCalls);
        assert_eq!((choice.text().as_str(), choice.tool_calls.len()), ("", 1));
        let call = &choice.tool_calls[0];
        assert_eq!(call.name, "weather");
        let arguments = serde_json::from_str(&call.arguments).unwrap();
        assert!(judge.is_valid(&arguments), "{arguments}");
    }
}

#[tokio::test]
async fn a_required_call_is_of_some_tool() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let mut names = Vec::new();
    for seed in 0..12 {
        let choice = only(&engine, forced(ToolChoice::Required, Some(false), seed)).await;
        // Arguments without a schema may go on until the bound.
        if choice.reason == FinishReason::Length {
            continue;
        }
        assert_eq!((choice.text().as_str(), choice.tool_calls.len()), ("", 1));
        names.push(choice.tool_calls[0].name.clone());
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["now", "weather"]);
}

#[tokio::test]
async fn several_calls_may_be_made_where_one_is_required() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let mut most = 0;
    for seed in 0..30 {
        let mut asked = forced(ToolChoice::Required, None, seed);
        asked.tools.truncate(1);
        let choice = only(&engine, asked).await;
        assert!(!choice.tool_calls.is_empty(), "{}", choice.text());
        most = most.max(choice.tool_calls.len());
    }
    assert!(most > 1);
}

#[tokio::test]
async fn calls_that_cannot_be_forced_are_declined_at_their_place() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let mut unheld = forced(ToolChoice::Required, None, 1);
    unheld.tools[1].parameters = json!({"properties": {"a": {"not": {}}}});
    let mut text = forced(ToolChoice::Required, None, 1);
    text.tools[0].parameters = json!({"type": "string"});
    let mut none = forced(ToolChoice::Required, None, 1);
    none.tools.clear();
    let unknown = forced(ToolChoice::Named("other".into()), None, 1);
    let cases = [
        (unheld, "tools[1].function.parameters.properties.a.not"),
        (text, "tools[0].function.parameters.type"),
        (none, "tool_choice"),
        (unknown, "tool_choice"),
    ];
    for (request, param) in cases {
        let refused = ask(&engine, request).await.unwrap_err();
        let BackendError::Declined { reason } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(reason.param.as_deref(), Some(param));
    }
}

#[tokio::test]
async fn names_are_written_as_they_are() {
    let (engine, _driver) = start(ECHO, |_| (), babbling);
    let name = "a\"b\\c\n{}";
    let mut asked = forced(ToolChoice::Named(name.to_owned()), None, 1);
    asked.tools = vec![named(name, weather())];
    let choice = only(&engine, asked).await;
    assert_eq!(choice.tool_calls[0].name, name);
}

fn of(family: &'static Family) -> Manner {
    let thoughts = None;
    Manner { family, thoughts }
}

/// Each family's own form is drawn under its grammar and read again.
#[tokio::test]
async fn every_family_that_can_be_forced_is() {
    let judge = jsonschema::validator_for(&weather()).unwrap();
    for family in FAMILIES
        .into_iter()
        .filter(|family| family.forced.is_some())
    {
        let (engine, _driver) = start_as(of(family), ECHO, |_| (), babbling);
        let mut whole = 0;
        for seed in 0..4 {
            let choice = ToolChoice::Named("weather".to_owned());
            let choice = only(&engine, forced(choice, None, seed)).await;
            // White space may take all the tokens there are.
            if choice.reason == FinishReason::Length {
                continue;
            }
            whole += 1;
            let calls = &choice.tool_calls;
            assert_eq!(
                (choice.text().as_str(), calls.len()),
                ("", 1),
                "{}",
                family.name
            );
            assert_eq!(calls[0].name, "weather");
            let arguments = serde_json::from_str(&calls[0].arguments).unwrap();
            assert!(judge.is_valid(&arguments), "{}: {arguments}", family.name);
            let is_nine = calls[0].id.len() == 9;
            assert_eq!(
                is_nine,
                family.name.starts_with("mistral"),
                "{}",
                calls[0].id
            );
        }
        assert!(whole > 0, "{}", family.name);
    }
}

#[tokio::test]
async fn a_family_whose_calls_cannot_be_held_to_is_not_forced() {
    let free = FAMILIES
        .into_iter()
        .filter(|family| family.forced.is_none());
    let mut names = Vec::new();
    for family in free {
        let (engine, _driver) = start_as(of(family), ECHO, |_| (), |_| ());
        let refused = ask(&engine, forced(ToolChoice::Required, None, 1)).await;
        let missing = BackendError::Unable(domain::Ability::ForcedTools);
        assert_eq!(
            format!("{:?}", refused.unwrap_err()),
            format!("{missing:?}")
        );
        names.push(family.name);
    }
    assert_eq!(names, ["gemma4", "functiongemma", "pythonic", "gemma3"]);
}

#[tokio::test]
async fn a_name_that_a_form_cannot_hold_is_declined_at_its_place() {
    let family = FAMILIES
        .into_iter()
        .find(|family| family.name == "mistral-args");
    let (engine, _driver) = start_as(of(family.unwrap()), ECHO, |_| (), |_| ());
    let mut asked = forced(ToolChoice::Required, None, 1);
    asked.tools[1].name = "two words".to_owned();
    let BackendError::Declined { reason } = ask(&engine, asked).await.unwrap_err() else {
        panic!("it was not declined");
    };
    assert_eq!(reason.param.as_deref(), Some("tools[1].function.name"));
}

/// The model is asked for an answer, and what it says goes on from what it said.
#[tokio::test]
async fn a_last_message_by_the_assistant_is_gone_on_from() {
    let (engine, _driver) = start(ECHO, |_| (), |_| ());
    let asked = request("abcd", |request| {
        let begun = Message::new(Role::Assistant, "ab");
        request.messages.push(begun);
    });
    // The echo of `abcd>ab` is what is missing.
    assert_eq!(only(&engine, asked).await.text(), "cd");
}
