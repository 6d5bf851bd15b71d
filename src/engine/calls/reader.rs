//! The one reader of all families.

use std::fmt;

use super::HELD_BYTES_MAX;
use super::channels::{self, Header};
use super::cursor::{Cursor, Stop, Taken, quoted};
use super::family::{Form, Manner, ThoughtMarks};
use super::head::{Block, Head, Next, PARAMETER_CLOSE, Pair, Rest, member};
use super::offered::Offered;
use super::scan::{JsonScan, Scanned};
use crate::stops::partial_suffix;

/// A stretch of what the model said, by kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spoken {
    Text(String),
    Thought(String),
    /// A call begins; its arguments follow in stretches.
    Call(String),
    Arguments(String),
    /// The call that was begun goes no further.
    CallEnded,
}

/// Where in its reply a model is when it begins to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// All of the reply is text, whatever it looks like.
    #[default]
    Plain,
    /// At the very beginning.
    Blank,
    /// Within a thought that the prompt opened.
    Thought(&'static ThoughtMarks),
    /// At a call, which comes first and without thoughts.
    Call,
    /// Amid an answer, which the prompt began.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Plain,
    /// Nothing but white space so far: a thought may yet open, or a call without a mark.
    Start {
        may_think: bool,
    },
    Thought {
        close: &'static str,
    },
    Answer,
    /// `buffer` begins with a mark, or with what may be a call without one.
    Block {
        open: &'static str,
    },
    /// Within the arguments' JSON.
    Json,
    /// Between arguments that come one by one.
    Pairs,
    /// Within the bare text of such an argument.
    Value {
        is_begun: bool,
    },
    After {
        is_tail_read: bool,
    },
    /// Between the messages of a channelled reply.
    Header,
    Message {
        is_thought: bool,
    },
}

/// What came of trying to read from the buffer.
enum Tried<T> {
    Read(T, usize),
    More,
    No,
}

/// The call being read.
struct Open {
    form: &'static Form,
    block: Block,
    tool: String,
    scan: JsonScan,
    /// Arguments that came one by one.
    count: usize,
}

pub(crate) struct Reader {
    manner: Manner,
    /// `None`: calls are text.
    offered: Option<Offered>,
    opens: Vec<&'static str>,
    place: Place,
    call: Option<Open>,
    /// What is not yet passed on.
    buffer: String,
    /// White space after a thought or a call: passed on only if text follows.
    gap: Option<String>,
    is_over: bool,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// `offered`: the tools the reply may call; `None` leaves calls as text.
    pub(crate) fn new(manner: Manner, beginning: Beginning, offered: Option<Offered>) -> Self {
        let is_channelled = manner.family.is_channelled;
        let forms = manner.family.forms.iter().filter(|_| offered.is_some());
        let opens = forms.flat_map(|form| form.opens).copied();
        let opens: Vec<_> = opens.filter(|open| !open.is_empty()).collect();
        let place = match beginning {
            Beginning::Plain => Place::Plain,
            Beginning::Thought(marks) => Place::Thought { close: marks.close },
            Beginning::Blank | Beginning::Call if is_channelled => Place::Header,
            Beginning::Answer if is_channelled => Place::Message { is_thought: false },
            Beginning::Blank if manner.thoughts.is_some() => Place::Start { may_think: true },
            Beginning::Blank | Beginning::Call => Place::Start { may_think: false },
            Beginning::Answer => Place::Answer,
        };
        Self {
            manner,
            offered,
            opens,
            place,
            call: None,
            buffer: String::new(),
            gap: None,
            is_over: false,
        }
    }

    pub(crate) fn is_thinking(&self) -> bool {
        matches!(
            self.place,
            Place::Thought { .. } | Place::Message { is_thought: true }
        )
    }

