//! Which candidates stay: top-n-sigma, typical and XTC, as llama.cpp has them (llama-sampler.cpp,
//! `llama_sampler_top_n_sigma_apply`, `_typical_apply`, `_xtc_apply`).

use super::Candidate;

/// Keeps logits within `sigmas` standard deviations of the greatest.
pub(super) fn top_n_sigma(candidates: &mut Vec<Candidate>, sigmas: f32) {
    let numbers = || {
        let weights = candidates.iter().map(|one| f64::from(one.weight));
        weights.filter(|weight| weight.is_finite())
    };
    let count = numbers().count();
    if count == 0 {
        return;
    }
    let mean = numbers().sum::<f64>() / count as f64;
    let variance = numbers().map(|weight| (weight - mean).powi(2)).sum::<f64>() / count as f64;
    let best = numbers().fold(f64::NEG_INFINITY, f64::max);
    let least = best - f64::from(sigmas) * variance.sqrt();
    candidates.retain(|one| f64::from(one.weight) >= least);
}

/// Keeps the fewest candidates whose surprise is nearest to the expected one and that have more than
/// `share` of all weight.
pub(super) fn typical(candidates: &mut Vec<Candidate>, share: f32) {
    let all: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
    let surprise = |one: &Candidate| -(f64::from(one.weight) / all).ln();
    // What has no weight is never drawn, and its surprise is no number.
    candidates.retain(|one| one.weight > 0.0);
    let expected: f64 = candidates
        .iter()
        .map(|one| f64::from(one.weight) / all * surprise(one))
        .sum();
    let mut scored: Vec<(f64, Candidate)> = candidates
        .iter()
        .map(|one| ((surprise(one) - expected).abs(), *one))
        .collect();
    let nearest_first = |a: &(f64, Candidate), b: &(f64, Candidate)| {
        a.0.total_cmp(&b.0).then(a.1.token.cmp(&b.1.token))
    };
    let wanted = f64::from(share) * all;
    let kept = fewest(
        &mut scored,
        nearest_first,
        |one| one.1.weight,
        |sum| sum > wanted,
    );
    candidates.clear();
    candidates.extend(scored[..kept].iter().map(|(_, one)| *one));
}

/// Leaves out all but the least likely of those with at least `threshold` of all weight.
pub(super) fn exclude_top_choices(candidates: &mut Vec<Candidate>, threshold: f32) {
    let all: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
    let least = f64::from(threshold) * all;
    let is_top = |one: &Candidate| f64::from(one.weight) >= least;
    let last = candidates
        .iter()
        .filter(|one| is_top(one))
        .max_by(|a, b| super::heavier_first(a, b))
        .copied();
    if let Some(last) = last {
        candidates.retain(|one| !is_top(one) || one.token == last.token);
    }
}

/// How many items it takes, in the order of `first`, until the sum of their weights `is_enough`;
/// those stand at the beginning then. All, if it never is.
///
/// Sorting a whole vocabulary is dear, and the answer is nearly always among the first few.
pub(super) fn fewest<T>(
    items: &mut [T],
    first: impl Fn(&T, &T) -> std::cmp::Ordering + Copy,
    weight: impl Fn(&T) -> f32,
    is_enough: impl Fn(f64) -> bool,
) -> usize {
    let mut sorted = 64.min(items.len());
    loop {
        if sorted < items.len() {
            items.select_nth_unstable_by(sorted - 1, first);
        }
        items[..sorted].sort_unstable_by(first);
        let mut sum = 0.0;
        let last = items[..sorted].iter().position(|item| {
            sum += f64::from(weight(item));
            is_enough(sum)
        });
        match last {
            Some(last) => return last + 1,
            None if sorted == items.len() => return sorted,
            None => sorted = (sorted * 8).min(items.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stays of tokens with these weights.
    fn left(weights: &[f32], cut: impl FnOnce(&mut Vec<Candidate>)) -> Vec<u32> {
        let mut candidates: Vec<Candidate> = weights
            .iter()
            .zip(0..)
            .map(|(weight, token)| Candidate {
                token,
                weight: *weight,
            })
            .collect();
        cut(&mut candidates);
        let mut tokens: Vec<u32> = candidates.iter().map(|one| one.token).collect();
        tokens.sort_unstable();
        tokens
    }

    /// Cases of llama.cpp's tests/test-sampling.cpp, by probabilities 0.1 to 0.4.
    #[test]
    fn typical_keeps_what_llama_cpp_keeps() {
        let tests = [
            (vec![0.97, 0.01, 0.01, 0.01], 0.5, vec![0]),
            (vec![0.4, 0.2, 0.2, 0.2], 0.5, vec![1, 2, 3]),
            (vec![0.0, 1.0, 0.0], 0.5, vec![1]),
            (vec![4.0, 2.0, 2.0, 2.0], 0.5, vec![1, 2, 3]),
        ];
        for (weights, share, expected) in tests {
            let kept = left(&weights, |all| typical(all, share));
            assert_eq!(kept, expected, "{weights:?}");
        }
    }

    /// As well of its tests/test-sampling.cpp.
    #[test]
    fn xtc_leaves_the_least_likely_of_the_top() {
        let weights = [0.4, 0.3, 0.2, 0.1];
        for (threshold, expected) in [
            (0.09, vec![3]),
            (0.19, vec![2, 3]),
            (0.29, vec![1, 2, 3]),
            (0.39, vec![0, 1, 2, 3]),
            (0.5, vec![0, 1, 2, 3]),
        ] {
            let kept = left(&weights, |all| exclude_top_choices(all, threshold));
            assert_eq!(kept, expected, "{threshold}");
        }
        assert_eq!(left(&[1.0; 3], |all| exclude_top_choices(all, 0.2)), [2]);
    }

    /// Mean 2.5, deviation 1.118: within one of 4 lie 3 and 4.
    #[test]
    fn top_n_sigma_measures_by_the_deviation() {
        let logits = [4.0, 3.0, 2.0, 1.0, f32::NEG_INFINITY];
        for (sigmas, expected) in [
            (0.5, vec![0]),
            (1.0, vec![0, 1]),
            (2.0, vec![0, 1, 2]),
            (9.0, vec![0, 1, 2, 3]),
        ] {
            let kept = left(&logits, |all| top_n_sigma(all, sigmas));
            assert_eq!(kept, expected, "{sigmas}");
        }
        assert_eq!(left(&[1.0, 1.0], |all| top_n_sigma(all, 1.0)), [0, 1]);
    }

    #[test]
    fn what_is_enough_is_found_past_the_first_sorted_few() {
        let mut items: Vec<u32> = (0..1_000).rev().collect();
        let kept = fewest(&mut items, Ord::cmp, |_| 1.0, |sum| sum >= 500.0);
        assert_eq!((kept, items[0], items[499]), (500, 0, 499));
        assert_eq!(fewest(&mut items, Ord::cmp, |_| 1.0, |_| false), 1_000);
        assert_eq!(fewest(&mut items[..0], Ord::cmp, |_| 1.0, |_| true), 0);
    }
}
