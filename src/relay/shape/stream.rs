//! A response as binary HTTP, brought into cells.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use super::fill::comment;
use super::lines::LineCutter;
use super::{Body, Cell, CellSize, PADDING_FIELD, Spent};
use crate::bhttp::{Fields, InvalidMessage, ResponseWriter};
use crate::slim::{self, SlimEncoder};
use crate::varint;

/// What a piece of a body has before it here, whatever its length.
const LENGTH_BYTES: usize = 2;

/// A piece of a body, in bytes, such that its length fits into two.
const PIECE_BYTES_MAX: usize = 8 << 10;

/// Beyond what an informational response is before its padding: status, name, two lengths, end.
const INTERIM_BYTES: usize = 2 + 1 + PADDING_FIELD.len() + LENGTH_BYTES + 1;

pub(super) struct CellStream {
    size: usize,
    /// Of cells once those that are written have gone.
    size_after: Option<usize>,
    /// Written, and in no cell yet. Outside of a head it ends where a cell does.
    out: Zeroizing<Vec<u8>>,
    body: LineCutter,
    /// What of the body is in no frame yet, where it goes in frames.
    frames: Option<Box<SlimEncoder>>,
    /// Until the head is written.
    writer: Option<ResponseWriter>,
    head: Option<(u16, Fields)>,
    begun: Option<Body>,
    ended: Option<Fields>,
    is_closed: bool,
    spent: Spent,
}

impl CellStream {
    pub(super) fn new(size: CellSize) -> Self {
        let mut out = Zeroizing::new(Vec::with_capacity(4 * size.bytes()));
        Self {
            size: size.bytes(),
            size_after: None,
            writer: Some(ResponseWriter::start(&mut out)),
            out,
            body: LineCutter::default(),
            frames: None,
            head: None,
            begun: None,
            ended: None,
            is_closed: false,
            spent: Spent::default(),
        }
    }

    pub(super) fn begin(
        &mut self,
        status: u16,
        header: &Fields,
        body: Body,
    ) -> Result<(), InvalidMessage> {
        if !(200..600).contains(&status) || self.begun.is_some() {
            return Err(InvalidMessage::Status);
        }
        self.head = Some((status, header.clone()));
        self.begun = Some(body);
        self.frames = (body == Body::Slim).then(Box::default);
        Ok(())
    }

    /// Cells are of this size after the next one, which is the first.
    pub(super) fn resize(&mut self, size: CellSize) {
        self.size_after = Some(size.bytes());
    }

    /// Writes the head, where it is not yet. Informational responses come before it.
    pub(super) fn write_head(&mut self) {
        const FINAL: &str = "the status was found to be final at the beginning";
        if let (Some(writer), Some((status, header))) = (self.writer.take(), self.head.take()) {
            writer
                .response(status, &header, &mut self.out)
                .expect(FINAL);
        }
    }

    pub(super) fn push(&mut self, content: &[u8]) {
        self.spent.content_bytes += content.len() as u64;
        match &mut self.frames {
            None => self.body.push(content),
            Some(encoder) => self.body.push_whole(|out| encoder.push(content, out)),
        }
    }

    pub(super) fn end(&mut self, trailer: &Fields) {
        self.ended = Some(trailer.clone());
        if let Some(encoder) = &mut self.frames {
            self.body.push_whole(|out| encoder.flush(out));
        }
    }

    /// Where there is nothing else to go: makes a frame of lines whose event is not whole.
    pub(super) fn flush_lines(&mut self) {
        if let Some(encoder) = &mut self.frames
            && self.body.is_empty()
        {
            self.body.push_whole(|out| encoder.flush_lines(out));
        }
    }

    /// How much has not gone yet.
    pub(super) fn held(&self) -> usize {
        let unframed = self.frames.as_ref().map_or(0, |encoder| encoder.held());
        self.body.len() + unframed
    }

    /// How much of it could go in full cells.
    pub(super) fn queued(&self) -> usize {
        self.body.len()
    }

