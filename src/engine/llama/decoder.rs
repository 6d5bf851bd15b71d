//! The decoder over llama.cpp's context.

use crate::decoder::{Decoded, Decoder, Entry, Fingerprint, Shape, Threads};
use crate::llama::raw::Context;

pub(super) struct LlamaDecoder(pub(super) Context, pub(super) Fingerprint);

impl LlamaDecoder {
    /// True when a sequence that ends at `keep` is as if it had never been longer: behind a sliding
    /// window the cells before it may be gone.
    fn reaches_back(&self, sequence: u32, keep: u32) -> bool {
        let first = self.0.first(sequence).unwrap_or(0);
        first == 0 || first.saturating_add(self.0.window()) <= keep
    }
}

impl Decoder for LlamaDecoder {
    fn shape(&self) -> Shape {
        self.0.shape()
    }

    fn threads(&self) -> Threads {
        self.0.threads()
    }

    fn set_threads(&mut self, count: u32) {
        self.0.set_threads(count);
    }

    fn decode(&mut self, batch: &[Entry]) -> Decoded {
        let decoded = self.0.decode(batch);
        if decoded == Decoded::Aborted && self.0.is_recurrent() {
            // A recurrent state has no positions to go back to: what was cut short is lost whole.
            for entry in batch {
                self.0.remove(entry.sequence, 0);
            }
        }
        decoded
    }

    fn logits(&mut self, index: usize) -> Option<&[f32]> {
        self.0.logits(index)
    }

    fn held(&self, sequence: u32) -> u32 {
        self.0.held(sequence)
    }

    fn truncate(&mut self, sequence: u32, keep: u32) -> u32 {
        let held = self.held(sequence);
        if keep >= held {
            return held;
        }
        if keep > 0 && self.reaches_back(sequence, keep) && self.0.remove(sequence, keep) {
            return keep;
        }
        self.0.remove(sequence, 0);
        0
    }

    fn share(&mut self, from: u32, to: u32, count: u32) -> bool {
        // A recurrent state is of its last token only.
        !self.0.is_recurrent()
            && self.held(from) >= count
            && self.reaches_back(from, count)
            && self.0.copy(from, to, count)
            && self.held(to) == count
    }

    fn reset(&mut self) {
        self.0.clear();
    }

    fn state_bytes(&mut self, sequence: u32) -> usize {
        self.0.state_bytes(sequence)
    }

    fn save(&mut self, sequence: u32) -> Option<Vec<u8>> {
        self.0.state(sequence)
    }

    fn restore(&mut self, sequence: u32, state: &[u8], count: u32) -> bool {
        let is_restored = self.0.set_state(sequence, state) && self.held(sequence) == count;
        if !is_restored {
            self.0.remove(sequence, 0);
        }
        is_restored
    }

    /// A state is saved without what lies behind the window, and a recurrent one is of its last
    /// token only.
    fn can_cut(&self) -> bool {
        !self.0.is_recurrent() && self.0.window() == 0
    }

    fn fingerprint(&self) -> Fingerprint {
        self.1
    }
}
