use domain::{FinishReason, Started, TokenLogprob, Tokens, Usage};
use serde_json::{Value, json};

use super::*;

fn encoder(includes_usage: bool) -> ChunkEncoder {
    ChunkEncoder::new(Framing {
        id: "chatcmpl-1".into(),
        created: 7,
        model: "a \"model\"".into(),
        includes_usage,
    })
}

fn encode(encoder: &mut ChunkEncoder, events: &[ChatEvent]) -> Vec<Value> {
    let mut out = BytesMut::new();
    events
        .iter()
        .for_each(|event| encoder.encode(event, &mut out));
    let text = std::str::from_utf8(&out).unwrap();
    let events = text.split_terminator("\n\n");
    events
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

fn started(fingerprint: Option<&str>) -> ChatEvent {
    ChatEvent::Started(Started {
        model: "upstream's own name".into(),
        reply_id: Some("upstream's own id".into()),
        fingerprint: fingerprint.map(Into::into),
    })
}

fn text(choice: u32, text: &str) -> ChatEvent {
    ChatEvent::Text {
        choice,
        text: text.into(),
    }
}

fn chunk(choice: u32, delta: &Value, finish_reason: &Value) -> Value {
    json!({
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "a \"model\"",
        "choices": [{
            "index": choice,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish_reason,
        }],
    })
}

fn role(choice: u32) -> Value {
    let delta = json!({"role": "assistant", "content": ""});
    chunk(choice, &delta, &Value::Null)
}

#[test]
fn a_stream_begins_with_the_role_and_ends_with_the_reason() {
    let events = [
        started(None),
        text(0, "say \"é\"\n"),
        ChatEvent::Thought {
            choice: 0,
            text: "hm".into(),
        },
        ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::Length,
        },
    ];
    let expected = [
        role(0),
        chunk(0, &json!({"content": "say \"é\"\n"}), &Value::Null),
        chunk(0, &json!({"reasoning_content": "hm"}), &Value::Null),
        chunk(0, &json!({}), &json!("length")),
    ];
    assert_eq!(encode(&mut encoder(false), &events), expected);
}

fn logprobs(choice: u32, token: &str, top: &[&str]) -> ChatEvent {
    let one = |text: &str| TokenLogprob {
        text: text.into(),
        bytes: (text != "<end>").then(|| text.as_bytes().to_vec()),
        logprob: -0.25,
    };
    ChatEvent::Logprobs {
        choice,
        tokens: vec![TokenLogprobs {
            token: one(token),
            top: top.iter().map(|text| one(text)).collect(),
        }],
    }
}

