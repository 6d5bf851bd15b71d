//! One pair of questions, judged.

use super::company::Company;
use super::compared::{Compared, FEATURES};
use super::guard::{Guard, guard, strict};
use super::product::product;
use super::question::Question;
use super::scorer::Scorer;

/// A question and one that was answered before.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    pub query: &'a Question,
    pub entry: &'a Question,
    /// The cosine of their vectors, as the index gave it.
    pub similarity: f32,
    /// Of length 1, by the same encoder.
    pub query_vector: &'a [f32],
    pub entry_vector: &'a [f32],
    /// What else is kept near the question.
    pub company: Company,
}

/// What is thought of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// That the two may share an answer, from 0 to 1; 0 where a guard refuses.
    pub probability_same: f32,
    pub refusal: Option<Guard>,
    pub similarity: f32,
}

/// Judges a pair. Takes some tens of microseconds for texts of a few dozen words, and less than a
/// millisecond for any.
#[must_use]
pub fn judge(pair: &Pair<'_>, scorer: &Scorer) -> Judgement {
    let refused = |guard| Judgement {
        probability_same: 0.0,
        refusal: Some(guard),
        similarity: if pair.similarity.is_finite() {
            pair.similarity
        } else {
            0.0
        },
    };
    if !vectors_are_sound(pair) {
        return refused(Guard::Vector);
    }
    let compared = Compared::of(pair.query, pair.entry, scorer.vocabulary());
    if let Some(guard) = guard(&compared) {
        return refused(guard);
    }
    let head = scorer.head(pair.query_vector, pair.entry_vector, pair.similarity);
    let figures = compared.features(pair.similarity, head, &pair.company);
    let probability = scorer.probability(&figures);
    Judgement {
        probability_same: if probability.is_finite() {
            probability
        } else {
            0.0
        },
        refusal: None,
        similarity: pair.similarity,
    }
}

/// What the scorer's trees see of a pair, and what a guard would say of it: for training and for
/// reports.
#[must_use]
pub fn features(pair: &Pair<'_>, scorer: &Scorer) -> ([f32; FEATURES], Option<Guard>) {
    let compared = Compared::of(pair.query, pair.entry, scorer.vocabulary());
    let head = scorer.head(pair.query_vector, pair.entry_vector, pair.similarity);
    let refusal = if vectors_are_sound(pair) {
        guard(&compared)
    } else {
        Some(Guard::Vector)
    };
    (
        compared.features(pair.similarity, head, &pair.company),
        refusal,
    )
}

/// What refuses a pair when every agreement is asked for: what a cache without a scorer would go by.
#[must_use]
pub fn strict_guard(query: &Question, entry: &Question, scorer: &Scorer) -> Option<Guard> {
    strict(&Compared::of(query, entry, scorer.vocabulary()))
}

/// How far a vector's length may be from 1.
const LENGTH_SLACK: f32 = 0.05;

fn vectors_are_sound(pair: &Pair<'_>) -> bool {
    let is_sound = |vector| (product(vector, vector).sqrt() - 1.0).abs() <= LENGTH_SLACK;
    pair.similarity.is_finite()
        && (-1.01..=1.01).contains(&pair.similarity)
        && pair.query_vector.len() == pair.entry_vector.len()
        && is_sound(pair.query_vector)
        && is_sound(pair.entry_vector)
}
