//! What a caller may learn of a failure: a closed list. `api` alone turns it into a status.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::KeyTrouble;

/// Everything a caller can be told. Rooms state it; none of them words it for HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    BadRequest(BadRequest),
    /// The key that was sent opens nothing, or none was sent where one is needed (`Unknown`).
    Unauthenticated(KeyTrouble),
    Forbidden {
        what: &'static str,
    },
    /// The model asked for does not exist; `nearest` is the closest name there is.
    ModelNotFound {
        asked: String,
        nearest: Option<String>,
    },
    NotFound,
    MethodNotAllowed,
    /// The body is larger than `bytes_max`.
    TooLarge {
        bytes_max: u64,
    },
    /// The caller took longer than the limit to send the request.
    RequestTimedOut,
    UnsupportedMediaType,
    /// Something that the protocol has and this node does not do; `what` says what to do instead.
    NotOffered {
        what: &'static str,
    },
    RateLimited {
        retry_after: Duration,
    },
    BudgetSpent,
    /// Each user has limits, and no more of them are counted at once.
    AccountsFull {
        retry_after: Duration,
    },
    Overloaded {
        retry_after: Duration,
    },
    UpstreamFailed,
    UpstreamTimedOut,
    /// The link is down, and the request's route does not let this machine stand in.
    Offline {
        retry_after: Duration,
    },
    /// No candidate may lawfully or ably answer; the reasons are per candidate.
    NoCandidate {
        reasons: Vec<String>,
    },
    Internal,
}

/// A fault in the request itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRequest {
    /// The JSON path of the field at fault, as `messages[2].role`.
    pub param: Option<String>,
    /// OpenAI's machine-readable code, where there is one.
    pub code: Option<String>,
    /// What is wrong and what would be right. May quote field names, never other callers' text.
    pub message: String,
}

impl BadRequest {
    #[must_use]
    pub fn at(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            code: None,
            message: message.into(),
        }
    }

    #[must_use]
    pub fn with_code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }
}

impl Fault {
    /// A label for metrics and records.
    #[must_use]
    pub fn as_label(&self) -> &'static str {
        match self {
            Fault::BadRequest(_) => "bad_request",
            Fault::Unauthenticated(_) => "unauthenticated",
            Fault::Forbidden { .. } => "forbidden",
            Fault::ModelNotFound { .. } => "model_not_found",
            Fault::NotFound => "not_found",
            Fault::MethodNotAllowed => "method_not_allowed",
            Fault::TooLarge { .. } => "too_large",
            Fault::RequestTimedOut => "request_timed_out",
            Fault::UnsupportedMediaType => "unsupported_media_type",
            Fault::NotOffered { .. } => "not_offered",
            Fault::RateLimited { .. } => "rate_limited",
            Fault::BudgetSpent => "budget_spent",
            Fault::AccountsFull { .. } => "accounts_full",
            Fault::Overloaded { .. } => "overloaded",
            Fault::UpstreamFailed => "upstream_failed",
            Fault::UpstreamTimedOut => "upstream_timed_out",
            Fault::Offline { .. } => "offline",
            Fault::NoCandidate { .. } => "no_candidate",
            Fault::Internal => "internal",
        }
    }
}

/// An error that knows what its caller may be told.
pub trait Classify {
    fn fault(&self) -> Fault;
}
