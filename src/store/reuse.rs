//! Kept replies by the nearness of what was asked.
//!
//! ```text
//! keep ─► by name, with a bound ─► the row in its compartment's drawer ─► lists of neighbours
//! nearest ─► drawer ─► the nearest lists ─► their rows one by one ─► entries by name
//!
//! every change ─► bounded queue ─► driver: a batch at a time ─► file
//!   full: counted                    └─◄ a page at a time, at the start ─┘
//! ```
//! A drawer is one compartment's, and no search looks into two. What answers is in memory; the file is so
//! that it outlives the process. Where replicas share, a table in Postgres takes the file's place, and the driver
//! hears there of what the others did.

mod code;
mod drawer;
mod embedded;
mod entries;
mod file;
mod front;
mod list;
mod memory;
mod shared;
mod table;

#[cfg(test)]
mod tests;

pub use embedded::EmbeddedIndex;
pub use entries::ENTRY_OVERHEAD_BYTES;
pub use file::ReuseFileError;
pub use front::{REUSE_QUEUE_MAX, STATE_BYTES_MAX};
pub use memory::{Clock, MemoryIndex, NEIGHBOURS_MAX, ReuseRules};
pub use shared::{REUSE_FOLLOW_EVERY, REUSE_HEARD_MAX, SharedIndex, SharedReuseRules};
