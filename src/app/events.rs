//! What the operator is told beside answers: that a limit is nearly used up. It is logged, counted, and
//! sent to a webhook where there is one.
//!
//! ```text
//! settled ─► passed ─► log, metric
//!               └─► queue ─► driver ─ POST, signed ─► the operator's receiver
//!                    └ full: dropped, and counted        └ failed: again, later each time, a few times
//! ```
//! An event has names from the configuration and amounts. Users are callers' customers: no event names
//! one, nor anything that was asked.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::{LimitWarning, LimitWatch, Scope, WhenSpent};
use hashing::HmacKey;
use providers::Secret;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::EventMetrics;

/// Events that wait to be sent; further ones are dropped and counted.
const EVENTS_MAX: usize = 256;
/// For one try, from the connection to the answer's head.
const TRY_MAX: Duration = Duration::from_secs(10);
/// Tries of one event, with waits between them that double from the first on: three minutes in all.
const TRIES_MAX: u32 = 8;
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// For what still waits when the node stops.
const LAST_MAX: Duration = Duration::from_secs(2);

/// When it was signed, in Unix seconds.
const X_HEDGE_TIMESTAMP: &str = "x-hedge-timestamp";
/// `v1=` and, in hexadecimal digits, HMAC-SHA256 under the secret of the timestamp, a full stop and the
/// body.
const X_HEDGE_SIGNATURE: &str = "x-hedge-signature";

/// Where events are sent.
#[derive(Clone)]
pub struct WebhookRules {
    pub url: Url,
    pub secret: Secret,
}

impl fmt::Debug for WebhookRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its path may be a secret as well.
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "WebhookRules({host})")
    }
}

/// One event, as it is sent. Fields are added over time, and none changes its meaning.
#[derive(Debug, Serialize)]
struct Event {
    /// The same each time that it is tried.
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// Unix seconds.
    at: u64,
    limit: LimitView,
    /// The part of the amount that was passed.
    passed: f64,
    /// What was settled by then, in the unit of what is counted; money in micro-dollars.
    used: u64,
}

#[derive(Debug, Serialize)]
struct LimitView {
    scope: &'static str,
    /// Of the team, key, tag or model; none of a user.
    name: Option<String>,
    /// The user's.
    team: Option<String>,
    count: &'static str,
    per: &'static str,
    amount: u64,
    when_spent: &'static str,
}

/// Takes events. Never waits.
pub struct Events {
    metrics: EventMetrics,
    desk: Option<mpsc::Sender<Event>>,
}

impl Events {
    /// The desk, and the driver that sends what is put on it, where somebody is to be told.
    pub fn new(
        webhook: Option<WebhookRules>,
        client: &Client,
        metrics: EventMetrics,
    ) -> (Self, Option<EventDriver>) {
        let Some(rules) = webhook else {
            let desk = None;
            return (Self { metrics, desk }, None);
        };
        let (desk, inbox) = mpsc::channel(EVENTS_MAX);
        let driver = EventDriver {
            rules,
            client: client.clone(),
            inbox,
            metrics: metrics.clone(),
        };
        let desk = Some(desk);
        (Self { metrics, desk }, Some(driver))
    }
}

