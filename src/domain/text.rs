//! What exchanges said: kept where a retention policy says so, and nowhere else.
//!
//! ```text
//! exchange ends ─► messages, as they were said ─► the view that is kept ─► Said ─► KeptText ─► TextShelf, sealed
//! ```
//! Pictures, sound, files and parts that nobody interprets are counted and not kept: they cannot be masked.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Mark, Message, Part, Subject, TeamId};

/// What a message or a call counts beside its text: what it takes to write it down, on the high side.
const MESSAGE_BYTES: usize = 64;

/// In which form texts are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TextView {
    /// As the least trusted destination would see them: values of personal data are placeholders.
    Masked,
    /// As they were said.
    Raw,
}

impl TextView {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            TextView::Masked => "masked",
            TextView::Raw => "raw",
        }
    }
}

/// Whose texts are kept, how, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRules {
    /// `None`: every team's.
    pub teams: Option<Vec<TeamId>>,
    pub view: TextView,
    /// Since their exchange ended.
    pub keep: Duration,
    /// Of what was asked and of what was answered each. The rest is cut.
    pub text_bytes_max: usize,
}

impl TextRules {
    #[must_use]
    pub fn covers(&self, team: &TeamId) -> bool {
        self.teams.as_ref().is_none_or(|teams| teams.contains(team))
    }

    /// What holds where both do: no more of it, and for no longer.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            teams: self.teams.clone(),
            view: self.view.min(other.view),
            keep: self.keep.min(other.keep),
            text_bytes_max: self.text_bytes_max.min(other.text_bytes_max),
        }
    }
}

/// What one exchange said.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// [`TextView::as_label`]
    pub view: String,
    /// In the order of the request. Where not all had room, the latest.
    pub asked: Vec<SaidMessage>,
    /// Messages before those that had no room.
    pub left_out: u64,
    /// One for each choice, as far as it came.
    pub answered: Vec<SaidMessage>,
    /// Some text ends before its end.
    pub is_cut: bool,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidMessage {
    /// [`crate::Role::as_label`]
    pub role: String,
    /// All its texts, a line feed between two of them.
    pub text: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thoughts: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<SaidCall>,
    /// Parts that are not text, which are not kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attachments: u64,
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaidCall {
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Said {
    /// What is kept of messages that are in the form of `view` already: of either side no more than
    /// `bytes_max`, the latest messages of what was asked and the beginning of what was answered.
    #[must_use]
    pub fn of(
        view: TextView,
        asked: &[SaidMessage],
        answered: &[SaidMessage],
        bytes_max: usize,
    ) -> Self {
        let mut said = Said {
            view: view.as_label().to_owned(),
            ..Said::default()
        };
        let mut room = bytes_max;
        for (at, message) in asked.iter().enumerate().rev() {
            if room < MESSAGE_BYTES {
                said.left_out = at as u64 + 1;
                break;
            }
            let (kept, is_cut) = message.within(&mut room);
            said.is_cut |= is_cut;
            said.asked.push(kept);
        }
        said.asked.reverse();
        let mut room = bytes_max;
        for message in answered {
            if room < MESSAGE_BYTES {
                said.is_cut = true;
                break;
            }
            let (kept, is_cut) = message.within(&mut room);
            said.is_cut |= is_cut;
            said.answered.push(kept);
        }
        said
    }
}

impl SaidMessage {
    /// Its text alone.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        let mut said = Self {
            role: message.role.as_label().to_owned(),
            ..Self::default()
        };
        for part in &message.content {
            match part {
                Part::Text(text) => add_line(&mut said.text, text),
                Part::Thought(text) => add_line(&mut said.thoughts, text),
                Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
                    said.attachments += 1;
                }
                Part::Seal(_) => {}
            }
        }
        let calls = message.tool_calls.iter().map(|call| SaidCall {
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        });
        said.tool_calls = calls.collect();
        said
    }

    /// As much of it as there is room for, and whether that is not all.
    fn within(&self, room: &mut usize) -> (Self, bool) {
        *room = room.saturating_sub(MESSAGE_BYTES);
        let mut is_cut = false;
        let mut kept = Self {
            role: self.role.clone(),
            text: cut(&self.text, room, &mut is_cut),
            thoughts: cut(&self.thoughts, room, &mut is_cut),
            tool_calls: Vec::new(),
            attachments: self.attachments,
        };
        for call in &self.tool_calls {
            if *room < MESSAGE_BYTES {
                is_cut = true;
                break;
            }
            *room -= MESSAGE_BYTES;
            kept.tool_calls.push(SaidCall {
                name: cut(&call.name, room, &mut is_cut),
                arguments: cut(&call.arguments, room, &mut is_cut),
            });
        }
        (kept, is_cut)
    }
}

impl SaidCall {
    /// Whether values may stand in it that masking does not see: between escapes, in what is no JSON
    /// because it never came to its end.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.arguments.contains('\\')
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.arguments).is_err()
    }
}

fn add_line(to: &mut String, text: &str) {
    if !to.is_empty() {
        to.push('\n');
    }
    to.push_str(text);
}

fn cut(text: &str, room: &mut usize, is_cut: &mut bool) -> String {
    let end = text.floor_char_boundary(*room);
    *is_cut |= end < text.len();
    *room -= end;
    text[..end].to_owned()
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said")
            .field("view", &self.view)
            .field("asked", &self.asked.len())
            .field("answered", &self.answered.len())
            .field("is_cut", &self.is_cut)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SaidMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaidMessage({} bytes)", self.text.len())
    }
}

impl fmt::Debug for SaidCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaidCall({} bytes)", self.arguments.len())
    }
}

