//! Replies that may answer other requests than the one they were made for: what is kept of them, and
//! who finds the nearest.
//!
//! The index only searches. Whether a neighbour may answer is `policy`'s to say, by its [`Evidence`]
//! among other things; an index that is slow, wrong or gone is a miss.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{CacheAway, Mark, MicroUsd, ModelAlias, Reply, Subject, TeamId, Who};

/// A keyed digest of everything of a request that must be the same before two texts are compared at
/// all: whose it is, the model's name, system prompt, earlier turns, tools, format, sampling, headers
/// that rules look at, placeholders, the policy's epoch. A neighbour outside it does not exist.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Compartment(pub [u8; 32]);

impl Compartment {
    /// Enough of it to tell two apart by eye: eight hexadecimal digits.
    #[must_use]
    pub fn short(&self) -> String {
        self.0[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Debug for Compartment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compartment({})", self.short())
    }
}

/// One entry's name: that of the request it was made for, as good as drawn at random. The same request
/// answered anew has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub u64);

/// What a reply says, by a name drawn at random: replies that were found to say the same have one. That of
/// what an earlier version kept is its entry's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeaningId(pub u64);

/// A team as an entry remembers it: a keyed digest, so that an entry that several teams may read does
/// not name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(pub u64);

/// A reply that is kept, and what is known of how it came about.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Over the masked view: it has placeholders where the request had findings. `written` is `None`.
    pub reply: Arc<Reply>,
    /// Whose request it answered.
    pub team: TeamId,
    /// As that request named it.
    pub model: ModelAlias,
    /// Words of the caller's by which it may be removed; at most [`TAGS_MAX`].
    pub tags: Vec<String>,
    /// Of the user whose request it was made for, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Mark>,
    pub kept_at: SystemTime,
    /// What it cost when it was made; `None` where no price was known.
    pub cost: Option<MicroUsd>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("bytes", &self.reply.bytes())
            .field("tags", &self.tags.len())
            .finish_non_exhaustive()
    }
}

/// Tags of one request; a request with more is refused.
pub const TAGS_MAX: usize = 8;

/// Bytes of one tag; a request with a longer one is refused.
pub const TAG_BYTES_MAX: usize = 64;

/// Whether requests, and their replies, may be tagged with this word.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    !tag.is_empty() && tag.len() <= TAG_BYTES_MAX && tag.bytes().all(is_plain)
}

/// A kept reply that may answer other requests of its compartment.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: EntryId,
    pub compartment: Compartment,
    /// What kind of question it answers, by `policy`'s label: evidence is pooled by it.
    pub class: String,
    /// What is compared: the last user turn, masked.
    pub text: String,
    /// `text` as a vector, of length 1, every component finite.
    pub vector: Vec<f32>,
    pub kept: Kept,
    pub expires_at: SystemTime,
    pub evidence: Evidence,
    /// What its reply says. `None` of what an earlier version kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaning: Option<MeaningId>,
}

impl Entry {
    /// What its reply says: equal for entries that were found to say the same.
    #[must_use]
    pub fn meaning(&self) -> MeaningId {
        self.meaning.unwrap_or(MeaningId(self.id.0))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .field("compartment", &self.compartment)
            .field("class", &self.class)
            .field("dimensions", &self.vector.len())
            .field("evidence", &self.evidence)
            .finish_non_exhaustive()
    }
}

/// How often an entry was held against the truth, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Shadow checks that agreed, and feedback that was good.
    pub right: u32,
    /// Shadow checks that did not, and feedback that was bad.
    pub wrong: u32,
    /// Other teams than its own whose fresh replies said the same, each once; at most
    /// [`WRITERS_MAX`]. Counts only where several teams share a compartment.
    pub confirmed_by: Vec<WriterId>,
}

/// Teams that an entry remembers as having confirmed it. Further ones are not noted: no operator asks
/// for more.
pub const WRITERS_MAX: usize = 16;

