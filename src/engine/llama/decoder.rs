//! The decoder over llama.cpp's context.

use crate::decoder::{Decoded, Decoder, Entry, Shape};
use crate::llama::raw::Context;

pub(super) struct LlamaDecoder(pub(super) Context);

impl Decoder for LlamaDecoder {
    fn shape(&self) -> Shape {
        self.0.shape()
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
        if keep > 0 && self.0.remove(sequence, keep) {
            return keep;
        }
        self.0.remove(sequence, 0);
        0
    }

    fn share(&mut self, from: u32, to: u32, count: u32) -> bool {
        // A recurrent state is of its last token only.
        !self.0.is_recurrent()
            && self.held(from) >= count
            && self.0.copy(from, to, count)
            && self.held(to) == count
    }

    fn reset(&mut self) {
        self.0.clear();
    }
}
