//! What is learnt of each model of each backend from the exchanges themselves: its breaker, how long
//! it takes, how much it has under way.
//!
//! ```text
//! visit ─► Visit ─first content─► began ─► ended | failed
//!   │        ├── failed            └─ dropped: the caller left
//!   │        └── dropped: the caller left, or another was quicker
//!   └─ Err(wait): its breaker is open
//! ```
//! Kept beside the snapshot, so that a reload forgets none of it. The rules are pure values of
//! `policy`; here are the locks and the clock.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use domain::{
    Backend, BackendCard, BackendError, BackendName, ChatEvent, ChatStream, Delivery, Health,
    HealthState, Tier, TimeoutPhase,
};
use futures::{Stream, StreamExt};
use policy::{
    Breaker, BreakerRules, BreakerState, Pass, PeakEwma, Quantiles, RetryBudget, RetryRules, Target,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use tracing::{info, warn};

/// Models that are watched. Names may be callers' own where an upstream takes any: once as many were
/// answered, further ones are asked without being watched.
const MODELS_MAX: usize = 1_024;

/// Why a backend all of whose models rest is down.
const ALL_REST: &str = "all its models failed too often just now";

/// Everything learnt by one node.
pub(crate) struct Ward {
    models: RwLock<HashMap<Key, Arc<Vitals>>>,
    budget: Mutex<RetryBudget>,
    /// Of models that are not known yet.
    breaker: RwLock<BreakerRules>,
    /// Whose credentials were refused, which the operator was told: once until the next reload.
    refused: Mutex<BTreeSet<BackendName>>,
    random: Mutex<StdRng>,
}

type Key = (BackendName, String);

/// How one model of one backend is, for the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelHealth {
    pub backend: BackendName,
    pub model: String,
    /// Whether its card names it; otherwise the name is a caller's own.
    pub is_listed: bool,
    pub state: BreakerState,
    /// How long it has been in that state.
    pub state_for: Duration,
    /// In a row, since the last answer.
    pub failures_in_row: u32,
    pub chats: u64,
    pub failures: u64,
    pub in_flight: u32,
    /// Of streamed replies. `None` before the first.
    pub first_event: Option<Percentiles>,
    /// Of replies asked for whole, which show nothing before they are there.
    pub whole_reply: Option<Percentiles>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: Duration,
    pub p95: Duration,
}

