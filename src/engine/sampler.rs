//! Draws the next token from logits.
//!
//! Written here and not taken from llama.cpp: its samplers throw C++ exceptions through Rust
//! frames, which ends the process, and these few steps are the same for every decoder.
//!
//! Order: logit bias, penalties, the grammar's choice, then greedy at temperature 0, else
//! temperature, top-k, top-p, min-p and a draw. The draw depends on the seed and on how many tokens were drawn, on nothing
//! else: the same seed and the same logits give the same text. Logits themselves may differ in the
//! last bits with what else is in the batch, so a repeat among other neighbours can part ways
//! where two tokens are almost equally likely.

use std::collections::HashMap;

use domain::Sampling;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::decoder::Token;
use crate::grammar::Allowed;

/// How one reply's tokens are drawn.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    frequency_penalty: f32,
    presence_penalty: f32,
    bias: Vec<(usize, f32)>,
    /// How often each token was generated; empty while there are no penalties.
    counts: HashMap<Token, u32>,
    random: StdRng,
    scratch: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: usize,
    /// A logit, then a probability that need not be scaled to a sum of 1.
    weight: f32,
}

impl Sampler {
    /// `seed` stands in where the request states none.
    pub(crate) fn new(sampling: &Sampling, temperature_default: f32, seed: u64) -> Self {
        Self {
            temperature: sampling.temperature.unwrap_or(temperature_default),
            top_k: sampling.top_k.map_or(0, |k| k as usize),
            top_p: sampling.top_p.unwrap_or(1.0),
            min_p: sampling.min_p.unwrap_or(0.0),
            frequency_penalty: sampling.frequency_penalty.unwrap_or(0.0),
            presence_penalty: sampling.presence_penalty.unwrap_or(0.0),
            bias: sampling
                .logit_bias
                .iter()
                .map(|(token, bias)| (*token as usize, *bias))
                .collect(),
            counts: HashMap::new(),
            random: StdRng::seed_from_u64(sampling.seed.map_or(seed, i64::cast_unsigned)),
            scratch: Vec::new(),
        }
    }

    /// The next token, one of `allowed` where there is a grammar, or `None` when no logit of those is
    /// a number.
    pub(crate) fn draw(&mut self, logits: &[f32], allowed: Option<&Allowed>) -> Option<Token> {
        let is_plain = self.bias.is_empty() && self.counts.is_empty();
        let token = if self.temperature <= 0.0 && is_plain {
            match allowed {
                None => likeliest(logits)?,
                Some(allowed) => likeliest_of(logits, allowed)?,
            }
        } else {
            self.fill(logits);
            if let Some(allowed) = allowed {
                // Before anything is compared or counted: the shares are of what may be drawn.
                self.scratch
                    .retain(|candidate| allowed.has(candidate.token));
            }
            self.pick()?
        };
        let token = Token::try_from(token).ok()?;
        if self.frequency_penalty != 0.0 || self.presence_penalty != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
        Some(token)
    }

