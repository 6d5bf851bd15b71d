//! Requests that wait until a limit has enough left for them: a line for each limit that says so.
//!
//! ```text
//! exhausted ─► falls in ─► its turn ─► tries ─► taken: leaves, the next one's turn
//!                 │          ▲           └ exhausted: until something comes back, or is foretold to
//!                 │          └ rung by whoever leaves, and by each exchange that gives back
//!                 └ the line is full, or its time is up ─► refused, as without a line
//! ```
//! Only the one whose turn it is tries, so nobody overtakes anybody and nobody polls. Keys take turns
//! where several wait for one limit; under one key it is first come, first served. A request waits in one
//! line at a time: where another limit is short next, it falls in there, behind all others.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::KeyId;
use tokio::sync::Notify;

/// How long requests may wait for a limit, and how many for one at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRules {
    pub wait_max: Duration,
    pub waiting_max: usize,
}

impl Default for QueueRules {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_secs(10),
            waiting_max: 64,
        }
    }
}

/// All lines. Those in which nobody waits are not there.
pub(crate) struct Lines {
    rules: QueueRules,
    /// Over all lines: most of the time nobody waits anywhere.
    waiting: AtomicUsize,
    lines: Mutex<HashMap<String, Line>>,
}

/// By key, in the order of their turns; of each, in the order in which they came. None is empty.
#[derive(Default)]
struct Line(VecDeque<(Option<KeyId>, VecDeque<Arc<Notify>>)>);

impl Line {
    fn count(&self) -> usize {
        self.0.iter().map(|(_, waiting)| waiting.len()).sum()
    }

    fn first(&self) -> Option<&Arc<Notify>> {
        self.0.front()?.1.front()
    }

    fn fall_in(&mut self, key: Option<&KeyId>, bell: Arc<Notify>) {
        match self.0.iter_mut().find(|(of, _)| of.as_ref() == key) {
            Some((_, waiting)) => waiting.push_back(bell),
            None => self.0.push_back((key.cloned(), [bell].into())),
        }
    }

    fn leave(&mut self, bell: &Arc<Notify>) {
        let was_first = self.first().is_some_and(|first| Arc::ptr_eq(first, bell));
        for (_, waiting) in &mut self.0 {
            waiting.retain(|other| !Arc::ptr_eq(other, bell));
        }
        if was_first {
            self.0.rotate_left(1);
        }
        self.0.retain(|(_, waiting)| !waiting.is_empty());
        if was_first && let Some(first) = self.first() {
            first.notify_one();
        }
    }
}

impl Lines {
    pub fn new(rules: QueueRules) -> Self {
        Self {
            rules,
            waiting: AtomicUsize::new(0),
            lines: Mutex::default(),
        }
    }

    pub fn wait_max(&self) -> Duration {
        self.rules.wait_max
    }

    /// Requests that wait, over all lines.
    pub fn waiting_count(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub fn is_waited_for(&self, account: &str) -> bool {
        self.waiting_count() > 0 && self.lock().contains_key(account)
    }

    /// `None`: the line is full.
    pub fn fall_in(self: &Arc<Self>, account: String, key: Option<&KeyId>) -> Option<Place> {
        let bell = Arc::new(Notify::new());
        let mut lines = self.lock();
        let count = lines.get(&account).map_or(0, Line::count);
        if count >= self.rules.waiting_max {
            return None;
        }
        let line = lines.entry(account.clone()).or_default();
        line.fall_in(key, Arc::clone(&bell));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(lines);
        Some(Place {
            lines: Arc::clone(self),
            account,
            bell,
        })
    }

    /// Something came back to the limits of `accounts`.
    pub fn ring<'a>(&self, accounts: impl Iterator<Item = &'a domain::Limit>) {
        if self.waiting_count() == 0 {
            return;
        }
        let lines = self.lock();
        for limit in accounts {
            let line = lines.get(&limit.account());
            if let Some(first) = line.and_then(Line::first) {
                first.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({} waiting)", self.waiting_count())
    }
}

/// A place in a line, left when it is dropped.
pub(crate) struct Place {
    lines: Arc<Lines>,
    account: String,
    bell: Arc<Notify>,
}

impl Place {
    pub fn is_in_line_of(&self, account: &str) -> bool {
        self.account == account
    }

    pub fn has_its_turn(&self) -> bool {
        let lines = self.lines.lock();
        let first = lines.get(&self.account).and_then(Line::first);
        first.is_some_and(|first| Arc::ptr_eq(first, &self.bell))
    }

    /// Something has changed for the one whose turn it is, or it is another one's. Never missed: who is
    /// rung before it listens hears it then.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get_mut(&self.account) {
            line.leave(&self.bell);
            if line.0.is_empty() {
                lines.remove(&self.account);
            }
            self.lines.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(waiting_max: usize) -> Arc<Lines> {
        Arc::new(Lines::new(QueueRules {
            waiting_max,
            ..QueueRules::default()
        }))
    }

    fn place(lines: &Arc<Lines>, key: &str) -> Option<Place> {
        lines.fall_in("a".into(), Some(&key.into()))
    }

    #[test]
    fn keys_take_turns_and_each_is_served_in_order() {
        let lines = lines(8);
        let mut places: Vec<(&str, Place)> = ["k1", "k1", "k1", "k2", "k1", "k2"]
            .map(|key| (key, place(&lines, key).unwrap()))
            .into();
        let mut order = Vec::new();
        while let Some(at) = places.iter().position(|(_, place)| place.has_its_turn()) {
            let (key, place) = places.remove(at);
            order.push(key);
            drop(place);
        }
        assert_eq!(order, ["k1", "k2", "k1", "k2", "k1", "k1"]);
        assert!(lines.lock().is_empty());
        assert_eq!(lines.waiting_count(), 0);
    }

    #[test]
    fn a_full_line_takes_nobody_and_a_place_that_is_left_is_free() {
        let lines = lines(2);
        let first = place(&lines, "k").unwrap();
        let second = place(&lines, "k").unwrap();
        assert!(place(&lines, "k").is_none());
        // Others have lines of their own.
        assert!(lines.fall_in("b".into(), None).is_some());
        drop(second);
        let third = place(&lines, "k").unwrap();
        assert!(first.has_its_turn() && !third.has_its_turn());
        drop(first);
        assert!(third.has_its_turn());
    }

    #[tokio::test(start_paused = true)]
    async fn whose_turn_it_becomes_is_rung() {
        let lines = lines(8);
        let (first, second) = (place(&lines, "k").unwrap(), place(&lines, "k").unwrap());
        drop(first);
        second.rung().await;
        assert!(second.has_its_turn());
    }
}
