use domain::{Dialect, Reply, ReplyChoice, ReplyPiece, Started, Tokens, ToolCall, replay};
use futures::{StreamExt, executor::block_on};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::encode_reply::encode_reply;
use super::*;

fn framing() -> Framing {
    Framing {
        id: "msg_1".into(),
        created: 0,
        model: "m".into(),
        includes_usage: true,
    }
}

/// The stream's events, each with the name on its first line checked against its type.
fn read(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let events = text.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    });
    events.collect()
}

fn streamed(reply: &Reply, asked: Asked) -> Vec<Value> {
    let mut out = BytesMut::new();
    let mut encoder = StreamEncoder::new(framing(), asked);
    for event in block_on(replay(reply).collect::<Vec<_>>()) {
        encoder.encode(&event.unwrap(), &mut out);
    }
    encoder.finish(&mut out);
    read(&out)
}

/// Puts a stream together as Anthropic's SDKs do, insisting on the grammar.
fn message_of(events: &[Value]) -> Value {
    assert_eq!(events[0]["type"], "message_start");
    assert_eq!(events[1], json!({"type": "ping"}));
    let mut message = events[0]["message"].clone();
    let mut open: Option<(usize, String)> = None;
    let mut rest = events[2..].iter();
    for event in rest.by_ref() {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open, None);
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!(event["index"], content.len());
                content.push(event["content_block"].clone());
                open = Some((content.len() - 1, String::new()));
            }
            "content_block_delta" => {
                let (at, input) = open.as_mut().unwrap();
                assert_eq!(event["index"], *at);
                let delta = &event["delta"];
                let block = &mut message["content"][*at];
                let (kind, field) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", "text"),
                    "thinking_delta" => ("thinking", "thinking"),
                    "signature_delta" => ("thinking", "signature"),
                    "input_json_delta" => {
                        assert_eq!(block["type"], "tool_use");
                        input.push_str(delta["partial_json"].as_str().unwrap());
                        continue;
                    }
                    other => panic!("{other}"),
                };
                assert_eq!(block["type"], kind);
                let so_far = block[field].as_str().unwrap();
                block[field] = (so_far.to_owned() + delta[field].as_str().unwrap()).into();
            }
            "content_block_stop" => {
                let (at, input) = open.take().unwrap();
                assert_eq!(event["index"], at);
                if !input.is_empty() {
                    message["content"][at]["input"] = serde_json::from_str(&input).unwrap();
                }
            }
            "message_delta" => {
                assert_eq!(open, None);
                for field in ["stop_reason", "stop_sequence"] {
                    message[field] = event["delta"][field].clone();
                }
                message["usage"] = event["usage"].clone();
                break;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(rest.next(), Some(&json!({"type": "message_stop"})));
    assert_eq!(rest.next(), None);
    message
}

fn seal(of: Dialect, kind: SealKind, data: &str) -> Seal {
    Seal {
        of,
        kind,
        data: data.into(),
    }
}

fn sample() -> Reply {
    let signature = |of| ReplyPiece::Seal(seal(of, SealKind::Signature, "c2ln"));
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
                signature(Dialect::Anthropic),
                ReplyPiece::Seal(seal(Dialect::Anthropic, SealKind::Hidden, "aGlk")),
                ReplyPiece::Thought("hm again".into()),
                signature(Dialect::Gemini),
                ReplyPiece::Text("yes".into()),
                ReplyPiece::Thought("unsigned".into()),
                ReplyPiece::Text("and".into()),
                ReplyPiece::Seal(seal(Dialect::Responses, SealKind::Hidden, "ZW5j")),
            ],
            tool_calls: vec![ToolCall {
                id: "toolu_1".into(),
                name: "f".into(),
                arguments: r#"{"a":1}"#.into(),
                seal: Some(seal(Dialect::Gemini, SealKind::Signature, "Y2FsbA")),
            }],
            stop_string: None,
            logprobs: Vec::new(),
            reason: FinishReason::ToolCalls,
        }],
        usage: Some(Usage {
            prompt_tokens: Tokens(100),
            cached_tokens: Tokens(60),
            cache_write_tokens: Tokens(30),
            completion_tokens: Tokens(7),
            reasoning_tokens: Tokens(3),
            ..Usage::default()
        }),
        written: None,
    }
}

