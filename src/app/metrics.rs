//! Counters and histograms over finished exchanges, and gauges read when somebody looks.
//!
//! Labels come from closed lists, or from names in the configuration; never from a caller.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use api::gateway::Gateway;
use api::{ModelBoard, ModelState, Scrape};
use domain::{Backend, ExchangeRecord, HealthState, Outcome, RecordSink};
use pipeline::{Pipeline, Texts};
use policy::{ANY_MODEL, BreakerState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use providers::{EndpointState, Pool};
use store::{CopyState, RecordDesk, SharedQuotas, SharedReplies, TextVault};
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::otel::SpanCounts;
use crate::sealed::{Chronicle, Edges, Uplink};

#[cfg(test)]
mod documented;
mod events;
mod keys;
mod limits;
mod records;
mod registry;
mod reuse;
mod sealed;
mod shared;
mod shared_replies;
mod spans;
mod texts;

pub use events::EventMetrics;
use keys::{KeyMetrics, KeysNow};
use limits::LimitGauges;
use records::RecordMetrics;
use registry::Registry;
use reuse::ReuseMetrics;
use sealed::{AuditMetrics, EdgeMetrics, RelayMetrics};
use shared::SharedMetrics;
use shared_replies::SharedReplyMetrics;
use spans::SpanMetrics;
use texts::TextMetrics;

/// From a cached reply to a long answer by a large model on a small machine.
const SECONDS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

type Label = &'static str;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ExchangeLabels {
    route: Label,
    outcome: Label,
    cache: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FaultLabels {
    fault: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WhyLabels {
    why: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    route: Label,
    kind: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CacheLabels {
    cache: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CostLabels {
    backend: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CandidateLabels {
    backend: String,
    error: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
    state: Label,
}

/// One endpoint of a pool: as many as the configuration allows, and only those there are now.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabels {
    pool: String,
    endpoint: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointStateLabels {
    pool: String,
    endpoint: String,
    state: Label,
}

/// One model on this machine: as many as are configured.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    kind: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelNameLabels {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelStateLabels {
    model: String,
    state: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: Label,
}

type Seconds = Family<RouteLabels, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// All of the node's metrics: takes records, and shows itself to Prometheus.
pub struct Metrics {
    registry: Mutex<Registry>,
    exchanges: Family<ExchangeLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
    failures: Family<CandidateLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    spared: Family<RouteLabels, Counter>,
    cost: Family<CostLabels, Counter>,
    unpriced: Family<CostLabels, Counter>,
    saved: Family<CacheLabels, Counter>,
    masked: Counter,
    took: Seconds,
    first_content: Seconds,
    backends: Family<BackendLabels, Gauge>,
    in_flight: Gauge,
    ready: Gauge,
    offline: Gauge,
    rescues: Family<RouteLabels, Counter>,
    unrescued: Family<WhyLabels, Counter>,
    engine_restarts: Counter,
    encoder_ends: Mutex<Vec<Arc<AtomicU64>>>,
    drafted: Counter,
    accepted: Counter,
    models: ModelGauges,
    audit: OnceLock<AuditMetrics>,
    records: OnceLock<RecordMetrics>,
    texts: OnceLock<TextMetrics>,
    spans: OnceLock<SpanMetrics>,
    shared: OnceLock<SharedMetrics>,
    replies: OnceLock<SharedReplyMetrics>,
    keys: OnceLock<KeyMetrics>,
    relay: OnceLock<RelayMetrics>,
    edge: EdgeMetrics,
    fleet: OnceLock<Arc<Fleet>>,
    endpoints: EndpointGauges,
    failing: FailureMetrics,
    limits: LimitGauges,
    events: EventMetrics,
    reuse: ReuseMetrics,
    shadows: Family<ResultLabels, Counter>,
    watched: OnceLock<Watched>,
}

/// One model of an upstream that the configuration names; those that it does not are `*`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabels {
    backend: String,
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BreakerLabels {
    backend: String,
    model: String,
    state: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabels {
    cause: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HedgeLabels {
    outcome: Label,
}

/// What is done about backends that fail.
#[derive(Default)]
struct FailureMetrics {
    retries: Counter,
    fallbacks: Family<CauseLabels, Counter>,
    hedges: Family<HedgeLabels, Counter>,
    breakers: Family<BreakerLabels, Gauge>,
    in_flight: Family<UpstreamLabels, Gauge>,
}

/// What the gauges are read from.
struct Watched {
    pipeline: Weak<Pipeline>,
    pools: watch::Receiver<Vec<Arc<Pool>>>,
    uplinks: watch::Receiver<Vec<Arc<Uplink>>>,
}

/// What the fleet says of its models, written anew for each scrape.
#[derive(Default)]
struct ModelGauges {
    budget: Gauge,
    states: Family<ModelStateLabels, Gauge>,
    memory: Family<ModelLabels, Gauge>,
    requests: Family<ModelLabels, Gauge>,
    slots: Family<ModelNameLabels, Gauge>,
    pace: Family<ModelLabels, Gauge<f64, AtomicU64>>,
    loads: Family<ModelLabels, Counter>,
    unloads: Family<ModelLabels, Counter>,
}

/// What the pools say of their endpoints, written anew for each scrape.
#[derive(Default)]
struct EndpointGauges {
    states: Family<EndpointStateLabels, Gauge>,
    in_flight: Family<EndpointLabels, Gauge>,
    reported: Family<EndpointLabels, Gauge>,
    chats: Family<EndpointLabels, Counter>,
    failures: Family<EndpointLabels, Counter>,
    ejections: Family<EndpointLabels, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::new()),
            exchanges: Family::default(),
            faults: Family::default(),
            failures: Family::default(),
            tokens: Family::default(),
            spared: Family::default(),
            cost: Family::default(),
            unpriced: Family::default(),
            saved: Family::default(),
            masked: Counter::default(),
            took: Family::new_with_constructor(seconds),
            first_content: Family::new_with_constructor(seconds),
            backends: Family::default(),
            in_flight: Gauge::default(),
            ready: Gauge::default(),
            offline: Gauge::default(),
            rescues: Family::default(),
            unrescued: Family::default(),
            engine_restarts: Counter::default(),
            encoder_ends: Mutex::default(),
            drafted: Counter::default(),
            accepted: Counter::default(),
            models: ModelGauges::default(),
            audit: OnceLock::new(),
            records: OnceLock::new(),
            texts: OnceLock::new(),
            spans: OnceLock::new(),
            shared: OnceLock::new(),
            replies: OnceLock::new(),
            keys: OnceLock::new(),
            relay: OnceLock::new(),
            edge: EdgeMetrics::default(),
            fleet: OnceLock::new(),
            endpoints: EndpointGauges::default(),
            failing: FailureMetrics::default(),
            limits: LimitGauges::default(),
            events: EventMetrics::default(),
            reuse: ReuseMetrics::default(),
            shadows: Family::default(),
            watched: OnceLock::new(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register("exchanges", "Exchanges that ended", self.exchanges.clone());
        registry.register(
            "faults",
            "Exchanges refused or broken off, by cause",
            self.faults.clone(),
        );
        registry.register(
            "candidate_failures",
            "Candidates that failed before one answered",
            self.failures.clone(),
        );
        registry.register("tokens", "Tokens read and written", self.tokens.clone());
        registry.register(
            "tokens_spared",
            "Tokens that no upstream was paid for, since this machine or the cache answered",
            self.spared.clone(),
        );
        registry.register(
            "cost_microusd",
            "What upstreams' answers cost, in millionths of a dollar, where their price is known",
            self.cost.clone(),
        );
        registry.register(
            "unpriced_exchanges",
            "Exchanges that an upstream answered at no known price",
            self.unpriced.clone(),
        );
        registry.register(
            "cost_saved_microusd",
            "What reused replies had cost when they were made, in millionths of a dollar",
            self.saved.clone(),
        );
        registry.register("masked_values", "Values masked", self.masked.clone());
        registry.register(
            "exchange_seconds",
            "From admission to the end",
            self.took.clone(),
        );
        registry.register(
            "first_content_seconds",
            "From admission to the first content",
            self.first_content.clone(),
        );
        registry.register(
            "backend_state",
            "1 for the state it is in",
            self.backends.clone(),
        );
        registry.register(
            "exchanges_in_flight",
            "Exchanges under way",
            self.in_flight.clone(),
        );
        registry.register("ready", "1 when a chat can be answered", self.ready.clone());
        registry.register(
            "offline",
            "1 while no public upstream can be reached",
            self.offline.clone(),
        );
        registry.register(
            "rescues",
            "Replies that broke off and were gone on with, by who went on",
            self.rescues.clone(),
        );
        registry.register(
            "unrescued",
            "Replies that broke off for good although their route has them rescued, by cause",
            self.unrescued.clone(),
        );
        registry.register(
            "engine_restarts",
            "Times that a local model's process ended early and was started again",
            self.engine_restarts.clone(),
        );
        registry.register(
            "drafted_tokens",
            "Tokens the local engine drafted",
            self.drafted.clone(),
        );
        registry.register(
            "accepted_draft_tokens",
            "Drafted tokens that replies took",
            self.accepted.clone(),
        );
        self.models.register(&mut registry);
        self.endpoints.register(&mut registry);
        self.edge.register(&mut registry);
        self.failing.register(&mut registry);
        self.limits.register(&mut registry);
        self.events.register(&mut registry);
        self.reuse.register(&mut registry);
        registry.register(
            "shadows",
            "Answers of this machine drawn to be asked for again in the cloud, by what came of it",
            self.shadows.clone(),
        );
        let build = Family::<BuildLabels, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&BuildLabels { version }).set(1);
        registry.register("build", "This build", build);
    }

    /// Where the gauges are read from. The pipeline is held weakly, so that a scrape keeps nothing
    /// alive.
    pub fn watch(
        &self,
        pipeline: Weak<Pipeline>,
        pools: watch::Receiver<Vec<Arc<Pool>>>,
        uplinks: watch::Receiver<Vec<Arc<Uplink>>>,
    ) {
        // Set once, at start.
        let _ = self.watched.set(Watched {
            pipeline,
            pools,
            uplinks,
        });
    }

    /// Where the ends of a process with an encoder are counted: one for each.
    pub fn watch_encoder(&self, ends: Arc<AtomicU64>) {
        let known = self.encoder_ends.lock();
        known.unwrap_or_else(PoisonError::into_inner).push(ends);
    }

    /// Of which relay, and which of its edges.
    pub fn watch_gateway(&self, gateway: Weak<Gateway>, edges: Arc<Edges>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = RelayMetrics::new(gateway, edges, &mut registry);
        // There is one.
        let _ = self.relay.set(metrics);
    }

    /// Whose entries are counted, and whose copies, where some are made.
    pub fn watch_audit(&self, chronicle: Arc<Chronicle>, copies: Option<Arc<CopyState>>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = AuditMetrics::new(chronicle, copies, &mut registry);
        // There is one.
        let _ = self.audit.set(metrics);
    }

    /// Whose records are counted.
    pub fn watch_records(&self, desk: Arc<RecordDesk>, is_shared: bool) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one.
        let _ = self
            .records
            .set(RecordMetrics::new(desk, is_shared, &mut registry));
    }

    /// Whose texts are counted. Once: a further time changes nothing.
    pub fn watch_texts(&self, texts: &Arc<Texts>, vault: &Arc<TextVault>) {
        self.texts.get_or_init(|| {
            let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
            TextMetrics::new(Arc::clone(texts), Arc::clone(vault), &mut registry)
        });
    }

    /// Where events are counted.
    pub fn events(&self) -> EventMetrics {
        self.events.clone()
    }

    /// Whose spans are counted.
    pub fn watch_spans(&self, counts: Arc<SpanCounts>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one.
        let _ = self.spans.set(SpanMetrics::new(counts, &mut registry));
    }

    /// Who counts limits with other replicas.
    pub fn watch_shared(&self, quotas: Arc<SharedQuotas>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one.
        let _ = self.shared.set(SharedMetrics::new(quotas, &mut registry));
    }

    /// Who shares replies with other replicas.
    pub fn watch_replies(&self, replies: Arc<SharedReplies>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one.
        let _ = self
            .replies
            .set(SharedReplyMetrics::new(replies, &mut registry));
    }

    /// How keys stand that replicas share.
    pub fn watch_keys(&self, now: KeysNow) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // There is one.
        let _ = self.keys.set(KeyMetrics::new(now, &mut registry));
    }

    /// Whose models are shown.
    pub fn watch_models(&self, fleet: Arc<Fleet>) {
        // There is one.
        let _ = self.fleet.set(fleet);
    }

    /// Two scrapes at once may both see what is new; the counters never fall, and are right after.
    fn read_models(&self) {
        let Some(fleet) = self.fleet.get() else {
            return;
        };
        let drafts = fleet.drafts();
        let view = fleet.view();
        let chats: u64 = view.models.iter().map(|model| model.restarts).sum();
        let encoders: u64 = {
            let known = self.encoder_ends.lock();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            known.iter().map(|ends| ends.load(Ordering::Relaxed)).sum()
        };
        let restarts = chats + encoders;
        for (counter, total) in [
            (&self.drafted, drafts.drafted),
            (&self.accepted, drafts.accepted),
            (&self.engine_restarts, restarts),
        ] {
            counter.inner().fetch_max(total, Ordering::Relaxed);
        }
        self.models.read(&view);
    }

    fn read_gauges(&self) {
        self.read_models();
        if let Some(relay) = self.relay.get() {
            relay.read();
        }
        if let Some(audit) = self.audit.get() {
            audit.read();
        }
        if let Some(replies) = self.replies.get() {
            replies.read();
        }
        if let Some(shared) = self.shared.get() {
            shared.read();
        }
        if let Some(keys) = self.keys.get() {
            keys.read();
        }
        if let Some(records) = self.records.get() {
            records.read();
        }
        if let Some(texts) = self.texts.get() {
            texts.read();
        }
        if let Some(spans) = self.spans.get() {
            spans.read();
        }
        let Some(watched) = self.watched.get() else {
            return;
        };
        self.endpoints.read(&watched.pools.borrow());
        self.edge.read(&watched.uplinks.borrow());
        let Some(pipeline) = watched.pipeline.upgrade() else {
            return;
        };
        self.failing.read(&pipeline);
        // No user is in a label.
        self.limits.read(&pipeline.limits());
        self.events.read(pipeline.queued_count());
        if let Some((stats, counts)) = pipeline.reuse_stats() {
            self.reuse.read(&stats, &counts);
        }
        for (result, count) in pipeline
            .shadow_counts()
            .iter()
            .flat_map(|it| it.by_result())
        {
            let labels = ResultLabels { result };
            sealed::raise(&self.shadows.get_or_create(&labels), count);
        }
        let readiness = pipeline.readiness();
        self.ready.set(i64::from(readiness.is_ready));
        self.offline.set(i64::from(readiness.is_offline));
        let in_flight = i64::try_from(pipeline.exchanges_count()).unwrap_or(i64::MAX);
        self.in_flight.set(in_flight);
        self.backends.clear();
        for (backend, health) in &readiness.backends {
            for known in [HealthState::Ready, HealthState::Starting, HealthState::Down] {
                let labels = BackendLabels {
                    backend: backend.clone(),
                    state: known.as_label(),
                };
                let is_it = i64::from(known == health.state);
                self.backends.get_or_create(&labels).set(is_it);
            }
        }
    }
}

impl FailureMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "retries",
            "Times that an upstream was asked again, since it had done nothing",
            self.retries.clone(),
        );
        registry.register(
            "fallbacks",
            "Answers of a further candidate, by why the first gave none",
            self.fallbacks.clone(),
        );
        registry.register(
            "hedges",
            "Second candidates started because the first was late, by who spoke first",
            self.hedges.clone(),
        );
        registry.register(
            "breaker_state",
            "1 for the state of a model's circuit breaker",
            self.breakers.clone(),
        );
        registry.register(
            "upstream_in_flight",
            "Chats under way at a model of an upstream",
            self.in_flight.clone(),
        );
    }

    fn count(&self, record: &ExchangeRecord) {
        self.retries.inc_by(u64::from(record.retries_count));
        if let (Some(_), Some((_, cause))) = (&record.route, record.failed_candidates.first()) {
            self.fallbacks.get_or_create(&CauseLabels { cause }).inc();
        }
        if let Some(hedge) = &record.hedge {
            let outcome = hedge.outcome.as_label();
            self.hedges.get_or_create(&HedgeLabels { outcome }).inc();
        }
    }

    /// The worst state and all chats of the models that no configuration names, for their names are
    /// callers' own.
    fn read(&self, pipeline: &Pipeline) {
        self.breakers.clear();
        self.in_flight.clear();
        let mut models: BTreeMap<(String, String), (BreakerState, u32)> = BTreeMap::new();
        for health in pipeline.health() {
            let model = if health.is_listed {
                health.model.as_str()
            } else {
                ANY_MODEL
            };
            let key = (health.backend.to_string(), model.to_owned());
            let known = models.entry(key).or_insert((BreakerState::Closed, 0));
            known.1 += health.in_flight;
            if health.state != BreakerState::Closed {
                known.0 = health.state;
            }
        }
        for ((backend, model), (state, in_flight)) in models {
            for known in BreakerState::ALL {
                let labels = BreakerLabels {
                    backend: backend.clone(),
                    model: model.clone(),
                    state: known.as_label(),
                };
                let is_it = i64::from(known == state);
                self.breakers.get_or_create(&labels).set(is_it);
            }
            let labels = UpstreamLabels { backend, model };
            self.in_flight
                .get_or_create(&labels)
                .set(i64::from(in_flight));
        }
    }
}

