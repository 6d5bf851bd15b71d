//! No request is taken twice.
//!
//! A request states when it was made, and is taken only near that time, once. Keys that were made
//! after it cannot open it, so a restart forgets nothing that matters. The relay's clock never goes
//! back in here: where it was set back, requests seem stale for as long, and are not taken again.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::once::{Met, OnceSet};
use crate::sealed::EncDigest;
use crate::time::UnixTime;

/// How far a request's date may be from the relay's clock, either way.
pub const DATE_WINDOW: Duration = Duration::from_secs(120);

/// How long a request is remembered at least: it can be within the window for as long.
pub const REPLAY_KEEP: Duration = Duration::from_secs(240);

/// Requests that are remembered at once: some 80 MB. Beyond, requests are refused with a wait, and
/// none is forgotten.
pub const REPLAY_ENTRIES_MAX: usize = 2_000_000;

/// How long a key of idempotence is remembered at least.
pub const IDEMPOTENCE_KEEP: Duration = Duration::from_secs(600);

/// Keys of idempotence that are remembered at once. Beyond, requests are refused with a wait.
pub const IDEMPOTENCE_ENTRIES_MAX: usize = 2_000_000;

/// A key of idempotence, in bytes: a UUID is 36.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 64;

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplayRefused {
    /// The sender may correct its clock by the relay's, and seal once more.
    #[error("request is dated outside of the window around the relay's time")]
    Date { now: UnixTime },
    #[error("request was taken before")]
    Seen,
    #[error("no more requests can be remembered for {wait:?}")]
    Full { wait: Duration },
}

impl From<Met> for Result<(), ReplayRefused> {
    fn from(met: Met) -> Self {
        match met {
            Met::First => Ok(()),
            Met::Again => Err(ReplayRefused::Seen),
            Met::Full(wait) => Err(ReplayRefused::Full { wait }),
        }
    }
}

/// What was taken within the last minutes.
#[derive(Debug)]
pub struct ReplayCache {
    seen: OnceSet,
}

impl ReplayCache {
    pub fn new(now: UnixTime) -> Self {
        Self::with_room(REPLAY_ENTRIES_MAX, now)
    }

    /// With room for `entries_max` requests.
    pub fn with_room(entries_max: usize, now: UnixTime) -> Self {
        Self {
            seen: OnceSet::new(REPLAY_KEEP, entries_max, now),
        }
    }

    /// Whether it was taken, as far as can be said before it is opened. It costs nothing.
    pub fn has_seen(&self, digest: &EncDigest) -> bool {
        self.seen.contains(digest.as_bytes())
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a request that was opened and whose sender is known, before anything is done for it:
    /// of all that carry one digest, one is taken.
    ///
    /// # Errors
    /// Then nothing may be done for it.
    pub fn take(
        &mut self,
        digest: &EncDigest,
        date: UnixTime,
        now: UnixTime,
    ) -> Result<(), ReplayRefused> {
        let now = self.seen.tell(now);
        if now.since(date).max(date.since(now)) > DATE_WINDOW {
            return Err(ReplayRefused::Date { now });
        }
        self.seen.meet(*digest.as_bytes(), now).into()
    }
}

/// The keys of idempotence that each edge used: a request that is sealed anew, with its old key,
/// because somebody said that it was not taken, is not done twice.
#[derive(Debug)]
pub struct IdempotenceCache {
    seen: OnceSet,
}

impl IdempotenceCache {
    pub fn new(now: UnixTime) -> Self {
        Self {
            seen: OnceSet::new(IDEMPOTENCE_KEEP, IDEMPOTENCE_ENTRIES_MAX, now),
        }
    }

    /// # Errors
    /// [`ReplayRefused::Seen`] for a key that this edge used before, [`ReplayRefused::Full`].
    pub fn take(&mut self, edge_id: &str, key: &str, now: UnixTime) -> Result<(), ReplayRefused> {
        let mut digest = Sha256::new();
        digest.update((edge_id.len() as u64).to_be_bytes());
        digest.update(edge_id);
        digest.update(key);
        let mut mark = [0; 16];
        mark.copy_from_slice(&digest.finalize()[..16]);
        self.seen.meet(mark, now).into()
    }
}
