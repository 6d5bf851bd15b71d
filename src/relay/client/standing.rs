//! Whether requests may go to a member: a value that is told what happened, and when.
//!
//! ```text
//! up ─no connection─► resting, longer each time ─► on trial, by a request or the driver
//!  └──turned away───► stopping ─────────────────► until its manifest answers again
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// The first rest. Doubled with each further miss, and spread over half to one and a half.
const REST_FIRST: Duration = Duration::from_secs(1);

/// The longest rest before it is spread.
const REST_MAX: Duration = Duration::from_secs(60);

/// Between two looks at a member that takes no requests, at least: what it names as its wait may be
/// nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest wait that is believed of a member that turned a request away. It is said in the clear, so
/// anybody on the way can say it.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Resting { until: Instant },
    Stopping { look_at: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    state: State,
    /// In a row.
    misses: u32,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            state: State::Up,
            misses: 0,
        }
    }
}

impl Standing {
    pub(super) fn is_open(&self, now: Instant) -> bool {
        match self.state {
            State::Up => true,
            State::Resting { until } => until <= now,
            State::Stopping { .. } => false,
        }
    }

    /// How long no request goes to it yet. `None` where one may.
    pub(super) fn rests_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Up => None,
            State::Resting { until } if until <= now => None,
            State::Resting { until: end } | State::Stopping { look_at: end } => {
                Some(end.saturating_duration_since(now).max(LOOK_EVERY))
            }
        }
    }

    /// No connection could be made.
    pub(super) fn missed(&mut self, now: Instant, spread: f64) {
        let doubled = REST_FIRST.saturating_mul(1 << self.misses.min(8));
        let rest = doubled.min(REST_MAX).mul_f64(spread);
        self.misses = self.misses.saturating_add(1);
        let until = now + rest;
        self.state = match self.state {
            State::Up | State::Resting { .. } => State::Resting { until },
            State::Stopping { .. } => State::Stopping { look_at: until },
        };
    }

    /// It takes no more requests. Whether that is new.
    pub(super) fn turned_away(&mut self, now: Instant, wait: Duration) -> bool {
        let was_open = !matches!(self.state, State::Stopping { .. });
        let look_at = now + wait.clamp(LOOK_EVERY, WAIT_MAX);
        self.state = State::Stopping { look_at };
        was_open
    }

    /// It answered a request. One that was sent before it began to stop says nothing of now.
    pub(super) fn answered(&mut self) {
        self.misses = 0;
        if let State::Resting { .. } = self.state {
            self.state = State::Up;
        }
    }

    /// Its manifest answered.
    pub(super) fn returned(&mut self) {
        *self = Self::default();
    }

    /// When to look whether it is back.
    pub(super) fn look_at(&self) -> Option<Instant> {
        match self.state {
            State::Up => None,
            State::Resting { until } => Some(until),
            State::Stopping { look_at } => Some(look_at),
        }
    }

    /// It was not back. `spread` is drawn from half to one and a half.
    pub(super) fn looked_in_vain(&mut self, now: Instant, spread: f64) {
        match self.state {
            State::Up => {}
            State::Resting { .. } | State::Stopping { .. } => self.missed(now, spread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_missed_rests_longer_each_time_until_it_answers() {
        let start = Instant::now();
        let mut standing = Standing::default();
        let mut rests = Vec::new();
        for _ in 0..9 {
            standing.missed(start, 1.0);
            rests.push(standing.rests_for(start).unwrap().as_secs());
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(!standing.is_open(start));
        assert!(standing.is_open(start + REST_MAX), "one may try it then");
        standing.answered();
        assert!(standing.is_open(start));
        standing.missed(start, 1.0);
        assert_eq!(standing.rests_for(start), Some(REST_FIRST));
    }

    #[test]
    fn one_that_turned_a_request_away_is_left_until_its_manifest_answers() {
        let start = Instant::now();
        let mut standing = Standing::default();
        assert!(standing.turned_away(start, Duration::from_secs(5)));
        assert!(!standing.turned_away(start, Duration::from_secs(5)));
        assert_eq!(standing.look_at(), Some(start + Duration::from_secs(5)));
        standing.answered();
        assert!(
            !standing.is_open(start + REST_MAX),
            "time alone opens nothing"
        );
        standing.looked_in_vain(start, 1.0);
        assert_eq!(standing.look_at(), Some(start + REST_FIRST));
        assert!(!standing.is_open(start + REST_MAX));
        standing.returned();
        assert!(standing.is_open(start));
        assert_eq!(standing.look_at(), None);
    }

    #[test]
    fn nobody_on_the_way_can_send_a_member_away_for_good() {
        let start = Instant::now();
        let mut standing = Standing::default();
        standing.turned_away(start, Duration::from_secs(9_999_999));
        assert_eq!(standing.look_at(), Some(start + WAIT_MAX));
        standing.turned_away(start, Duration::ZERO);
        assert_eq!(standing.look_at(), Some(start + LOOK_EVERY));
    }
}
