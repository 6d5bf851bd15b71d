//! Cuts a stream into its chunks: server-sent events, or the objects of one JSON array, which is
//! what Google sends without `alt=sse`.

use crate::{SseDecoder, SseFault};

/// The longest object taken of an array, as of events.
const OBJECT_BYTES_MAX: usize = 1 << 20;

/// Which of the two it is shows at the first byte.
#[derive(Debug, Default)]
pub(super) enum Splitter {
    #[default]
    Unknown,
    Events(SseDecoder),
    Objects(Objects),
}

/// A bound was passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl From<SseFault> for TooLarge {
    fn from(_: SseFault) -> Self {
        TooLarge
    }
}

impl Splitter {
    /// Hands every chunk that `bytes` complete to `each`.
    pub fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), TooLarge> {
        if let Splitter::Unknown = self {
            match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
                None => return Ok(()),
                Some(b'[' | b'{') => *self = Splitter::Objects(Objects::default()),
                Some(_) => *self = Splitter::Events(SseDecoder::new()),
            }
        }
        match self {
            Splitter::Unknown => Ok(()),
            Splitter::Events(events) => Ok(events.push(bytes, &mut |event| each(event.data))?),
            Splitter::Objects(objects) => objects.push(bytes, each),
        }
    }

    /// Says that the body ended; hands out an event whose blank line is missing.
    pub fn finish(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), TooLarge> {
        match self {
            Splitter::Unknown | Splitter::Objects(_) => Ok(()),
            Splitter::Events(events) => Ok(events.finish(&mut |event| each(event.data))?),
        }
    }
}

/// Finds objects by their braces; what stands between them is read over.
#[derive(Debug, Default)]
pub(super) struct Objects {
    object: Vec<u8>,
    depth: usize,
    is_in_text: bool,
    is_escaped: bool,
}

impl Objects {
    fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), TooLarge> {
        for byte in bytes {
            self.take(*byte);
            if self.depth > 0 || !self.object.is_empty() {
                self.object.push(*byte);
            }
            if self.object.len() > OBJECT_BYTES_MAX {
                return Err(TooLarge);
            }
            if self.depth == 0 && !self.object.is_empty() {
                each(&self.object);
                self.object.clear();
            }
        }
        Ok(())
    }

    fn take(&mut self, byte: u8) {
        if self.is_in_text {
            let ends = byte == b'"' && !self.is_escaped;
            self.is_in_text = !ends;
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return;
        }
        match byte {
            b'"' if self.depth > 0 => self.is_in_text = true,
            b'{' => self.depth += 1,
            b'}' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str, cut: usize) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut seen = Vec::new();
        let mut each = |chunk: &[u8]| seen.push(String::from_utf8(chunk.to_vec()).unwrap());
        for piece in text.as_bytes().chunks(cut) {
            splitter.push(piece, &mut each).unwrap();
        }
        splitter.finish(&mut each).unwrap();
        seen
    }

    #[test]
    fn events_and_arrays_are_cut_alike() {
        let objects = [r#"{"a":{"b":"}\"]{\\"}}"#, r#"{"c":[1,2]}"#];
        let [first, second] = objects;
        for text in [
            format!("data: {first}\r\n\r\ndata: {second}\r\n\r\n"),
            format!("data: {first}\n\ndata: {second}"),
            format!("[{first}\n,\r\n{second}\n]"),
            format!(" \n{first}{second}"),
        ] {
            for cut in 1..text.len() {
                assert_eq!(chunks(&text, cut), objects, "{text} cut by {cut}");
            }
        }
    }

    #[test]
    fn an_endless_object_is_too_large() {
        let mut splitter = Splitter::default();
        let endless = vec![b'{'; OBJECT_BYTES_MAX + 1];
        assert_eq!(splitter.push(&endless, &mut |_| {}), Err(TooLarge));
    }
}
