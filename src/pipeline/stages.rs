//! The types between the stages: each says what has already happened to the exchange.

use std::sync::Arc;

use domain::{ChatEvent, ChatRequest, ChatStream, Findings, Principal, Priority, RequestId};
use policy::{Asked, Plan};
use tokio::time::Instant;

use crate::answer::{RouteLabel, Timings};
use crate::keep::Keeping;
use crate::receipt::Receipt;
use crate::rescue::Lifeline;
use crate::snapshot::Snapshot;

/// A decoded request and who sent it.
#[derive(Debug)]
pub struct Parsed {
    pub request: ChatRequest,
    pub principal: Principal,
    pub context: RequestContext,
}

#[derive(Clone, Debug)]
pub struct RequestContext {
    pub request_id: RequestId,
    /// Of the body it came in: how much work reading it over is.
    pub body_bytes: usize,
    /// Names in lower case; credentials left out. Routing rules may look at them.
    pub headers: Vec<(String, String)>,
    pub cache: CacheWish,
    /// As the request says; it goes no higher than its key may.
    pub priority: Priority,
}

/// What the caller wants of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheWish {
    #[default]
    Use,
    /// `no-cache`: a fresh reply, which may be kept.
    Refresh,
    /// `no-store`: neither read nor kept.
    Bypass,
}

/// Let in: it has a seat, a receipt, a snapshot, and a model that exists.
pub(crate) struct Admitted {
    pub request: Box<ChatRequest>,
    pub principal: Principal,
    pub context: RequestContext,
    pub asked: Asked,
    /// The rule that decides, where its key does not grant all: it has replies of that rule alone.
    pub rule: Option<String>,
    pub snapshot: Arc<Snapshot>,
    pub receipt: Receipt,
    pub timings: Timings,
    /// When the stage now under way began.
    pub since: Instant,
}

/// Its personal data is known, and so is where its reply would be kept.
pub(crate) struct Scanned {
    pub admitted: Box<Admitted>,
    pub findings: Arc<Findings>,
    /// `None` when the reply must not be kept.
    pub keeping: Option<Keeping>,
}

/// The cache has no reply.
pub(crate) struct Missed {
    pub admitted: Box<Admitted>,
    pub findings: Arc<Findings>,
    /// `None` when the reply must not be kept.
    pub keeping: Option<Keeping>,
    /// False once its caller's own limits have changed what it comes to.
    pub is_for_all: bool,
}

/// It is known who may answer, in which order.
pub(crate) struct Planned {
    pub missed: Box<Missed>,
    pub plan: Plan,
}

/// A candidate answers: `head` is everything up to its first content, `rest` what follows.
pub(crate) struct Opened {
    pub snapshot: Arc<Snapshot>,
    pub findings: Arc<Findings>,
    /// `None` when the reply must not be kept.
    pub keeping: Option<Keeping>,
    /// `None` where a reply that breaks off stays so.
    pub lifeline: Option<Lifeline>,
    pub route: RouteLabel,
    /// Somebody else was meant to answer.
    pub is_stand_in: bool,
    pub reason: String,
    pub head: Vec<ChatEvent>,
    pub rest: ChatStream,
    pub receipt: Receipt,
    pub timings: Timings,
}
