//! Connections that wait for their next request.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use crate::transport::DirectRules;

/// The kept connections of one upstream. The last one back is the first one out, so that those that
/// are not needed grow old.
pub(crate) struct Idle {
    kept: Mutex<Vec<Kept>>,
    count_max: usize,
    age_max: Duration,
}

struct Kept {
    connection: Connection,
    since: Instant,
}

impl Idle {
    pub fn new(rules: &DirectRules) -> Self {
        Self {
            kept: Mutex::default(),
            count_max: rules.idle_count_max,
            age_max: rules.idle_max,
        }
    }

    /// A connection that still stands as far as is known. Whether it does shows when it is used.
    pub fn take(&self) -> Option<Connection> {
        loop {
            let mut kept = self.kept().pop()?;
            if kept.stands(Instant::now(), self.age_max) {
                return Some(kept.connection);
            }
        }
    }

    /// Keeps a connection whose exchange is over, if there is room.
    pub fn put(&self, connection: Connection) {
        let mut kept = self.kept();
        if kept.len() < self.count_max {
            kept.push(Kept {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes those that are over.
    pub fn sweep(&self, now: Instant) {
        let age_max = self.age_max;
        self.kept().retain_mut(|kept| kept.stands(now, age_max));
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.kept().len()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn stands(&mut self, now: Instant, age_max: Duration) -> bool {
        now.saturating_duration_since(self.since) < age_max && self.connection.stands()
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Idle({} connections)", self.kept().len())
    }
}
