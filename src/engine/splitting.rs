//! How deep a tokenizer recurses into a text, and the stack for it.
//!
//! llama.cpp splits text into words before it looks tokens up. For some vocabularies it does so in
//! hand-written loops, for the others with `std::regex`, which in libstdc++ calls itself once or
//! more for each character of a match. A long run of letters then overflows the stack and ends the
//! process (llama.cpp issue 27783: 26,000 letters on 8 MiB). So a text with a longer run gets a
//! thread with a stack for it, and one too long even for that is refused.

use std::{io, thread};

/// Characters of one run that any of our threads has the stack for. A character costs up to 528
/// bytes (measured over llama.cpp's expressions, GCC 64-bit, unoptimised; 320 optimised), and a
/// match spans two runs at most, so this is 1 MiB; Rust's and Tokio's threads have 2.
const SHALLOW_CHARS_MAX: usize = 1_024;

/// Characters of one run that are tokenized at all. Measured as above, two such runs take 66 MiB.
pub(crate) const RUN_CHARS_MAX: usize = 64 * 1_024;

/// Almost four times what [`RUN_CHARS_MAX`] needs. Only what is used is ever backed by memory.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// What a vocabulary's splitting recurses over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splitting {
    /// Nothing: it is a loop.
    Flat,
    /// Runs of white space, and runs without.
    Runs,
    /// As [`Splitting::Runs`], and a space does not end one.
    RunsAcrossSpaces,
}

/// Where a text can be tokenized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Shallow,
    /// Only by [`on_deep_stack`].
    Deep,
    /// Nowhere.
    Bottomless,
}

impl Splitting {
    pub(crate) fn depth(self, text: &str) -> Depth {
        let run = match self {
            Splitting::Flat => 0,
            Splitting::Runs => longest_run(text, char::is_whitespace),
            Splitting::RunsAcrossSpaces => longest_run(text, |c| c != ' ' && c.is_whitespace()),
        };
        if run <= SHALLOW_CHARS_MAX {
            Depth::Shallow
        } else if run <= RUN_CHARS_MAX {
            Depth::Deep
        } else {
            Depth::Bottomless
        }
    }
}

/// The most characters in a row of which `is_gap` says the same. llama.cpp's own table of white
/// space (unicode-data.cpp) is that of [`char::is_whitespace`].
fn longest_run(text: &str, is_gap: impl Fn(char) -> bool) -> usize {
    let (mut longest, mut run, mut was_gap) = (0, 0, false);
    for c in text.chars() {
        let gap = is_gap(c);
        run = if gap == was_gap { run + 1 } else { 1 };
        was_gap = gap;
        longest = longest.max(run);
    }
    longest
}

/// Runs `work` on a thread of its own and waits for it. Blocks.
///
/// # Errors
/// There is no thread or no address space for it, or it panicked.
pub(crate) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("tokenizer".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_in_characters_between_changes_of_white_space() {
        let words = "word ".repeat(100_000);
        let (near, far) = (SHALLOW_CHARS_MAX, RUN_CHARS_MAX);
        let across = Splitting::RunsAcrossSpaces;
        for (splitting, text, depth) in [
            (Splitting::Runs, words.clone(), Depth::Shallow),
            (across, words, Depth::Bottomless),
            (across, "word \n".repeat(100_000), Depth::Shallow),
            (Splitting::Runs, "ü".repeat(near), Depth::Shallow),
            (Splitting::Runs, "a!".repeat(near), Depth::Deep),
            (Splitting::Runs, "\u{3000} ".repeat(near), Depth::Deep),
            (Splitting::Runs, "字".repeat(far), Depth::Deep),
            (Splitting::Runs, "a".repeat(far + 1), Depth::Bottomless),
            (Splitting::Runs, "\n".repeat(far + 1), Depth::Bottomless),
            (Splitting::Flat, "a".repeat(far + 1), Depth::Shallow),
        ] {
            let start: String = text.chars().take(2).collect();
            assert_eq!(splitting.depth(&text), depth, "{splitting:?} {start:?}");
        }
    }

    /// Recurses as `std::regex` does, with twice the bytes it was measured to take.
    #[test]
    fn the_deep_stack_holds_twice_what_two_runs_need() {
        fn descend(left: usize) -> u8 {
            let frame = std::hint::black_box([1; 1_056]);
            if left == 0 {
                return frame[0];
            }
            std::hint::black_box(descend(left - 1)) | frame[1]
        }
        // Unoptimised code keeps two copies of the array in a frame.
        assert_eq!(on_deep_stack(|| descend(RUN_CHARS_MAX)).unwrap(), 1);
    }

    #[test]
    fn a_panic_on_the_deep_stack_comes_back() {
        assert!(on_deep_stack(|| panic!("as scripted")).is_err());
    }
}
