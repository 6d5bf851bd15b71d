//! Texts to vectors for the cache: long ones by parts, known ones not again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use domain::{EmbedInput, Embedder, HealthState};
use policy::reuse::product;

/// Vectors remembered by their text, of the two generations each: about 8 MB of 256 components. When one
/// is full, the one before it goes.
const REMEMBERED_MAX: usize = 4_096;

/// Bytes of a text up to which its vector is remembered.
const REMEMBERED_BYTES_MAX: usize = 512;

/// Bytes of text that a token has at least, as parts are cut; text with less for each is refused by the
/// encoder, and not compared.
const TOKEN_BYTES: usize = 2;

/// Bytes of a part at least, whatever the encoder reads at once.
const PART_BYTES_MIN: usize = 64;

/// Parts of one text. A longer one is not compared.
const PARTS_MAX: usize = 32;

type Vectors = HashMap<Box<str>, Arc<[f32]>>;

/// An encoder, and the vectors it made lately.
pub struct CacheEncoder {
    embedder: Arc<dyn Embedder>,
    name: String,
    remembered: Mutex<[Vectors; 2]>,
}

impl CacheEncoder {
    #[must_use]
    pub fn new(embedder: Arc<dyn Embedder>) -> Self {
        let card = embedder.card();
        let name = format!("{}/{}", card.name, card.dimensions);
        Self {
            embedder,
            name,
            remembered: Mutex::default(),
        }
    }

    /// By which vectors of one encoder are told from another's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A vector of length 1; `None` where the encoder has none for this text.
    pub(crate) async fn vector(&self, text: &str) -> Option<Arc<[f32]>> {
        if let Some(known) = self.recall(text) {
            return Some(known);
        }
        if self.embedder.health().state != HealthState::Ready {
            return None;
        }
        let parts = parts(text, self.part_bytes())?;
        let count = parts.len();
        let vectors = self.embedder.embed(parts).await.ok()?.vectors;
        if vectors.len() != count {
            return None;
        }
        let vector: Arc<[f32]> = mean(&vectors)?.into();
        if text.len() <= REMEMBERED_BYTES_MAX {
            self.remember(text, &vector);
        }
        Some(vector)
    }

    fn part_bytes(&self) -> usize {
        let tokens = self.embedder.card().input_tokens_max as usize;
        tokens.saturating_mul(TOKEN_BYTES).max(PART_BYTES_MIN)
    }

    fn recall(&self, text: &str) -> Option<Arc<[f32]>> {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *remembered;
        if let Some(known) = young.get(text) {
            return Some(Arc::clone(known));
        }
        let known = old.get(text).cloned()?;
        drop(remembered);
        self.remember(text, &known);
        Some(known)
    }

    fn remember(&self, text: &str, vector: &Arc<[f32]>) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *remembered;
        if young.len() >= REMEMBERED_MAX {
            *old = std::mem::take(young);
        }
        young.insert(text.into(), Arc::clone(vector));
    }
}

impl fmt::Debug for CacheEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheEncoder({})", self.name)
    }
}

/// The text in pieces that the encoder reads whole, so that nothing of it is left out; `None` where there
/// is nothing, or too much.
fn parts(text: &str, part_bytes: usize) -> Option<Vec<EmbedInput>> {
    let mut parts = Vec::with_capacity(1);
    let mut rest = text.trim();
    while !rest.is_empty() {
        if parts.len() == PARTS_MAX {
            return None;
        }
        let mut end = rest.floor_char_boundary(part_bytes);
        // Between words, where there is such a place in the second half.
        if end < rest.len()
            && let Some(space) = rest[..end].rfind(char::is_whitespace)
            && space > part_bytes / 2
        {
            end = space;
        }
        let (part, after) = rest.split_at(end);
        parts.push(EmbedInput::Text(part.to_owned()));
        rest = after.trim_start();
    }
    (!parts.is_empty()).then_some(parts)
}

/// Of length 1; `None` where that cannot be.
fn mean(vectors: &[Vec<f32>]) -> Option<Vec<f32>> {
    let first = vectors.first()?;
    let mut sum = vec![0.0_f32; first.len()];
    for vector in vectors {
        if vector.len() != sum.len() {
            return None;
        }
        for (sum, value) in sum.iter_mut().zip(vector) {
            *sum += value;
        }
    }
    let length = product(&sum, &sum).sqrt();
    // Also false for what is no number.
    if !(length.is_finite() && length > f32::EPSILON) {
        return None;
    }
    for value in &mut sum {
        *value /= length;
    }
    Some(sum)
}

/// The cosine of two vectors of length 1; 0 where they are not of one space.
pub(super) fn cosine(left: &[f32], right: &[f32]) -> f32 {
    if left.len() != right.len() {
        return 0.0;
    }
    product(left, right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, part_bytes: usize) -> Option<Vec<String>> {
        let parts = parts(text, part_bytes)?.into_iter().map(|part| match part {
            EmbedInput::Text(text) => text,
            EmbedInput::Tokens(_) => unreachable!("parts are texts"),
        });
        Some(parts.collect())
    }

    #[test]
    fn a_long_text_is_read_whole() {
        let words: Vec<String> = (0..200).map(|at| format!("word{at}")).collect();
        let parts = texts(&words.join(" "), 64).unwrap();
        assert!(parts.len() > 10 && parts.iter().all(|it| it.len() <= 64));
        assert_eq!(parts.join(" "), words.join(" "));
        let unbroken = "é".repeat(100);
        assert_eq!(texts(&unbroken, 65).unwrap().concat(), unbroken);
        assert_eq!(texts(" short ", 64).unwrap(), ["short"]);
    }

    #[test]
    fn nothing_and_too_much_have_no_parts() {
        assert_eq!(texts("", 64), None);
        assert_eq!(texts(" \n ", 64), None);
        assert_eq!(texts(&"x".repeat(64 * (PARTS_MAX + 1)), 64), None);
    }

    #[test]
    fn vectors_that_are_none_have_no_mean() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[vec![0.0, 0.0]]), None);
        assert_eq!(mean(&[vec![f32::NAN, 1.0]]), None);
        assert_eq!(mean(&[vec![f32::INFINITY, 1.0]]), None);
        assert_eq!(mean(&[vec![1.0, 0.0], vec![1.0]]), None);
        assert_eq!(
            mean(&[vec![3.0, 0.0], vec![0.0, 4.0]]),
            Some(vec![0.6, 0.8])
        );
    }
}
