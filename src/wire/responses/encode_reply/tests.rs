use std::sync::{Arc, Mutex};

use bytes::Bytes;
use domain::{
    Dialect, FinishReason, ReplyChoice, ReplyPiece, Seal, SealKind, Started, Tokens, ToolCallPart,
    Usage,
};

use super::super::decode_request;
use super::*;

fn encoder(more: &Value, keep: Option<Keep>) -> Encoder {
    let mut body = json!({"model": "m", "input": "hi", "instructions": "Be short."});
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let (request, mut encoder) = decode_request(&Bytes::from(body.to_string())).unwrap();
    if let Some(keep) = keep {
        encoder.keep_with(&request, keep);
    }
    encoder
}

fn framing() -> Framing {
    Framing {
        id: "resp_01".into(),
        created: 7,
        model: "m".into(),
        includes_usage: true,
    }
}

fn events() -> Vec<ChatEvent> {
    let text = |text: &str| ChatEvent::Text {
        choice: 0,
        text: text.into(),
    };
    let call = |index, id: Option<&str>, arguments: &str| ChatEvent::ToolCall {
        choice: 0,
        index,
        part: ToolCallPart {
            id: id.map(Into::into),
            name: id.map(|_| "f".into()),
            arguments: arguments.into(),
            seal: None,
        },
    };
    let thought = |text: &str| ChatEvent::Thought {
        choice: 0,
        text: text.into(),
    };
    vec![
        ChatEvent::Started(Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        }),
        thought("h"),
        thought("m"),
        ChatEvent::Seal {
            choice: 0,
            seal: Seal {
                of: Dialect::Anthropic,
                kind: SealKind::Signature,
                data: "c2ln".into(),
            },
        },
        text("He"),
        text("llo"),
        call(0, Some("call_a"), ""),
        call(1, Some("call_b"), "{"),
        call(0, None, "{}"),
        call(1, None, "}"),
        ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::ToolCalls,
        },
        ChatEvent::Usage(usage()),
    ]
}

fn written(out: &BytesMut) -> Vec<Value> {
    let text = std::str::from_utf8(out).unwrap();
    let events = text.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    });
    events.collect()
}

fn stream(encoder: &mut Encoder, events: &[ChatEvent]) -> Vec<Value> {
    let mut out = BytesMut::new();
    encoder.begin(framing());
    events
        .iter()
        .for_each(|event| encoder.event(event, &mut out));
    encoder.finish(&mut out);
    written(&out)
}

#[test]
fn a_stream_tells_everything_in_order_and_ends_as_the_whole_response() {
    let kept: Arc<Mutex<Vec<StoredResponse>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let more = json!({"metadata": {"a": "b"}, "temperature": 0.5});
    let keep: Keep = Box::new(move |it| keep.lock().unwrap().push(it));
    let mut encoder = encoder(&more, Some(keep));
    let told = stream(&mut encoder, &events());
    let kinds: Vec<&str> = told
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let wanted = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ];
    assert_eq!(kinds, wanted.map(|kind| format!("response.{kind}")));
    for (number, event) in told.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let last = &told.last().unwrap()["response"];
    let mut whole = self::encoder(&more, None);
    let whole: Value = serde_json::from_slice(&whole.whole(&framing(), &reply())).unwrap();
    let mut expected = whole.clone();
    expected["store"] = true.into();
    assert_eq!(*last, expected);
    assert_eq!(last["id"], "resp_01");
    assert_eq!(last["status"], "completed");
    assert_eq!(last["instructions"], "Be short.");
    assert_eq!(last["temperature"], 0.5);
    assert_eq!(
        last["output"][0]["encrypted_content"],
        "hedge.anthropic.c2ln"
    );
    assert_eq!(last["output"][1]["content"][0]["text"], "Hello");
    assert_eq!(last["output"][2]["arguments"], "{}");
    assert_eq!(last["output"][3]["call_id"], "call_b");
    assert_eq!(
        last["usage"]["output_tokens_details"]["reasoning_tokens"],
        2
    );

    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 1);
    let object: Value = serde_json::from_slice(&kept[0].object).unwrap();
    assert_eq!(object, *last);
    let said = &kept[0].said;
    assert_eq!(said.len(), 2);
    assert_eq!(said[1].text(), "Hello");
    assert_eq!(said[1].tool_calls.len(), 2);
    assert!(said[1].content.contains(&Part::Thought("hm".into())));
}

/// The events as a reply.
fn reply() -> Reply {
    Reply {
        started: Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        },
        choices: vec![ReplyChoice {
            choice: 0,
            pieces: vec![
                ReplyPiece::Thought("hm".into()),
                ReplyPiece::Seal(Seal {
                    of: Dialect::Anthropic,
                    kind: SealKind::Signature,
                    data: "c2ln".into(),
                }),
                ReplyPiece::Text("Hello".into()),
            ],
            tool_calls: ["call_a", "call_b"]
                .map(|id| ToolCall {
                    id: id.into(),
                    name: "f".into(),
                    arguments: "{}".into(),
                    seal: None,
                })
                .to_vec(),
            stop_string: None,
            logprobs: Vec::new(),
            reason: FinishReason::ToolCalls,
        }],
        usage: Some(usage()),
        written: None,
    }
}

fn usage() -> Usage {
    Usage {
        prompt_tokens: Tokens(3),
        completion_tokens: Tokens(4),
        cached_tokens: Tokens(1),
        reasoning_tokens: Tokens(2),
        ..Usage::default()
    }
}

#[test]
fn a_reply_cut_by_its_bound_is_incomplete() {
    let cut = [
        events()[0].clone(),
        events()[4].clone(),
        ChatEvent::ChoiceEnded {
            choice: 0,
            reason: FinishReason::Length,
        },
    ];
    let told = stream(&mut encoder(&json!({}), None), &cut);
    let last = told.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(
        last["response"]["incomplete_details"]["reason"],
        "max_output_tokens"
    );
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
    assert_eq!(last["response"]["usage"], Value::Null);
}

#[test]
fn a_broken_stream_ends_in_its_failure_and_is_not_kept() {
    let keep: Keep = Box::new(|_| panic!("kept"));
    let mut encoder = encoder(&json!({}), Some(keep));
    let mut out = BytesMut::new();
    encoder.begin(framing());
    events()[..6]
        .iter()
        .for_each(|event| encoder.event(event, &mut out));
    let error = ErrorBody {
        message: "gone".into(),
        kind: "server_error",
        param: None,
        code: Some("upstream_failed".into()),
    };
    encoder.fail(502, &error, &mut out);
    let told = written(&out);
    let [.., failed, last] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"]["code"], "server_error");
    assert_eq!(
        (last["type"].as_str(), last["code"].as_str()),
        (Some("error"), Some("upstream_failed"))
    );
}

#[test]
fn what_is_not_to_be_kept_is_not() {
    let keep: Keep = Box::new(|_| panic!("kept"));
    let mut encoder = encoder(&json!({"store": false}), Some(keep));
    let told = stream(&mut encoder, &events());
    assert_eq!(told.last().unwrap()["response"]["store"], false);
}
