//! Joins tokens' bytes into text without ever cutting a character.

/// Holds back at most the three bytes that may begin a character.
#[derive(Debug, Default)]
pub(crate) struct Utf8Joiner {
    tail: Vec<u8>,
}

impl Utf8Joiner {
    /// Appends to `text` what `bytes` completes. Bytes that no character has become U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.tail.extend_from_slice(bytes);
        let mut rest = self.tail.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, broken) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = broken;
                    // No length: the bytes may yet become a character.
                    let Some(length) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[length..];
                }
            }
        }
        let done = self.tail.len() - rest.len();
        self.tail.drain(..done);
    }

    /// True while the bytes so far end in the middle of a character.
    pub(crate) fn is_within(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Ends the text: a character left unfinished becomes U+FFFD.
    pub(crate) fn finish(&mut self, text: &mut String) {
        if !self.tail.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(pieces: &[&[u8]]) -> String {
        let mut joiner = Utf8Joiner::default();
        let mut text = String::new();
        for piece in pieces {
            joiner.push(piece, &mut text);
            assert!(joiner.tail.len() <= 3);
        }
        joiner.finish(&mut text);
        text
    }

    #[test]
    fn broken_bytes_are_replaced_and_the_rest_goes_on() {
        assert_eq!(join(&[b"a\xffb", b"\xe2\x82"]), "a\u{fffd}b\u{fffd}");
        assert_eq!(join(&[b"\xe2\x82", b"x"]), "\u{fffd}x");
    }

    proptest! {
        #[test]
        fn text_survives_any_cuts(text in "\\PC{0,40}", cuts in prop::collection::vec(0_usize..200, 0..12)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(join(&pieces), text);
        }

        #[test]
        fn any_bytes_read_as_the_standard_library_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0_usize..60) {
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(join(&[head, tail]), String::from_utf8_lossy(&bytes));
        }
    }
}
