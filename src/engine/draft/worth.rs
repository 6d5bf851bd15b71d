//! What a draft costs on this machine, as measured, and how long one is worth its price.

use std::time::Duration;

/// Lengths a draft may have. Few, because llama.cpp builds its graph anew whenever the number of rows
/// changes; the longest is one token short of sixteen rows.
pub(super) const LENGTHS: [u32; 5] = [1, 2, 4, 8, 15];

/// Prices in tokens: 1 is the time in which all replies together get one token without drafts. It
/// falls with their number, since one batch serves them all, so prices rise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Price {
    /// Of each drafted token.
    pub row: f64,
    /// Of a batch with another number of rows than the one before.
    pub switch: f64,
}

impl Price {
    /// Of a draft of `length` after one of `before`.
    pub(super) fn of(self, length: u32, before: u32) -> f64 {
        // Back again, too, after a draft that was the only one.
        let switches = match (length == before, before) {
            (true, _) => 0.0,
            (false, 0) => 2.0,
            (false, _) => 1.0,
        };
        f64::from(length) * self.row + switches * self.switch
    }
}

/// The length that brings the most tokens in the least time when each drafted token is right with
/// `odds`, given those before it; `None` when none is better than no draft.
pub(super) fn best_length(price: Price, odds: f64, most: u32, before: u32) -> Option<u32> {
    let mut best = None;
    let mut best_rate = 1.0;
    for length in LENGTHS.into_iter().filter(|length| *length <= most) {
        let tokens = 1.0 + accepted(odds, length);
        let rate = tokens / (1.0 + price.of(length, before));
        if rate > best_rate {
            (best, best_rate) = (Some(length), rate);
        }
    }
    best
}

/// How many of `length` drafted tokens are expected to be right.
fn accepted(odds: f64, length: u32) -> f64 {
    (1..=length)
        .map(|place| odds.powi(place.cast_signed()))
        .sum()
}

/// Learnt times of the steps that compute replies alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Costs {
    /// Seconds of a step without drafts, for `replies` at once; a moving mean.
    step_s: Option<f64>,
    replies: u32,
    /// Seconds of each drafted token; a moving mean.
    row_s: Option<f64>,
    /// Seconds more of a step with another number of rows than the one before; a moving mean.
    switch_s: f64,
    rows_before: Option<u32>,
}

impl Costs {
    /// A row in steps of one reply, until measured: between the two thirds of it that the smallest
    /// models take and the tenth of large ones.
    const ROW_UNMEASURED: f64 = 0.3;
    /// Noise can make rows look free.
    const ROW_MIN: f64 = 0.02;
    /// The share of a new measurement in a mean.
    const WEIGHT: f64 = 0.2;
    /// Drafts with fewer tokens say less about each.
    const TELLING_TOKENS: f64 = 8.0;
    /// A step that took so many times the mean was held up by something else.
    const HELD_UP: f64 = 2.0;

    /// Learns from a step that computed one token of each of `replies` and `drafted` tokens.
    pub fn learn(&mut self, replies: u32, drafted: u32, took: Duration) {
        let took = took.as_secs_f64();
        let rows = replies.saturating_add(drafted);
        let has_switched = self.rows_before.replace(rows) != Some(rows);
        if replies != self.replies {
            let more = f64::from(replies) - f64::from(self.replies);
            self.replies = replies;
            // A reply's own row costs what a drafted one does.
            self.step_s = self
                .step_s
                .zip(self.row_s)
                .map(|(step, row)| step + more * row)
                .filter(|step| *step > 0.0);
        }
        let Some(step_s) = self.step_s else {
            self.step_s = (drafted == 0 && !has_switched).then_some(took);
            return;
        };
        match (drafted, has_switched) {
            (0, false) => self.step_s = Some(blend(step_s, took, step_s, Self::WEIGHT)),
            (0, true) => {
                let more = (took - step_s).max(0.0);
                self.switch_s = blend(self.switch_s, more, step_s, Self::WEIGHT);
            }
            _ => {
                let switched = if has_switched { self.switch_s } else { 0.0 };
                let each = ((took - step_s - switched) / f64::from(drafted)).max(0.0);
                let row_s = self.row_s.unwrap_or(each.min(step_s));
                let weight = Self::WEIGHT * (f64::from(drafted) / Self::TELLING_TOKENS).min(1.0);
                self.row_s = Some(blend(row_s, each, row_s, weight));
            }
        }
    }