impl ModelGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "model_memory_budget_bytes",
            "Memory that the local models may have together",
            self.budget.clone(),
        );
        registry.register(
            "model_state",
            "1 for the state a local model is in",
            self.states.clone(),
        );
        registry.register(
            "model_memory_bytes",
            "Memory of a local model, foretold and as its process has it",
            self.memory.clone(),
        );
        registry.register(
            "model_requests",
            "Requests that a local model computes, and that wait for it",
            self.requests.clone(),
        );
        registry.register(
            "model_slots",
            "Requests that a local model can compute at once",
            self.slots.clone(),
        );
        registry.register(
            "model_tokens_per_second",
            "How fast a local model reads a prompt and writes each reply, as last measured",
            self.pace.clone(),
        );
        registry.register(
            "model_loads",
            "Loads of a local model, and those that failed",
            self.loads.clone(),
        );
        registry.register(
            "model_unloads",
            "Times a local model was unloaded, by cause",
            self.unloads.clone(),
        );
    }

    fn read(&self, view: &api::ModelsView) {
        self.states.clear();
        self.memory.clear();
        self.requests.clear();
        self.slots.clear();
        self.pace.clear();
        self.loads.clear();
        self.unloads.clear();
        self.budget.set(gauge(view.memory_bytes_max));
        for model in &view.models {
            for state in ModelState::ALL {
                let labels = ModelStateLabels {
                    model: model.name.clone(),
                    state: state.as_label(),
                };
                let is_it = i64::from(state == model.state);
                self.states.get_or_create(&labels).set(is_it);
            }
            let labels = |kind| ModelLabels {
                model: model.name.clone(),
                kind,
            };
            let resident = model.memory_bytes_resident.unwrap_or(0);
            for (gauges, kind, value) in [
                (&self.memory, "predicted", model.memory_bytes_predicted),
                (&self.memory, "resident", resident),
                (&self.requests, "running", u64::from(model.slots_busy)),
                (&self.requests, "waiting", u64::from(model.queued)),
            ] {
                gauges.get_or_create(&labels(kind)).set(gauge(value));
            }
            let name = ModelNameLabels {
                model: model.name.clone(),
            };
            let slots = i64::from(model.slots_max);
            self.slots.get_or_create(&name).set(slots);
            for (kind, pace) in [
                ("prompt", model.prompt_tokens_per_s),
                ("reply", model.reply_tokens_per_s),
            ] {
                if let Some(pace) = pace {
                    self.pace.get_or_create(&labels(kind)).set(pace);
                }
            }
            for (counters, kind, value) in [
                (&self.loads, "done", model.loads),
                (&self.loads, "failed", model.load_failures),
                (&self.unloads, "idle", model.idle_unloads),
                (&self.unloads, "memory", model.memory_unloads),
            ] {
                counters.get_or_create(&labels(kind)).inc_by(value);
            }
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl EndpointGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "pool_endpoint_state",
            "1 for the state an endpoint is in",
            self.states.clone(),
        );
        registry.register(
            "pool_endpoint_in_flight",
            "Chats of this node under way at an endpoint",
            self.in_flight.clone(),
        );
        registry.register(
            "pool_endpoint_reported",
            "Requests an endpoint said it has, running and waiting",
            self.reported.clone(),
        );
        registry.register(
            "pool_endpoint_chats",
            "Chats sent to an endpoint",
            self.chats.clone(),
        );
        registry.register(
            "pool_endpoint_failures",
            "Chats that failed at an endpoint or broke off",
            self.failures.clone(),
        );
        registry.register(
            "pool_endpoint_ejections",
            "Times an endpoint was left out",
            self.ejections.clone(),
        );
    }

    fn read(&self, pools: &[Arc<Pool>]) {
        self.states.clear();
        self.in_flight.clear();
        self.reported.clear();
        self.chats.clear();
        self.failures.clear();
        self.ejections.clear();
        for pool in pools {
            for view in pool.views() {
                let labels = EndpointLabels {
                    pool: pool.card().name.to_string(),
                    endpoint: view.label,
                };
                for state in EndpointState::ALL {
                    let labels = EndpointStateLabels {
                        pool: labels.pool.clone(),
                        endpoint: labels.endpoint.clone(),
                        state: state.as_label(),
                    };
                    let is_it = i64::from(state == view.state);
                    self.states.get_or_create(&labels).set(is_it);
                }
                let in_flight = i64::from(view.in_flight);
                self.in_flight.get_or_create(&labels).set(in_flight);
                if let Some(load) = view.load_reported {
                    self.reported.get_or_create(&labels).set(i64::from(load));
                }
                self.chats.get_or_create(&labels).inc_by(view.chats);
                self.failures.get_or_create(&labels).inc_by(view.failures);
                self.ejections.get_or_create(&labels).inc_by(view.ejections);
            }
        }
    }
}

