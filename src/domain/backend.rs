//! What a backend is, what it says of itself, and how it may fail.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    BackendName, BadRequest, ChatRequest, ChatStream, Classify, Embeddings, Fault, ImageAddresses,
    Moderation, Outbound, Resume, Tokenizer, Tokens, Trust,
};

/// Something that answers chats: an engine on this machine, or an upstream.
///
/// Contract, for every implementation:
/// - The stream obeys [`crate::Grammar`]; after an `Err` it ends.
/// - Dropping the future or the stream cancels the work behind it: nothing goes on being generated
///   or read.
/// - `chat` may return before the first event; the caller bounds its patience.
/// - An `Err` from `chat` means that the caller was sent nothing; the pipeline may go elsewhere.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Constant for the backend's life.
    fn card(&self) -> &BackendCard;

    /// A cheap snapshot; never blocks, never asks the network.
    fn health(&self) -> Health;

    /// Starts one chat.
    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError>;

    /// Whether its provider states that a request sent twice is worked on, and charged, once. Only
    /// then may a request be repeated that it may have begun to work on.
    fn repeats_safely(&self) -> bool {
        false
    }

    /// Makes one vector for each message of `call`, of `dimensions` components where the model can
    /// make fewer than it has. A wrapper passes it on.
    ///
    /// # Errors
    /// [`BackendError::Declined`] where it makes none, and else as for a chat.
    async fn embed(
        &self,
        _call: Outbound,
        _dimensions: Option<u32>,
    ) -> Result<Embeddings, BackendError> {
        let words = "this model does not make embeddings";
        Err(BackendError::declined("model", words))
    }

    /// Models that judge texts and images, the usual one first; they need not be on the card. A wrapper
    /// passes it on.
    fn moderation_models(&self) -> &[String] {
        &[]
    }

    /// Judges each message of `call` by itself. A wrapper passes it on.
    ///
    /// # Errors
    /// [`BackendError::Declined`] where it judges none, and else as for a chat.
    async fn moderate(&self, _call: Outbound) -> Result<Moderation, BackendError> {
        let words = "this model does not judge texts";
        Err(BackendError::declined("model", words))
    }

    /// How `model` of the card reads text, where that can be asked. A wrapper passes it on.
    fn tokenizer(&self, _model: &str) -> Option<&dyn Tokenizer> {
        None
    }

    /// What becomes of the images that `request` names by address. A wrapper passes it on.
    fn image_addresses(&self, _request: &ChatRequest) -> ImageAddresses {
        match self.card().tier {
            Tier::Engine => ImageAddresses::Refused,
            Tier::Pool => ImageAddresses::Doubtful,
            Tier::Upstream => ImageAddresses::Taken,
        }
    }

    /// How `model` of the card goes on with an answer that broke off. A wrapper passes it on.
    fn resume(&self, _model: &str) -> Resume {
        Resume::Never
    }
}

#[derive(Clone, Debug)]
pub struct BackendCard {
    pub name: BackendName,
    pub tier: Tier,
    pub trust: Trust,
    /// Whether what is sent there is sealed to a relay of the operator's own, and opened nowhere on the way.
    pub is_sealed: bool,
    /// Never empty. The first is the backend's default. An engine has one model: its others are the
    /// same under one adapter each, in the order of the adapters' ids.
    pub models: Vec<ModelCard>,
}

impl BackendCard {
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&ModelCard> {
        self.models.iter().find(|model| model.name == name)
    }

    /// Names of the adapters that a request may list by `lora`, in the order of their ids. Of other
    /// machines' engines none is known.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        let models = match self.tier {
            Tier::Engine => self.models.get(1..).unwrap_or_default(),
            Tier::Pool | Tier::Upstream => &[],
        };
        models.iter().map(|model| model.name.as_str())
    }

    /// True when it may answer as `local`: what runs on this machine, and pools.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.tier != Tier::Upstream || self.trust == Trust::Device
    }

    /// True when nobody between here and a machine of the operator's own can read what it is asked: it
    /// runs here, is the operator's pool, or is reached sealed. Other upstreams are somebody's service,
    /// or lie behind a network that is, however far they are trusted.
    #[must_use]
    pub fn is_own_or_sealed(&self) -> bool {
        let is_own = match self.tier {
            Tier::Engine => true,
            Tier::Pool => self.trust >= Trust::Tenant,
            Tier::Upstream => self.trust == Trust::Device,
        };
        is_own || self.is_sealed
    }

    /// How callers and operators find one of its models: a bare name on this machine,
    /// `backend/model` elsewhere.
    #[must_use]
    pub fn listed_name(&self, model: &str) -> String {
        if self.is_local() && self.tier != Tier::Pool {
            model.to_owned()
        } else {
            format!("{}/{model}", self.name)
        }
    }
}

/// What kind of thing answers. How far it is trusted is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The engine that this node runs itself.
    Engine,
    /// Engines of the operator's own, on whichever machines: the local tier of a node that has
    /// outgrown its machine.
    Pool,
    /// Somebody's service.
    Upstream,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    pub name: String,
    /// Prompt and reply together; `None` when the provider does not say.
    pub context_tokens_max: Option<Tokens>,
    pub abilities: Abilities,
}

