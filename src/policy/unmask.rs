//! Putting the values back into a reply, piece by piece.

use std::fmt;

use domain::Findings;

/// Restores placeholders in a stream of text. Give one to each text that grows on its own: a
/// choice's answer, its thoughts, each tool call's arguments.
///
/// Only exact placeholders are restored. At most the longest placeholder's length, less one byte, is held back.
#[derive(Clone)]
pub struct Unmasker {
    /// Placeholder and what replaces it.
    pairs: Vec<(String, String)>,
    /// The end of what came, which may be the beginning of a placeholder.
    held: String,
}

impl fmt::Debug for Unmasker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unmasker")
            .field("placeholders", &self.pairs.len())
            .field("held", &self.held.len())
            .finish()
    }
}

impl Unmasker {
    #[must_use]
    pub fn new(findings: &Findings) -> Self {
        Self::with_values(findings, str::to_owned)
    }

    /// For text that is JSON, as a tool call's arguments: values are escaped to stand inside a
    /// JSON string.
    #[must_use]
    pub fn in_json(findings: &Findings) -> Self {
        Self::with_values(findings, |value| {
            let quoted = serde_json::Value::from(value).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        })
    }

    fn with_values(findings: &Findings, value: impl Fn(&str) -> String) -> Self {
        Self {
            pairs: findings
                .iter()
                .map(|finding| (finding.placeholder.clone(), value(&finding.value)))
                .collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece and gives what is certain of the text so far.
    pub fn push(&mut self, piece: &str) -> String {
        if self.pairs.is_empty() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let text = std::mem::take(&mut self.held);
        let mut restored = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(open) = rest.find('<') {
            restored.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some((placeholder, value)) = self.complete_at(rest) {
                restored.push_str(value);
                rest = &rest[placeholder.len()..];
            } else if self.may_begin(rest) {
                self.held = rest.to_owned();
                return restored;
            } else {
                restored.push('<');
                rest = &rest[1..];
            }
        }
        restored.push_str(rest);
        restored
    }

    /// How much is held back just now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Gives what was held back. No more text follows.
    #[must_use]
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn complete_at(&self, text: &str) -> Option<&(String, String)> {
        self.pairs
            .iter()
            .find(|(placeholder, _)| text.starts_with(placeholder))
    }

    fn may_begin(&self, text: &str) -> bool {
        self.pairs
            .iter()
            .any(|(placeholder, _)| placeholder.starts_with(text))
    }
}
