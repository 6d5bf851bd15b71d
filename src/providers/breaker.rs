//! Remembers an upstream that cannot be reached, for a while.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use domain::{Health, HealthState};
use tokio::time::Instant;

/// Consecutive chats that found no connection before the upstream counts as down.
const FAILURES_MAX: u32 = 3;
/// How long it then counts as down. After that the next chat is the probe: one more failure opens
/// the breaker again at once, one answer closes it.
const COOL_OFF: Duration = Duration::from_secs(5);

/// A passive health cell: it learns from chats, never asks by itself. Lock-free, because `health`
/// is read for every exchange.
#[derive(Debug)]
pub(crate) struct Breaker {
    made_at: Instant,
    failures: AtomicU32,
    /// Milliseconds after `made_at`.
    down_until_ms: AtomicU64,
}

impl Breaker {
    pub fn new(now: Instant) -> Self {
        Self {
            made_at: now,
            failures: AtomicU32::new(0),
            down_until_ms: AtomicU64::new(0),
        }
    }

    pub fn health(&self, now: Instant) -> Health {
        if self.failures.load(Ordering::Relaxed) < FAILURES_MAX {
            return Health::READY;
        }
        let until = Duration::from_millis(self.down_until_ms.load(Ordering::Relaxed));
        match until.checked_sub(now.duration_since(self.made_at)) {
            Some(wait) if !wait.is_zero() => Health::of(HealthState::Down, Some(wait)),
            _ => Health::READY,
        }
    }

    /// The upstream answered, whatever it said.
    pub fn reached(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// No connection could be made.
    pub fn missed(&self, now: Instant) {
        let until = now.duration_since(self.made_at) + COOL_OFF;
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.down_until_ms.store(until_ms, Ordering::Relaxed);
        // Saturates in practice: four billion failures without an answer.
        self.failures.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_miss_opens_it_and_time_closes_it() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        breaker.missed(start);
        breaker.missed(start);
        assert_eq!(breaker.health(start), Health::READY);
        breaker.missed(start);
        assert_eq!(breaker.health(start).state, HealthState::Down);
        assert_eq!(breaker.health(start).wait, Some(COOL_OFF));
        assert_eq!(breaker.health(start + COOL_OFF), Health::READY);
    }

    #[test]
    fn a_failed_probe_opens_it_again_at_once() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        (0..3).for_each(|_| breaker.missed(start));
        let probe = start + COOL_OFF;
        breaker.missed(probe);
        assert_eq!(breaker.health(probe).state, HealthState::Down);
    }

    #[test]
    fn an_answer_forgets_all_misses() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        (0..3).for_each(|_| breaker.missed(start));
        breaker.reached();
        assert_eq!(breaker.health(start), Health::READY);
        breaker.missed(start);
        assert_eq!(breaker.health(start), Health::READY);
    }
}