    pub(super) fn spent(&self) -> Spent {
        self.spent
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether the body may be filled where a line or a frame ends.
    pub(super) fn takes_fill(&self) -> bool {
        matches!(self.begun, Some(Body::Events | Body::Slim))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// How much of the body is of whole lines or frames.
    pub(super) fn whole_len(&self) -> usize {
        self.body.whole_len()
    }

    /// Whether a cell could be filled up with something.
    pub(super) fn has_whole(&self) -> bool {
        let frames = self.frames.as_ref();
        let holds_lines = frames.is_some_and(|encoder| encoder.holds_lines());
        self.takes_fill() && (self.whole_len() > 0 || holds_lines)
    }

    /// Cells that are written.
    pub(super) fn ready(&self) -> usize {
        self.out.len() / self.size
    }

    /// The next cell that is written.
    pub(super) fn pop(&mut self, is_final: bool) -> Option<Cell> {
        if self.ready() == 0 {
            return None;
        }
        let plain = Zeroizing::new(self.out[..self.size].to_vec());
        self.out[..self.size].zeroize();
        self.out.drain(..self.size);
        self.spent.cells += 1;
        self.spent.plain_bytes += self.size as u64;
        if self.out.is_empty()
            && let Some(size) = self.size_after.take()
        {
            self.size = size;
        }
        Some(Cell { plain, is_final })
    }

    /// Writes an informational response that ends with its cell. Only before the head.
    pub(super) fn interim(&mut self) {
        let bytes = self.size - self.out.len() % self.size - INTERIM_BYTES;
        varint::write(102, &mut self.out);
        varint::write(PADDING_FIELD.len(), &mut self.out);
        self.out.extend_from_slice(PADDING_FIELD.as_bytes());
        varint::write_two(bytes, &mut self.out);
        let end = self.out.len() + bytes;
        self.out.resize(end, b'0');
        self.out.push(0);
    }

    /// Writes as much of the body as ends with a cell, from the next `available` bytes alone.
    /// Whether there was as much.
    pub(super) fn fill_whole(&mut self, available: usize) -> bool {
        let room = self.size - self.out.len() % self.size;
        // Where a cell has no room for a length and a byte, the piece goes through the next one.
        let bytes = match room.checked_sub(LENGTH_BYTES) {
            Some(bytes @ 1..) => bytes,
            Some(0) | None => room + self.size - LENGTH_BYTES,
        };
        if available < bytes {
            return false;
        }
        self.piece(bytes, 0);
        true
    }

    /// Writes what is whole of the body, of which there is less than a cell, and fills the cell up.
    /// Whether that may be.
    pub(super) fn fill_up(&mut self) -> bool {
        let whole = self.body.whole_len();
        let may_be = match self.begun {
            Some(Body::Events) => whole > 0 || self.body.is_between(),
            Some(Body::Slim) => true,
            Some(Body::Other) | None => false,
        };
        if !may_be {
            return false;
        }
        let used = (self.out.len() + LENGTH_BYTES + whole) % self.size;
        let fill = match (self.size - used) % self.size {
            // A comment of one byte there is none, and a piece of none would end the body.
            1 if self.frames.is_none() => 1 + self.size,
            0 if whole == 0 => self.size,
            fill => fill,
        };
        self.piece(whole, fill);
        true
    }

    /// Writes what is left, and zeros to the end of the cell. Only when the body has ended.
    pub(super) fn close(&mut self) {
        while !self.body.is_empty() {
            self.piece(self.body.len().min(PIECE_BYTES_MAX), 0);
        }
        let trailer = self.ended.clone().unwrap_or_default();
        crate::bhttp::write_end(&trailer, &mut self.out);
        self.is_closed = true;
        self.zeros();
    }

    /// Zeros to the end of the cell, or a cell of them.
    pub(super) fn zeros(&mut self) {
        let cells = self.out.len() / self.size + 1;
        let is_even = !self.out.is_empty() && self.out.len().is_multiple_of(self.size);
        if !is_even {
            self.out.resize(cells * self.size, 0);
        }
    }

    fn piece(&mut self, bytes: usize, fill: usize) {
        varint::write_two(bytes + fill, &mut self.out);
        self.out.extend_from_slice(self.body.take(bytes));
        match self.frames {
            _ if fill == 0 => {}
            None => comment(fill, &mut self.out),
            Some(_) => slim::fill(fill, &mut self.out),
        }
    }
}

impl fmt::Debug for CellStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CellStream")
            .field("written_bytes", &self.out.len())
            .field("body", &self.body)
            .field("begun", &self.begun)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}
