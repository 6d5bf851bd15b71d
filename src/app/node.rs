//! A running node: what is started, in which order, and how it ends.
//!
//! ```text
//! listen ─► pipeline, api, recorder ─► models load while we serve ─► until a signal or an early end
//! end: readiness false, listeners close ─► exchanges drain ─► engines stop ─► recorder flushes
//! ```
//! A driver that ends early takes the node down in order, not silently.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use api::gateway::{Gateway, GatewayBooks};
use api::{AdminTokens, Api, BodyLimits, FloodConfig, IngressConfig, LoadLimits, Rights, SignIn};
use domain::{
    AuditLog, CacheStore, KeyDirectory, Limit, LimitWatch, Marker, Quotas, RecordRights, RecordSink,
};
use futures::future::join_all;
use oidc::Provider;
use pipeline::{Parts, Pipeline, Shadows, Tracer};
use policy::CacheSecret;
use providers::{Pool, TcpKnock, Transport};
use store::{
    AuditCopier, CopyState, MokaReplies, MokaResponses, Outbox, REPLY_LEASE, RecordDesk,
    RecordEraser, RecordReader, SharedKeyRules, SharedMarks, SharedQuotas, SharedReplies,
    SharedReplyRules, SubjectSecret,
};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::assembly::Assembly;
use crate::config::{AdminListen, Config, ConfigFault, ConfigFaults};
use crate::embedder::{Arrival, EncoderModel, Encoders};
use crate::events::Events;
use crate::fleet::{Fleet, News};
use crate::keys::{Keys, OfFile};
use crate::local::Located;
use crate::metrics::Metrics;
use crate::otel::Otel;
use crate::quotas::{CountedUsers, Counts};
use crate::retention::{self, Retention};
use crate::reuse;
use crate::sealed::{Changes, Chronicle, Edges, Gatehouse, Keeper, Uplink};
use crate::signals::Word;
use crate::tasks::TaskSet;
use crate::telemetry::log_sink;

const CLIENTS: &str = "clients' listener";
const ADMIN: &str = "admin listener";
const RECORDER: &str = "recorder";
const ENGINE: &str = "local engine";
const EMBEDDER: &str = "embedder";
const CHRONICLE: &str = "audit log";
const AUDIT_COPIES: &str = "copier of the audit log";
const EVENTS: &str = "teller of events";
const COUNTS: &str = "keeper of limits";
const KEYS: &str = "keeper of keys";
const KEYS_OF_OTHERS: &str = "follower of others' keys";
const REPLIES: &str = "keeper of shared replies";
const SHARED: &str = "counter of shared limits";
const RECORDS: &str = "keeper of records";
const TEXTS: &str = "keeper of texts";
const TEXTS_TENDED: &str = "texts' file";
const TELEMETRY: &str = "telemetry";
const SHADOWS: &str = "asker of shadows";
const LEARNER: &str = "cache's learner";
const ENTRIES: &str = "cache's file";
const METRONOME: &str = "metronome";
const POOLS: &str = "pools' watch";
const UPLINKS: &str = "relays' watch";
const KEPT: &str = "kept connections' watch";
const LINK: &str = "link's watch";
const GATEWAY: &str = "edges' listener";
const GATEWAY_KEYS: &str = "relay's keys";
const GATEWAY_EDGES: &str = "edges' watch";
const GATEWAY_KEEPER: &str = "relay's keeper";
/// Shorter than any time-out of an exchange, and 20 wake-ups a second are nothing.
const BEAT: Duration = Duration::from_millis(50);
/// Connections that wait to be accepted. The system may set a lower bound (`net.core.somaxconn`).
const BACKLOG_MAX: u32 = 4_096;
/// For a Redis that began anew replicas wait a second for each other.
const SHARED_MAX: Duration = Duration::from_secs(3);
/// For the engine to leave its step and the recorder to write its last lines.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// The addresses a node answers on.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// `None` at a relay that has no callers of its own.
    pub clients: Option<SocketAddr>,
    /// Where edges connect to a relay.
    pub edges: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

type Pools = Vec<Arc<Pool>>;
type Uplinks = Vec<Arc<Uplink>>;

