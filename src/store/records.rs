//! Records of exchanges in one SQLite file: written beside the exchanges, read by anybody.
//!
//! ```text
//! exchange ends ─► RecordFile ─try_send─► queue ─► RecordWriter, every quarter of a second ─► records.sqlite
//!                       └─ the queue is full: dropped and counted                             └─► RecordReader
//! ```
//! Nothing waits for the file: not an exchange, and not the recorder. What is in the queue is in the file
//! within a second, or is tried again for as long as there is room in the queue. A transaction has whole
//! batches and is on the disk when it ends (write-ahead log, `synchronous = FULL`), so that a crash takes
//! what was not written yet and nothing else.

mod file;
mod overview;
mod reader;
mod row;
mod writer;

#[cfg(test)]
mod tests;

pub use reader::RecordReader;
pub use writer::{
    RECORD_BATCH_MAX, RECORD_QUEUE_MAX, RecordCounts, RecordFile, RecordRules, RecordWriter,
};