/// A text, and of which exchange it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptText {
    /// As of the exchange's record, as are the next.
    pub ended_us: i64,
    pub request_id: String,
    pub team: String,
    pub marks: Option<String>,
    /// From then on it is gone, in microseconds since 1970.
    pub until_us: i64,
    pub said: Said,
}

/// A text that is kept, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundText {
    /// Its place among all: later ones have a higher one.
    pub seq: i64,
    pub ended_us: i64,
    pub until_us: i64,
    pub team: String,
    pub opened: Result<OpenedText, Unopened>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedText {
    pub request_id: String,
    pub said: Said,
}

/// Why a text that is there cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("it is sealed under the key {key_id}, which is none of retention.keys")]
    KeyMissing { key_id: String },
    #[error("it is not as it was written: its seal does not open")]
    Altered,
}

/// Why texts cannot be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum TextFault {
    #[error("others use the texts' file")]
    Busy,
    /// One may be among those that cannot even be looked into.
    #[error("{count} texts are sealed under keys that are none of retention.keys")]
    Locked { count: u64 },
    #[error("texts cannot be read or written")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps texts, sealed. What is over is told nobody, whether it was removed yet or not.
#[async_trait]
pub trait TextShelf: Send + Sync + 'static {
    /// Keeps all of them or none: they are on a disk when this returns. Not those whose time is over, and
    /// nothing where nothing is to be kept any more.
    async fn keep(&self, texts: &[KeptText]) -> Result<(), TextFault>;

    /// Those of exchanges with this id, which callers may choose: the latest `count`, latest first.
    ///
    /// # Errors
    /// [`TextFault::Locked`] where none is found, and one might be if all keys were there.
    async fn find(&self, request_id: &str, count: u32) -> Result<Vec<FoundText>, TextFault>;

    /// Somebody's, by his mark, latest first, from before `seq` on.
    async fn of(
        &self,
        subject: &Subject,
        mark: &Mark,
        count: u32,
        before: Option<i64>,
    ) -> Result<Vec<FoundText>, TextFault>;

    /// Removes somebody's, and says how many went. May be called again after a fault.
    async fn erase(&self, subject: &Subject, mark: &Mark) -> Result<u64, TextFault>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, Role};

    fn message(role: Role, text: &str) -> SaidMessage {
        SaidMessage::of(&Message::new(role, text))
    }

    #[test]
    fn what_has_no_room_is_cut_and_that_is_said() {
        let asked: Vec<_> = (0..4)
            .map(|at| message(Role::User, &at.to_string().repeat(100)))
            .collect();
        let answered = [message(Role::Assistant, &"é".repeat(200))];
        let whole = Said::of(TextView::Raw, &asked, &answered, 10_000);
        assert_eq!(
            (whole.asked.len(), whole.left_out, whole.is_cut),
            (4, 0, false)
        );
        assert_eq!(whole.answered, answered);
        // Two whole messages, and of the one before them what is left.
        let some = Said::of(TextView::Masked, &asked, &answered, 2 * 164 + 64 + 7);
        assert_eq!((some.asked.len(), some.left_out, some.is_cut), (3, 1, true));
        assert_eq!(some.asked[0].text, "1".repeat(7));
        assert_eq!(some.asked[2], asked[3]);
        assert_eq!(some.view, "masked");
        let small = Said::of(TextView::Raw, &asked, &answered, 64 + 7);
        // No half of a letter.
        assert_eq!(small.answered[0].text, "é".repeat(3));
        assert!(small.is_cut);
        let none = Said::of(TextView::Raw, &asked, &answered, 10);
        assert_eq!((none.asked.len(), none.left_out), (0, 4));
        assert!(none.answered.is_empty() && none.is_cut);
    }

    #[test]
    fn a_message_is_kept_as_text_alone_and_shown_by_none() {
        let mut message = Message::new(Role::User, "look");
        let url = "data:image/png;base64,QUJD".to_owned();
        message
            .content
            .push(Part::Image(Image { url, detail: None }));
        message.content.push(Part::Text("here".to_owned()));
        let said = SaidMessage::of(&message);
        assert_eq!((said.text.as_str(), said.attachments), ("look\nhere", 1));
        let json = serde_json::to_string(&said).unwrap();
        assert!(!json.contains("QUJD"));
        assert_eq!(serde_json::from_str::<SaidMessage>(&json).unwrap(), said);
        let said = Said {
            asked: vec![said],
            ..Said::default()
        };
        assert!(!format!("{said:?}").contains("look"));
    }

    #[test]
    fn of_two_rules_the_stricter_holds() {
        let rules = |view, days, bytes| TextRules {
            teams: None,
            view,
            keep: Duration::from_secs(days),
            text_bytes_max: bytes,
        };
        let both = rules(TextView::Raw, 1, 20).and(&rules(TextView::Masked, 2, 10));
        assert_eq!(both, rules(TextView::Masked, 1, 10));
        let research = TextRules {
            teams: Some(vec!["research".into()]),
            ..both
        };
        assert!(research.covers(&"research".into()) && !research.covers(&"sales".into()));
    }

    #[test]
    fn arguments_that_never_ended_are_opaque_where_they_have_escapes() {
        let call = |arguments: &str| SaidCall {
            name: "f".to_owned(),
            arguments: arguments.to_owned(),
        };
        assert!(call(r#"{"to": "a\u0040b"#).is_opaque());
        assert!(!call(r#"{"to": "a\u0040b"}"#).is_opaque());
        assert!(!call(r#"{"to": "a@b"#).is_opaque());
    }
}
