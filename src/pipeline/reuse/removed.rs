//! What was removed of late: replies that waited to be compared meanwhile are not kept after it.

use std::collections::VecDeque;
use std::time::SystemTime;

use domain::{Entry, Purge};

/// Removals that are remembered. Of what was kept before one that is forgotten, nothing is kept late.
const REMOVALS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// The oldest first.
    latest: VecDeque<(Purge, SystemTime)>,
    /// When the last was that is forgotten.
    forgotten_at: Option<SystemTime>,
}

impl Removed {
    pub fn note(&mut self, what: &Purge, at: SystemTime) {
        if *what == Purge::Expired {
            return;
        }
        self.latest.push_back((what.clone(), at));
        if self.latest.len() > REMOVALS_MAX {
            self.forgotten_at = self.latest.pop_front().map(|(_, at)| at);
        }
    }

    /// Whether the entry, kept when its reply ended, is among what was to be removed.
    pub fn takes(&self, entry: &Entry, now: SystemTime) -> bool {
        let kept_at = entry.kept.kept_at;
        let is_older = self.forgotten_at.is_some_and(|at| kept_at <= at);
        let mut meant = self.latest.iter().filter(|(_, at)| kept_at <= *at);
        is_older || meant.any(|(what, _)| what.takes(entry, now))
    }
}
