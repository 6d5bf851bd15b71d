//! Counting tokens, bounded in time.
//!
//! Counts are of OpenAI's `o200k` vocabulary whatever model answers in the end: routing wants one
//! yardstick, and the engine counts exactly for itself. Long text is counted by its beginning.

use crate::vocabulary::{self, CL100K};

/// Text beyond this is counted in proportion to the text before it. 64 KiB of prose
/// take about two milliseconds; nobody routes on the last percent.
pub const TOKENIZED_BYTES_MAX: usize = 64 * 1024;

/// Makes ready what the first count needs, which takes some milliseconds. Call it before the first
/// exchange.
pub fn warm_up() {
    let _ = count_tokens("warm");
}

/// How many tokens `text` has. Exact to [`TOKENIZED_BYTES_MAX`].
#[must_use]
pub fn count_tokens(text: &str) -> usize {
    let head = prefix(text, TOKENIZED_BYTES_MAX);
    let counted = vocabulary::count(head);
    if head.len() == text.len() || head.is_empty() {
        return counted;
    }
    let ratio = text.len() as u128 * counted as u128 / head.len() as u128;
    usize::try_from(ratio).unwrap_or(usize::MAX)
}

/// In the names of OpenAI's models for embeddings, whose tokens are those of `cl100k`.
const CL100K_EMBEDDERS: &str = "text-embedding-";

/// The text that a model for embeddings reads in `tokens`. `None` where its vocabulary is not known
/// here, or they are no text.
#[must_use]
pub fn embed_text(model: &str, tokens: &[u32]) -> Option<String> {
    if !model.contains(CL100K_EMBEDDERS) {
        return None;
    }
    let mut bytes = Vec::with_capacity(4 * tokens.len());
    for token in tokens {
        bytes.extend_from_slice(CL100K.token(*token)?);
    }
    String::from_utf8(bytes).ok()
}

/// The longest prefix of at most `bytes_max` that ends between characters.
pub(crate) fn prefix(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_for_openais_embedders_are_read_and_others_are_not() {
        let (hello, world) = (9906, 1917);
        let read = |model, tokens: &[u32]| embed_text(model, tokens);
        let text = read("openai/text-embedding-3-small", &[hello, world]);
        assert_eq!(text.as_deref(), Some("Hello world"));
        assert_eq!(read("mistral-embed", &[hello, world]), None);
        assert_eq!(read("text-embedding-3-small", &[16_000_000]), None);
        // The first half of a character.
        assert_eq!(read("text-embedding-3-small", &[9468]), None);
    }

    #[test]
    fn a_sentence_has_the_vocabulary_s_count() {
        assert_eq!(count_tokens(""), 0);
        assert_eq!(count_tokens("Hello, world!"), 4);
    }

    #[test]
    fn long_text_is_counted_in_proportion() {
        let text = "the cat sat on the mat. ".repeat(20_000);
        let per_kib = count_tokens(&text[..TOKENIZED_BYTES_MAX]) * 1024 / TOKENIZED_BYTES_MAX;
        let whole = count_tokens(&text);
        assert_eq!(whole * 1024 / text.len(), per_kib);
    }

    #[test]
    fn runs_of_one_character_neither_panic_nor_outgrow_their_bytes() {
        for run in [
            " ", "\n", "a", "A", "1", "!", "漢", "é", "\u{300}", " \n", "aA", "'s", "\0",
        ] {
            let text = run.repeat(3 * TOKENIZED_BYTES_MAX / run.len());
            let count = count_tokens(&text);
            assert!(count > 0 && count <= text.len(), "{run:?}: {count}");
        }
    }
}
