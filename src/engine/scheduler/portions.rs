//! How much of the prompts one step computes, and whose comes first.
//!
//! While somebody is being answered a step computes one slice, which is longer where several prompts
//! of the only team wait. While nobody is, it computes a whole batch, or where several teams ask,
//! what takes a quarter of a second: so long does the first request of a team wait for the step
//! under way. Its own prompt comes before all others: at one go if half a second is enough for all of
//! it that is not in the cache, else in every other step, a slice at a time.

use std::time::Duration;

use super::{BusyPrompt, Decoder, Scheduler, Seat};

/// What of prompts is computed at once while nobody is being answered, where several teams ask.
const QUIET_SLICE: Duration = Duration::from_millis(250);

/// A slice becomes a whole block of attention where it lacks at most one part in so many.
const BLOCK_PARTS_LACKING: u32 = 4;

/// The first of a team has its prompt computed at one go where that takes so long.
const FIRST_SLICE: Duration = Duration::from_millis(500);

/// Steps in a row that short firsts of teams may begin with. The next goes by length and waiting
/// alone, so that many teams with short prompts do not keep a long one waiting for ever.
const FIRSTS_IN_A_ROW_MAX: u32 = 4;

impl<D: Decoder> Scheduler<D> {
    /// Prompt tokens for a step in which so many replies go on.
    pub(super) fn prompt_budget(&self, talking: usize, reading: &[usize]) -> u32 {
        let talking = u32::try_from(talking).unwrap_or(u32::MAX);
        let left = self.shape.batch_tokens.saturating_sub(talking);
        let is_heard_elsewhere = self.turns.is_heard_elsewhere();
        if talking > 0 || is_heard_elsewhere {
            let waiting = reading.len();
            let is_only_team = waiting > 1 && !is_heard_elsewhere && !self.shared.has_rivals();
            let slice = self.slice_of(if is_only_team { waiting } else { 1 });
            return left.min(self.whole_block(slice));
        }
        if !self.shared.has_rivals() {
            return left;
        }
        left.min(match self.rules.busy_prompt {
            BusyPrompt::Within(_) => self.pacing.tokens_within(QUIET_SLICE),
            BusyPrompt::Tokens(tokens) => tokens.saturating_mul(2),
        })
    }

    /// Whether replies and slices of prompts are computed in steps of their own, in turn: where one
    /// step for both would be large.
    pub(super) fn are_apart(&self, talking: usize, reading: &[usize], budget: u32) -> bool {
        let pending = reading.iter().map(|slot| self.slots[*slot].pending());
        let prompts = pending.fold(0, u32::saturating_add).min(budget);
        let replies = u32::try_from(talking).unwrap_or(u32::MAX);
        let block = self.decoder.attention_block().unwrap_or(u32::MAX);
        replies > 0 && prompts > 0 && replies.saturating_add(prompts) >= block
    }

    /// A slice that lacks little of a block takes hardly less than a whole one.
    fn whole_block(&self, slice: u32) -> u32 {
        match self.decoder.attention_block() {
            Some(block) if slice >= block - block / BLOCK_PARTS_LACKING => slice.max(block),
            _ => slice,
        }
    }

    /// While so many prompts wait for their turn.
    fn slice_of(&self, waiting: usize) -> u32 {
        match self.rules.busy_prompt {
            BusyPrompt::Within(_) => self.pacing.slice_of(waiting),
            BusyPrompt::Tokens(tokens) => tokens,
        }
    }

    /// What `slot`, which comes first in this step, may have of a budget.
    pub(super) fn portion(&self, slot: usize, budget: u32) -> u32 {
        if self.is_short_first(slot) && self.firsts_in_a_row > 0 {
            return budget.max(self.slots[slot].pending());
        }
        budget
    }

    /// `reading` in its order, but the prompts of those who are the first of their teams before all
    /// others, and of them the short ones.
    pub(super) fn firsts_first(&mut self, mut reading: Vec<usize>) -> Vec<usize> {
        let count = reading.iter().filter(|slot| self.is_first(**slot)).count();
        // The queue is asked only where it matters.
        if count > 0 && count < reading.len() && !self.shared.has_rivals() {
            self.firsts_in_a_row = 1;
            return reading;
        }
        let has_short = reading.iter().any(|slot| self.is_short_first(*slot));
        let most = if has_short { FIRSTS_IN_A_ROW_MAX } else { 1 };
        if count == 0 || count == reading.len() || self.firsts_in_a_row >= most {
            self.firsts_in_a_row = u32::from(count > 0 && count == reading.len());
            return reading;
        }
        self.firsts_in_a_row += 1;
        reading.sort_by_key(|slot| (!self.is_short_first(*slot), !self.is_first(*slot)));
        reading
    }

    /// True for the first of a team whose prompt, but for what the cache holds of it, is read in one
    /// step. The end of a long one is not meant.
    fn is_short_first(&self, slot: usize) -> bool {
        let limit = match self.rules.busy_prompt {
            BusyPrompt::Within(_) => self.pacing.tokens_within(FIRST_SLICE),
            BusyPrompt::Tokens(tokens) => tokens.saturating_mul(3),
        };
        let is_fresh = self.seats[slot].as_ref().is_some_and(Seat::is_fresh);
        is_fresh && self.is_first(slot) && self.slots[slot].pending() <= limit
    }
}
