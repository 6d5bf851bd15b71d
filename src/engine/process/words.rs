//! What the two processes say to each other, and how failures travel.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::{
    Ability, BackendError, BadRequest, ChatEvent, EmbedInput, EmbedderCard, Health, HealthState,
    ModelCard, Priority, ReadToken, TextToRead, TimeoutPhase, Tokens,
};
use serde::{Deserialize, Serialize};

use crate::config::EngineConfig;
use crate::embedding::EmbedderConfig;
use crate::offload::Placement;
use crate::queue::{DraftCount, Vitals};

/// To the child. `Load` comes first and once; `Ask` only after `Ready`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    Load {
        job: Job,
        /// Events of one reply that may be sent before any was read.
        window: u32,
    },
    Ask(Ask),
    /// Something that is answered in parts.
    Query {
        id: u64,
        query: Query,
    },
    /// So many more events or parts of the reply may be sent.
    Credit {
        id: u64,
        count: u32,
    },
    /// Nobody reads the reply any more.
    Leave {
        id: u64,
    },
    /// End what runs, and then the process.
    Stop,
}

/// What a process is started for: one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    Chat(EngineConfig),
    Embed(EmbedderConfig),
    Rank(EmbedderConfig),
}

/// What the model says of itself, once loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Card {
    /// Never empty.
    Chat(Vec<ModelCard>),
    Embed(EmbedderCard),
    Rank(EmbedderCard),
}

impl Card {
    /// True of a word without a model.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Card::Chat(models) if models.is_empty())
    }
}

/// Work that is no chat.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Query {
    Tokenize(TextToRead),
    /// A chat as JSON, as in [`Ask`].
    TokenizeChat(String),
    Detokenize(Vec<u32>),
    /// As [`Query::TokenizeChat`].
    Render(String),
    Embed(Vec<EmbedInput>),
    Rank {
        query: String,
        documents: Vec<String>,
    },
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Query")
    }
}

/// A part of an answer to a [`Query`]. Each is small, however long the answer is.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Part {
    Tokens(Vec<ReadToken>),
    Bytes(Vec<u8>),
    Vector(Vec<f32>),
    Scores(Vec<f32>),
    PromptTokens(u32),
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Part")
    }
}

/// One chat.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Ask {
    pub id: u64,
    pub request_id: String,
    pub model: String,
    pub team: Option<String>,
    pub priority: Priority,
    /// The request as JSON: it holds values of any form, which postcard has no words for.
    pub request: String,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("id", &self.id)
            .field("request", &self.request.len())
            .finish_non_exhaustive()
    }
}

/// From the child.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The model is loaded.
    Ready {
        card: Card,
        placement: Placement,
    },
    /// It could not be, and why: the whole chain of causes.
    Refused {
        words: String,
    },
    /// The chat has a place; its events follow.
    Taken {
        id: u64,
    },
    Event {
        id: u64,
        event: ChatEvent,
    },
    Part {
        id: u64,
        part: Part,
    },
    /// The chat's last word; without `Taken` before, it was refused. Or the query's.
    Ended {
        id: u64,
        failure: Option<Failure>,
    },
    /// How the engine is now.
    Pulse(Pulse),
    /// The engine's thread has moved since the last such word, or has nothing to do.
    Alive,
    /// What was drafted since the child began.
    Drafts(DraftCount),
    /// What the engine is busy with.
    Vitals(Vitals),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulse {
    pub state: HealthState,
    pub wait: Option<Duration>,
}

impl From<Health> for Pulse {
    fn from(health: Health) -> Self {
        Self {
            state: health.state,
            wait: health.wait,
        }
    }
}