impl LimitWatch for Events {
    fn passed(&self, warning: LimitWarning) {
        self.metrics.note_warning(&warning.limit);
        let event = Event::of(&warning);
        let limit = &event.limit;
        warn!(
            scope = limit.scope,
            name = limit.name.as_deref().unwrap_or_default(),
            team = limit.team.as_deref().unwrap_or_default(),
            count = limit.count,
            per = limit.per,
            amount = limit.amount,
            used = event.used,
            passed = event.passed,
            "limit is nearly used up"
        );
        if let Some(desk) = &self.desk
            && desk.try_send(event).is_err()
        {
            self.metrics.note_event("dropped");
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("is_sending", &self.desk.is_some())
            .finish_non_exhaustive()
    }
}

impl Event {
    fn of(warning: &LimitWarning) -> Self {
        let limit = &warning.limit;
        let (name, team) = match &limit.scope {
            Scope::Organisation | Scope::Shadow => (None, None),
            Scope::Team(team) => (Some(team.as_str()), None),
            Scope::Key(key) => (Some(key.as_str()), None),
            Scope::User(team, _) => (None, Some(team.as_str())),
            Scope::Tag(tag) => (Some(tag.as_str()), None),
            Scope::Model(model) => (Some(model.as_str()), None),
        };
        Self {
            id: format!("evt_{:032x}", rand::random::<u128>()),
            kind: "limit.warning",
            at: unix_now(),
            limit: LimitView {
                scope: limit.scope.as_label(),
                name: name.map(str::to_owned),
                team: team.map(str::to_owned),
                count: limit.measure.as_label(),
                per: limit.per.as_label(),
                amount: limit.amount,
                when_spent: match limit.when_spent {
                    WhenSpent::Refuse => "refuse",
                    WhenSpent::Free => "local",
                    WhenSpent::Queue => "queue",
                },
            },
            passed: f64::from(warning.permille) / 1e3,
            used: warning.used,
        }
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Sends events, one after the other.
pub struct EventDriver {
    rules: WebhookRules,
    client: Client,
    inbox: mpsc::Receiver<Event>,
    metrics: EventMetrics,
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Taken,
    /// It may be taken later.
    NotNow(&'static str),
    Refused(StatusCode),
}

impl EventDriver {
    /// Runs until `stop`, and tries once then what still waits.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = self.inbox.recv() => event,
            };
            let Some(event) = event else {
                return;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.metrics.note_event("failed");
                    break;
                }
                () = self.deliver(&event) => {}
            }
        }
        let rest = async {
            while let Ok(event) = self.inbox.try_recv() {
                let is_taken = self.try_once(&event).await == Tried::Taken;
                let result = if is_taken { "delivered" } else { "failed" };
                self.metrics.note_event(result);
            }
        };
        if timeout(LAST_MAX, rest).await.is_err() {
            warn!("not every event was sent in time");
        }
    }

    async fn deliver(&self, event: &Event) {
        let mut wait = WAIT_FIRST;
        for tries in 1..=TRIES_MAX {
            let why = match self.try_once(event).await {
                Tried::Taken => {
                    self.metrics.note_event("delivered");
                    return;
                }
                Tried::Refused(status) => {
                    warn!(%status, id = event.id, "events webhook refuses an event");
                    break;
                }
                Tried::NotNow(why) => why,
            };
            if tries == TRIES_MAX {
                warn!(why, tries, id = event.id, "event could not be sent");
                break;
            }
            // Not all senders at the same moment.
            sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
        self.metrics.note_event("failed");
    }

    async fn try_once(&self, event: &Event) -> Tried {
        let Ok(body) = serde_json::to_string(event) else {
            return Tried::NotNow("it cannot be written");
        };
        let at = unix_now().to_string();
        let request = self
            .client
            .post(self.rules.url.clone())
            .timeout(TRY_MAX)
            .header(CONTENT_TYPE, "application/json")
            .header(X_HEDGE_SIGNATURE, sign(&self.rules.secret, &at, &body))
            .header(X_HEDGE_TIMESTAMP, at)
            .body(body);
        // Errors of the client have the address in them, which may be a secret.
        match request.send().await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Tried::Taken,
            Ok(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
                Tried::NotNow("it is busy")
            }
            Ok(status) if status.is_server_error() => Tried::NotNow("it failed"),
            Ok(status) => Tried::Refused(status),
            Err(error) if error.is_timeout() => Tried::NotNow("it did not answer in time"),
            Err(_) => Tried::NotNow("it cannot be reached"),
        }
    }
}

impl fmt::Debug for EventDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventDriver({:?})", self.rules)
    }
}

fn sign(secret: &Secret, at: &str, body: &str) -> String {
    let mut mac = HmacKey::new(secret.expose().as_bytes()).begin();
    mac.update(at.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let digest = mac.finish();
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={digits}")
}

#[cfg(test)]
mod tests;
