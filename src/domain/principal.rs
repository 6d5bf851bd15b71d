//! Who asks.

use std::fmt;
use std::sync::Arc;

use crate::{KeyId, Limit, ModelAlias, Priority, TeamId, Tokens};

/// The caller of one exchange, known before the body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `None` when the node asks for no keys.
    pub key: Option<KeyId>,
    pub team: TeamId,
    /// Models the key may name; `None` grants all.
    pub models: Option<Vec<ModelAlias>>,
    /// The highest its requests may ask for.
    pub priority: Priority,
    /// Of all choices of one reply; what names no bound is bounded by it. `None` is as the model is.
    pub output_tokens_max: Option<Tokens>,
    /// What it may use, in the order in which they were written down: its own limits, its team's and
    /// everybody's.
    pub limits: Arc<[Limit]>,
}

impl Principal {
    /// The caller of a node that asks for no keys.
    #[must_use]
    pub fn anyone() -> Self {
        Self {
            key: None,
            team: TeamId::new("default"),
            models: None,
            priority: Priority::default(),
            output_tokens_max: None,
            limits: Arc::default(),
        }
    }

    #[must_use]
    pub fn may_use(&self, model: &ModelAlias) -> bool {
        self.models
            .as_ref()
            .is_none_or(|granted| granted.contains(model))
    }
}

/// SHA-256 of an API key: all that is ever kept of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest")
    }
}