#[test]
fn a_reply_is_written_with_everything_that_was_asked_for() {
    let thinking = |thinking: &str, signature: &str| json!({"type": "thinking", "thinking": thinking, "signature": signature});
    let hidden = |data: &str| json!({"type": "redacted_thinking", "data": data});
    let text = |text: &str| json!({"type": "text", "text": text});
    let call = [
        hidden("hedge.gemini.call.Y2FsbA"),
        json!({"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}}),
    ];
    for (asked, content) in [
        (
            Asked::Thoughts,
            vec![
                thinking("hm", "c2ln"),
                hidden("aGlk"),
                thinking("hm again", "hedge.gemini.c2ln"),
                text("yes"),
                thinking("unsigned", ""),
                text("and"),
                hidden("hedge.responses.hidden.ZW5j"),
            ],
        ),
        (
            Asked::Signatures,
            vec![
                thinking("", "c2ln"),
                hidden("aGlk"),
                thinking("", "hedge.gemini.c2ln"),
                text("yes"),
                text("and"),
                hidden("hedge.responses.hidden.ZW5j"),
            ],
        ),
        (
            Asked::Nothing,
            vec![
                thinking("hm", "c2ln"),
                hidden("aGlk"),
                text("yes"),
                text("and"),
            ],
        ),
    ] {
        let expected = json!({
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": content.into_iter().chain(call.clone()).collect::<Vec<_>>(),
            "stop_reason": "tool_use",
            "stop_sequence": null,
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 30,
                "cache_read_input_tokens": 60,
                "output_tokens": 7,
                "output_tokens_details": {"thinking_tokens": 3},
            },
        });
        let whole = encode_reply(&framing(), &sample(), asked);
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(whole, expected, "{asked:?}");
        assert_eq!(
            message_of(&streamed(&sample(), asked)),
            expected,
            "{asked:?}"
        );
    }
}

#[test]
fn every_reason_has_its_word() {
    for (reason, has_calls, stop_string, word, stop_sequence) in [
        (FinishReason::Stop, false, None, "end_turn", Value::Null),
        (
            FinishReason::Stop,
            false,
            Some("END"),
            "stop_sequence",
            json!("END"),
        ),
        (FinishReason::Stop, true, None, "tool_use", Value::Null),
        (FinishReason::ToolCalls, true, None, "tool_use", Value::Null),
        (FinishReason::Length, true, None, "max_tokens", Value::Null),
        (
            FinishReason::ContentFilter,
            false,
            None,
            "refusal",
            Value::Null,
        ),
    ] {
        let mut reply = sample();
        let choice = &mut reply.choices[0];
        choice.reason = reason;
        choice.stop_string = stop_string.map(str::to_owned);
        if !has_calls {
            choice.tool_calls.clear();
        }
        let whole: Value =
            serde_json::from_slice(&encode_reply(&framing(), &reply, Asked::Nothing)).unwrap();
        for message in [whole, message_of(&streamed(&reply, Asked::Nothing))] {
            assert_eq!(message["stop_reason"], word);
            assert_eq!(message["stop_sequence"], stop_sequence);
        }
    }
}

#[test]
fn a_stream_that_fails_ends_in_an_error_and_nothing_more() {
    let mut out = BytesMut::new();
    let mut encoder = StreamEncoder::new(framing(), Asked::Nothing);
    let error = ErrorBody {
        message: "too busy".into(),
        kind: "server_error",
        param: None,
        code: None,
    };
    encoder.fail(503, &error, &mut out);
    encoder.fail(503, &error, &mut out);
    encoder.finish(&mut out);
    let error = json!({"type": "overloaded_error", "message": "too busy"});
    assert_eq!(read(&out), [json!({"type": "error", "error": error})]);
}

fn call(index: u32, id: Option<&str>, arguments: &str) -> ChatEvent {
    ChatEvent::ToolCall {
        choice: 0,
        index,
        part: ToolCallPart {
            id: id.map(str::to_owned),
            name: id.map(|_| "f".to_owned()),
            arguments: arguments.to_owned(),
            seal: None,
        },
    }
}

/// A block that is over cannot go on; better an error than a call with half its arguments.
#[test]
fn arguments_that_come_mixed_are_an_error_in_the_stream() {
    let mut out = BytesMut::new();
    let mut encoder = StreamEncoder::new(framing(), Asked::Nothing);
    for event in [
        ChatEvent::Started(sample().started),
        call(0, Some("a"), "{"),
        call(1, Some("b"), "{}"),
        call(0, None, "}"),
        call(1, None, " "),
    ] {
        encoder.encode(&event, &mut out);
    }
    encoder.finish(&mut out);
    let events = read(&out);
    assert_eq!(events.last().unwrap()["error"]["type"], "api_error");
    let errors = events.iter().filter(|event| event["type"] == "error");
    assert_eq!(errors.count(), 1);
}

#[test]
fn a_thought_too_long_to_be_held_is_shown() {
    let mut out = BytesMut::new();
    let mut encoder = StreamEncoder::new(framing(), Asked::Nothing);
    encoder.encode(&ChatEvent::Started(sample().started), &mut out);
    let thought = |text: &str| ChatEvent::Thought {
        choice: 0,
        text: text.to_owned(),
    };
    encoder.encode(&thought(&"a".repeat(HELD_BYTES_MAX)), &mut out);
    assert_eq!(read(&out).len(), 2);
    encoder.encode(&thought("b"), &mut out);
    encoder.encode(&thought("c"), &mut out);
    encoder.finish(&mut out);
    let shown = read(&out)
        .iter()
        .filter_map(|event| event["delta"]["thinking"].as_str().map(str::len))
        .sum::<usize>();
    assert_eq!(shown, HELD_BYTES_MAX + 2);
}

#[test]
fn an_empty_reply_and_a_second_choice_keep_the_grammar() {
    let mut reply = sample();
    reply.choices[0].pieces.clear();
    reply.choices[0].tool_calls.clear();
    reply.choices[0].reason = FinishReason::Stop;
    reply.usage = None;
    let mut second = sample().choices.remove(0);
    second.choice = 1;
    reply.choices.push(second);
    let message = message_of(&streamed(&reply, Asked::Thoughts));
    assert_eq!(message["content"], json!([]));
    assert_eq!(message["stop_reason"], "end_turn");
    assert_eq!(message["usage"]["output_tokens"], 0);
}

fn any_piece() -> impl Strategy<Value = ReplyPiece> {
    let makers = prop::sample::select(vec![Dialect::Anthropic, Dialect::Gemini]);
    let kinds = prop::sample::select(vec![SealKind::Signature, SealKind::Hidden]);
    prop_oneof![
        "[a\"\\\\é\n]{1,4}".prop_map(ReplyPiece::Text),
        "[a\"é]{1,4}".prop_map(ReplyPiece::Thought),
        (makers, kinds).prop_map(|(of, kind)| ReplyPiece::Seal(seal(of, kind, "c2Vh"))),
    ]
}

proptest! {
    /// As `domain` collects them, neighbours of one kind are joined.
    #[test]
    fn a_stream_says_what_the_whole_reply_says(pieces in prop::collection::vec(any_piece(), 0..8), asked in 0..3_usize) {
        let mut reply = sample();
        reply.choices[0].pieces = pieces;
        reply.choices[0].pieces.dedup_by(|one, before| match (&one, before) {
            (ReplyPiece::Text(one), ReplyPiece::Text(before))
            | (ReplyPiece::Thought(one), ReplyPiece::Thought(before)) => {
                before.push_str(one);
                true
            }
            _ => false,
        });
        let asked = [Asked::Thoughts, Asked::Signatures, Asked::Nothing][asked];
        let whole: Value = serde_json::from_slice(&encode_reply(&framing(), &reply, asked)).unwrap();
        prop_assert_eq!(message_of(&streamed(&reply, asked)), whole);
    }
}
