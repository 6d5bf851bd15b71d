//! The trunk: it reads like the table in `docs/architecture.md`.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::{
    BackendCard, CacheOutcome, CacheStore, ChatRequest, Delivery, ExchangeRecord, Fault, Findings,
    Health, HealthState, Kept, KeyDigest, KeyDirectory, KeyTrouble, Left, Limit, ModelAlias,
    Outcome, Principal, Quotas, Reach, RecordSink, RequestId, Scope, Tier, Tokens, Trust,
};
use policy::Asked;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::answer::{Answer, CacheUse, Refusal, RouteLabel};
use crate::cost::Cost;
use crate::embed::{Work, lacks};
use crate::flight::{Boarded, FLIGHTS_MAX, FlightKey, Flights, Flown, Reader, Told};
use crate::keep::Keeping;
use crate::open::open;
use crate::pace::{Pace, told};
use crate::queue::{Lines, QueueRules};
use crate::quota::Keepers;
use crate::receipt::{Receipt, Recorder};
use crate::reuse::{Reuse, Sought, Trace, Traces, look_up};
use crate::shadow::{self, AT_ONCE, Office, ShadowCounts, Shadows};
use crate::snapshot::Snapshot;
use crate::stages::{Admitted, CacheWish, Missed, Parsed, Planned, Scanned};
use crate::texts::Texts;
use crate::trace::{TracedWork, Tracer};
use crate::vitals::{ModelHealth, Ward};
use crate::wrap::{wrap, wrap_hit};
use crate::{offline, quota};

/// What a caller is told to wait when every seat is taken.
const SEAT_WAIT: Duration = Duration::from_secs(1);

/// Requests up to this are scanned and masked on the network's threads: at a few microseconds a
/// kilobyte, well under half a millisecond.
pub(crate) const SCAN_INLINE_BYTES_MAX: usize = 64 * 1024;

/// Why a backend is passed over that may not see a value inside a pattern.
pub(crate) const UNMASKABLE: &str =
    "a pattern of the request holds personal data, which cannot be masked there";

/// The reason given with an exact reply.
const EXACT_REASON: &str = "exact-repeat";

/// The reason given with the reply to another question that is the same.
const SEMANTIC_REASON: &str = "same-question";

/// The reason given with the reply of a request alike.
const SHARED_REASON: &str = "same-under-way";

/// What a pipeline is made of.
pub struct Parts {
    pub snapshot: Snapshot,
    pub cache: Arc<dyn CacheStore>,
    /// What replies for other requests are remembered by; `None`: each answers its own alone.
    pub reuse: Option<Reuse>,
    /// Where answers of this machine wait to be asked for again; `None`: none is.
    pub shadows: Option<Shadows>,
    pub keys: Arc<dyn KeyDirectory>,
    /// Who keeps count of principals' limits; `None`: nobody does.
    pub quotas: Option<Arc<dyn Quotas>>,
    /// How requests wait for limits that say so.
    pub queueing: QueueRules,
    pub sinks: Vec<Arc<dyn RecordSink>>,
    /// Exchanges under way at once, and places in the recorder's queue. One more is refused as
    /// overloaded.
    pub exchanges_max: usize,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

/// Decides every exchange. Shared by all connections.
pub struct Pipeline {
    snapshot: Arc<ArcSwap<Snapshot>>,
    works: Arc<Works>,
    keys: Arc<dyn KeyDirectory>,
    keepers: Keepers,
    flights: Arc<Flights>,
    seats: Arc<Semaphore>,
    seats_max: usize,
    /// Whether it ever was; what then begins anew takes no traffic away.
    was_ready: AtomicBool,
    desk: mpsc::Sender<ExchangeRecord>,
    /// `None` where nobody is told of traces.
    tracer: Option<Tracer>,
    /// `None` where nobody keeps what is said.
    texts: Option<Arc<Texts>>,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("exchanges", &self.exchanges_count())
            .finish_non_exhaustive()
    }
}

/// A model as `/v1/models` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelListing {
    pub id: String,
    pub owned_by: String,
    pub context_tokens_max: Option<Tokens>,
}

/// Whether a chat can be answered now, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub is_ready: bool,
    /// No public upstream can be reached.
    pub is_offline: bool,
    /// With whom limits are counted.
    pub reach: Reach,
    pub backends: Vec<(String, Health)>,
}

