//! Penalties for what was said before: the repeat penalty and DRY, as llama.cpp has them
//! (llama-sampler.cpp, `llama_sampler_penalties_apply` and `llama_sampler_dry_apply`).
//!
//! Both look back over the prompt and the reply. They differ from llama.cpp's in one thing: where
//! DRY's breakers stand is found in the text, not by every way of cutting it into tokens.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use domain::{Dry, RepeatPenalty};

use crate::decoder::{Token, Vocabulary};

/// Beyond these, what a penalty makes of a logit is no number that sampling could go by.
const PENALTY_MIN: f32 = 0.01;
const PENALTY_MAX: f32 = 10.0;

/// Tokens of the last stretch, and a penalty for them.
#[derive(Clone, Debug)]
pub(super) struct Repeats {
    penalty: f32,
    tokens_max: usize,
    recent: VecDeque<Token>,
    /// How often each token is in `recent`.
    counts: HashMap<Token, u32>,
}

impl Repeats {
    pub(super) fn new(rule: RepeatPenalty) -> Self {
        Self {
            penalty: rule.penalty.clamp(PENALTY_MIN, PENALTY_MAX),
            tokens_max: window(rule.tokens_max),
            recent: VecDeque::new(),
            counts: HashMap::new(),
        }
    }

    pub(super) fn note(&mut self, token: Token) {
        self.recent.push_back(token);
        *self.counts.entry(token).or_default() += 1;
        if self.recent.len() <= self.tokens_max {
            return;
        }
        let Some(oldest) = self.recent.pop_front() else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    /// `candidates` hold logits, each at the index of its token.
    pub(super) fn apply(&self, weights: &mut [f32]) {
        for token in self.counts.keys() {
            let Some(weight) = at(weights, *token) else {
                continue;
            };
            if *weight <= 0.0 {
                *weight *= self.penalty;
            } else {
                *weight /= self.penalty;
            }
        }
    }
}

/// What DRY goes by.
#[derive(Clone)]
pub(super) struct Dryness {
    rule: Dry,
    tokens_max: usize,
    vocabulary: Arc<dyn Vocabulary>,
    tokens: Vec<Token>,
    /// The bytes that a breaker under way may begin in.
    tail: Vec<u8>,
    tail_max: usize,
    /// Tokens after the last breaker.
    unbroken: usize,
}

impl fmt::Debug for Dryness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dryness")
            .field("tokens", &self.tokens.len())
            .field("unbroken", &self.unbroken)
            .finish_non_exhaustive()
    }
}

impl Dryness {
    pub(super) fn new(rule: &Dry, vocabulary: Arc<dyn Vocabulary>) -> Self {
        let longest = rule.breakers.iter().map(String::len).max().unwrap_or(0);
        Self {
            tokens_max: window(rule.tokens_max),
            rule: rule.clone(),
            vocabulary,
            tokens: Vec::new(),
            tail: Vec::new(),
            tail_max: longest.saturating_sub(1),
            unbroken: 0,
        }
    }

    pub(super) fn note(&mut self, token: Token) {
        self.tokens.push(token);
        // Twice the window at most, and a cut once in a window.
        if self.tokens.len() / 2 >= self.tokens_max {
            let old = self.tokens.len() - self.tokens_max;
            self.tokens.drain(..old);
        }
        let before = self.tail.len();
        self.vocabulary.piece(token, &mut self.tail);
        self.unbroken += 1;
        let mut breakers = self.rule.breakers.iter();
        let is_broken = breakers.any(|breaker| {
            // By one that ends in this token.
            let first = (before + 1).saturating_sub(breaker.len());
            contains(&self.tail[first..], breaker.as_bytes())
        });
        if is_broken {
            self.unbroken = 0;
        }
        let old = self.tail.len().saturating_sub(self.tail_max);
        self.tail.drain(..old);
    }

    /// As for [`Repeats::apply`].
    pub(super) fn apply(&self, weights: &mut [f32]) {
        let from = self.tokens.len().saturating_sub(self.tokens_max);
        let window = &self.tokens[from..];
        let allowed = self.rule.allowed as usize;
        let longest = self.unbroken.min(window.len());
        if window.len() <= allowed || longest < allowed {
            return;
        }
        for (token, length) in repetitions(window, longest) {
            if length < allowed || self.is_breaker(token) {
                continue;
            }
            if let Some(weight) = at(weights, token) {
                *weight -= self.penalty(length - allowed);
            }
        }
    }

    /// No more than the greatest number there is, so that no logit becomes infinite by it.
    fn penalty(&self, beyond: usize) -> f32 {
        let beyond = i32::try_from(beyond).unwrap_or(i32::MAX);
        let penalty = self.rule.multiplier * self.rule.base.powi(beyond);
        penalty.min(f32::MAX / 4.0)
    }

    fn is_breaker(&self, token: Token) -> bool {
        let mut piece = Vec::new();
        self.vocabulary.piece(token, &mut piece);
        let mut breakers = self.rule.breakers.iter();
        breakers.any(|breaker| contains(&piece, breaker.as_bytes()))
    }
}

/// The tokens that came after what `tokens` now ends in, and how much of it was the same, counted up
/// to `longest`.
fn repetitions(tokens: &[Token], longest: usize) -> HashMap<Token, usize> {
    let mut found = HashMap::new();
    for (back, length) in suffix_lengths(tokens).into_iter().enumerate().skip(1) {
        let length = length.min(longest);
        if length > 0 {
            let next = tokens[tokens.len() - back];
            let known = found.entry(next).or_insert(0);
            *known = length.max(*known);
        }
    }
    found
}

