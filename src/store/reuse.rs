//! Kept replies by the nearness of what was asked.
//!
//! ```text
//! keep ─► by name, with a bound ─► the row in its compartment's drawer ─► lists of neighbours
//! nearest ─► drawer ─► the nearest lists ─► their rows one by one ─► entries by name
//! ```
//! A drawer is one compartment's, and no search looks into two.

mod code;
mod drawer;
mod entries;
mod list;
mod memory;

#[cfg(test)]
mod tests;

pub use entries::ENTRY_OVERHEAD_BYTES;
pub use memory::{Clock, MemoryIndex, NEIGHBOURS_MAX, ReuseRules};
