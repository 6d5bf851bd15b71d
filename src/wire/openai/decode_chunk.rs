//! Decodes a streamed reply, as a client.
use std::collections::VecDeque;

use domain::{BackendError, ChatEvent};

/// Turns a stream's bytes, cut anywhere, into events that obey [`domain::Grammar`].
#[derive(Debug, Default)]
pub struct ChunkDecoder {}

impl ChunkDecoder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes. After an `Err` was put out, everything further is ignored.
    pub fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        let _ = (bytes, out);
        todo!()
    }

    /// Says that the body ended.
    pub fn finish(&mut self, out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        let _ = out;
        todo!()
    }
}
