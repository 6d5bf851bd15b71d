//! A limit that refills steadily, by the generic cell rate algorithm (ITU-T I.371, annex A; also called
//! a leaky bucket as a meter): one instant says it all, the one at which the bucket will be full again.

use std::time::Duration;

/// Times are nanoseconds since any one moment, the same for all calls; before it is as at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Bucket {
    /// When all that was taken has come back. In the past: it is full.
    full_at: u64,
}

/// How a bucket is filled: `amount` in each `period`, and holds `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub amount: u64,
    pub period: Duration,
    pub burst: u64,
}

impl Rate {
    /// How long `units` take to come back, in nanoseconds, rounded up so that no more than the rate is
    /// ever given.
    #[must_use]
    pub fn time_of(self, units: u64) -> u64 {
        let nanos = u128::from(units) * self.period.as_nanos();
        let nanos = nanos.div_ceil(u128::from(self.amount.max(1)));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// The same, rounded down: for what is put back, or the rounding could be drawn from.
    #[must_use]
    pub fn time_back(self, units: u64) -> u64 {
        let nanos = u128::from(units) * self.period.as_nanos() / u128::from(self.amount.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// How many come back in `nanos`, rounded down.
    fn units_in(self, nanos: u64) -> u64 {
        let units = u128::from(nanos) * u128::from(self.amount);
        let units = units / self.period.as_nanos().max(1);
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}

impl Bucket {
    /// One that is full when so many nanoseconds have passed.
    #[must_use]
    pub fn full_in(nanos: u64, now: u64) -> Self {
        Self {
            full_at: now.saturating_add(nanos),
        }
    }

    /// What may be taken at `now`.
    #[must_use]
    pub fn left(&self, rate: Rate, now: u64) -> u64 {
        if rate.amount == 0 {
            return 0;
        }
        let missing = self.full_at.saturating_sub(now);
        let depth = rate.time_of(rate.burst);
        rate.units_in(depth.saturating_sub(missing)).min(rate.burst)
    }

    /// How long until `units` can be taken: nothing where they can be now.
    ///
    /// # Errors
    /// They never can: the bucket holds less.
    pub fn wait(&self, rate: Rate, units: u64, now: u64) -> Result<Duration, NeverHolds> {
        if units == 0 {
            return Ok(Duration::ZERO);
        }
        if units > rate.burst || rate.amount == 0 {
            return Err(NeverHolds);
        }
        let after = self.full_at.max(now).saturating_add(rate.time_of(units));
        let latest = now.saturating_add(rate.time_of(rate.burst));
        Ok(Duration::from_nanos(after.saturating_sub(latest)))
    }

    /// Takes them, whether they are there or not: what was used was used. Says when they will have come
    /// back by themselves.
    pub fn take(&mut self, rate: Rate, units: u64, now: u64) -> u64 {
        let began = self.full_at.max(now);
        self.full_at = began.saturating_add(rate.time_of(units));
        self.full_at
    }

    /// Puts back what was taken too much, of what has not come back by itself: `until` is what taking it
    /// said. What would be more than full is full.
    pub fn put_back(&mut self, rate: Rate, units: u64, until: u64, now: u64) {
        let nanos = rate.time_back(units).min(until.saturating_sub(now));
        self.full_at = self.full_at.saturating_sub(nanos);
    }

    /// How long until it is full.
    #[must_use]
    pub fn full_after(&self, now: u64) -> Duration {
        Duration::from_nanos(self.full_at.saturating_sub(now))
    }
}

/// More is asked for at once than there ever is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeverHolds;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(amount: u64, seconds: u64, burst: u64) -> Rate {
        Rate {
            amount,
            period: Duration::from_secs(seconds),
            burst,
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (rate, mut bucket) = (rate(60, 60, 10), Bucket::default());
        let now = 5 * SECOND;
        for taken in 0..10 {
            assert_eq!(bucket.left(rate, now), 10 - taken);
            assert_eq!(bucket.wait(rate, 1, now), Ok(Duration::ZERO));
            bucket.take(rate, 1, now);
        }
        assert_eq!(bucket.wait(rate, 1, now), Ok(Duration::from_secs(1)));
        assert_eq!(bucket.wait(rate, 3, now), Ok(Duration::from_secs(3)));
        assert_eq!(bucket.full_after(now), Duration::from_secs(10));
        let now = now + SECOND;
        assert_eq!(bucket.wait(rate, 1, now), Ok(Duration::ZERO));
        bucket.take(rate, 1, now);
        assert_eq!(bucket.wait(rate, 1, now), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn more_than_it_holds_never_comes() {
        assert_eq!(
            Bucket::default().wait(rate(60, 60, 10), 11, 0),
            Err(NeverHolds)
        );
        assert_eq!(
            Bucket::default().wait(rate(0, 60, 10), 1, 0),
            Err(NeverHolds)
        );
        assert_eq!(Bucket::default().left(rate(0, 60, 10), 0), 0);
        // Nothing is there always.
        assert_eq!(
            Bucket::default().wait(rate(0, 60, 0), 0, 0),
            Ok(Duration::ZERO)
        );
    }

    #[test]
    fn what_comes_back_is_there_at_once_and_no_more_than_it() {
        let (rate, mut bucket) = (rate(1_000, 60, 1_000), Bucket::default());
        let until = bucket.take(rate, 900, 0);
        assert_eq!(bucket.left(rate, 0), 100);
        bucket.put_back(rate, 600, until, 0);
        assert_eq!(bucket.left(rate, 0), 700);
        bucket.put_back(rate, 5_000, until, 0);
        assert_eq!(bucket.left(rate, 0), 1_000);
    }

    #[test]
    fn what_came_back_by_itself_is_not_put_back_once_more() {
        let (rate, mut bucket) = (rate(1_000, 60, 1_000), Bucket::default());
        let until = bucket.take(rate, 1_000, 0);
        // A minute later all of it is there again, and another takes it.
        let now = 60 * SECOND;
        bucket.take(rate, 1_000, now);
        bucket.put_back(rate, 1_000, until, now);
        assert_eq!(bucket.left(rate, now), 0);
        // Half a minute later, half of it.
        let mut bucket = Bucket::default();
        let until = bucket.take(rate, 1_000, 0);
        bucket.put_back(rate, 1_000, until, 30 * SECOND);
        assert_eq!(bucket.left(rate, 30 * SECOND), 1_000);
        bucket.take(rate, 1_000, 30 * SECOND);
        assert_eq!(bucket.left(rate, 30 * SECOND), 0);
    }

    #[test]
    fn what_was_used_beyond_the_limit_is_paid_off() {
        let (rate, mut bucket) = (rate(60, 60, 10), Bucket::default());
        bucket.take(rate, 30, 0);
        assert_eq!(bucket.left(rate, 0), 0);
        assert_eq!(bucket.wait(rate, 1, 0), Ok(Duration::from_secs(21)));
    }

    #[test]
    fn nothing_overflows() {
        let rate = rate(u64::MAX, 3_600, u64::MAX);
        let mut bucket = Bucket::default();
        let until = bucket.take(rate, u64::MAX, u64::MAX);
        bucket.put_back(rate, u64::MAX, until, 0);
        assert_eq!(bucket.full_after(u64::MAX), Duration::ZERO);
    }

    proptest! {
        /// In every window, however the requests fall, no more is given than the burst and what the
        /// window brings.
        #[test]
        fn no_window_gets_more_than_its_rate_and_the_burst(
            amount in 1_u64..5_000,
            seconds in 1_u64..4_000,
            burst in 1_u64..500,
            asks in proptest::collection::vec((0_u64..3 * SECOND, 1_u64..60), 1..200),
        ) {
            let (rate, mut bucket) = (rate(amount, seconds, burst), Bucket::default());
            let (mut now, mut given) = (0, Vec::new());
            for (pause, units) in asks {
                now += pause;
                if bucket.wait(rate, units, now) == Ok(Duration::ZERO) {
                    prop_assert!(bucket.left(rate, now) >= units);
                    bucket.take(rate, units, now);
                    given.push((now, units));
                }
            }
            for (index, (from, _)) in given.iter().enumerate() {
                let mut sum = 0_u128;
                for (until, units) in &given[index..] {
                    sum += u128::from(*units);
                    let nanos = u128::from(until - from);
                    let brought = nanos * u128::from(amount) / (u128::from(seconds) * u128::from(SECOND));
                    prop_assert!(sum <= u128::from(burst) + brought, "{sum} in {nanos} ns");
                }
            }
        }

        /// Taking and putting back any amounts leaves no more than there was.
        #[test]
        fn nothing_is_gained_by_putting_back(
            amount in 1_u64..5_000,
            burst in 1_u64..500,
            takes in proptest::collection::vec((1_u64..100, 0_u64..100), 1..50),
        ) {
            let (rate, mut bucket) = (rate(amount, 60, burst), Bucket::default());
            bucket.take(rate, burst, 0);
            let left = bucket.full_after(0);
            for (taken, back) in takes {
                let until = bucket.take(rate, taken, 0);
                bucket.put_back(rate, back.min(taken), until, 0);
            }
            prop_assert!(bucket.full_after(0) >= left);
        }
    }
}
