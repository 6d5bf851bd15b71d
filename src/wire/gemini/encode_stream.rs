//! Encodes a streamed reply, as a server.
//!
//! A chunk is a whole `GenerateContentResponse` with what is new. Google writes a function's call in
//! one piece, so a call is held until its choice ends; and the ends and the usage together in the
//! last chunk, so those are held until the stream does.

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, Dialect, FinishReason, TokenLogprobs, ToolCall, ToolCallPart, Usage};

use super::error_body::error_body;
use super::reply_body::{
    CandidateBody, ContentBody, LogprobsBody, MALFORMED_CALL, MALFORMED_CALL_MESSAGE, PartBody,
    ResponseBody, UsageBody, finish_word,
};
use crate::openai::{ErrorBody, Framing};
use crate::passing::Passing;

/// Arguments held, of all calls together. A call that passes it is malformed.
const HELD_BYTES_MAX: usize = 8 << 20;
/// Calls held per choice.
const CALLS_MAX: usize = 256;
/// Tokens whose log probabilities wait for text. With so many they leave in a chunk without any.
const LOGPROBS_HELD_MAX: usize = 256;

/// What stands around the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapping {
    /// Server-sent events, with `alt=sse`.
    Events,
    /// One JSON array, without.
    Array,
}

#[derive(Debug)]
pub(super) struct StreamEncoder {
    framing: Framing,
    wrapping: Wrapping,
    shows_thoughts: bool,
    choices: Vec<HeldChoice>,
    held_bytes: usize,
    usage: Option<Usage>,
    passing: Passing,
    has_chunks: bool,
}

/// What of a choice has not left yet.
#[derive(Debug, Default)]
struct HeldChoice {
    choice: u32,
    calls: Vec<ToolCall>,
    is_malformed: bool,
    logprobs: Vec<TokenLogprobs>,
    end: Option<FinishReason>,
}

impl StreamEncoder {
    pub fn new(framing: Framing, wrapping: Wrapping, shows_thoughts: bool) -> Self {
        Self {
            framing,
            wrapping,
            shows_thoughts,
            choices: Vec::new(),
            held_bytes: 0,
            usage: None,
            passing: match wrapping {
                Wrapping::Events => Passing::default(),
                // What is passed on are events.
                Wrapping::Array => Passing::Encodes,
            },
            has_chunks: false,
        }
    }

