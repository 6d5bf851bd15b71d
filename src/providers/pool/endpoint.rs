//! One engine of a pool: how it is asked, how it stands, and how much it has to do.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{BackendError, BackendName, TimeoutPhase};
use http::StatusCode;
use reqwest::{Response, Url};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::report::REPORT_BYTES_MAX;
use super::standing::{Change, EndpointState, Standing};
use super::{EngineKind, PoolConfig};
use crate::{Transport, Upstream, UpstreamConfig, UpstreamConfigError};

/// A report older than this many rounds says nothing any more.
const REPORT_ROUNDS_MAX: u32 = 3;

/// An endpoint as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// `host:port`, and the path before `/v1` where there is one.
    pub label: String,
    pub state: EndpointState,
    /// Chats of this node under way there.
    pub in_flight: u32,
    /// Requests it said it has, from whomever; `None` where it does not say.
    pub load_reported: Option<u32>,
    /// Chats sent there.
    pub chats: u64,
    /// Of those, the ones that failed before their first content, or broke off after it.
    pub failures: u64,
    /// Times it was left out.
    pub ejections: u64,
    /// Why it did not say that it is well when it was last asked.
    pub fault: Option<&'static str>,
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pool: BackendName,
    label: String,
    base_url: String,
    kind: EngineKind,
    upstream: Upstream,
    health: Url,
    report: Option<Url>,
    timeout: Duration,
    report_age_max: Duration,
    in_flight: AtomicU32,
    notes: Mutex<Notes>,
    chats: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU64,
}

/// What was learnt of it. Locked for a few instructions at a time.
#[derive(Debug)]
struct Notes {
    standing: Standing,
    reported: Option<Reported>,
    fault: Option<&'static str>,
}

/// What it said of its load, and how much of that was ours.
#[derive(Clone, Copy, Debug)]
struct Reported {
    load: u32,
    in_flight: u32,
    at: Instant,
}

impl Endpoint {
    pub fn new(
        base_url: &str,
        config: &PoolConfig,
        transport: &Transport,
    ) -> Result<Self, UpstreamConfigError> {
        let asked = UpstreamConfig {
            base_url: base_url.to_owned(),
            ..config.asked.clone()
        };
        let upstream = Upstream::new(asked, transport.clone())?;
        let url = Url::parse(base_url).map_err(|_| UpstreamConfigError::UrlMalformed)?;
        let path = url.path().trim_end_matches('/');
        let root = path.strip_suffix("/v1").unwrap_or(path);
        let beside = |path: &str| {
            let mut page = url.clone();
            page.set_path(&format!("{root}{path}"));
            page
        };
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        Ok(Self {
            pool: config.asked.name.clone(),
            label: format!("{host}:{port}{root}"),
            base_url: base_url.to_owned(),
            kind: config.kind,
            upstream,
            health: beside(config.kind.health_path()),
            report: config.kind.report_path().map(beside),
            timeout: config.health.timeout,
            report_age_max: (config.health.interval + config.health.timeout) * REPORT_ROUNDS_MAX,
            in_flight: AtomicU32::new(0),
            notes: Mutex::new(Notes {
                standing: Standing::new(config.health),
                reported: None,
                fault: None,
            }),
            chats: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
        })
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub fn is_open(&self) -> bool {
        self.notes().standing.is_open()
    }

    pub fn state(&self) -> EndpointState {
        self.notes().standing.state()
    }

    /// How long it is still left out.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.notes().standing.wait(now)
    }

    pub fn has_room(&self, in_flight_max: u32) -> bool {
        self.in_flight.load(Ordering::Relaxed) < in_flight_max
    }

    /// Requests it has, as far as is known: what it said last and what changed here since, and never
    /// less than what is under way from here.
    pub fn load(&self, now: Instant) -> u32 {
        let here = self.in_flight.load(Ordering::Relaxed);
        let reported = self.notes().reported;
        let fresh = reported.filter(|it| now.duration_since(it.at) <= self.report_age_max);
        let Some(reported) = fresh else {
            return here;
        };
        let since = i64::from(here) - i64::from(reported.in_flight);
        let load = (i64::from(reported.load) + since).clamp(0, i64::from(u32::MAX));
        here.max(load as u32)
    }

