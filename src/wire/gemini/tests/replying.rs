//! Replies as a server writes them.

use bytes::BytesMut;
use domain::{
    Dialect, FinishReason, Reply, ReplyChoice, ReplyPiece, Seal, SealKind, Started, TokenLogprob,
    TokenLogprobs, Tokens, ToolCall, ToolCallPart, Usage,
};

use super::*;
use crate::openai::ErrorBody;

fn reply(pieces: Vec<ReplyPiece>, arguments: &[&str]) -> Reply {
    let calls = arguments.iter().enumerate();
    Reply {
        started: Started {
            model: "m-1".into(),
            reply_id: None,
            fingerprint: None,
        },
        choices: vec![ReplyChoice {
            choice: 0,
            pieces,
            tool_calls: calls
                .map(|(at, arguments)| ToolCall {
                    id: format!("c{at}"),
                    name: "f".into(),
                    arguments: (*arguments).into(),
                    seal: None,
                })
                .collect(),
            stop_string: None,
            logprobs: Vec::new(),
            reason: FinishReason::Stop,
        }],
        usage: None,
        written: None,
    }
}

fn thinking(shows: bool) -> Value {
    asking(&json!({"generationConfig": {"thinkingConfig": {"includeThoughts": shows}}}))
}

fn whole(reply: &Reply, ask: &Value) -> Value {
    let mut decoded = server(false, "", ask);
    serde_json::from_slice(&decoded.encoder.whole(&framing(), reply)).unwrap()
}

