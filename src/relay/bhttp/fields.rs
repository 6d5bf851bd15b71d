//! Header and trailer fields: RFC 9292, section 3.6, over RFC 9110, section 5.1, and RFC 9113,
//! section 8.2.1.

use std::fmt;

use super::InvalidMessage;
use crate::limits::{FIELDS_MAX, SECTION_BYTES_MAX};

/// What each line takes beside its name and value, at most.
const LINE_BYTES: usize = 8;

/// Names that would say again what the message's own beginning says.
const RESERVED: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

/// The fields of one section, in order, within its bounds. Names are in lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    lines: Vec<(String, Vec<u8>)>,
    bytes: usize,
}

impl Fields {
    /// One line more.
    ///
    /// # Errors
    /// [`InvalidMessage::Field`] for a name or value that HTTP has not, [`InvalidMessage::TooLarge`]
    /// beyond the bounds of a section.
    pub fn push(&mut self, name: &str, value: impl Into<Vec<u8>>) -> Result<(), InvalidMessage> {
        self.push_bytes(name.as_bytes().to_vec(), value.into())
    }

    pub(super) fn push_bytes(
        &mut self,
        mut name: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<(), InvalidMessage> {
        let bytes = self.bytes + LINE_BYTES + name.len() + value.len();
        if bytes > SECTION_BYTES_MAX || self.lines.len() == FIELDS_MAX {
            return Err(InvalidMessage::TooLarge);
        }
        name.make_ascii_lowercase();
        let name = String::from_utf8(name).map_err(|_| InvalidMessage::Field)?;
        let is_pseudo = name.starts_with(':');
        let after_others = self
            .lines
            .last()
            .is_some_and(|(last, _)| !last.starts_with(':'));
        let token = name.strip_prefix(':').unwrap_or(&name);
        if !is_token(token.as_bytes())
            || RESERVED.contains(&name.as_str())
            || (is_pseudo && after_others)
            || !is_value(&value)
        {
            return Err(InvalidMessage::Field);
        }
        self.bytes = bytes;
        self.lines.push((name, value));
        Ok(())
    }

    /// How many bytes a name or value may still have.
    pub(super) fn bytes_left(&self) -> usize {
        SECTION_BYTES_MAX - self.bytes
    }

    /// Trailers have no pseudo-fields (RFC 9113, section 8.1).
    pub(super) fn has_pseudo(&self) -> bool {
        self.lines.iter().any(|(name, _)| name.starts_with(':'))
    }

    /// The value of the only line of this name, which is in lower case. Of two there is none: no two
    /// readers shall take different ones.
    pub fn only<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// The values of all lines of this name, which is in lower case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.iter().filter(move |(found, _)| *found == name);
        lines.map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let lines = self.lines.iter();
        lines.map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

/// RFC 9110, section 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// RFC 9113, section 8.2.1.
fn is_value(bytes: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !is_space(bytes.first())
        && !is_space(bytes.last())
        && !bytes.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fields({} of {} bytes)", self.lines.len(), self.bytes)
    }
}