impl Pipeline {
    /// The pipeline, and the driver that records what it did.
    #[must_use]
    pub fn new(parts: Parts) -> (Self, Recorder) {
        // A semaphore counts no further than this; more seats than that means no bound at all.
        let seats_max = parts.exchanges_max.clamp(1, Semaphore::MAX_PERMITS);
        // Shadows take no place of an exchange's.
        let places = seats_max.saturating_add(AT_ONCE);
        let (desk, inbox) = mpsc::channel(places.min(Semaphore::MAX_PERMITS));
        let seats = Arc::new(Semaphore::new(seats_max));
        let keepers = Keepers {
            quotas: parts.quotas,
            lines: Arc::new(Lines::new(parts.queueing)),
        };
        let snapshot = Arc::new(ArcSwap::from_pointee(parts.snapshot));
        let in_force = snapshot.load_full();
        let office = Office {
            records: desk.clone(),
            keepers: keepers.clone(),
            snapshot: Arc::clone(&snapshot),
            seats: Arc::clone(&seats),
            seats_max,
        };
        let pipeline = Self {
            works: Arc::new(Works {
                ward: Arc::new(Ward::new(
                    in_force.retry(),
                    in_force.breaker(),
                    rand::random(),
                )),
                cache: parts.cache,
                reuse: parts.reuse,
                shadows: parts.shadows.map(|shadows| (shadows, office)),
                traces: Traces::default(),
            }),
            flights: Arc::default(),
            snapshot,
            keys: parts.keys,
            keepers,
            seats,
            seats_max,
            was_ready: AtomicBool::new(false),
            desk,
            tracer: None,
            texts: None,
        };
        (pipeline, Recorder::new(inbox, parts.sinks))
    }

