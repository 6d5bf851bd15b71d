//! Whether any public upstream can be reached, learnt from traffic and, where there is none, by asking.
//!
//! ```text
//! connects of chats ─► Port: reached, missed ─► all missed ─► offline
//!                                 ▲                             │
//! TCP connects of our own ────────┘◄── every now and then ──────┘ and after long silence
//! ```
//! Only addresses that chats are sent to are connected to: those of configured upstreams, or of the
//! proxy before them. A connection is closed as soon as it is made; nothing is sent on it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// How an upstream's address is tried. The system's way, or one of a test's.
#[async_trait]
pub trait Knock: Send + Sync + 'static {
    /// True when a connection could be made, in time.
    async fn knock(&self, host: &str, port: u16, within: Duration) -> bool;
}

/// TCP, with names looked up as for every connection.
#[derive(Clone, Copy, Debug)]
pub struct TcpKnock;

#[async_trait]
impl Knock for TcpKnock {
    async fn knock(&self, host: &str, port: u16, within: Duration) -> bool {
        // The brackets of an IPv6 address are a URL's.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let connecting = TcpStream::connect((host, port));
        matches!(timeout(within, connecting).await, Ok(Ok(_)))
    }
}

/// When upstreams are asked whether they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRules {
    /// Between two rounds while offline.
    pub retry_every: Duration,
    /// Without any chat for so long, they are asked. `None`: only chats tell.
    pub idle_every: Option<Duration>,
    /// For one connection.
    pub connect_max: Duration,
}

impl Default for LinkRules {
    fn default() -> Self {
        Self {
            retry_every: Duration::from_secs(2),
            idle_every: Some(Duration::from_secs(60)),
            connect_max: Duration::from_secs(3),
        }
    }
}

/// A miss older than this says little: the upstream is asked again before all count as missed.
const MISS_FRESH: Duration = Duration::from_secs(10);

/// Intervals are drawn from half to one and a half of what is set, so that nodes do not ask in step.
const SPREAD: std::ops::Range<f64> = 0.5..1.5;

/// The state of the link, shared by all upstreams of one transport.
pub struct LinkState {
    made_at: Instant,
    ports: Mutex<Vec<Weak<Port>>>,
    is_offline: AtomicBool,
    /// The same, for those who wait.
    told: watch::Sender<bool>,
    /// Wakes the driver: something was missed, or the state changed.
    news: Notify,
    /// Whether a chat was answered since the driver last looked.
    has_traffic: AtomicBool,
}

/// One upstream's place in it.
pub(crate) struct Port {
    host: String,
    port: u16,
    /// When it was last missed, in milliseconds after the link was made, and one; 0 once it was reached.
    missed_at_ms: AtomicU64,
    link: Arc<LinkState>,
}

