//! Drafts in the scheduler's batches: their room, their rows, what is kept of them.

use std::time::Duration;

use domain::BackendError;
use tracing::error;

use super::{Scheduler, sequence};
use crate::decoder::{DRAFT_ROWS_MAX, Decoder, Entry, Token};
use crate::draft::{Costs, Credit, Drafting, Price, Terms, Verdict};

/// Drafts take no more of a batch than one part in so many: prompts beside them want the rest.
const BATCH_PARTS: u32 = 8;

/// What the drafts of all slots share.
#[derive(Debug)]
pub(super) struct Drafts {
    drafting: Drafting,
    costs: Costs,
    credit: Credit,
    /// The decoder had no room for the last ones: the next step goes without.
    is_withheld: bool,
    /// The draft being made.
    tokens: Vec<Token>,
}

impl Drafts {
    /// Without a memory that can be cut there are none: what is wrong could not be taken back.
    pub(super) fn new(drafting: Drafting, can_cut: bool) -> Self {
        Self {
            drafting: if can_cut { drafting } else { Drafting::Off },
            costs: Costs::default(),
            credit: Credit::default(),
            is_withheld: false,
            tokens: Vec::new(),
        }
    }

    pub(super) fn withhold(&mut self) {
        self.is_withheld = true;
    }

    /// Learns from a step.
    pub(super) fn learn(&mut self, prompt: u32, replies: u32, drafted: u32, took: Duration) {
        match self.drafting {
            Drafting::Measured if prompt == 0 => self.costs.learn(replies, drafted, took),
            Drafting::Measured => self.costs.pass(),
            Drafting::Off | Drafting::Priced(_) => {}
        }
    }

    fn price(&self, replies: u32) -> Option<Price> {
        match self.drafting {
            Drafting::Off => None,
            Drafting::Measured => self.costs.price(replies),
            Drafting::Priced(price) => Some(price),
        }
    }
}

impl<D: Decoder> Scheduler<D> {
    /// Puts drafts behind the tokens that are due, which are all of the batch so far. They take only
    /// what room there is, after what `reading` slots are about to want.
    pub(super) fn add_drafts(&mut self, reading: &[usize]) {
        let is_withheld = std::mem::take(&mut self.drafts.is_withheld);
        let replies = u32::try_from(self.shares.len()).unwrap_or(u32::MAX);
        let Some(price) = self.drafts.price(replies).filter(|_| !is_withheld) else {
            return;
        };
        let mut left = self.draft_room(reading);
        // The same for each, so that batches keep their size.
        let most = (left / replies.max(1)).max(1);
        for index in 0..self.shares.len() {
            let share = self.shares[index];
            if share.logits.is_none() {
                continue;
            }
            let terms = Terms {
                most: most.min(left),
                price,
                credit: self.drafts.credit.of_reply(),
            };
            let drafted = self.draft(share.slot, terms);
            self.shares[index].drafts_at = self.batch.len() - drafted as usize;
            self.shares[index].drafted = drafted;
            left -= drafted;
        }
    }

    /// Tokens that may be drafted in this step.
    fn draft_room(&mut self, reading: &[usize]) -> u32 {
        let batch_left = self.shape.batch_tokens.saturating_sub(self.batched());
        let wanted = reading.iter().map(|slot| self.slots[*slot].pending());
        let wanted = wanted.fold(0, u32::saturating_add).min(batch_left);
        let taken = self.taken().saturating_add(self.batched());
        let free = self.shape.kv_tokens.saturating_sub(taken);
        DRAFT_ROWS_MAX
            .min(self.shape.batch_tokens / BATCH_PARTS)
            .min(batch_left)
            .min(free.saturating_sub(wanted))
    }

    /// Drafts what may follow the token of `slot` that is in the batch, and says how many tokens.
    fn draft(&mut self, slot: usize, terms: Terms) -> u32 {
        let mut tokens = std::mem::take(&mut self.drafts.tokens);
        tokens.clear();
        self.slots[slot].draft(terms, self.vocabulary.as_ref(), &mut tokens);
        for (position, token) in (self.slots[slot].held + 1..).zip(&tokens) {
            self.batch.push(Entry {
                token: *token,
                position,
                sequence: sequence(slot),
                wants_logits: true,
            });
        }
        let drafted = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        self.drafts.tokens = tokens;
        drafted
    }

    /// Draws the token due, from the logits at `row`, and then for as long as the draws are what was
    /// drafted. The cache forgets the rest of the draft, however this ends.
    pub(super) fn draw(&mut self, share: super::Share, row: usize) -> Result<(), BackendError> {
        let mut drawn = 0;
        let mut verdict = Verdict {
            drafted: share.drafted,
            accepted: 0,
            was_wrong: false,
        };
        let result = self.draw_on(share, row, &mut drawn, &mut verdict);
        if let Some(seat) = &mut self.seats[share.slot] {
            // The one that was due is counted with its share.
            (1..drawn).for_each(|_| seat.count(1, true));
        }
        let slot = &mut self.slots[share.slot];
        if share.drafted > 0 {
            self.shared
                .pulse
                .count_draft(verdict.drafted, verdict.accepted);
            let held = self.decoder.truncate(sequence(share.slot), slot.held);
            if held != slot.held {
                // Never by a decoder that said it can. The reply is right; it is computed again.
                error!("the cache cannot be cut: no more drafts");
                slot.held = held;
                self.drafts.drafting = Drafting::Off;
            }
        }
        slot.settle(verdict, drawn, &mut self.drafts.credit);
        result
    }

    fn draw_on(
        &mut self,
        share: super::Share,
        mut row: usize,
        drawn: &mut u32,
        verdict: &mut Verdict,
    ) -> Result<(), BackendError> {
        let slot = &mut self.slots[share.slot];
        loop {
            let Some(logits) = self.decoder.logits(row) else {
                return Err(BackendError::Engine("the model gave no logits"));
            };
            let token = slot.advance(logits, self.vocabulary.as_ref())?;
            *drawn += 1;
            if verdict.accepted == share.drafted {
                return Ok(());
            }
            row = share.drafts_at + verdict.accepted as usize;
            if token != Some(self.batch[row].token) {
                verdict.was_wrong = true;
                return Ok(());
            }
            verdict.accepted += 1;
            if slot.is_idle() {
                // The last token of a reply is not kept in the cache, drafted or not.
                return Ok(());
            }
            slot.held += 1;
        }
    }
}