impl Ward {
    /// Every choice by chance follows from `seed`.
    pub fn new(rules: RetryRules, breaker: BreakerRules, seed: u64) -> Self {
        Self {
            models: RwLock::default(),
            budget: Mutex::new(RetryBudget::new(rules)),
            breaker: RwLock::new(breaker),
            refused: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// Other rules, and none but these backends. Other rules of breakers are for new ones: all are.
    pub fn reload(&self, rules: RetryRules, breaker: BreakerRules, backends: &[Arc<dyn Backend>]) {
        lock(&self.budget).set_rules(rules);
        let before = std::mem::replace(
            &mut *self.breaker.write().unwrap_or_else(PoisonError::into_inner),
            breaker,
        );
        let is_there = |name: &BackendName| backends.iter().any(|it| it.card().name == *name);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.retain(|(backend, _), _| before == breaker && is_there(backend));
        lock(&self.refused).clear();
    }

    fn breaker(&self) -> BreakerRules {
        *self.breaker.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn vitals(&self, backend: &dyn Backend, model: &str) -> Arc<Vitals> {
        let card = backend.card();
        let key = (card.name.clone(), model.to_owned());
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(vitals) = models.get(&key) {
            return Arc::clone(vitals);
        }
        drop(models);
        let vitals = Arc::new(Vitals::new(card, key.clone(), self.breaker()));
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() >= MODELS_MAX {
            // Names that nobody answered to are of no use.
            models.retain(|_, vitals| vitals.was_answered.load(Ordering::Relaxed));
        }
        if models.len() >= MODELS_MAX {
            return vitals;
        }
        Arc::clone(models.entry(key).or_insert(vitals))
    }

    /// Models left alone now, as targets among `backends`.
    pub fn resting(&self, backends: &[Arc<dyn Backend>]) -> Vec<Target> {
        let now = now();
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let resting = models.iter().filter(|(_, it)| it.rests(now).is_some());
        let target = |((name, model), _): (&Key, &Arc<Vitals>)| {
            let backend = backends.iter().position(|it| it.card().name == *name)?;
            Some(Target {
                backend,
                model: model.clone(),
                share: None,
            })
        };
        resting.filter_map(target).collect()
    }

    /// As the backend says, but for one all of whose models rest that were ever asked for.
    pub fn health(&self, backend: &dyn Backend) -> Health {
        let health = backend.health();
        if health.state != HealthState::Ready {
            return health;
        }
        let (now, name) = (now(), &backend.card().name);
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut waits = Vec::new();
        for (_, vitals) in models.iter().filter(|((backend, _), _)| backend == name) {
            match vitals.rests(now) {
                Some(wait) => waits.push(wait),
                None => return health,
            }
        }
        match waits.iter().min() {
            Some(wait) => Health {
                reason: Some(ALL_REST),
                ..Health::of(HealthState::Down, Some(*wait))
            },
            None => health,
        }
    }

    /// Every model watched, in order of names.
    pub fn views(&self) -> Vec<ModelHealth> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let mut views: Vec<ModelHealth> = models.values().map(|vitals| vitals.view()).collect();
        views.sort_by(|one, other| {
            (one.backend.as_str(), &one.model).cmp(&(other.backend.as_str(), &other.model))
        });
        views
    }

    /// An exchange came that may be retried.
    pub fn count_chat(&self) {
        lock(&self.budget).chat();
    }

    /// True when one retry more may be made.
    pub fn take_retry(&self) -> bool {
        lock(&self.budget).take()
    }

    /// From 0 to 1.
    pub fn random(&self) -> f64 {
        lock(&self.random).random_range(0.0..1.0)
    }

    /// Tells the operator once that an upstream refuses its credentials.
    pub fn note_credentials(&self, backend: &BackendName, error: &BackendError) {
        if let BackendError::Credentials { status } = error
            && lock(&self.refused).insert(backend.clone())
        {
            warn!(%backend, status, "the upstream refuses its credentials; its key may be wrong or spent");
        }
    }
}

/// What is known of one model of one backend.
pub(crate) struct Vitals {
    key: Key,
    is_listed: bool,
    /// Backends that know themselves how their engines are have no breaker here.
    has_breaker: bool,
    in_flight: AtomicU32,
    was_answered: AtomicBool,
    /// Whether the breaker is anything but closed: spares a look at it.
    is_doubtful: AtomicBool,
    notes: Mutex<Notes>,
}

struct Notes {
    breaker: Breaker,
    streamed: Pace,
    whole: Pace,
    chats: u64,
    failures: u64,
    failed_share: f64,
    failed_at: Instant,
}

/// How long replies of one kind take to their first event.
#[derive(Default)]
struct Pace {
    quantiles: Quantiles,
    load: PeakEwma,
}

/// A chat's weight in the share of failed ones.
const SHARE_WEIGHT: f64 = 0.1;
/// After this time the share weighs 1/e: one who failed is tried again.
const SHARE_DECAY: Duration = Duration::from_secs(60);

impl Notes {
    fn pace(&mut self, is_streamed: bool) -> &mut Pace {
        if is_streamed {
            &mut self.streamed
        } else {
            &mut self.whole
        }
    }

    fn share(&self, now: Instant) -> f64 {
        let gone = now.saturating_duration_since(self.failed_at).as_secs_f64();
        self.failed_share * (-gone / SHARE_DECAY.as_secs_f64()).exp()
    }

    fn count(&mut self, now: Instant, is_failed: bool) {
        let share = self.share(now) * (1.0 - SHARE_WEIGHT);
        self.failed_share = share + if is_failed { SHARE_WEIGHT } else { 0.0 };
        self.failed_at = now;
        self.failures += u64::from(is_failed);
    }
}

/// How loaded one is, for the balance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub takes: Duration,
    pub in_flight: u32,
    pub failed_share: f64,
    pub is_well: bool,
}

impl Vitals {
    fn new(card: &BackendCard, key: Key, breaker: BreakerRules) -> Self {
        let now = Instant::now();
        Self {
            is_listed: card.model(&key.1).is_some(),
            key,
            has_breaker: card.tier == Tier::Upstream,
            in_flight: AtomicU32::new(0),
            was_answered: AtomicBool::new(false),
            is_doubtful: AtomicBool::new(false),
            notes: Mutex::new(Notes {
                breaker: Breaker::new(breaker, now.into_std()),
                streamed: Pace::default(),
                whole: Pace::default(),
                chats: 0,
                failures: 0,
                failed_share: 0.0,
                failed_at: now,
            }),
        }
    }

