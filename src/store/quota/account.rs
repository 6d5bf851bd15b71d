//! What was used of an amount, and what is held for exchanges that are not over.

use super::calendar::Window;

/// `settled + held` is no more than the limit after every [`hold`](Self::hold).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    window: Window,
    settled: u64,
    held: u64,
    /// Of exchanges that began in windows before this one: they are paid for there.
    held_before: u64,
}

/// A part of an account that is held. It is spent by settling it, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    window: Window,
    units: u64,
}

/// There is not enough left in this window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLeft;

impl Account {
    /// One of which `settled` was used before, in the same window.
    #[must_use]
    pub fn new(window: Window, settled: u64) -> Self {
        Self {
            window,
            settled,
            held: 0,
            held_before: 0,
        }
    }

    /// Goes on to `window`, where that is another. A clock that goes back changes nothing.
    pub fn turn(&mut self, window: Window) {
        if window.begins_after(&self.window) {
            *self = Self {
                window,
                settled: 0,
                held: 0,
                held_before: self.held_before.saturating_add(self.held),
            };
        }
    }

    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// For exchanges under way that began in this window.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Nothing was used of it, and nothing is held.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        (self.settled, self.held, self.held_before) == (0, 0, 0)
    }

    /// What was used is forgotten. What is held stays held.
    pub fn forget(&mut self) {
        self.settled = 0;
    }

    #[must_use]
    pub fn left(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.settled.saturating_add(self.held))
    }

    /// # Errors
    /// Less than `units` is left of `limit`; nothing is held.
    pub fn hold(&mut self, limit: u64, units: u64) -> Result<Held, NotLeft> {
        if units > self.left(limit) {
            return Err(NotLeft);
        }
        self.held += units;
        Ok(Held {
            window: self.window,
            units,
        })
    }

    /// Gives `held` back and counts what was used. What of another window's was held is not counted in
    /// this one.
    pub fn settle(&mut self, held: Held, used: u64) {
        if held.window == self.window {
            self.held = self.held.saturating_sub(held.units);
            self.settled = self.settled.saturating_add(used);
        } else {
            self.held_before = self.held_before.saturating_sub(held.units);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(index: u64) -> Window {
        Window {
            begin: index * 100,
            end: Some((index + 1) * 100),
        }
    }

    #[test]
    fn what_is_held_is_not_left_and_what_was_not_used_comes_back() {
        let mut account = Account::new(window(0), 30);
        let held = account.hold(100, 50).unwrap();
        assert_eq!((account.left(100), account.held()), (20, 50));
        assert_eq!(account.hold(100, 21), Err(NotLeft));
        let more = account.hold(100, 20).unwrap();
        account.settle(held, 10);
        assert_eq!((account.settled(), account.left(100)), (40, 40));
        account.settle(more, 0);
        assert_eq!((account.settled(), account.held()), (40, 0));
    }

    #[test]
    fn an_exchange_is_paid_for_where_it_began() {
        let mut account = Account::new(window(0), 0);
        let held = account.hold(100, 100).unwrap();
        account.turn(window(1));
        assert_eq!((account.left(100), account.held()), (100, 0));
        let next = account.hold(100, 40).unwrap();
        account.settle(held, 70);
        assert_eq!((account.settled(), account.held()), (0, 40));
        account.settle(next, 40);
        assert_eq!(account.left(100), 60);
    }

    #[test]
    fn a_clock_that_goes_back_brings_nothing_back() {
        let mut account = Account::new(window(5), 90);
        account.turn(window(4));
        assert_eq!((account.window(), account.left(100)), (window(5), 10));
    }

    #[test]
    fn a_limit_that_was_lowered_leaves_nothing() {
        let mut account = Account::new(window(0), 90);
        assert_eq!(account.left(50), 0);
        assert_eq!(account.hold(50, 1), Err(NotLeft));
        assert!(account.hold(50, 0).is_ok());
    }

    proptest! {
        /// However exchanges begin and end, what is settled and held stays within the limit as long as
        /// none uses more than was held, and in the end nothing is held.
        #[test]
        fn settled_and_held_stay_within_the_limit(
            limit in 0_u64..1_000,
            steps in proptest::collection::vec((0_u64..300, 0_u64..=100, any::<bool>()), 1..200),
        ) {
            let mut account = Account::new(window(0), 0);
            let (mut open, mut index, mut used) = (Vec::new(), 0, 0);
            for (units, percent, ends) in steps {
                if units == 299 {
                    index += 1;
                    used = 0;
                    account.turn(window(index));
                }
                if ends && let Some(held) = open.pop() {
                    let held: Held = held;
                    let spent = held.units * percent / 100;
                    used += if held.window == window(index) { spent } else { 0 };
                    account.settle(held, spent);
                } else if let Ok(held) = account.hold(limit, units) {
                    open.push(held);
                }
                prop_assert!(account.settled() + account.held() <= limit);
                prop_assert_eq!(account.settled(), used);
            }
            for held in open {
                account.settle(held, 0);
            }
            prop_assert_eq!((account.held(), account.held_before), (0, 0));
        }
    }
}
