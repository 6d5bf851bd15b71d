//! Draws the next token from logits.
//!
//! Written here and not taken from llama.cpp: its samplers throw C++ exceptions through Rust
//! frames, which ends the process, and these few steps are the same for every decoder.
//!
//! Order: logit bias, the repeat penalty, frequency and presence penalties, DRY, the grammar's
//! choice, then greedy at temperature 0; else top-n-sigma, top-k, temperature, typical, top-p, min-p,
//! XTC and a draw. Mirostat stands in for all of those cuts. What a draw does to the next one
//! (counts, memories, mirostat's mu, the state of chance) happens in [`Sampler::draw`] alone, once for
//! each token of the reply.
//!
//! The draw depends on the seed and on how many tokens were drawn, on nothing
//! else: the same seed and the same logits give the same text. Logits themselves may differ in the
//! last bits with what else is in the batch, so a repeat among other neighbours can part ways
//! where two tokens are almost equally likely.

mod cuts;
mod dense;
mod repeats;
mod surprise;

use std::collections::HashMap;
use std::sync::Arc;

use domain::{Sampling, Xtc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::decoder::{Token, Vocabulary};
use crate::gallery::is_of_image;
use crate::grammar::Allowed;
use crate::sampler::repeats::{Dryness, Repeats};
use crate::sampler::surprise::Surprise;

/// Weights that are summed up together, to find the one drawn without a look at each.
const STRETCH: usize = 512;

/// How one reply's tokens are drawn.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_n_sigma: Option<f32>,
    top_k: usize,
    typical_p: Option<f32>,
    top_p: f32,
    min_p: f32,
    xtc: Option<Xtc>,
    surprise: Option<Surprise>,
    repeats: Option<Repeats>,
    dry: Option<Dryness>,
    frequency_penalty: f32,
    presence_penalty: f32,
    bias: Vec<(usize, f32)>,
    /// How often each token was generated; empty while there are no penalties.
    counts: HashMap<Token, u32>,
    /// Never drawn, but under a grammar; in rising order.
    forbidden: Vec<usize>,
    /// Tokens that end the reply.
    stops: Vec<Token>,
    random: StdRng,
    /// The logits that a token is drawn by, then the weights.
    weights: Vec<f32>,
    /// Sums of stretches of them.
    sums: Vec<f64>,
    scratch: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    /// A logit, then a probability that need not be scaled to a sum of 1.
    weight: f32,
}