    fn rests(&self, now: std::time::Instant) -> Option<Duration> {
        if !self.is_doubtful.load(Ordering::Relaxed) {
            return None;
        }
        lock(&self.notes).breaker.wait(now)
    }

    /// Whether it is left alone, as of this moment.
    pub fn rests_now(&self) -> bool {
        self.rests(now()).is_some()
    }

    /// Lets a chat through to it.
    ///
    /// # Errors
    /// How long it is left alone. With `is_last_resort` nobody else is left.
    pub fn visit(
        self: &Arc<Self>,
        delivery: Delivery,
        is_last_resort: bool,
    ) -> Result<Visit, Duration> {
        let mut notes = lock(&self.notes);
        let pass = if self.has_breaker {
            notes.breaker.admit(now(), is_last_resort)?
        } else {
            Pass::Plain
        };
        notes.chats += 1;
        drop(notes);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Visit {
            vitals: Arc::clone(self),
            is_streamed: matches!(delivery, Delivery::Streamed { .. }),
            pass,
            since: Instant::now(),
            stage: Stage::Asked,
        })
    }

    pub fn load(&self, delivery: Delivery) -> Load {
        let now = Instant::now();
        let mut notes = lock(&self.notes);
        let is_streamed = matches!(delivery, Delivery::Streamed { .. });
        Load {
            takes: notes.pace(is_streamed).load.mean(now.into_std()),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            failed_share: notes.share(now),
            is_well: notes.breaker.wait(now.into_std()).is_none(),
        }
    }

    /// What `percent` of its replies had begun within, where at least `samples_min` are known.
    pub fn begins_within(
        &self,
        percent: u32,
        samples_min: u32,
        delivery: Delivery,
    ) -> Option<Duration> {
        let is_streamed = matches!(delivery, Delivery::Streamed { .. });
        let mut notes = lock(&self.notes);
        let quantiles = &notes.pace(is_streamed).quantiles;
        (quantiles.count() >= samples_min)
            .then(|| quantiles.within(percent))
            .flatten()
    }

    fn view(&self) -> ModelHealth {
        let (backend, model) = &self.key;
        let now = now();
        let notes = lock(&self.notes);
        let percentiles = |pace: &Pace| {
            let p50 = pace.quantiles.within(50)?;
            let p95 = pace.quantiles.within(95)?;
            Some(Percentiles { p50, p95 })
        };
        ModelHealth {
            backend: backend.clone(),
            model: model.clone(),
            is_listed: self.is_listed,
            state: notes.breaker.state(now),
            state_for: now.saturating_duration_since(notes.breaker.since(now)),
            failures_in_row: notes.breaker.failures_in_row(),
            chats: notes.chats,
            failures: notes.failures,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            first_event: percentiles(&notes.streamed),
            whole_reply: percentiles(&notes.whole),
        }
    }
}

/// Whom an error speaks against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Provider,
    /// It is at work, and had its reasons.
    Nobody,
    /// Nobody was asked.
    Unknown,
}

