//! From tokens' bytes to the events of a reply: characters made whole, stop strings found,
//! thoughts and tool calls told from the answer.

use std::collections::VecDeque;

use domain::{ChatEvent, ToolCallPart};

use crate::stops::StopFinder;
use crate::tagged::{Spoken, Tagged};
use crate::utf8::Utf8Joiner;

/// What one reply's text may contain, and what ends it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VoiceRules {
    pub stops: Vec<String>,
    pub reads_calls: bool,
    /// The caller takes one tool call at a time: the reply ends with the first.
    pub ends_at_call: bool,
    /// As for [`Tagged::new`].
    pub thoughts: Option<bool>,
    /// The stem of the reply's tool call ids, unique among replies.
    pub call_stem: String,
}

/// The engine gives one choice.
const CHOICE: u32 = 0;

#[derive(Debug)]
pub(crate) struct Voice {
    joiner: Utf8Joiner,
    stops: StopFinder,
    tagged: Tagged,
    ends_at_call: bool,
    call_stem: String,
    calls: u32,
    is_over: bool,
}

impl Voice {
    pub(crate) fn new(rules: VoiceRules) -> Self {
        Self {
            joiner: Utf8Joiner::default(),
            stops: StopFinder::new(rules.stops),
            tagged: Tagged::new(rules.reads_calls, rules.thoughts),
            ends_at_call: rules.ends_at_call,
            call_stem: rules.call_stem,
            calls: 0,
            is_over: false,
        }
    }

    /// Adds the events that `bytes` complete. True when the reply ends here, by a stop string or
    /// by the one call it may make.
    pub(crate) fn hear(&mut self, bytes: &[u8], events: &mut VecDeque<ChatEvent>) -> bool {
        let mut text = String::new();
        self.joiner.push(bytes, &mut text);
        if text.is_empty() {
            return false;
        }
        let mut passed = String::new();
        self.is_over = self.stops.push(&text, &mut passed);
        let mut said = Vec::new();
        self.tagged.push(&passed, &mut said);
        self.tell(said, events);
        self.is_over
    }

    /// Adds what was held back. Call once, at the end.
    pub(crate) fn finish(&mut self, events: &mut VecDeque<ChatEvent>) {
        let mut said = Vec::new();
        if !self.is_over {
            let (mut text, mut passed) = (String::new(), String::new());
            self.joiner.finish(&mut text);
            if !self.stops.push(&text, &mut passed) {
                self.stops.finish(&mut passed);
            }
            self.tagged.push(&passed, &mut said);
        }
        self.tagged.finish(&mut said);
        self.tell(said, events);
    }

    /// True when the reply called a tool.
    pub(crate) fn has_calls(&self) -> bool {
        self.calls > 0
    }

    pub(crate) fn is_thinking(&self) -> bool {
        self.tagged.is_thinking()
    }

    fn tell(&mut self, said: Vec<Spoken>, events: &mut VecDeque<ChatEvent>) {
        for spoken in said {
            if self.ends_at_call && self.calls > 0 {
                return;
            }
            events.push_back(match spoken {
                Spoken::Text(text) => ChatEvent::Text {
                    choice: CHOICE,
                    text,
                },
                Spoken::Thought(text) => ChatEvent::Thought {
                    choice: CHOICE,
                    text,
                },
                Spoken::Call { name, arguments } => self.call(name, arguments),
            });
        }
    }

    fn call(&mut self, name: String, arguments: String) -> ChatEvent {
        let index = self.calls;
        self.calls += 1;
        self.is_over |= self.ends_at_call;
        ChatEvent::ToolCall {
            choice: CHOICE,
            index,
            part: ToolCallPart {
                id: Some(format!("call_{}{index}", self.call_stem)),
                name: Some(name),
                arguments,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rules: VoiceRules, pieces: &[&[u8]]) -> (String, Vec<String>, bool) {
        let mut voice = Voice::new(rules);
        let mut events = VecDeque::new();
        let is_over = pieces.iter().any(|piece| voice.hear(piece, &mut events));
        voice.finish(&mut events);
        let mut text = String::new();
        let mut calls = Vec::new();
        for event in events {
            match event {
                ChatEvent::Text { text: more, .. } => text.push_str(&more),
                ChatEvent::ToolCall { index, part, .. } => {
                    calls.push(format!("{index} {} {}", part.id.unwrap(), part.arguments));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        (text, calls, is_over)
    }

    const CALLS: &[u8] =
        b"<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call><tool_call>{\"name\":\"g\",\"arguments\":{\"a\":1}}</tool_call> after";

    #[test]
    fn a_character_cut_between_tokens_comes_whole_and_may_complete_a_stop() {
        let rules = VoiceRules {
            stops: vec!["€!".into()],
            ..VoiceRules::default()
        };
        let said = run(rules, &[b"a \xe2", b"\x82", b"\xac", b"! b"]);
        assert_eq!(said, ("a ".to_owned(), vec![], true));
    }

    #[test]
    fn several_calls_are_numbered() {
        let rules = VoiceRules {
            reads_calls: true,
            call_stem: "7f".into(),
            ..VoiceRules::default()
        };
        let (text, calls, is_over) = run(rules, &[CALLS]);
        assert_eq!(calls, ["0 call_7f0 {}", "1 call_7f1 {\"a\":1}"]);
        assert_eq!((text.as_str(), is_over), (" after", false));
    }

    #[test]
    fn one_call_is_all_when_the_caller_takes_one() {
        let rules = VoiceRules {
            reads_calls: true,
            ends_at_call: true,
            ..VoiceRules::default()
        };
        let (text, calls, is_over) = run(rules, &[CALLS]);
        assert_eq!((text.as_str(), calls.len(), is_over), ("", 1, true));
    }

    #[test]
    fn without_tools_the_tags_are_text() {
        let (text, calls, _) = run(VoiceRules::default(), &[CALLS]);
        assert_eq!((text.as_bytes(), calls.len()), (CALLS, 0));
    }
}
