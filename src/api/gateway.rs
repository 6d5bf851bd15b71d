//! The relay's end of the sealed path: what edges seal is opened here, answered by this node as any
//! other request, and sealed again.
//!
//! ```text
//! connection ─TLS─► certificate ─► rate ─► open ─► time, proof, once, policy ─► Front ─► shape ─► seal
//!                                   └──── answered in the clear ────┘ └──────── answered sealed ────────┘
//! ```
//! Bytes are opened and sealed by `relay`; which model answers, its limits, records and errors are the
//! trunk's. Here is what lies between: who may have anything opened, that nothing is done for a request
//! before all of it is authentic, once and its edge's, and that an answer ends as it should.

mod accounts;
mod books;
mod bucket;
mod enrolment;
mod flow;
mod inner;
mod judging;
mod keys;
mod opening;
mod outer;
mod rules;
mod serving;
mod tally;
mod tls;
mod turnstile;
mod visit;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relay::manifest::SignedManifest;
use relay::{EdgeDirectory, EncDigest, IdempotenceCache, ReplayCache, RingFault};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

pub use accounts::Spending;
pub use books::{Clock, GatewayBooks};
pub use enrolment::{EnrolRefused, Enrolment, PeerCertificate};
pub use rules::{GatewayLimits, GatewayRules};
pub use tally::GatewayFigures;
pub use tls::{TlsFault, gateway_tls};

use crate::router::Door;
use crate::server::Api;
use crate::service::Front;
use bucket::Flowing;
use keys::Keys;
use opening::Held;
use tally::GatewayTally;
use turnstile::{Places, Sender, Turnstile};

/// How often keys are turned, where it is time to, and entries written that wait in vain.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// One sender's part of what can be opened.
const OPENS_SHARE: u32 = 4;

/// One sender's part of the seats that requests are read in, so that slow ones of nobody knows whom do
/// not take all.
const READINGS_SHARE: usize = 4;

/// One relay.
pub struct Gateway {
    front: Front,
    rules: GatewayRules,
    edges: Arc<dyn EdgeDirectory>,
    books: Arc<GatewayBooks>,
    enrolment: Option<Arc<dyn Enrolment>>,
    keys: Keys,
    replays: Mutex<ReplayCache>,
    repeats: Mutex<IdempotenceCache>,
    opens: Turnstile,
    enrolments: Turnstile,
    /// Those that are being read or answered.
    enrolling: Semaphore,
    /// Requests of one sender that are being read.
    readings: Places<Sender>,
    requests: Arc<Semaphore>,
    requests_max: usize,
    held: Held,
    tally: GatewayTally,
    is_stopping: AtomicBool,
}

impl Gateway {
    /// The gateway, and the driver that turns its keys. `books` is a sink of the pipeline that `api`
    /// answers with. Without `enrolment` nobody joins over the network.
    ///
    /// # Errors
    /// Where the times of the rules cannot be kept.
    pub fn new(
        api: Arc<Api>,
        rules: GatewayRules,
        edges: Arc<dyn EdgeDirectory>,
        books: Arc<GatewayBooks>,
        enrolment: Option<Arc<dyn Enrolment>>,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>), RingFault> {
        let now = books.now();
        let limits = rules.limits;
        let per_s = f64::from((limits.opens_per_s / OPENS_SHARE).max(1));
        let enrolments = f64::from(limits.enrolments_per_minute.max(1));
        let requests_max = limits.requests_max.clamp(1, u32::MAX as usize >> 3);
        let gateway = Arc::new(Self {
            front: Front::new(api, Door::Client { is_loopback: false }, true),
            keys: Keys::new(&rules, now)?,
            replays: Mutex::new(ReplayCache::with_room(limits.replay_entries_max, now)),
            repeats: Mutex::new(IdempotenceCache::new(now)),
            opens: Turnstile::new(Flowing { per_s, room: per_s }),
            enrolments: Turnstile::new(Flowing {
                per_s: enrolments / 60.0,
                room: enrolments,
            }),
            enrolling: Semaphore::new(limits.enrolments_max),
            readings: Places::new(
                u32::try_from(requests_max / READINGS_SHARE)
                    .unwrap_or(1)
                    .max(1),
            ),
            requests: Arc::new(Semaphore::new(requests_max)),
            requests_max,
            held: Held::default(),
            tally: GatewayTally::default(),
            is_stopping: AtomicBool::new(false),
            rules,
            edges,
            books,
            enrolment,
        });
        let driver = Arc::clone(&gateway).drive();
        Ok((gateway, driver))
    }

    /// Never ends.
    async fn drive(self: Arc<Self>) {
        let mut due = interval(TURN_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            self.keys.turn(&self.rules, self.books.now());
            self.books.sweep();
        }
    }

    /// What the manifest says now.
    #[must_use]
    pub fn signed_manifest(&self) -> SignedManifest {
        self.keys.published().manifest.clone()
    }

    /// What it did so far.
    #[must_use]
    pub fn figures(&self) -> GatewayFigures {
        let under_way = self.requests_max - self.requests.available_permits();
        self.tally.figures(under_way, self.replays().len())
    }

    fn replays(&self) -> MutexGuard<'_, ReplayCache> {
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repeats(&self) -> MutexGuard<'_, IdempotenceCache> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the certificate is of another key than the edge that it names. A certificate outlives the
    /// key that it is of: without this, whoever had the name before could take the edge's connections.
    fn is_anothers(&self, shown: &PeerCertificate) -> bool {
        let edge = self.edges.find(&shown.edge_id);
        edge.is_some_and(|edge| !edge.may_show(shown.ed25519.as_ref()))
    }

    fn has_seen(&self, digest: &EncDigest) -> bool {
        self.replays().has_seen(digest)
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("rules", &self.rules)
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}
