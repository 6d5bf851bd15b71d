//! How long a request that comes now would wait: what is ahead of it, at the rates measured.
//!
//! Prompts are read one after the other, whoever's they are; replies go on side by side, one token
//! of each a step. So a request waits for the first slot to be free, and then as long as those
//! before it keep all slots at work. Prefixes that need not be computed again make it shorter than
//! foretold; the forecast never counts on them.

use std::time::Duration;

use crate::waiting::Ahead;

/// A reply that is past the length of most is expected to go on for this part of that length.
const OVERLONG_PART: u32 = 4;

/// What the engine's thread knows, as of its last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outlook {
    /// Seconds to read a token of a prompt; `None` until measured.
    pub prompt_s: Option<f64>,
    /// Seconds of a step that reads no prompt; `None` until measured.
    pub step_s: Option<f64>,
    /// Prompt tokens still to be read of those that have a slot.
    pub reading: u64,
    /// Steps until the first of them is expected to be done.
    pub steps: u32,
}

impl Outlook {
    /// `None` until the machine's speed was measured.
    pub(crate) fn wait(&self, ahead: Ahead, slots: u32) -> Option<Duration> {
        let (prompt_s, step_s) = (self.prompt_s?, self.step_s?);
        let prompts = self.reading.saturating_add(ahead.prompt);
        let steps = u64::from(self.steps).saturating_add(ahead.reply / u64::from(slots.max(1)));
        #[expect(clippy::cast_precision_loss, reason = "an estimate of tokens")]
        let seconds = prompts as f64 * prompt_s + steps as f64 * step_s;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// Tokens that a reply of `drawn` may yet have, where most have `usual` and it may have `left`.
pub(crate) fn tokens_left(drawn: u32, left: u32, usual: u32) -> u32 {
    let least = usual / OVERLONG_PART;
    usual.saturating_sub(drawn).max(least).max(1).min(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_for_a_slot_and_for_those_before_it() {
        let outlook = Outlook {
            prompt_s: Some(0.004),
            step_s: Some(0.05),
            reading: 500,
            steps: 20,
        };
        let ahead = Ahead {
            prompt: 1_000,
            reply: 800,
        };
        // 1,500 tokens to read, 20 steps and an eighth of 800.
        assert_eq!(outlook.wait(ahead, 8), Some(Duration::from_secs(12)));
        let unmeasured = Outlook {
            step_s: None,
            ..outlook
        };
        assert_eq!(unmeasured.wait(ahead, 8), None);
    }

    #[test]
    fn replies_are_expected_to_be_as_long_as_most_and_no_longer_than_they_may() {
        for (drawn, left, usual, expected) in [
            (0, 500, 100, 100),
            (60, 500, 100, 40),
            (300, 500, 100, 25),
            (300, 10, 100, 10),
            (3, 9, 1, 1),
        ] {
            assert_eq!(tokens_left(drawn, left, usual), expected, "{drawn} {left}");
        }
    }
}
