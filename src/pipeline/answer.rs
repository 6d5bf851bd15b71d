//! What leaves the trunk: an answer with its origin, or a refusal.

use std::fmt;
use std::time::Duration;

use domain::{BackendName, CacheOutcome, ChatStream, Fault};
use futures::{StreamExt, stream};

use crate::cost::Cost;
use crate::quota::Allowance;
use crate::rescue::Rescues;
use crate::reuse::Trace;

/// A reply under way. Its first content has arrived; dropping `stream` cancels the rest.
pub struct Answer {
    pub route: RouteLabel,
    /// The rule that decided, and what failed before this candidate answered.
    pub reason: String,
    /// The model that answers, as its backend names it; empty when the backend does not say.
    pub model: String,
    /// What the cache had to do with it.
    pub cache: CacheUse,
    pub timings: Timings,
    /// What it costs, once it has ended.
    pub cost: Cost,
    /// What its reply cost when it was made, by whoever paid for it: what is spared who reads it too.
    pub(crate) made: Cost,
    /// What is left of its caller's limits.
    pub allowance: Allowance,
    /// Who went on with it where it broke off; `None` where nobody would.
    pub rescues: Option<Rescues>,
    /// What the cache did, where it had a part.
    pub(crate) trace: Option<Box<Trace>>,
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

impl Answer {
    /// The answer without its stream, and the stream.
    pub(crate) fn split(mut self) -> (Self, ChatStream) {
        let events = std::mem::replace(&mut self.stream, stream::empty().boxed());
        (self, events)
    }

    /// The same for another reader of its stream, who has yet to put it in. Only who leads is told of
    /// what is its own.
    pub(crate) fn told(&self, is_leader: bool) -> Self {
        Self {
            route: self.route.clone(),
            reason: self.reason.clone(),
            model: self.model.clone(),
            cache: self.cache,
            timings: self.timings,
            cost: self.cost.clone(),
            made: self.made.clone(),
            allowance: self.allowance,
            rescues: self.rescues.clone().filter(|_| is_leader),
            trace: self.trace.clone(),
            stream: stream::empty().boxed(),
        }
    }
}

/// What the cache had to do with an answer. Displays as `x-hedge-cache` says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CacheUse {
    /// Neither read nor kept.
    Bypassed,
    Missed,
    /// The same request's reply.
    Exact {
        age: Duration,
    },
    /// Another request's, whose question is the same.
    Semantic {
        similarity: f32,
        age: Duration,
    },
    /// That of a request alike, which was under way.
    Shared,
}

impl CacheUse {
    #[must_use]
    pub fn outcome(self) -> CacheOutcome {
        match self {
            CacheUse::Bypassed => CacheOutcome::Bypassed,
            CacheUse::Missed => CacheOutcome::Missed,
            CacheUse::Exact { .. } => CacheOutcome::HitExact,
            CacheUse::Semantic { .. } => CacheOutcome::HitSemantic,
            CacheUse::Shared => CacheOutcome::Shared,
        }
    }
}

impl fmt::Display for CacheUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheUse::Bypassed => f.write_str("bypass"),
            CacheUse::Missed => f.write_str("miss"),
            CacheUse::Exact { age } => write!(f, "exact; age={}", age.as_secs()),
            CacheUse::Semantic { similarity, age } => {
                let age = age.as_secs();
                write!(f, "semantic; similarity={similarity:.2}; age={age}")
            }
            CacheUse::Shared => f.write_str("shared"),
        }
    }
}

/// Where an answer came from. Displays as `local:<model>`, `local:<pool>/<model>`,
/// `cloud:<name>`, `cache:exact`, `cache:semantic` or `cache:shared`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    Local { model: String },
    Cloud { backend: BackendName },
    CacheExact,
    CacheSemantic,
    CacheShared,
}

impl fmt::Display for RouteLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteLabel::Local { model } => write!(f, "local:{model}"),
            RouteLabel::Cloud { backend } => write!(f, "cloud:{backend}"),
            RouteLabel::CacheExact => f.write_str("cache:exact"),
            RouteLabel::CacheSemantic => f.write_str("cache:semantic"),
            RouteLabel::CacheShared => f.write_str("cache:shared"),
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