/// What a request may need of a model beyond plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ability {
    Tools,
    /// `tool_choice` of `required` or a named tool.
    ForcedTools,
    Images,
    JsonObject,
    JsonSchema,
    Logprobs,
    /// More than one choice.
    Choices,
    LogitBias,
    /// Content parts we do not interpret.
    OtherParts,
    /// A reply that matches a regular expression, is one of given texts, or keeps to a grammar.
    Constraints,
    Audio,
    /// Documents, as PDF.
    Files,
    /// What only the providers of the caller's dialect have ([`crate::ChatRequest::bound_by`]).
    ProvidersOwn,
}

impl Ability {
    pub const ALL: [Ability; 13] = [
        Ability::Tools,
        Ability::ForcedTools,
        Ability::Images,
        Ability::JsonObject,
        Ability::JsonSchema,
        Ability::Logprobs,
        Ability::Choices,
        Ability::LogitBias,
        Ability::OtherParts,
        Ability::Constraints,
        Ability::Audio,
        Ability::Files,
        Ability::ProvidersOwn,
    ];

    /// The request field that asks for it, for error messages.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Ability::Tools => "tools",
            Ability::ForcedTools => "tool_choice",
            Ability::Images => "image content parts",
            Ability::JsonObject => "response_format json_object",
            Ability::JsonSchema => "response_format json_schema",
            Ability::Logprobs => "logprobs",
            Ability::Choices => "n",
            Ability::LogitBias => "logit_bias",
            Ability::OtherParts => "content parts of this kind",
            Ability::Audio => "sound in content parts",
            Ability::Files => "files in content parts",
            Ability::ProvidersOwn => "tools of a provider's own",
            Ability::Constraints => "replies by `regex`, `choice` or `grammar`",
        }
    }
}

/// A set of [`Ability`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities(u16);

impl Abilities {
    pub const NONE: Abilities = Abilities(0);

    /// Everything: an upstream judges for itself.
    #[must_use]
    pub fn all() -> Self {
        Ability::ALL.into_iter().collect()
    }

    #[must_use]
    pub fn has(self, ability: Ability) -> bool {
        self.0 & (1 << ability as u16) != 0
    }

    #[must_use]
    pub fn with(self, ability: Ability) -> Self {
        Self(self.0 | (1 << ability as u16))
    }

    /// The first ability in `self` that `other` lacks.
    #[must_use]
    pub fn first_missing_from(self, other: Abilities) -> Option<Ability> {
        Ability::ALL
            .into_iter()
            .find(|ability| self.has(*ability) && !other.has(*ability))
    }
}

impl FromIterator<Ability> for Abilities {
    fn from_iter<I: IntoIterator<Item = Ability>>(items: I) -> Self {
        items.into_iter().fold(Self::NONE, Self::with)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub state: HealthState,
    /// How long a new request would wait before its work begins, if known.
    pub wait: Option<Duration>,
    /// Why it is not ready, for the operator, where the state does not say all.
    pub reason: Option<&'static str>,
}

impl Health {
    pub const READY: Health = Health::of(HealthState::Ready, None);

