use bytes::Bytes;
use domain::{
    Dialect, FinishReason, Part, ReplyChoice, ReplyPiece, Seal, SealKind, Started, TokenLogprobs,
    Tokens, ToolCall, ToolCallPart, Usage,
};

use super::super::decode_request;
use super::super::test_shelf::TestShelf;
use super::*;

fn encoder(more: &Value, shelf: Option<&TestShelf>) -> Encoder {
    let mut body = json!({"model": "m", "input": "hi", "instructions": "Be short."});
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    let shelf = shelf.map(TestShelf::of_team);
    let (_, encoder) = decode_request(&Bytes::from(body.to_string()), shelf.as_ref()).unwrap();
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
    let shelf = TestShelf::default();
    let more = json!({"metadata": {"a": "b"}, "temperature": 0.5});
    let told = stream(&mut encoder(&more, Some(&shelf)), &events());
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
    let whole = encoder(&more, None).whole(&framing(), &reply());
    let whole: Value = serde_json::from_slice(&whole).unwrap();
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

    let kept = shelf.only();
    assert!(kept.is_whole && kept.previous.is_none());
    assert_eq!(kept.id, "resp_01");
    let object: Value = serde_json::from_slice(&response_object(&kept.head, &kept.output)).unwrap();
    assert_eq!(object, *last);
    let input: Value = serde_json::from_slice(&kept.input[0].json).unwrap();
    let asked = json!({"id": "msg_01i00", "type": "message", "role": "user", "status": "completed",
                       "content": [{"type": "input_text", "text": "hi"}]});
    assert_eq!(input, asked);
    assert_eq!(kept.input[0].id, "msg_01i00");
}

/// What is written out is what is read where a request goes on from it.
#[test]
fn what_was_kept_says_the_same_as_what_was_told() {
    let shelf = TestShelf::default();
    encoder(&json!({}), Some(&shelf)).whole(&framing(), &reply());
    let kept = shelf.only();
    let items: Vec<Value> = kept
        .output
        .iter()
        .map(|item| serde_json::from_slice(&item.json).unwrap())
        .collect();
    let body = json!({"model": "m", "input": items, "store": false});
    let (request, _) = decode_request(&Bytes::from(body.to_string()), None).unwrap();
    let [said] = &request.messages[..] else {
        panic!("{request:?}")
    };
    assert_eq!(said.text(), "Hello");
    assert_eq!(said.content[0], Part::Thought("hm".into()));
    assert!(matches!(&said.content[1], Part::Seal(seal) if seal.data == "c2ln"));
    assert_eq!(said.tool_calls.len(), 2);
}

#[test]
fn thoughts_are_a_summary_where_one_was_asked_for() {
    let more = json!({"reasoning": {"summary": "auto"}});
    let told = stream(&mut encoder(&more, None), &events());
    let kinds: Vec<&str> = told[2..8]
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let wanted = [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ];
    assert_eq!(kinds, wanted.map(|kind| format!("response.{kind}")));
    let item = &told[8]["item"];
    assert_eq!(
        item["summary"],
        json!([{"type": "summary_text", "text": "hm"}])
    );
    assert!(item.get("content").is_none());
}

#[test]
fn a_call_keeps_its_makers_seal() {
    let seal = Seal {
        of: Dialect::Gemini,
        kind: SealKind::Signature,
        data: "c2ln".into(),
    };
    let mut sealed = reply();
    sealed.choices[0].tool_calls[0].seal = Some(seal);
    let whole = encoder(&json!({}), None).whole(&framing(), &sealed);
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    let call = &whole["output"][2];
    assert_eq!(call["encrypted_content"], "hedge.gemini.c2ln");
}

#[test]
fn log_probabilities_come_with_their_text() {
    let token = domain::TokenLogprob {
        text: "He".into(),
        bytes: None,
        logprob: -0.5,
    };
    let mut weighed = events();
    let tokens = vec![TokenLogprobs {
        token,
        top: Vec::new(),
    }];
    weighed.insert(4, ChatEvent::Logprobs { choice: 0, tokens });
    let told = stream(&mut encoder(&json!({}), None), &weighed);
    let token = json!([{"token": "He", "logprob": -0.5, "bytes": [72, 101], "top_logprobs": []}]);
    let of = |kind: &str| {
        let mut events = told.iter();
        events.find(|event| event["type"] == kind).unwrap()
    };
    assert_eq!(of("response.output_text.delta")["logprobs"], token);
    assert_eq!(of("response.output_text.done")["logprobs"], token);
    let item = &told.last().unwrap()["response"]["output"][1];
    assert_eq!(item["content"][0]["logprobs"], token);
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
    assert!(last["response"].get("usage").is_none());
}

#[test]
fn a_broken_stream_ends_in_its_failure_and_is_kept_as_one() {
    let shelf = TestShelf::default();
    let mut encoder = self::encoder(&json!({}), Some(&shelf));
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
    drop(encoder);
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
    let kept = shelf.only();
    assert!(!kept.is_whole);
    let object: Value = serde_json::from_slice(&response_object(&kept.head, &kept.output)).unwrap();
    assert_eq!(object, failed["response"]);
}

#[test]
fn a_response_whose_caller_left_is_kept_as_cancelled() {
    let shelf = TestShelf::default();
    let mut out = BytesMut::new();
    let mut encoder = self::encoder(&json!({}), Some(&shelf));
    encoder.begin(framing());
    encoder.event(&events()[0], &mut out);
    encoder.event(&events()[4], &mut out);
    drop(encoder);
    let kept = shelf.only();
    assert!(!kept.is_whole);
    let object: Value = serde_json::from_slice(&response_object(&kept.head, &kept.output)).unwrap();
    assert_eq!(object["status"], "cancelled");
    assert_eq!(object["output"][0]["content"][0]["text"], "He");
}

#[test]
fn a_response_whose_id_nobody_learned_is_not_kept() {
    let shelf = TestShelf::default();
    let mut unheard = encoder(&json!({}), Some(&shelf));
    unheard.begin(framing());
    drop(unheard);
    drop(encoder(&json!({}), Some(&shelf)));
    assert!(shelf.is_empty());
}

#[test]
fn what_is_not_to_be_kept_is_not() {
    let shelf = TestShelf::default();
    let more = json!({"store": false});
    let told = stream(&mut encoder(&more, Some(&shelf)), &events());
    assert_eq!(told.last().unwrap()["response"]["store"], false);
    assert!(shelf.is_empty());
}
