//! One relay, as the edge knows it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{Health, HealthState};
use rand::RngExt as _;
use reqwest::Url;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::clock::Clock;
use super::figures::Counts;
use super::keys::{FetchFailed, Keys};
use super::sparing::{Proving, Sparing};
use super::standing::Standing;
use super::{ClientFault, ClientRules, GATEWAY_PATH, MANIFEST_PATH};
use crate::manifest::{Pins, SeenManifest};
use crate::proof::{EdgeSecret, SHARED_KEY_BYTES_MIN, is_name};
use crate::time::UnixTime;

/// One relay, and who this edge is there.
pub struct Member {
    /// Its address, as `https://relay.example`. What the protocol says comes after it.
    pub url: String,
    /// With whatever TLS the relay asks for. It must follow no redirects and have no time limit for a
    /// whole exchange.
    pub http: reqwest::Client,
    pub pins: Pins,
    pub edge_id: String,
    /// The name that the relay knows the key of `secret` by.
    pub key_id: String,
    pub secret: Arc<EdgeSecret>,
    pub memory: Arc<dyn ManifestMemory>,
}

/// Remembers the last manifest that was believed, across restarts, so that none goes back.
pub trait ManifestMemory: fmt::Debug + Send + Sync + 'static {
    /// `None` where none was ever believed. Asked once, at the start.
    fn seen(&self, relay_id: &str) -> Option<SeenManifest>;

    /// May block. Where it fails, the process goes on with what it has itself.
    ///
    /// # Errors
    /// It could not be written.
    fn keep(&self, relay_id: &str, seen: SeenManifest) -> io::Result<()>;

    /// Whom to believe from now on, where that was told since the member was made: a relay says who it
    /// is going to be before it is.
    fn pins(&self) -> Option<Pins> {
        None
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("relay_id", &self.pins.relay_id)
            .field("edge_id", &self.edge_id)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

/// A member at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    pub relay_id: String,
    pub health: Health,
    /// Requests whose answers have not come to their end.
    pub in_flight: usize,
    /// Of the manifest that is in force.
    pub serial: Option<u64>,
    pub expires: Option<UnixTime>,
}

/// A member at work.
pub(super) struct Relay {
    pub(super) http: reqwest::Client,
    pub(super) gateway: Url,
    pub(super) pins: Pins,
    pub(super) edge_id: String,
    pub(super) key_id: String,
    pub(super) secret: Arc<EdgeSecret>,
    pub(super) keys: Keys,
    pub(super) sparing: Sparing,
    pub(super) clock: Clock,
    standing: Mutex<Standing>,
    in_flight: AtomicUsize,
    /// Wakes the driver: there is something to look after sooner than it knew.
    news: Notify,
}

