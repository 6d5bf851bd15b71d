//! Encodes a reply, as a server: one object, or one a line for each piece of it.

use std::fmt;

use bytes::{BufMut, BytesMut};
use domain::{ChatEvent, Reply, ReplyChoice, TokenLogprobs, ToolCall, ToolCallPart, Usage};

use super::encode_line::{Counts, Form, Line, LogprobsBody, Notes, Said, done_reason};
use super::halves::encode_error;
use super::moment::moment;
use crate::openai::{ErrorBody, Framing};
use crate::{ReplyEncoder, ReplyTimes};

/// Tokens whose log probabilities wait for text. With so many they leave in a line without any.
const LOGPROBS_HELD_MAX: usize = 256;
/// Of one call, whose arguments leave in one piece. What comes after it is left out, and what came before
/// is told as text: no object any more.
const ARGUMENTS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// For the one choice that can be asked for.
#[derive(Debug)]
pub(super) struct Encoder {
    form: Form,
    shows_thoughts: bool,
    only_loads: bool,
    model: String,
    created_at: String,
    times: ReplyTimes,
    notes: Vec<(String, String)>,
    /// Of tokens whose text is still to come.
    logprobs: Vec<TokenLogprobs>,
    /// The calls that are not yet sent: with the first piece of the next one, or at the end.
    call: Option<ToolCall>,
    calls_sent: usize,
    reason: Option<&'static str>,
    usage: Option<Usage>,
}

impl Encoder {
    pub fn new(form: Form, shows_thoughts: bool, only_loads: bool) -> Self {
        Self {
            form,
            shows_thoughts,
            only_loads,
            model: String::new(),
            created_at: String::new(),
            times: ReplyTimes::default(),
            notes: Vec::new(),
            logprobs: Vec::new(),
            call: None,
            calls_sent: 0,
            reason: None,
            usage: None,
        }
    }

    fn frame(&mut self, framing: &Framing) {
        self.model.clone_from(&framing.model);
        self.created_at = moment(framing.created);
    }

    fn put_piece(&mut self, text: &str, thought: &str, calls: &[ToolCall], out: &mut BytesMut) {
        let logprobs = std::mem::take(&mut self.logprobs);
        let line = Line {
            model: &self.model,
            created_at: &self.created_at,
            said: Said::of(self.form, text, thought, calls, self.calls_sent),
            done: false,
            done_reason: None,
            logprobs: LogprobsBody::all(&logprobs),
            counts: None,
            hedge: None,
        };
        put_line(&line, out);
    }

    fn hear_call(&mut self, part: &ToolCallPart, out: &mut BytesMut) {
        if part.id.is_some() || self.call.is_none() {
            self.send_call(out);
            self.call = Some(ToolCall {
                id: part.id.clone().unwrap_or_default(),
                name: String::new(),
                arguments: String::new(),
                seal: None,
            });
        }
        if let Some(call) = &mut self.call {
            call.name.extend(part.name.as_deref());
            let room = ARGUMENTS_BYTES_MAX.saturating_sub(call.arguments.len());
            let end = part.arguments.floor_char_boundary(room);
            call.arguments.push_str(&part.arguments[..end]);
        }
    }

    fn send_call(&mut self, out: &mut BytesMut) {
        let Some(call) = self.call.take() else {
            return;
        };
        self.put_piece("", "", &[call], out);
        self.calls_sent += 1;
    }

    /// The last object, or the only one.
    fn last(&self, choice: Option<&ReplyChoice>, usage: Option<&Usage>) -> Vec<u8> {
        let (text, thought) = match choice {
            Some(choice) if self.shows_thoughts => (choice.text(), choice.thoughts()),
            Some(choice) => (choice.text(), String::new()),
            None => (String::new(), String::new()),
        };
        let (calls, logprobs) = match choice {
            Some(choice) => (choice.tool_calls.as_slice(), choice.logprobs.as_slice()),
            None => (&[][..], self.logprobs.as_slice()),
        };
        let reason = match choice {
            _ if self.only_loads => Some("load"),
            Some(choice) => Some(done_reason(choice.reason)),
            None => self.reason,
        };
        let line = Line {
            model: &self.model,
            created_at: &self.created_at,
            said: Said::of(self.form, &text, &thought, calls, 0),
            done: true,
            done_reason: reason,
            logprobs: LogprobsBody::all(logprobs),
            counts: (!self.only_loads).then(|| Counts::of(&self.times, usage)),
            hedge: Notes::unless_empty(&self.notes),
        };
        serde_json::to_vec(&line).expect("strings and finite numbers always serialize")
    }
}

impl ReplyEncoder for Encoder {
    /// Replies have no id here.
    fn id_prefix(&self) -> &'static str {
        ""
    }

    fn only_loads(&self) -> bool {
        self.only_loads
    }

    fn note_times(&mut self, times: ReplyTimes) {
        self.times = times;
    }

    /// Comments are none of this stream's: they stand in its last line.
    fn note(&mut self, name: &str, value: &dyn fmt::Display, _out: &mut BytesMut) {
        self.notes.push((name.to_owned(), value.to_string()));
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        self.frame(framing);
        self.last(reply.choices.first(), reply.usage.as_ref())
    }

    fn begin(&mut self, framing: Framing) {
        self.frame(&framing);
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        match event {
            ChatEvent::Text { choice: 0, text } => {
                self.send_call(out);
                self.put_piece(text, "", &[], out);
            }
            ChatEvent::Thought { choice: 0, text } if self.shows_thoughts => {
                self.send_call(out);
                self.put_piece("", text, &[], out);
            }
            ChatEvent::ToolCall {
                choice: 0, part, ..
            } => self.hear_call(part, out),
            // In one line with what the tokens say.
            ChatEvent::Logprobs { choice: 0, tokens } => {
                self.logprobs.extend_from_slice(tokens);
                if self.logprobs.len() >= LOGPROBS_HELD_MAX {
                    self.put_piece("", "", &[], out);
                }
            }
            ChatEvent::ChoiceEnded { choice: 0, reason } => {
                self.send_call(out);
                self.reason = Some(done_reason(*reason));
            }
            ChatEvent::Usage(usage) => self.usage = Some(*usage),
            // Of other choices, which nobody asked for, and what this dialect has no place for.
            ChatEvent::Started(_)
            | ChatEvent::Written(_)
            | ChatEvent::Text { .. }
            | ChatEvent::Thought { .. }
            | ChatEvent::ToolCall { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::ChoiceEnded { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::StopString { .. } => {}
        }
    }

    fn fail(&mut self, _status: u16, error: &ErrorBody, out: &mut BytesMut) {
        out.put_slice(&encode_error(error));
        out.put_u8(b'\n');
    }

    fn finish(&mut self, out: &mut BytesMut) {
        self.send_call(out);
        let usage = self.usage;
        out.put_slice(&self.last(None, usage.as_ref()));
        out.put_u8(b'\n');
    }

    /// White space before the next line's object, as lines that are empty are no JSON to clients.
    fn keep_alive(&self) -> &'static [u8] {
        b" "
    }

    fn media_type(&self) -> &'static str {
        "application/x-ndjson"
    }
}

fn put_line(line: &Line<'_>, out: &mut BytesMut) {
    serde_json::to_writer(out.writer(), line)
        .expect("writing strings and finite numbers to memory cannot fail");
    out.put_u8(b'\n');
}
