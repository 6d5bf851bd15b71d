//! Where a response's events are written.

use bytes::{BufMut, BytesMut};
use domain::TokenLogprobs;
use serde::Serialize;
use serde_json::Value;

use crate::openai::logprobs_of;

/// Writes events one after the other, each with its number.
pub(super) enum EventSink<'a> {
    Stream {
        out: &'a mut BytesMut,
        /// Of the next event.
        number: &'a mut u64,
    },
    /// Of a whole reply, whose events nobody reads.
    Unheard,
}

/// A stretch of text. It comes once a token, so it is written without a value tree.
pub(super) struct Delta<'a> {
    /// Without `response.`.
    pub kind: &'static str,
    pub item_id: &'a str,
    pub output_index: usize,
    /// What the index of the item's only part is called, where it has parts.
    pub part: Option<&'static str>,
    pub text: &'a str,
    pub logprobs: Option<&'a [TokenLogprobs]>,
}

impl EventSink<'_> {
    /// An event of the response: `kind` without `response.`, and an object.
    pub fn event(&mut self, kind: &str, body: impl FnOnce() -> Value) {
        let EventSink::Stream { out, number } = self else {
            return;
        };
        let Value::Object(body) = body() else {
            return;
        };
        begin(out, number, "response.", kind);
        for (name, value) in &body {
            out.put_u8(b',');
            put_json(out, name);
            out.put_u8(b':');
            put_json(out, value);
        }
        out.put_slice(b"}\n\n");
    }

    /// An event that holds the response's object, in JSON.
    pub fn response(&mut self, kind: &str, object: &[u8]) {
        if let EventSink::Stream { out, number } = self {
            begin(out, number, "response.", kind);
            out.put_slice(b",\"response\":");
            out.put_slice(object);
            out.put_slice(b"}\n\n");
        }
    }

    /// The stream's own error.
    pub fn error(&mut self, code: &str, message: &str, param: Option<&str>) {
        if let EventSink::Stream { out, number } = self {
            begin(out, number, "", "error");
            out.put_slice(b",\"code\":");
            put_json(out, code);
            out.put_slice(b",\"message\":");
            put_json(out, message);
            out.put_slice(b",\"param\":");
            put_json(out, &param);
            out.put_slice(b"}\n\n");
        }
    }

    pub fn delta(&mut self, delta: &Delta<'_>) {
        let EventSink::Stream { out, number } = self else {
            return;
        };
        begin(out, number, "response.", delta.kind);
        out.put_slice(b",\"item_id\":");
        put_json(out, delta.item_id);
        out.put_slice(b",\"output_index\":");
        put_json(out, &delta.output_index);
        if let Some(part) = delta.part {
            out.put_slice(b",\"");
            out.put_slice(part.as_bytes());
            out.put_slice(b"\":0");
        }
        out.put_slice(b",\"delta\":");
        put_json(out, delta.text);
        match delta.logprobs {
            None => {}
            Some([]) => out.put_slice(b",\"logprobs\":[]"),
            Some(tokens) => {
                out.put_slice(b",\"logprobs\":");
                put_json(out, &logprobs_of(tokens));
            }
        }
        out.put_slice(b"}\n\n");
    }
}

/// Up to and with the number.
fn begin(out: &mut BytesMut, number: &mut u64, before: &str, kind: &str) {
    out.reserve(192);
    out.put_slice(b"event: ");
    out.put_slice(before.as_bytes());
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\ndata: {\"type\":\"");
    out.put_slice(before.as_bytes());
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"sequence_number\":");
    put_json(out, number);
    *number += 1;
}

fn put_json(out: &mut BytesMut, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out.writer(), value)
        .expect("writing strings and finite numbers to memory cannot fail");
}
