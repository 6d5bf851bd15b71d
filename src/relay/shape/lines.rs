//! Where an event stream may be filled: between its lines.
//!
//! Lines end with a line feed, a carriage return, or both. After a carriage return nobody knows
//! whether its line feed is still to come, and a comment in between would make two line ends of one,
//! which ends an event. So that is no place to fill until the next byte is there.

use std::fmt;

use zeroize::Zeroizing;

/// Beyond so many bytes that were taken, what is left is moved to the front.
const TAKEN_BYTES_MAX: usize = 64 << 10;

/// What came of a body and has not gone yet.
#[derive(Default)]
pub struct LineCutter {
    bytes: Zeroizing<Vec<u8>>,
    taken: usize,
    /// Up to here, of `bytes`, the lines are whole.
    whole: usize,
    is_after_return: bool,
    /// Whether what was taken ended within a line.
    is_within: bool,
}

impl LineCutter {
    pub fn push(&mut self, content: &[u8]) {
        self.move_to_front();
        for (at, byte) in (self.bytes.len()..).zip(content) {
            if self.is_after_return && *byte != b'\n' {
                self.whole = at;
            }
            if *byte == b'\n' {
                self.whole = at + 1;
            }
            self.is_after_return = *byte == b'\r';
        }
        self.bytes.extend_from_slice(content);
    }

    /// What `write` appends is whole, whatever it looks like.
    pub fn push_whole(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.move_to_front();
        write(&mut self.bytes);
        self.whole = self.bytes.len();
    }

    fn move_to_front(&mut self) {
        if self.taken == self.bytes.len() || self.taken > TAKEN_BYTES_MAX {
            self.bytes.drain(..self.taken);
            self.whole = self.whole.saturating_sub(self.taken);
            self.taken = 0;
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of the bytes are of whole lines.
    pub fn whole_len(&self) -> usize {
        self.whole.saturating_sub(self.taken)
    }

    /// Whether a line may be put after what was taken so far.
    pub fn is_between(&self) -> bool {
        !self.is_within
    }

    /// The next bytes, `count` of them at most.
    pub fn take(&mut self, count: usize) -> &[u8] {
        let from = self.taken;
        self.taken += count.min(self.len());
        let taken = &self.bytes[from..self.taken];
        if let Some(last) = taken.last() {
            self.is_within = match last {
                b'\n' => false,
                b'\r' => self.bytes.get(self.taken).is_none_or(|next| *next == b'\n'),
                _ => true,
            };
        }
        taken
    }
}

impl fmt::Debug for LineCutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "LineCutter({} bytes, {} of whole lines)",
            self.len(),
            self.whole_len()
        )
    }
}
