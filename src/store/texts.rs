//! What exchanges said, where a retention policy says so: sealed, in one SQLite file of this node's own, and
//! gone on time.
//!
//! ```text
//! KeptText ─► JSON ─seal under the newest key─► a row: when, until when, whose, under which key ─► texts.sqlite
//!                                                └─ every half minute: what is over goes, what an old key sealed
//!                                                   is sealed anew
//! ```
//! In the clear a row says when its exchange ended, until when it is kept, of which team it is, by marks whose,
//! and under which key it is sealed. The exchange's id, which callers may choose, is in what is sealed; a
//! digest under the key finds it.

mod file;
mod key;
mod seal;
mod vault;

#[cfg(test)]
mod tests;

pub use key::{TEXT_KEY_BYTES_MAX, TextKey, TextKeyFault};
pub use seal::TextKeys;
pub(crate) use seal::cipher;
pub use vault::{TEXT_SWEEP_EVERY, TextPolicy, TextVault, TextsHeld};
