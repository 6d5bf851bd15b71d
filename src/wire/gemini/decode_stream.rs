//! Decodes a streamed reply, as a client.
//!
//! Google marks no end: the stream is whole when the body ends after every candidate did. Each chunk
//! repeats the usage so far, so only the last one counts.

use std::collections::VecDeque;

use domain::{BackendError, ChatEvent, Dialect, FinishReason, Started, ToolCallPart, Usage};

use super::decode_error::{blocked, failure};
use super::reply_shape::{
    Body, CandidateBody, PartBody, TOOL_CALLS_MAX, UNSPEAKABLE_FAULT, finish_reason,
};
use super::seals;
use super::splitter::Splitter;
use crate::StreamDecoder;
use crate::passing::{self, is_filled};

type Out = VecDeque<Result<ChatEvent, BackendError>>;

const TOO_LARGE: &str = "a chunk of the stream is too large";

#[derive(Debug, Default)]
pub(super) struct Decoder {
    splitter: Splitter,
    reader: Reader,
}

impl StreamDecoder for Decoder {
    fn push(&mut self, bytes: &[u8], out: &mut Out) {
        if self.reader.is_over {
            return;
        }
        let pushed = self
            .splitter
            .push(bytes, &mut |chunk| self.reader.take(chunk, out));
        if pushed.is_err() && !self.reader.is_over {
            self.reader.fail(BackendError::Garbled(TOO_LARGE), out);
        }
    }

    fn finish(&mut self, out: &mut Out) {
        if self.reader.is_over {
            return;
        }
        self.reader.is_at_body_end = true;
        let finished = self
            .splitter
            .finish(&mut |chunk| self.reader.take(chunk, out));
        if self.reader.is_over {
            return;
        }
        match finished {
            Ok(()) => self.reader.end(out),
            Err(_) => self.reader.fail(BackendError::Garbled(TOO_LARGE), out),
        }
    }

    fn is_over(&self) -> bool {
        self.reader.is_over
    }
}

#[derive(Debug, Default)]
struct Reader {
    has_started: bool,
    /// It began as Google's own do: callers may have it as it is.
    is_googles: bool,
    reply_id: Option<String>,
    choices: Vec<ChoiceState>,
    usage: Option<Usage>,
    is_over: bool,
    /// What comes now lacked its blank line: it may be cut, which is no malformation.
    is_at_body_end: bool,
}

#[derive(Debug)]
struct ChoiceState {
    choice: u32,
    calls: usize,
    has_ended: bool,
}

impl Reader {
    fn take(&mut self, chunk: &[u8], out: &mut Out) {
        if self.is_over || chunk.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let first = out.len();
        match self.read(chunk, out) {
            Ok(()) if self.is_googles => {
                let bytes = passing::frame(b"", chunk);
                passing::put_before(out, first, Dialect::Gemini, bytes);
            }
            Ok(()) => {}
            Err(error) => self.fail(error, out),
        }
    }

