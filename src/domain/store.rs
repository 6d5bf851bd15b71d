//! What a store does, one concern a trait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::{ExchangeRecord, KeyDigest, Message, Principal, Reply, TeamId};

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

/// Responses that their callers may read again, and go on from. Each team has its own: what another one
/// kept is not there.
pub trait ResponseShelf: Send + Sync + 'static {
    /// Keeps `response` for a while. May drop it, or others, at any time.
    fn keep(&self, team: &TeamId, response: StoredResponse);

    fn find(&self, team: &TeamId, id: &str) -> Option<Arc<StoredResponse>>;

    /// True when there was such a response.
    fn remove(&self, team: &TeamId, id: &str) -> bool;
}

/// A finished response with what led to it. Holds what its caller wrote, personal data included.
#[derive(Clone)]
pub struct StoredResponse {
    pub id: String,
    /// The response object, in JSON.
    pub object: Bytes,
    /// The items it was asked with.
    pub input: Vec<Value>,
    /// All that was said up to its end, without instructions: what a response that follows it begins
    /// with.
    pub said: Vec<Message>,
}

impl StoredResponse {
    /// About the memory it takes, for bounds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// Of a message beside its text: its fields and places in lists.
        const MESSAGE_BYTES: usize = 256;
        let input: usize = self.input.iter().map(json_bytes).sum();
        let said: usize = self.said.iter().map(|it| it.bytes() + MESSAGE_BYTES).sum();
        self.id.len() + self.object.len() + input + said
    }
}

/// What a value tree takes, estimated on the high side.
fn json_bytes(value: &Value) -> usize {
    const NODE_BYTES: usize = 72;
    NODE_BYTES
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(json_bytes).sum(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| name.len() + json_bytes(value))
                .sum(),
        }
}

impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResponse")
            .field("id", &self.id)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
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