/// [`BackendError`] without borrowed words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    Rejected { status: u16, reason: BadRequest },
    Declined { reason: BadRequest },
    ContentRefused { reason: BadRequest },
    ModelUnknown { model: String },
    ContextExceeded { asked: Tokens, limit: Tokens },
    Unable(Ability),
    Overloaded { retry_after: Duration },
    Resting { wait: Duration },
    RateLimited { retry_after: Option<Duration> },
    Credentials { status: u16 },
    Unreachable(String),
    TimedOut(TimeoutPhase),
    Failed { status: u16 },
    Garbled(String),
    Interrupted,
    Engine(String),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Rejected { status, reason } => Failure::Rejected { status, reason },
            BackendError::Declined { reason } => Failure::Declined { reason },
            BackendError::ContentRefused { reason } => Failure::ContentRefused { reason },
            BackendError::ModelUnknown { model } => Failure::ModelUnknown { model },
            BackendError::ContextExceeded { asked, limit } => {
                Failure::ContextExceeded { asked, limit }
            }
            BackendError::Unable(ability) => Failure::Unable(ability),
            BackendError::Overloaded { retry_after } => Failure::Overloaded { retry_after },
            BackendError::Resting { wait } => Failure::Resting { wait },
            BackendError::RateLimited { retry_after } => Failure::RateLimited { retry_after },
            BackendError::Credentials { status } => Failure::Credentials { status },
            BackendError::Unreachable(what) => Failure::Unreachable(what.to_owned()),
            BackendError::TimedOut(phase) => Failure::TimedOut(phase),
            BackendError::Failed { status } => Failure::Failed { status },
            BackendError::Garbled(what) => Failure::Garbled(what.to_owned()),
            BackendError::Interrupted => Failure::Interrupted,
            BackendError::Engine(what) => Failure::Engine(what.to_owned()),
        }
    }
}

impl From<Failure> for BackendError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected { status, reason } => BackendError::Rejected { status, reason },
            Failure::Declined { reason } => BackendError::Declined { reason },
            Failure::ContentRefused { reason } => BackendError::ContentRefused { reason },
            Failure::ModelUnknown { model } => BackendError::ModelUnknown { model },
            Failure::ContextExceeded { asked, limit } => {
                BackendError::ContextExceeded { asked, limit }
            }
            Failure::Unable(ability) => BackendError::Unable(ability),
            Failure::Overloaded { retry_after } => BackendError::Overloaded { retry_after },
            Failure::Resting { wait } => BackendError::Resting { wait },
            Failure::RateLimited { retry_after } => BackendError::RateLimited { retry_after },
            Failure::Credentials { status } => BackendError::Credentials { status },
            Failure::Unreachable(what) => BackendError::Unreachable(phrase(&what)),
            Failure::TimedOut(phase) => BackendError::TimedOut(phase),
            Failure::Failed { status } => BackendError::Failed { status },
            Failure::Garbled(what) => BackendError::Garbled(phrase(&what)),
            Failure::Interrupted => BackendError::Interrupted,
            Failure::Engine(what) => BackendError::Engine(phrase(&what)),
        }
    }
}

/// Phrases kept for good. The engine's own are constants, fewer than this.
const PHRASES_MAX: usize = 128;
const PHRASE_BYTES_MAX: usize = 200;
/// Stands for a phrase beyond those bounds.
const PHRASE_ELSE: &str = "its process said why, at too great a length";

/// The phrase as a constant, which it was on the other side.
fn phrase(text: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(phrase) = known.get(text) {
        return phrase;
    }
    if known.len() >= PHRASES_MAX || text.len() > PHRASE_BYTES_MAX {
        return PHRASE_ELSE;
    }
    let phrase: &'static str = Box::leak(text.to_owned().into_boxed_str());
    known.insert(phrase);
    phrase
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_back_as_they_were() {
        let reason = BadRequest::at("messages[0]", "no");
        let all = [
            BackendError::Rejected {
                status: 400,
                reason: reason.clone(),
            },
            BackendError::Declined {
                reason: reason.clone(),
            },
            BackendError::ContentRefused { reason },
            BackendError::ModelUnknown { model: "m".into() },
            BackendError::ContextExceeded {
                asked: Tokens(9),
                limit: Tokens(8),
            },
            BackendError::Unable(Ability::Images),
            BackendError::Overloaded {
                retry_after: Duration::from_millis(1500),
            },
            BackendError::Resting {
                wait: Duration::from_secs(5),
            },
            BackendError::RateLimited { retry_after: None },
            BackendError::Credentials { status: 401 },
            BackendError::Unreachable("why"),
            BackendError::TimedOut(TimeoutPhase::FirstEvent),
            BackendError::Failed { status: 500 },
            BackendError::Garbled("why"),
            BackendError::Interrupted,
            BackendError::Engine("the computation failed"),
        ];
        for error in all {
            let bytes = postcard::to_allocvec(&Failure::from(error.clone())).unwrap();
            let failure: Failure = postcard::from_bytes(&bytes).unwrap();
            let back = BackendError::from(failure);
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
    }

    #[test]
    fn a_phrase_without_end_is_not_kept() {
        assert_eq!(phrase(&"x".repeat(PHRASE_BYTES_MAX + 1)), PHRASE_ELSE);
        assert_eq!(phrase("once"), phrase("once"));
    }
}
