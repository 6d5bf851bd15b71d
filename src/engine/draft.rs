//! Guesses at the tokens a reply goes on with, taken from what was said before.
//!
//! Replies often copy: code with a change in it, quotations, records of one form. A [`Drafter`] looks
//! for the place where the last tokens of its sequence stood before, in the prompt and the reply or in
//! the text that the caller predicted, and proposes what followed there. The scheduler computes such a
//! draft beside the token that is due, in one step. Each token of it stays only if the sampler then
//! draws that very token from the logits before it; so the text, and every draw, is as without drafts.
//!
//! **Never much slower.** A draft is as long as it is worth by the measured price of a row (see
//! [`worth`]) and by how often such drafts were right. It is paid from the reply's purse: what right
//! tokens saved goes in, what rows cost goes out. The first drafts come on the engine's credit, which
//! only replies that repay it keep up. Without purse and credit there are no drafts; both fill again by
//! a small share of every token.
//!
//! Not here: drafts by a second model.

mod lookup;
mod worth;

use lookup::{AGREEMENT_MAX, Lookup, Match};
pub(crate) use worth::{Costs, Price};
use worth::{LENGTHS, best_length};

use crate::decoder::Token;
use crate::gallery::is_of_image;

/// How the drafts of an engine are priced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Drafting {
    Off,
    /// As measured.
    Measured,
    /// For tests, whose time stands still.
    #[cfg_attr(not(test), expect(dead_code, reason = "for tests"))]
    Priced(Price),
}

/// Where a draft comes from: what its chances are remembered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A place that agrees with a few tokens, as many do by chance.
    Weak,
    Fair,
    /// One that agrees with so many that it is being copied.
    Strong,
    Prediction,
}

impl Source {
    const COUNT: usize = 4;
    const FAIR_TOKENS: usize = 4;
    const STRONG_TOKENS: usize = 8;

    fn of(found: Match) -> Self {
        match found.agreement {
            Self::STRONG_TOKENS..=AGREEMENT_MAX => Source::Strong,
            Self::FAIR_TOKENS..Self::STRONG_TOKENS => Source::Fair,
            _ => Source::Weak,
        }
    }
}

/// What all replies of an engine may owe together, in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credit(f64);

impl Default for Credit {
    fn default() -> Self {
        Self(Self::MAX)
    }
}

impl Credit {
    const MAX: f64 = 8.0;
    /// What one reply may owe.
    const REPLY_MAX: f64 = 2.5;
    /// What each token adds.
    const INCOME: f64 = 0.005;
    /// What each right token of a draft adds.
    const TITHE: f64 = 0.05;

    pub(crate) fn of_reply(self) -> f64 {
        self.0.clamp(0.0, Self::REPLY_MAX)
    }

    /// `repaid` is below zero where more was borrowed.
    fn settle(&mut self, repaid: f64, accepted: u32, drawn: u32) {
        let income = Self::TITHE * f64::from(accepted) + Self::INCOME * f64::from(drawn);
        self.0 = (self.0 + repaid + income).clamp(0.0, Self::MAX);
    }
}

/// Under what terms a reply may draft.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub most: u32,
    pub price: Price,
    /// What it may owe: [`Credit::of_reply`].
    pub credit: f64,
}

/// What of a draft the sampler drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub drafted: u32,
    pub accepted: u32,
    /// Another token was drawn than the one drafted next. Not so where the reply ended before it.
    pub was_wrong: bool,
}

/// The drafts of one reply.
#[derive(Debug)]
pub(crate) struct Drafter {
    said: Lookup,
    predicted: Vec<Token>,
    in_predicted: Lookup,
    /// Where in the prediction the reply is, while it follows it.
    cursor: Option<usize>,
    /// The tokens that the cursor has seen.
    seen: usize,
    /// By source: how often a drafted token was right, those before it being so; a moving mean.
    odds: [f64; Source::COUNT],
    /// In tokens. Below zero: on credit.
    purse: f64,
    source: Source,
    /// The length of the draft in the step before, and what was paid for the present one.
    before: u32,
    paid: f64,
}

impl Drafter {
    /// Before anything is known, by [`Source`].
    const ODDS: [f64; Source::COUNT] = [0.4, 0.7, 0.9, 0.9];
    /// The share of the last token drafted in the odds.
    const WEIGHT: f64 = 0.15;
    /// What each token adds to the purse: with [`Credit::INCOME`], the most by which replies of which
    /// no draft is ever right are slower.
    const INCOME: f64 = 0.01;
    /// A caller's prediction is worth a bolder try.
    const PURSE_PREDICTED: f64 = 1.0;
    /// Past luck does not pay for more than this.
    const PURSE_MAX: f64 = 6.0;

