//! Shadows: some answers of this machine are asked for again of an upstream once they have ended, to see
//! whether the two say the same.
//!
//! ```text
//! Planned ─draw─► Seed ─with the answer as it goes by─► sown ─► queue ─► Shadower ─► record
//!    └ not drawn, or may not leave                        └ full
//! ```
//! What may leave is decided when the plan stands, and strictly: a shadow is nobody's wish but the
//! operator's. Nobody waits for one, it takes no seat and no limit of a caller, and what was said is in
//! memory alone, for as long as the shadow takes.

mod shadower;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use domain::{
    Agreement, Backend, BackendName, ChatEvent, ChatRequest, ExchangeRecord, Findings,
    FinishReason, KeyId, Limit, Marks, ModelAlias, Part, RequestId, TeamId, Tokens, Trust,
};
use policy::{Ask, Asked, Target};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::quota::Keepers;
use crate::reuse::Reuse;
use crate::snapshot::Snapshot;
use crate::stages::{CacheWish, Missed, Planned};
use crate::trunk::{SCAN_INLINE_BYTES_MAX, Works};
use crate::vitals::Ward;

pub(crate) use shadower::AT_ONCE;
pub use shadower::Shadower;

/// Answers that wait to be asked for again. One more is not, and that is counted.
const WAITING_MAX: usize = 64;

/// Of a request. A longer one has no shadow: all that wait are in memory.
const REQUEST_BYTES_MAX: usize = SCAN_INLINE_BYTES_MAX;

/// Of an answer, on both sides: about as much as the encoder reads. A longer one has no shadow, and beside
/// a longer one it cannot be told.
const REPLY_BYTES_MAX: usize = 16 * 1024;

/// A shadow is bounded by this where its request names no bound, or a larger one: its worst is taken from
/// the budget.
const OUTPUT_TOKENS_MAX: Tokens = Tokens(4_096);

/// Which answers of this machine have a shadow; of a snapshot.
#[derive(Clone, Debug)]
pub struct ShadowRules {
    /// Of those that may have one, from 0 to 1.
    pub share: f64,
    /// The upstream, and what it calls the model.
    pub backend: BackendName,
    pub model: String,
    /// The budget of shadows, and whatever else counts what they cost. Never empty.
    pub limits: Arc<[Limit]>,
    /// The cosine from which on two answers say the same.
    pub alike_at: f32,
}

impl ShadowRules {
    /// As a key may name it.
    fn name(&self) -> ModelAlias {
        ModelAlias::new(format!("{}/{}", self.backend, self.model))
    }
}

/// Where shadows are sown. Shared by all exchanges.
pub struct Shadows {
    desk: mpsc::Sender<Sown>,
    counts: Arc<Counts>,
}

impl Shadows {
    /// The handle, and the driver that asks and compares.
    #[must_use]
    pub fn new() -> (Self, Shadower) {
        let (desk, inbox) = mpsc::channel(WAITING_MAX);
        let counts = Arc::<Counts>::default();
        let shadower = Shadower::new(inbox, Arc::clone(&counts));
        (Self { desk, counts }, shadower)
    }

    pub(crate) fn counts(&self) -> ShadowCounts {
        self.counts.shown()
    }
}

impl fmt::Debug for Shadows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shadows")
    }
}

/// What a shadow needs of its pipeline.
#[derive(Clone)]
pub(crate) struct Office {
    pub records: mpsc::Sender<ExchangeRecord>,
    pub keepers: Keepers,
    /// The one in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Those of exchanges: by them it is seen how busy the node is.
    pub seats: Arc<Semaphore>,
    pub seats_max: usize,
}

/// What became of shadows, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    asked: [AtomicU64; Agreement::ALL.len()],
    /// Too many waited, or callers' requests left no room for long.
    busy: AtomicU64,
    /// The budget, or another that counts it, had not enough left.
    spent: AtomicU64,
    /// The upstream could not be asked.
    away: AtomicU64,
}

impl Counts {
    fn note(&self, agreement: Agreement) {
        count(&self.asked[agreement as usize]);
    }

