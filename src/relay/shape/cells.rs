//! Cells of one size, as soon as there is something, and not more often than the window.
//!
//! The first piece of a body goes at once, and takes the head with it. Bodies that are no event
//! streams go in full cells, and the rest with their end.

use std::time::Instant;

use super::stream::CellStream;
use super::{CELL_WINDOW, Cell, CellSize};

#[derive(Debug)]
pub struct Cells {
    pub(super) stream: CellStream,
    /// Nothing that does not fill a cell goes before.
    quiet_until: Option<Instant>,
}

impl Cells {
    pub(super) fn new(size: CellSize) -> Self {
        Self {
            stream: CellStream::new(size),
            quiet_until: None,
        }
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
        if self.stream.fill_whole(self.stream.held()) {
            return true;
        }
        if self.stream.has_ended() {
            self.stream.close();
            return true;
        }
        let is_quiet = self.quiet_until.is_some_and(|until| now < until);
        !is_quiet && self.stream.whole_len() > 0 && self.stream.fill_up()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let is_waiting = self.stream.is_events() && self.stream.whole_len() > 0;
        self.quiet_until
            .filter(|_| is_waiting && !self.stream.is_closed())
    }
}