/// A node that serves.
pub struct Node {
    pub addresses: Addresses,
    tasks: TaskSet,
    stop: CancellationToken,
    api: Arc<Api>,
    metrics: Arc<Metrics>,
    pipeline: Arc<Pipeline>,
    keys: Arc<Keys>,
    assembly: Assembly,
    secret: CacheSecret,
    transport: Transport,
    /// Those in force, for the task that watches them and for metrics.
    pools: watch::Sender<Pools>,
    uplinks: watch::Sender<Uplinks>,
    chronicle: Arc<Chronicle>,
    /// The audit log was written to its end.
    copied: CancellationToken,
    fleet: Arc<Fleet>,
    news: mpsc::Receiver<News>,
    encoders: Encoders,
    counts: Arc<Counts>,
    /// Ends the keeper of limits, once nobody counts any more.
    counted: CancellationToken,
    /// `None` where none are kept.
    records: Option<Records>,
    retention: Retention,
    /// Ends what sends telemetry, once there is no more of it.
    measured: CancellationToken,
    relay: Option<Relaying>,
    /// Ends what has no end of its own and holds on to the pipeline, once nobody is answered any more.
    closed: CancellationToken,
}

/// What is kept of exchanges, and who reads it.
struct Records {
    desk: Arc<RecordDesk>,
    reader: Arc<RecordReader>,
}

