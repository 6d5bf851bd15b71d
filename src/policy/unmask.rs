//! Putting the values back into a reply, piece by piece.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::Findings;

/// Restores placeholders in a stream of text. Give one to each text that grows on its own: a
/// choice's answer, its thoughts, each tool call's arguments.
///
/// What values add is bounded by [`RESTORED_BYTES_MAX`], since a reply may name a long one often; beyond it
/// placeholders stay. Only exact placeholders are restored; in JSON, `<` and `>` may be escaped. At most the longest
/// placeholder's length as written, less one byte, is held back.
#[derive(Clone)]
pub struct Unmasker {
    /// Placeholder and what replaces it.
    pairs: Vec<(String, String)>,
    notation: Notation,
    room: Room,
    /// The end of what came, which may be the beginning of a placeholder.
    held: String,
}

/// What values may add to one reply.
pub const RESTORED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How much values may still add, to all texts of a reply together.
#[derive(Clone, Debug)]
pub struct Room(Arc<AtomicUsize>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(RESTORED_BYTES_MAX)))
    }
}

impl Room {
    fn take(&self, bytes: usize) -> bool {
        let left = |left: usize| left.checked_sub(bytes);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        taken.is_ok()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Notation {
    Plain,
    Json,
}

impl Notation {
    /// Other ways to write `letter`. Models and their servers escape these two for HTML's sake.
    fn escapes(self, letter: char) -> &'static [&'static str] {
        match (self, letter) {
            (Notation::Json, '<') => &[r"\u003c", r"\u003C"],
            (Notation::Json, '>') => &[r"\u003e", r"\u003E"],
            _ => &[],
        }
    }

    /// How `text` meets `placeholder`, which stands for `value`.
    fn compare<'a>(self, text: &str, placeholder: &str, value: &'a str) -> Beginning<'a> {
        let mut rest = text;
        for letter in placeholder.chars() {
            if rest.is_empty() {
                return Beginning::Part;
            }
            let escapes = self.escapes(letter);
            let after = rest
                .strip_prefix(letter)
                .or_else(|| escapes.iter().find_map(|it| rest.strip_prefix(it)));
            match after {
                Some(after) => rest = after,
                None if escapes.iter().any(|it| it.starts_with(rest)) => return Beginning::Part,
                None => return Beginning::Other,
            }
        }
        Beginning::Placeholder(text.len() - rest.len(), value)
    }

    fn may_open(self, letter: char) -> bool {
        letter == '<' || (self == Notation::Json && letter == '\\')
    }
}

/// How a text begins.
enum Beginning<'a> {
    /// With a placeholder of so many bytes, which stands for the value.
    Placeholder(usize, &'a str),
    /// With all there is of one that may go on.
    Part,
    Other,
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
        Self::with_values(findings, Notation::Plain, str::to_owned)
    }

    /// For text that is JSON, as a tool call's arguments: values are escaped to stand inside a
    /// JSON string.
    #[must_use]
    pub fn in_json(findings: &Findings) -> Self {
        Self::with_values(findings, Notation::Json, |value| {
            let quoted = serde_json::Value::from(value).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        })
    }

    fn with_values(
        findings: &Findings,
        notation: Notation,
        value: impl Fn(&str) -> String,
    ) -> Self {
        Self {
            pairs: findings
                .iter()
                .map(|finding| (finding.placeholder.clone(), value(&finding.value)))
                .collect(),
            notation,
            room: Room::default(),
            held: String::new(),
        }
    }

    /// Shares `room` with the reply's other texts.
    #[must_use]
    pub fn within(mut self, room: &Room) -> Self {
        self.room = room.clone();
        self
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
        while let Some(open) = rest.find(|letter| self.notation.may_open(letter)) {
            restored.push_str(&rest[..open]);
            rest = &rest[open..];
            match self.beginning(rest) {
                Beginning::Placeholder(length, value) => {
                    let has_room = self.room.take(value.len());
                    restored.push_str(if has_room { value } else { &rest[..length] });
                    rest = &rest[length..];
                }
                Beginning::Part => {
                    self.held = rest.to_owned();
                    return restored;
                }
                Beginning::Other => {
                    // The second backslash of a pair escapes nothing.
                    let passed = if rest.starts_with(r"\\") { 2 } else { 1 };
                    restored.push_str(&rest[..passed]);
                    rest = &rest[passed..];
                }
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

    fn beginning(&self, text: &str) -> Beginning<'_> {
        let mut is_part = false;
        for (placeholder, value) in &self.pairs {
            match self.notation.compare(text, placeholder, value) {
                Beginning::Part => is_part = true,
                Beginning::Other => {}
                whole @ Beginning::Placeholder(..) => return whole,
            }
        }
        if is_part {
            Beginning::Part
        } else {
            Beginning::Other
        }
    }
}
