//! Keys and teams that are made while the node runs, in one SQLite file, and the directory that all
//! keys are looked up in.
//!
//! ```text
//! a change ─► KeyFile: one row, on the disk when it returns (WAL, `synchronous = FULL`)
//!     └─► a new KeyRing of all rows and the configuration's keys ─► takes the old one's place, whole
//! a request ─► KeyRing::find: a keyed hash, a map, a comparison that takes as long either way
//! ```
//! No key stands in the file: a row has HMAC-SHA-256 of the key's digest, under a secret in a file beside
//! it. Who has the rows alone cannot even tell whether a key that he guessed is among them.

mod file;
mod ring;
mod secret;

#[cfg(test)]
mod tests;

pub use file::{KeptKey, KeptTeam, KeyFile, KeyFileError, Rows};
pub use ring::{Held, KeyRing, UnixClock, UsedDay};
pub use secret::{KeyTag, TagSecret};
