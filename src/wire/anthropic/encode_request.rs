//! Encodes a request, as a client.
//!
//! As for OpenAI's: a request that still has its received bytes is spliced, every value byte for
//! byte but for `model` and `stream`; one that was masked or made here is written from `domain`.

use bytes::{BufMut, Bytes, BytesMut};
use domain::{BackendError, ChatRequest, Delivery, Dialect};

use super::request_body::request_body;
use crate::foreign_seal;
use crate::splice::{Members, put_json, put_member};

/// The body to send for `request` to an upstream that knows the model as `model`.
///
/// # Errors
/// What this dialect cannot say.
pub(super) fn encode_request(model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
    let source = request
        .source
        .as_ref()
        .filter(|source| source.dialect == Dialect::Anthropic)
        .filter(|_| !foreign_seal::are_in(request, Dialect::Anthropic));
    let spliced = source.and_then(|source| splice(&source.bytes, model, request.delivery));
    if let Some(spliced) = spliced {
        return Ok(spliced);
    }
    let body = request_body(model, request)?;
    let bytes = serde_json::to_vec(&body).expect("a value tree always serializes");
    Ok(Bytes::from(bytes))
}

/// `None` when the bytes are no JSON object, which decoding had checked.
fn splice(source: &[u8], model: &str, delivery: Delivery) -> Option<Bytes> {
    let Members(members) = serde_json::from_slice(source).ok()?;
    let mut out = BytesMut::with_capacity(source.len() + model.len() + 64);
    put_member(&mut out, "model", |out| put_json(out, model));
    for (name, value) in &members {
        match name.as_ref() {
            "model" | "stream" => {}
            name => put_member(&mut out, name, |out| out.put_slice(value.get().as_bytes())),
        }
    }
    if matches!(delivery, Delivery::Streamed { .. }) {
        put_member(&mut out, "stream", |out| out.put_slice(b"true"));
    }
    out.put_u8(b'}');
    Some(out.freeze())
}
