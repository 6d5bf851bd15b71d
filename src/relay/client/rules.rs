//! What an edge asks of its relays, and what may be wrong with how they are configured.

use std::sync::Arc;
use std::time::Duration;

use crate::attest::{Attestation, Verifier};
use crate::manifest::KeyPolicy;
use crate::shape::{RequestPad, Shape};

/// Members of one client. One more is refused.
pub const MEMBERS_MAX: usize = 16;

/// What of a request's header goes to a relay, in lower case: what the answer depends on, and the
/// request's own id. Whatever else stands there stays here, keys above all.
pub const CARRIED_FIELDS: [&str; 6] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "x-request-id",
];

/// What holds for all members alike.
#[derive(Debug, Clone)]
pub struct ClientRules {
    /// What may be sealed with. Nothing less is ever used.
    pub keys: KeyPolicy,
    /// How answers are to be sent.
    pub shape: Shape,
    pub request_pad: RequestPad,
    /// Whether answers may come in slim frames.
    pub takes_slim: bool,
    /// What is made of a relay that nothing vouches for.
    pub attestation: Attestation,
    /// Each of another kind of evidence.
    pub verifiers: Vec<Arc<dyn Verifier>>,
    /// From asking for a connection to having one.
    pub connect_timeout: Duration,
    /// Between two reads of a streamed answer, once it has begun.
    pub idle_timeout: Duration,
}

impl ClientRules {
    pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
    pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
}

impl Default for ClientRules {
    /// Safe from a quantum computer to come, answers in cells, requests padded by PADMÉ.
    fn default() -> Self {
        Self {
            keys: KeyPolicy {
                require_post_quantum: true,
                ..KeyPolicy::default()
            },
            shape: Shape::default(),
            request_pad: RequestPad::default(),
            takes_slim: true,
            attestation: Attestation::default(),
            verifiers: Vec::new(),
            connect_timeout: Self::CONNECT_TIMEOUT_DEFAULT,
            idle_timeout: Self::IDLE_TIMEOUT_DEFAULT,
        }
    }
}

/// Why a client cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    #[error("a sealed path needs at least one relay")]
    NoMember,
    #[error("a sealed path has at most {MEMBERS_MAX} relays")]
    TooMany,
    #[error("the address of relay {relay} is no URL such as https://relay.example")]
    Url { relay: String },
    #[error(
        "{name:?} is no name of an edge, a key or a relay: letters, digits, `.`, `_` and `-`, 64 at most"
    )]
    Name { name: String },
    #[error("the secret of edge {edge} is too short to prove anything with")]
    Secret { edge: String },
}
