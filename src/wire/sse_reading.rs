//! What all readers of server-sent events do alike: bytes in at any cut, until the reader has heard its
//! end.

use std::collections::VecDeque;

use domain::{BackendError, ChatEvent};

use crate::{SseDecoder, SseEvent, StreamDecoder};

pub(crate) type Out = VecDeque<Result<ChatEvent, BackendError>>;

const TOO_LARGE: BackendError = BackendError::Garbled("an event of the stream is too large");

/// Makes one dialect's events into those of `domain`.
pub(crate) trait EventReader {
    fn take(&mut self, event: SseEvent<'_>, out: &mut Out);

    /// The body ends. What is taken from now on lacked its blank line, and may be cut.
    fn note_body_end(&mut self) {}

    /// The body ended, and the stream's own end did not come before.
    fn end(&mut self, out: &mut Out);

    /// Puts out the error, after which it is over.
    fn fail(&mut self, error: BackendError, out: &mut Out);

    /// True once the last event was put out.
    fn is_over(&self) -> bool;
}

/// A reader with the bytes that are no whole event yet.
#[derive(Debug, Default)]
pub(crate) struct SseReading<R> {
    sse: SseDecoder,
    reader: R,
}

impl<R: EventReader + Send + 'static> StreamDecoder for SseReading<R> {
    fn push(&mut self, bytes: &[u8], out: &mut Out) {
        if self.reader.is_over() {
            return;
        }
        let pushed = self
            .sse
            .push(bytes, &mut |event| self.reader.take(event, out));
        if pushed.is_err() && !self.reader.is_over() {
            self.reader.fail(TOO_LARGE, out);
        }
    }

    fn finish(&mut self, out: &mut Out) {
        if self.reader.is_over() {
            return;
        }
        self.reader.note_body_end();
        let finished = self.sse.finish(&mut |event| self.reader.take(event, out));
        if self.reader.is_over() {
            return;
        }
        match finished {
            Ok(()) => self.reader.end(out),
            Err(_) => self.reader.fail(TOO_LARGE, out),
        }
    }

    fn is_over(&self) -> bool {
        self.reader.is_over()
    }
}
