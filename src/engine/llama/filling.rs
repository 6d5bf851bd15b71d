//! Entries that nobody asked for and that make a step quicker.
//!
//! On x86, llama.cpp multiplies quantised weights by two columns at a time, with AVX512 by four. What
//! is left over takes another pass over all weights: three tokens at once took 106 ms and four 84,
//! eleven 325 ms and twelve 219 (0.5B, `Q8_0`, two threads, AVX2). So a step is filled up to whole
//! columns with tokens of a sequence that is nobody's and is forgotten after it.

/// Of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filling {
    /// Entries to add.
    pub entries: usize,
    /// How many of those shall have logits: rows of them are multiplied too.
    pub rows: usize,
    /// Entries of the step itself that shall have logits beside those that want them.
    pub more_rows: usize,
}

impl Filling {
    /// Entries added at most.
    pub(super) const MAX: u32 = 3;

    /// For a step of `entries`, of which `rows` want logits, on a machine that multiplies by
    /// `columns` at once. Nothing where it would then be more than `most`.
    pub(super) fn of(columns: usize, entries: usize, rows: usize, most: usize) -> Self {
        let lacking = |count: usize| match count > columns {
            true => count.next_multiple_of(columns) - count,
            // One pass in any case.
            false => 0,
        };
        let added = lacking(entries);
        if entries.saturating_add(added) > most {
            return Self::default();
        }
        let wanted = lacking(rows);
        let among = wanted.min(added);
        Self {
            entries: added,
            rows: among,
            more_rows: (wanted - among).min(entries.saturating_sub(rows)),
        }
    }
}

/// How many columns llama.cpp multiplies by at once here. 1: nothing is left over.
pub(super) fn columns(system: &str) -> usize {
    if !cfg!(target_arch = "x86_64") {
        return 1;
    }
    let has = |feature: &str| system.contains(&format!("{feature} = 1"));
    match (has("AVX512"), has("AVX2")) {
        (true, _) => 4,
        (false, true) => 2,
        (false, false) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling(columns: usize, entries: usize, rows: usize) -> (usize, usize, usize) {
        let filling = Filling::of(columns, entries, rows, 64);
        (filling.entries, filling.rows, filling.more_rows)
    }

    #[test]
    fn steps_are_filled_up_to_whole_columns() {
        // Replies alone: each has a row.
        for (replies, added) in [(1, 0), (2, 0), (3, 1), (4, 0), (7, 1), (8, 0)] {
            assert_eq!(filling(2, replies, replies), (added, added, 0), "{replies}");
        }
        for (replies, added) in [(3, 0), (4, 0), (5, 3), (6, 2), (7, 1), (8, 0)] {
            assert_eq!(filling(4, replies, replies), (added, added, 0), "{replies}");
        }
        // Beside a prompt: rows and entries each by themselves.
        assert_eq!(filling(2, 23, 7), (1, 1, 0));
        assert_eq!(filling(2, 24, 7), (0, 0, 1));
        assert_eq!(filling(2, 23, 8), (1, 0, 0));
        assert_eq!(filling(4, 23, 5), (1, 1, 2));
        assert_eq!(filling(1, 23, 7), (0, 0, 0));
    }

    #[test]
    fn no_step_is_filled_beyond_its_room() {
        assert_eq!(filling(2, 63, 1), (1, 0, 0));
        assert_eq!(filling(2, 65, 3), (0, 0, 0));
        let most = Filling::of(4, 5, 5, 7);
        assert_eq!(most, Filling::default());
        for entries in 0..64 {
            let filling = Filling::of(4, entries, entries, 64);
            assert!(filling.entries <= Filling::MAX as usize);
        }
    }

    #[test]
    fn the_system_says_how_many_columns() {
        assert_eq!(columns("CPU : NEON = 1 |"), 1);
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(columns("CPU : SSE3 = 1 | AVX2 = 1 | F16C = 1 |"), 2);
            assert_eq!(
                columns("CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 |"),
                4
            );
        }
    }
}