impl Evidence {
    /// Notes that another team's fresh reply said the same.
    pub fn confirm(&mut self, writer: WriterId) {
        if self.confirmed_by.len() < WRITERS_MAX && !self.confirmed_by.contains(&writer) {
            self.confirmed_by.push(writer);
        }
    }
}

/// An entry near what was looked for.
#[derive(Clone, Debug)]
pub struct Neighbour {
    pub entry: Arc<Entry>,
    /// The cosine, from -1 to 1.
    pub similarity: f32,
}

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    All,
    /// Whose time is over.
    Expired,
    Tag(String),
    Model(ModelAlias),
    Team(TeamId),
    Compartment(Compartment),
    Entry(EntryId),
    /// What was made for somebody: with the mark of whoever it is.
    Subject(Subject, Mark),
}

impl Purge {
    /// Whether it means a reply kept like this; entries have more to go by.
    #[must_use]
    pub fn takes_kept(&self, kept: &Kept) -> bool {
        match self {
            Purge::All => true,
            Purge::Tag(tag) => kept.tags.contains(tag),
            Purge::Model(model) => kept.model == *model,
            Purge::Team(team) => kept.team == *team,
            Purge::Subject(subject, mark) => {
                subject.is_of(&kept.team)
                    && match &subject.who {
                        Who::User(_) => kept.user == Some(*mark),
                        Who::Tag(tag) => kept.tags.iter().any(|it| it == tag.as_str()),
                    }
            }
            Purge::Expired | Purge::Compartment(_) | Purge::Entry(_) => false,
        }
    }

    /// Whether it means this entry.
    #[must_use]
    pub fn takes(&self, entry: &Entry, now: SystemTime) -> bool {
        match self {
            Purge::Expired => entry.expires_at <= now,
            Purge::Compartment(compartment) => entry.compartment == *compartment,
            Purge::Entry(id) => entry.id == *id,
            Purge::All | Purge::Tag(_) | Purge::Model(_) | Purge::Team(_) | Purge::Subject(..) => {
                self.takes_kept(&entry.kept)
            }
        }
    }
}

/// What an index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReuseStats {
    pub entries: u64,
    /// Compartments with at least one entry.
    pub compartments: u64,
    /// Of texts, vectors and replies, in memory and on disk: an estimate.
    pub bytes: u64,
    /// Entries given up to keep within a bound, since the start.
    pub evicted: u64,
    /// Entries that could not be written, read or believed, since the start.
    pub faults: u64,
    /// What others keep cannot be reached, so that nothing is found.
    #[serde(default)]
    pub is_apart: bool,
}