/// What a node that is a relay has beside.
struct Relaying {
    keeper: Keeper,
    books: Arc<GatewayBooks>,
    edges: Arc<Edges>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Listens and serves; models go on loading behind it.
    ///
    /// # Errors
    /// The configuration has faults that only now show, or an address cannot be had.
    pub async fn start(
        config: &Config,
        located: &Located,
        encoders: Vec<EncoderModel>,
        transport: Transport,
    ) -> anyhow::Result<Self> {
        let mut tasks = TaskSet::default();
        let chronicle = Arc::new(Chronicle::default());
        let audit: Arc<dyn AuditLog> = Arc::clone(&chronicle) as _;
        let assembly = Assembly::build(config, &located.cards(), &transport, &audit)?;
        tasks.spawn(CHRONICLE, chronicle.keep(config.audit.clone()));
        let copied = CancellationToken::new();
        let copies = copy_audit(config, &chronicle, &mut tasks, &copied);
        open_chronicle(&chronicle, config)?;
        for warning in assembly.warnings() {
            warn!(%warning, "configuration");
        }
        let gatehouse = gatehouse(config)?;
        let clients = config.listen.map(bind).transpose()?;
        let admin = bind_admin(config.admin)?;
        let edges = config
            .gateway
            .as_ref()
            .map(|gateway| bind_edges(gateway.listen));
        let edges = edges.transpose()?;
        let address_of = |listener: &TcpListener| listener.local_addr().ok();
        let addresses = Addresses {
            clients: clients.as_ref().and_then(address_of),
            edges: edges.as_ref().and_then(address_of),
            admin: admin.as_ref().and_then(address_of),
        };
        let books = gatehouse
            .is_some()
            .then(|| GatewayBooks::new(Arc::clone(&audit)));

        let metrics = Arc::new(Metrics::default());
        let webhook = config.webhook.clone();
        let (events, telling) = Events::new(webhook, transport.client(), metrics.events());
        let counted = CancellationToken::new();
        let outbox = has_outbox(config).then(Arc::<Outbox>::default);
        let counts = start_counts(
            config,
            Arc::new(events),
            outbox.clone(),
            &mut tasks,
            &counted,
        )?;
        let secret = reuse::secret(config);
        let (fleet, models, news) = Fleet::new(located);
        let dimensions = encoders.iter().find_map(EncoderModel::compares);
        let mut reuse = None;
        if let Some((settings, dimensions)) = config.cache.reuse.as_ref().zip(dimensions) {
            let reusing = reuse::open(config, settings, dimensions).await;
            tasks.spawn(LEARNER, reusing.learner.run());
            if let Some(writing) = reusing.writing {
                tasks.spawn(ENTRIES, writing);
            }
            reuse = Some(reusing.reuse);
        }
        let encoders = Encoders::new(encoders);
        let changes = Arc::new(Changes(Arc::clone(&chronicle)));
        let (keys, keeping) = Keys::open(
            OfFile::of(config),
            &config.data_dir,
            shared_keys(config),
            Arc::clone(&changes) as _,
            Arc::clone(&counts),
        )
        .await?;
        let (retention, text_writer) = Retention::new(config);
        let policy = retention::policy_of(config).await;
        retention.apply(
            config,
            policy.map_err(|fault| ConfigFaults(vec![fault]))?,
            &metrics,
        );
        let mut sinks: Vec<Arc<dyn RecordSink>> = vec![log_sink(), Arc::clone(&metrics) as _];
        sinks.extend(books.iter().map(|books| Arc::clone(books) as _));
        let records = open_records(config, outbox, &metrics, &mut tasks);
        sinks.extend(records.iter().map(|it| Arc::clone(&it.desk) as _));
        let measured = CancellationToken::new();
        sinks.extend(open_telemetry(config, &metrics, &mut tasks, &measured)?);
        let (shadows, shadower) = Shadows::new();
        let (pipeline, recorder) = Pipeline::new(Parts {
            snapshot: encoders.put_into(assembly.snapshot(fleet.backends(), &secret), config),
            cache: open_cache(config, &metrics, &mut tasks, &counted)?,
            reuse,
            shadows: Some(shadows),
            keys: Arc::clone(&keys) as Arc<dyn KeyDirectory>,
            quotas: Some(counts.quotas()),
            queueing: config.limits.queueing,
            sinks,
            exchanges_max: config.limits.exchanges_max,
        });
        let pipeline = match &config.telemetry {
            Some(settings) => pipeline.traced_by(Tracer::new(settings.sample)),
            None => pipeline,
        };
        let pipeline = Arc::new(pipeline.keeping(Arc::clone(&retention.texts)));
        let (pools, in_force) = watch::channel(assembly.pools().to_vec());
        let (uplinks, sealing) = watch::channel(assembly.uplinks().to_vec());
        let weak = Arc::downgrade(&pipeline);
        metrics.watch(weak, in_force.clone(), sealing.clone());
        metrics.watch_models(Arc::clone(&fleet));
        metrics.watch_audit(Arc::clone(&chronicle), copies);
        let scrape = Arc::clone(&metrics) as _;
        let api = Api::new(Arc::clone(&pipeline), scrape, ingress(config));
        let api = api
            .with_board(Arc::clone(&fleet) as _)
            .with_desk(Arc::clone(&keys) as _)
            .with_changes(changes);
        api.set_tokens(AdminTokens::new(config.admin_tokens.clone()));
        api.set_sign_in(sign_in(config, &transport));
        let api = api.with_rights(rights(config, records.as_ref(), &counts));
        let api = match &records {
            Some(records) => api.with_records(Arc::clone(&records.reader) as _),
            None => api,
        };
        let api = api.with_texts(Arc::clone(&retention.vault) as _);
        let api = match &config.responses {
            Some(kept) => api.with_shelf(Arc::new(MokaResponses::new(kept.bytes_max, kept.ttl))),
            None => api,
        };
        let api = Arc::new(api);

        let stop = CancellationToken::new();
        tasks.spawn(RECORDER, recorder.run());
        tasks.spawn(TEXTS, text_writer.run());
        let tending = Arc::clone(&retention.vault).run();
        tasks.spawn(TEXTS_TENDED, until(&counted, tending));
        // None is begun any more once the node stops.
        tasks.spawn(SHADOWS, until(&stop, shadower.run()));
        tasks.spawn(METRONOME, metronome());
        tasks.spawn(KEYS, keeping.keeper.run());
        if let Some(follower) = keeping.follower {
            tasks.spawn(KEYS_OF_OTHERS, until(&counted, follower));
            let keys = Arc::clone(&keys);
            metrics.watch_keys(Arc::new(move || keys.shared().unwrap_or_default()));
        }
        tasks.spawn(COUNTS, Arc::clone(&counts).keep(counted.clone()));
        if let Some(telling) = telling {
            tasks.spawn(EVENTS, telling.run(counted.clone()));
        }
        tasks.spawn(POOLS, watch_pools(in_force));
        tasks.spawn(UPLINKS, tend_uplinks(sealing));
        let kept = transport.clone();
        tasks.spawn(KEPT, async move { kept.tend().await });
        if config.offline.is_enabled {
            let (link, rules) = (Arc::clone(transport.link()), config.offline.rules);
            tasks.spawn(LINK, async move { link.watch(rules, &TcpKnock).await });
        }
        if let Some(quotas) = counts.with_others() {
            metrics.watch_shared(Arc::clone(quotas));
            await_others(quotas, &keys.limits()).await;
        }
        if let Some(clients) = clients {
            let serving = Arc::clone(&api).serve_client(clients, stop.clone());
            tasks.spawn(CLIENTS, serving);
        }
        if let Some(admin) = admin {
            tasks.spawn(ADMIN, Arc::clone(&api).serve_admin(admin, stop.clone()));
        }
        let closed = CancellationToken::new();
        let mut relay = None;
        if let (Some(gatehouse), Some(edges), Some(books)) = (gatehouse, edges, books) {
            let relaying = Relaying {
                keeper: gatehouse.keeper.clone(),
                edges: Arc::clone(&gatehouse.edges),
                books,
            };
            let driving = Driving {
                stop: &stop,
                closed: &closed,
                metrics: &metrics,
            };
            relaying.start(gatehouse, edges, &api, &mut tasks, &driving)?;
            relay = Some(relaying);
        }
        // Nobody waits for it: without it the first long prompt is routed a little later.
        drop(tokio::task::spawn_blocking(policy::warm_up));
        tasks.spawn(ENGINE, models.run());
        // Begins when the node runs, which is next.
        Ok(Self {
            addresses,
            tasks,
            stop,
            api,
            metrics,
            pipeline,
            keys,
            assembly,
            secret,
            transport,
            pools,
            uplinks,
            chronicle,
            copied,
            fleet,
            news,
            encoders,
            counts,
            counted,
            records,
            retention,
            measured,
            relay,
            closed,
        })
    }