    #[must_use]
    pub const fn of(state: HealthState, wait: Option<Duration>) -> Self {
        Self {
            state,
            wait,
            reason: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HealthState {
    Ready,
    /// Not yet able to answer, and on the way there.
    Starting,
    /// Known to be unable to answer.
    Down,
}

impl HealthState {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            HealthState::Ready => "ready",
            HealthState::Starting => "starting",
            HealthState::Down => "down",
        }
    }
}

/// What a caller is told to wait for an overloaded backend that names no wait.
const OVERLOADED_WAIT: Duration = Duration::from_secs(1);

/// Why a backend did not answer, by what the pipeline does about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackendError {
    /// The request itself is at fault; no other candidate would do better.
    #[error("the backend rejected the request with status {status}")]
    Rejected { status: u16, reason: BadRequest },
    /// This candidate cannot take the request as it is; another may.
    #[error("the model declined the request")]
    Declined { reason: BadRequest },
    /// The provider's filter does not let the request, or its answer, pass. Another provider's may.
    #[error("the provider refused the content")]
    ContentRefused { reason: BadRequest },
    #[error("the backend does not know the model")]
    ModelUnknown { model: String },
    #[error("the prompt has {asked} tokens and the model takes {limit}")]
    ContextExceeded { asked: Tokens, limit: Tokens },
    #[error("the model cannot do {}", .0.as_label())]
    Unable(Ability),
    /// Nothing was done for the request. A wait of zero: it named none.
    #[error("the backend is overloaded")]
    Overloaded { retry_after: Duration },
    /// It failed too often just now and is left alone until then; it was not asked.
    #[error("the backend is left alone after its failures")]
    Resting { wait: Duration },
    #[error("the backend limits our rate")]
    RateLimited { retry_after: Option<Duration> },
    /// The upstream refused our own credentials.
    #[error("the upstream refused its credentials with status {status}")]
    Credentials { status: u16 },
    #[error("the backend could not be reached: {0}")]
    Unreachable(&'static str),
    #[error("the backend was too slow: {}", .0.as_label())]
    TimedOut(TimeoutPhase),
    #[error("the upstream failed with status {status}")]
    Failed { status: u16 },
    /// What came back is not what the protocol says.
    #[error("the upstream's answer is malformed: {0}")]
    Garbled(&'static str),
    /// The stream ended without its end.
    #[error("the reply was cut off")]
    Interrupted,
    /// The local engine failed.
    #[error("the engine failed: {0}")]
    Engine(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimeoutPhase {
    Connect,
    FirstEvent,
    BetweenEvents,
    /// The other side waited in vain for the request, and did nothing for it (RFC 9110, section
    /// 15.5.9).
    Request,
}

impl TimeoutPhase {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            TimeoutPhase::Connect => "connect",
            TimeoutPhase::FirstEvent => "first event",
            TimeoutPhase::BetweenEvents => "between events",
            TimeoutPhase::Request => "request",
        }
    }
}

impl BackendError {
    /// A candidate's words on what it does not take, at `param` of the request.
    #[must_use]
    pub fn declined(param: impl Into<String>, words: impl Into<String>) -> Self {
        BackendError::Declined {
            reason: BadRequest::at(param, words),
        }
    }

    /// True when another candidate may succeed where this one failed.
    #[must_use]
    pub fn may_try_next(&self) -> bool {
        !matches!(self, BackendError::Rejected { .. })
    }

    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            BackendError::Rejected { .. } => "rejected",
            BackendError::Declined { .. } => "declined",
            BackendError::ContentRefused { .. } => "content_refused",
            BackendError::ModelUnknown { .. } => "model_unknown",
            BackendError::ContextExceeded { .. } => "context_exceeded",
            BackendError::Unable(_) => "unable",
            BackendError::Overloaded { .. } => "overloaded",
            BackendError::Resting { .. } => "resting",
            BackendError::RateLimited { .. } => "rate_limited",
            BackendError::Credentials { .. } => "credentials",
            BackendError::Unreachable(_) => "unreachable",
            BackendError::TimedOut(_) => "timed_out",
            BackendError::Failed { .. } => "failed",
            BackendError::Garbled(_) => "garbled",
            BackendError::Interrupted => "interrupted",
            BackendError::Engine(_) => "engine",
        }
    }
}

impl Classify for BackendError {
    fn fault(&self) -> Fault {
        match self {
            BackendError::Rejected { reason, .. }
            | BackendError::Declined { reason }
            | BackendError::ContentRefused { reason } => Fault::BadRequest(reason.clone()),
            BackendError::ModelUnknown { model } => Fault::ModelNotFound {
                asked: model.clone(),
                nearest: None,
            },
            BackendError::ContextExceeded { asked, limit } => Fault::BadRequest(BadRequest {
                param: Some("messages".into()),
                code: Some("context_length_exceeded".into()),
                message: format!(
                    "the messages come to {asked} tokens, and this model's context holds {limit} \
                     tokens, prompt and reply together; shorten the messages or name a model with \
                     a longer context"
                ),
            }),
            BackendError::Unable(ability) => Fault::BadRequest(BadRequest {
                param: None,
                code: Some("unsupported_by_model".into()),
                message: format!(
                    "the chosen model cannot do {}; leave it out or name another model",
                    ability.as_label()
                ),
            }),
            BackendError::Overloaded { retry_after } if retry_after.is_zero() => {
                Fault::Overloaded {
                    retry_after: OVERLOADED_WAIT,
                }
            }
            BackendError::Overloaded { retry_after: wait } | BackendError::Resting { wait } => {
                Fault::Overloaded { retry_after: *wait }
            }
            BackendError::RateLimited { retry_after } => Fault::RateLimited {
                retry_after: retry_after.unwrap_or(Duration::from_secs(1)),
            },
            BackendError::TimedOut(_) => Fault::UpstreamTimedOut,
            BackendError::Credentials { .. }
            | BackendError::Unreachable(_)
            | BackendError::Failed { .. }
            | BackendError::Garbled(_)
            | BackendError::Interrupted => Fault::UpstreamFailed,
            BackendError::Engine(_) => Fault::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_here_or_is_the_operator_s_own_may_go_unsealed() {
        use {Tier::*, Trust::*};
        let cases = [
            (Engine, Device, true),
            (Pool, Device, true),
            (Pool, Tenant, true),
            (Pool, Public, false),
            (Upstream, Device, true),
            (Upstream, Tenant, false),
            (Upstream, Public, false),
        ];
        for (tier, trust, is_own) in cases {
            let card = |is_sealed| BackendCard {
                name: "a".into(),
                tier,
                trust,
                is_sealed,
                models: Vec::new(),
            };
            let found = card(false).is_own_or_sealed();
            assert_eq!(found, is_own, "{tier:?} {trust:?}");
            assert!(card(true).is_own_or_sealed(), "{tier:?} {trust:?}");
        }
    }
}