impl Scrape for Metrics {
    fn text(&self) -> String {
        // First, for what is read is cleared and counted up again: two at once would count double.
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_gauges();
        // The doors' own counters follow.
        registry.text()
    }
}

impl RecordSink for Metrics {
    fn append(&self, record: &ExchangeRecord) {
        let route = route(record);
        if record.shadow.is_some() {
            // No caller's: it is paid for, and no more.
            return self.count_cost(record);
        }
        self.exchanges
            .get_or_create(&ExchangeLabels {
                route,
                outcome: record.outcome.as_label(),
                cache: record.cache.as_label(),
            })
            .inc();
        if let Outcome::Refused(fault) | Outcome::BrokenOff(fault) = record.outcome {
            self.faults.get_or_create(&FaultLabels { fault }).inc();
        }
        for (backend, error) in &record.failed_candidates {
            self.failures
                .get_or_create(&CandidateLabels {
                    backend: backend.to_string(),
                    error,
                })
                .inc();
        }
        self.failing.count(record);
        self.count_tokens(record, route);
        self.count_cost(record);
        self.count_saved(record);
        self.count_rescues(record);
        self.masked.inc_by(u64::from(record.masked_count));
        let labels = RouteLabels { route };
        self.took
            .get_or_create(&labels)
            .observe(record.took.as_secs_f64());
        if let Some(after) = record.first_content_after {
            self.first_content
                .get_or_create(&labels)
                .observe(after.as_secs_f64());
        }
    }
}

