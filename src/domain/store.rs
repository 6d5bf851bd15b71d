//! What a store does, one concern a trait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{ExchangeRecord, KeyDigest, Principal, Reply};

/// A keyed hash of the canonical masked request inside its compartment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey(pub [u8; 32]);

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey")
    }
}

/// Exact replies. A broken store behaves as an empty one.
pub trait CacheStore: Send + Sync + 'static {
    fn find(&self, key: &CacheKey) -> Option<Arc<Reply>>;

    /// Keeps `reply` for at most `ttl`. May drop it, or others, at any time.
    fn keep(&self, key: CacheKey, reply: Arc<Reply>, ttl: Duration);
}

/// Who holds which key. Looked up by digest, so that a leaked directory gives no key away.
pub trait KeyDirectory: Send + Sync + 'static {
    /// True when callers must show a key.
    fn is_required(&self) -> bool;

    fn find(&self, digest: &KeyDigest) -> Option<Principal>;
}

/// Takes finished exchanges. Called by the recorder alone, one at a time; must not block for long.
pub trait RecordSink: Send + Sync + 'static {
    fn append(&self, record: &ExchangeRecord);
}
