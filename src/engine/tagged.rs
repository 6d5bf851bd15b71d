//! Tells thoughts and tool calls from the answer in what a model writes.
//!
//! ```text
//! <think> … </think> answer <tool_call>{"name": …, "arguments": {…}}</tool_call>
//! ```
//! is the form of Hermes, Qwen and their kin; a family that writes another needs another table of
//! tags. Nothing that may be the beginning of a tag is passed on before it is known not to be one.
//! A call that does not parse was text after all, and comes out as written.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::stops::partial_suffix;

pub(crate) const THOUGHT_OPEN: &str = "<think>";
pub(crate) const THOUGHT_CLOSE: &str = "</think>";
pub(crate) const CALL_OPEN: &str = "<tool_call>";
pub(crate) const CALL_CLOSE: &str = "</tool_call>";

/// Tags that some vocabularies hold as control tokens, whose text must be kept all the same.
pub(crate) const TAGS: [&str; 4] = [THOUGHT_OPEN, THOUGHT_CLOSE, CALL_OPEN, CALL_CLOSE];

/// A stretch of what the model said, by kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Spoken {
    Text(String),
    Thought(String),
    Call { name: String, arguments: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space so far; a thought may yet open.
    Start,
    Thought,
    Answer,
    Call,
}

#[derive(Debug)]
pub(crate) struct Tagged {
    place: Place,
    reads_calls: bool,
    /// What is not yet passed on: a possible tag, or the body of a call.
    buffer: String,
    /// Up to where `buffer` was searched for the end of a call.
    searched: usize,
    /// White space after a thought or a call: passed on only if text follows.
    gap: Option<String>,
}

impl Tagged {
    /// `thoughts`: `None` when the model's template knows none; else whether the prompt already
    /// opened one.
    pub(crate) fn new(reads_calls: bool, thoughts: Option<bool>) -> Self {
        Self {
            place: match thoughts {
                None => Place::Answer,
                Some(false) => Place::Start,
                Some(true) => Place::Thought,
            },
            reads_calls,
            buffer: String::new(),
            searched: 0,
            gap: None,
        }
    }

    pub(crate) fn is_thinking(&self) -> bool {
        self.place == Place::Thought
    }

    pub(crate) fn push(&mut self, text: &str, said: &mut Vec<Spoken>) {
        self.buffer.push_str(text);
        while self.advance(said) {}
    }

    /// The text is over: whatever is still held back comes out.
    pub(crate) fn finish(&mut self, said: &mut Vec<Spoken>) {
        let rest = std::mem::take(&mut self.buffer);
        match self.place {
            Place::Start | Place::Answer => self.say(&rest, said),
            Place::Thought => think(&rest, said),
            Place::Call => self.call(&rest, "", said),
        }
    }

    /// Passes on what is certain; true while there may be more.
    fn advance(&mut self, said: &mut Vec<Spoken>) -> bool {
        match self.place {
            Place::Start => self.start(),
            Place::Thought => {
                let (before, is_closed) = self.take_until(THOUGHT_CLOSE);
                think(&before, said);
                if is_closed {
                    self.place = Place::Answer;
                    self.gap = Some(String::new());
                }
                is_closed
            }
            Place::Answer if self.reads_calls => {
                let (before, is_open) = self.take_until(CALL_OPEN);
                self.say(&before, said);
                if is_open {
                    self.place = Place::Call;
                    self.searched = 0;
                }
                is_open
            }
            Place::Answer => {
                let text = std::mem::take(&mut self.buffer);
                self.say(&text, said);
                false
            }
            Place::Call => self.close_call(said),
        }
    }

    fn start(&mut self) -> bool {
        let body = self.buffer.trim_start();
        if let Some(rest) = body.strip_prefix(THOUGHT_OPEN) {
            self.buffer = rest.to_owned();
            self.place = Place::Thought;
            return true;
        }
        if THOUGHT_OPEN.starts_with(body) {
            return false;
        }
        self.place = Place::Answer;
        true
    }

    fn close_call(&mut self, said: &mut Vec<Spoken>) -> bool {
        let Some(at) = self.buffer[self.searched..].find(CALL_CLOSE) else {
            self.searched = self.buffer.len() - partial_suffix(&self.buffer, CALL_CLOSE);
            return false;
        };
        let at = self.searched + at;
        let body = self.buffer[..at].to_owned();
        self.buffer.drain(..at + CALL_CLOSE.len());
        self.place = Place::Answer;
        self.call(&body, CALL_CLOSE, said);
        true
    }

