use domain::{FinishReason, ReplyPiece, Started, Tokens};
use serde_json::{Value, json};

use super::*;
use crate::openai::decode_reply;

#[test]
fn a_reply_is_written_as_the_reference_has_it() {
    let fixture = include_str!("../fixtures/reply_full.json");
    let reply = decode_reply(fixture.as_bytes()).unwrap();
    let framing = Framing {
        id: "chatcmpl-123".into(),
        created: 1_741_569_952,
        model: "gpt-x-2026-01-01".into(),
        includes_usage: false,
    };
    let written: Value = serde_json::from_slice(&encode_reply(&framing, &reply)).unwrap();
    let expected: Value = serde_json::from_str(fixture).unwrap();
    assert_eq!(written, expected);
}

#[test]
fn an_empty_answer_is_an_empty_string_and_absent_usage_is_left_out() {
    let reply = Reply {
        started: Started {
            model: "m".into(),
            reply_id: None,
            fingerprint: None,
        },
        choices: vec![ReplyChoice {
            stop_string: None,
            choice: 0,
            pieces: vec![],
            tool_calls: vec![],
            logprobs: vec![],
            reason: FinishReason::Stop,
        }],
        usage: None,
        written: None,
    };
    let framing = Framing {
        id: "chatcmpl-1".into(),
        created: 1,
        model: "alias".into(),
        includes_usage: false,
    };
    let written: Value = serde_json::from_slice(&encode_reply(&framing, &reply)).unwrap();
    let expected = json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "alias",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
    });
    assert_eq!(written, expected);
}

#[test]
fn pieces_are_joined_by_kind() {
    let choice = ReplyChoice {
        stop_string: None,
        choice: 0,
        pieces: vec![
            ReplyPiece::Thought("a".into()),
            ReplyPiece::Text("b".into()),
            ReplyPiece::Thought("c".into()),
            ReplyPiece::Text("d".into()),
        ],
        tool_calls: vec![],
        logprobs: vec![],
        reason: FinishReason::Stop,
    };
    let written = serde_json::to_value(ChoiceBody::from(&choice)).unwrap();
    assert_eq!(written["message"]["content"], "bd");
    assert_eq!(written["message"]["reasoning_content"], "ac");
}

#[test]
fn totals_do_not_overflow() {
    let usage = Usage {
        prompt_tokens: Tokens(u32::MAX),
        completion_tokens: Tokens(u32::MAX),
        ..Usage::default()
    };
    let written = serde_json::to_value(UsageBody::from(&usage)).unwrap();
    assert_eq!(written["total_tokens"], 8_589_934_590_u64);
}
