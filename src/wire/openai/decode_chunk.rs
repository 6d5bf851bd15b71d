//! Decodes a streamed reply, as a client.
//!
//! ```text
//! bytes, any cut ─SseDecoder─► events ─ChunkReader─► ChatEvent, in domain's grammar
//! ```
//! `Usage` is held back until the end, because providers send it before, beside and after the last
//! choice's end, or with every chunk; the grammar has it last.

use std::collections::VecDeque;

use domain::{BackendError, ChatEvent, Dialect, Started, TokenLogprobs, ToolCallPart, Usage};

use super::decode_reply::made_up_call_id;
use super::reply_shape::{
    Body, CHOICES_MAX, CallBody, ChoiceBody, MessageBody, Shape, TOOL_CALLS_MAX, failure,
    finish_reason,
};
use super::seals;
use crate::passing;
use crate::sse_reading::{EventReader, Out, SseReading};
use crate::{SseEvent, StreamDecoder};

/// Turns a stream's bytes, cut anywhere, into events that obey [`domain::Grammar`].
#[derive(Debug, Default)]
pub struct ChunkDecoder(SseReading<ChunkReader>);

impl ChunkDecoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. Everything after an `Err` or after `[DONE]` is ignored.
    pub fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        self.0.push(bytes, out);
    }

    /// Says that the body ended. Without `[DONE]` that is an end only if every choice ended.
    pub fn finish(&mut self, out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        self.0.finish(out);
    }

    /// True once the last event was put out: after `[DONE]`, an error, or the body's end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_over()
    }
}

#[derive(Debug, Default)]
pub struct ChunkReader {
    has_started: bool,
    choices: Vec<ChoiceState>,
    usage: Option<Usage>,
    is_over: bool,
    /// What comes now lacked its blank line: it may be cut, which is no malformation.
    is_at_body_end: bool,
}

#[derive(Debug)]
struct ChoiceState {
    choice: u32,
    has_ended: bool,
    /// Position is the index we hand out; providers' own may have gaps or be missing.
    calls: Vec<CallState>,
    /// A call has another number or id here than its provider wrote: from there on no chunk is passed
    /// on as it is.
    renames_calls: bool,
}

#[derive(Debug)]
struct CallState {
    index: Option<u32>,
    id: String,
}

impl EventReader for ChunkReader {
    fn take(&mut self, event: SseEvent<'_>, out: &mut Out) {
        if self.is_over || event.data.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        if event.data.trim_ascii() == b"[DONE]" {
            self.end(out);
        } else if let Err(error) = self.read(event, out) {
            self.fail(error, out);
        }
    }

    fn note_body_end(&mut self) {
        self.is_at_body_end = true;
    }

    /// The stream's end, by `[DONE]` or by the body's end: clean only if every choice ended.
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

    fn is_over(&self) -> bool {
        self.is_over
    }
}

impl ChunkReader {
    fn read(&mut self, event: SseEvent<'_>, out: &mut Out) -> Result<(), BackendError> {
        let body: Body<'_> = match serde_json::from_slice(event.data) {
            Ok(body) => body,
            Err(_) if self.is_at_body_end => return Err(BackendError::Interrupted),
            Err(_) => return Err(BackendError::Garbled("a chunk of the stream is malformed")),
        };
        if let Some(error) = body.error {
            return Err(failure(error));
        }
        if event.name == b"error" {
            return Err(BackendError::Failed { status: 500 });
        }
        // Usage comes at the end, and where it is asked for.
        let is_openais = body.usage.is_none() && body.is_openais(Shape::Chunk);
        let first = out.len();
        self.read_body(body, out)?;
        if is_openais && !self.choices.iter().any(|choice| choice.renames_calls) {
            let bytes = passing::frame(event.name, event.data);
            passing::put_before(out, first, Dialect::OpenAi, bytes);
        }
        Ok(())
    }

    fn read_body(&mut self, body: Body<'_>, out: &mut Out) -> Result<(), BackendError> {
        let Body {
            object: _,
            id,
            created: _,
            model,
            system_fingerprint,
            choices,
            usage,
            error: _,
        } = body;
        self.usage = usage.map(Usage::from).or(self.usage);
        let choices = choices.unwrap_or_default();
        if choices.is_empty() {
            return Ok(());
        }
        if !std::mem::replace(&mut self.has_started, true) {
            let owned = |text: Option<std::borrow::Cow<'_, str>>| {
                text.filter(|text| !text.is_empty()).map(Into::into)
            };
            out.push_back(Ok(ChatEvent::Started(Started {
                model: model.0.unwrap_or_default().into_owned(),
                reply_id: owned(id.0),
                fingerprint: owned(system_fingerprint.0),
            })));
        }
        choices
            .into_iter()
            .try_for_each(|choice| self.read_choice(choice, out))
    }

    fn read_choice(&mut self, mut body: ChoiceBody<'_>, out: &mut Out) -> Result<(), BackendError> {
        let state = self.choice(body.index.unwrap_or(0))?;
        let logprobs = body.token_logprobs();
        if !logprobs.is_empty() {
            state.read_logprobs(logprobs, out)?;
        }
        if let Some(message) = body.take_message() {
            state.read_message(message, out)?;
        }
        // An empty word is how some providers write "not yet"; a second end repeats the first.
        let Some(word) = body.finish_reason.take_filled() else {
            return Ok(());
        };
        let reason = finish_reason(&word)?;
        if !std::mem::replace(&mut state.has_ended, true) {
            out.push_back(Ok(ChatEvent::ChoiceEnded {
                choice: state.choice,
                reason,
            }));
        }
        Ok(())
    }

    fn choice(&mut self, choice: u32) -> Result<&mut ChoiceState, BackendError> {
        if choice >= CHOICES_MAX {
            return Err(BackendError::Garbled("a choice's index is out of range"));
        }
        let known = self.choices.iter().position(|state| state.choice == choice);
        let at = known.unwrap_or_else(|| {
            self.choices.push(ChoiceState {
                choice,
                has_ended: false,
                calls: Vec::new(),
                renames_calls: false,
            });
            self.choices.len() - 1
        });
        Ok(&mut self.choices[at])
    }
}