    pub fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if let Some(bytes) = self.passing.copy(event, Dialect::Gemini) {
            return out.put_slice(bytes);
        }
        match event {
            // Google has no first chunk of its own, and no word for which stop string it was.
            ChatEvent::Started(_) | ChatEvent::Written(_) | ChatEvent::StopString { .. } => {}
            ChatEvent::Text { choice, text } => self.put(*choice, PartBody::text(text), out),
            ChatEvent::Thought { choice, text } if self.shows_thoughts => {
                self.put(*choice, PartBody::thought(text), out);
            }
            ChatEvent::Thought { .. } => {}
            ChatEvent::Seal { choice, seal } => self.put(*choice, PartBody::seal(seal), out),
            ChatEvent::ToolCall {
                choice,
                index,
                part,
            } => self.hold_call(*choice, *index, part),
            ChatEvent::Logprobs { choice, tokens } => {
                let held = self.choice(*choice);
                held.logprobs.extend_from_slice(tokens);
                if held.logprobs.len() >= LOGPROBS_HELD_MAX {
                    self.put(*choice, PartBody::text(""), out);
                }
            }
            ChatEvent::ChoiceEnded { choice, reason } => {
                self.choice(*choice).end = Some(*reason);
                self.put_calls(*choice, out);
            }
            ChatEvent::Usage(usage) => self.usage = Some(*usage),
        }
    }

    /// The last chunk: how every choice ended, and the usage.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if self.passing == Passing::PassesOn {
            return;
        }
        let choices = std::mem::take(&mut self.choices);
        let candidates: Vec<CandidateBody<'_>> = choices.iter().map(last_of).collect();
        let usage = self.usage.as_ref().map(UsageBody::from);
        self.put_chunk(&candidates, usage, out);
        if self.wrapping == Wrapping::Array {
            out.put_slice(b"]");
        }
    }

    pub fn fail(&mut self, status: u16, error: &ErrorBody, out: &mut BytesMut) {
        let body = error_body(status, error, None);
        self.open(out);
        put_json(out, &body);
        self.close(out);
        if self.wrapping == Wrapping::Array {
            out.put_slice(b"]");
        }
    }

    fn choice(&mut self, choice: u32) -> &mut HeldChoice {
        let known = self.choices.iter().position(|held| held.choice == choice);
        let at = known.unwrap_or_else(|| {
            self.choices.push(HeldChoice {
                choice,
                ..HeldChoice::default()
            });
            self.choices.len() - 1
        });
        &mut self.choices[at]
    }

    fn hold_call(&mut self, choice: u32, index: u32, part: &ToolCallPart) {
        self.held_bytes = self.held_bytes.saturating_add(part.arguments.len());
        let is_too_long = self.held_bytes > HELD_BYTES_MAX;
        let held = self.choice(choice);
        let at = (index as usize).min(held.calls.len());
        if is_too_long || at >= CALLS_MAX {
            held.is_malformed = true;
            return;
        }
        if at == held.calls.len() {
            held.calls.push(ToolCall {
                id: String::new(),
                name: String::new(),
                arguments: String::new(),
                seal: None,
            });
        }
        let call = &mut held.calls[at];
        if let Some(id) = &part.id {
            call.id.clone_from(id);
        }
        if let Some(name) = &part.name {
            call.name.clone_from(name);
        }
        if let Some(seal) = &part.seal {
            call.seal = Some(seal.clone());
        }
        call.arguments.push_str(&part.arguments);
    }

    fn put_calls(&mut self, choice: u32, out: &mut BytesMut) {
        let held = self.choice(choice);
        let calls = std::mem::take(&mut held.calls);
        let parts: Option<Vec<PartBody<'_>>> = calls.iter().map(PartBody::call).collect();
        let Some(parts) = parts.filter(|_| !held.is_malformed) else {
            held.is_malformed = true;
            return;
        };
        if !parts.is_empty() {
            self.put_parts(choice, parts, out);
        }
    }

    fn put(&mut self, choice: u32, part: PartBody<'_>, out: &mut BytesMut) {
        self.put_parts(choice, vec![part], out);
    }

    /// With the log probabilities that wait for it.
    fn put_parts(&mut self, choice: u32, parts: Vec<PartBody<'_>>, out: &mut BytesMut) {
        let tokens = std::mem::take(&mut self.choice(choice).logprobs);
        let candidate = CandidateBody {
            content: ContentBody {
                parts,
                role: "model",
            },
            finish_reason: None,
            finish_message: None,
            index: choice,
            logprobs_result: LogprobsBody::of(&tokens),
        };
        self.put_chunk(&[candidate], None, out);
    }

    fn put_chunk(
        &mut self,
        candidates: &[CandidateBody<'_>],
        usage: Option<UsageBody>,
        out: &mut BytesMut,
    ) {
        self.open(out);
        let body = ResponseBody {
            candidates,
            usage_metadata: usage,
            model_version: &self.framing.model,
            response_id: &self.framing.id,
        };
        put_json(out, &body);
        self.close(out);
    }

    fn open(&mut self, out: &mut BytesMut) {
        let is_first = !std::mem::replace(&mut self.has_chunks, true);
        out.put_slice(match (self.wrapping, is_first) {
            (Wrapping::Events, _) => b"data: ",
            (Wrapping::Array, true) => b"[",
            (Wrapping::Array, false) => b",\r\n",
        });
    }

    fn close(&self, out: &mut BytesMut) {
        out.put_slice(match self.wrapping {
            Wrapping::Events => b"\r\n\r\n",
            Wrapping::Array => b"",
        });
    }
}

/// What ends a choice. One that the stream never ended has no reason.
fn last_of(held: &HeldChoice) -> CandidateBody<'_> {
    let word = held.end.map(finish_word);
    CandidateBody {
        content: ContentBody {
            parts: vec![PartBody::text("")],
            role: "model",
        },
        finish_reason: if held.is_malformed {
            Some(MALFORMED_CALL)
        } else {
            word
        },
        finish_message: held.is_malformed.then_some(MALFORMED_CALL_MESSAGE),
        index: held.choice,
        logprobs_result: LogprobsBody::of(&held.logprobs),
    }
}

fn put_json(out: &mut BytesMut, value: &impl serde::Serialize) {
    serde_json::to_writer(out.writer(), value)
        .expect("writing strings and finite numbers to memory cannot fail");
}
