//! From tokens' bytes to the events of a reply: characters made whole, stop strings found,
//! thoughts and tool calls told from the answer.

use std::collections::VecDeque;

use domain::{ChatEvent, TokenLogprobs, ToolCallPart};

use crate::calls::{Beginning, Ids, Manner, Offered, Reader, Spoken};
use crate::decoder::{Token, Vocabulary};
use crate::logprobs::Logprobs;
use crate::stops::StopFinder;
use crate::utf8::Utf8Joiner;

/// What one reply's text may contain, and what ends it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VoiceRules {
    pub stops: Vec<String>,
    pub manner: Manner,
    pub beginning: Beginning,
    /// The tools the reply may call; `None` leaves calls as text.
    pub offered: Option<Offered>,
    /// The caller takes one tool call at a time: the reply ends with the first.
    pub ends_at_call: bool,
    /// `Some(k)`: each token's log probability goes before its text, with the `k` likeliest.
    pub logprobs: Option<u8>,
    /// The stem of the reply's tool call ids, unique among replies.
    pub call_stem: String,
}

/// Of ids with nine letters, how many are the reply's. The rest is enough for 4,096 calls.
const NINE_STEM: usize = 6;

/// What speaks here is one choice; which of several, who puts them together knows.
const CHOICE: u32 = 0;

#[derive(Debug)]
pub(crate) struct Voice {
    joiner: Utf8Joiner,
    stops: StopFinder,
    reader: Reader,
    ids: Ids,
    ends_at_call: bool,
    call_stem: String,
    calls: u32,
    /// The one call it may make was made.
    has_ended_call: bool,
    is_over: bool,
    logprobs: Option<Logprobs>,
    /// Bytes of text that came, and those of them that no stop string can be in any more.
    heard: u64,
    passed: u64,
}

impl Voice {
    pub(crate) fn new(rules: VoiceRules) -> Self {
        Self {
            joiner: Utf8Joiner::default(),
            stops: StopFinder::new(rules.stops),
            ids: rules.manner.family.ids,
            reader: Reader::new(rules.manner, rules.beginning, rules.offered),
            ends_at_call: rules.ends_at_call,
            call_stem: rules.call_stem,
            calls: 0,
            has_ended_call: false,
            is_over: false,
            logprobs: rules.logprobs.map(Logprobs::new),
            heard: 0,
            passed: 0,
        }
    }

