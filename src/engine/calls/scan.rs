//! Finds where a JSON value ends that comes in stretches, without keeping it.

/// Deeper values count as broken.
const DEPTH_MAX: usize = 128;

/// How far a value came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// All of the text is within the value.
    Going,
    /// The value ends after so many bytes.
    Done(usize),
    /// No JSON goes on as this does after so many bytes.
    Broken(usize),
}

/// An object or array of which some was seen. Within strings anything goes; outside, brackets must
/// match and no character may stand that JSON never has there. So a mark that ends a call is found
/// where a bracket is missing, and is text within a string.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonScan {
    /// What closes the brackets that are open.
    closers: Vec<u8>,
    is_in_string: bool,
    is_escaped: bool,
}

impl JsonScan {
    pub(super) fn push(&mut self, text: &str) -> Scanned {
        for (at, byte) in text.bytes().enumerate() {
            if self.is_in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.is_in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.is_in_string = true,
                b'{' | b'[' if self.closers.len() < DEPTH_MAX => {
                    self.closers.push(if byte == b'{' { b'}' } else { b']' });
                }
                b'}' | b']' if self.closers.last() == Some(&byte) => {
                    self.closers.pop();
                    if self.closers.is_empty() {
                        return Scanned::Done(at + 1);
                    }
                }
                b',' | b':' | b'+' | b'-' | b'.' => {}
                _ if byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() => {}
                _ => return Scanned::Broken(at),
            }
        }
        Scanned::Going
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_its_bracket_closes() {
        let cases = [
            ("{}", Scanned::Done(2)),
            (r#"{"a": "}\"}</x>", "b": [{}]} tail"#, Scanned::Done(28)),
            (r#"{"a": [1"#, Scanned::Going),
            (r#"{"a": "\"#, Scanned::Going),
            (r#"{"a": 1</x>"#, Scanned::Broken(7)),
            (r#"{"a": [1}"#, Scanned::Broken(8)),
            ("{é", Scanned::Broken(1)),
        ];
        for (text, scanned) in cases {
            assert_eq!(JsonScan::default().push(text), scanned, "{text}");
        }
        let deep = "[".repeat(DEPTH_MAX + 1);
        assert_eq!(JsonScan::default().push(&deep), Scanned::Broken(DEPTH_MAX));
    }
}
