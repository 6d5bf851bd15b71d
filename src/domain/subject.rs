//! Whose data something is: of requests that name a user, or have a tag.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{KeptRecord, RecordFault, RecordName, Tag, TeamId, UserId};

/// Who is meant, by one name. The same word of another team is somebody else, unless no team is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub who: Who,
    /// `None`: of every team.
    pub team: Option<TeamId>,
}

const USER: &str = "user";
const TAG: &str = "tag";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whom requests name as their user.
    User(UserId),
    /// Whatever has this tag.
    Tag(Tag),
}

impl Who {
    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            Who::User(_) => USER,
            Who::Tag(_) => TAG,
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Who::User(user) => user.as_str(),
            Who::Tag(tag) => tag.as_str(),
        }
    }
}

impl Subject {
    #[must_use]
    pub fn is_of(&self, team: &TeamId) -> bool {
        self.team.as_ref().is_none_or(|meant| meant == team)
    }
}

/// Stands for a user's name or a tag where the word itself is not to be kept: a digest under a secret of
/// this node's. Who has marks alone cannot tell whether a name that he guessed is among them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub [u8; Mark::BYTES]);

impl Mark {
    /// Two of a billion names that have one mark in common are as likely as one in 10^20.
    pub const BYTES: usize = 16;

    /// As it stands among others, each with [`Who::as_label`] of what it is before it. All of one kind are as
    /// long.
    #[must_use]
    pub fn word(&self, label: &str) -> String {
        format!("{label}:{self}")
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// It is no mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no mark")]
pub struct NoMark;

impl std::str::FromStr for Mark {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, NoMark> {
        let digits = text.as_bytes();
        // `from_str_radix` takes a sign as well.
        let is_plain = digits.iter().all(u8::is_ascii_hexdigit);
        if digits.len() != 2 * Self::BYTES || !is_plain {
            return Err(NoMark);
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NoMark)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NoMark)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Mark {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The marks of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `None` where it names nobody.
    pub user: Option<Mark>,
    pub tags: Vec<Mark>,
    /// The user's on replies that are kept: [`Marker::mark_on_replies`].
    pub on_replies: Option<Mark>,
}

impl Marks {
    /// Each as [`Mark::word`], with a space between two of them; `None` where there is none.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        let user = self.user.iter().map(|mark| mark.word(USER));
        let tags = self.tags.iter().map(|mark| mark.word(TAG));
        let words: Vec<String> = user.chain(tags).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

/// Makes marks.
pub trait Marker: Send + Sync + 'static {
    fn mark(&self, who: &Who) -> Mark;

    /// The same for replies that are kept. Where several nodes share those it is the same mark for all of
    /// them, so that each finds what any of them kept.
    fn mark_on_replies(&self, who: &Who) -> Mark {
        self.mark(who)
    }

    /// What stands for somebody where it is written down what was done with his data: another word than
    /// the mark, which is to be found nowhere after he was erased.
    fn trace(&self, subject: &Subject) -> String;
}

/// What was removed of somebody in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordsErased {
    /// They stay, with their numbers, and are nobody's any more.
    pub records: u64,
    /// Files that were set aside as damaged, of which nobody can tell whose they are: removed.
    pub files: u64,
    /// The place was written anew, so that nothing is left of it in what was free. False of a database
    /// that is too large for it.
    pub is_rewritten: bool,
}

/// Finds what records are of somebody's, and makes them nobody's.
#[async_trait]
pub trait RecordRights: Send + Sync + 'static {
    /// The latest `count` of theirs that come before `before`, latest first.
    async fn of(
        &self,
        subject: &Subject,
        count: u32,
        before: Option<RecordName>,
    ) -> Result<Vec<KeptRecord>, RecordFault>;

    /// Takes user, tags, the id that callers may choose and their own words out of each record of theirs.
    /// Numbers and sums stay. What ended before is among them, also what waits to be written. May be
    /// called again after a fault, and then does the rest.
    async fn erase(&self, subject: &Subject) -> Result<RecordsErased, RecordFault>;
}

/// What is counted of a user, as an operator may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedUse {
    pub team: TeamId,
    /// [`crate::Measure::as_label`]
    pub measure: &'static str,
    /// [`crate::Period::as_label`]
    pub per: &'static str,
    pub used: u64,
}

/// Counts of users' limits, found and forgotten by the user's name.
#[async_trait]
pub trait UserCounts: Send + Sync + 'static {
    /// At most `count_max` of them.
    ///
    /// # Errors
    /// Those who count cannot be asked.
    async fn of(
        &self,
        team: Option<&TeamId>,
        user: &UserId,
        count_max: usize,
    ) -> Result<Vec<CountedUse>, CountsAway>;

    /// Forgets them, here and where they are written down. Gives how many.
    ///
    /// # Errors
    /// As of [`UserCounts::of`], or the disk's. It may be called again.
    async fn forget(&self, team: Option<&TeamId>, user: &UserId) -> Result<u64, CountsAway>;
}

/// Counts that cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("what users used cannot be looked up or forgotten")]
pub struct CountsAway(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_is_written_and_debug_shows_none() {
        let mark = Mark([0xab; Mark::BYTES]);
        assert_eq!(mark.to_string(), "ab".repeat(16));
        assert_eq!(mark.to_string().parse(), Ok(mark));
        let json = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&json).unwrap(), mark);
        for text in [
            "",
            "ab",
            &"é".repeat(16),
            &"+a".repeat(16),
            &"ab".repeat(17),
        ] {
            assert!(text.parse::<Mark>().is_err(), "{text}");
        }
        assert_eq!(format!("{mark:?}"), "Mark");
    }

    #[test]
    fn somebody_of_one_team_is_nobody_of_another() {
        let of = |team: Option<&str>| Subject {
            who: Who::User("anna".into()),
            team: team.map(TeamId::new),
        };
        assert!(of(None).is_of(&"red".into()));
        assert!(of(Some("red")).is_of(&"red".into()));
        assert!(!of(Some("blue")).is_of(&"red".into()));
    }
}