impl LinkState {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            made_at: Instant::now(),
            ports: Mutex::default(),
            is_offline: AtomicBool::new(false),
            told: watch::Sender::new(false),
            news: Notify::new(),
            has_traffic: AtomicBool::new(false),
        })
    }

    /// A place for an upstream at this address. It is given up by dropping.
    pub(crate) fn port(self: &Arc<Self>, host: &str, port: u16) -> Arc<Port> {
        let port = Arc::new(Port {
            host: host.to_owned(),
            port,
            missed_at_ms: AtomicU64::new(0),
            link: Arc::clone(self),
        });
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|known| known.strong_count() > 0);
        ports.push(Arc::downgrade(&port));
        port
    }

    fn ports(&self) -> Vec<Arc<Port>> {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.iter().filter_map(Weak::upgrade).collect()
    }

    fn set_offline(&self, is_offline: bool) {
        let has_changed = self.told.send_if_modified(|told| {
            self.is_offline.store(is_offline, Ordering::Relaxed);
            std::mem::replace(told, is_offline) != is_offline
        });
        match (has_changed, is_offline) {
            (true, true) => warn!("no public upstream can be reached: offline"),
            (true, false) => info!("a public upstream can be reached again: online"),
            (false, _) => {}
        }
    }

    /// Offline when all are missed, and lately.
    fn judge(&self, now: Instant) {
        let ports = self.ports();
        let is_missed = |port: &Arc<Port>| port.is_missed(now);
        if !ports.is_empty() && ports.iter().all(is_missed) {
            self.set_offline(true);
        }
    }

    /// Asks, whenever that is due, for as long as it is polled.
    pub async fn watch(&self, rules: LinkRules, knock: &dyn Knock) {
        loop {
            let every = if self.is_offline.load(Ordering::Relaxed) {
                Some(rules.retry_every)
            } else {
                rules.idle_every
            };
            let spread: f64 = rand::random_range(SPREAD);
            let due = every.map(|every| Instant::now() + every.mul_f64(spread));
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = is_due => {
                    let is_busy = self.has_traffic.swap(false, Ordering::Relaxed);
                    if self.is_offline.load(Ordering::Relaxed) || !is_busy {
                        self.ask(&self.ports(), rules, knock).await;
                    }
                }
                () = self.news.notified() => {
                    if !self.is_offline.load(Ordering::Relaxed) {
                        self.ask_doubtful(rules, knock).await;
                    }
                }
            }
        }
    }

    /// One upstream was missed: are the others there?
    async fn ask_doubtful(&self, rules: LinkRules, knock: &dyn Knock) {
        let now = Instant::now();
        let (missed, doubtful): (Vec<_>, Vec<_>) = self
            .ports()
            .into_iter()
            .partition(|port| port.is_missed(now));
        if !missed.is_empty() && !doubtful.is_empty() {
            self.ask(&doubtful, rules, knock).await;
        }
    }

    async fn ask(&self, ports: &[Arc<Port>], rules: LinkRules, knock: &dyn Knock) {
        let knocks = ports.iter().map(|port| async {
            if knock.knock(&port.host, port.port, rules.connect_max).await {
                port.found();
            } else {
                port.note_missed(Instant::now());
            }
        });
        join_all(knocks).await;
        self.judge(Instant::now());
    }
}

#[async_trait]
impl domain::Link for LinkState {
    fn is_offline(&self) -> bool {
        self.is_offline.load(Ordering::Relaxed)
    }

    async fn until_online(&self) {
        let mut state = self.told.subscribe();
        // The sender is `self`, which outlives this.
        let _ = state.wait_for(|is_offline| !is_offline).await;
    }
}

impl Port {
    /// A chat had a connection.
    pub fn reached(&self) {
        let has_traffic = &self.link.has_traffic;
        if !has_traffic.load(Ordering::Relaxed) {
            has_traffic.store(true, Ordering::Relaxed);
        }
        self.found();
    }

    /// A chat found no connection.
    pub fn missed(&self, now: Instant) {
        self.note_missed(now);
        self.link.judge(now);
        self.link.news.notify_one();
    }

    /// Only looks, where nothing is new: every chat comes by here.
    fn found(&self) {
        let was_missed = self.missed_at_ms.load(Ordering::Relaxed) != 0;
        if was_missed || self.link.is_offline.load(Ordering::Relaxed) {
            self.missed_at_ms.store(0, Ordering::Relaxed);
            self.link.set_offline(false);
            self.link.news.notify_one();
        }
    }

    fn note_missed(&self, now: Instant) {
        let after = now.duration_since(self.link.made_at).as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        self.missed_at_ms
            .store(after.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether it was missed lately, and not reached since.
    fn is_missed(&self, now: Instant) -> bool {
        let Some(at) = self.missed_at_ms.load(Ordering::Relaxed).checked_sub(1) else {
            return false;
        };
        let now = now.duration_since(self.link.made_at);
        now.saturating_sub(Duration::from_millis(at)) < MISS_FRESH
    }
}

impl fmt::Debug for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkState")
            .field("is_offline", &self.is_offline.load(Ordering::Relaxed))
            .field("ports", &self.ports().len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Port")
    }
}

#[cfg(test)]
mod tests;