    fn shown(&self) -> ShadowCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShadowCounts {
            asked: std::array::from_fn(|at| of(&self.asked[at])),
            busy: of(&self.busy),
            spent: of(&self.spent),
            away: of(&self.away),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The same, to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    asked: [u64; Agreement::ALL.len()],
    busy: u64,
    spent: u64,
    away: u64,
}

impl ShadowCounts {
    /// Shadows by what became of them: whether they agreed, or why none was asked for.
    pub fn by_result(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let asked = Agreement::ALL.map(|it| (it.as_label(), self.asked[it as usize]));
        let unasked = [
            ("busy", self.busy),
            ("spent", self.spent),
            ("away", self.away),
        ];
        asked.into_iter().chain(unasked)
    }
}

/// A request whose answer has a shadow, if all goes well with it.
pub(crate) struct Seed {
    desk: mpsc::Sender<Sown>,
    counts: Arc<Counts>,
    grain: Grain,
    /// What the caller is answered.
    said: String,
}

/// What is asked again, and for whom it was.
struct Grain {
    request: ChatRequest,
    findings: Arc<Findings>,
    snapshot: Arc<Snapshot>,
    rules: ShadowRules,
    backend: Arc<dyn Backend>,
    ward: Arc<Ward>,
    office: Office,
    reuse: Option<Reuse>,
    request_id: RequestId,
    key: Option<KeyId>,
    team: TeamId,
    marks: Marks,
    body_bytes: usize,
}

/// A whole answer of this machine that waits for its shadow.
pub(crate) struct Sown {
    grain: Grain,
    said: String,
    /// The model that said it.
    beside: String,
    since: Instant,
}

/// Whether the answer to come has a shadow: by chance, and where all that was asked may go to the upstream.
pub(crate) fn draw(works: &Works, planned: &Planned) -> Option<Box<Seed>> {
    let (shadows, office) = works.shadows.as_ref()?;
    let Missed {
        admitted, findings, ..
    } = &*planned.missed;
    let snapshot = &admitted.snapshot;
    let rules = snapshot.shadow()?;
    if works.ward.random() >= rules.share || !is_plain(planned) || !may_leave(planned, rules) {
        return None;
    }
    let backend = target(planned, rules)?;
    // Without a price, or somebody who counts, there is no budget.
    snapshot.price(&rules.backend, &rules.model)?;
    office.keepers.quotas.as_ref()?;
    let principal = &admitted.principal;
    Some(Box::new(Seed {
        desk: shadows.desk.clone(),
        counts: Arc::clone(&shadows.counts),
        grain: Grain {
            request: bounded(ChatRequest::clone(&admitted.request)),
            findings: Arc::clone(findings),
            snapshot: Arc::clone(snapshot),
            rules: rules.clone(),
            backend,
            ward: Arc::clone(&works.ward),
            office: office.clone(),
            reuse: works.reuse.clone(),
            request_id: admitted.context.request_id.clone(),
            key: principal.key.clone(),
            team: principal.team.clone(),
            marks: principal.marks.clone(),
            body_bytes: admitted.context.body_bytes,
        },
        said: String::new(),
    }))
}

/// One answer in words to words.
fn is_plain(planned: &Planned) -> bool {
    let admitted = &planned.missed.admitted;
    let request = &admitted.request;
    let mut parts = request.messages.iter().flat_map(|it| &it.content);
    // The body does not have what a kept response before it said.
    let mut bytes = 0;
    request.texts(&mut |text| bytes += text.len());
    request.choices == 1
        && admitted.context.body_bytes.max(bytes) <= REQUEST_BYTES_MAX
        && parts.all(|part| matches!(part, Part::Text(_)))
}

/// Whether the request may go to the upstream, whose ways the rules name: the caller wants nothing kept
/// from others, its route names that upstream itself, its key grants the model where it grants some alone,
/// and nothing in it is for this machine alone, not even masked.
fn may_leave(planned: &Planned, rules: &ShadowRules) -> bool {
    let Missed {
        admitted, findings, ..
    } = &*planned.missed;
    let backends = admitted.snapshot.backends();
    let mut candidates = planned.plan.candidates.iter();
    let is_meant = |backend: usize| {
        let backend = backends.get(backend);
        backend.is_some_and(|it| it.card().name == rules.backend)
    };
    admitted.context.cache != CacheWish::Bypass
        && candidates.any(|candidate| is_meant(candidate.backend))
        && admitted.principal.may_use(&rules.name())
        && findings.trust_least().is_none()
        && findings.iter().all(|it| it.trust_min < Trust::Device)
}

/// The upstream, where it can do what the request needs and is sealed where that is required.
fn target(planned: &Planned, rules: &ShadowRules) -> Option<Arc<dyn Backend>> {
    let admitted = &planned.missed.admitted;
    let snapshot = &admitted.snapshot;
    let mut backends = snapshot.backends().iter();
    let at = backends.position(|it| it.card().name == rules.backend)?;
    let backend = &snapshot.backends()[at];
    let asked = Asked::Exactly(vec![Target {
        backend: at,
        model: rules.model.clone(),
        share: None,
    }]);
    let ask = Ask {
        request: &admitted.request,
        team: &admitted.principal.team,
        headers: &admitted.context.headers,
    };
    let is_able = policy::route(snapshot.routes(), &asked, &ask, &snapshot.roster()).is_ok();
    (is_able && planned.plan.sealing.admits(backend.card())).then(|| Arc::clone(backend))
}

fn bounded(mut request: ChatRequest) -> ChatRequest {
    let is_within = |bound: Tokens| bound <= OUTPUT_TOKENS_MAX;
    if !request.output_tokens_max.is_some_and(is_within) {
        request.output_tokens_max = Some(OUTPUT_TOKENS_MAX);
        // The body as received does not say so.
        request.source = None;
    }
    request
}

impl Seed {
    /// False once the answer is none that is compared: it calls a tool, is cut off, or is too long.
    pub fn hear(&mut self, event: &ChatEvent) -> bool {
        match event {
            ChatEvent::Text { text, .. } => {
                self.said.push_str(text);
                self.said.len() <= REPLY_BYTES_MAX
            }
            ChatEvent::ToolCall { .. } => false,
            ChatEvent::ChoiceEnded { reason, .. } => *reason == FinishReason::Stop,
            ChatEvent::Started(_)
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::Usage(_)
            | ChatEvent::Written(_) => true,
        }
    }

    /// The answer has ended, whole, and `beside` gave it. Called where streams end: waits for nothing.
    pub fn sow(self, beside: String) {
        if self.said.trim().is_empty() {
            return;
        }
        let sown = Sown {
            grain: self.grain,
            said: self.said,
            beside,
            since: Instant::now(),
        };
        if self.desk.try_send(sown).is_err() {
            count(&self.counts.busy);
        }
    }
}