impl Metrics {
    fn count_rescues(&self, record: &ExchangeRecord) {
        for by in &record.rescued_by {
            let route = if by.is_local { "local" } else { "cloud" };
            self.rescues.get_or_create(&RouteLabels { route }).inc();
        }
        if let Some(why) = record.unrescued {
            self.unrescued.get_or_create(&WhyLabels { why }).inc();
        }
    }

    fn count_saved(&self, record: &ExchangeRecord) {
        if let Some(saved) = record.saved {
            let cache = record.cache.as_label();
            let micros = u64::try_from(saved.0).unwrap_or(0);
            let saved = self.saved.get_or_create(&CacheLabels { cache });
            saved.inc_by(micros);
        }
    }

    fn count_cost(&self, record: &ExchangeRecord) {
        let Some(route) = record.route.as_ref().filter(|route| !route.is_local) else {
            return;
        };
        let labels = CostLabels {
            backend: route.backend.to_string(),
        };
        match record.cost {
            Some(cost) => {
                let micros = u64::try_from(cost.0).unwrap_or(0);
                self.cost.get_or_create(&labels).inc_by(micros);
            }
            None => {
                self.unpriced.get_or_create(&labels).inc();
            }
        }
    }

    fn count_tokens(&self, record: &ExchangeRecord, route: Label) {
        let Some(usage) = record.usage else {
            return;
        };
        let counts = [
            ("prompt", usage.prompt_tokens.0),
            ("completion", usage.completion_tokens.0),
        ];
        for (kind, count) in counts {
            self.tokens
                .get_or_create(&TokenLabels { route, kind })
                .inc_by(u64::from(count));
        }
        // Of those: read and not computed again; and not seen any more at the end.
        let parts = [
            ("prompt_cached", usage.cached_tokens.0),
            ("dropped", usage.dropped_tokens.0),
        ];
        for (kind, count) in parts {
            self.tokens
                .get_or_create(&TokenLabels { route, kind })
                .inc_by(u64::from(count));
        }
        if matches!(route, "local" | "cache") {
            let all = counts.iter().map(|(_, count)| u64::from(*count)).sum();
            self.spared
                .get_or_create(&RouteLabels { route })
                .inc_by(all);
        }
    }
}

