//! What a reply is like, and the marker by which one request asks for another kind.
//!
//! A marker stands anywhere in the last message: `[[fake status=429 retry-after=7]]`. It reaches us
//! through any proxy that leaves the text alone, which no header would. Fields it does not name keep
//! the configured value; a word that we do not know answers 400, so a mistyped test cannot pass.

use std::time::Duration;

/// How one reply goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Before the head is sent.
    pub head_delay: Duration,
    /// Between two tokens of a stream.
    pub token_gap: Duration,
    /// Tokens in the reply, each one event of a stream.
    pub tokens: u32,
    /// The reply's whole text instead of counted tokens. A stream sends it word by word.
    pub text: Option<String>,
    /// Answers with a call of this tool instead of text; of several, with commas between.
    pub call: Option<String>,
    /// Tokens thought before the text, where the dialect has a way to say them. Anthropic's shows
    /// thoughts when it is asked to, two tokens unless told otherwise.
    pub thought_tokens: Option<u32>,
    /// Tokens of the prompt that count as read from a cache, and as written to one.
    pub cached_tokens: u32,
    pub written_tokens: u32,
    /// The reason for the reply's end, in the dialect's own words.
    pub ends: Option<String>,
    /// Goes on with the text where the request's last message, by the assistant, leaves off.
    pub continues: bool,
    pub mishap: Option<Mishap>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            head_delay: Duration::ZERO,
            token_gap: Duration::ZERO,
            tokens: 16,
            text: None,
            call: None,
            thought_tokens: None,
            cached_tokens: 0,
            written_tokens: 0,
            ends: None,
            continues: false,
            mishap: None,
        }
    }
}

/// How one reply goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// An error reply.
    Status {
        status: u16,
        retry_after_s: Option<u32>,
    },
    /// The connection breaks after that many tokens; a whole reply breaks within its body.
    CutAfter(u32),
    /// The connection breaks after that many bytes of a stream, wherever that is.
    CutAtByte(u32),
    /// The dialect's error event after that many tokens of a stream; a whole reply breaks off.
    ErrorAfter(u32),
    /// Success, with bytes that are no JSON.
    Garbage,
    /// A stream that ends in order, but without the end of its choice and without `[DONE]`.
    EndEarly(u32),
    /// The head never comes.
    Hang,
    /// The head and that many tokens come, then nothing.
    HangAfter(u32),
    /// The marker itself could not be read.
    Unreadable(String),
}

impl Behaviour {
    /// This behaviour, changed by the marker in `text` if there is one.
    #[must_use]
    pub fn for_text(&self, text: &str) -> Behaviour {
        let mut changed = self.clone();
        let Some((_, rest)) = text.split_once("[[fake ") else {
            return changed;
        };
        let Some((words, _)) = rest.split_once("]]") else {
            changed.mishap = Some(Mishap::Unreadable("the marker has no end".to_owned()));
            return changed;
        };
        for word in words.split_whitespace() {
            if changed.apply(word).is_none() {
                changed.mishap = Some(Mishap::Unreadable(format!("unknown word {word}")));
                break;
            }
        }
        changed
    }

    /// `None` when the word is not one of ours.
    fn apply(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "tokens" => self.tokens = value.parse().ok()?,
            "delay-ms" => self.head_delay = Duration::from_millis(value.parse().ok()?),
            "gap-ms" => self.token_gap = Duration::from_millis(value.parse().ok()?),
            "call" => self.call = Some(value.to_owned()),
            "think" => self.thought_tokens = Some(value.parse().ok()?),
            "cached" => self.cached_tokens = value.parse().ok()?,
            "written" => self.written_tokens = value.parse().ok()?,
            "ends" => self.ends = Some(value.to_owned()),
            "status" => {
                self.mishap = Some(Mishap::Status {
                    status: value.parse().ok()?,
                    retry_after_s: None,
                });
            }
            "retry-after" => match &mut self.mishap {
                Some(Mishap::Status { retry_after_s, .. }) => {
                    *retry_after_s = Some(value.parse().ok()?);
                }
                _ => return None,
            },
            "cut-after" => self.mishap = Some(Mishap::CutAfter(value.parse().ok()?)),
            "cut-byte" => self.mishap = Some(Mishap::CutAtByte(value.parse().ok()?)),
            "error-after" => self.mishap = Some(Mishap::ErrorAfter(value.parse().ok()?)),
            "end-early" => self.mishap = Some(Mishap::EndEarly(value.parse().ok()?)),
            "garbage" => self.mishap = Some(Mishap::Garbage),
            "hang" => self.mishap = Some(Mishap::Hang),
            "hang-after" => self.mishap = Some(Mishap::HangAfter(value.parse().ok()?)),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_changes_what_it_names_and_nothing_else() {
        let base = Behaviour::default();
        let cases = [
            ("hello", base.clone()),
            (
                "hello [[fake tokens=3 gap-ms=5]] there",
                Behaviour {
                    tokens: 3,
                    token_gap: Duration::from_millis(5),
                    ..base.clone()
                },
            ),
            (
                "[[fake status=429 retry-after=7]]",
                Behaviour {
                    mishap: Some(Mishap::Status {
                        status: 429,
                        retry_after_s: Some(7),
                    }),
                    ..base.clone()
                },
            ),
            (
                "[[fake cut-byte=200]]",
                Behaviour {
                    mishap: Some(Mishap::CutAtByte(200)),
                    ..base.clone()
                },
            ),
            (
                "[[fake cut-after=2]]",
                Behaviour {
                    mishap: Some(Mishap::CutAfter(2)),
                    ..base.clone()
                },
            ),
            (
                "[[fake think=4 cached=5 written=6 ends=refusal error-after=1]]",
                Behaviour {
                    thought_tokens: Some(4),
                    cached_tokens: 5,
                    written_tokens: 6,
                    ends: Some("refusal".to_owned()),
                    mishap: Some(Mishap::ErrorAfter(1)),
                    ..base.clone()
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(base.for_text(text), expected, "{text}");
        }
    }

    #[test]
    fn a_marker_that_cannot_be_read_is_a_mishap_of_its_own() {
        for text in [
            "[[fake tokns=3]]",
            "[[fake tokens=many]]",
            "[[fake retry-after=3]]",
            "[[fake tokens=3",
        ] {
            let mishap = Behaviour::default().for_text(text).mishap;
            assert!(matches!(mishap, Some(Mishap::Unreadable(_))), "{text}");
        }
    }
}
