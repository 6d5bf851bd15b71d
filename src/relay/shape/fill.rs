//! Comment lines that fill cells, and how an edge takes them out again.
//!
//! A line that begins with a colon is no part of any event (HTML, "Server-sent events", 9.2.6), so
//! whoever does not take them out passes over them all the same.

/// A comment line of so many bytes, at least two.
pub(super) fn comment(bytes: usize, out: &mut Vec<u8>) {
    debug_assert!(bytes >= 2, "a comment is a colon and a line end");
    out.push(b':');
    out.resize(out.len() + bytes.saturating_sub(2), b' ');
    out.push(b'\n');
}

/// Spaces of one line that are held back at most: those of a longer one are no filling of ours.
const HELD_MAX: usize = 16_384;

/// Takes out the lines that fill: a colon, spaces, a line feed, and nothing else.
#[derive(Debug, Clone)]
pub struct FillStripper {
    is_at_start: bool,
    /// Spaces after a colon at the beginning of a line, while it may be one of those.
    held: Option<usize>,
}

impl Default for FillStripper {
    fn default() -> Self {
        Self {
            is_at_start: true,
            held: None,
        }
    }
}

impl FillStripper {
    /// Appends what is left of `content`, however it is cut.
    pub fn push(&mut self, mut content: &[u8], out: &mut Vec<u8>) {
        while let Some((&byte, rest)) = content.split_first() {
            match self.held {
                Some(spaces) if byte == b' ' && spaces < HELD_MAX => {
                    self.held = Some(spaces + 1);
                    content = rest;
                }
                Some(_) if byte == b'\n' => {
                    self.held = None;
                    content = rest;
                }
                Some(_) => {
                    self.finish(out);
                    self.is_at_start = false;
                }
                None if self.is_at_start && byte == b':' => {
                    self.held = Some(0);
                    content = rest;
                }
                None => {
                    let ends = |byte: &u8| matches!(byte, b'\r' | b'\n');
                    let line = content.iter().position(ends);
                    let (line, rest) = content.split_at(line.map_or(content.len(), |at| at + 1));
                    out.extend_from_slice(line);
                    self.is_at_start = line.last().is_some_and(ends);
                    content = rest;
                }
            }
        }
    }

    /// The content has ended: what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(spaces) = self.held.take() {
            out.push(b':');
            out.resize(out.len() + spaces, b' ');
        }
    }
}