    /// Fills the scratch with the logits, biased and penalised.
    fn fill(&mut self, logits: &[f32]) {
        self.scratch.clear();
        self.scratch
            .extend(logits.iter().enumerate().map(|(token, logit)| Candidate {
                token,
                weight: if logit.is_finite() {
                    *logit
                } else {
                    f32::NEG_INFINITY
                },
            }));
        for (token, bias) in &self.bias {
            if let Some(candidate) = self.scratch.get_mut(*token) {
                candidate.weight += bias;
            }
        }
        for (token, count) in &self.counts {
            let at = usize::try_from(*token).unwrap_or(usize::MAX);
            if let Some(candidate) = self.scratch.get_mut(at) {
                candidate.weight -= self.frequency_penalty * *count as f32 + self.presence_penalty;
            }
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let best = self
            .scratch
            .iter()
            .map(|candidate| candidate.weight)
            .fold(f32::NEG_INFINITY, f32::max);
        if best == f32::NEG_INFINITY {
            return None;
        }
        if self.temperature <= 0.0 {
            let found = self
                .scratch
                .iter()
                .find(|candidate| candidate.weight == best);
            return found.map(|candidate| candidate.token);
        }
        self.keep_top_k();
        for candidate in &mut self.scratch {
            candidate.weight = ((candidate.weight - best) / self.temperature).exp();
        }
        self.keep_top_p();
        // The likeliest has weight 1, so min-p is a plain threshold.
        let min_p = self.min_p;
        self.scratch.retain(|candidate| candidate.weight >= min_p);
        self.draw_by_weight()
    }

    fn keep_top_k(&mut self) {
        if self.top_k == 0 || self.top_k >= self.scratch.len() {
            return;
        }
        self.scratch
            .select_nth_unstable_by(self.top_k - 1, heavier_first);
        self.scratch.truncate(self.top_k);
    }

    /// Keeps the fewest likeliest candidates whose weights come to `top_p` of all.
    fn keep_top_p(&mut self) {
        if self.top_p >= 1.0 {
            return;
        }
        let all: f32 = self.scratch.iter().map(|candidate| candidate.weight).sum();
        // Sorting a whole vocabulary is dear, and the answer is nearly always among the first few.
        let mut sorted = 64.min(self.scratch.len());
        loop {
            if sorted < self.scratch.len() {
                self.scratch
                    .select_nth_unstable_by(sorted - 1, heavier_first);
            }
            self.scratch[..sorted].sort_unstable_by(heavier_first);
            let mut sum = 0.0;
            let enough = self.scratch[..sorted].iter().position(|candidate| {
                sum += candidate.weight;
                sum >= self.top_p * all
            });
            if let Some(last) = enough {
                return self.scratch.truncate(last + 1);
            }
            if sorted == self.scratch.len() {
                return;
            }
            sorted = (sorted * 8).min(self.scratch.len());
        }
    }

    fn draw_by_weight(&mut self) -> Option<usize> {
        // Selection above leaves the order to chance; the draw must not depend on it.
        self.scratch
            .sort_unstable_by_key(|candidate| candidate.token);
        let all: f64 = self
            .scratch
            .iter()
            .map(|candidate| f64::from(candidate.weight))
            .sum();
        let mut left = self.random.random::<f64>() * all;
        for candidate in &self.scratch {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding may leave a crumb: it belongs to the last that weighs anything.
        let last = self
            .scratch
            .iter()
            .rev()
            .find(|candidate| candidate.weight > 0.0);
        last.map(|candidate| candidate.token)
    }
}

fn heavier_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The index of the greatest number; the first of equals.
fn likeliest(logits: &[f32]) -> Option<usize> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if best == f32::NEG_INFINITY {
        return None;
    }
    logits.iter().position(|logit| *logit == best)
}

/// As [`likeliest`], among `allowed`.
fn likeliest_of(logits: &[f32], allowed: &Allowed) -> Option<usize> {
    let mut best = None;
    for token in allowed.tokens() {
        let Some(&logit) = logits.get(token) else {
            continue;
        };
        if logit > best.map_or(f32::NEG_INFINITY, |(_, weight)| weight) {
            best = Some((token, logit));
        }
    }
    best.map(|(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, f32::NAN, -1.0];

    fn sampling(change: impl FnOnce(&mut Sampling)) -> Sampling {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        sampling
    }

    /// Which of the five tokens turn up in 500 draws.
    fn drawn(sampling: &Sampling) -> Vec<Token> {
        let mut sampler = Sampler::new(sampling, 1.0, 7);
        let mut seen: Vec<Token> = (0..500)
            .filter_map(|_| sampler.draw(&LOGITS, None))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn each_setting_keeps_the_tokens_it_should() {
        let cases: Vec<(Sampling, Vec<Token>)> = vec![
            (sampling(|s| s.temperature = Some(0.0)), vec![1]),
            (sampling(|_| ()), vec![0, 1, 2, 4]),
            (sampling(|s| s.top_k = Some(1)), vec![1]),
            (sampling(|s| s.top_k = Some(2)), vec![1, 2]),
            (sampling(|s| s.top_p = Some(0.5)), vec![1]),
            (sampling(|s| s.top_p = Some(0.85)), vec![1, 2]),
            (sampling(|s| s.min_p = Some(0.3)), vec![1, 2]),
            (
                sampling(|s| s.logit_bias = vec![(1, -100.0), (2, -100.0)]),
                vec![0, 4],
            ),
            (
                sampling(|s| {
                    s.temperature = Some(0.0);
                    s.logit_bias = vec![(4, 100.0), (99, 5.0)];
                }),
                vec![4],
            ),
        ];
        for (sampling, tokens) in cases {
            assert_eq!(drawn(&sampling), tokens, "{sampling:?}");
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = Sampler::new(&Sampling::default(), 1.0, 3);
        let logits = [0.0, 3.0_f32.ln()];
        let ones = (0..4_000)
            .filter(|_| sampler.draw(&logits, None) == Some(1))
            .count();
        assert!(
            (2_850..3_150).contains(&ones),
            "{ones} of 4000, 3000 expected"
        );
    }

    #[test]
    fn a_seed_repeats_its_draws() {
        let draws = |seed| {
            let asked = sampling(|s| s.seed = seed);
            let mut sampler = Sampler::new(&asked, 1.0, 1);
            (0..64)
                .map(|_| sampler.draw(&[0.0; 50], None))
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(Some(-5)), draws(Some(-5)));
        assert_ne!(draws(Some(-5)), draws(Some(5)));
        assert_eq!(draws(None), draws(Some(1)));
    }

    #[test]
    fn nothing_but_what_is_allowed_is_drawn_whatever_the_settings() {
        // The likeliest two, and the one that is no number, are not.
        let allowed = Allowed::of(&[0, 4, 63]);
        let asked = [
            sampling(|s| s.temperature = Some(0.0)),
            sampling(|_| ()),
            sampling(|s| s.top_k = Some(1)),
            sampling(|s| s.top_k = Some(2)),
            sampling(|s| s.top_p = Some(0.01)),
            sampling(|s| s.min_p = Some(1.0)),
            sampling(|s| s.temperature = Some(0.01)),
            sampling(|s| {
                s.temperature = Some(0.0);
                s.logit_bias = vec![(1, 100.0), (4, -100.0)];
            }),
            sampling(|s| s.logit_bias = vec![(0, -100.0), (4, -100.0), (2, 100.0)]),
            sampling(|s| {
                s.presence_penalty = Some(2.0);
                s.frequency_penalty = Some(2.0);
            }),
        ];
        for asked in asked {
            let mut sampler = Sampler::new(&asked, 1.0, 7);
            for _ in 0..100 {
                let token = sampler.draw(&LOGITS, Some(&allowed));
                assert!(matches!(token, Some(0 | 4)), "{token:?} by {asked:?}");
            }
        }
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(&Sampling::default(), temperature, 7);
            assert_eq!(sampler.draw(&LOGITS, Some(&Allowed::of(&[3]))), None);
        }
    }

    #[test]
    fn penalties_wear_a_token_out() {
        let asked = sampling(|s| {
            s.temperature = Some(0.0);
            s.frequency_penalty = Some(0.6);
        });
        let mut sampler = Sampler::new(&asked, 0.0, 0);
        let drawn: Vec<_> = (0..4)
            .filter_map(|_| sampler.draw(&[0.0, 1.0], None))
            .collect();
        assert_eq!(drawn, [1, 1, 0, 1]);
    }

    #[test]
    fn logits_that_are_no_numbers_give_no_token() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(&Sampling::default(), temperature, 0);
            assert_eq!(sampler.draw(&[f32::NAN, f32::NEG_INFINITY], None), None);
        }
    }

    #[test]
    fn a_wide_top_p_is_found_past_the_first_sorted_few() {
        let asked = sampling(|s| s.top_p = Some(0.5));
        let mut sampler = Sampler::new(&asked, 1.0, 0);
        sampler.fill(&[0.0; 1_000]);
        for candidate in &mut sampler.scratch {
            candidate.weight = 1.0;
        }
        sampler.keep_top_p();
        assert_eq!(sampler.scratch.len(), 500);
    }
}
