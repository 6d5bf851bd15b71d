//! Where in a text its last tokens stood before: a hash of each short run of tokens, chained from the
//! latest occurrence to the earliest, as compressors have it.

use crate::decoder::Token;

/// Tokens that are hashed together. Shorter runs recur by chance.
pub(super) const RUN_TOKENS: usize = 2;
/// Occurrences looked at. Of more than these the earlier ones are not seen.
const CANDIDATES_MAX: usize = 8;
/// A longer agreement says no more.
pub(super) const AGREEMENT_MAX: usize = 32;
/// Chains' heads: 4 to 64 KB for each sequence. A longer text has longer chains, cut as above.
const HEADS_MAX: usize = 1 << 14;
const HEADS_MIN: usize = 1 << 10;

/// An earlier place in a text that reads like its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// The position of the token that followed there.
    pub at: usize,
    /// How many tokens before it agree; at most [`AGREEMENT_MAX`].
    pub agreement: usize,
}

/// The index of one text that grows at its end.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// By hash: the position after the run's latest occurrence, or 0.
    latest: Vec<u32>,
    /// By the position after a run: that after the occurrence before it, or 0.
    earlier: Vec<u32>,
}

impl Lookup {
    /// For a text that may come to have `tokens_max`.
    pub fn new(tokens_max: usize) -> Self {
        let heads = tokens_max.next_power_of_two().clamp(HEADS_MIN, HEADS_MAX);
        Self {
            latest: vec![0; heads],
            earlier: Vec::new(),
        }
    }

    /// The place in `text` that agrees longest with the end of `tail`, the latest of equals. Something
    /// follows it always, also where `tail` is `text` itself.
    ///
    /// `text` begins as at every call before.
    pub fn find(&mut self, text: &[Token], tail: &[Token]) -> Option<Match> {
        self.add(text);
        let mut after = self.latest[self.head(tail)?] as usize;
        let mut best: Option<Match> = None;
        for _ in 0..CANDIDATES_MAX {
            // Chains lead to the front, to where there is nothing.
            if after == 0 {
                break;
            }
            let agreement = agreement(&text[..after], tail);
            if agreement >= RUN_TOKENS && best.is_none_or(|best| agreement > best.agreement) {
                best = Some(Match {
                    at: after,
                    agreement,
                });
                if agreement == AGREEMENT_MAX {
                    break;
                }
            }
            after = self.earlier[after] as usize;
        }
        best
    }

    /// Indexes what is new, but for the last run: nothing follows it yet.
    fn add(&mut self, text: &[Token]) {
        for after in self.earlier.len()..text.len() {
            let Some(head) = self.head(&text[..after]) else {
                self.earlier.push(0);
                continue;
            };
            self.earlier.push(self.latest[head]);
            self.latest[head] = u32::try_from(after).unwrap_or(0);
        }
    }

    /// The chain of the run at the end of `text`; `None` when that is shorter.
    fn head(&self, text: &[Token]) -> Option<usize> {
        let run = text.last_chunk::<RUN_TOKENS>()?;
        // Knuth's multiplicative hash: the high bits are the mixed ones.
        let mixed = run.iter().fold(0_u64, |hash, token| {
            (hash ^ u64::from(token.cast_unsigned())).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        });
        let heads = self.latest.len();
        usize::try_from(mixed >> 40).ok().map(|hash| hash % heads)
    }
}

fn agreement(one: &[Token], other: &[Token]) -> usize {
    let pairs = one.iter().rev().zip(other.iter().rev());
    let same = pairs.take(AGREEMENT_MAX).take_while(|(a, b)| a == b);
    same.count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }

    #[test]
    fn the_longest_agreement_wins_and_the_latest_of_equals() {
        for (text, at, agreement) in [
            ("xabcd xabc", 4, 4),
            ("xabcd yabce xabc", 4, 4),
            ("abX abY ab", 6, 3),
            ("aaaaa", 4, 4),
        ] {
            let text = tokens(text);
            let found = Lookup::new(64).find(&text, &text);
            assert_eq!(found, Some(Match { at, agreement }), "{text:?}");
        }
        for text in ["", "a", "ab", "abcde"] {
            let text = tokens(text);
            assert_eq!(Lookup::new(64).find(&text, &text), None, "{text:?}");
        }
    }

    #[test]
    fn a_text_is_found_by_the_end_of_another() {
        let text = tokens("let x = 1;");
        let mut lookup = Lookup::new(text.len());
        let found = lookup.find(&text, &tokens("so let x"));
        assert_eq!(
            found,
            Some(Match {
                at: 5,
                agreement: 5
            })
        );
        // What ends the text has nothing to go on with.
        assert_eq!(lookup.find(&text, &tokens(" 1;")), None);
    }

    proptest! {
        /// With few occurrences of each run, what is found is what looking everywhere finds.
        #[test]
        fn nothing_better_is_overlooked(text in prop::collection::vec(0..12_i32, 2..60), cut in 0..60_usize) {
            let mut lookup = Lookup::new(text.len());
            // Grown in two steps, as replies do.
            let _ = lookup.find(&text[..cut.min(text.len())], &text[..cut.min(text.len())]);
            let found = lookup.find(&text, &text);
            let places = (1..text.len()).map(|at| (agreement(&text[..at], &text), at));
            let mut runs = places.filter(|(agreement, _)| *agreement >= RUN_TOKENS).collect::<Vec<_>>();
            prop_assume!(runs.len() <= CANDIDATES_MAX / 2);
            runs.sort_unstable();
            let expected = runs.last().map(|(agreement, at)| Match { at: *at, agreement: *agreement });
            prop_assert_eq!(found, expected);
        }
    }
}