/// Entries by their nearness. Holds what it is told for as long as it can: it may drop any entry at any
/// time. A broken index behaves as an empty one.
#[async_trait]
pub trait ReplyIndex: Send + Sync + 'static {
    /// At most `count` entries of this compartment whose time is not over, the nearest first. A vector
    /// of another length than theirs, or with a component that is not finite, has no neighbours.
    /// Dropping the future leaves nothing behind.
    async fn nearest(
        &self,
        compartment: &Compartment,
        vector: &[f32],
        count: usize,
    ) -> Vec<Neighbour>;

    /// Takes an entry in, in place of one with its id, to be found soon after. Must not block: streams end here. An entry whose
    /// vector is not finite, or not of the length that the index has, is left out.
    fn keep(&self, entry: Entry);

    /// Replaces what is known of an entry, if it is still there. Must not block.
    fn learn(&self, id: EntryId, evidence: Evidence);

    fn find(&self, id: EntryId) -> Option<Arc<Entry>>;

    /// Those that a purge would take, by their ids in ascending order, after one of them: no more than
    /// `count`. Not for a request's path.
    fn meant(&self, what: &Purge, after: Option<EntryId>, count: usize) -> Vec<Arc<Entry>>;

    /// Removes what is meant, before it returns: nobody answers with it afterwards. Gives how many entries
    /// went.
    ///
    /// # Errors
    /// What others keep cannot be reached. Here it is removed.
    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway>;

    fn stats(&self) -> ReuseStats;

    /// What was saved last, by this process or one before it: opaque, and small.
    fn load_state(&self) -> Option<Vec<u8>>;

    /// Must not block.
    fn save_state(&self, state: Vec<u8>);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Started;

    fn entry() -> Entry {
        Entry {
            id: EntryId(7),
            compartment: Compartment([0xab; 32]),
            class: "fact".into(),
            text: "my secret".into(),
            vector: vec![1.0],
            kept: Kept {
                reply: Arc::new(Reply {
                    started: Started {
                        model: "m".into(),
                        reply_id: None,
                        fingerprint: None,
                    },
                    choices: Vec::new(),
                    usage: None,
                    written: None,
                }),
                team: "red".into(),
                model: "auto".into(),
                tags: vec!["spring".into()],
                user: Some(Mark([7; Mark::BYTES])),
                kept_at: SystemTime::UNIX_EPOCH,
                cost: None,
            },
            expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(60),
            evidence: Evidence::default(),
            meaning: Some(MeaningId(3)),
        }
    }

    #[test]
    fn a_purge_takes_what_it_names_and_nothing_else() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let of = |who, team: Option<&str>, mark| {
            let team = team.map(TeamId::new);
            Purge::Subject(Subject { who, team }, Mark([mark; Mark::BYTES]))
        };
        let of_user = |team, mark| of(Who::User("anna".into()), team, mark);
        let of_tag = |team, tag: &str| of(Who::Tag(tag.into()), team, 7);
        let cases = [
            (Purge::All, true),
            (Purge::Tag("spring".into()), true),
            (Purge::Tag("spr".into()), false),
            (Purge::Model("auto".into()), true),
            (Purge::Model("local".into()), false),
            (Purge::Team("red".into()), true),
            (Purge::Team("blue".into()), false),
            (Purge::Compartment(Compartment([0xab; 32])), true),
            (Purge::Compartment(Compartment([0; 32])), false),
            (Purge::Entry(EntryId(7)), true),
            (Purge::Entry(EntryId(8)), false),
            (Purge::Expired, false),
            (of_user(None, 7), true),
            (of_user(Some("red"), 7), true),
            (of_user(Some("blue"), 7), false),
            (of_user(None, 8), false),
            (of_tag(None, "spring"), true),
            (of_tag(Some("blue"), "spring"), false),
            (of_tag(None, "spr"), false),
        ];
        for (purge, takes) in cases {
            assert_eq!(purge.takes(&entry(), at(59)), takes, "{purge:?}");
        }
        assert!(Purge::Expired.takes(&entry(), at(60)));
    }

    #[test]
    fn a_team_confirms_once_and_not_all_teams_are_remembered() {
        let mut evidence = Evidence::default();
        for writer in (0..100).chain(0..100) {
            evidence.confirm(WriterId(writer));
        }
        assert_eq!(evidence.confirmed_by.len(), WRITERS_MAX);
    }

    #[test]
    fn an_entry_survives_being_written_and_read() {
        let json = serde_json::to_vec(&entry()).unwrap();
        assert_eq!(serde_json::from_slice::<Entry>(&json).unwrap(), entry());
    }

    #[test]
    fn an_entry_of_an_earlier_version_says_what_it_says_itself() {
        let mut json = serde_json::to_value(entry()).unwrap();
        assert_eq!(entry().meaning(), MeaningId(3));
        json.as_object_mut().unwrap().remove("meaning").unwrap();
        let read: Entry = serde_json::from_value(json).unwrap();
        assert_eq!(read.meaning(), MeaningId(7));
    }

    #[test]
    fn debug_shows_no_text() {
        let shown = format!("{:?} {:?}", entry(), entry().kept);
        assert!(!shown.contains("secret") && shown.contains("abababab"));
    }
}
