//! Encodes a request, as a client.
//!
//! Two ways to the same body. A request that still has its received bytes is spliced: every value
//! goes out byte for byte, but for `model` and the streaming fields. One that was masked or made
//! here is written from `domain`, with everything uninterpreted put back where it stood.

use bytes::{BufMut, Bytes, BytesMut};
use domain::{ChatRequest, Delivery, Dialect};
use serde_json::Value;
use serde_json::value::RawValue;

use super::request_body::request_body;
use crate::splice::{Members, put_json, put_member};

/// The body to send for `request` to an upstream that knows the model as `model`.
///
/// A streamed request always asks for usage: metering needs it, whatever the caller asked for.
#[must_use]
pub fn encode_request(model: &str, request: &ChatRequest) -> Bytes {
    let source = request
        .source
        .as_ref()
        .filter(|source| source.dialect == Dialect::OpenAi);
    source
        .and_then(|source| splice(&source.bytes, model, request.delivery, &[]))
        .unwrap_or_else(|| {
            let body = request_body(model, request);
            Bytes::from(serde_json::to_vec(&body).expect("a value tree always serializes"))
        })
}

/// The received body for another server. Fields of `ours` have the value there, or none at all, whatever
/// the caller wrote. `None` when the bytes are no JSON object, which decoding had checked.
pub(crate) fn splice(
    source: &[u8],
    model: &str,
    delivery: Delivery,
    ours: &[(&str, Option<Value>)],
) -> Option<Bytes> {
    let Members(members) = serde_json::from_slice(source).ok()?;
    let mut out = BytesMut::with_capacity(source.len() + model.len() + 64);
    let is_streamed = matches!(delivery, Delivery::Streamed { .. });
    put_member(&mut out, "model", |out| put_json(out, model));
    for (name, value) in &members {
        match name.as_ref() {
            "model" | "stream" | "stream_options" => {}
            name if ours.iter().any(|(our, _)| *our == name) => {}
            name => put_member(&mut out, name, |out| out.put_slice(value.get().as_bytes())),
        }
    }
    for (name, value) in ours {
        if let Some(value) = value {
            put_member(&mut out, name, |out| {
                out.put_slice(value.to_string().as_bytes())
            });
        }
    }
    if is_streamed {
        put_member(&mut out, "stream", |out| out.put_slice(b"true"));
        let options = members.iter().find(|(name, _)| name == "stream_options");
        put_member(&mut out, "stream_options", |out| {
            put_stream_options(out, options.map(|(_, value)| *value));
        });
    }
    out.put_u8(b'}');
    Some(out.freeze())
}

/// The caller's options with `include_usage` set.
fn put_stream_options(out: &mut BytesMut, options: Option<&RawValue>) {
    let members = options
        .and_then(|raw| serde_json::from_str::<Members<'_>>(raw.get()).ok())
        .map_or_else(Vec::new, |Members(members)| members);
    out.put_slice(b"{\"include_usage\":true");
    for (name, value) in &members {
        if name != "include_usage" {
            out.put_u8(b',');
            put_json(out, name);
            out.put_u8(b':');
            out.put_slice(value.get().as_bytes());
        }
    }
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests;