    /// Whether callers need a key.
    #[must_use]
    pub fn asks_for_keys(&self) -> bool {
        self.keys.is_required()
    }

    /// Serves until told to stop, then ends in order. `next` waits for the operator's next word, and
    /// `reload` reads the configuration anew.
    ///
    /// # Errors
    /// The engine could not be loaded, or a driver ended early.
    pub async fn run(
        mut self,
        mut next: impl AsyncFnMut() -> Word,
        reload: impl Fn() -> Result<Config, ConfigFaults>,
    ) -> anyhow::Result<()> {
        let end = loop {
            tokio::select! {
                word = next() => match word {
                    Word::Stop => break Ok(()),
                    Word::Reload => self.reload(reload()).await,
                },
                Some(ended) = self.tasks.next_ended() => {
                    break Err(anyhow!("the {} ended early", ended.name));
                }
                Some(news) = self.news.recv() => match news {
                    News::Learned => self.publish(),
                    News::Broken(error) => {
                        let error = anyhow::Error::new(error);
                        break Err(error.context("the local model could not be loaded"));
                    }
                },
                arrival = self.encoders.next() => {
                    if let Err(error) = self.take_encoder(arrival) {
                        break Err(error);
                    }
                }
            }
        };
        info!("stopping; running exchanges may finish, a second signal ends at once");
        tokio::select! {
            () = self.drain() => {}
            () = until_stop(&mut next) => warn!("ended at once; running exchanges were dropped"),
        }
        end
    }

