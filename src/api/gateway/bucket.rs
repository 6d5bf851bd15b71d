//! Something that is spent at once and comes back steadily.

use std::time::Duration;

use tokio::time::Instant;

/// Its level may fall below nothing: then who would take of it has to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    level: f64,
    at: Instant,
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flowing {
    pub per_s: f64,
    pub room: f64,
}

impl Bucket {
    pub fn full(flow: Flowing, now: Instant) -> Self {
        Self {
            level: flow.room,
            at: now,
        }
    }

    fn fill(&mut self, flow: Flowing, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * flow.per_s).min(flow.room);
        self.at = now;
    }

    pub fn is_full(&mut self, flow: Flowing, now: Instant) -> bool {
        self.fill(flow, now);
        self.level >= flow.room
    }

    /// # Errors
    /// How long to wait until there is so much in it; then nothing was taken.
    pub fn take(&mut self, amount: f64, flow: Flowing, now: Instant) -> Result<(), Duration> {
        self.fill(flow, now);
        if self.level >= amount {
            self.level -= amount;
            return Ok(());
        }
        let wait = (amount - self.level) / flow.per_s.max(f64::MIN_POSITIVE);
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }

    /// What was spent already, whether there is as much or not.
    pub fn spend(&mut self, amount: f64) {
        self.level -= amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_comes_back_steadily_and_a_debt_is_waited_for() {
        let flow = Flowing {
            per_s: 2.0,
            room: 4.0,
        };
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let mut bucket = Bucket::full(flow, now);
        for _ in 0..4 {
            assert_eq!(bucket.take(1.0, flow, now), Ok(()));
        }
        assert_eq!(bucket.take(1.0, flow, now), Err(Duration::from_millis(500)));
        assert_eq!(bucket.take(1.0, flow, at(500)), Ok(()));
        bucket.spend(3.0);
        assert_eq!(bucket.take(1.0, flow, at(500)), Err(Duration::from_secs(2)));
        assert!(!bucket.is_full(flow, at(3_999)));
        assert!(bucket.is_full(flow, at(4_000)));
    }
}
