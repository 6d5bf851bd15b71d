//! Whether two replies say the same.

use policy::reuse::{Company, Marks, Pair, Question, Scorer, judge};

use super::CacheEncoder;
use super::encoder::cosine;

/// Replies up to this many bytes are compared as questions are, by their numbers, names and negations too:
/// in such there is little else. Longer ones say the same thing in many ways.
const SHORT_REPLY_BYTES: usize = 160;

/// What came of comparing two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Likeness {
    pub is_alike: bool,
    /// The cosine of their vectors; 1 of equal words.
    pub similarity: f32,
}

/// Whether they are the same but for case, punctuation and white space.
pub(crate) fn has_equal_words(one: &str, other: &str) -> bool {
    let (one_words, other_words) = (normal(one), normal(other));
    match one_words.is_empty() {
        true => one.trim() == other.trim(),
        false => one_words == other_words && Marks::of(one) == Marks::of(other),
    }
}

/// Compares two replies: they say the same when their words do, or from a cosine of `alike_at` on, unless
/// both are short and differ in what a guard knows. `None` where the encoder has no vector.
pub(crate) async fn likeness(
    kept: &str,
    fresh: &str,
    encoder: &CacheEncoder,
    scorer: &Scorer,
    alike_at: f32,
) -> Option<Likeness> {
    if has_equal_words(kept, fresh) {
        return Some(Likeness {
            is_alike: true,
            similarity: 1.0,
        });
    }
    let left = encoder.vector(kept).await?;
    let right = encoder.vector(fresh).await?;
    Some(by_vectors((kept, &left), (fresh, &right), scorer, alike_at))
}

/// The same of replies in other words, with their vectors.
pub(crate) fn by_vectors(
    (kept, left): (&str, &[f32]),
    (fresh, right): (&str, &[f32]),
    scorer: &Scorer,
    alike_at: f32,
) -> Likeness {
    let similarity = cosine(left, right);
    let is_refused = || {
        let pair = Pair {
            query: &Question::new(fresh),
            entry: &Question::new(kept),
            similarity,
            query_vector: right,
            entry_vector: left,
            company: Company::NOBODY,
        };
        judge(&pair, scorer).refusal.is_some()
    };
    let is_short = kept.len().max(fresh.len()) <= SHORT_REPLY_BYTES;
    Likeness {
        is_alike: similarity >= alike_at && !(is_short && is_refused()),
        similarity,
    }
}

/// Signs that say something else than their absence does.
const SIGNS: &str = "+-<>=%#$€£¥°";

/// Letters, digits and [`SIGNS`] in lower case, a space between words.
fn normal(text: &str) -> String {
    let words = text
        .split(|c: char| !c.is_alphanumeric() && !SIGNS.contains(c))
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_alike_by_their_words() {
        assert!(has_equal_words("It's Paris.", "it s  PARIS"));
        assert!(!has_equal_words("Paris", "Rome"));
        assert!(!has_equal_words("1.5", "15"));
        assert!(!has_equal_words("-5", "5") && !has_equal_words("C++", "C"));
        assert!(!has_equal_words("✅", "❌") && has_equal_words(" ✅", "✅"));
    }
}
