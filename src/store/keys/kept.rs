//! What is kept of keys and teams, and where: the contract of a place.

use std::fmt;

use async_trait::async_trait;

use super::file::KeyFileError;
use super::secret::{KeyTag, TagSecret};
use crate::PostgresFault;

/// A key that was made here, as it is kept.
#[derive(Clone, Debug)]
pub struct KeptKey {
    pub name: String,
    pub team: String,
    /// Unix seconds, as the others.
    pub made_s: u64,
    /// From then on it opens nothing.
    pub until_s: Option<u64>,
    pub is_enabled: bool,
    pub grants: String,
    pub tag: KeyTag,
    /// Of the key that this one took the place of, and until when that one still opens.
    pub before: Option<(KeyTag, u64)>,
    /// In days since 1970.
    pub used_day: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTeam {
    pub name: String,
    pub made_s: u64,
    pub limits: String,
}

impl KeptKey {
    /// Whether nothing at all is other.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let is_before = match (&self.before, &other.before) {
            (Some((tag, until_s)), Some((other, other_s))) => tag.is(other) && until_s == other_s,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_before
            && self.tag.is(&other.tag)
            && (&self.name, &self.team, &self.grants) == (&other.name, &other.team, &other.grants)
            && (self.made_s, self.until_s) == (other.made_s, other.until_s)
            && (self.is_enabled, self.used_day) == (other.is_enabled, other.used_day)
    }
}

/// All that stands in a place at one moment.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Another one after each change but those of days. It says nothing else: what was brought back from
    /// a copy may have a lower one.
    pub generation: u64,
    /// What the tags were made with.
    pub secret: TagSecret,
    /// By name, as the teams.
    pub keys: Vec<KeptKey>,
    pub teams: Vec<KeptTeam>,
    /// Whether a key was ever made, and may have been deleted since.
    pub has_made: bool,
}

/// What is to be written. A key or team takes the place of the one of its name.
#[derive(Clone, Debug)]
pub enum KeyRow {
    PutKey(KeptKey),
    RemoveKey(String),
    PutTeam(KeptTeam),
    RemoveTeam(String),
}

/// Why a place cannot be had, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error(transparent)]
    Postgres(#[from] PostgresFault),
    #[error("Postgres cannot be asked for keys at the moment")]
    Away,
    #[error(
        "Postgres has a beginning of keys that is another than the one known here; if it was emptied or \
         another one is meant, stop the node, move its folder keys/shared away, and start it again"
    )]
    OtherBeginning,
    #[error("nobody has begun a change")]
    NotBegun,
}

impl From<sqlx::Error> for KeyFault {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Where keys and teams that are made while nodes run are kept, by one node or by several.
///
/// A change is begun, judged by what stands there, and committed; whoever else begins one meanwhile waits.
/// So two that change at once do so one after the other, and the later one sees what the earlier one did.
/// After an error it is unknown whether the change was made, until the place was read again.
#[async_trait]
pub trait KeyPlace: fmt::Debug + Send {
    /// Takes the turn. Gives what stands there, if that is not what `known` is the generation of; whoever
    /// asked goes on from it, also when nothing is committed then.
    ///
    /// # Errors
    /// It cannot be had, or somebody else has the turn for too long. Then there is nothing to abandon.
    async fn begin(&mut self, known: Option<u64>) -> Result<Option<Rows>, KeyFault>;

    /// Writes `row`, and gives the turn back. It is on the disk when this returns, with its generation.
    ///
    /// # Errors
    /// It cannot be written, or the turn was lost.
    async fn commit(&mut self, row: &KeyRow) -> Result<u64, KeyFault>;

    /// Gives the turn back, with nothing written. Does nothing without it.
    async fn abandon(&mut self);

    /// # Errors
    /// It cannot be read, or holds what was not written here.
    async fn load(&mut self) -> Result<Rows, KeyFault>;

    /// Writes on which day keys were last used; a day never goes back, and keys that are not there have
    /// none. No change of generation.
    ///
    /// # Errors
    /// It cannot be written.
    async fn put_days(&mut self, days: &[(String, u32)]) -> Result<(), KeyFault>;
}

pub(super) fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// A time before 1970 is long over, as 1970 is.
pub(super) fn unsigned(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}