    /// Notes a step that computed prompts too, of which nothing is learnt.
    pub fn pass(&mut self) {
        self.rows_before = None;
    }

    /// `None` until a step was measured.
    pub fn price(&self, replies: u32) -> Option<Price> {
        let step_s = self.step_s?.max(f64::MIN_POSITIVE);
        let token_s = step_s / f64::from(replies.max(1));
        let row_s = self
            .row_s
            .unwrap_or(Self::ROW_UNMEASURED * step_s / f64::from(self.replies.max(1)));
        Some(Price {
            row: (row_s / token_s).max(Self::ROW_MIN),
            switch: self.switch_s / token_s,
        })
    }
}

/// Moves `mean` towards `new`, but not by what lies beyond [`Costs::HELD_UP`] times `usual`.
fn blend(mean: f64, new: f64, usual: f64, weight: f64) -> f64 {
    let most = if usual > 0.0 {
        mean.max(usual) * Costs::HELD_UP
    } else {
        new
    };
    mean + weight * (new.min(most) - mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_draft_is_as_long_as_it_is_worth() {
        let price = |row| Price { row, switch: 0.0 };
        for (row, odds, most, length) in [
            (0.1, 1.0, 15, Some(15)),
            (0.1, 1.0, 7, Some(4)),
            (0.1, 0.9, 15, Some(8)),
            (0.1, 0.5, 15, Some(2)),
            (0.3, 0.5, 15, Some(1)),
            (0.3, 0.2, 15, None),
            (1.0, 0.99, 15, None),
            (0.1, 1.0, 0, None),
        ] {
            let best = best_length(price(row), odds, most, 15);
            assert_eq!(best, length, "{row} {odds} {most}");
        }
    }

    #[test]
    fn a_change_of_length_must_be_worth_its_price_too() {
        let dear = Price {
            row: 0.1,
            switch: 0.5,
        };
        assert_eq!(best_length(dear, 0.5, 15, 2), Some(2));
        assert_eq!(best_length(dear, 0.5, 15, 0), None);
        assert_eq!(best_length(dear, 0.9, 15, 0), Some(15));
    }

    #[test]
    fn rows_and_switches_are_told_apart() {
        let mut costs = Costs::default();
        assert_eq!(costs.price(1), None);
        // 200 a step, 20 a row, 60 a switch.
        let mut before = 1;
        for step in 0..200 {
            let drafted = [0, 0, 0, 8, 8][step % 5];
            let switch = if drafted == before { 0 } else { 60 };
            costs.learn(1, drafted, (200 + 20 * drafted + switch) * US);
            before = drafted;
        }
        let price = costs.price(1).unwrap();
        assert!((price.row - 0.1).abs() < 0.01, "{price:?}");
        assert!((price.switch - 0.3).abs() < 0.03, "{price:?}");
        // With eight replies a step is dearer by seven rows, and serves eight.
        costs.learn(8, 0, 340 * US);
        let price = costs.price(8).unwrap();
        assert!((price.row - 20.0 * 8.0 / 340.0).abs() < 0.05, "{price:?}");
    }

    #[test]
    fn a_step_that_was_held_up_hardly_counts() {
        let mut costs = Costs::default();
        (0..50).for_each(|_| costs.learn(1, 0, 200 * US));
        (0..50).for_each(|_| costs.learn(1, 8, 360 * US));
        let before = costs.price(1).unwrap();
        costs.learn(1, 8, Duration::from_secs(60));
        let after = costs.price(1).unwrap();
        assert!(after.row < 1.3 * before.row, "{before:?} {after:?}");
    }
}
