//! The dialects that upstreams may speak.

use crate::{ClientDialect, anthropic, bedrock, gemini, openai, responses};

/// A dialect's word in a configuration is its label.
#[rustfmt::skip]
pub static CLIENTS: &[&dyn ClientDialect] = &[
    &openai::Chat,
    &responses::Responses,
    &anthropic::Messages,
    &gemini::Gemini,
    &bedrock::Converse,
];

/// The dialect that a configuration calls `word`.
#[must_use]
pub fn client(word: &str) -> Option<&'static dyn ClientDialect> {
    let mut clients = CLIENTS.iter().copied();
    clients.find(|client| client.dialect().as_label() == word)
}

/// Of two dialects with the same label there is one.
impl PartialEq for dyn ClientDialect {
    fn eq(&self, other: &Self) -> bool {
        self.dialect() == other.dialect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_client_is_found_by_a_word_of_its_own() {
        let words: BTreeSet<&str> = CLIENTS.iter().map(|it| it.dialect().as_label()).collect();
        assert_eq!(words.len(), CLIENTS.len());
        for word in words {
            assert_eq!(client(word).unwrap().dialect().as_label(), word);
        }
        assert!(client("carrier-pigeon").is_none());
    }

    #[test]
    fn headers_of_a_dialect_can_be_sent() {
        let is_plain = |letter: char| letter.is_ascii_lowercase() || letter == '-';
        for (name, value) in CLIENTS.iter().flat_map(|client| client.headers()) {
            assert!(name.chars().all(is_plain), "{name}");
            assert!(value.is_ascii(), "{value}");
        }
    }
}