#[test]
fn log_probabilities_leave_with_the_next_chunk_of_their_choice() {
    let events = [
        started(None),
        logprobs(0, "a", &["a", "<end>"]),
        text(1, "b"),
        logprobs(0, "é", &[]),
        text(0, "aé"),
        text(0, "c"),
        logprobs(1, "d", &[]),
        ChatEvent::ChoiceEnded {
            choice: 1,
            reason: FinishReason::Stop,
        },
    ];
    let mut seen = encode(&mut encoder(false), &events);
    let mut take = |at: usize| seen[at]["choices"][0]["logprobs"].take();
    let entry = |token: &str, top: &[Value]| json!({"token": token, "logprob": -0.25, "bytes": token.as_bytes(), "top_logprobs": top});
    let top = [
        json!({"token": "a", "logprob": -0.25, "bytes": [97]}),
        json!({"token": "<end>", "logprob": -0.25, "bytes": null}),
    ];
    assert_eq!(
        take(3),
        json!({"content": [entry("a", &top), entry("é", &[])], "refusal": null})
    );
    assert_eq!(
        take(5),
        json!({"content": [entry("d", &[])], "refusal": null})
    );
    // Roles, the other choice's text, and what follows have none.
    let content = |choice, text: &str| chunk(choice, &json!({"content": text}), &Value::Null);
    let expected = [
        role(0),
        role(1),
        content(1, "b"),
        content(0, "aé"),
        content(0, "c"),
        chunk(1, &json!({}), &json!("stop")),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn log_probabilities_that_no_text_follows_are_not_held_for_ever() {
    let mut events = vec![started(None)];
    events.extend((0..LOGPROBS_HELD_MAX).map(|_| logprobs(0, "a", &[])));
    let seen = encode(&mut encoder(false), &events);
    let content = &seen[1]["choices"][0]["logprobs"]["content"];
    assert_eq!(content.as_array().unwrap().len(), LOGPROBS_HELD_MAX);
    assert_eq!(seen[1]["choices"][0]["delta"], json!({}));
    assert_eq!(seen.len(), 2);
}

#[test]
fn every_choice_gets_its_own_role_once() {
    let events = [started(None), text(1, "b"), text(0, "a"), text(1, "c")];
    let content = |choice, text: &str| chunk(choice, &json!({"content": text}), &Value::Null);
    let expected = [
        role(0),
        role(1),
        content(1, "b"),
        content(0, "a"),
        content(1, "c"),
    ];
    assert_eq!(encode(&mut encoder(false), &events), expected);
}

#[test]
fn a_calls_first_piece_names_it_and_later_ones_do_not() {
    let piece = |id: Option<&str>, name: Option<&str>, arguments: &str| ChatEvent::ToolCall {
        choice: 0,
        index: 2,
        part: ToolCallPart {
            seal: None,
            id: id.map(Into::into),
            name: name.map(Into::into),
            arguments: arguments.into(),
        },
    };
    let events = [
        started(None),
        piece(Some("c"), Some("f"), ""),
        piece(None, None, "{\"a\":1}"),
    ];
    let first = json!({"tool_calls": [{
        "index": 2,
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }]});
    let later = json!({"tool_calls": [{"index": 2, "function": {"arguments": "{\"a\":1}"}}]});
    let seen = encode(&mut encoder(false), &events);
    assert_eq!(
        seen[1..],
        [
            chunk(0, &first, &Value::Null),
            chunk(0, &later, &Value::Null),
        ]
    );
}

#[test]
fn usage_comes_only_when_asked_for_and_is_null_before() {
    let usage = ChatEvent::Usage(Usage {
        cache_write_tokens: Tokens(7),
        prompt_tokens: Tokens(u32::MAX),
        completion_tokens: Tokens(2),
        cached_tokens: Tokens(1),
        reasoning_tokens: Tokens(1),
        accepted_prediction_tokens: Tokens(1),
        rejected_prediction_tokens: Tokens(5),
        dropped_tokens: Tokens(0),
    });
    let events = [started(Some("fp")), usage];
    assert_eq!(encode(&mut encoder(false), &events).len(), 1);

    let seen = encode(&mut encoder(true), &events);
    assert_eq!(seen[0]["usage"], Value::Null);
    assert!(seen[0].as_object().unwrap().contains_key("usage"));
    let expected = json!({
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "a \"model\"",
        "system_fingerprint": "fp",
        "choices": [],
        "usage": {
            "prompt_tokens": 4_294_967_295_u64,
            "completion_tokens": 2,
            "total_tokens": 4_294_967_297_u64,
            "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 7},
            "completion_tokens_details": {
                "reasoning_tokens": 1,
                "accepted_prediction_tokens": 1,
                "rejected_prediction_tokens": 5,
            },
        },
    });
    assert_eq!(seen[1], expected);
}

#[test]
fn dropped_tokens_are_said_also_where_nobody_asked_for_usage() {
    let usage = ChatEvent::Usage(Usage {
        completion_tokens: Tokens(900),
        dropped_tokens: Tokens(300),
        ..Usage::default()
    });
    let seen = encode(&mut encoder(false), &[started(None), usage]);
    assert_eq!(seen[1]["usage"]["hedge"], json!({"dropped_tokens": 300}));
    assert_eq!(seen[1]["choices"], json!([]));
}

#[test]
fn an_error_is_one_event_and_done_is_its_own() {
    let mut out = BytesMut::new();
    let error = ErrorBody {
        message: "m".into(),
        kind: "server_error",
        param: None,
        code: None,
    };
    encoder(false).fail(&error, &mut out);
    encoder(false).finish(&mut out);
    assert_eq!(
        out,
        "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\ndata: [DONE]\n\n"
    );
}
