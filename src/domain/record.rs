//! What is kept of an exchange: numbers and names, never text.

use std::time::Duration;

use crate::{BackendName, KeyId, Marks, MicroUsd, ModelAlias, RequestId, TeamId, Traced, Usage};

/// One finished exchange, however it ended.
#[derive(Clone, Debug)]
pub struct ExchangeRecord {
    /// When it ended, in microseconds since 1970: [`crate::moment_us`]. Zero until it has.
    pub ended_us: i64,
    pub request_id: RequestId,
    pub key: Option<KeyId>,
    pub team: TeamId,
    /// Of its user and its tags, whose words are not kept.
    pub marks: Marks,
    pub model_asked: ModelAlias,
    pub route: Option<RouteTaken>,
    /// The rule that decided, or the empty string when none did.
    pub reason: String,
    pub cache: CacheOutcome,
    pub outcome: Outcome,
    /// What the backend reported, or what was counted.
    pub usage: Option<Usage>,
    /// Whether `usage` is our own count, because an upstream that worked for it did not say.
    pub is_usage_counted: bool,
    /// `None` where no price is known. What this machine answers costs nothing.
    pub cost: Option<MicroUsd>,
    /// What the reply had cost when it was made, where it was reused; `None` where it was not, and where
    /// that is not known.
    pub saved: Option<MicroUsd>,
    /// Characters of findings masked, by count of values.
    pub masked_count: u32,
    /// From admission to the first content event.
    pub first_content_after: Option<Duration>,
    pub took: Duration,
    /// Times that a candidate was asked again after it had done nothing for the request.
    pub retries_count: u32,
    /// A second candidate that was started because the first was slow.
    pub hedge: Option<HedgeRecord>,
    /// Candidates that failed before one answered, by [`crate::BackendError::as_label`].
    pub failed_candidates: Vec<(BackendName, &'static str)>,
    /// Who went on with the reply, each time that it broke off after content was sent.
    pub rescued_by: Vec<RouteTaken>,
    /// Why a reply that broke off stayed so although its route has it rescued.
    pub unrescued: Option<&'static str>,
    /// What each backend had a part in, where several had: then `usage` is their sum.
    pub shares: Vec<Share>,
    /// What it would have cost elsewhere; `None` where nobody can say.
    pub counterfactual: Option<Counterfactual>,
    /// What came of it, where it is no caller's but a shadow beside the answer to one, with whose id, key
    /// and team it is kept.
    pub shadow: Option<ShadowRecord>,
    /// What spans are made of; `None` where nobody exports any. It is not kept.
    pub trace: Option<Box<Traced>>,
}

/// What an exchange would have cost without a choice that this node made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counterfactual {
    pub cost: MicroUsd,
    pub basis: Basis,
}

/// An answer of this machine, asked for again of an upstream. No word of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowRecord {
    /// The model that answered the caller.
    pub beside: String,
    pub agreement: Agreement,
    /// How near the two are, in thousandths; `None` where that was not measured.
    pub similarity_permille: Option<u16>,
}

/// Whether two answers say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agreement {
    Agrees,
    Differs,
    /// Both came, and it cannot be told.
    Unclear,
    /// The second one did not come.
    Failed,
}

impl Agreement {
    pub const ALL: [Agreement; 4] = [
        Agreement::Agrees,
        Agreement::Differs,
        Agreement::Unclear,
        Agreement::Failed,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Agreement::Agrees => "agrees",
            Agreement::Differs => "differs",
            Agreement::Unclear => "unclear",
            Agreement::Failed => "failed",
        }
    }
}

/// How a [`Counterfactual`] was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// Its tokens at the price of the model that was asked for.
    Asked,
    /// No model of a price was asked for, and an upstream answered: what that cost.
    Answered,
    /// What a reply that is used again had cost when it was made.
    Made,
    /// Its tokens at the price of the operator's reference model.
    Reference,
    /// It is a shadow, for which nobody would have paid.
    Shadow,
}

impl Basis {
    pub const ALL: [Basis; 5] = [
        Basis::Asked,
        Basis::Answered,
        Basis::Made,
        Basis::Reference,
        Basis::Shadow,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Basis::Asked => "asked",
            Basis::Answered => "answered",
            Basis::Made => "made",
            Basis::Reference => "reference",
            Basis::Shadow => "shadow",
        }
    }
}

/// One backend's part of a reply that several had a part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub route: RouteTaken,
    /// Its own prompt with it, which holds what was said before it.
    pub usage: Usage,
    /// It did not say: counted with another vocabulary than its own.
    pub is_estimate: bool,
}

/// What became of two candidates that were asked at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HedgeRecord {
    pub outcome: HedgeOutcome,
    /// The one whose answer was not waited for.
    pub loser: RouteTaken,
    /// What it may charge for the prompt, which it was sent. `None` where no price is known.
    pub loser_cost: Option<MicroUsd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HedgeOutcome {
    /// The second one spoke first.
    Won,
    /// The first one spoke after all, and first.
    Lost,
}

impl HedgeOutcome {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            HedgeOutcome::Won => "won",
            HedgeOutcome::Lost => "lost",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTaken {
    pub backend: BackendName,
    /// As the backend names it; of a pool, `pool/model`.
    pub model: String,
    pub is_local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheOutcome {
    /// Asked not to, or not allowed to.
    Bypassed,
    Missed,
    HitExact,
    /// Another question's reply, which `policy` took to be this one's.
    HitSemantic,
    /// The same was asked by somebody else at the moment, whose reply it is.
    Shared,
}

impl CacheOutcome {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            CacheOutcome::Bypassed => "bypassed",
            CacheOutcome::Missed => "missed",
            CacheOutcome::HitExact => "hit_exact",
            CacheOutcome::HitSemantic => "hit_semantic",
            CacheOutcome::Shared => "shared",
        }
    }

    /// Whether the reply was made for another request, so that nobody worked for this one.
    #[must_use]
    pub fn is_reuse(self) -> bool {
        match self {
            CacheOutcome::Bypassed | CacheOutcome::Missed => false,
            CacheOutcome::HitExact | CacheOutcome::HitSemantic | CacheOutcome::Shared => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Answered,
    /// The caller left before the end.
    Abandoned,
    /// With [`crate::Fault::as_label`].
    Refused(&'static str),
    /// The stream broke after content was sent.
    BrokenOff(&'static str),
}

impl Outcome {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Abandoned => "abandoned",
            Outcome::Refused(_) => "refused",
            Outcome::BrokenOff(_) => "broken_off",
        }
    }
}
