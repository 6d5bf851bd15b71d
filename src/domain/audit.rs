//! What is written down of what left this machine, or came to it, sealed, and of what operators change
//! while the node runs: numbers and names, never text and never a secret.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::MicroUsd;

/// Where entries go that nobody may change afterwards unseen.
pub trait AuditLog: Send + Sync + 'static {
    /// Never waits. What cannot be taken is counted and said, by the log itself.
    fn append(&self, entry: SealedEntry);
}

/// Where operators' changes are written down, in the same chain.
#[async_trait]
pub trait ChangeLog: Send + Sync + 'static {
    /// Returns once it can be written to. A node may keep no log: then there is nothing to open.
    ///
    /// # Errors
    /// It cannot be had: nothing may be changed unseen.
    async fn ready(&self) -> Result<(), NoLog>;

    /// Returns once the entry outlives this process, or the log has said that it cannot be written: then
    /// gives false, and it may be written later.
    async fn note(&self, change: AdminChange) -> bool;
}

/// The log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log cannot be written")]
pub struct NoLog(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Something that an operator changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminChange {
    pub at: SystemTime,
    /// The token's name, or `loopback` where none is asked for.
    pub who: String,
    /// `key.create` and the like.
    pub what: &'static str,
    /// Of the key, team or whatever was changed.
    pub id: String,
}

/// One sealed exchange, as one of its two ends saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEntry {
    /// When it began.
    pub at: SystemTime,
    pub side: SealedSide,
    /// `None` where the relay could not tell.
    pub edge: Option<String>,
    pub relay: String,
    /// Serial number of the edge's certificate, in hexadecimal digits.
    pub certificate: Option<String>,
    pub key_id: u8,
    /// The first 8 bytes of the digest of the encapsulated key, in hexadecimal digits: the same at both
    /// ends, and of no other exchange.
    pub enc: String,
    /// The path that was asked for.
    pub path: Option<String>,
    pub model: Option<String>,
    pub tokens_in: Option<u64>,
    pub tokens_out: Option<u64>,
    pub shape: Option<String>,
    /// Sealed, of the request.
    pub bytes_up: u64,
    /// Sealed, of the response.
    pub bytes_down: u64,
    /// The inner one; `None` where it never came.
    pub status: Option<u16>,
    pub took: Duration,
    pub cost: Option<MicroUsd>,
    pub result: SealedResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealedSide {
    Edge,
    Relay,
}

impl SealedSide {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Relay => "relay",
        }
    }
}

/// How a sealed exchange went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealedResult {
    Answered,
    /// Its time was too far from ours.
    OffTime,
    /// It proved no edge that is known.
    Unproven,
    Replayed,
    /// A key of idempotence came a second time.
    Repeated,
    /// The edge may not.
    Denied,
    /// A cap of the edge, or of the relay, is reached.
    Capped,
    /// The other end left before the end.
    Abandoned,
    /// It did not open, or broke off.
    Broken,
}

impl SealedResult {
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::OffTime,
        Self::Unproven,
        Self::Replayed,
        Self::Repeated,
        Self::Denied,
        Self::Capped,
        Self::Abandoned,
        Self::Broken,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::OffTime => "off_time",
            Self::Unproven => "unproven",
            Self::Replayed => "replayed",
            Self::Repeated => "repeated",
            Self::Denied => "denied",
            Self::Capped => "capped",
            Self::Abandoned => "abandoned",
            Self::Broken => "broken",
        }
    }
}