    /// A place for one chat. `None` when it has none, or is left out and not `forced`.
    pub fn seat(self: &Arc<Self>, in_flight_max: u32, forced: bool) -> Option<Seat> {
        let mut notes = self.notes();
        if !(forced || notes.standing.is_open()) || !self.has_room(in_flight_max) {
            return None;
        }
        notes.standing.chat_sent();
        // Counted under the lock, so that no two take the last place.
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        drop(notes);
        self.chats.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            endpoint: Arc::clone(self),
            since: Instant::now(),
            is_settled: false,
        })
    }

    /// Asks how it is, and how busy, unless it is to be left alone.
    pub async fn look(&self) {
        if !self.notes().standing.is_due(Instant::now()) {
            return;
        }
        let fault = self.ask_health().await.err();
        let load = match fault {
            None => self.ask_load().await,
            Some(_) => None,
        };
        let now = Instant::now();
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let mut notes = self.notes();
        notes.fault = fault;
        notes.reported = load.map(|load| Reported {
            load,
            in_flight,
            at: now,
        });
        let change = if fault.is_none() {
            notes.standing.looked_well(now);
            Change::None
        } else {
            notes.standing.looked_ill(now)
        };
        drop(notes);
        self.tell(change, fault.unwrap_or_default());
    }

    async fn ask_health(&self) -> Result<(), &'static str> {
        let asked = timeout(self.timeout, async {
            let response = self.upstream.page(self.health.clone()).send().await?;
            let status = response.status();
            // Read, so that the connection can be used again.
            let _ = read(response).await;
            Ok::<_, reqwest::Error>(status)
        });
        match asked.await {
            Err(_) => Err("does not answer in time"),
            Ok(Err(_)) => Err("cannot be reached"),
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => Err("refuses the key"),
            Ok(Ok(StatusCode::SERVICE_UNAVAILABLE)) => Err("is not ready yet"),
            Ok(Ok(_)) => Err("does not say that it is well"),
        }
    }

    async fn ask_load(&self) -> Option<u32> {
        let page = self.upstream.page(self.report.clone()?);
        let asked = timeout(self.timeout, async {
            let response = page.send().await.ok()?;
            if !response.status().is_success() {
                return None;
            }
            read(response).await
        });
        let body = asked.await.ok()??;
        self.kind.load_in(&String::from_utf8_lossy(&body))
    }

    pub fn view(&self) -> EndpointView {
        let notes = self.notes();
        EndpointView {
            label: self.label.clone(),
            state: notes.standing.state(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            load_reported: notes.reported.map(|reported| reported.load),
            chats: self.chats.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            ejections: self.ejections.load(Ordering::Relaxed),
            fault: notes.fault,
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Change, reason: &str) {
        let (pool, endpoint) = (&self.pool, &self.label);
        match change {
            Change::None => {}
            Change::Returned => info!(%pool, endpoint, "endpoint is back"),
            Change::StaysOut { wait } => {
                let wait_ms = wait.as_millis();
                debug!(%pool, endpoint, reason, wait_ms, "endpoint stays out");
            }
            Change::Ejected { wait } => {
                self.ejections.fetch_add(1, Ordering::Relaxed);
                let wait_ms = wait.as_millis();
                warn!(%pool, endpoint, reason, wait_ms, "endpoint is left out");
            }
        }
    }
}

/// `None` when it is too long or broken.
async fn read(mut response: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > REPORT_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// One chat's place at an endpoint. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Seat {
    endpoint: Arc<Endpoint>,
    since: Instant,
    /// Whether the endpoint was told how the chat began.
    is_settled: bool,
}

impl Seat {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The first content came.
    pub fn answered(&mut self) {
        self.is_settled = true;
        let change = self.endpoint.notes().standing.chat_answered();
        self.endpoint.tell(change, "");
    }

    /// What `error` says of the endpoint, before or after its first content.
    pub fn failed(&mut self, error: &BackendError) {
        self.is_settled = true;
        let now = Instant::now();
        let mut notes = self.endpoint.notes();
        let change = match error {
            BackendError::Unreachable(_)
            | BackendError::Interrupted
            // An engine under load answers some, which forgets this; one that hangs or is broken answers
            // none, and is quick enough about it to look idle.
            | BackendError::Failed { .. }
            | BackendError::Garbled(_)
            | BackendError::TimedOut(TimeoutPhase::Connect | TimeoutPhase::FirstEvent) => {
                notes.standing.chat_failed(now)
            }
            BackendError::TimedOut(TimeoutPhase::BetweenEvents | TimeoutPhase::Request)
            | BackendError::Resting { .. }
            | BackendError::Overloaded { .. }
            | BackendError::RateLimited { .. }
            | BackendError::Engine(_) => notes.standing.chat_doubtful(now),
            // It read the request and said what it thinks of it.
            BackendError::Rejected { .. }
            | BackendError::Declined { .. }
            | BackendError::ContentRefused { .. }
            | BackendError::ModelUnknown { .. }
            | BackendError::ContextExceeded { .. }
            | BackendError::Unable(_)
            | BackendError::Credentials { .. } => {
                let change = notes.standing.chat_answered();
                drop(notes);
                self.endpoint.tell(change, "");
                return;
            }
        };
        drop(notes);
        self.endpoint.failures.fetch_add(1, Ordering::Relaxed);
        self.endpoint.tell(change, error.as_label());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.is_settled {
            return;
        }
        // Whoever was kept waiting for longer than the endpoint may take to say that it is well has
        // not left for reasons of their own.
        let change = if self.since.elapsed() > self.endpoint.timeout {
            self.endpoint.notes().standing.chat_doubtful(Instant::now())
        } else {
            self.endpoint.notes().standing.chat_dropped();
            Change::None
        };
        self.endpoint.tell(change, "no answer");
    }
}
