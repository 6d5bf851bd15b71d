//! How much of a prompt one step may compute while others are being answered.
//!
//! What a reader notices is time, not tokens: a slice is what this machine computes of a prompt
//! within [`Pacing::delay`], by the rates measured so far. Until something was measured it is
//! [`Pacing::UNMEASURED_TOKENS`].
//!
//! Every step reads all weights once, whatever else it computes, so small slices cost throughput.
//! Where several prompts wait, more readers wait for them than for the next token: each further one
//! adds twice the delay.

use std::time::Duration;

/// Learnt rates of one engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacing {
    /// What a prompt may add to the time until everybody else's next token.
    delay: Duration,
    /// Seconds per prompt token; a moving mean.
    prompt_s: Option<f64>,
    /// Seconds of a step that computes no prompt; a moving mean.
    step_s: Option<f64>,
    /// The same by how many replies it has, from 0 on; the last is of all that have more.
    alone_s: [Option<f64>; REPLIES_TOLD_APART],
}

const REPLIES_TOLD_APART: usize = 33;

impl Pacing {
    /// A slice while the machine's speed is unknown.
    const UNMEASURED_TOKENS: u32 = 128;
    /// However many prompts wait: readers notice more than that.
    const DELAY_MOST: Duration = Duration::from_secs(2);
    /// However slow the machine: smaller slices cost more than they give.
    pub(crate) const TOKENS_MIN: u32 = 16;
    /// Fewer prompt tokens say little about their rate.
    const TELLING_TOKENS: u32 = 8;
    /// The share of a new measurement in the mean.
    const WEIGHT: f64 = 0.2;
    /// Slices of fewer tokens count for less: what a step takes whatever it computes is charged to
    /// them, and were they believed, ever smaller ones would follow.
    const WEIGHTY_TOKENS: f64 = 64.0;

    pub(crate) fn new(delay: Duration) -> Self {
        Self {
            delay,
            prompt_s: None,
            step_s: None,
            alone_s: [None; REPLIES_TOLD_APART],
        }
    }

    /// Learns from a step that computed `prompt` tokens of prompts and one of each of `replies`.
    pub(crate) fn learn(&mut self, prompt: u32, replies: u32, took: Duration) {
        let took = took.as_secs_f64();
        if prompt == 0 {
            if replies > 0 {
                self.step_s = Some(blend(self.step_s, took, Self::WEIGHT));
                let alone_s = &mut self.alone_s[told_apart(replies)];
                *alone_s = Some(blend(*alone_s, took, Self::WEIGHT));
            }
            return;
        }
        if prompt < Self::TELLING_TOKENS {
            return;
        }
        // Beside replies, only what they alone would not have taken.
        let alone = self.alone(replies);
        // A step that was quicker than its replies alone says nothing of the prompt.
        if took > alone {
            let each = (took - alone) / f64::from(prompt);
            let weight = Self::WEIGHT * (f64::from(prompt) / Self::WEIGHTY_TOKENS).min(1.0);
            self.prompt_s = Some(blend(self.prompt_s, each, weight));
        }
    }

    /// Seconds of a step of so many replies and no prompt. Where prompts always wait few such steps are
    /// measured: it is then reckoned from the next fewer, a row of each further one as of a prompt.
    fn alone(&self, replies: u32) -> f64 {
        if replies == 0 {
            return 0.0;
        }
        let (fewer, more) = self.alone_s.split_at(told_apart(replies));
        let most = more.iter().flatten().next();
        if let Some(Some(alone)) = more.first() {
            return *alone;
        }
        let mut measured = fewer.iter().enumerate().rev();
        let next = measured.find_map(|(count, took)| Some((count, (*took)?)));
        let (count, took) = next.unwrap_or((0, 0.0));
        let further = u32::try_from(told_apart(replies) - count).unwrap_or(0);
        let reckoned = took + f64::from(further) * self.prompt_s.unwrap_or(0.0);
        most.map_or(reckoned, |most| reckoned.min(*most))
    }

    /// Seconds that one token of a prompt takes; `None` before any was measured.
    pub(crate) fn prompt_s(&self) -> Option<f64> {
        self.prompt_s
    }

    /// Prompt tokens that fit into the delay while so many prompts wait for their turn.
    pub(crate) fn slice_of(&self, waiting: usize) -> u32 {
        let further = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_sub(1);
        let delay = self
            .delay
            .saturating_mul(further.saturating_mul(2).saturating_add(1));
        self.tokens_within(delay.min(Self::DELAY_MOST.max(self.delay)))
    }