    /// How many bytes are held back.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn held(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn push(&mut self, text: &str, said: &mut Vec<Spoken>) {
        self.buffer.push_str(text);
        while self.advance(said) {}
    }

    /// The text is over: whatever is still held back comes out.
    pub(crate) fn finish(&mut self, said: &mut Vec<Spoken>) {
        self.is_over = true;
        while self.advance(said) {}
    }

    /// Passes on what is certain; true while there may be more. Each round that returns true took
    /// something from the buffer, or left a place that is not come back to without that.
    fn advance(&mut self, said: &mut Vec<Spoken>) -> bool {
        match self.place {
            Place::Plain => {
                let text = std::mem::take(&mut self.buffer);
                self.say(&text, said);
                false
            }
            Place::Start { may_think } => self.start(may_think),
            Place::Thought { close } => self.thought(close, said),
            Place::Answer => self.answer(said),
            Place::Block { open } => self.block(open, said),
            Place::Json => self.json(said),
            Place::Pairs => self.pairs(said),
            Place::Value { is_begun } => self.value(is_begun, said),
            Place::After { is_tail_read } => self.after(is_tail_read, said),
            Place::Header => self.header(said),
            Place::Message { is_thought } => self.message(is_thought, said),
        }
    }

    fn start(&mut self, may_think: bool) -> bool {
        let body = self.buffer.trim_start();
        let is_waiting = !self.is_over && self.buffer.len() <= HELD_BYTES_MAX;
        if let Some(marks) = self.manner.thoughts.filter(|_| may_think) {
            if let Some(rest) = body.strip_prefix(marks.open) {
                self.buffer = rest.to_owned();
                self.place = Place::Thought { close: marks.close };
                return true;
            }
            if is_waiting && marks.open.starts_with(body) {
                return false;
            }
        }
        if is_waiting && body.is_empty() {
            return false;
        }
        self.place = if body.starts_with(['{', '[']) && self.offered.is_some() {
            Place::Block { open: "" }
        } else {
            Place::Answer
        };
        true
    }

    fn thought(&mut self, close: &'static str, said: &mut Vec<Spoken>) -> bool {
        let (before, found) = self.take_until(&[close]);
        think(&before, said);
        if found.is_none() {
            return false;
        }
        self.buffer.drain(..close.len());
        self.gap = Some(String::new());
        self.place = Place::Start { may_think: false };
        true
    }

    fn answer(&mut self, said: &mut Vec<Spoken>) -> bool {
        let opens = std::mem::take(&mut self.opens);
        let (before, open) = self.take_until(&opens);
        self.opens = opens;
        self.say(&before, said);
        let Some(open) = open else {
            return false;
        };
        self.place = Place::Block { open };
        true
    }

    fn block(&mut self, open: &'static str, said: &mut Vec<Spoken>) -> bool {
        let forms = self.manner.family.forms.iter();
        for form in forms.filter(|form| form.opens.contains(&open)) {
            let tried = self.try_read(|cursor, offered| form.first(cursor, open, offered));
            match tried {
                Tried::Read((block, head), length) => {
                    self.buffer.drain(..length);
                    self.begin(form, block, head, said);
                    return true;
                }
                Tried::More => return false,
                Tried::No => {}
            }
        }
        // It was text after all, and what follows the mark is looked at anew.
        self.place = Place::Answer;
        let text: String = self.buffer.drain(..open.len()).collect();
        self.say(&text, said);
        true
    }

    fn begin(&mut self, form: &'static Form, block: Block, head: Head, said: &mut Vec<Spoken>) {
        said.push(Spoken::Call(head.name.clone()));
        self.gap = Some(String::new());
        self.call = Some(Open {
            form,
            block,
            tool: head.name,
            scan: JsonScan::default(),
            count: 0,
        });
        self.place = match head.rest {
            Rest::Json => Place::Json,
            Rest::Pairs => Place::Pairs,
            Rest::Whole(arguments) => {
                said.extend([Spoken::Arguments(arguments), Spoken::CallEnded]);
                Place::After { is_tail_read: true }
            }
        };
    }

    fn json(&mut self, said: &mut Vec<Spoken>) -> bool {
        let Some(call) = &mut self.call else {
            return self.give_up();
        };
        let scanned = call.scan.push(&self.buffer);
        let length = match scanned {
            Scanned::Going => self.buffer.len(),
            Scanned::Done(length) | Scanned::Broken(length) => length,
        };
        argue(self.buffer.drain(..length).collect(), said);
        if scanned == Scanned::Going {
            return false;
        }
        self.end_call(said)
    }

    /// What follows is looked at by [`Reader::after`], also where the arguments broke off: the
    /// block's end may be there.
    fn end_call(&mut self, said: &mut Vec<Spoken>) -> bool {
        said.push(Spoken::CallEnded);
        let is_tail_read = false;
        self.place = Place::After { is_tail_read };
        true
    }

    fn pairs(&mut self, said: &mut Vec<Spoken>) -> bool {
        let Some(call) = &self.call else {
            return self.give_up();
        };
        let tried =
            self.try_read(|cursor, offered| call.form.call.pair(cursor, &call.tool, offered));
        let count = call.count;
        let (pair, length) = match tried {
            Tried::Read(pair, length) => (pair, length),
            Tried::More => return false,
            // The arguments so far stay open, so that nobody takes them for whole.
            Tried::No => {
                argue(if count == 0 { "{" } else { "" }.to_owned(), said);
                return if self.is_over {
                    self.give_up()
                } else {
                    self.end_call(said)
                };
            }
        };
        self.buffer.drain(..length);
        let is_begun = false;
        let (arguments, place) = match pair {
            Pair::Whole(key, json) => (format!("{}{json}", member(count, &key)), Place::Pairs),
            Pair::Text(key) => (
                format!("{}\"", member(count, &key)),
                Place::Value { is_begun },
            ),
            Pair::Over => {
                argue(if count == 0 { "{}" } else { "}" }.to_owned(), said);
                return self.end_call(said);
            }
        };
        argue(arguments, said);
        self.place = place;
        if let Some(call) = &mut self.call {
            call.count += 1;
        }
        true
    }

    /// A line break after the opening mark and one before the closing mark are the form's.
    fn value(&mut self, is_begun: bool, said: &mut Vec<Spoken>) -> bool {
        if !is_begun && !self.buffer.is_empty() {
            let is_begun = true;
            self.place = Place::Value { is_begun };
            let is_break = self.buffer.starts_with('\n');
            self.buffer.drain(..usize::from(is_break));
        }
        if let Some(at) = self.buffer.find(PARAMETER_CLOSE) {
            let text: String = self.buffer.drain(..at).collect();
            self.buffer.drain(..PARAMETER_CLOSE.len());
            let text = text.strip_suffix('\n').unwrap_or(&text);
            argue(format!("{}\"", within_quotes(text)), said);
            self.place = Place::Pairs;
            return true;
        }
        let after_break = partial_suffix(&self.buffer, &format!("\n{PARAMETER_CLOSE}"));
        let partial = after_break.max(partial_suffix(&self.buffer, PARAMETER_CLOSE));
        let keep = if self.is_over { 0 } else { partial };
        let end = self.buffer.len() - keep;
        let text: String = self.buffer.drain(..end).collect();
        argue(within_quotes(&text), said);
        false
    }

    fn after(&mut self, is_tail_read: bool, said: &mut Vec<Spoken>) -> bool {
        let Some(Open { form, block, .. }) = self.call else {
            return self.give_up();
        };
        let tried =
            self.try_read(|cursor, offered| form.next(cursor, block, is_tail_read, offered));
        let (next, length) = match tried {
            Tried::Read(next, length) => (next, length),
            Tried::More => return false,
            Tried::No => (Next::Over, 0),
        };
        self.buffer.drain(..length);
        match next {
            Next::Call(head) => self.begin(form, block, head, said),
            Next::Over => {
                self.give_up();
            }
        }
        true
    }

    /// No call is being read any more.
    fn give_up(&mut self) -> bool {
        self.call = None;
        self.place = if self.manner.family.is_channelled {
            Place::Header
        } else {
            Place::Answer
        };
        true
    }

    fn header(&mut self, said: &mut Vec<Spoken>) -> bool {
        if self.buffer.is_empty() {
            return false;
        }
        let reads_calls = self.offered.is_some();
        match self.try_read(|cursor, _| channels::header(cursor, reads_calls)) {
            Tried::More => return false,
            Tried::Read(header, length) => {
                self.buffer.drain(..length);
                self.place = match header {
                    Header::Text => Place::Message { is_thought: false },
                    Header::Thought => Place::Message { is_thought: true },
                    Header::Call(name) => {
                        let form = &self.manner.family.forms[0];
                        let rest = Rest::Json;
                        self.begin(form, Block::default(), Head { name, rest }, said);
                        return true;
                    }
                };
            }
            // The reply ended within a header, which is no part of what it says.
            Tried::No if self.is_over && channels::is_begun(&self.buffer) => self.buffer.clear(),
            Tried::No => {
                self.place = Place::Message { is_thought: false };
                // Else it would end the message before it began.
                if self.buffer.starts_with(channels::START) {
                    let text: String = self.buffer.drain(..channels::START.len()).collect();
                    self.say(&text, said);
                }
            }
        }
        true
    }

    fn message(&mut self, is_thought: bool, said: &mut Vec<Spoken>) -> bool {
        let (before, end) = self.take_until(&channels::ENDS);
        if is_thought {
            think(&before, said);
        } else {
            self.say(&before, said);
        }
        let Some(end) = end else {
            return false;
        };
        if end != channels::START {
            self.buffer.drain(..end.len());
        }
        self.gap = Some(String::new());
        self.place = Place::Header;
        true
    }

    /// Tries to read from as much of the buffer as may be held back.
    fn try_read<T>(&self, read: impl FnOnce(&mut Cursor<'_>, &Offered) -> Taken<T>) -> Tried<T> {
        let mut end = self.buffer.len().min(HELD_BYTES_MAX);
        while !self.buffer.is_char_boundary(end) {
            end -= 1;
        }
        let is_cut = self.buffer.len() > HELD_BYTES_MAX;
        let mut cursor = Cursor::new(&self.buffer[..end], self.is_over && !is_cut);
        let none = Offered::default();
        match read(&mut cursor, self.offered.as_ref().unwrap_or(&none)) {
            Ok(taken) => Tried::Read(taken, cursor.at()),
            Err(Stop::More) if !is_cut && !self.is_over => Tried::More,
            Err(Stop::More | Stop::No) => Tried::No,
        }
    }

    /// Takes all text before the first of `marks`, which is left in the buffer; without one, all
    /// that cannot be the beginning of one.
    fn take_until(&mut self, marks: &[&'static str]) -> (String, Option<&'static str>) {
        let found = marks
            .iter()
            .filter_map(|mark| Some((self.buffer.find(mark)?, *mark)))
            .min_by_key(|(at, mark)| (*at, std::cmp::Reverse(mark.len())));
        if let Some((at, mark)) = found {
            return (self.buffer.drain(..at).collect(), Some(mark));
        }
        let partial = marks.iter().map(|mark| partial_suffix(&self.buffer, mark));
        let keep = partial.max().filter(|_| !self.is_over).unwrap_or(0);
        let end = self.buffer.len() - keep;
        (self.buffer.drain(..end).collect(), None)
    }

    fn say(&mut self, text: &str, said: &mut Vec<Spoken>) {
        if text.is_empty() {
            return;
        }
        let Some(gap) = &mut self.gap else {
            return said.push(Spoken::Text(text.to_owned()));
        };
        gap.push_str(text);
        if !gap.trim_start().is_empty() {
            said.push(Spoken::Text(
                gap.trim_start_matches(['\n', '\r']).to_owned(),
            ));
            self.gap = None;
        }
    }
}

fn think(text: &str, said: &mut Vec<Spoken>) {
    if !text.is_empty() {
        said.push(Spoken::Thought(text.to_owned()));
    }
}

fn argue(text: String, said: &mut Vec<Spoken>) {
    if !text.is_empty() {
        said.push(Spoken::Arguments(text));
    }
}

/// `text` as it stands between the quotes of a JSON string.
fn within_quotes(text: &str) -> String {
    let quoted = quoted(text);
    quoted[1..quoted.len() - 1].to_owned()
}
