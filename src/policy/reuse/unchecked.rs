//! Doubt that gathers on an entry while it answers and nobody looks.
//!
//! A wrong entry is seldom wrong once: questions that lie around it come again. Each of its answers may be
//! doubted a little; together they are worth a look.

use std::collections::HashMap;

use domain::EntryId;

/// Entries that doubt is remembered of. Beyond it those with the least are forgotten.
const UNCHECKED_MAX: usize = 4_096;

/// By entry, the expected errors of what it answered since it was last drawn to be looked at. Not kept over
/// a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unchecked {
    doubt: HashMap<EntryId, f64>,
}

impl Unchecked {
    /// The doubt there is when it answers once more, with this expected error.
    pub fn gather(&mut self, entry: EntryId, error: f64) -> f64 {
        if self.doubt.len() >= UNCHECKED_MAX && !self.doubt.contains_key(&entry) {
            self.forget();
        }
        let doubt = self.doubt.entry(entry).or_default();
        *doubt += error;
        *doubt
    }

    /// It is drawn to be looked at.
    pub fn look_at(&mut self, entry: EntryId) {
        self.doubt.remove(&entry);
    }

    fn forget(&mut self) {
        let mean = self.doubt.values().sum::<f64>() / self.doubt.len() as f64;
        self.doubt.retain(|_, doubt| *doubt > mean);
        // So what is of entries that are gone is forgotten too, by and by.
        self.doubt.values_mut().for_each(|doubt| *doubt /= 2.0);
        if self.doubt.len() >= UNCHECKED_MAX {
            self.doubt.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_gathers_until_it_is_looked_at() {
        let mut unchecked = Unchecked::default();
        assert_eq!(unchecked.gather(EntryId(1), 0.25), 0.25);
        assert_eq!(unchecked.gather(EntryId(2), 0.5), 0.5);
        assert_eq!(unchecked.gather(EntryId(1), 0.25), 0.5);
        unchecked.look_at(EntryId(1));
        assert_eq!(unchecked.gather(EntryId(1), 0.25), 0.25);
    }

    #[test]
    fn no_more_is_remembered_than_the_bound() {
        let mut unchecked = Unchecked::default();
        unchecked.gather(EntryId(0), 0.5);
        for id in 1..=UNCHECKED_MAX as u64 {
            unchecked.gather(EntryId(id), 0.001);
            assert!(unchecked.doubt.len() <= UNCHECKED_MAX);
        }
        assert!(unchecked.gather(EntryId(0), 0.25) > 0.25);
        // All alike: none is above the mean, or all are where its sum is rounded down.
        let mut unchecked = Unchecked::default();
        for id in 0..2 * UNCHECKED_MAX as u64 {
            unchecked.gather(EntryId(id), 0.25);
            assert!(unchecked.doubt.len() <= UNCHECKED_MAX);
        }
    }
}