fn blame(error: &BackendError) -> Blame {
    match error {
        BackendError::Overloaded { .. }
        | BackendError::Unreachable(_)
        | BackendError::TimedOut(
            TimeoutPhase::Connect | TimeoutPhase::FirstEvent | TimeoutPhase::BetweenEvents,
        )
        | BackendError::Failed { .. }
        | BackendError::Garbled(_)
        | BackendError::Interrupted
        | BackendError::Engine(_) => Blame::Provider,
        BackendError::Rejected { .. }
        | BackendError::ContentRefused { .. }
        | BackendError::ModelUnknown { .. }
        | BackendError::ContextExceeded { .. }
        | BackendError::RateLimited { .. }
        | BackendError::Credentials { .. }
        | BackendError::TimedOut(TimeoutPhase::Request) => Blame::Nobody,
        // Our own writers say so before anything is sent.
        BackendError::Declined { .. } | BackendError::Unable(_) | BackendError::Resting { .. } => {
            Blame::Unknown
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asked,
    Begun,
    Settled,
}

/// One chat under way. Counts as under way until it is dropped.
pub(crate) struct Visit {
    vitals: Arc<Vitals>,
    is_streamed: bool,
    pass: Pass,
    since: Instant,
    stage: Stage,
}

impl Visit {
    /// Its first content came.
    pub fn began(&mut self) {
        self.stage = Stage::Begun;
        self.vitals.was_answered.store(true, Ordering::Relaxed);
        let took = self.since.elapsed();
        let (pass, is_streamed) = (self.pass, self.is_streamed);
        self.change(|notes, now| {
            notes.breaker.began(now, pass);
            let pace = notes.pace(is_streamed);
            pace.quantiles.record(took);
            pace.load.record(took, now);
        });
    }

    /// It was answered to its end.
    pub fn ended(&mut self) {
        self.stage = Stage::Settled;
        self.change(|notes, now| {
            notes.breaker.answered(now);
            notes.count(Instant::from_std(now), false);
        });
    }

    pub fn failed(&mut self, error: &BackendError) {
        self.stage = Stage::Settled;
        let (pass, took, is_streamed) = (self.pass, self.since.elapsed(), self.is_streamed);
        match blame(error) {
            Blame::Provider => self.change(|notes, now| {
                notes.breaker.failed(now, pass);
                notes.count(Instant::from_std(now), true);
                if matches!(error, BackendError::TimedOut(_)) {
                    notes.pace(is_streamed).load.record(took, now);
                }
            }),
            Blame::Nobody => self.change(|notes, now| {
                notes.breaker.began(now, pass);
                notes.breaker.answered(now);
            }),
            Blame::Unknown => self.change(|notes, _| notes.breaker.dropped(pass)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Notes, std::time::Instant)) {
        let now = now();
        let mut notes = lock(&self.vitals.notes);
        let before = notes.breaker.state(now);
        change(&mut notes, now);
        let after = notes.breaker.state(now);
        let wait_ms = notes.breaker.wait(now).map(|wait| wait.as_millis());
        drop(notes);
        if !self.vitals.has_breaker {
            return;
        }
        let is_doubtful = after != BreakerState::Closed;
        self.vitals
            .is_doubtful
            .store(is_doubtful, Ordering::Relaxed);
        let (backend, model) = &self.vitals.key;
        match (before, after) {
            (BreakerState::Closed | BreakerState::HalfOpen, BreakerState::Open) => {
                warn!(%backend, model, wait_ms, "a model fails too often and is left alone");
            }
            (BreakerState::Open | BreakerState::HalfOpen, BreakerState::Closed) => {
                info!(%backend, model, "a model that was left alone answers again");
            }
            (BreakerState::Closed, BreakerState::Closed | BreakerState::HalfOpen)
            | (BreakerState::Open, BreakerState::Open | BreakerState::HalfOpen)
            | (BreakerState::HalfOpen, BreakerState::HalfOpen) => {}
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.vitals.in_flight.fetch_sub(1, Ordering::Relaxed);
        match self.stage {
            Stage::Asked => {
                let (pass, took, is_streamed) = (self.pass, self.since.elapsed(), self.is_streamed);
                self.change(|notes, now| {
                    notes.breaker.dropped(pass);
                    // It takes at least as long. What is known already says more of a short wait.
                    let pace = notes.pace(is_streamed);
                    if pace.quantiles.within(50).is_some_and(|most| took > most) {
                        pace.quantiles.record(took);
                        pace.load.record(took, now);
                    }
                });
            }
            // The caller left, and had nothing to complain of.
            Stage::Begun => self.ended(),
            Stage::Settled => {}
        }
    }
}

/// The stream, with what becomes of it told.
pub(crate) fn watched(events: ChatStream, visit: Visit) -> ChatStream {
    Watched {
        events,
        visit: Some(visit),
    }
    .boxed()
}

struct Watched {
    events: ChatStream,
    visit: Option<Visit>,
}

impl Stream for Watched {
    type Item = Result<ChatEvent, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = self.events.poll_next_unpin(cx);
        match &event {
            Poll::Ready(None) => {
                if let Some(mut visit) = self.visit.take() {
                    visit.ended();
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(mut visit) = self.visit.take() {
                    visit.failed(error);
                }
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        event
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// What is behind a lock is whole after each change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