    /// The same, with what traces need noted of each exchange.
    #[must_use]
    pub fn traced_by(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// The same, with what exchanges say handed to whoever keeps it.
    #[must_use]
    pub fn keeping(mut self, texts: Arc<Texts>) -> Self {
        self.texts = Some(texts);
        self
    }

    /// Returns once what exchanges said until now is kept, or is not going to be. False where that takes
    /// too long.
    pub async fn until_texts_settled(&self) -> bool {
        match &self.texts {
            Some(texts) => texts.until_settled().await,
            None => true,
        }
    }

    /// Replaces the snapshot. Exchanges under way keep theirs.
    pub fn reload(&self, snapshot: Snapshot) {
        self.ward()
            .reload(snapshot.retry(), snapshot.breaker(), snapshot.backends());
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Who holds this key.
    ///
    /// # Errors
    /// `Unauthenticated` when the node asks for keys and this is none of them.
    pub fn authenticate(&self, key: Option<&KeyDigest>) -> Result<Principal, Fault> {
        let found = key.map_or(Err(KeyTrouble::Unknown), |digest| self.keys.find(digest));
        match found {
            Ok(principal) => Ok(principal),
            // Clients send some key where none is needed.
            Err(KeyTrouble::Unknown) if !self.keys.is_required() => Ok(self.keys.anyone()),
            Err(trouble) => Err(Fault::Unauthenticated(trouble)),
        }
    }

    /// Answers one request, or says why not. Returns once the first content has arrived.
    ///
    /// # Errors
    /// A refusal; nothing was sent to the caller, and its record is left.
    pub fn run(
        &self,
        parsed: Parsed,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send + use<'_> {
        // Not in the future, which would keep room for what came in as long as it lives.
        let admitted = self.admit(parsed);
        async move { self.take_on(admitted?).await }
    }

    /// The same, in a future of its own.
    ///
    /// # Errors
    /// As of [`Pipeline::run`].
    pub fn begin(
        self: Arc<Self>,
        parsed: Parsed,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send + use<> {
        let admitted = self.admit(parsed);
        async move { self.take_on(admitted?).await }
    }

    async fn take_on(&self, admitted: Box<Admitted>) -> Result<Answer, Refusal> {
        let scanned = if admitted.context.body_bytes <= SCAN_INLINE_BYTES_MAX {
            scan_here(admitted)?
        } else {
            Box::pin(scan_aside(admitted)).await?
        };
        let (id, team) = {
            let admitted = &scanned.admitted;
            let id = admitted.context.request_id.clone();
            (id, admitted.principal.team.clone())
        };
        let mut answer = match self.works.look_up_exact(scanned) {
            Looked::Hit(found) => replay_hit(*found).await,
            Looked::Missed(missed) => self.fly(missed).await,
        }?;
        if let Some(trace) = answer.trace.take() {
            self.works.traces.put(&id, &team, *trace);
        }
        Ok(answer)
    }

    pub(crate) fn works(&self) -> &Works {
        &self.works
    }

    /// With whoever asks the same at the moment, or alone.
    async fn fly(&self, missed: Box<Missed>) -> Result<Answer, Refusal> {
        let mut missed = Some(missed);
        for _ in 0..FLIGHTS_MAX {
            let boarded = missed.as_ref().map(|missed| self.board(missed));
            match boarded {
                Some(Boarded::Leads(reader)) => {
                    let Some(mut missed) = missed.take() else {
                        break;
                    };
                    missed.admitted.receipt.share_work(reader.leader_left());
                    reader.begin(Box::pin(go(Arc::clone(&self.works), missed)));
                    return match reader.opened().await {
                        Told::Answer(answer) => Ok(Answer {
                            stream: reader.events(),
                            ..*answer
                        }),
                        Told::Refused(refusal) => Err(refusal),
                        // Who leads is told all.
                        Told::Released => Err(internal()),
                    };
                }
                Some(Boarded::Joins(reader)) => match reader.opened().await {
                    Told::Answer(answer) => {
                        let Some(missed) = missed.take() else { break };
                        return join(missed, *answer, reader).await;
                    }
                    Told::Refused(Refusal { fault, reason }) => {
                        let Some(mut missed) = missed.take() else {
                            break;
                        };
                        return Err(refuse(&mut missed.admitted.receipt, fault, reason));
                    }
                    Told::Released => {}
                },
                Some(Boarded::Alone) | None => break,
            }
        }
        match missed {
            Some(missed) => go(Arc::clone(&self.works), missed).await.outcome,
            None => Err(internal()),
        }
    }

    fn board(&self, missed: &Missed) -> Boarded {
        let Missed {
            admitted,
            findings,
            keeping,
            ..
        } = missed;
        let Some(keeping) = keeping else {
            return Boarded::Alone;
        };
        if admitted.context.cache != CacheWish::Use {
            return Boarded::Alone;
        }
        let priority = admitted.context.priority.max(admitted.principal.priority);
        let is_streamed = match admitted.request.delivery {
            Delivery::Streamed { .. } => true,
            Delivery::Whole => false,
        };
        let key = |is_streamed| FlightKey {
            key: keeping.key,
            is_streamed,
        };
        let flights = &self.flights;
        // Who wants all at once can as well be told it piece by piece.
        let streamed = (!is_streamed).then(|| flights.join(key(true), findings, priority));
        match streamed.flatten() {
            Some(reader) => Boarded::Joins(reader),
            None => flights.board(key(is_streamed), findings, priority),
        }
    }

    /// Every name this principal may ask for.
    #[must_use]
    pub fn models(&self, principal: &Principal) -> Vec<ModelListing> {
        let snapshot = self.snapshot.load();
        let mut listings = vec![listing("auto", "hedge", None)];
        for backend in snapshot.backends() {
            let card = backend.card();
            let is_first_local =
                card.is_local() && !listings.iter().any(|listed| listed.id == "local");
            if is_first_local {
                let context = card
                    .models
                    .first()
                    .and_then(|model| model.context_tokens_max);
                listings.push(listing("local", "hedge", context));
            }
            for model in card.models.iter().filter(|model| model.name != "*") {
                let id = card.listed_name(&model.name);
                listings.push(listing(&id, owner(card), model.context_tokens_max));
            }
            for model in backend.moderation_models() {
                listings.push(listing(&card.listed_name(model), owner(card), None));
            }
        }
        let embedders = snapshot.embedders().iter();
        let embedders = embedders.map(|(names, embedder)| (names, embedder.card()));
        let rerankers = snapshot.rerankers().iter();
        let rerankers = rerankers.map(|(names, reranker)| (names, reranker.card()));
        for (names, card) in embedders.chain(rerankers) {
            let context = Some(Tokens(card.input_tokens_max));
            let names = names.iter().map(ModelAlias::as_str);
            for name in std::iter::once(card.name.as_str()).chain(names) {
                listings.push(listing(name, "local", context));
            }
        }
        listings.extend(
            snapshot
                .aliases()
                .keys()
                .map(|alias| listing(alias, "operator", None)),
        );
        listings.retain(|listed| principal.may_use(&listed.id.as_str().into()));
        let mut seen = std::collections::HashSet::new();
        listings.retain(|listed| seen.insert(listed.id.clone()));
        listings
    }

    /// Whether a chat can be answered now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let snapshot = self.snapshot.load();
        let backends: Vec<_> = snapshot
            .backends()
            .iter()
            .map(|backend| {
                (
                    backend.card().name.to_string(),
                    self.ward().health(backend.as_ref()),
                )
            })
            .collect();
        let was_ready = self.was_ready.load(Ordering::Relaxed);
        let is_offline = snapshot.offline().is_offline();
        let states = || {
            let backends = snapshot.backends().iter().zip(&backends);
            backends.map(
                |(backend, (_, health))| match (backend.card().tier, health.state) {
                    // One that came with a reload: its endpoints are tried while they are looked at.
                    (Tier::Pool, HealthState::Starting) if was_ready => HealthState::Ready,
                    _ if is_offline && backend.card().trust == Trust::Public => HealthState::Down,
                    (Tier::Engine | Tier::Pool | Tier::Upstream, state) => state,
                },
            )
        };
        // A model on its way would change where the first requests go: not before it has arrived.
        let is_ready = states().any(|state| state == HealthState::Ready)
            && !states().any(|state| state == HealthState::Starting);
        if is_ready {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        let reach = self.keepers.quotas.as_ref().map(|quotas| quotas.reach());
        Readiness {
            is_ready,
            is_offline,
            reach: reach.unwrap_or(Reach::Alone),
            backends,
        }
    }

    /// Every limit that somebody is held to, and what is left of it; but for users'.
    #[must_use]
    pub fn limits(&self) -> Vec<(Limit, Left)> {
        let Some(quotas) = &self.keepers.quotas else {
            return Vec::new();
        };
        let mut limits = self.keys.limits();
        let snapshot = self.snapshot.load();
        let of_shadows = snapshot.shadow().into_iter().flat_map(|it| &*it.limits);
        limits.extend(of_shadows.filter(|it| it.scope == Scope::Shadow).cloned());
        let left = quotas.left(&limits);
        let limits = limits.into_iter().zip(left);
        limits.collect()
    }

    /// Of users' limits those nearest to their end, no more than `users_max`, and what is left of them.
    pub async fn users_limits(&self, users_max: usize) -> Vec<(Limit, Left)> {
        match &self.keepers.quotas {
            Some(quotas) => quotas.users(users_max).await,
            None => Vec::new(),
        }
    }

    /// What became of shadows; `None` where none are asked.
    #[must_use]
    pub fn shadow_counts(&self) -> Option<ShadowCounts> {
        let (shadows, _) = self.works.shadows.as_ref()?;
        Some(shadows.counts())
    }

    /// Requests that wait for a limit to have enough left for them.
    #[must_use]
    pub fn queued_count(&self) -> usize {
        self.keepers.lines.waiting_count()
    }

    /// What was learnt of each model of each backend that was asked for.
    #[must_use]
    pub fn health(&self) -> Vec<ModelHealth> {
        self.ward().views()
    }

    /// Exchanges under way.
    #[must_use]
    pub fn exchanges_count(&self) -> usize {
        self.seats_max
            .saturating_sub(self.seats.available_permits())
    }

    fn admit(&self, parsed: Parsed) -> Result<Box<Admitted>, Refusal> {
        let began = Instant::now();
        let Parsed {
            mut request,
            principal,
            context,
        } = parsed;
        let id = context.request_id.clone();
        let mut receipt = self.receive(id, &principal, request.model.clone())?;
        if let Some(tracer) = self.tracer {
            receipt.note_trace(tracer.begin(&context.headers, &request, &mut rand::rng()));
        }
        if let Some(texts) = &self.texts {
            receipt.keep_text(texts.begin(&principal.team));
        }
        let snapshot = self.snapshot.load_full();
        let asked = granted(&request, &principal, &snapshot)
            .and_then(|asked| bound_output(&mut request, &principal).map(|()| asked))
            .map_err(|fault| refuse(&mut receipt, fault, None))?;
        let ask = policy::Ask {
            request: &request,
            team: &principal.team,
            headers: &context.headers,
        };
        let rule = granted_rule(&principal, &asked, &ask, &snapshot).map_err(|rule| {
            receipt.note(|record| record.reason.clone_from(&rule));
            refuse(&mut receipt, NO_ROUTE, Some(rule))
        })?;
        receipt.note_yardstick(snapshot.yardstick(&asked));
        let now = Instant::now();
        let timings = crate::Timings {
            admit: now - began,
            ..Default::default()
        };
        Ok(Box::new(Admitted {
            request: Box::new(request),
            principal,
            context,
            asked,
            rule,
            snapshot,
            receipt,
            timings,
            since: now,
        }))
    }

    /// A seat for an exchange, and the receipt that leaves its record.
    pub(crate) fn receive(
        &self,
        request_id: RequestId,
        principal: &Principal,
        model: ModelAlias,
    ) -> Result<Receipt, Refusal> {
        let overloaded = || Refusal {
            fault: Fault::Overloaded {
                retry_after: SEAT_WAIT,
            },
            reason: None,
        };
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| overloaded())?;
        // As many places as seats, but a place is free only once its record was taken.
        let desk = self.desk.clone().try_reserve_owned();
        let desk = desk.map_err(|_| overloaded())?;
        let keepers = self.keepers.clone();
        Ok(Receipt::new(
            request_id, principal, model, desk, seat, keepers,
        ))
    }

    /// Notes of which trace work is that is no chat, where anybody is told.
    pub(crate) fn trace_work(
        &self,
        receipt: &mut Receipt,
        headers: &[(String, String)],
        work: TracedWork,
    ) {
        if let Some(tracer) = self.tracer {
            receipt.note_trace(tracer.begin_work(headers, work, &mut rand::rng()));
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) fn ward(&self) -> &Arc<Ward> {
        &self.works.ward
    }
}

/// What work on a request needs beside the request, for as long as somebody waits for it.
pub(crate) struct Works {
    pub ward: Arc<Ward>,
    pub cache: Arc<dyn CacheStore>,
    pub reuse: Option<Reuse>,
    pub shadows: Option<(Shadows, Office)>,
    pub traces: Traces,
}

impl Works {
    fn find(&self, admitted: &Admitted, keeping: Option<&Keeping>) -> Option<Arc<Kept>> {
        let keeping = keeping.filter(|_| admitted.context.cache == CacheWish::Use)?;
        self.cache.find(&keeping.key)
    }

    /// What others keep of it, where they are asked: once for all who ask the same at once.
    async fn fetch(&self, admitted: &Admitted, keeping: Option<&Keeping>) -> Option<Arc<Kept>> {
        let keeping = keeping.filter(|_| admitted.context.cache == CacheWish::Use)?;
        self.cache.fetch(&keeping.key).await
    }

    fn look_up_exact(&self, scanned: Scanned) -> Looked {
        let Scanned {
            mut admitted,
            findings,
            keeping,
        } = scanned;
        let hit = self.find(&admitted, keeping.as_ref());
        let now = Instant::now();
        admitted.timings.look_up = now - admitted.since;
        admitted.since = now;
        if let Some(kept) = hit {
            let trace = trace_of(keeping.as_ref());
            return Looked::Hit(Box::new(Found::exact(admitted, findings, kept, trace)));
        }
        if keeping.is_some() {
            admitted
                .receipt
                .note(|record| record.cache = CacheOutcome::Missed);
        }
        Looked::Missed(Box::new(Missed {
            admitted,
            findings,
            keeping,
            is_for_all: true,
        }))
    }
}

/// What is left to do for a request that has no kept reply of its own.
async fn go(works: Arc<Works>, missed: Box<Missed>) -> Flown {
    let mut is_for_all = true;
    let outcome = open_for(&works, missed, &mut is_for_all).await;
    Flown {
        outcome,
        is_for_all,
    }
}

async fn open_for(
    works: &Works,
    mut missed: Box<Missed>,
    is_for_all: &mut bool,
) -> Result<Answer, Refusal> {
    let mut trace = trace_of(missed.keeping.as_ref());
    // Kept by another's flight, perhaps, since this one looked.
    if let Some(kept) = works.find(&missed.admitted, missed.keeping.as_ref()) {
        let found = Found::exact(missed.admitted, missed.findings, kept, trace);
        return replay_for(found, is_for_all).await;
    }
    let began = Instant::now();
    let fetched = works.fetch(&missed.admitted, missed.keeping.as_ref()).await;
    missed.admitted.timings.look_up += began.elapsed();
    missed.admitted.since = Instant::now();
    if let Some(kept) = fetched {
        let found = Found::exact(missed.admitted, missed.findings, kept, trace);
        return replay_for(found, is_for_all).await;
    }
    if let (Some(reuse), Some(trace)) = (&works.reuse, &mut trace) {
        let began = Instant::now();
        let sought = Box::pin(look_up(reuse, &mut missed, trace)).await;
        missed.admitted.timings.look_up += began.elapsed();
        missed.admitted.since = Instant::now();
        if let Sought::Hit { entry, similarity } = sought {
            let age = age(&entry.kept);
            let found = Found {
                admitted: missed.admitted,
                findings: missed.findings,
                kept: Arc::new(entry.kept.clone()),
                cache: CacheUse::Semantic { similarity, age },
                trace: Some(trace.clone()),
            };
            return replay_for(found, is_for_all).await;
        }
    }
    let planned = plan(missed, &works.ward)?;
    let shadow = shadow::draw(works, &planned);
    let planned = if offline::concerns(&planned) {
        Box::pin(offline::pass(planned, &works.ward)).await?
    } else {
        planned
    };
    let planned = if planned.missed.admitted.receipt.share().is_unlimited() {
        planned
    } else {
        *is_for_all = false;
        let planned = Box::pin(quota::afford(planned)).await?;
        *is_for_all = planned.missed.is_for_all;
        planned
    };
    let opened = open(planned, &works.ward).await?;
    let store = Arc::clone(&works.cache);
    let answer = wrap(opened, store, works.reuse.as_ref(), shadow);
    Ok(Answer {
        trace: trace.map(Box::new),
        ..answer
    })
}

/// A kept reply is for all, and a limit of the one who leads is not.
async fn replay_for(found: Found, is_for_all: &mut bool) -> Result<Answer, Refusal> {
    let answer = replay_hit(found).await;
    *is_for_all = answer.is_ok();
    answer
}

/// To be filled with what the cache does; `None` where it has no part.
fn trace_of(keeping: Option<&Keeping>) -> Option<Trace> {
    keeping.map(|keeping| Trace::new(keeping.key, CacheOutcome::Missed))
}

/// An answer that another request's work is read for.
async fn join(mut missed: Box<Missed>, answer: Answer, reader: Reader) -> Result<Answer, Refusal> {
    let admitted = &mut missed.admitted;
    // The work goes on meanwhile, for it may hold what is waited for.
    let driven = async {
        reader.drive().await;
        std::future::pending::<Infallible>().await
    };
    let taken = tokio::select! {
        biased;
        taken = admitted.receipt.share_mut().take_replay() => taken,
        never = driven => match never {},
    };
    if let Err(exhausted) = taken {
        let fault = quota::fault(&exhausted);
        return Err(refuse(&mut admitted.receipt, fault, None));
    }
    let now = Instant::now();
    admitted.timings.open = now - admitted.since;
    admitted.receipt.note_times(admitted.timings);
    // Where a kept reply answers the leader, it answers all.
    let (cache, route, reason) = match answer.cache {
        CacheUse::Exact { .. } | CacheUse::Semantic { .. } => {
            (answer.cache, answer.route, answer.reason)
        }
        CacheUse::Missed | CacheUse::Bypassed | CacheUse::Shared => (
            CacheUse::Shared,
            RouteLabel::CacheShared,
            SHARED_REASON.to_owned(),
        ),
    };
    let mut receipt = missed.admitted.receipt;
    receipt.note_reuse(cache.outcome(), answer.made.clone());
    receipt.note(|record| record.reason.clone_from(&reason));
    // Whether anybody counts is known at the end.
    receipt.note_prompt(&missed.admitted.request);
    let cost = receipt.cost();
    let allowance = receipt.share().allowance();
    // Values are put back by then, and they are this request's own.
    let stream = wrap_hit(reader.events(), &Arc::default(), receipt);
    Ok(Answer {
        route,
        reason,
        model: answer.model,
        cache,
        timings: missed.admitted.timings,
        cost,
        made: answer.made,
        allowance,
        rescues: None,
        trace: answer.trace.map(|mut trace| {
            trace.outcome = cache.outcome();
            trace
        }),
        stream,
    })
}

fn internal() -> Refusal {
    Refusal {
        fault: Fault::Internal,
        reason: None,
    }
}

/// A kept reply, and who asks for it.
struct Found {
    admitted: Box<Admitted>,
    findings: Arc<Findings>,
    kept: Arc<Kept>,
    cache: CacheUse,
    trace: Option<Trace>,
}

impl Found {
    fn exact(
        admitted: Box<Admitted>,
        findings: Arc<Findings>,
        kept: Arc<Kept>,
        trace: Option<Trace>,
    ) -> Self {
        let cache = CacheUse::Exact { age: age(&kept) };
        Self {
            admitted,
            findings,
            kept,
            cache,
            trace,
        }
    }
}

enum Looked {
    Hit(Box<Found>),
    Missed(Box<Missed>),
}

/// Short requests are scanned in place, long ones where they hold up nobody.
async fn scan_aside(admitted: Box<Admitted>) -> Result<Scanned, Refusal> {
    let scanned = tokio::task::spawn_blocking(move || scan_here(admitted)).await;
    scanned.unwrap_or(Err(Refusal {
        fault: Fault::Internal,
        reason: None,
    }))
}

fn scan_here(mut admitted: Box<Admitted>) -> Result<Scanned, Refusal> {
    let findings = match admitted.snapshot.scan().scan(&admitted.request) {
        Ok(findings) => findings,
        Err(fault) => return Err(refuse(&mut admitted.receipt, fault, None)),
    };
    let masked_count = u32::try_from(findings.iter().count()).unwrap_or(u32::MAX);
    admitted
        .receipt
        .note(|record| record.masked_count = masked_count);
    let keeping = keeping(&admitted, &findings);
    let findings = Arc::new(findings);
    admitted
        .receipt
        .note_asked(&admitted.request, &findings, &admitted.snapshot);
    let now = Instant::now();
    admitted.timings.scan = now - admitted.since;
    admitted.since = now;
    Ok(Scanned {
        admitted,
        findings,
        keeping,
    })
}

/// Where this request's reply is kept, and what of it is compared with others'; made from what the least
/// trusted destination would see.
fn keeping(admitted: &Admitted, findings: &Findings) -> Option<Keeping> {
    let rules = admitted.snapshot.cache();
    let is_raw = findings.trust_least().is_some();
    if !rules.is_enabled || is_raw || admitted.context.cache == CacheWish::Bypass {
        return None;
    }
    if findings.is_empty() {
        return keeping_of(&admitted.request, admitted, findings);
    }
    let masked = findings.masked_view(ChatRequest::clone(&admitted.request), Trust::Public);
    keeping_of(&masked, admitted, findings)
}

fn keeping_of(masked: &ChatRequest, admitted: &Admitted, findings: &Findings) -> Option<Keeping> {
    let secret = &admitted.snapshot.cache().secret;
    let of_rule = admitted.rule.as_deref();
    let of_rule = of_rule.map(|rule| secret.clone().of_route(rule));
    let secret = of_rule.as_ref().unwrap_or(secret);
    let team = &admitted.principal.team;
    let headers_used = admitted.snapshot.routes().headers_used();
    let headers = &admitted.context.headers;
    let key = policy::cache_key(secret, team, masked, headers_used, headers)?;
    let compared = admitted.snapshot.reuse().map(|rules| {
        let around = policy::Circumstances {
            team,
            scope: rules.scope,
            findings,
            headers_used,
            headers,
            encoder: rules.encoder.name(),
        };
        policy::compared(secret, masked, &around)
    });
    Some(Keeping::new(key, compared, admitted))
}

async fn replay_hit(found: Found) -> Result<Answer, Refusal> {
    let Found {
        mut admitted,
        findings,
        kept,
        cache,
        trace,
    } = found;
    if let Err(exhausted) = admitted.receipt.share_mut().take_replay().await {
        let fault = quota::fault(&exhausted);
        return Err(refuse(&mut admitted.receipt, fault, None));
    }
    let allowance = admitted.receipt.share().allowance();
    let reply = &kept.reply;
    let (route, reason) = match cache {
        CacheUse::Semantic { .. } => (RouteLabel::CacheSemantic, SEMANTIC_REASON),
        CacheUse::Exact { .. } | CacheUse::Shared | CacheUse::Missed | CacheUse::Bypassed => {
            (RouteLabel::CacheExact, EXACT_REASON)
        }
    };
    let pace = match admitted.request.delivery {
        Delivery::Streamed { .. } => admitted.snapshot.pace(),
        Delivery::Whole => Pace::Instant,
    };
    let made = Cost::of(kept.cost);
    admitted.receipt.note_reuse(cache.outcome(), made.clone());
    admitted.receipt.note_times(admitted.timings);
    if reply.usage.is_none() {
        admitted.receipt.note_prompt(&admitted.request);
    }
    admitted.receipt.note(|record| {
        reason.clone_into(&mut record.reason);
        record.usage = reply.usage;
    });
    let cost = admitted.receipt.cost();
    let stream = wrap_hit(told(reply, pace), &findings, admitted.receipt);
    Ok(Answer {
        route,
        reason: reason.to_owned(),
        model: reply.started.model.clone(),
        cache,
        timings: admitted.timings,
        cost,
        made,
        allowance,
        rescues: None,
        trace: trace.map(|mut trace| {
            trace.outcome = cache.outcome();
            Box::new(trace)
        }),
        stream,
    })
}

/// Since when it is kept; a clock that was set back makes it new.
fn age(kept: &Kept) -> Duration {
    kept.kept_at.elapsed().unwrap_or_default()
}

pub(crate) fn plan(mut missed: Box<Missed>, ward: &Ward) -> Result<Planned, Refusal> {
    let admitted = &mut missed.admitted;
    let ask = policy::Ask {
        request: &admitted.request,
        team: &admitted.principal.team,
        headers: &admitted.context.headers,
    };
    let mut roster = admitted.snapshot.roster();
    roster.resting = ward.resting(admitted.snapshot.backends());
    let planned = policy::route(admitted.snapshot.routes(), &admitted.asked, &ask, &roster);
    let now = Instant::now();
    admitted.timings.route = now - admitted.since;
    admitted.since = now;
    let trust_least = missed.findings.trust_least();
    match planned.and_then(|plan| for_trusted(plan, trust_least, &admitted.snapshot)) {
        Ok(plan) => Ok(Planned { missed, plan }),
        Err(fault) => Err(refuse(&mut admitted.receipt, fault, None)),
    }
}

/// What the request asks for, where its caller may: before the cache is looked into, for the replies in
/// it are the whole team's.
fn granted(
    request: &ChatRequest,
    principal: &Principal,
    snapshot: &Snapshot,
) -> Result<Asked, Fault> {
    let roster = snapshot.roster();
    let asked = policy::resolve(&request.model, &roster)
        .map_err(|fault| not_chatting(&request.model, fault, snapshot))?;
    if !principal.may_use(&request.model) {
        return Err(Fault::Forbidden {
            what: "this key does not grant the model",
        });
    }
    policy::check_adapters(principal, request, &asked, &roster)?;
    Ok(asked)
}

/// What a caller learns whose key does not grant the way that a request takes.
pub(crate) const NO_ROUTE: Fault = Fault::Forbidden {
    what: "this key does not grant the route that this request takes, which x-hedge-reason names; ask \
           for what it grants, or have the route added to the key's `routes`",
};

/// The rule that decides about the request, where its key does not grant all; known before anything is
/// looked up or spent, since it follows from the request alone.
///
/// # Errors
/// The rule, where the key does not grant it.
fn granted_rule(
    principal: &Principal,
    asked: &Asked,
    ask: &policy::Ask<'_>,
    snapshot: &Snapshot,
) -> Result<Option<String>, String> {
    if principal.routes.is_none() {
        return Ok(None);
    }
    let rule = policy::rule_of(snapshot.routes(), asked, ask);
    match principal.may_take(rule) {
        true => Ok(Some(rule.to_owned())),
        false => Err(rule.to_owned()),
    }
}

/// The same for work that is no chat: no rule decides about it, and its model is named.
pub(crate) fn check_named_route(principal: &Principal) -> Result<(), Fault> {
    match principal.may_take(policy::NAMED_RULE) {
        true => Ok(()),
        false => Err(NO_NAMED_ROUTE),
    }
}

const NO_NAMED_ROUTE: Fault = Fault::Forbidden {
    what: "this key does not grant the route `model-named`, which embeddings, rankings, moderations and \
           whatever else names a model take; have it added to the key's `routes`",
};

/// Holds the reply to what the principal may have, where the request says no less itself.
fn bound_output(request: &mut ChatRequest, principal: &Principal) -> Result<(), Fault> {
    let Some(Tokens(all)) = principal.output_tokens_max else {
        return Ok(());
    };
    let each = all / request.choices.max(1);
    match request.output_tokens_max {
        Some(Tokens(asked)) if asked <= each => Ok(()),
        None if each > 0 => {
            request.output_tokens_max = Some(Tokens(each));
            // The body as received does not say so.
            request.source = None;
            Ok(())
        }
        Some(_) | None => Err(Fault::Forbidden {
            what: "this key does not grant as many output tokens",
        }),
    }
}

/// The plan without those who may not see what cannot be masked.
fn for_trusted(
    mut plan: policy::Plan,
    trust_least: Option<Trust>,
    snapshot: &Snapshot,
) -> Result<policy::Plan, Fault> {
    let Some(trust_least) = trust_least else {
        return Ok(plan);
    };
    let mut reasons = Vec::new();
    plan.candidates.retain(|candidate| {
        let backend = snapshot.backends().get(candidate.backend);
        let is_trusted = backend.is_some_and(|it| it.card().trust >= trust_least);
        if let (false, Some(backend)) = (is_trusted, backend) {
            let name = &backend.card().name;
            reasons.push(format!("{name}: {UNMASKABLE}"));
        }
        is_trusted
    });
    if plan.candidates.is_empty() {
        return Err(Fault::NoCandidate { reasons });
    }
    Ok(plan)
}

/// Says so where the name is that of a model for other work.
fn not_chatting(asked: &ModelAlias, fault: Fault, snapshot: &Snapshot) -> Fault {
    match lacks(Work::Chats, asked, None, snapshot) {
        other @ Fault::BadRequest(_) => other,
        _ => fault,
    }
}

pub(crate) fn refuse(receipt: &mut Receipt, fault: Fault, reason: Option<String>) -> Refusal {
    receipt.note(|record| record.outcome = Outcome::Refused(fault.as_label()));
    Refusal { fault, reason }
}

/// Further models on this machine are backends of their own, and this machine's all the same.
fn owner(card: &BackendCard) -> &str {
    match card.tier {
        Tier::Engine => "local",
        Tier::Pool | Tier::Upstream => card.name.as_str(),
    }
}

fn listing(id: &str, owned_by: &str, context_tokens_max: Option<Tokens>) -> ModelListing {
    ModelListing {
        id: id.to_owned(),
        owned_by: owned_by.to_owned(),
        context_tokens_max,
    }
}

#[cfg(test)]
mod tests {
    use domain::{Dialect, SourceBody};

    use super::*;

    #[test]
    fn a_reply_is_bounded_by_what_its_caller_may_have() {
        // Cap, choices, what is asked for, what stands then.
        let cases = [
            (None, 1, None, Ok(None)),
            (None, 1, Some(9_000), Ok(Some(9_000))),
            (Some(100), 1, None, Ok(Some(100))),
            (Some(100), 1, Some(100), Ok(Some(100))),
            (Some(100), 1, Some(101), Err(())),
            (Some(100), 3, None, Ok(Some(33))),
            (Some(100), 3, Some(33), Ok(Some(33))),
            (Some(100), 3, Some(34), Err(())),
            (Some(2), 3, None, Err(())),
        ];
        for (cap, choices, asked, bounded) in cases {
            let mut request = ChatRequest::new("tiny", Vec::new());
            request.choices = choices;
            request.output_tokens_max = asked.map(Tokens);
            request.source = Some(SourceBody {
                dialect: Dialect::OpenAi,
                bytes: "{}".into(),
            });
            let principal = Principal {
                output_tokens_max: cap.map(Tokens),
                ..Principal::anyone()
            };
            let held = bound_output(&mut request, &principal);
            let is_refused = matches!(held, Err(Fault::Forbidden { .. }));
            assert_eq!(is_refused, bounded.is_err());
            if let Ok(bounded) = bounded {
                assert_eq!(request.output_tokens_max, bounded.map(Tokens));
                // Only bytes that say the same may be copied.
                assert_eq!(request.source.is_some(), asked == bounded);
            }
        }
    }
}