    fn read(&mut self, chunk: &[u8], out: &mut Out) -> Result<(), BackendError> {
        let body: Body<'_> = match serde_json::from_slice(chunk) {
            Ok(body) => body,
            Err(_) if self.is_at_body_end => return Err(BackendError::Interrupted),
            Err(_) => return Err(BackendError::Garbled("a chunk of the stream is malformed")),
        };
        if let Some(error) = body.error {
            return Err(failure(error.get()));
        }
        self.usage = body.usage_metadata.map(Usage::from).or(self.usage);
        let candidates = body.candidates.unwrap_or_default();
        let block_reason = body.prompt_feedback.and_then(|it| it.block_reason);
        if candidates.is_empty() {
            return match block_reason {
                Some(word) if self.choices.is_empty() => Err(blocked(&word)),
                Some(_) | None => Ok(()),
            };
        }
        if !std::mem::replace(&mut self.has_started, true) {
            self.is_googles = is_filled(body.model_version.as_ref());
            self.reply_id = body.response_id.filter(|id| !id.is_empty());
            out.push_back(Ok(ChatEvent::Started(Started {
                model: body.model_version.unwrap_or_default(),
                reply_id: self.reply_id.clone(),
                fingerprint: None,
            })));
        }
        for (position, candidate) in candidates.into_iter().enumerate() {
            self.read_candidate(position, candidate, out)?;
        }
        Ok(())
    }

    fn read_candidate(
        &mut self,
        position: usize,
        mut body: CandidateBody,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        let choice = body.choice(position)?;
        let reply_id = self.reply_id.clone();
        let state = self.state(choice);
        let logprobs = body
            .logprobs_result
            .take()
            .map(Vec::from)
            .unwrap_or_default();
        if !logprobs.is_empty() {
            state.go_on()?;
            out.push_back(Ok(ChatEvent::Logprobs {
                choice,
                tokens: logprobs,
            }));
        }
        let content = body.content.take().unwrap_or_default();
        for part in content.parts.unwrap_or_default() {
            state.read_part(part, reply_id.as_deref(), out)?;
        }
        if let Some(word) = body.finish_reason.filter(|word| !word.is_empty()) {
            let reason = finish_reason(&word, state.calls > 0)?;
            state.end(reason, out);
        }
        Ok(())
    }

    fn state(&mut self, choice: u32) -> &mut ChoiceState {
        let known = self.choices.iter().position(|state| state.choice == choice);
        let at = known.unwrap_or_else(|| {
            self.choices.push(ChoiceState {
                choice,
                calls: 0,
                has_ended: false,
            });
            self.choices.len() - 1
        });
        &mut self.choices[at]
    }

    fn end(&mut self, out: &mut Out) {
        if self.choices.is_empty() || self.choices.iter().any(|choice| !choice.has_ended) {
            self.fail(BackendError::Interrupted, out);
            return;
        }
        out.extend(self.usage.take().map(|usage| Ok(ChatEvent::Usage(usage))));
        self.is_over = true;
    }

    fn fail(&mut self, error: BackendError, out: &mut Out) {
        out.push_back(Err(error));
        self.is_over = true;
    }
}

impl ChoiceState {
    /// A repeated end says nothing new.
    fn end(&mut self, reason: FinishReason, out: &mut Out) {
        if !std::mem::replace(&mut self.has_ended, true) {
            out.push_back(Ok(ChatEvent::ChoiceEnded {
                choice: self.choice,
                reason,
            }));
        }
    }

    fn go_on(&self) -> Result<(), BackendError> {
        if self.has_ended {
            return Err(BackendError::Garbled("a candidate went on after its end"));
        }
        Ok(())
    }

    fn read_part(
        &mut self,
        mut part: PartBody,
        reply_id: Option<&str>,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        if part.holds_unspeakable() {
            return Err(BackendError::Garbled(UNSPEAKABLE_FAULT));
        }
        let choice = self.choice;
        let seal = part
            .thought_signature
            .take()
            .filter(|text| !text.is_empty())
            .map(seals::own);
        if let Some(mut call) = part.function_call.take() {
            self.go_on()?;
            let at = self.calls;
            if at >= TOOL_CALLS_MAX {
                return Err(BackendError::Garbled("a candidate has too many calls"));
            }
            self.calls += 1;
            out.push_back(Ok(ChatEvent::ToolCall {
                choice,
                index: u32::try_from(at).unwrap_or(u32::MAX),
                part: ToolCallPart {
                    name: Some(call.name()?),
                    id: Some(call.id(reply_id, choice, at)),
                    arguments: call.arguments(),
                    seal,
                },
            }));
            return Ok(());
        }
        if let Some(text) = part.text.filter(|text| !text.is_empty()) {
            self.go_on()?;
            out.push_back(Ok(if part.thought.unwrap_or(false) {
                ChatEvent::Thought { choice, text }
            } else {
                ChatEvent::Text { choice, text }
            }));
        }
        if let Some(seal) = seal {
            self.go_on()?;
            out.push_back(Ok(ChatEvent::Seal { choice, seal }));
        }
        Ok(())
    }
}
