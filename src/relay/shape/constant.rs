//! A cell with each tick, from the request's acceptance to a length among few.
//!
//! Before the response begins, cells are informational responses; while it has nothing to say,
//! comments; after its end, zeros. A line goes only when it is whole, so that there is never a tick
//! that has nothing and stands within a line. Bodies that are no event streams are held until they
//! have ended, or half the queue is full; then a tick may pass without a cell.

use std::time::Instant;

use super::stream::CellStream;
use super::{Bucket, Cell, CellSize, QUEUE_BYTES_MAX, Spent, TICK};

/// Ticks that may be made up for after a delay; of more, the rest is left out.
const LATE_TICKS_MAX: u32 = 4;

#[derive(Debug)]
pub struct Constant {
    pub(super) stream: CellStream,
    bucket: Bucket,
    next_tick: Instant,
    /// How many cells there will be, once it can be said.
    cells_in_all: Option<u64>,
    /// Whether the response goes out, and no informational ones any more.
    is_released: bool,
    is_done: bool,
    /// Ticks that passed without a cell.
    missed: u64,
}

impl Constant {
    pub(super) fn new(size: CellSize, bucket: Bucket, now: Instant) -> Self {
        Self {
            stream: CellStream::new(size),
            bucket,
            next_tick: now,
            cells_in_all: None,
            is_released: false,
            is_done: false,
            missed: 0,
        }
    }

    pub(super) fn spent(&self) -> Spent {
        Spent {
            missed_ticks: self.missed,
            ..self.stream.spent()
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_done).then_some(self.next_tick)
    }

    pub(super) fn next(&mut self, now: Instant) -> Option<Cell> {
        if self.is_done || now < self.next_tick {
            return None;
        }
        let late = now - self.next_tick;
        self.next_tick = if late > TICK * LATE_TICKS_MAX {
            now + TICK
        } else {
            self.next_tick + TICK
        };
        if self.stream.ready() == 0 && !self.write() {
            self.missed += 1;
            return None;
        }
        let sent = self.stream.spent().cells + 1;
        if self.stream.is_closed() && self.cells_in_all.is_none() {
            let least = self.stream.spent().cells + self.stream.ready() as u64;
            self.cells_in_all = Some(length_of(self.bucket, least));
        }
        self.is_done = self.cells_in_all == Some(sent);
        self.stream.pop(self.is_done)
    }

    /// Whether a cell was written.
    fn write(&mut self) -> bool {
        if self.stream.is_closed() {
            self.stream.zeros();
            return true;
        }
        let held = self.stream.held();
        let is_over = self.stream.has_ended() || held > QUEUE_BYTES_MAX / 2;
        if !self.is_released {
            self.is_released = self.stream.has_begun() && (self.stream.takes_fill() || is_over);
            if !self.is_released {
                self.stream.interim();
                return true;
            }
            self.stream.write_head();
        }
        self.stream.flush_lines();
        let available = if is_over || !self.stream.takes_fill() {
            self.stream.queued()
        } else {
            self.stream.whole_len()
        };
        if self.stream.fill_whole(available) {
            return true;
        }
        if self.stream.has_ended() {
            self.stream.close();
            return true;
        }
        self.stream.fill_up()
    }
}

/// The first possible length that is not below `cells`.
fn length_of(bucket: Bucket, cells: u64) -> u64 {
    let mut length = bucket.least();
    while length < cells {
        length = bucket.after(length);
    }
    length
}