    fn take_encoder(&mut self, arrival: Arrival) -> anyhow::Result<()> {
        if let Some(taken) = self.encoders.take(arrival)? {
            if let Some(ends) = taken.ends {
                self.metrics.watch_encoder(ends);
            }
            self.tasks.spawn(EMBEDDER, taken.driver);
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let snapshot = self.assembly.snapshot(self.fleet.backends(), &self.secret);
        let snapshot = self.encoders.put_into(snapshot, self.assembly.config());
        self.pipeline.reload(snapshot);
    }

    /// Routes, aliases, upstreams, pools, keys, privacy and cache rules, whole or not at all. Addresses,
    /// limits and models stay as they are until the next start.
    async fn reload(&mut self, config: Result<Config, ConfigFaults>) {
        let cards = self.fleet.cards();
        let audit: Arc<dyn AuditLog> = Arc::clone(&self.chronicle) as _;
        let assembly =
            config.and_then(|config| Assembly::build(&config, &cards, &self.transport, &audit));
        let assembly = assembly.and_then(|assembly| {
            let fault = |path: &str, error: anyhow::Error| {
                let (path, message) = (path.to_owned(), format!("{error:#}"));
                ConfigFaults(vec![ConfigFault { path, message }])
            };
            let config = assembly.config();
            let opened = open_counts(&self.counts, config);
            opened.map_err(|error| fault("organisation.limits", error))?;
            let opened = open_chronicle(&self.chronicle, config);
            opened.map_err(|error| fault("audit", error))?;
            Ok(assembly)
        });
        let mut policy = None;
        let assembly = match assembly {
            Ok(assembly) => match retention::policy_of(assembly.config()).await {
                Ok(fetched) => {
                    policy = fetched;
                    Ok(assembly)
                }
                Err(fault) => Err(ConfigFaults(vec![fault])),
            },
            Err(faults) => Err(faults),
        };
        let assembly = match assembly {
            Ok(assembly) => {
                // The last that may be refused: from here on all of it is in force.
                let of_file = OfFile::of(assembly.config());
                let reloaded = self.keys.reload(of_file).await;
                reloaded.map(|()| assembly).map_err(ConfigFaults)
            }
            Err(faults) => Err(faults),
        };
        match assembly {
            Ok(mut assembly) => {
                assembly.keep_pools(&self.assembly);
                assembly.keep_uplinks(&self.assembly);
                self.uplinks.send_replace(assembly.uplinks().to_vec());
                self.pools.send_replace(assembly.pools().to_vec());
                let tokens = assembly.config().admin_tokens.clone();
                self.api.set_tokens(AdminTokens::new(tokens));
                // As long as nothing of it changes, sessions go on.
                if assembly.config().oidc != self.assembly.config().oidc {
                    let sign_in = sign_in(assembly.config(), &self.transport);
                    self.api.set_sign_in(sign_in);
                }
                if let Some(records) = &self.records {
                    let reference = assembly.config().reference.as_ref();
                    let named = reference.map(|it| it.model.clone());
                    records.reader.name_reference(named);
                }
                self.retention
                    .apply(assembly.config(), policy, &self.metrics);
                self.assembly = assembly;
                // What was cached under other routes, aliases or privacy rules is not served again.
                self.secret = reuse::renewed(&self.secret, self.assembly.config());
                self.publish();
                self.relay.as_ref().map(Relaying::reload);
                info!("configuration reloaded");
            }
            Err(faults) => {
                for fault in &faults.0 {
                    error!(%fault, "configuration not reloaded");
                }
            }
        }
    }

    async fn drain(mut self) {
        // The listeners wait for their exchanges, for as long as the grace lasts.
        self.stop.cancel();
        self.tasks.until_ended(&[CLIENTS, ADMIN, GATEWAY]).await;
        self.closed.cancel();
        self.fleet.stop();
        self.encoders.stop();
        let mut tasks = self.tasks;
        // The recorder ends when nobody can leave a record any more.
        drop((self.api, self.pipeline, self.fleet, self.encoders));
        let rest = tasks.until_ended(&[
            RECORDER,
            LEARNER,
            ENTRIES,
            ENGINE,
            EMBEDDER,
            GATEWAY_KEYS,
            GATEWAY_KEEPER,
        ]);
        if tokio::time::timeout(FINISH_MAX, rest).await.is_err() {
            warn!("not everything ended in time");
        }
        self.retention.texts.close();
        let kept = tasks.until_ended(&[TEXTS]);
        if tokio::time::timeout(FINISH_MAX, kept).await.is_err() {
            warn!("prompts and replies were not written in time");
        }
        self.measured.cancel();
        let sent = tasks.until_ended(&[TELEMETRY]);
        if tokio::time::timeout(FINISH_MAX, sent).await.is_err() {
            warn!("telemetry was not sent in time");
        }
        self.keys.close().await;
        let kept = tasks.until_ended(&[KEYS]);
        if tokio::time::timeout(FINISH_MAX, kept).await.is_err() {
            warn!("the days on which keys were used were not written down in time");
        }
        self.counted.cancel();
        let kept = tasks.until_ended(&[
            COUNTS,
            SHARED,
            EVENTS,
            KEYS_OF_OTHERS,
            REPLIES,
            TEXTS_TENDED,
        ]);
        if tokio::time::timeout(FINISH_MAX, kept).await.is_err() {
            warn!("what was used of limits was not written down in time");
        }
        self.retention.vault.close().await;
        if let Some(records) = &self.records {
            records.desk.close();
            let written = tasks.until_ended(&[RECORDS]);
            if tokio::time::timeout(FINISH_MAX, written).await.is_err() {
                warn!("records of exchanges were not written in time");
            }
        }
        self.chronicle.close();
        let written = tasks.until_ended(&[CHRONICLE]);
        if tokio::time::timeout(FINISH_MAX, written).await.is_err() {
            warn!("the audit log was not written in time");
        }
        if let Some(relay) = self.relay {
            relay.keeper.write_spending(&relay.books);
        }
        self.copied.cancel();
        let copied = tasks.until_ended(&[AUDIT_COPIES]);
        if tokio::time::timeout(FINISH_MAX, copied).await.is_err() {
            warn!("the audit log was not copied in time");
        }
        info!("stopped");
    }
}

/// Where records are shared, the lines of the audit log are copied to.
fn copy_audit(
    config: &Config,
    chronicle: &Arc<Chronicle>,
    tasks: &mut TaskSet,
    copied: &CancellationToken,
) -> Option<Arc<CopyState>> {
    let (rules, address) = config.audit.as_ref().zip(config.store.postgres.clone())?;
    let records = config.records.as_ref();
    let chronicle = Arc::clone(chronicle);
    let synced = move || chronicle.synced();
    let name_dir = records.map_or(&rules.dir, |records| &records.dir);
    let (copier, state) = AuditCopier::new(&rules.dir, name_dir, address, synced);
    tasks.spawn(AUDIT_COPIES, copier.run(copied.clone().cancelled_owned()));
    Some(state)
}

/// A node that seals or opens writes down that it did.
fn open_chronicle(chronicle: &Chronicle, config: &Config) -> anyhow::Result<()> {
    let is_sealing = config.gateway.is_some() || !config.relays.is_empty();
    let Some(rules) = config.audit.as_ref().filter(|_| is_sealing) else {
        return Ok(());
    };
    chronicle.open().with_context(|| {
        format!(
            "cannot open the audit log in {}; set audit.dir to a folder of this node's own, or \
             audit.enabled = false to keep none",
            rules.dir.display()
        )
    })
}

/// Where keys are that replicas share; `None` where this node keeps its own.
fn shared_keys(config: &Config) -> Option<SharedKeyRules> {
    let redis = config.store.redis.as_ref();
    Some(SharedKeyRules {
        postgres: config.store.postgres.clone()?,
        redis: redis.map(|it| (it.address.clone(), it.prefix.clone())),
        fresh: rand::random(),
    })
}

/// File or Postgres are opened behind it: a place that is dead keeps no node from answering.
fn open_records(
    config: &Config,
    outbox: Option<Arc<Outbox>>,
    metrics: &Metrics,
    tasks: &mut TaskSet,
) -> Option<Records> {
    let rules = config.records.as_ref()?;
    let calendar = config.quotas.calendar.clone();
    let (reader, (desk, writer)) = match &config.store.postgres {
        Some(address) => (
            RecordReader::shared(address.clone(), calendar),
            RecordDesk::shared(rules.clone(), address.clone(), outbox),
        ),
        None => (
            RecordReader::new(&rules.dir, calendar),
            RecordDesk::new(rules.clone()),
        ),
    };
    reader.name_reference(config.reference.as_ref().map(|it| it.model.clone()));
    let reader = reader.beside(Arc::clone(&desk));
    metrics.watch_records(Arc::clone(&desk), config.store.postgres.is_some());
    tasks.spawn(RECORDS, writer.run());
    Some(Records {
        desk,
        reader: Arc::new(reader),
    })
}

/// Replies for the same request: this node's alone, or also others'.
fn open_cache(
    config: &Config,
    metrics: &Metrics,
    tasks: &mut TaskSet,
    counted: &CancellationToken,
) -> anyhow::Result<Arc<dyn CacheStore>> {
    let cache = &config.cache;
    let Some(shared) = &cache.shared else {
        return Ok(Arc::new(MokaReplies::new(cache.bytes_max)));
    };
    let (replies, driver) = SharedReplies::new(SharedReplyRules {
        redis: shared.address.clone(),
        prefix: shared.prefix.clone(),
        far_bytes_max: shared.bytes_max,
        near_bytes_max: cache.bytes_max,
        look_max: shared.look_max,
        lease: REPLY_LEASE,
    });
    let replies = Arc::new(replies);
    metrics.watch_replies(Arc::clone(&replies));
    tasks.spawn(REPLIES, until(counted, driver.run()));
    Ok(replies)
}

/// What finds and removes what is somebody's.
fn rights(config: &Config, records: Option<&Records>, counts: &Arc<Counts>) -> Rights {
    let reuse = config.cache.reuse.as_ref();
    let folder = config.records.as_ref().map(|rules| rules.dir.as_path());
    let folder = folder.or_else(|| reuse?.dir.as_deref());
    let (secret, is_marking) = match folder.map(SubjectSecret::open) {
        // What is marked does not outlive the process either.
        None => (SubjectSecret::fresh(), true),
        Some(Ok(secret)) => (secret, true),
        Some(Err(error)) => {
            let folder = folder.map(|it| it.display().to_string());
            warn!(folder, %error, "the secret in subjects.key can be neither read nor made; records and \
                replies that are kept from now on do not say whose they are, and are not found by it");
            (SubjectSecret::fresh(), false)
        }
    };
    let eraser = records
        .zip(config.records.as_ref())
        .map(|(records, rules)| {
            let (desk, dir, secret) = (Arc::clone(&records.desk), &rules.dir, secret.clone());
            let eraser = match &config.store.postgres {
                Some(address) => RecordEraser::shared(desk, dir, address.clone(), secret),
                None => RecordEraser::new(desk, dir, secret),
            };
            Arc::new(eraser) as Arc<dyn RecordRights>
        });
    let marker: Arc<dyn Marker> = match reuse::shared_marks(config) {
        Some(on_replies) => Arc::new(SharedMarks::new(secret, on_replies)),
        None => Arc::new(secret),
    };
    Rights {
        marker,
        records: eraser,
        counts: Arc::new(CountedUsers(Arc::clone(counts))),
        is_marking,
    }
}

/// With whom operators sign in, and who they are then; `None` where nobody does.
fn sign_in(config: &Config, transport: &Transport) -> Option<Arc<SignIn>> {
    let settings = config.oidc.clone()?;
    let provider = Provider::new(settings.provider, transport.client().clone());
    Some(Arc::new(SignIn::new(Arc::new(provider), settings.rules)))
}

/// What sends spans and measures; `None` where nobody is told of any.
fn open_telemetry(
    config: &Config,
    metrics: &Metrics,
    tasks: &mut TaskSet,
    measured: &CancellationToken,
) -> anyhow::Result<Option<Arc<dyn RecordSink>>> {
    let Some(settings) = &config.telemetry else {
        return Ok(None);
    };
    let http = crate::client::build().context("cannot set up the HTTP client for telemetry")?;
    let (otel, exporter) = Otel::new(settings, http.client);
    metrics.watch_spans(otel.counts());
    tasks.spawn(TELEMETRY, exporter.run(measured.clone()));
    Ok(Some(Arc::new(otel)))
}

/// What counts what is used, and what it goes on from.
fn start_counts(
    config: &Config,
    watch: Arc<dyn LimitWatch>,
    outbox: Option<Arc<Outbox>>,
    tasks: &mut TaskSet,
    counted: &CancellationToken,
) -> anyhow::Result<Arc<Counts>> {
    let (data_dir, calendar) = (&config.data_dir, config.quotas.calendar.clone());
    let Some(redis) = &config.store.redis else {
        let users_max = config.limits.user_accounts_max;
        let counts = Arc::new(Counts::new(data_dir, calendar, users_max, watch));
        open_counts(&counts, config)?;
        return Ok(counts);
    };
    let (counts, driver) = Counts::shared(data_dir, calendar, redis, watch, outbox);
    open_counts(&counts, config)?;
    let counted = counted.clone();
    tasks.spawn(SHARED, driver.run(async move { counted.cancelled().await }));
    Ok(Arc::new(counts))
}

/// Costs are counted in one place and records go to another, so each that is counted there keeps its record.
fn has_outbox(config: &Config) -> bool {
    let store = &config.store;
    config.records.is_some() && store.redis.is_some() && store.postgres.is_some()
}

/// Waits until limits are counted with the other replicas, for as long as that takes at most where all is
/// well. One that cannot ask them yet is no reason not to serve.
async fn await_others(quotas: &SharedQuotas, limits: &[Limit]) {
    if tokio::time::timeout(SHARED_MAX, quotas.until_shared())
        .await
        .is_ok()
    {
        // Whoever asks what is left gets an answer of theirs.
        quotas.left(limits);
    }
}

/// A node that has limits goes on from what was used of them.
fn open_counts(counts: &Counts, config: &Config) -> anyhow::Result<()> {
    if !config.has_limits() {
        return Ok(());
    }
    counts.open().with_context(|| {
        format!(
            "cannot go on from what was used of limits: {} cannot be opened; if another hedge runs \
             here, give one of them another XDG_DATA_HOME, and if the file is damaged, move it away \
             to begin anew",
            counts.path().display()
        )
    })
}

/// What the tasks of a relay are told by, and tell.
struct Driving<'a> {
    stop: &'a CancellationToken,
    closed: &'a CancellationToken,
    metrics: &'a Metrics,
}

