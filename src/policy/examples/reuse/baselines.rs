//! What ours is held against: one threshold for all, the guards alone, and a threshold for each entry.

use policy::reuse::{Question, Scorer, strict_guard};

use crate::data::Draws;
use crate::replay::{Stream, Tally};

pub const THRESHOLDS: [f32; 10] = [0.80, 0.82, 0.84, 0.86, 0.88, 0.90, 0.92, 0.94, 0.96, 0.97];

/// Serves what is at least this similar, where the guards let it.
pub fn threshold(
    stream: &Stream<'_>,
    at_least: f32,
    guards: Option<(&[Question], &Scorer)>,
) -> Tally {
    let mut kept = Vec::new();
    let mut tally = Tally::default();
    for at in 0..stream.asked.len() {
        tally.lookups += 1;
        let hit = stream
            .nearest(at, &kept, 1)
            .first()
            .filter(|(_, similarity)| *similarity >= at_least)
            .filter(|(other, _)| {
                guards.is_none_or(|(questions, scorer)| {
                    strict_guard(&questions[at], &questions[*other], scorer).is_none()
                })
            })
            .map(|(other, _)| stream.is_same(at, *other));
        match hit {
            Some(true) => tally.right += 1,
            Some(false) => tally.wrong += 1,
            None => kept.push(at),
        }
    }
    tally
}

/// Observations before an entry may answer at all.
const OBSERVED_MIN: usize = 6;

/// The variance of a threshold that separates all observations, of which a fit cannot say it.
const VARIANCE_SEPARATED: f64 = 0.015;

/// A threshold for each entry, after vCache: a logistic curve over the similarities at which its answer
/// was right and wrong, an upper bound on where it rises, and serving only as often as that leaves the
/// error within `delta` (arXiv 2502.03771, and the policy `verified.py` of its authors' repository,
/// commit 0f2970d). A request whose fresh answer is the entry's is not kept.
pub fn per_entry(stream: &Stream<'_>, delta: f64) -> Tally {
    let mut observed: Vec<Vec<(f64, bool)>> = vec![Vec::new(); stream.asked.len()];
    let mut draws = Draws(1);
    let mut kept = Vec::new();
    let mut tally = Tally::default();
    for at in 0..stream.asked.len() {
        tally.lookups += 1;
        let Some((other, similarity)) = stream.nearest(at, &kept, 1).first().copied() else {
            kept.push(at);
            continue;
        };
        let is_right = stream.is_same(at, other);
        let explore = explore(&observed[other], f64::from(similarity), delta);
        if draws.next() > explore {
            tally.right += u32::from(is_right);
            tally.wrong += u32::from(!is_right);
            continue;
        }
        observed[other].push((f64::from(similarity), is_right));
        if !is_right {
            kept.push(at);
        }
    }
    tally
}

fn explore(observed: &[(f64, bool)], similarity: f64, delta: f64) -> f64 {
    if observed.len() < OBSERVED_MIN {
        return 1.0;
    }
    let (intercept, slope, variance) = fit(observed);
    let slope = slope.max(1e-6);
    let threshold = (-intercept / slope).clamp(0.0, 1.0);
    // Confidence against height: the least exploring of both.
    (1..40)
        .map(|step| {
            let doubt = f64::from(step) / 40.0;
            let upper = (threshold + normal(1.0 - doubt) * variance.sqrt()).clamp(0.0, 1.0);
            let height = 1.0 / (1.0 + (-slope * (similarity - upper)).exp());
            1.0 - delta / (1.0 - (1.0 - doubt) * height)
        })
        .fold(1.0, f64::min)
}

/// A logistic regression by Newton's steps, and the variance of where it crosses one half.
fn fit(observed: &[(f64, bool)]) -> (f64, f64, f64) {
    const RIDGE: f64 = 1e-3;
    let (mut a, mut b) = (0.0, 1.0);
    let mut hessian = [0.0; 3];
    for _ in 0..50 {
        let mut gradient = [-RIDGE * a, -RIDGE * b];
        hessian = [RIDGE, 0.0, RIDGE];
        for (x, is_right) in observed {
            let p = 1.0 / (1.0 + (-(a + b * x)).exp());
            let rest = f64::from(u8::from(*is_right)) - p;
            gradient[0] += rest;
            gradient[1] += rest * x;
            let w = p * (1.0 - p);
            hessian[0] += w;
            hessian[1] += w * x;
            hessian[2] += w * x * x;
        }
        let determinant = hessian[0] * hessian[2] - hessian[1] * hessian[1];
        if determinant <= 1e-12 {
            break;
        }
        a += (hessian[2] * gradient[0] - hessian[1] * gradient[1]) / determinant;
        b += (hessian[0] * gradient[1] - hessian[1] * gradient[0]) / determinant;
    }
    let least_right = observed
        .iter()
        .filter(|o| o.1)
        .map(|o| o.0)
        .fold(f64::MAX, f64::min);
    let most_wrong = observed
        .iter()
        .filter(|o| !o.1)
        .map(|o| o.0)
        .fold(f64::MIN, f64::max);
    if least_right > most_wrong {
        return (a, b, VARIANCE_SEPARATED);
    }
    let determinant = (hessian[0] * hessian[2] - hessian[1] * hessian[1]).max(1e-12);
    let b1 = b.max(1e-6);
    let (ga, gb) = (-1.0 / b1, a / (b1 * b1));
    let variance =
        (ga * ga * hessian[2] - 2.0 * ga * gb * hessian[1] + gb * gb * hessian[0]) / determinant;
    (a, b, variance.max(0.0))
}

/// The normal distribution's quantile, to three digits: by halving.
fn normal(quantile: f64) -> f64 {
    let (mut low, mut high) = (-6.0f64, 6.0f64);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if cumulative(middle) < quantile {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The logistic approximation of Bowling et al. (2009), within 0.0002.
fn cumulative(z: f64) -> f64 {
    1.0 / (1.0 + (-0.07056 * z.powi(3) - 1.5976 * z).exp())
}
