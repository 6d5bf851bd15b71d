//! Server-sent events, framing alone: bytes in at any cut, events out.
//!
//! After "Interpreting an event stream" in the WHATWG HTML standard (read 2026-11), less what a
//! single reply has no use for: `id` and `retry` are read over. Where the standard throws away an
//! event that the end of the body cut short, [`SseDecoder::finish`] hands it out, because several
//! providers leave out the last blank line.

use memchr::memchr2;

/// The longest line taken, and the longest event: its `data:` lines together. A provider's chunk
/// has a few hundred bytes; a whole file as tool arguments in one piece stays well below this.
pub const LINE_BYTES_MAX: usize = 1 << 20;
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// One dispatched event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event:` field, empty when absent.
    pub name: &'a [u8],
    /// The `data:` lines, joined by a line feed.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseFault {
    #[error("a line is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("an event is larger than {EVENT_BYTES_MAX} bytes")]
    EventTooLarge,
}

/// Splits bytes into events, wherever they are cut.
#[derive(Debug, Default)]
pub struct SseDecoder {
    /// A line whose end has not come yet.
    line: Vec<u8>,
    event: PendingEvent,
    /// The last byte was a carriage return; a line feed right after it belongs to it.
    is_after_cr: bool,
}

impl SseDecoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and hands every event they complete to `each`, in order.
    ///
    /// # Errors
    /// A bound was passed. The decoder is then of no further use.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        each: &mut dyn FnMut(SseEvent<'_>),
    ) -> Result<(), SseFault> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.is_after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr2(b'\n', b'\r', bytes);
            let (stretch, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + stretch.len() > LINE_BYTES_MAX {
                return Err(SseFault::LineTooLong);
            }
            let Some(terminator) = rest.first() else {
                self.line.extend_from_slice(stretch);
                return Ok(());
            };
            self.is_after_cr = *terminator == b'\r';
            bytes = &rest[1..];
            if self.line.is_empty() {
                self.event.take_line(stretch, each)?;
            } else {
                self.line.extend_from_slice(stretch);
                self.event.take_line(&self.line, each)?;
                self.line.clear();
            }
        }
        Ok(())
    }

    /// Says that the body ended; hands out an event whose blank line is missing.
    ///
    /// # Errors
    /// As for [`SseDecoder::push`].
    pub fn finish(&mut self, each: &mut dyn FnMut(SseEvent<'_>)) -> Result<(), SseFault> {
        if !self.line.is_empty() {
            self.event.take_line(&self.line, each)?;
            self.line.clear();
        }
        self.event.dispatch(each);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct PendingEvent {
    name: Vec<u8>,
    data: Vec<u8>,
    /// An event without any `data:` line is not dispatched; one with an empty line is.
    has_data: bool,
    is_past_first_line: bool,
}

impl PendingEvent {
    fn take_line(
        &mut self,
        mut line: &[u8],
        each: &mut dyn FnMut(SseEvent<'_>),
    ) -> Result<(), SseFault> {
        if !std::mem::replace(&mut self.is_past_first_line, true) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(each);
            return Ok(());
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => self.add_data(value),
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
                Ok(())
            }
            // A comment, which has an empty field name, or a field we have no use for.
            _ => Ok(()),
        }
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), SseFault> {
        if self.data.len() + value.len() >= EVENT_BYTES_MAX {
            return Err(SseFault::EventTooLarge);
        }
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn dispatch(&mut self, each: &mut dyn FnMut(SseEvent<'_>)) {
        if std::mem::take(&mut self.has_data) {
            each(SseEvent {
                name: &self.name,
                data: &self.data,
            });
        }
        self.name.clear();
        self.data.clear();
    }
}

#[cfg(test)]
mod tests;
