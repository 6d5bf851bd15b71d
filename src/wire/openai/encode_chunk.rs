//! Encodes a streamed reply, as a server.
//!
//! Runs once per token, so a chunk's constant head is serialized once per stream and everything
//! else is appended to the caller's buffer: no value tree, no allocation of its own.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, Dialect, Extent, Started, TokenLogprobs, ToolCallPart, Written};
use serde::{Deserialize, Serialize};

use super::encode_reply::{LogprobsBody, UsageBody};
use super::seals::ExtraContent;
use super::{ErrorBody, Framing};
use crate::passing::Passing;

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
    passing: Passing,
    /// Events to come that a chunk which was passed on says.
    said: u32,
}

impl ChunkEncoder {
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            head: head_of(&framing.id, framing.created, &framing.model),
            includes_usage: framing.includes_usage,
            roles: 0,
            logprobs: Vec::new(),
            passing: Passing::default(),
            said: 0,
        }
    }

    /// Appends the first choice's role chunk, which the first event then does not bring.
    pub fn greet(&mut self, out: &mut BytesMut) {
        self.passing = Passing::Encodes;
        self.begin_choice(0, out);
    }

    /// Appends the chunks of one event: none, one, or two where a choice begins. Log probabilities
    /// leave with the next chunk of their choice.
    ///
    /// What a provider wrote in this dialect is passed on as it is, under the provider's id, and stands
    /// for the events it says. That begins with a stream's first chunk or not at all: one stream has one
    /// id.
    pub fn encode(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if self.said > 0 && !matches!(event, ChatEvent::Written(_)) {
            self.said -= 1;
            // The provider's chunk said it; what we add later says its fingerprint too.
            if let ChatEvent::Started(started) = event {
                self.note_fingerprint(started);
            }
            return;
        }
        match event {
            ChatEvent::Written(written) => self.pass_on(written, out),
            ChatEvent::Started(started) => {
                if self.passing == Passing::Unsettled {
                    self.passing = Passing::Encodes;
                }
                self.note_fingerprint(started);
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
            // This dialect has no place for them but at calls.
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

    fn pass_on(&mut self, written: &Written, out: &mut BytesMut) {
        let (Dialect::OpenAi, Extent::Event { events }) = (written.dialect, written.extent) else {
            return;
        };
        if self.passing == Passing::Unsettled {
            self.passing = match self.take_head(&written.bytes) {
                true => Passing::PassesOn,
                false => Passing::Encodes,
            };
        }
        if self.passing == Passing::PassesOn {
            self.said = events;
            out.put_slice(&written.bytes);
        }
    }

    /// Goes on under the id and the time that the provider gave, for what it does not write itself.
    fn take_head(&mut self, chunk: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
            created: u64,
            #[serde(borrow)]
            model: Cow<'a, str>,
        }
        let data = chunk.strip_prefix(b"data: ").unwrap_or_default();
        let Ok(head) = serde_json::from_slice::<Head<'_>>(data) else {
            return false;
        };
        self.head = head_of(&head.id, head.created, &head.model);
        // Its own chunks say the roles.
        self.roles = u128::MAX;
        true
    }

    fn note_fingerprint(&mut self, started: &Started) {
        if let Some(fingerprint) = &started.fingerprint {
            self.head.extend_from_slice(b"\"system_fingerprint\":");
            put_json(&mut self.head, fingerprint);
            self.head.push(b',');
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

fn head_of(id: &str, created: u64, model: &str) -> Vec<u8> {
    let mut head = Vec::with_capacity(160);
    head.extend_from_slice(b"data: {\"id\":");
    put_json(&mut head, id);
    head.extend_from_slice(b",\"object\":\"chat.completion.chunk\",\"created\":");
    put_json(&mut head, &created);
    head.extend_from_slice(b",\"model\":");
    put_json(&mut head, model);
    head.push(b',');
    head
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
    out.put_u8(b'}');
    if let Some(seal) = &part.seal {
        out.put_slice(b",\"extra_content\":");
        put_json(out.writer(), &ExtraContent::from(seal));
    }
    out.put_slice(b"}]");
}

fn put_json(out: impl std::io::Write, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value)
        .expect("writing strings and finite numbers to memory cannot fail");
}

#[cfg(test)]
mod tests;
