//! The little of structured fields (RFC 9651) that both ends write: parameters of integers, strings
//! and bytes. What is beyond it is refused, not read around.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A bare item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bare {
    Integer(u64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A parameter list of one field at most: a dozen is more than anybody here writes.
const PARAMETERS_MAX: usize = 12;

/// Parameters by their names, each once.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, Bare)>);

impl Parameters {
    /// Of `;name=value;name=value`, to the end of `text`.
    pub(crate) fn read(mut text: &str) -> Option<Self> {
        let mut all: Vec<(String, Bare)> = Vec::new();
        while !text.is_empty() {
            let (name, rest) = text.strip_prefix(';')?.split_once('=')?;
            let (value, rest) = bare(rest)?;
            let is_new = all.iter().all(|(known, _)| known != name);
            if !is_key(name) || !is_new || all.len() == PARAMETERS_MAX {
                return None;
            }
            all.push((name.to_owned(), value));
            text = rest;
        }
        Some(Self(all))
    }

    pub(crate) fn integer(&self, name: &str) -> Option<u64> {
        match self.find(name)? {
            Bare::Integer(value) => Some(*value),
            Bare::Text(_) | Bare::Bytes(_) => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.find(name)? {
            Bare::Text(value) => Some(value),
            Bare::Integer(_) | Bare::Bytes(_) => None,
        }
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.find(name)? {
            Bare::Bytes(value) => Some(value),
            Bare::Integer(_) | Bare::Text(_) => None,
        }
    }

    fn find(&self, name: &str) -> Option<&Bare> {
        let mut all = self.0.iter();
        all.find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

fn is_key(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)
        })
}

/// One item from the beginning of `text`, and what follows it.
fn bare(text: &str) -> Option<(Bare, &str)> {
    if let Some(rest) = text.strip_prefix('"') {
        let (value, rest) = rest.split_once('"')?;
        // Nobody here writes anything that would need to be escaped.
        let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'\\';
        return value
            .bytes()
            .all(is_plain)
            .then(|| (Bare::Text(value.to_owned()), rest));
    }
    if let Some(rest) = text.strip_prefix(':') {
        let (value, rest) = rest.split_once(':')?;
        return Some((Bare::Bytes(STANDARD.decode(value).ok()?), rest));
    }
    let end = text
        .find(|digit: char| !digit.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    // RFC 9651, section 3.3.1: fifteen digits.
    (1..=15).contains(&digits.len()).then_some(())?;
    Some((Bare::Integer(digits.parse().ok()?), rest))
}

/// A sequence of bytes, as one is written.
pub(crate) fn bytes(value: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(value))
}

/// Reads `label=:bytes:`, and nothing else.
pub(crate) fn labelled_bytes(text: &str, label: &str) -> Option<Vec<u8>> {
    let value = text.strip_prefix(label)?.strip_prefix('=')?;
    match bare(value)? {
        (Bare::Bytes(bytes), "") => Some(bytes),
        _ => None,
    }
}
