//! Remembers what was seen, for at least a stated time, in two generations.
//!
//! The older one is forgotten as a whole when the younger is as old as that time. Where there is no
//! more room nothing is forgotten: what is new is refused.

use std::collections::HashSet;
use std::time::Duration;

use crate::time::UnixTime;

/// Of what is remembered: 16 bytes of a digest, which nobody can choose.
pub(crate) type Mark = [u8; 16];

/// What came of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    First,
    Again,
    /// There is no room until then.
    Full(Duration),
}

#[derive(Debug)]
pub(crate) struct OnceSet {
    young: HashSet<Mark>,
    old: HashSet<Mark>,
    /// Since when `young` is filled.
    young_since: UnixTime,
    keep: Duration,
    entries_max: usize,
    /// The latest time that was ever told.
    latest: UnixTime,
}

impl OnceSet {
    pub(crate) fn new(keep: Duration, entries_max: usize, now: UnixTime) -> Self {
        Self {
            young: HashSet::new(),
            old: HashSet::new(),
            young_since: now,
            keep,
            entries_max,
            latest: now,
        }
    }

    /// The time as it is here: it never goes back.
    pub(crate) fn tell(&mut self, now: UnixTime) -> UnixTime {
        self.latest = self.latest.max(now);
        self.latest
    }

    pub(crate) fn contains(&self, mark: &Mark) -> bool {
        self.young.contains(mark) || self.old.contains(mark)
    }

    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(crate) fn meet(&mut self, mark: Mark, now: UnixTime) -> Met {
        let now = self.tell(now);
        self.turn(now);
        if self.contains(&mark) {
            return Met::Again;
        }
        if self.len() >= self.entries_max {
            // What is left of the younger's time, after which the older is forgotten.
            let left = self.keep.saturating_sub(now.since(self.young_since));
            return Met::Full(left.max(Duration::from_secs(1)));
        }
        self.young.insert(mark);
        Met::First
    }

    fn turn(&mut self, now: UnixTime) {
        let age = now.since(self.young_since);
        if age < self.keep {
            return;
        }
        let young = std::mem::take(&mut self.young);
        self.old = if age < 2 * self.keep {
            young
        } else {
            HashSet::new()
        };
        self.young_since = now;
    }
}
