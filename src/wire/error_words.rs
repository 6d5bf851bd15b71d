//! What all dialects do with the sentences of an upstream's errors.

use domain::Tokens;

/// What is passed on of an upstream's sentence, in characters.
pub(crate) const MESSAGE_CHARS_MAX: usize = 1000;

/// OpenAI's code for a prompt that is longer than the model's context.
pub(crate) const CONTEXT_CODE: &str = "context_length_exceeded";

/// The sentence's beginning, on one line.
pub(crate) fn cut(message: &str) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    message.chars().take(MESSAGE_CHARS_MAX).map(clean).collect()
}

/// The whole number right after `words`.
pub(crate) fn number_after(text: &str, words: &str) -> Option<Tokens> {
    let (_, rest) = text.split_once(words)?;
    let end = rest
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok().map(Tokens)
}
