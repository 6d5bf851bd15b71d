//! Encodes a streamed reply, as a server.
use bytes::BytesMut;
use domain::ChatEvent;

use super::{ErrorBody, Framing};

/// Writes a stream's events as `data:` lines of `chat.completion.chunk` objects.
#[derive(Debug)]
pub struct ChunkEncoder {}

impl ChunkEncoder {
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let _ = framing;
        todo!()
    }

    /// Appends the chunks of one event.
    pub fn encode(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        let _ = (event, out);
        todo!()
    }

    /// Appends an in-band error. Nothing may follow it, `finish` included.
    pub fn fail(&mut self, error: &ErrorBody, out: &mut BytesMut) {
        let _ = (error, out);
        todo!()
    }

    /// Appends `data: [DONE]`.
    pub fn finish(&mut self, out: &mut BytesMut) {
        let _ = out;
        todo!()
    }
}
