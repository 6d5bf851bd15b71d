//! Encodes a streamed reply, as a server.
//!
//! ```text
//! message_start ping (content_block_start content_block_delta* content_block_stop)*
//!     message_delta message_stop
//! ```
//! or an `error` event at any point and then nothing. Blocks follow one another. The prompt's tokens
//! are known only at the end here, so they stand in `message_delta`, where the SDKs take them from.
//!
//! Runs once per token: events are appended to the caller's buffer, without a value tree.

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, Dialect, FinishReason, Seal, SealKind, ToolCallPart, Usage};
use serde::Serialize;

use super::decode_settings::Asked;
use super::encode_reply::may_be_written;
use super::error_body::error_body;
use super::reply_body::{UsageBody, stop_reason};
use super::seals;
use crate::openai::{ErrorBody, Framing};
use crate::passing::Passing;

/// Of a thought that is shown only if a signature of Anthropic's follows. One that grows beyond is
/// shown.
const HELD_BYTES_MAX: usize = 1 << 20;

pub(super) const PING: &[u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";

const STOP: &[u8] = b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// Writes one stream.
#[derive(Debug)]
pub(super) struct StreamEncoder {
    framing: Framing,
    asked: Asked,
    open: Open,
    /// The next block's.
    index: u32,
    /// A thought that may have to be left out.
    held: String,
    has_calls: bool,
    stop_string: Option<String>,
    reason: FinishReason,
    usage: Usage,
    passing: Passing,
    /// The provider's own end was passed on.
    has_stop: bool,
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Text,
    Thinking,
    Call(u32),
}

impl StreamEncoder {
    pub fn new(framing: Framing, asked: Asked) -> Self {
        Self {
            framing,
            asked,
            open: Open::Nothing,
            index: 0,
            held: String::new(),
            has_calls: false,
            stop_string: None,
            reason: FinishReason::Stop,
            usage: Usage::default(),
            passing: Passing::default(),
            has_stop: false,
            is_over: false,
        }
    }

    /// Appends what `event` says. Of several choices only the first is written: nobody can ask for
    /// more in this dialect.
    pub fn encode(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if self.is_over {
            return;
        }
        if let Some(bytes) = self.passing.copy(event, Dialect::Anthropic) {
            self.has_stop |= bytes.starts_with(b"event: message_stop\n");
            return out.put_slice(bytes);
        }
        match event {
            ChatEvent::Started(_) => self.begin(out),
            ChatEvent::Text { choice: 0, text } => self.text(text, out),
            ChatEvent::Thought { choice: 0, text } => self.thought(text, out),
            ChatEvent::Seal { choice: 0, seal } => self.seal(seal, out),
            ChatEvent::ToolCall {
                choice: 0,
                index,
                part,
            } => self.call(*index, part, out),
            ChatEvent::StopString { choice: 0, text } => self.stop_string = Some(text.clone()),
            ChatEvent::ChoiceEnded { choice: 0, reason } => {
                self.close(out);
                self.reason = *reason;
            }
            ChatEvent::Usage(usage) => self.usage = *usage,
            ChatEvent::Written(_)
            | ChatEvent::Logprobs { .. }
            | ChatEvent::Text { .. }
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::ToolCall { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::ChoiceEnded { .. } => {}
        }
    }

    /// Appends an error. Nothing may follow it.
    pub fn fail(&mut self, status: u16, error: &ErrorBody, out: &mut BytesMut) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        out.put_slice(b"event: error\ndata: ");
        out.put_slice(&error_body(status, error, None));
        out.put_slice(b"\n\n");
    }

    /// Appends the reason, the usage and the end.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        if self.passing == Passing::PassesOn {
            if !self.has_stop {
                out.put_slice(STOP);
            }
            return;
        }
        let stop_string = self.stop_string.as_deref();
        let reason = stop_reason(self.reason, self.has_calls, stop_string.is_some());
        out.put_slice(
            b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":",
        );
        put_json(out, reason);
        out.put_slice(b",\"stop_sequence\":");
        put_json(out, &stop_string.filter(|_| reason == "stop_sequence"));
        out.put_slice(b"},\"usage\":");
        put_json(out, &UsageBody::from(self.usage));
        out.put_slice(b"}\n\n");
        out.put_slice(STOP);
    }

    fn begin(&mut self, out: &mut BytesMut) {
        out.put_slice(
            b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":",
        );
        put_json(out, &self.framing.id);
        out.put_slice(b",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
        put_json(out, &self.framing.model);
        out.put_slice(b",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
        put_json(out, &UsageBody::from(Usage::default()));
        out.put_slice(b"}}\n\n");
        out.put_slice(PING);
    }

    fn text(&mut self, text: &str, out: &mut BytesMut) {
        if text.is_empty() {
            return;
        }
        if self.open != Open::Text {
            self.start(Open::Text, out, |out| {
                out.put_slice(b"{\"type\":\"text\",\"text\":\"\"}");
            });
        }
        self.delta("text_delta", "text", text, out);
    }

    fn thought(&mut self, text: &str, out: &mut BytesMut) {
        match self.asked {
            Asked::Signatures => self.close(out),
            Asked::Nothing if self.open != Open::Thinking => {
                self.close(out);
                self.held.push_str(text);
                if self.held.len() > HELD_BYTES_MAX {
                    self.show_held(out);
                }
            }
            Asked::Thoughts | Asked::Nothing => {
                if self.open != Open::Thinking {
                    self.start_thinking(out);
                }
                self.delta("thinking_delta", "thinking", text, out);
            }
        }
    }

    /// The held thought, if any, in a block that is open afterwards.
    fn show_held(&mut self, out: &mut BytesMut) {
        let held = std::mem::take(&mut self.held);
        self.start_thinking(out);
        if !held.is_empty() {
            self.delta("thinking_delta", "thinking", &held, out);
        }
    }

    fn start_thinking(&mut self, out: &mut BytesMut) {
        self.start(Open::Thinking, out, |out| {
            out.put_slice(b"{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
        });
    }

    fn seal(&mut self, seal: &Seal, out: &mut BytesMut) {
        let is_in_block = self.open == Open::Thinking && seal.kind == SealKind::Signature;
        if !is_in_block && !may_be_written(seal, self.asked) {
            self.held.clear();
            return self.close(out);
        }
        match seal.kind {
            SealKind::Signature => {
                if self.open != Open::Thinking {
                    self.show_held(out);
                }
                self.delta("signature_delta", "signature", &seals::written(seal), out);
                self.close(out);
            }
            SealKind::Hidden => self.hidden(&seals::written(seal), out),
        }
    }

    fn hidden(&mut self, data: &str, out: &mut BytesMut) {
        self.start(Open::Nothing, out, |out| {
            out.put_slice(b"{\"type\":\"redacted_thinking\",\"data\":");
            put_json(out, data);
            out.put_u8(b'}');
        });
        self.stop(out);
    }

    fn call(&mut self, index: u32, part: &ToolCallPart, out: &mut BytesMut) {
        if self.open != Open::Call(index) {
            let (Some(id), Some(name)) = (&part.id, &part.name) else {
                // Its block is over, and a later one cannot go on with it.
                return self.fail(502, &interleaved(), out);
            };
            if let Some(seal) = &part.seal {
                self.hidden(&seals::written_for_call(seal), out);
            }
            self.has_calls = true;
            self.start(Open::Call(index), out, |out| {
                out.put_slice(b"{\"type\":\"tool_use\",\"id\":");
                put_json(out, id);
                out.put_slice(b",\"name\":");
                put_json(out, name);
                out.put_slice(b",\"input\":{}}");
            });
        }
        if !part.arguments.is_empty() {
            self.delta("input_json_delta", "partial_json", &part.arguments, out);
        }
    }

    /// Ends whatever is open, and begins a block. A held thought that nothing vouched for is left
    /// out.
    fn start(&mut self, open: Open, out: &mut BytesMut, put_block: impl FnOnce(&mut BytesMut)) {
        self.held.clear();
        self.close(out);
        out.put_slice(
            b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":",
        );
        put_json(out, &self.index);
        out.put_slice(b",\"content_block\":");
        put_block(out);
        out.put_slice(b"}\n\n");
        self.open = open;
    }

    fn delta(&self, kind: &'static str, field: &'static str, text: &str, out: &mut BytesMut) {
        out.put_slice(
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
        );
        put_json(out, &self.index);
        out.put_slice(b",\"delta\":{\"type\":\"");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\",\"");
        out.put_slice(field.as_bytes());
        out.put_slice(b"\":");
        put_json(out, text);
        out.put_slice(b"}}\n\n");
    }

    /// Ends the open block, if there is one.
    fn close(&mut self, out: &mut BytesMut) {
        if self.open != Open::Nothing {
            self.stop(out);
        }
    }

    fn stop(&mut self, out: &mut BytesMut) {
        out.put_slice(
            b"event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":",
        );
        put_json(out, &self.index);
        out.put_slice(b"}\n\n");
        self.index += 1;
        self.open = Open::Nothing;
    }
}

fn interleaved() -> ErrorBody {
    ErrorBody {
        message: "the model's provider mixed its tool calls' arguments; trying again may help"
            .into(),
        kind: "server_error",
        param: None,
        code: Some("upstream_failed".into()),
    }
}

fn put_json<T: Serialize + ?Sized>(out: &mut BytesMut, value: &T) {
    serde_json::to_writer(out.writer(), value)
        .expect("writing strings and integers to memory cannot fail");
}

#[cfg(test)]
mod tests;