impl ChoiceState {
    fn read_logprobs(
        &mut self,
        tokens: Vec<TokenLogprobs>,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        if self.has_ended {
            return Err(BackendError::Garbled("a choice went on after its end"));
        }
        let choice = self.choice;
        out.push_back(Ok(ChatEvent::Logprobs { choice, tokens }));
        Ok(())
    }

    fn read_message(
        &mut self,
        mut message: MessageBody<'_>,
        out: &mut Out,
    ) -> Result<(), BackendError> {
        let choice = self.choice;
        let thought = message.thought();
        let mut texts = message.texts().peekable();
        let calls = message.tool_calls.unwrap_or_default();
        let is_empty = thought.is_none() && texts.peek().is_none() && calls.is_empty();
        if self.has_ended && !is_empty {
            return Err(BackendError::Garbled("a choice went on after its end"));
        }
        out.extend(thought.map(|text| {
            Ok(ChatEvent::Thought {
                choice,
                text: text.into_owned(),
            })
        }));
        out.extend(texts.map(|text| {
            Ok(ChatEvent::Text {
                choice,
                text: text.into_owned(),
            })
        }));
        calls
            .into_iter()
            .try_for_each(|call| self.read_call(call, out))
    }

    fn read_call(&mut self, mut call: CallBody<'_>, out: &mut Out) -> Result<(), BackendError> {
        let mut function = call.function.take().unwrap_or_default();
        let arguments = function.arguments_text()?;
        let id = call.id.take_filled();
        let name = function.name.take_filled();
        let (at, is_new) = match self.known_call(call.index, id.as_deref(), name.is_some()) {
            Some(at) => (at, false),
            None => (self.calls.len(), true),
        };
        let mut part = ToolCallPart {
            id: None,
            name: None,
            arguments,
            seal: seals::read(call.extra_content),
        };
        if is_new {
            let Some(name) = name else {
                return Err(BackendError::Garbled("a tool call has no function name"));
            };
            if at >= TOOL_CALLS_MAX {
                return Err(BackendError::Garbled("a choice has too many tool calls"));
            }
            self.renames_calls |= id.is_none();
            let id = id.map_or_else(|| made_up_call_id(self.choice, at), Into::into);
            self.calls.push(CallState {
                index: call.index,
                id: id.clone(),
            });
            part.id = Some(id);
            part.name = Some(name.into_owned());
        }
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        self.renames_calls |= call.index != Some(index);
        out.push_back(Ok(ChatEvent::ToolCall {
            choice: self.choice,
            index,
            part,
        }));
        Ok(())
    }

    /// Which known call a piece goes on with.
    ///
    /// A piece that names a function under a new id begins a call even where the index is known:
    /// Gemini's compatible endpoint numbers parallel calls 0, 0, 0. A piece without an index goes
    /// on with the call of its id, or with the last one.
    fn known_call(&self, index: Option<u32>, id: Option<&str>, has_name: bool) -> Option<usize> {
        let is_of_id = |call: &CallState| id.is_none_or(|id| call.id == id);
        let last = |matches: &dyn Fn(&CallState) -> bool| self.calls.iter().rposition(matches);
        let begins = id.is_some() && has_name;
        match index {
            Some(_) if begins => last(&|call| call.index == index && is_of_id(call)),
            Some(_) => last(&|call| call.index == index),
            None if id.is_some() => last(&is_of_id),
            None if has_name => None,
            None => self.calls.len().checked_sub(1),
        }
    }
}

#[cfg(test)]
mod tests;
