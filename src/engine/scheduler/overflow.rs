//! Replies that reach the end of their context, where they may go on.
//!
//! The tokens after a kept beginning are dropped, the older half of them, and the reply goes on from
//! what is left as from a prompt: the cache is cut where the gap is, and what follows the gap is
//! computed again, in slices like any prompt. llama.cpp could instead move what it has computed to
//! new positions (`llama_memory_seq_add`), at no cost; then the cache would hold a state that no text
//! gives, still coloured by what was dropped, which must not be shared, saved or found; cells that
//! two sequences hold would move for both; and several kinds of memory cannot do it. Computing again
//! costs one token for each that is generated afterwards, at a prompt's price, and everything else
//! stays as it is: what a slot holds is what its tokens say.

use tracing::info;

use super::{Scheduler, sequence};
use crate::decoder::Decoder;

impl<D: Decoder> Scheduler<D> {
    /// Makes room for replies whose next token would lie beyond the context. Where that must not be,
    /// none gets there: their bound is what the context has left.
    pub(super) fn make_context(&mut self) {
        for index in 0..self.slots.len() {
            let Some(gap) = self.slots[index].gap(self.shape.context_tokens) else {
                continue;
            };
            let keep = self.slots[index].held.min(gap.from);
            let held = self.decoder.truncate(sequence(index), keep);
            self.cells.set(index, held);
            self.slots[index].drop_gap(gap, held);
            info!(
                dropped = gap.count,
                kept = gap.from,
                "context is full, reply goes on without its oldest part"
            );
        }
    }
}