/// For each `back`, how many tokens before the last `back` are the same as the last ones: the
/// Z-algorithm on the reversed text, in linear time.
fn suffix_lengths(tokens: &[Token]) -> Vec<usize> {
    let reversed = |at: usize| tokens[tokens.len() - 1 - at];
    let mut lengths = vec![0; tokens.len()];
    let (mut left, mut right) = (0, 0);
    for at in 1..tokens.len() {
        let mut length = if at < right {
            lengths[at - left].min(right - at)
        } else {
            0
        };
        while at + length < tokens.len() && reversed(length) == reversed(at + length) {
            length += 1;
        }
        if at + length > right {
            (left, right) = (at, at + length);
        }
        lengths[at] = length;
    }
    lengths
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len().max(1)).any(|part| part == needle)
}

fn at(weights: &mut [f32], token: Token) -> Option<&mut f32> {
    weights.get_mut(usize::try_from(token).ok()?)
}

fn window(tokens_max: Option<u32>) -> usize {
    tokens_max.map_or(usize::MAX, |tokens| tokens as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake::FakeVocabulary;

    #[test]
    fn what_was_said_in_the_window_is_divided_or_multiplied() {
        let mut repeats = Repeats::new(RepeatPenalty {
            penalty: 2.0,
            tokens_max: Some(3),
        });
        // The first has left the window; the last counts once though it came twice.
        [0, 1, 2, 2]
            .into_iter()
            .for_each(|token| repeats.note(token));
        let mut row = [4.0, 4.0, -4.0, 4.0];
        repeats.apply(&mut row);
        assert_eq!(row, [4.0, 2.0, -8.0, 4.0]);
        repeats.note(900);
        repeats.apply(&mut row);
        assert_eq!(row, [4.0, 2.0, -16.0, 4.0], "ids beyond the row");
    }

    /// Seen: 1e-38 made infinite logits, and no token could be drawn from them.
    #[test]
    fn a_logit_stays_a_number_under_the_smallest_penalty() {
        let mut repeats = Repeats::new(RepeatPenalty {
            penalty: 1e-38,
            tokens_max: None,
        });
        repeats.note(0);
        let mut row = [30.0, 1.0];
        repeats.apply(&mut row);
        assert_eq!(row, [3_000.0, 1.0]);
    }

    fn dry(text: &str, change: impl FnOnce(&mut Dry)) -> Vec<(char, f32)> {
        let mut rule = Dry {
            multiplier: 1.0,
            base: 2.0,
            allowed: 2,
            tokens_max: None,
            breakers: vec!["\n".into(), "##".into()],
        };
        change(&mut rule);
        let mut dryness = Dryness::new(&rule, Arc::new(FakeVocabulary::default()));
        text.bytes().for_each(|byte| dryness.note(byte.into()));
        let mut row = [0.0; 256];
        dryness.apply(&mut row);
        let hit = (0..=u8::MAX).zip(row).filter(|(_, weight)| *weight != 0.0);
        hit.map(|(token, weight)| (char::from(token), weight))
            .collect()
    }

    /// The example in llama.cpp's own comment: three tokens came before `c`, two before `y`.
    #[test]
    fn the_longer_the_repetition_the_dearer_its_next_token() {
        let text = "abccbcyabc";
        assert_eq!(dry(text, |_| ()), [('c', -2.0), ('y', -1.0)]);
        assert_eq!(dry(text, |rule| rule.allowed = 3), [('c', -1.0)]);
        assert_eq!(dry(text, |rule| rule.allowed = 4), []);
        assert_eq!(
            dry(text, |rule| rule.allowed = 1),
            [('b', -1.0), ('c', -4.0), ('y', -2.0)]
        );
        // Nothing but the second half.
        assert_eq!(dry(text, |rule| rule.tokens_max = Some(6)), [('y', -1.0)]);
    }

    #[test]
    fn no_repetition_is_followed_across_a_breaker() {
        assert_eq!(dry("ab\ncdxab\ncd", |_| ()), [('x', -1.0)], "only `cd`");
        assert_eq!(dry("ab##cdxab##cd", |_| ()), [('x', -1.0)]);
        assert_eq!(dry("ab#cdxab#cd", |_| ()), [('x', -8.0)]);
        assert_eq!(dry("abc\nabc", |_| ()), [], "a breaker is free");
    }

    #[test]
    fn a_penalty_stays_a_number() {
        let text = "a".repeat(4_000);
        let hit = dry(&text, |rule| rule.base = 100.0);
        assert!(hit.len() == 1 && hit[0].1.is_finite(), "{hit:?}");
    }

    proptest! {
        #[test]
        fn suffix_lengths_are_what_counting_gives(tokens in prop::collection::vec(0..3, 0..40)) {
            let counted = |back: usize| {
                let end = tokens.len() - back;
                let pairs = tokens[..end].iter().rev().zip(tokens.iter().rev());
                pairs.take_while(|(one, other)| one == other).count()
            };
            let lengths = suffix_lengths(&tokens);
            for (back, length) in lengths.into_iter().enumerate().skip(1) {
                prop_assert_eq!(length, counted(back));
            }
        }

        #[test]
        fn a_short_memory_says_what_a_whole_one_does_of_its_window(tokens in prop::collection::vec(97_u8..100, 0..60)) {
            let text = String::from_utf8(tokens).unwrap();
            let cut = &text[text.len().saturating_sub(9)..];
            let window = |rule: &mut Dry| rule.tokens_max = Some(9);
            prop_assert_eq!(dry(&text, window), dry(cut, window));
        }
    }
}
