//! Of both sides: what a server reads and refuses, what a client writes and declines, and what
//! either makes of bytes that are none.

use std::collections::VecDeque;

use bytes::Bytes;
use domain::{BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, Grammar};
use serde_json::{Value, json};

use super::decode_request::decode_request;
use super::{Gemini, GenerateContent, StreamGenerateContent};
use crate::openai::Framing;
use crate::{Address, ClientDialect, Decoded, ServerDialect};

mod asking;
mod errors;
mod replying;
mod streams;
mod writing;

fn decode(body: &Value) -> Result<ChatRequest, BadRequest> {
    let body = Bytes::from(body.to_string());
    decode_request("gemini-3-pro", Delivery::Whole, &body)
}

/// A body that asks something, with these members.
fn asking(members: &Value) -> Value {
    let mut body = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let members = members.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(members);
    body
}

/// As a Gemini upstream gets it, written from `domain`.
fn sent(model: &str, request: &ChatRequest) -> Result<Value, BackendError> {
    let mut request = request.clone();
    request.source = None;
    let body = Gemini.encode_request(model, &request)?;
    Ok(serde_json::from_slice(&body).unwrap())
}

fn server(is_streamed: bool, query: &str, body: &Value) -> Decoded {
    let servers: [&dyn ServerDialect; 2] = [&GenerateContent, &StreamGenerateContent];
    let address = Address {
        model: Some("m-1".into()),
        query: Some(query.into()),
    };
    let body = Bytes::from(body.to_string());
    servers[usize::from(is_streamed)]
        .decode_at(&address, &body)
        .unwrap()
}

fn framing() -> Framing {
    Framing {
        id: "reply-1".into(),
        created: 1_764_000_000,
        model: "m-1".into(),
        includes_usage: true,
    }
}

/// What comes of a stream's bytes. It obeys the grammar up to its error, if it has one.
fn stream(bytes: &[u8]) -> Vec<Result<ChatEvent, BackendError>> {
    let mut out = VecDeque::new();
    let mut decoder = Gemini.decoder();
    decoder.push(bytes, &mut out);
    decoder.finish(&mut out);
    assert!(decoder.is_over());
    let mut grammar = Grammar::default();
    for (at, event) in out.iter().enumerate() {
        match event {
            Ok(event) => grammar.take(event).unwrap(),
            Err(_) => assert_eq!(at, out.len() - 1, "nothing follows an error"),
        }
    }
    if out.back().is_some_and(Result::is_ok) {
        grammar.finish().unwrap();
    }
    // What is passed on is looked at in `pairs`.
    out.retain(|event| !matches!(event, Ok(ChatEvent::Written(_))));
    out.into()
}

#[track_caller]
fn error(events: &[Result<ChatEvent, BackendError>]) -> &BackendError {
    match events.last() {
        Some(Err(error)) => error,
        other => panic!("no error but {other:?}"),
    }
}
