//! Encodes a streamed reply, as a server.
//!
//! Runs once per token, so a chunk's constant head is serialized once per stream and everything
//! else is appended to the caller's buffer: no value tree, no allocation of its own.

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, TokenLogprobs, ToolCallPart};
use serde::Serialize;

use super::encode_reply::{LogprobsBody, UsageBody};
use super::{ErrorBody, Framing};

/// Tokens whose log probabilities wait for text. With so many they leave in a chunk without any.
const LOGPROBS_HELD_MAX: usize = 256;

/// Writes a stream's events as `data:` lines of `chat.completion.chunk` objects.
///
/// Each choice begins with a chunk that carries the role; after the last event come `finish`'s
/// `[DONE]` or `fail`'s error, never both.
#[derive(Debug)]
pub struct ChunkEncoder {
    /// `data: {"id":…,"model":…,` with everything that stands before `"choices"`.
    head: Vec<u8>,
    includes_usage: bool,
    /// One bit per choice whose role chunk was written.
    roles: u128,
    /// Of tokens whose text is still to come, by choice.
    logprobs: Vec<(u32, Vec<TokenLogprobs>)>,
}

impl ChunkEncoder {
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let mut head = Vec::with_capacity(160);
        head.extend_from_slice(b"data: {\"id\":");
        put_json(&mut head, &framing.id);
        head.extend_from_slice(b",\"object\":\"chat.completion.chunk\",\"created\":");
        put_json(&mut head, &framing.created);
        head.extend_from_slice(b",\"model\":");
        put_json(&mut head, &framing.model);
        head.push(b',');
        Self {
            head,
            includes_usage: framing.includes_usage,
            roles: 0,
            logprobs: Vec::new(),
        }
    }

    /// Appends the first choice's role chunk, which the first event then does not bring.
    pub fn greet(&mut self, out: &mut BytesMut) {
        self.begin_choice(0, out);
    }

    /// Appends the chunks of one event: none, one, or two where a choice begins. Log probabilities
    /// leave with the next chunk of their choice.
    pub fn encode(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        match event {
            ChatEvent::Started(started) => {
                if let Some(fingerprint) = &started.fingerprint {
                    self.head.extend_from_slice(b"\"system_fingerprint\":");
                    put_json(&mut self.head, fingerprint);
                    self.head.push(b',');
                }
                self.begin_choice(0, out);
            }
            ChatEvent::Text { choice, text } => {
                self.begin_choice(*choice, out);
                self.open_delta(*choice, out);
                out.put_slice(b"\"content\":");
                put_json(out.writer(), text);
                self.close_delta(*choice, None, out);
            }
            ChatEvent::Thought { choice, text } => {
                self.begin_choice(*choice, out);
                self.open_delta(*choice, out);
                out.put_slice(b"\"reasoning_content\":");
                put_json(out.writer(), text);
                self.close_delta(*choice, None, out);
            }
            // This dialect has no place for them.
            ChatEvent::Seal { .. } | ChatEvent::StopString { .. } => {}
            ChatEvent::ToolCall {
                choice,
                index,
                part,
            } => {
                self.begin_choice(*choice, out);
                self.open_delta(*choice, out);
                put_call(*index, part, out);
                self.close_delta(*choice, None, out);
            }
            // In one chunk with what the tokens say.
            ChatEvent::Logprobs { choice, tokens } => {
                if self.hold_logprobs(*choice, tokens) >= LOGPROBS_HELD_MAX {
                    self.begin_choice(*choice, out);
                    self.open_delta(*choice, out);
                    self.close_delta(*choice, None, out);
                }
            }
            ChatEvent::ChoiceEnded { choice, reason } => {
                self.begin_choice(*choice, out);
                self.open_delta(*choice, out);
                self.close_delta(*choice, Some(reason.as_label()), out);
            }
            // What a reply went on without is said, asked for or not.
            ChatEvent::Usage(usage) if self.includes_usage || usage.dropped_tokens.0 > 0 => {
                out.put_slice(&self.head);
                out.put_slice(b"\"choices\":[],\"usage\":");
                put_json(out.writer(), &UsageBody::from(usage));
                out.put_slice(b"}\n\n");
            }
            ChatEvent::Usage(_) => {}
        }
    }

    /// Appends an in-band error. Nothing may follow it, `finish` included: a client that sees no
    /// `[DONE]` knows that the reply is not whole.
    pub fn fail(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        out.put_slice(b"data: ");
        out.put_slice(&error.to_json());
        out.put_slice(b"\n\n");
    }

    /// Appends `data: [DONE]`.
    pub fn finish(&mut self, out: &mut BytesMut) {
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// The role chunk, once per choice. Choices past the bitmap's width go without one.
    fn begin_choice(&mut self, choice: u32, out: &mut BytesMut) {
        let bit = 1_u128.checked_shl(choice).unwrap_or(0);
        if bit == 0 || self.roles & bit != 0 {
            return;
        }
        self.roles |= bit;
        self.open_delta(choice, out);
        out.put_slice(b"\"role\":\"assistant\",\"content\":\"\"");
        out.put_slice(b"},\"logprobs\":null");
        self.close_choice(None, out);
    }

    /// Says how many tokens' of this choice now wait.
    fn hold_logprobs(&mut self, choice: u32, tokens: &[TokenLogprobs]) -> usize {
        match self.logprobs.iter_mut().find(|(of, _)| *of == choice) {
            Some((_, held)) => {
                held.extend_from_slice(tokens);
                held.len()
            }
            None => {
                self.logprobs.push((choice, tokens.to_vec()));
                tokens.len()
            }
        }
    }

    fn open_delta(&self, choice: u32, out: &mut BytesMut) {
        out.reserve(self.head.len() + 160);
        out.put_slice(&self.head);
        out.put_slice(b"\"choices\":[{\"index\":");
        put_json(out.writer(), &choice);
        out.put_slice(b",\"delta\":{");
    }

    /// Ends the delta, with the log probabilities that wait for it.
    fn close_delta(
        &mut self,
        choice: u32,
        finish_reason: Option<&'static str>,
        out: &mut BytesMut,
    ) {
        out.put_slice(b"},\"logprobs\":");
        match self.logprobs.iter().position(|(of, _)| *of == choice) {
            Some(at) => {
                let (_, tokens) = self.logprobs.swap_remove(at);
                put_json(out.writer(), &LogprobsBody::from(tokens.as_slice()));
            }
            None => out.put_slice(b"null"),
        }
        self.close_choice(finish_reason, out);
    }

    fn close_choice(&self, finish_reason: Option<&'static str>, out: &mut BytesMut) {
        out.put_slice(b",\"finish_reason\":");
        match finish_reason {
            Some(reason) => {
                out.put_u8(b'"');
                out.put_slice(reason.as_bytes());
                out.put_u8(b'"');
            }
            None => out.put_slice(b"null"),
        }
        out.put_slice(if self.includes_usage {
            b"}],\"usage\":null}\n\n"
        } else {
            b"}]}\n\n"
        });
    }
}

fn put_call(index: u32, part: &ToolCallPart, out: &mut BytesMut) {
    out.put_slice(b"\"tool_calls\":[{\"index\":");
    put_json(out.writer(), &index);
    if let Some(id) = &part.id {
        out.put_slice(b",\"id\":");
        put_json(out.writer(), id);
        out.put_slice(b",\"type\":\"function\"");
    }
    out.put_slice(b",\"function\":{");
    if let Some(name) = &part.name {
        out.put_slice(b"\"name\":");
        put_json(out.writer(), name);
        out.put_u8(b',');
    }
    out.put_slice(b"\"arguments\":");
    put_json(out.writer(), &part.arguments);
    out.put_slice(b"}}]");
}

fn put_json(out: impl std::io::Write, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value)
        .expect("writing strings and finite numbers to memory cannot fail");
}

#[cfg(test)]
mod tests;
