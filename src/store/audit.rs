//! What left sealed, or came sealed, in a file that nobody changes afterwards unseen.
//!
//! ```text
//! append ─► bounded queue ─► driver: a batch at a time ─► audit-00000001.jsonl, -2, -3 ...
//!   full: counted                disk fails: waits, a second at a time      └─► verify, reconcile
//!     └─► a line of its own says how many are missing
//! ```
//! Each line names the digest of the line before it, across files and restarts, so a line that is
//! changed, taken out, put in or moved shows ([`Verifier`]); lines cut off the end show to whoever has
//! kept a later digest. There is no key: whoever may write the files can write another chain. What that
//! chain cannot do is pass for one whose digest was kept elsewhere, or agree with the other end's
//! ([`Comparison`]).
//!
//! A line that was written outlives the process at once, and a power cut after [`SYNC_EVERY`].

mod chain;
mod copies;
mod counts;
mod line;
mod log;
mod reconcile;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use chain::{AuditFileName, audit_files};
pub use copies::{AuditCopier, CopyFault, CopyState, Exported, export_copies};
pub use counts::AuditCounts;
pub use log::{AuditFile, BATCH_MAX, QUEUE_MAX, RETRY_EVERY, SYNC_EVERY};
pub use reconcile::{
    Comparison, DIFFERENCES_MAX, Difference, ENTRIES_MAX, Reconciled, SKEW_MAX, TEXTS_MAX, TooMuch,
};
pub use verify::{AuditEntry, AuditReport, BREACHES_MAX, Breach, BreachKind, Verifier};
pub use writer::AuditRules;

/// Of a line, its end included. A longer one is no line.
pub const LINE_BYTES_MAX: usize = 16 << 10;

/// Of a name within a line; a longer one is cut, and ends with `…`.
pub const TEXT_BYTES_MAX: usize = 256;
