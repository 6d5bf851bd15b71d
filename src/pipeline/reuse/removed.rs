//! What was removed of late: replies that waited to be compared meanwhile are not kept after it.

use std::collections::VecDeque;
use std::time::SystemTime;

use domain::{Entry, Purge};

/// Removals that are remembered. Of what waits since before one that is forgotten, nothing is kept.
const REMOVALS_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// The latest, the oldest first.
    latest: VecDeque<Purge>,
    /// How many there were in all.
    count: u64,
}

impl Removed {
    pub fn note(&mut self, what: &Purge) {
        if *what == Purge::Expired {
            return;
        }
        self.latest.push_back(what.clone());
        self.count += 1;
        if self.latest.len() > REMOVALS_MAX {
            self.latest.pop_front();
        }
    }

    /// How many there were so far: whoever waits from here on is asked for it later.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether an entry that waits since there were `since` removals is among what went after that.
    pub fn takes(&self, entry: &Entry, since: u64, now: SystemTime) -> bool {
        let Ok(after) = usize::try_from(self.count - since.min(self.count)) else {
            return true;
        };
        after > self.latest.len()
            || self
                .latest
                .iter()
                .rev()
                .take(after)
                .any(|what| what.takes(entry, now))
    }
}