impl Relaying {
    fn start(
        &self,
        gatehouse: Gatehouse,
        listener: TcpListener,
        api: &Arc<Api>,
        tasks: &mut TaskSet,
        driving: &Driving<'_>,
    ) -> anyhow::Result<()> {
        self.keeper.restore(&self.books);
        let (gateway, turning) = Gateway::new(
            Arc::clone(api),
            gatehouse.rules,
            Arc::clone(&gatehouse.edges) as _,
            Arc::clone(&self.books),
            Some(gatehouse.enrolment),
        )
        .context("gateway")?;
        let edges_known = Arc::clone(&gatehouse.edges);
        let metrics = driving.metrics;
        metrics.watch_gateway(Arc::downgrade(&gateway), edges_known);
        let serving = gateway.serve(listener, gatehouse.tls, driving.stop.clone());
        tasks.spawn(GATEWAY, serving);
        tasks.spawn(GATEWAY_KEYS, until(driving.closed, turning));
        let watching = Arc::clone(&gatehouse.edges).watch();
        tasks.spawn(GATEWAY_EDGES, until(driving.closed, watching));
        let keeping = self.keeper.clone().keep(Arc::clone(&self.books));
        tasks.spawn(GATEWAY_KEEPER, until(driving.closed, keeping));
        Ok(())
    }

