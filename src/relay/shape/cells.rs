//! Cells of one size, as soon as there is something, and not more often than the window.
//!
//! The first piece of a body goes at once, and takes the head with it. Bodies that are no event
//! streams go in full cells, and the rest with their end.

use std::time::Instant;

use super::stream::CellStream;
use super::{Body, CELL_WINDOW, Cell, CellSize};
use crate::bhttp::{Fields, InvalidMessage};

#[derive(Debug)]
pub struct Cells {
    pub(super) stream: CellStream,
    size: CellSize,
    /// Nothing that does not fill a cell goes before.
    quiet_until: Option<Instant>,
}

impl Cells {
    pub(super) fn new(size: CellSize) -> Self {
        Self {
            stream: CellStream::new(size),
            size,
            quiet_until: None,
        }
    }

    pub(super) fn begin(
        &mut self,
        status: u16,
        header: &Fields,
        body: Body,
    ) -> Result<(), InvalidMessage> {
        self.stream.begin(status, header, body)?;
        match body {
            Body::Slim => self.stream.resize(self.size.slim()),
            Body::Events | Body::Other => {}
        }
        Ok(())
    }

    pub(super) fn next(&mut self, now: Instant) -> Option<Cell> {
        if self.stream.ready() == 0 && !self.write(now) {
            return None;
        }
        let is_final = self.stream.is_closed() && self.stream.ready() == 1;
        self.quiet_until = Some(now + CELL_WINDOW);
        self.stream.pop(is_final)
    }

    /// Whether a cell was written.
    fn write(&mut self, now: Instant) -> bool {
        if self.stream.is_closed() || !self.stream.has_begun() {
            return false;
        }
        if self.stream.held() > 0 || self.stream.has_ended() {
            self.stream.write_head();
        }
        if self.stream.fill_whole(self.stream.queued()) {
            return true;
        }
        if self.stream.has_ended() {
            self.stream.close();
            return true;
        }
        let is_quiet = self.quiet_until.is_some_and(|until| now < until);
        if is_quiet {
            return false;
        }
        self.stream.flush_lines();
        self.stream.whole_len() > 0 && self.stream.fill_up()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.quiet_until
            .filter(|_| self.stream.has_whole() && !self.stream.is_closed())
    }
}
