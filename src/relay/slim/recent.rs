//! The records that both ends keep, the latest first.

use std::ops::Range;

use zeroize::Zeroizing;

use super::RECENT_MAX;

/// Both ends do the same with it for the same frames, so a rank means the same to both.
pub struct Recent<T>(Vec<T>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Vec::with_capacity(RECENT_MAX))
    }
}

impl<T> Recent<T> {
    pub fn get(&self, rank: usize) -> Option<&T> {
        self.0.get(rank)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// As the latest.
    pub fn add(&mut self, record: T) -> &T {
        self.0.truncate(RECENT_MAX - 1);
        self.0.insert(0, record);
        &self.0[0]
    }

    pub fn remove(&mut self, rank: usize) {
        if rank < self.0.len() {
            self.0.remove(rank);
        }
    }
}

/// A record as the decoder needs it.
#[derive(Default)]
pub struct Record {
    pub bytes: Zeroizing<Vec<u8>>,
    /// In order, and apart from each other.
    pub holes: Vec<Range<usize>>,
}