    /// Now, and not at the next look.
    fn reload(&self) {
        if let Err(error) = self.edges.look() {
            error!(%error, "the edges' folder cannot be listed; those known stay");
        }
        if let Err(fault) = self.keeper.renew(std::time::SystemTime::now()) {
            let fault = format!("{fault:#}");
            error!(fault, "the relay's certificate stays as it is");
        }
    }
}

/// Runs `driver`, and drops it when `end` comes.
fn until(
    end: &CancellationToken,
    driver: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let end = end.clone();
    async move {
        tokio::select! {
            () = driver => {}
            () = end.cancelled() => {}
        }
    }
}

fn gatehouse(config: &Config) -> anyhow::Result<Option<Gatehouse>> {
    let Some(gateway) = &config.gateway else {
        return Ok(None);
    };
    let now = std::time::SystemTime::now();
    Gatehouse::open(gateway, config.shutdown_grace, now).map(Some)
}

/// Waits for a word to stop, whatever else is said.
async fn until_stop(next: &mut impl AsyncFnMut() -> Word) {
    while next().await != Word::Stop {}
}

/// As `TcpListener::bind`, which lets 128 connections wait to be accepted: of a burst of more, those
/// left over try again only after a second.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG_MAX)
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| {
        format!(
            "cannot listen on {address}; another hedge may be running there, so stop it or choose \
             another address with --listen"
        )
    })
}

