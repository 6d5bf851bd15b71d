//! The decoder over llama.cpp's context.

use crate::adapters::AdapterSet;
use crate::decoder::{Decoded, Decoder, Entry, Fingerprint, Shape, Threads, Token};
use crate::llama::raw::Context;

pub(super) struct LlamaDecoder {
    pub(super) context: Context,
    pub(super) fingerprint: Fingerprint,
    /// One for each adapter that the context has.
    pub(super) adapters: Vec<Fingerprint>,
}

impl LlamaDecoder {
    /// True when a sequence that ends at `keep` is as if it had never been longer: behind a sliding
    /// window the cells before it may be gone.
    fn reaches_back(&self, sequence: u32, keep: u32) -> bool {
        let first = self.context.first(sequence).unwrap_or(0);
        first == 0 || first.saturating_add(self.context.window()) <= keep
    }
}

/// Whether the first `count` tokens of a sequence that holds `held` are whole in a copy of its state:
/// what lies behind the window, as seen from the sequence's end, is left out of it (llama.cpp's
/// `llama_kv_cache::state_write`), and that is more than what `count` tokens look back at.
pub(super) fn copies_whole(held: u32, count: u32, window: u32) -> bool {
    window == 0 || held == count || held.max(count) <= window
}

impl Decoder for LlamaDecoder {
    fn shape(&self) -> Shape {
        self.context.shape()
    }

    fn threads(&self) -> Threads {
        self.context.threads()
    }

    fn set_threads(&mut self, count: u32) {
        self.context.set_threads(count);
    }

    fn decode(&mut self, batch: &[Entry]) -> Decoded {
        let decoded = self.context.decode(batch);
        if decoded == Decoded::Aborted && self.context.is_recurrent() {
            // A recurrent state has no positions to go back to: what was cut short is lost whole.
            for entry in batch {
                self.context.remove(entry.sequence, 0);
            }
        }
        decoded
    }

    fn attention_block(&self) -> Option<u32> {
        self.context.attention_block()
    }

    fn logits(&mut self, index: usize) -> Option<&[f32]> {
        self.context.logits(index)
    }

    fn undivided(&self, token: Token) -> Option<(u32, u32)> {
        self.context.undivided(token)
    }

    fn held(&self, sequence: u32) -> u32 {
        self.context.held(sequence)
    }

    fn truncate(&mut self, sequence: u32, keep: u32) -> u32 {
        let held = self.held(sequence);
        // Nothing is not taken for granted: a sequence without a last token in the layers that look
        // back a window may still have cells in the others.
        if keep > 0 && keep >= held {
            return held;
        }
        if keep > 0 && self.reaches_back(sequence, keep) && self.context.remove(sequence, keep) {
            return keep;
        }
        self.context.remove(sequence, 0);
        0
    }

    fn can_share(&self, from: u32, count: u32) -> bool {
        // A recurrent state is of its last token only.
        !self.context.is_recurrent()
            && self.reaches_back(from, count)
            && (!self.context.is_split()
                || copies_whole(self.held(from), count, self.context.window()))
    }

    fn share_bytes(&mut self, from: u32) -> usize {
        if self.context.is_split() {
            self.context.state_bytes(from)
        } else {
            0
        }
    }

    fn share(&mut self, from: u32, to: u32, count: u32) -> bool {
        let is_shared = self.held(from) >= count
            && self.can_share(from, count)
            && self.context.copy(from, to, count)
            && self.held(to) == count
            && self.reaches_back(to, count);
        if !is_shared {
            // A memory of several parts may have taken some of it.
            self.context.remove(to, 0);
        }
        is_shared
    }

    fn reset(&mut self) {
        self.context.clear();
    }

    fn state_bytes(&mut self, sequence: u32) -> usize {
        self.context.state_bytes(sequence)
    }

    fn save(&mut self, sequence: u32) -> Option<Vec<u8>> {
        self.context.state(sequence)
    }

    fn restore(&mut self, sequence: u32, state: &[u8], count: u32) -> bool {
        let is_restored = self.context.set_state(sequence, state) && self.held(sequence) == count;
        if !is_restored {
            self.context.remove(sequence, 0);
        }
        is_restored
    }

    /// A state is saved without what lies behind the window, and a recurrent one is of its last
    /// token only.
    fn can_cut(&self) -> bool {
        !self.context.is_recurrent() && self.context.window() == 0
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn adapters(&self) -> &[Fingerprint] {
        &self.adapters
    }

    fn adapt(&mut self, adapters: &AdapterSet) {
        self.context.adapt(adapters);
    }
}