/// Who answered: `local`, `cloud`, `cache` or `none`.
pub fn route(record: &ExchangeRecord) -> Label {
    match (&record.route, record.cache) {
        (_, cache) if cache.is_reuse() => "cache",
        (Some(route), _) if route.is_local => "local",
        (Some(_), _) => "cloud",
        (None, _) => "none",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use domain::{CacheOutcome, HedgeOutcome, HedgeRecord, MicroUsd, RouteTaken, Tokens, Usage};

    use super::*;

    fn record(is_local: bool, cache: CacheOutcome) -> ExchangeRecord {
        ExchangeRecord {
            request_id: "r".into(),
            key: None,
            team: "t".into(),
            ended_us: 0,
            marks: domain::Marks::default(),
            model_asked: "auto".into(),
            route: Some(RouteTaken {
                backend: if is_local { "local" } else { "cloudy" }.into(),
                model: "m".into(),
                is_local,
            }),
            reason: String::new(),
            cache,
            outcome: Outcome::Answered,
            usage: Some(Usage {
                prompt_tokens: Tokens(7),
                completion_tokens: Tokens(3),
                dropped_tokens: Tokens(5),
                ..Usage::default()
            }),
            is_usage_counted: false,
            cost: (!is_local).then_some(MicroUsd(25)),
            saved: None,
            masked_count: 2,
            first_content_after: Some(Duration::from_millis(20)),
            took: Duration::from_millis(40),
            retries_count: 2,
            hedge: Some(HedgeRecord {
                outcome: HedgeOutcome::Won,
                loser: RouteTaken {
                    backend: "slow".into(),
                    model: "m".into(),
                    is_local: false,
                },
                loser_cost: None,
            }),
            failed_candidates: vec![("cloudy".into(), "unreachable")],
            rescued_by: Vec::new(),
            unrescued: None,
            shares: Vec::new(),
            counterfactual: None,
            shadow: None,
            trace: None,
        }
    }

    #[test]
    fn a_scrape_shows_what_was_spared_and_what_failed() {
        let metrics = Metrics::default();
        metrics.append(&record(true, CacheOutcome::Missed));
        metrics.append(&record(true, CacheOutcome::HitExact));
        metrics.append(&record(false, CacheOutcome::Missed));
        let text = metrics.text();
        for line in [
            r#"hedge_exchanges_total{route="local",outcome="answered",cache="missed"} 1"#,
            r#"hedge_tokens_spared_total{route="local"} 10"#,
            r#"hedge_tokens_spared_total{route="cache"} 10"#,
            r#"hedge_cost_microusd_total{backend="cloudy"} 25"#,
            r#"hedge_tokens_total{route="cloud",kind="completion"} 3"#,
            r#"hedge_tokens_total{route="local",kind="dropped"} 5"#,
            r#"hedge_candidate_failures_total{backend="cloudy",error="unreachable"} 3"#,
            r#"hedge_retries_total 6"#,
            r#"hedge_fallbacks_total{cause="unreachable"} 3"#,
            r#"hedge_hedges_total{outcome="won"} 3"#,
            r#"hedge_masked_values_total 6"#,
            r#"hedge_first_content_seconds_bucket{le="0.025",route="local"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains(r#"spared_total{route="cloud"}"#));
        assert!(!text.contains("# EOF"), "the doors' counters follow");
    }
}
