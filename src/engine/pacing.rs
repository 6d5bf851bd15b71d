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
}

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

    pub(crate) fn new(delay: Duration) -> Self {
        Self {
            delay,
            prompt_s: None,
            step_s: None,
        }
    }

    /// Learns from a step that computed `prompt` tokens of prompts and one of each of `replies`.
    pub(crate) fn learn(&mut self, prompt: u32, replies: u32, took: Duration) {
        let took = took.as_secs_f64();
        if prompt == 0 {
            if replies > 0 {
                self.step_s = Some(blend(self.step_s, took));
            }
            return;
        }
        if prompt < Self::TELLING_TOKENS {
            return;
        }
        // Beside replies, only what they alone would not have taken.
        let alone = if replies == 0 {
            0.0
        } else {
            self.step_s.unwrap_or(0.0)
        };
        // A step that was quicker than its replies alone says nothing of the prompt.
        if took > alone {
            let each = (took - alone) / f64::from(prompt);
            self.prompt_s = Some(blend(self.prompt_s, each));
        }
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

fn blend(mean: Option<f64>, new: f64) -> f64 {
    mean.map_or(new, |mean| mean + Pacing::WEIGHT * (new - mean))
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
