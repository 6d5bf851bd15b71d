//! What leaves the trunk: an answer with its origin, or a refusal.

use std::fmt;
use std::time::Duration;

use domain::{BackendName, ChatStream, Fault};

use crate::cost::Cost;
use crate::quota::Allowance;
use crate::rescue::Rescues;

/// A reply under way. Its first content has arrived; dropping `stream` cancels the rest.
pub struct Answer {
    pub route: RouteLabel,
    /// The rule that decided, and what failed before this candidate answered.
    pub reason: String,
    /// The model that answers, as its backend names it; empty when the backend does not say.
    pub model: String,
    pub timings: Timings,
    /// What it costs, once it has ended.
    pub cost: Cost,
    /// What is left of its caller's limits.
    pub allowance: Allowance,
    /// Who went on with it where it broke off; `None` where nobody would.
    pub rescues: Option<Rescues>,
    pub stream: ChatStream,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("route", &self.route)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Where an answer came from. Displays as `local:<model>`, `local:<pool>/<model>`,
/// `cloud:<name>` or `cache:exact`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    Local { model: String },
    Cloud { backend: BackendName },
    CacheExact,
}

impl fmt::Display for RouteLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteLabel::Local { model } => write!(f, "local:{model}"),
            RouteLabel::Cloud { backend } => write!(f, "cloud:{backend}"),
            RouteLabel::CacheExact => f.write_str("cache:exact"),
        }
    }
}

/// How long each stage took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    pub admit: Duration,
    pub scan: Duration,
    pub look_up: Duration,
    pub route: Duration,
    /// From the first candidate's call to its first content, failed candidates included.
    pub open: Duration,
}

/// An exchange that ends without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub fault: Fault,
    /// The rule that decided, when the exchange got that far.
    pub reason: Option<String>,
}