impl Relay {
    pub(super) fn new(
        member: Member,
        rules: &Arc<ClientRules>,
        counts: &Arc<Counts>,
        now: Instant,
    ) -> Result<Self, ClientFault> {
        let relay_id = member.pins.relay_id.clone();
        for name in [&relay_id, &member.edge_id, &member.key_id] {
            if !is_name(name) {
                return Err(ClientFault::Name { name: name.clone() });
            }
        }
        let is_short = match &*member.secret {
            EdgeSecret::Ed25519(_) => false,
            EdgeSecret::HmacSha256(key) => key.len() < SHARED_KEY_BYTES_MIN,
        };
        if is_short {
            return Err(ClientFault::Secret {
                edge: member.edge_id,
            });
        }
        let page = |path| {
            page(&member.url, path).ok_or(ClientFault::Url {
                relay: relay_id.clone(),
            })
        };
        Ok(Self {
            gateway: page(GATEWAY_PATH)?,
            keys: Keys::new(
                page(MANIFEST_PATH)?,
                member.http.clone(),
                member.pins.clone(),
                member.memory,
                Arc::clone(rules),
                Arc::clone(counts),
                now,
            ),
            http: member.http,
            pins: member.pins,
            edge_id: member.edge_id,
            key_id: member.key_id,
            secret: member.secret,
            sparing: Sparing::default(),
            clock: Clock::default(),
            standing: Mutex::new(Standing::default()),
            in_flight: AtomicUsize::new(0),
            news: Notify::new(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.pins.relay_id
    }

    /// Counts a request until what comes back is dropped.
    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(self))
    }

    /// How the next request is proven. A shared key's MAC costs as little as a session's.
    pub(super) fn proving(&self, now: Instant) -> Proving {
        match &*self.secret {
            EdgeSecret::Ed25519(_) => self.sparing.plan(now),
            EdgeSecret::HmacSha256(_) => Proving::Signed { asks: false },
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests may go to it.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.standing().is_open(now)
    }

    /// It answered a request, sealed.
    pub(super) fn answered(&self) {
        self.standing().answered();
    }

    /// No connection could be made.
    pub(super) fn missed(&self, now: Instant) {
        self.standing().missed(now, spread());
        self.news.notify_one();
        warn!(relay = self.id(), "no connection to the relay");
    }

    /// It takes no more requests for now.
    pub(super) fn turned_away(&self, now: Instant, wait: Duration) {
        if self.standing().turned_away(now, wait) {
            info!(
                relay = self.id(),
                "the relay takes no more requests for now"
            );
        }
        self.news.notify_one();
    }

    /// Whether something can be sealed to it now, without asking it first.
    pub(super) fn has_key(&self) -> bool {
        self.keys.usable(self.clock.now()).is_some()
    }

    /// The manifest in force, fetched where there is none that holds.
    pub(super) async fn fetched(&self, after: u64) -> Result<(), FetchFailed> {
        let fetched = self.keys.fetch(after, &self.clock).await;
        if fetched.is_ok() {
            self.standing().returned();
        }
        fetched
    }

    /// Fetches manifests when they are due, and looks whether a member that was left is back.
    pub(super) async fn tend(&self) {
        loop {
            tokio::select! {
                () = sleep_until(self.due()) => {}
                () = self.news.notified() => {}
            }
            // A request may have fetched meanwhile.
            if self.due() > Instant::now() {
                continue;
            }
            let fetched = self.fetched(self.keys.attempts()).await;
            let now = Instant::now();
            match fetched {
                Ok(()) => {}
                Err(FetchFailed::Unreached) => self.standing().missed(now, spread()),
                Err(
                    FetchFailed::NoManifest | FetchFailed::Refused(_) | FetchFailed::Unattested(_),
                ) => self.standing().looked_in_vain(now, spread()),
            }
        }
    }

    fn due(&self) -> Instant {
        let due = self.keys.due();
        let look_at = self.standing().look_at();
        look_at.map_or(due, |look_at| look_at.min(due))
    }

    pub(super) fn view(&self, now: Instant) -> MemberView {
        let manifest = self.keys.manifest();
        let health = match self.standing().rests_for(now) {
            Some(wait) => Health::of(HealthState::Down, Some(wait)),
            None if self.has_key() => Health::READY,
            None => match self.keys.trouble() {
                None => Health::of(HealthState::Starting, None),
                Some(reason) => Health {
                    state: HealthState::Down,
                    wait: None,
                    reason: Some(reason),
                },
            },
        };
        MemberView {
            relay_id: self.id().to_owned(),
            health,
            in_flight: self.in_flight(),
            serial: manifest.as_ref().map(|it| it.manifest().serial),
            expires: manifest.as_ref().map(|it| it.expires()),
        }
    }
}

/// So that edges do not come in step.
pub(super) fn spread() -> f64 {
    rand::rng().random_range(0.5..1.5)
}

/// `path` after an address that may have a path of its own, and neither a query nor a user.
fn page(base: &str, path: &str) -> Option<Url> {
    let mut url = Url::parse(base).ok()?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_plain {
        return None;
    }
    let path = format!("{}{path}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Some(url)
}

/// A request under way.
pub(super) struct Seat(Arc<Relay>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("id", &self.id())
            .field("edge_id", &self.edge_id)
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}
