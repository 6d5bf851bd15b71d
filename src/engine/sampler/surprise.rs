//! Mirostat: the candidates are cut so that the text's surprise stays near a target, as llama.cpp has
//! it (llama-sampler.cpp, `llama_sampler_mirostat_apply` and `_v2_apply`; Basu et al. 2021,
//! arXiv 2007.14966).

use domain::{Mirostat, MirostatVersion};

use super::{Candidate, heavier_first};

/// The likeliest tokens that version 1 estimates the distribution's slope by; llama.cpp's own number.
const SLOPE_TOKENS: usize = 100;

#[derive(Clone, Debug)]
pub(super) struct Surprise {
    rule: Mirostat,
    /// The surprise beyond which nothing is drawn, in bits.
    mu: f64,
}

impl Surprise {
    pub(super) fn new(rule: Mirostat) -> Self {
        Self {
            mu: 2.0 * f64::from(rule.tau),
            rule,
        }
    }

    /// Cuts `candidates`, whose weights are probabilities up to a factor, out of a vocabulary of
    /// `size`. At least one stays.
    pub(super) fn cut(&self, candidates: &mut Vec<Candidate>, size: usize) {
        candidates.retain(|one| one.weight > 0.0);
        match self.rule.version {
            MirostatVersion::One => {
                let count = self
                    .count(candidates, size)
                    .clamp(1, candidates.len().max(1));
                if count < candidates.len() {
                    candidates.select_nth_unstable_by(count - 1, heavier_first);
                    candidates.truncate(count);
                }
            }
            MirostatVersion::Two => {
                let all: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
                let best = candidates.iter().copied().min_by(heavier_first);
                candidates.retain(|one| -(f64::from(one.weight) / all).log2() <= self.mu);
                if candidates.is_empty() {
                    candidates.extend(best);
                }
            }
        }
    }

    /// How many of the likeliest version 1 keeps. Leaves the likeliest in front.
    fn count(&self, candidates: &mut [Candidate], size: usize) -> usize {
        let most = SLOPE_TOKENS.min(candidates.len());
        if most < candidates.len() {
            candidates.select_nth_unstable_by(most - 1, heavier_first);
        }
        let top = &mut candidates[..most];
        top.sort_unstable_by(heavier_first);
        let (mut of_both, mut of_ranks) = (0.0, 0.0);
        for (at, pair) in top.windows(2).enumerate() {
            let rank = ((at + 2) as f64 / (at + 1) as f64).ln();
            let fall = (f64::from(pair[0].weight) / f64::from(pair[1].weight)).ln();
            of_both += rank * fall;
            of_ranks += rank * rank;
        }
        let slope: f64 = of_both / of_ranks;
        let beyond = slope - 1.0;
        let base = beyond * self.mu.exp2() / (1.0 - (size as f64).powf(-beyond));
        count_of(base.powf(1.0 / slope))
    }

    /// Learns from a draw that had this share of what was left to draw from.
    pub(super) fn learn(&mut self, share: f64) {
        let error = -share.log2() - f64::from(self.rule.tau);
        self.mu -= f64::from(self.rule.eta) * error;
    }
}

/// What is no number counts as 0, as where all are alike.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float to integer casts saturate, and NaN becomes 0"
)]
fn count_of(number: f64) -> usize {
    number as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[f32]) -> Vec<Candidate> {
        let weights = weights.iter().zip(0..);
        weights
            .map(|(weight, token)| Candidate {
                token,
                weight: *weight,
            })
            .collect()
    }

    fn surprise(version: MirostatVersion, tau: f32) -> Surprise {
        Surprise::new(Mirostat {
            version,
            tau,
            eta: 0.1,
        })
    }

    fn left(surprise: &Surprise, weights: &[f32]) -> Vec<u32> {
        let mut all = candidates(weights);
        surprise.cut(&mut all, weights.len());
        let mut tokens: Vec<u32> = all.iter().map(|one| one.token).collect();
        tokens.sort_unstable();
        tokens
    }

    /// Surprises of 1, 2, 3 and 3 bits.
    #[test]
    fn version_two_leaves_out_what_surprises_more_than_mu() {
        let weights = [4.0, 2.0, 1.0, 1.0];
        for (tau, expected) in [
            (0.25, vec![0]),
            (0.5, vec![0]),
            (1.0, vec![0, 1]),
            (1.4, vec![0, 1]),
            (1.5, vec![0, 1, 2, 3]),
        ] {
            let kept = left(&surprise(MirostatVersion::Two, tau), &weights);
            assert_eq!(kept, expected, "{tau}");
        }
    }

    /// Weights of 1/rank² have a slope of 2, so with a mu of 3 bits and a vocabulary of 10:
    /// (1 · 8 / (1 - 1/10))^(1/2) = 2.98, and with 5 bits 5.96.
    #[test]
    fn version_one_keeps_as_many_as_the_slope_says() {
        let weights: Vec<f32> = (1..=10).map(|rank| 1.0 / (rank * rank) as f32).collect();
        for (tau, count) in [(0.1, 1), (1.5, 2), (2.5, 5), (9.0, 10)] {
            let kept = left(&surprise(MirostatVersion::One, tau), &weights);
            assert_eq!(kept, (0..count).collect::<Vec<_>>(), "{tau}");
        }
        for odd in [vec![1.0], vec![1.0; 4], vec![0.0, 2.0]] {
            let kept = left(&surprise(MirostatVersion::One, 1.0), &odd);
            assert!(!kept.is_empty(), "{odd:?}");
        }
    }

    /// A quarter is 2 bits: 3 less than the target of 5, so a tenth of 3 is added to 10.
    #[test]
    fn mu_follows_the_observed_surprise() {
        let mut surprise = surprise(MirostatVersion::Two, 5.0);
        surprise.learn(0.25);
        assert!((surprise.mu - 10.3).abs() < 1e-6, "{}", surprise.mu);
    }
}
