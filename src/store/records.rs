//! Records of exchanges in one SQLite file, or in a Postgres that replicas share: written beside the
//! exchanges, read by anybody.
//!
//! ```text
//! exchange ends ─► RecordDesk ─try_send─► queue ─► RecordWriter, every quarter of a second ─► records.sqlite
//!                       └─ the queue is full: dropped and counted                             └─► RecordReader
//! ```
//! Nothing waits for the file: not an exchange, and not the recorder. What is in the queue is in the file
//! within a second, or is tried again for as long as there is room in the queue. A transaction has whole
//! batches and is on the disk when it ends (write-ahead log, `synchronous = FULL`), so that a crash takes
//! what was not written yet and nothing else.

mod asks;
mod columns;
mod desk;
mod file;
mod hold;
mod overview;
mod place;
mod reader;
mod reading;
mod rights;
mod row;
mod shared;

#[cfg(test)]
mod tests;

pub use desk::{
    RECORD_BATCH_MAX, RECORD_QUEUE_MAX, RecordCounts, RecordDesk, RecordRules, RecordWriter,
};
pub use reader::RecordReader;
pub use rights::RecordEraser;
pub(crate) use shared::replica_of;
pub use shared::{
    RecordsState, ShiftFault, Shifted, ShiftedFile, own_records, records_state, shift_records,
};
