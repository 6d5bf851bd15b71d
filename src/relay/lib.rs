//! The sealed path between an edge and its relay: nobody on the way can read it, cut it or replay
//! it, and what its sizes and times tell is bounded.
//!
//! The relay is what RFC 9458 calls the gateway: it opens what edges seal. What an "oblivious relay"
//! is there, a forwarder that sees nothing, may stand in between and is not needed.
//!
//! No networking, no clock, no source of randomness, but in [`client`], the edge's end at work: bytes,
//! times and a generator come as arguments. The layers, from the wire inwards:
//!
//! | layer | after | here |
//! | --- | --- | --- |
//! | sealed messages | RFC 9458, draft-ietf-ohai-chunked-ohttp-08, over HPKE (RFC 9180) | `sealed`, `key_config` |
//! | messages | binary HTTP, RFC 9292 | `bhttp` |
//! | keys | hourly ones, and the signed page that names them | `ring`, `manifest` |
//! | on what machine | evidence in that page, for those who ask | `attest` |
//! | who and once | edge proof, replay cache, what an edge may do | `proof`, `replay`, `edges` |
//! | sizes and times | cells, ticks, padding | `shape` |
//! | event streams | as differences, between our own two ends | `slim` |

#![forbid(unsafe_code)]

pub mod attest;
pub mod bhttp;
#[cfg(feature = "client")]
pub mod client;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub mod limits;
pub mod manifest;
pub mod shape;
pub mod slim;

mod contexts;
mod edges;
mod key_config;
mod once;
mod problem;
mod proof;
mod replay;
mod ring;
mod sealed;
mod secret_key;
mod session;
mod structured;
mod suite;
mod time;
mod varint;
mod xwing;

#[cfg(test)]
mod tests;

pub use edges::{Edge, EdgeDirectory, EdgePolicy, Network, NoNetwork};
pub use key_config::{KEYS_MEDIA_TYPE, KeyConfig, KeyConfigFault};
pub use problem::{DATE_PROBLEM, KEY_PROBLEM, OuterRefusal, PROBLEM_MEDIA_TYPE, names_date};
pub use proof::{
    EDGE_FIELD, EdgeClaim, EdgeKey, EdgeSecret, NAME_BYTES_MAX, SHARED_KEY_BYTES_MIN, Unproven,
    is_name,
};
pub use replay::{
    DATE_WINDOW, IDEMPOTENCE_ENTRIES_MAX, IDEMPOTENCE_KEEP, IDEMPOTENCY_KEY_BYTES_MAX,
    IdempotenceCache, REPLAY_ENTRIES_MAX, REPLAY_KEEP, ReplayCache, ReplayRefused,
};
pub use ring::{KeyRing, PublishedKey, RingFault, RingTimes};
pub use sealed::{
    ChunkedResponse, EncDigest, Form, HeadReader, HeadRefused, ProofSecret, RequestHead,
    RequestOpener, RequestSealer, ResponseOpener, ResponseSealer, SealFault, Unopened,
    WholeRequestSealer, WholeResponseOpener, WholeResponseSealer, open_whole_request,
    seal_whole_request,
};
pub use secret_key::SecretKey;
pub use session::{
    SESSION_FIELD, SESSION_KEEP, SESSION_YES, SESSIONS_MAX, Session, SessionId, Sessions,
};
pub use suite::{Aead, Ciphers, Kem, Suite};
pub use time::UnixTime;
