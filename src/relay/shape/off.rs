//! No shape: each piece of a body is a chunk.

use std::fmt;

use zeroize::Zeroizing;

use super::{Body, Cell, Spent};
use crate::bhttp::{ContentWriter, Fields, InvalidMessage, ResponseWriter};
use crate::limits::CHUNK_BYTES_MAX;
use crate::slim::SlimEncoder;

#[derive(Default)]
pub struct Off {
    out: Zeroizing<Vec<u8>>,
    content: Option<ContentWriter>,
    frames: Option<Box<SlimEncoder>>,
    has_ended: bool,
    spent: Spent,
}

impl Off {
    pub(super) fn begin(
        &mut self,
        status: u16,
        header: &Fields,
        body: Body,
    ) -> Result<(), InvalidMessage> {
        let writer = ResponseWriter::start(&mut self.out);
        self.content = Some(writer.response(status, header, &mut self.out)?);
        self.frames = (body == Body::Slim).then(Box::default);
        Ok(())
    }

    pub(super) fn push(&mut self, content: &[u8]) {
        self.spent.content_bytes += content.len() as u64;
        let Some(writer) = &self.content else {
            return;
        };
        match &mut self.frames {
            None => writer.push(content, &mut self.out),
            Some(encoder) => {
                let mut frames = Zeroizing::new(Vec::new());
                encoder.push(content, &mut frames);
                encoder.flush(&mut frames);
                writer.push(&frames, &mut self.out);
            }
        }
    }

    pub(super) fn end(&mut self, trailer: &Fields) {
        if let Some(writer) = self.content.take() {
            writer.finish(trailer, &mut self.out);
            self.has_ended = true;
        }
    }

    pub(super) fn next(&mut self) -> Option<Cell> {
        if self.out.is_empty() {
            return None;
        }
        let bytes = self.out.len().min(CHUNK_BYTES_MAX);
        let plain = Zeroizing::new(self.out[..bytes].to_vec());
        self.out.drain(..bytes);
        self.spent.cells += 1;
        self.spent.plain_bytes += bytes as u64;
        Some(Cell {
            plain,
            is_final: self.has_ended && self.out.is_empty(),
        })
    }

    pub(super) fn held(&self) -> usize {
        self.out.len()
    }

    pub(super) fn spent(&self) -> Spent {
        self.spent
    }
}

impl fmt::Debug for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Off({} bytes)", self.out.len())
    }
}