impl Sampler {
    /// `seed` stands in where the request states none. Knows nothing of the model yet: see
    /// [`Sampler::at_prompt`].
    pub(crate) fn new(sampling: &Sampling, temperature_default: f32, seed: u64) -> Self {
        Self {
            temperature: sampling.temperature.unwrap_or(temperature_default),
            top_n_sigma: sampling.open.top_n_sigma,
            top_k: sampling.top_k.map_or(0, |k| k as usize),
            typical_p: sampling.open.typical_p,
            top_p: sampling.top_p.unwrap_or(1.0),
            min_p: sampling.min_p.unwrap_or(0.0),
            xtc: sampling.open.xtc,
            surprise: sampling.open.mirostat.map(Surprise::new),
            repeats: sampling.open.repeats.map(Repeats::new),
            dry: None,
            frequency_penalty: sampling.frequency_penalty.unwrap_or(0.0),
            presence_penalty: sampling.presence_penalty.unwrap_or(0.0),
            bias: sampling
                .logit_bias
                .iter()
                .map(|(token, bias)| (*token as usize, *bias))
                .collect(),
            counts: HashMap::new(),
            forbidden: Vec::new(),
            stops: sampling
                .open
                .stop_tokens
                .iter()
                .filter_map(|token| Token::try_from(*token).ok())
                .collect(),
            random: StdRng::seed_from_u64(sampling.seed.map_or(seed, i64::cast_unsigned)),
            weights: Vec::new(),
            sums: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Takes in what the settings look at besides logits: the model's tokens, those that `ends` a
    /// reply, and the prompt. Up to a millisecond for a long one.
    pub(crate) fn at_prompt(
        mut self,
        sampling: &Sampling,
        vocabulary: &Arc<dyn Vocabulary>,
        ends: &[Token],
        prompt: &[Token],
    ) -> Self {
        if sampling.open.ignores_end {
            let ends = ends.iter().filter_map(|end| usize::try_from(*end).ok());
            self.forbidden = ends.collect();
            self.forbidden.sort_unstable();
        }
        let dry = sampling.open.dry.as_ref();
        self.dry = dry.map(|dry| Dryness::new(dry, Arc::clone(vocabulary)));
        // No reply repeats an image.
        for token in prompt.iter().filter(|token| !is_of_image(**token)) {
            self.remember(*token);
        }
        self
    }

    /// True for tokens that the caller wants the reply to end with.
    pub(crate) fn stops_at(&self, token: Token) -> bool {
        self.stops.contains(&token)
    }

    /// The next token, one of `allowed` where there is a grammar, or `None` when no logit of those is
    /// a number.
    pub(crate) fn draw(&mut self, logits: &[f32], allowed: Option<&Allowed>) -> Option<Token> {
        let token = if self.temperature <= 0.0 && self.is_plain() {
            match allowed {
                None => self.likeliest(logits)?,
                Some(allowed) => likeliest_of(logits, allowed)?,
            }
        } else {
            self.fill(logits);
            match allowed {
                // Before anything is compared or counted: the shares are of what may be drawn.
                Some(allowed) => self.gather(allowed.tokens()),
                None => self.forbid(),
            }
            if allowed.is_none() && self.draws_from_all(logits.len()) {
                self.draw_from_all()?
            } else {
                if allowed.is_none() {
                    self.gather(0..logits.len());
                }
                self.pick(logits.len())?
            }
        };
        let token = Token::try_from(token).ok()?;
        if self.frequency_penalty != 0.0 || self.presence_penalty != 0.0 {
            *self.counts.entry(token).or_default() += 1;
        }
        self.remember(token);
        Some(token)
    }

    /// True while the logits are compared as they are.
    fn is_plain(&self) -> bool {
        self.bias.is_empty()
            && self.counts.is_empty()
            && self.repeats.is_none()
            && self.dry.is_none()
    }

    fn remember(&mut self, token: Token) {
        if let Some(repeats) = &mut self.repeats {
            repeats.note(token);
        }
        if let Some(dry) = &mut self.dry {
            dry.note(token);
        }
    }

    /// The likeliest that is not forbidden.
    fn likeliest(&self, logits: &[f32]) -> Option<usize> {
        let first = likeliest(logits)?;
        if self.forbidden.binary_search(&first).is_err() {
            return Some(first);
        }
        let mut best = None;
        for (token, &logit) in logits.iter().enumerate() {
            if logit > best.map_or(f32::NEG_INFINITY, |(_, weight)| weight)
                && self.forbidden.binary_search(&token).is_err()
            {
                best = Some((token, logit));
            }
        }
        best.map(|(token, _)| token)
    }

    /// Takes the logits as weights, biased and penalised.
    fn fill(&mut self, logits: &[f32]) {
        self.weights.clear();
        self.weights
            .extend(logits.iter().map(|logit| match logit.is_finite() {
                true => *logit,
                false => f32::NEG_INFINITY,
            }));
        for (token, bias) in &self.bias {
            if let Some(weight) = self.weights.get_mut(*token) {
                *weight += bias;
            }
        }
        if let Some(repeats) = &self.repeats {
            repeats.apply(&mut self.weights);
        }
        for (token, count) in &self.counts {
            let at = usize::try_from(*token).unwrap_or(usize::MAX);
            if let Some(weight) = self.weights.get_mut(at) {
                *weight -= self.frequency_penalty * *count as f32 + self.presence_penalty;
            }
        }
        if let Some(dry) = &self.dry {
            dry.apply(&mut self.weights);
        }
    }

    fn forbid(&mut self) {
        for token in &self.forbidden {
            if let Some(weight) = self.weights.get_mut(*token) {
                *weight = f32::NEG_INFINITY;
            }
        }
    }

    /// Makes candidates of these tokens.
    fn gather(&mut self, tokens: impl Iterator<Item = usize>) {
        let weights = &self.weights;
        let candidate = |token: usize| {
            let weight = *weights.get(token)?;
            let token = u32::try_from(token).ok()?;
            Some(Candidate { token, weight })
        };
        self.scratch.clear();
        self.scratch.extend(tokens.filter_map(candidate));
    }

    /// True where by chance any token may come, of `size`.
    fn draws_from_all(&self, size: usize) -> bool {
        self.temperature > 0.0
            && self.top_n_sigma.is_none()
            && (self.top_k == 0 || self.top_k >= size)
            && self.typical_p.is_none()
            && self.top_p >= 1.0
            && self.min_p <= 0.0
            && self.xtc.is_none()
            && self.surprise.is_none()
    }

    /// What [`Sampler::pick`] does where nothing is cut.
    fn draw_from_all(&mut self) -> Option<usize> {
        let best = dense::greatest(&self.weights);
        if best == f32::NEG_INFINITY {
            return None;
        }
        dense::weigh(&mut self.weights, best, self.temperature);
        let stretches = self.weights.chunks(STRETCH);
        self.sums.clear();
        self.sums.extend(stretches.clone().map(dense::sum));
        let all: f64 = self.sums.iter().sum();
        let mut left = self.random.random::<f64>() * all;
        for (nth, (stretch, sum)) in stretches.zip(&self.sums).enumerate() {
            if left >= *sum {
                left -= sum;
                continue;
            }
            for (at, weight) in stretch.iter().enumerate() {
                left -= f64::from(*weight);
                if left < 0.0 {
                    return Some(nth * STRETCH + at);
                }
            }
        }
        // Rounding may leave a crumb: it belongs to the last that weighs anything.
        self.weights.iter().rposition(|weight| *weight > 0.0)
    }

    /// One of the candidates, out of a vocabulary of `size`.
    fn pick(&mut self, size: usize) -> Option<usize> {
        let best = heaviest(&self.scratch);
        if best == f32::NEG_INFINITY {
            return None;
        }
        if self.temperature <= 0.0 {
            let found = self
                .scratch
                .iter()
                .find(|candidate| candidate.weight == best);
            return found.map(|candidate| candidate.token as usize);
        }
        if let Some(surprise) = &self.surprise {
            weigh(&mut self.scratch, best, self.temperature);
            surprise.cut(&mut self.scratch, size);
        } else {
            self.cut(best);
        }
        let (token, share) = self.draw_by_weight()?;
        if let Some(surprise) = &mut self.surprise {
            surprise.learn(share);
        }
        Some(token as usize)
    }

    /// From logits, of which `best` is the greatest, to the weights of what may be drawn.
    fn cut(&mut self, best: f32) {
        if let Some(sigmas) = self.top_n_sigma {
            cuts::top_n_sigma(&mut self.scratch, sigmas);
        }
        self.keep_top_k();
        weigh(&mut self.scratch, best, self.temperature);
        if let Some(share) = self.typical_p {
            cuts::typical(&mut self.scratch, share);
        }
        self.keep_top_p();
        if self.min_p > 0.0 {
            // The likeliest has weight 1, unless it was not typical.
            let most = self.typical_p.map_or(1.0, |_| heaviest(&self.scratch));
            let least = self.min_p * most;
            self.scratch.retain(|candidate| candidate.weight >= least);
        }
        if let Some(xtc) = self.xtc
            && self.random.random::<f32>() < xtc.probability
        {
            cuts::exclude_top_choices(&mut self.scratch, xtc.threshold);
        }
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
        let wanted = f64::from(self.top_p * all);
        let weight = |candidate: &Candidate| candidate.weight;
        let kept = cuts::fewest(&mut self.scratch, heavier_first, weight, |sum| {
            sum >= wanted
        });
        self.scratch.truncate(kept);
    }

    /// A candidate by chance, and its share of all weight.
    fn draw_by_weight(&mut self) -> Option<(u32, f64)> {
        // Selection above leaves the order to chance; the draw must not depend on it.
        self.scratch
            .sort_unstable_by_key(|candidate| candidate.token);
        let all: f64 = self
            .scratch
            .iter()
            .map(|candidate| f64::from(candidate.weight))
            .sum();
        let share = |candidate: &Candidate| (candidate.token, f64::from(candidate.weight) / all);
        let mut left = self.random.random::<f64>() * all;
        for candidate in &self.scratch {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(share(candidate));
            }
        }
        // Rounding may leave a crumb: it belongs to the last that weighs anything.
        let last = self
            .scratch
            .iter()
            .rev()
            .find(|candidate| candidate.weight > 0.0);
        last.map(share)
    }
}

/// From logits to probabilities up to a factor: `best` becomes 1.
fn weigh(candidates: &mut [Candidate], best: f32, temperature: f32) {
    for candidate in candidates {
        candidate.weight = dense::weight(candidate.weight, best, temperature);
    }
}

fn heaviest(candidates: &[Candidate]) -> f32 {
    let weights = candidates.iter().map(|candidate| candidate.weight);
    weights.fold(f32::NEG_INFINITY, f32::max)
}

fn heavier_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The index of the greatest number; the first of equals.
fn likeliest(logits: &[f32]) -> Option<usize> {
    let best = dense::greatest(logits);
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
mod tests;