    /// Takes all text before `tag`, and whether the tag itself came; it is taken too.
    fn take_until(&mut self, tag: &str) -> (String, bool) {
        if let Some(at) = self.buffer.find(tag) {
            let before = self.buffer[..at].to_owned();
            self.buffer.drain(..at + tag.len());
            return (before, true);
        }
        let keep = partial_suffix(&self.buffer, tag);
        (
            self.buffer.drain(..self.buffer.len() - keep).collect(),
            false,
        )
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

    fn call(&mut self, body: &str, close: &str, said: &mut Vec<Spoken>) {
        match parse_call(body) {
            Some(call) => {
                said.push(call);
                self.gap = Some(String::new());
            }
            None => self.say(&format!("{CALL_OPEN}{body}{close}"), said),
        }
    }
}

fn think(text: &str, said: &mut Vec<Spoken>) {
    if !text.is_empty() {
        said.push(Spoken::Thought(text.to_owned()));
    }
}

#[derive(Deserialize)]
struct WrittenCall<'a> {
    name: String,
    /// Kept as written: the caller parses it, and key order may matter to them.
    #[serde(borrow, default, alias = "parameters")]
    arguments: Option<&'a RawValue>,
}

fn parse_call(body: &str) -> Option<Spoken> {
    let written: WrittenCall<'_> = serde_json::from_str(body.trim()).ok()?;
    let raw = written.arguments.map_or("{}", RawValue::get);
    let arguments = match raw.as_bytes().first() {
        Some(b'{') => raw.to_owned(),
        // Some models write the arguments as OpenAI sends them, JSON within a string.
        Some(b'"') => serde_json::from_str::<String>(raw).ok()?,
        _ if raw == "null" => "{}".to_owned(),
        _ => return None,
    };
    (!written.name.is_empty()).then_some(Spoken::Call {
        name: written.name,
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(thoughts: Option<bool>, pieces: &[&str]) -> Vec<Spoken> {
        let mut tagged = Tagged::new(true, thoughts);
        let mut said = Vec::new();
        for piece in pieces {
            tagged.push(piece, &mut said);
        }
        tagged.finish(&mut said);
        join(said)
    }

    /// Neighbours of a kind, joined: how text was cut is not the point.
    fn join(said: Vec<Spoken>) -> Vec<Spoken> {
        let mut joined: Vec<Spoken> = Vec::new();
        for spoken in said {
            match (joined.last_mut(), &spoken) {
                (Some(Spoken::Text(last)), Spoken::Text(text))
                | (Some(Spoken::Thought(last)), Spoken::Thought(text)) => last.push_str(text),
                _ => joined.push(spoken),
            }
        }
        joined
    }

    fn text(text: &str) -> Spoken {
        Spoken::Text(text.into())
    }

    fn call(name: &str, arguments: &str) -> Spoken {
        Spoken::Call {
            name: name.into(),
            arguments: arguments.into(),
        }
    }

    #[test]
    fn each_form_is_told_apart() {
        let cases: Vec<(Option<bool>, &str, Vec<Spoken>)> = vec![
            (None, "plain < text", vec![text("plain < text")]),
            (
                None,
                "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
                vec![call("f", "{\"a\": 1}")],
            ),
            (
                None,
                "Let me see.<tool_call>{\"name\":\"f\",\"arguments\":\"{}\"}</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>\n",
                vec![text("Let me see."), call("f", "{}"), call("g", "{}")],
            ),
            // The end tag is often the end of the reply itself.
            (
                None,
                "<tool_call>{\"name\":\"f\",\"arguments\":{}}",
                vec![call("f", "{}")],
            ),
            (
                None,
                "<tool_call>{\"name\": oops}</tool_call>!",
                vec![text("<tool_call>{\"name\": oops}</tool_call>!")],
            ),
            (
                None,
                "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>",
                vec![text(
                    "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>",
                )],
            ),
            (None, "a <tool_c", vec![text("a <tool_c")]),
            (None, "<think>a</think>b", vec![text("<think>a</think>b")]),
            (
                Some(false),
                "\n<think>a</think>\n\nb",
                vec![Spoken::Thought("a".into()), text("b")],
            ),
            (Some(false), "b <think>", vec![text("b <think>")]),
            (
                Some(true),
                "a</think>b",
                vec![Spoken::Thought("a".into()), text("b")],
            ),
            (
                Some(true),
                "never closed </thi",
                vec![Spoken::Thought("never closed </thi".into())],
            ),
        ];
        for (thoughts, written, said) in cases {
            assert_eq!(run(thoughts, &[written]), said, "{written}");
        }
    }

    #[test]
    fn no_part_of_a_tag_leaks_before_it_is_certain() {
        let mut tagged = Tagged::new(true, None);
        let mut said = Vec::new();
        for piece in ["hi <", "tool", "_call", ">{\"name\""] {
            tagged.push(piece, &mut said);
        }
        assert_eq!(join(said), [text("hi ")]);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            parts in prop::collection::vec(prop::sample::select(
                [&TAGS[..], &["{\"name\":\"f\"}", "{", "é", " ", "\n", "<", "a"]].concat()
            ), 0..10),
            every in 1_usize..6,
            thoughts in prop::option::of(any::<bool>()),
        ) {
            let whole = parts.concat();
            let letters: Vec<String> = whole.chars().map(String::from).collect();
            let pieces: Vec<String> = letters.chunks(every).map(<[String]>::concat).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(thoughts, &pieces), run(thoughts, &[&whole]));
        }
    }
}
