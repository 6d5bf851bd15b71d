//! OpenAI's embeddings: the same vector for the same text.

use serde::Deserialize;
use serde_json::{Value, json};

use super::content::texts_of;

const DIMENSIONS: usize = 8;
const DIMENSIONS_MAX: usize = 4_096;

#[derive(Debug, Deserialize)]
pub(super) struct AskVectors {
    model: String,
    /// A text or several.
    input: Value,
    #[serde(default)]
    dimensions: Option<usize>,
}

/// The list, with the numbers as numbers.
pub(super) fn embeddings(ask: &AskVectors) -> String {
    let texts = texts_of(&ask.input);
    let dimensions = ask.dimensions.unwrap_or(DIMENSIONS).min(DIMENSIONS_MAX);
    let words = texts.iter().map(|text| text.split_whitespace().count());
    let words: usize = words.sum();
    let vectors = texts.iter().enumerate().map(|(index, text)| {
        json!({"object": "embedding", "index": index, "embedding": vector(text, dimensions)})
    });
    json!({
        "object": "list", "model": ask.model, "data": vectors.collect::<Vec<_>>(),
        "usage": {"prompt_tokens": words, "total_tokens": words},
    })
    .to_string()
}

/// Each number an eighth of a byte of the text or of its place: exact in every form.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let bytes = text.bytes().cycle();
    let numbers = bytes.zip(0_u8..=u8::MAX).map(|(byte, at)| byte ^ at);
    let mut numbers: Vec<f32> = numbers
        .take(dimensions)
        .map(|it| f32::from(it) / 8.0)
        .collect();
    numbers.resize(dimensions, 0.0);
    numbers
}