    /// Seconds of a step that computes no prompt; `None` before any was measured.
    pub(crate) fn step_s(&self) -> Option<f64> {
        self.step_s
    }

    /// Prompt tokens that fit into `delay`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts of floats saturate"
    )]
    pub(crate) fn tokens_within(&self, delay: Duration) -> u32 {
        let Some(prompt_s) = self.prompt_s else {
            return Self::UNMEASURED_TOKENS;
        };
        let fits = delay.as_secs_f64() / prompt_s.max(f64::MIN_POSITIVE);
        (fits as u32).max(Self::TOKENS_MIN)
    }
}

fn told_apart(replies: u32) -> usize {
    (replies as usize).min(REPLIES_TOLD_APART - 1)
}

fn blend(mean: Option<f64>, new: f64, weight: f64) -> f64 {
    mean.map_or(new, |mean| mean + weight * (new - mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_slice_takes_as_long_as_it_may() {
        let mut pacing = Pacing::new(100 * MS);
        assert_eq!(pacing.slice_of(1), Pacing::UNMEASURED_TOKENS);
        // Half a millisecond a token.
        pacing.learn(512, 0, 256 * MS);
        assert_eq!(pacing.slice_of(1), 200);
        // A slow machine, for long enough: still not less than the least.
        (0..60).for_each(|_| pacing.learn(16, 0, 4_000 * MS));
        assert_eq!(pacing.slice_of(1), Pacing::TOKENS_MIN);
    }

    #[test]
    fn a_slice_grows_with_the_prompts_that_wait_up_to_two_seconds() {
        let mut pacing = Pacing::new(150 * MS);
        pacing.learn(512, 0, 500 * MS);
        let slices = [0, 1, 2, 6, 7, 8, 64].map(|waiting| pacing.slice_of(waiting));
        assert_eq!(slices, [153, 153, 460, 1_689, 1_996, 2_048, 2_048]);
        // Who wants longer slices has them.
        let mut patient = Pacing::new(3_000 * MS);
        patient.learn(512, 0, 500 * MS);
        assert_eq!(patient.slice_of(3), 3_072);
    }

    #[test]
    fn slices_do_not_shrink_where_replies_are_never_alone() {
        // As measured: a row takes 4 ms, what replies take grows with their number, and a small slice
        // takes more for each token. One reply was alone, seven never were.
        let machine = |prompt: u32, replies: u32| {
            let small = 60_u32.saturating_sub(prompt) / 2;
            (20 + 10 * replies + 4 * prompt + small) * MS
        };
        let mut pacing = Pacing::new(150 * MS);
        (0..20).for_each(|_| pacing.learn(0, 1, machine(0, 1)));
        pacing.learn(512, 0, 512 * 4 * MS);
        for _ in 0..200 {
            let slice = pacing.slice_of(1);
            pacing.learn(slice, 7, machine(slice, 7));
        }
        assert!(
            (24..=37).contains(&pacing.slice_of(1)),
            "{}",
            pacing.slice_of(1)
        );
    }

    #[test]
    fn a_step_of_replies_is_reckoned_from_those_that_were_measured() {
        let mut pacing = Pacing::new(150 * MS);
        assert!((pacing.alone(3) - 0.0).abs() < 1e-9);
        pacing.learn(100, 0, 400 * MS);
        pacing.learn(0, 2, 30 * MS);
        pacing.learn(0, 8, 50 * MS);
        for (replies, took) in [
            (0, 0.0),
            (1, 0.004),
            (2, 0.03),
            (3, 0.034),
            (7, 0.05),
            (8, 0.05),
        ] {
            assert!((pacing.alone(replies) - took).abs() < 1e-9, "{replies}");
        }
        assert!((pacing.alone(10) - 0.058).abs() < 1e-9);
        assert!((pacing.alone(u32::MAX) - pacing.alone(32)).abs() < 1e-9);
    }

    #[test]
    fn what_replies_take_is_not_charged_to_the_prompt() {
        let mut pacing = Pacing::new(100 * MS);
        pacing.learn(0, 4, 60 * MS);
        pacing.learn(100, 4, 110 * MS);
        assert_eq!(pacing.slice_of(1), 200);
        // Quicker than the replies alone: not a negative rate.
        pacing.learn(100, 4, 10 * MS);
        assert_eq!(pacing.slice_of(1), 200);
        // A few tokens at a prompt's end tell nothing.
        pacing.learn(2, 4, 500 * MS);
        assert_eq!(pacing.slice_of(1), 200);
    }
}
