//! The storage traits of `domain`, implemented for one process.
//!
//! Thin on purpose: exact replies and kept responses live in memory and keys come from configuration, so nothing here
//! touches a disk or a network. Another family of the same traits belongs beside these files and
//! runs the same conformance checks.

mod moka_replies;
mod moka_responses;
mod static_keys;

pub mod conformance;

pub use moka_replies::{MokaReplies, OVERHEAD_BYTES};
pub use moka_responses::MokaResponses;
pub use static_keys::{StaticKeys, digest_key};
