//! When a request is sent again: how long to wait before, and how often a node may.

use std::time::Duration;

/// How retries go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryRules {
    /// Retries and hedges of the node, in percent of its chats. Reached: none until more chats came.
    pub budget_percent: u32,
    /// Retries that may come at once, before a share of the chats is saved up.
    pub burst: u32,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            budget_percent: 10,
            burst: 10,
        }
    }
}

/// Retries of one candidate. One more: the next candidate.
pub const RETRIES_MAX: u32 = 2;

/// The first wait is up to this, and each further one up to twice as long.
pub const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// No wait of our own choice is longer.
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A wait that a provider asks for is kept up to this; where it wants more, the next candidate is
/// asked.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// The same while another candidate is left, who may answer at once.
pub const RETRY_AFTER_MAX_BESIDE_OTHERS: Duration = Duration::from_secs(1);

/// How long to wait before try `retries` + 1, with "full jitter": anything from nothing to the doubled
/// base (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A
/// provider's own wait comes on top: all that were refused with it would else come back at once.
/// `random` is from 0 to 1.
#[must_use]
pub fn backoff(retries: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let ceiling = BACKOFF_BASE.saturating_mul(1_u32.checked_shl(retries).unwrap_or(u32::MAX));
    let jitter = ceiling.min(BACKOFF_MAX).mul_f64(random.clamp(0.0, 1.0));
    retry_after.unwrap_or_default().saturating_add(jitter)
}

/// Hundredths of a retry: what one chat saves up at one percent.
const RETRY: u64 = 100;

/// A bucket that chats fill and retries empty, so that retries stay a share of the traffic however
/// long everything fails. It needs no clock: with no traffic there is nothing to retry.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    rules: RetryRules,
    saved: u64,
}

impl RetryBudget {
    /// Full at first.
    #[must_use]
    pub fn new(rules: RetryRules) -> Self {
        Self {
            rules,
            saved: u64::from(rules.burst) * RETRY,
        }
    }

    /// Other rules for what was saved up.
    pub fn set_rules(&mut self, rules: RetryRules) {
        self.rules = rules;
        self.saved = self.saved.min(self.room());
    }

    fn room(&self) -> u64 {
        u64::from(self.rules.burst) * RETRY
    }

    /// A chat came.
    pub fn chat(&mut self) {
        let saved = self.saved + u64::from(self.rules.budget_percent);
        self.saved = saved.min(self.room());
    }

    /// True when one retry is paid for.
    pub fn take(&mut self) -> bool {
        let left = self.saved.checked_sub(RETRY);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_a_cap_and_are_spread_over_all_of_it() {
        let ms = |wait: Duration| wait.as_millis();
        let most: Vec<_> = (0..8).map(|at| ms(backoff(at, None, 1.0))).collect();
        assert_eq!(most, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        assert_eq!(backoff(3, None, 0.0), Duration::ZERO);
        assert_eq!(ms(backoff(1, None, 0.5)), 100);
        assert_eq!(ms(backoff(u32::MAX, None, 1.0)), 2000);
        let named = Some(Duration::from_secs(3));
        assert_eq!(
            ms(backoff(0, named, 0.0)),
            3000,
            "never sooner than it says"
        );
        assert_eq!(ms(backoff(0, named, 1.0)), 3100);
    }

    #[test]
    fn the_burst_is_spent_and_then_a_share_of_the_chats() {
        let mut budget = RetryBudget::new(RetryRules::default());
        assert_eq!((0..50).filter(|_| budget.take()).count(), 10);
        (0..9).for_each(|_| budget.chat());
        assert!(!budget.take());
        budget.chat();
        assert!(budget.take() && !budget.take());
        (0..10_000).for_each(|_| budget.chat());
        assert_eq!((0..50).filter(|_| budget.take()).count(), 10);
    }

    #[test]
    fn no_percentage_means_the_burst_and_no_burst_means_none() {
        let none = RetryRules {
            budget_percent: 50,
            burst: 0,
        };
        let mut budget = RetryBudget::new(none);
        (0..100).for_each(|_| budget.chat());
        assert!(!budget.take());
    }

    proptest! {
        #[test]
        fn retries_never_exceed_their_share_and_the_burst(
            steps in prop::collection::vec(any::<bool>(), 0..2_000),
            budget_percent in 0_u32..100,
            burst in 0_u32..50,
        ) {
            let mut budget = RetryBudget::new(RetryRules { budget_percent, burst });
            let (mut chats, mut retries) = (0_u64, 0_u64);
            for is_chat in steps {
                if is_chat {
                    budget.chat();
                    chats += 1;
                } else {
                    retries += u64::from(budget.take());
                }
                let most = chats * u64::from(budget_percent) / 100 + u64::from(burst);
                prop_assert!(retries <= most);
            }
        }
    }
}