fn streamed(query: &str, ask: &Value, events: &[ChatEvent]) -> String {
    let mut decoded = server(true, query, ask);
    let mut out = BytesMut::new();
    decoded.encoder.begin(framing());
    for event in events {
        out.extend_from_slice(decoded.encoder.keep_alive());
        decoded.encoder.event(event, &mut out);
        decoded.encoder.note("x-hedge-note", &"n", &mut out);
    }
    decoded.encoder.finish(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn text(text: &str) -> ChatEvent {
    ChatEvent::Text {
        choice: 0,
        text: text.into(),
    }
}

fn piece(index: u32, name: Option<&str>, arguments: &str) -> ChatEvent {
    ChatEvent::ToolCall {
        choice: 0,
        index,
        part: ToolCallPart {
            id: name.map(|_| format!("c{index}")),
            name: name.map(str::to_owned),
            arguments: arguments.into(),
            seal: None,
        },
    }
}

fn ended(reason: FinishReason) -> ChatEvent {
    ChatEvent::ChoiceEnded { choice: 0, reason }
}

#[test]
fn thoughts_are_shown_to_who_asked_for_them() {
    let pieces = || {
        vec![
            ReplyPiece::Thought("hm".into()),
            ReplyPiece::Text("yes".into()),
        ]
    };
    let parts = |shows| {
        let body = whole(&reply(pieces(), &[]), &thinking(shows));
        body["candidates"][0]["content"]["parts"].clone()
    };
    assert_eq!(
        parts(true),
        json!([{"text": "hm", "thought": true}, {"text": "yes"}])
    );
    assert_eq!(parts(false), json!([{"text": "yes"}]));
}

#[test]
fn another_makers_seal_is_base64_and_returns() {
    let seal = Seal {
        of: Dialect::Anthropic,
        kind: SealKind::Signature,
        data: "EqQB+/==".into(),
    };
    let pieces = vec![
        ReplyPiece::Thought("hm".into()),
        ReplyPiece::Seal(seal.clone()),
    ];
    let body = whole(&reply(pieces, &[]), &thinking(true));
    let content = &body["candidates"][0]["content"];
    let signature = content["parts"][0]["thoughtSignature"].as_str().unwrap();
    assert!(crate::data_url::is_base64(signature));
    let turns = json!({"contents": [{"parts": [{"text": "hi"}]}, content]});
    let request = decode(&turns).unwrap();
    let [domain::Part::Thought(_), domain::Part::Seal(returned)] =
        request.messages[1].content.as_slice()
    else {
        panic!("a thought and its seal");
    };
    assert_eq!(*returned, seal);
}

#[test]
fn a_stream_without_sse_is_one_array() {
    let usage = ChatEvent::Usage(Usage {
        prompt_tokens: Tokens(2),
        completion_tokens: Tokens(1),
        dropped_tokens: Tokens(9),
        ..Usage::default()
    });
    let events = [text("a"), ended(FinishReason::Stop), usage];
    let array = streamed("", &asking(&json!({})), &events);
    let chunks: Vec<Value> = serde_json::from_str(&array).unwrap();
    assert_eq!(chunks.len(), 2);
    assert_eq!(
        chunks[0]["candidates"][0]["content"]["parts"][0]["text"],
        "a"
    );
    assert_eq!(chunks[1]["candidates"][0]["finishReason"], "STOP");
    let expected = json!({"promptTokenCount": 2, "candidatesTokenCount": 1, "totalTokenCount": 3,
        "hedge": {"droppedTokenCount": 9}});
    assert_eq!(chunks[1]["usageMetadata"], expected);
    let sse = streamed("alt=sse", &asking(&json!({})), &events);
    assert!(sse.contains(": x-hedge-note: n\n\n"));
    let read = stream(sse.as_bytes());
    assert_eq!(read.len(), 4);
    // Both are read alike.
    let of_array = stream(array.as_bytes());
    assert_eq!(
        of_array.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        read.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    );
}

#[test]
fn a_call_is_written_whole_and_a_malformed_one_is_said_to_be() {
    let ask = asking(&json!({}));
    let good = [
        piece(0, Some("f"), "{\"a\""),
        piece(0, None, ":1}"),
        piece(1, Some("g"), ""),
        ended(FinishReason::ToolCalls),
    ];
    let chunks: Vec<Value> = serde_json::from_str(&streamed("", &ask, &good)).unwrap();
    let parts = &chunks[0]["candidates"][0]["content"]["parts"];
    let expected = json!([
        {"functionCall": {"id": "c0", "name": "f", "args": {"a": 1}}},
        {"functionCall": {"id": "c1", "name": "g", "args": {}}},
    ]);
    assert_eq!(*parts, expected);
    assert_eq!(chunks[1]["candidates"][0]["finishReason"], "STOP");
    let long = "x".repeat(1 << 20);
    let mut too_long = vec![piece(0, Some("f"), "{\"a\":\"")];
    too_long.extend((0..9).map(|_| piece(0, None, &long)));
    too_long.extend([piece(0, None, "\"}"), ended(FinishReason::ToolCalls)]);
    let cut = vec![piece(0, Some("f"), "{\"a\""), ended(FinishReason::Length)];
    for events in [too_long, cut] {
        let chunks: Vec<Value> = serde_json::from_str(&streamed("", &ask, &events)).unwrap();
        let last = &chunks.last().unwrap()["candidates"][0];
        assert_eq!(last["finishReason"], "MALFORMED_FUNCTION_CALL");
        assert!(last["finishMessage"].is_string());
    }
    let body = whole(&reply(Vec::new(), &["{}", "["]), &ask);
    assert_eq!(
        body["candidates"][0]["finishReason"],
        "MALFORMED_FUNCTION_CALL"
    );
    assert_eq!(body["candidates"][0]["content"]["parts"], json!([]));
}

#[test]
fn an_error_is_the_last_chunk() {
    let error = ErrorBody {
        message: "the provider failed".into(),
        kind: "server_error",
        param: None,
        code: None,
    };
    for query in ["alt=sse", ""] {
        let mut decoded = server(true, query, &asking(&json!({})));
        let mut out = BytesMut::new();
        decoded.encoder.begin(framing());
        decoded.encoder.event(&text("a"), &mut out);
        decoded.encoder.fail(502, &error, &mut out);
        let events = stream(&out);
        assert_eq!(events.len(), 3, "{query}");
        assert!(matches!(
            super::error(&events),
            BackendError::Failed { status: 502 }
        ));
    }
    let body = GenerateContent.refusal(400, &error, "r-1");
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["status"], "INVALID_ARGUMENT");
}

#[test]
fn log_probabilities_go_and_come() {
    let one = |text: &str, logprob| TokenLogprob {
        text: text.into(),
        bytes: Some(text.as_bytes().to_vec()),
        logprob,
    };
    let tokens = vec![TokenLogprobs {
        token: one("a", -0.5),
        top: vec![one("a", -0.5), one("b", -1.5)],
    }];
    let events = [
        ChatEvent::Logprobs {
            choice: 0,
            tokens: tokens.clone(),
        },
        text("a"),
        ended(FinishReason::Stop),
    ];
    let read = stream(streamed("alt=sse", &asking(&json!({})), &events).as_bytes());
    assert_eq!(read[1].as_ref().unwrap(), &events[0]);
    let mut written = reply(vec![ReplyPiece::Text("a".into())], &[]);
    written.choices[0].logprobs = tokens.clone();
    let body = whole(&written, &asking(&json!({})));
    let read = Gemini.decode_reply(body.to_string().as_bytes()).unwrap();
    assert_eq!(read.choices[0].logprobs, tokens);
}
