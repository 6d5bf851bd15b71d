//! Encodes a streamed reply, as a server.

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, TokenLogprobs};
use serde::Serialize;

use super::encode_reply::finish_reason;
use super::logprobs::LogprobsBody;
use crate::openai::{ErrorBody, Framing, UsageBody};

/// Tokens whose log probabilities wait for text. With so many they leave in a chunk without any.
const LOGPROBS_HELD_MAX: usize = 256;

/// Writes a stream's events as `data:` lines of `text_completion` objects.
#[derive(Debug)]
pub(super) struct ChunkEncoder {
    /// `data: {"id":…,"model":…,` with everything that stands before `"choices"`.
    head: Vec<u8>,
    includes_usage: bool,
    echo: Option<String>,
    choices: Vec<ChoiceState>,
}

#[derive(Debug)]
struct ChoiceState {
    choice: u32,
    /// Characters of its text before the tokens that wait.
    chars: usize,
    /// Of tokens whose text is still to come.
    logprobs: Vec<TokenLogprobs>,
}

impl ChunkEncoder {
    pub fn new(framing: &Framing, echo: Option<String>) -> Self {
        let mut head = Vec::with_capacity(160);
        head.extend_from_slice(b"data: {\"id\":");
        put_json(&mut head, &framing.id);
        head.extend_from_slice(b",\"object\":\"text_completion\",\"created\":");
        put_json(&mut head, &framing.created);
        head.extend_from_slice(b",\"model\":");
        put_json(&mut head, &framing.model);
        head.push(b',');
        Self {
            head,
            includes_usage: framing.includes_usage,
            echo,
            choices: Vec::new(),
        }
    }

    pub fn encode(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        match event {
            ChatEvent::Started(started) => {
                if let Some(fingerprint) = &started.fingerprint {
                    self.head.extend_from_slice(b"\"system_fingerprint\":");
                    put_json(&mut self.head, fingerprint);
                    self.head.push(b',');
                }
            }
            ChatEvent::Text { choice, text } => {
                let at = self.begin(*choice, out);
                self.put_chunk(at, text, None, out);
            }
            // In one chunk with what the tokens say.
            ChatEvent::Logprobs { choice, tokens } => {
                let at = self.begin(*choice, out);
                let held = &mut self.choices[at].logprobs;
                held.extend_from_slice(tokens);
                if held.len() >= LOGPROBS_HELD_MAX {
                    self.put_chunk(at, "", None, out);
                }
            }
            ChatEvent::ChoiceEnded { choice, reason } => {
                let at = self.begin(*choice, out);
                self.put_chunk(at, "", Some(finish_reason(*reason)), out);
            }
            ChatEvent::Usage(usage) if self.includes_usage || usage.dropped_tokens.0 > 0 => {
                out.put_slice(&self.head);
                out.put_slice(b"\"choices\":[],\"usage\":");
                put_json(out.writer(), &UsageBody::from(usage));
                out.put_slice(b"}\n\n");
            }
            // This dialect has no place for them.
            ChatEvent::Usage(_)
            | ChatEvent::Written(_)
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::ToolCall { .. } => {}
        }
    }

    /// Nothing may follow it, as in [`crate::openai::ChunkEncoder::fail`].
    pub fn fail(&self, error: &ErrorBody, out: &mut BytesMut) {
        out.put_slice(b"data: ");
        out.put_slice(&error.to_json());
        out.put_slice(b"\n\n");
    }

    pub fn finish(&self, out: &mut BytesMut) {
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// The place of a choice's state. One that is new begins with the prompt, if it is to.
    fn begin(&mut self, choice: u32, out: &mut BytesMut) -> usize {
        let known = self.choices.iter().position(|state| state.choice == choice);
        if let Some(at) = known {
            return at;
        }
        let at = self.choices.len();
        self.choices.push(ChoiceState {
            choice,
            chars: 0,
            logprobs: Vec::new(),
        });
        if let Some(echo) = self.echo.take() {
            self.put_chunk(at, &echo, None, out);
            self.choices[at].chars = echo.chars().count();
            self.echo = Some(echo);
        }
        at
    }

    fn put_chunk(
        &mut self,
        at: usize,
        text: &str,
        finish_reason: Option<&'static str>,
        out: &mut BytesMut,
    ) {
        let state = &mut self.choices[at];
        out.reserve(self.head.len() + text.len() + 120);
        out.put_slice(&self.head);
        out.put_slice(b"\"choices\":[{\"text\":");
        put_json(out.writer(), text);
        out.put_slice(b",\"index\":");
        put_json(out.writer(), &state.choice);
        out.put_slice(b",\"logprobs\":");
        if state.logprobs.is_empty() {
            out.put_slice(b"null");
        } else {
            let (body, chars) = LogprobsBody::of(&state.logprobs, state.chars);
            put_json(out.writer(), &body);
            state.chars = chars;
            state.logprobs.clear();
        }
        out.put_slice(b",\"finish_reason\":");
        put_json(out.writer(), &finish_reason);
        out.put_slice(if self.includes_usage {
            b"}],\"usage\":null}\n\n"
        } else {
            b"}]}\n\n"
        });
    }
}

fn put_json(out: impl std::io::Write, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value)
        .expect("writing strings and finite numbers to memory cannot fail");
}
