//! How many cells of the cache are taken, where sequences share some.
//!
//! A sequence that was given the beginning of another holds the same cells, not copies: they are
//! taken once, until the last that holds them lets go. So a sequence is counted as runs of cells
//! that were computed for one of them. A run is extended only while one sequence alone holds it;
//! what is computed later is a run of its own, because nobody else has those cells.

/// Runs of cells, by sequence.
#[derive(Debug)]
pub(crate) struct Cells {
    sequences: Vec<Vec<Run>>,
    runs: u64,
}

/// The first `tokens` cells of run `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    id: u64,
    tokens: u32,
}

impl Cells {
    pub(crate) fn new(sequences: u32) -> Self {
        Self {
            sequences: vec![Vec::new(); sequences as usize],
            runs: 0,
        }
    }

    /// Notes that `sequence` now holds `held` tokens: the last ones less, or so many computed anew.
    ///
    /// To be told each time it is cut, before anything is computed in place of what was cut off.
    pub(crate) fn set(&mut self, sequence: usize, held: u32) {
        let mut left = held;
        let runs = &mut self.sequences[sequence];
        runs.retain_mut(|run| {
            run.tokens = run.tokens.min(left);
            left -= run.tokens;
            run.tokens > 0
        });
        if left > 0 {
            self.extend(sequence, left);
        }
    }

    fn extend(&mut self, sequence: usize, more: u32) {
        let last = self.sequences[sequence].last().map(|run| run.id);
        let is_own = last.is_some_and(|id| {
            let mut others = self.sequences.iter().enumerate();
            !others.any(|(other, runs)| other != sequence && runs.iter().any(|run| run.id == id))
        });
        let runs = &mut self.sequences[sequence];
        match runs.last_mut() {
            Some(run) if is_own => run.tokens += more,
            Some(_) | None => {
                self.runs += 1;
                runs.push(Run {
                    id: self.runs,
                    tokens: more,
                });
            }
        }
    }

    /// Lets `to`, which holds nothing, hold the first `count` tokens of `from`.
    pub(crate) fn share(&mut self, from: usize, to: usize, count: u32) {
        self.sequences[to] = self.sequences[from].clone();
        self.set(to, count);
    }

    /// The cells that those sequences hold together which `counts` says.
    pub(crate) fn taken(&self, counts: impl Fn(usize) -> bool) -> u32 {
        let sequences = self.sequences.iter().enumerate();
        let counted = sequences.filter(|(sequence, _)| counts(*sequence));
        let mut runs: Vec<Run> = counted.flat_map(|(_, runs)| runs).copied().collect();
        runs.sort_unstable();
        // The longest of each run comes last.
        let ends = runs.iter().enumerate();
        let longest =
            ends.filter(|(at, run)| runs.get(at + 1).is_none_or(|next| next.id != run.id));
        longest
            .map(|(_, run)| run.tokens)
            .fold(0, u32::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_shared_beginning_is_counted_once_until_the_last_lets_go() {
        let mut cells = Cells::new(3);
        cells.set(0, 100);
        cells.share(0, 1, 60);
        cells.share(1, 2, 40);
        assert_eq!(cells.taken(|_| true), 100);
        (0..3).for_each(|sequence| cells.set(sequence, 110));
        assert_eq!(cells.taken(|_| true), 110 + 50 + 70);
        cells.set(0, 0);
        assert_eq!(cells.taken(|_| true), 110 + 70);
        assert_eq!(cells.taken(|sequence| sequence == 2), 110);
        cells.set(1, 0);
        assert_eq!(cells.taken(|_| true), 110);
    }

    #[test]
    fn what_is_computed_after_a_cut_is_nobody_elses() {
        let mut cells = Cells::new(2);
        cells.set(0, 100);
        cells.share(0, 1, 100);
        cells.set(0, 50);
        cells.set(0, 100);
        assert_eq!(cells.taken(|_| true), 150);
    }

    proptest! {
        /// As many as there are different cells, each of which has a name of its own.
        #[test]
        fn cells_are_counted_as_they_are(
            acts in prop::collection::vec((0_usize..4, 0_usize..4, 0_u32..30, 0_u8..3), 0..80),
        ) {
            let mut cells = Cells::new(4);
            let mut real: Vec<Vec<u32>> = vec![Vec::new(); 4];
            let mut names = 0;
            for (one, other, count, act) in acts {
                match act {
                    0 => {
                        let keep = real[one].len().min(count as usize);
                        real[one].truncate(keep);
                        cells.set(one, keep as u32);
                    }
                    1 => {
                        real[one].extend(names..names + count);
                        names += count;
                        cells.set(one, real[one].len() as u32);
                    }
                    _ if one == other => {}
                    _ => {
                        let count = real[one].len().min(count as usize);
                        real[other] = real[one][..count].to_vec();
                        cells.set(other, 0);
                        cells.share(one, other, count as u32);
                    }
                }
                let different: BTreeSet<u32> = real.iter().flatten().copied().collect();
                prop_assert_eq!(cells.taken(|_| true) as usize, different.len());
                let two: BTreeSet<u32> = real[..2].iter().flatten().copied().collect();
                prop_assert_eq!(cells.taken(|sequence| sequence < 2) as usize, two.len());
            }
        }
    }
}