fn bind_edges(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| {
        format!(
            "cannot listen on gateway.listen = {address}; another relay may be running there, so stop \
             it or choose another address"
        )
    })
}

/// Metrics are no reason not to serve, unless somebody asked for them.
fn bind_admin(admin: AdminListen) -> anyhow::Result<Option<TcpListener>> {
    match admin {
        AdminListen::Chosen(address) => listen(address)
            .map(Some)
            .with_context(|| format!("cannot listen on admin.listen = {address}")),
        AdminListen::Offered(address) => match listen(address) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                warn!(%address, %error, "no admin listener; set admin.listen to another address");
                Ok(None)
            }
        },
    }
}

fn ingress(config: &Config) -> IngressConfig {
    let ours = &config.ingress;
    IngressConfig {
        hosts: ours.hosts.clone(),
        origins: ours.origins.clone(),
        proxies: ours.proxies.clone(),
        header_timeout: ours.header_timeout,
        body: BodyLimits {
            bytes_max: ours.body_bytes_max,
            idle_max: ours.body_idle,
            ..BodyLimits::default()
        },
        load: LoadLimits {
            connections_max: ours.connections_max,
            connections_per_address_max: ours.connections_per_address_max,
            requests_max: config.limits.exchanges_max.saturating_mul(2),
        },
        flood: FloodConfig {
            per_second: ours.requests_per_second_max,
            burst: ours.requests_burst_max,
            ..FloodConfig::default()
        },
        shutdown_grace: config.shutdown_grace,
        ..IngressConfig::default()
    }
}

/// Keeps one timer due soon. Setting a timer that is due before all others costs a system call to
/// wake the driver; beside this one the time-outs of an exchange never are, which spares each
/// exchange two of them.
async fn metronome() {
    loop {
        tokio::time::sleep(BEAT).await;
    }
}

/// Watches the pools in force, until others are. Ends when the node is gone.
async fn watch_pools(mut in_force: watch::Receiver<Pools>) {
    loop {
        let pools = in_force.borrow_and_update().clone();
        let watching = async {
            join_all(pools.iter().map(|pool| pool.watch())).await;
            // Without a pool there is nothing to watch.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = watching => {}
            changed = in_force.changed() => if changed.is_err() { return },
        }
    }
}

/// The same for what is sealed.
async fn tend_uplinks(mut in_force: watch::Receiver<Uplinks>) {
    loop {
        let uplinks = in_force.borrow_and_update().clone();
        let tending = async {
            join_all(uplinks.iter().map(|uplink| uplink.tend())).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = tending => {}
            changed = in_force.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests;
