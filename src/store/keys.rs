//! Keys and teams that are made while nodes run, in one SQLite file of a node or in a Postgres that
//! replicas share, and the directory that all keys are looked up in.
//!
//! ```text
//! a change ─► KeyPlace: one row, on the disk when it returns ── KeyFile (WAL, `synchronous = FULL`)
//!     │                                                      └─ SharedKeys (a transaction, one at a time)
//!     └─► a new KeyRing of all rows and the configuration's keys ─► takes the old one's place, whole
//! another replica's ─► KeyFollower ─► all rows ─► the same
//! a request ─► KeyRing::find: a keyed hash, a map, a comparison that takes as long either way
//! ```
//! No key stands in either: a row has HMAC-SHA-256 of the key's digest, under a secret: in a file beside
//! the rows' file, or in a table of its own. Who has the rows alone cannot even tell whether a key that he
//! guessed is among them.

mod copy;
mod file;
mod kept;
mod ring;
mod secret;
mod shared;

#[cfg(test)]
mod tests;

pub use copy::KeyCopy;
pub use file::{KeyFile, KeyFileError};
pub use kept::{KeptKey, KeptTeam, KeyFault, KeyPlace, KeyRow, Rows};
pub use ring::{Held, KeyRing, UnixClock, UsedDay};
pub use secret::{KeyTag, TagSecret};
pub use shared::{
    KEYS_POLL_EVERY, KeyFollower, KeyShift, KeysHeard, SharedKeyCounts, SharedKeyRules, SharedKeys,
    ShiftedKeys, StampedRows, shift_keys,
};