    /// Takes note of how likely `token` was, whose bytes are heard next.
    pub(crate) fn weigh(&mut self, logits: &[f32], token: Token, vocabulary: &dyn Vocabulary) {
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.weigh(logits, token, vocabulary);
        }
    }

    /// Adds the events that `bytes` complete. True when the reply ends here, by a stop string or
    /// by the one call it may make.
    pub(crate) fn hear(&mut self, bytes: &[u8], events: &mut VecDeque<ChatEvent>) -> bool {
        let mut text = String::new();
        self.joiner.push(bytes, &mut text);
        let begin = self.heard;
        self.heard += text.len() as u64;
        if let Some(logprobs) = &mut self.logprobs {
            // A character that is not whole yet will have at least one byte.
            let end = self.heard + u64::from(self.joiner.is_within());
            logprobs.place(begin, end);
        }
        if text.is_empty() {
            return false;
        }
        let mut passed = String::new();
        self.is_over = self.stops.push(&text, &mut passed);
        self.passed += passed.len() as u64;
        self.tell_logprobs(events);
        let mut said = Vec::new();
        self.reader.push(&passed, &mut said);
        self.tell(said, events);
        self.is_over
    }

    /// Adds what was held back. Call once, at the end.
    pub(crate) fn finish(&mut self, events: &mut VecDeque<ChatEvent>) {
        let mut said = Vec::new();
        if !self.is_over {
            let (mut text, mut passed) = (String::new(), String::new());
            self.joiner.finish(&mut text);
            self.is_over = self.stops.push(&text, &mut passed);
            if !self.is_over {
                self.stops.finish(&mut passed);
            }
            self.passed = if self.is_over {
                self.passed + passed.len() as u64
            } else {
                u64::MAX
            };
            self.tell_logprobs(events);
            self.reader.push(&passed, &mut said);
        }
        self.reader.finish(&mut said);
        self.tell(said, events);
        if let Some(stop) = self.stops.found() {
            events.push_back(ChatEvent::StopString {
                choice: CHOICE,
                text: stop.to_owned(),
            });
        }
    }

    /// True when the reply called a tool.
    pub(crate) fn has_calls(&self) -> bool {
        self.calls > 0
    }

    pub(crate) fn is_thinking(&self) -> bool {
        self.reader.is_thinking()
    }

    /// Of the text that passed; where a stop string ended it, the last.
    fn tell_logprobs(&mut self, events: &mut VecDeque<ChatEvent>) {
        let tokens: Vec<TokenLogprobs> = match &mut self.logprobs {
            None => return,
            Some(logprobs) if self.is_over => logprobs.cut(self.passed),
            Some(logprobs) => logprobs.release(self.passed),
        };
        if !tokens.is_empty() {
            events.push_back(ChatEvent::Logprobs {
                choice: CHOICE,
                tokens,
            });
        }
    }

    fn tell(&mut self, said: Vec<Spoken>, events: &mut VecDeque<ChatEvent>) {
        for spoken in said {
            if self.has_ended_call {
                return;
            }
            match spoken {
                Spoken::Text(text) => events.push_back(ChatEvent::Text {
                    choice: CHOICE,
                    text,
                }),
                Spoken::Thought(text) => events.push_back(ChatEvent::Thought {
                    choice: CHOICE,
                    text,
                }),
                Spoken::Call(name) => {
                    let id = self.id();
                    self.calls += 1;
                    events.push_back(self.part(Some(id), Some(name), String::new()));
                }
                Spoken::Arguments(text) => self.argue(text, events),
                Spoken::CallEnded => {
                    self.has_ended_call = self.ends_at_call;
                    self.is_over |= self.ends_at_call;
                }
            }
        }
    }

    /// Adds to the last event where that is of the same call and still here.
    fn argue(&self, more: String, events: &mut VecDeque<ChatEvent>) {
        if let Some(ChatEvent::ToolCall { part, .. }) = events.back_mut()
            && part.name.is_some()
        {
            return part.arguments.push_str(&more);
        }
        events.push_back(self.part(None, None, more));
    }

    /// A part of the call that came last.
    fn part(&self, id: Option<String>, name: Option<String>, arguments: String) -> ChatEvent {
        ChatEvent::ToolCall {
            choice: CHOICE,
            index: self.calls.saturating_sub(1),
            part: ToolCallPart {
                id,
                name,
                arguments,
                seal: None,
            },
        }
    }

    fn id(&self) -> String {
        let (stem, index) = (&self.call_stem, self.calls);
        match self.ids {
            Ids::Usual => format!("call_{stem}{index}"),
            Ids::Nine => {
                let from = stem.len().saturating_sub(NINE_STEM);
                format!("{:0>NINE_STEM$}{index:03x}", stem.get(from..).unwrap_or(""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::HERMES;
    use crate::fake::FakeVocabulary;

    fn run(rules: VoiceRules, pieces: &[&[u8]]) -> (String, Vec<String>, bool) {
        let mut voice = Voice::new(rules);
        let mut events = VecDeque::new();
        let is_over = pieces.iter().any(|piece| voice.hear(piece, &mut events));
        voice.finish(&mut events);
        let mut text = String::new();
        let mut calls = Vec::new();
        let mut stopped_by = Vec::new();
        for event in events {
            match event {
                ChatEvent::Text { text: more, .. } => text.push_str(&more),
                ChatEvent::ToolCall { index, part, .. } => {
                    calls.push(format!("{index} {} {}", part.id.unwrap(), part.arguments));
                }
                ChatEvent::StopString { text: stop, .. } => stopped_by.push(stop),
                other => panic!("unexpected {other:?}"),
            }
        }
        // Whatever ended it by a stop string says which, once.
        assert!(stopped_by.len() <= usize::from(is_over), "{stopped_by:?}");
        (text, calls, is_over)
    }

    /// The tokens whose log probabilities came, where the pieces count as tokens, and the text.
    fn weighed(stops: &[&str], pieces: &[&[u8]]) -> (Vec<u8>, String) {
        let mut voice = Voice::new(VoiceRules {
            stops: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            logprobs: Some(0),
            ..VoiceRules::default()
        });
        let mut events = VecDeque::new();
        for (token, piece) in pieces.iter().enumerate() {
            voice.weigh(&[], token as Token, &FakeVocabulary::default());
            if voice.hear(piece, &mut events) {
                break;
            }
        }
        voice.finish(&mut events);
        let (mut tokens, mut text) = (Vec::new(), String::new());
        for event in events {
            match event {
                ChatEvent::Logprobs { tokens: more, .. } => {
                    tokens.extend(more.into_iter().flat_map(|one| one.token.bytes.unwrap()));
                }
                ChatEvent::Text { text: more, .. } => text.push_str(&more),
                ChatEvent::StopString { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        (tokens, text)
    }

    #[test]
    fn log_probabilities_come_for_the_tokens_of_the_text() {
        type Case<'a> = (&'a [&'a str], &'a [&'a [u8]], u8, &'a str);
        let cases: [Case<'_>; 7] = [
            (&[], &[b"a", b"b"], 2, "ab"),
            (&["b"], &[b"a", b"b"], 1, "a"),
            // Partly in the stop string, and wholly before one that did not come.
            (&["bc"], &[b"ab", b"c"], 1, "a"),
            (&["bc"], &[b"ab", b"d", b"b"], 3, "abdb"),
            // One character of three tokens, and one that is cut off.
            (&[], &[b"\xe2", b"\x82", b"\xac", b"\xe2"], 4, "€\u{fffd}"),
            (&["€"], &[b"a\xe2", b"\x82", b"\xac"], 1, "a"),
            (&["\u{fffd}"], &[b"a", b"\xe2"], 1, "a"),
        ];
        for (stops, pieces, count, said) in cases {
            let (tokens, text) = weighed(stops, pieces);
            assert_eq!(
                tokens,
                (0..count).collect::<Vec<_>>(),
                "{stops:?} {pieces:?}"
            );
            assert_eq!(text, said);
        }
    }

    /// Reads calls in Hermes' form, of any tool.
    fn calling() -> VoiceRules {
        VoiceRules {
            manner: Manner {
                family: &HERMES,
                thoughts: None,
            },
            beginning: Beginning::Blank,
            offered: Some(Offered::default()),
            call_stem: "0123457f".into(),
            ..VoiceRules::default()
        }
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
        let (text, calls, is_over) = run(calling(), &[CALLS]);
        assert_eq!(calls, ["0 call_0123457f0 {}", "1 call_0123457f1 {\"a\":1}"]);
        assert_eq!((text.as_str(), is_over), (" after", false));
    }

    #[test]
    fn one_call_is_all_when_the_caller_takes_one() {
        let rules = VoiceRules {
            ends_at_call: true,
            ..calling()
        };
        let (text, calls, is_over) = run(rules, &[CALLS]);
        assert_eq!((text.as_str(), calls.len(), is_over), ("", 1, true));
    }

    #[test]
    fn without_tools_the_tags_are_text() {
        let rules = VoiceRules {
            offered: None,
            ..calling()
        };
        let (text, calls, _) = run(rules, &[CALLS]);
        assert_eq!((text.as_bytes(), calls.len()), (CALLS, 0));
    }

    #[test]
    fn arguments_are_told_as_they_come() {
        let mut voice = Voice::new(calling());
        let mut events = VecDeque::new();
        let head = b"<tool_call>{\"name\": \"f\", \"arguments\": ";
        voice.hear(head, &mut events);
        assert!(events.is_empty());
        let mut told = Vec::new();
        for piece in [&b"{\"a\": "[..], b"[1, ", b"2]", b"}}</tool_call>"] {
            voice.hear(piece, &mut events);
            told.extend(events.drain(..).map(|event| match event {
                ChatEvent::ToolCall { part, .. } => (part.name, part.arguments),
                other => panic!("unexpected {other:?}"),
            }));
        }
        let told: Vec<_> = told
            .iter()
            .map(|(name, arguments)| (name.as_deref(), arguments.as_str()))
            .collect();
        let expected = [
            (Some("f"), "{\"a\": "),
            (None, "[1, "),
            (None, "2]"),
            (None, "}"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn an_id_of_nine_letters_is_the_replys_own() {
        let mut voice = Voice::new(calling());
        voice.ids = Ids::Nine;
        assert_eq!(voice.id(), "23457f000");
        voice.calls = 31;
        assert_eq!(voice.id(), "23457f01f");
    }
}