    /// For a sequence of at most `tokens_max`, of which the first `prompt` are given.
    pub(crate) fn new(prompt: usize, tokens_max: usize, predicted: Vec<Token>) -> Self {
        let has_prediction = !predicted.is_empty();
        Self {
            said: Lookup::new(tokens_max),
            in_predicted: Lookup::new(predicted.len()),
            cursor: has_prediction.then_some(0),
            seen: prompt,
            odds: Self::ODDS,
            purse: if has_prediction {
                Self::PURSE_PREDICTED
            } else {
                0.0
            },
            source: Source::Weak,
            before: 0,
            paid: 0.0,
            predicted,
        }
    }

    /// Forgets where things stood: the sequence is another now, of `tokens` so far and at most
    /// `tokens_max`.
    pub(crate) fn begin_anew(&mut self, tokens: usize, tokens_max: usize) {
        self.said = Lookup::new(tokens_max);
        self.seen = tokens;
        self.before = 0;
    }

    /// Appends to `draft` what may follow `tokens`, at most `most`, and not what `is_end` says ends a
    /// reply.
    pub(crate) fn propose(
        &mut self,
        tokens: &[Token],
        terms: Terms,
        is_end: impl Fn(Token) -> bool,
        draft: &mut Vec<Token>,
    ) {
        let Terms { most, price, .. } = terms;
        let from = draft.len();
        let before = std::mem::take(&mut self.before);
        self.paid = 0.0;
        let means = self.purse + terms.credit;
        // The shortest draft is the cheapest: without the means for it there is nothing to look for.
        if most == 0 || means < price.of(LENGTHS[0], LENGTHS[0]) {
            return;
        }
        let Some((source, at)) = self.find(tokens) else {
            return;
        };
        let odds = self.odds[source as usize];
        // Sources that failed get another try when it was saved up for, but none on credit.
        let best = best_length(price, odds, most, before);
        let (length, means) = best.map_or((LENGTHS[0], self.purse), |length| (length, means));
        let affordable = LENGTHS.into_iter().rev().find(|affordable| {
            *affordable <= length.min(most) && price.of(*affordable, before) <= means
        });
        let Some(length) = affordable else {
            return;
        };
        let text = match source {
            Source::Prediction => &self.predicted,
            Source::Weak | Source::Fair | Source::Strong => tokens,
        };
        for place in at..at + length as usize {
            // Beyond the end of what was said the draft goes on with itself: a loop repeats.
            let next = match source {
                Source::Prediction => text.get(place),
                _ => text
                    .get(place)
                    .or_else(|| draft.get(from + place - text.len())),
            };
            match next {
                Some(&token) if !is_end(token) && !is_of_image(token) => draft.push(token),
                _ => break,
            }
        }
        let count = u32::try_from(draft.len() - from).unwrap_or(u32::MAX);
        self.source = source;
        self.before = count;
        if count > 0 {
            self.paid = price.of(count, before);
        }
    }

    /// Learns what became of the draft. `drawn` tokens were drawn in all, with or without one.
    pub(crate) fn settle(&mut self, verdict: Verdict, drawn: u32, credit: &mut Credit) {
        let debt = self.purse.min(0.0);
        let odds = &mut self.odds[self.source as usize];
        for _ in 0..verdict.accepted {
            *odds += Self::WEIGHT * (1.0 - *odds);
        }
        if verdict.was_wrong {
            *odds -= Self::WEIGHT * *odds;
        }
        let saved = f64::from(verdict.accepted) + Self::INCOME * f64::from(drawn);
        self.purse = (self.purse + saved - self.paid).min(Self::PURSE_MAX);
        self.paid = 0.0;
        credit.settle(self.purse.min(0.0) - debt, verdict.accepted, drawn);
    }

    /// True when the last draft came from the caller's prediction.
    pub(crate) fn is_predicted(&self) -> bool {
        self.source == Source::Prediction
    }

    /// The best place to copy from.
    fn find(&mut self, tokens: &[Token]) -> Option<(Source, usize)> {
        let predicted = self.follow(tokens).map(|at| (Source::Prediction, at));
        let said = self.said.find(tokens, tokens);
        let said = said.map(|found| (Source::of(found), found.at));
        let odds = |place: Option<(Source, usize)>| {
            place.map_or(0.0, |(source, _)| self.odds[source as usize])
        };
        if odds(predicted) >= odds(said) {
            predicted.or(said)
        } else {
            said
        }
    }

    /// Where the reply goes on in the prediction, if it follows it or has come back to it.
    fn follow(&mut self, tokens: &[Token]) -> Option<usize> {
        if self.predicted.is_empty() {
            return None;
        }
        for token in tokens.iter().skip(self.seen) {
            self.cursor = self
                .cursor
                .filter(|at| self.predicted.get(*at) == Some(token))
                .map(|at| at + 1);
        }
        self.seen = tokens.len();
        if self.cursor.is_none() {
            let found = self.in_predicted.find(&self.predicted, tokens);
            self.cursor = found.map(|found| found.at);
        }
        self.cursor.filter(|at| *at < self.predicted.len())
    }
}

#[cfg(test)]
mod tests;
