//! The driver that sends what was made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::meters::Meters;
use super::otlp::{
    Metrics, Resource, ResourceMetrics, ResourceSpans, Scope, ScopeMetrics, ScopeSpans, Span,
    Traces,
};
use super::post::{Post, PostError};
use super::{SCOPE, SpanCounts, count, text};
use crate::config::TelemetrySettings;

/// Exchanges whose spans go with one request: some hundred kilobytes.
const BATCH_MAX: usize = 256;

/// Sends until it is stopped, and then what is left.
#[derive(Debug)]
pub struct Exporter {
    traces: Option<Url>,
    metrics: Option<Url>,
    traces_every: Duration,
    metrics_every: Duration,
    post: Post,
    inbox: mpsc::Receiver<Vec<Span>>,
    meters: Option<Arc<Meters>>,
    counts: Arc<SpanCounts>,
    resource: Resource,
    is_failing: bool,
}

impl Exporter {
    pub(super) fn new(
        settings: &TelemetrySettings,
        post: Post,
        inbox: mpsc::Receiver<Vec<Span>>,
        meters: Option<Arc<Meters>>,
        counts: Arc<SpanCounts>,
    ) -> Self {
        Self {
            traces: settings.traces.clone(),
            metrics: settings.metrics.clone(),
            traces_every: settings.traces_every,
            metrics_every: settings.metrics_every,
            post,
            inbox,
            meters,
            counts,
            resource: resource(&settings.service_name, &settings.attributes),
            is_failing: false,
        }
    }

    /// Runs until `stop`, then sends what is there and ends. Whoever waits for it bounds that.
    pub async fn run(mut self, stop: CancellationToken) {
        let ticks = |every: Duration| {
            let mut ticks = interval_at(Instant::now() + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut spans_due, mut metrics_due) =
            (ticks(self.traces_every), ticks(self.metrics_every));
        let mut waiting = Vec::new();
        loop {
            let room = BATCH_MAX - waiting.len();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = metrics_due.tick() => self.send_metrics().await,
                _ = spans_due.tick() => self.send_spans(&mut waiting).await,
                taken = self.inbox.recv_many(&mut waiting, room), if !self.inbox.is_closed() => {
                    if taken > 0 && waiting.len() >= BATCH_MAX {
                        self.send_spans(&mut waiting).await;
                    }
                }
            }
        }
        self.inbox.close();
        loop {
            let room = BATCH_MAX - waiting.len();
            self.inbox.recv_many(&mut waiting, room).await;
            if waiting.is_empty() {
                break;
            }
            self.send_spans(&mut waiting).await;
        }
        self.send_metrics().await;
    }

    async fn send_spans(&mut self, waiting: &mut Vec<Vec<Span>>) {
        let spans: Vec<Span> = waiting.drain(..).flatten().collect();
        let (Some(url), false) = (self.traces.clone(), spans.is_empty()) else {
            return;
        };
        let sent = spans.len();
        let unsent = Unsent(&self.counts, sent);
        let request = Traces {
            resource_spans: [ResourceSpans {
                resource: &self.resource,
                scope_spans: [ScopeSpans {
                    scope: scope(),
                    spans,
                }],
            }],
        };
        let answer = self.post.send(&url, &request).await;
        std::mem::forget(unsent);
        match &answer {
            Ok(answer) => {
                let refused = answer.partial_success.rejected_spans().min(sent);
                count(&self.counts.refused, refused);
                count(&self.counts.sent, sent - refused);
            }
            Err(_) => count(&self.counts.refused, sent),
        }
        self.note(answer.err());
    }

    async fn send_metrics(&mut self) {
        let (Some(url), Some(meters)) = (&self.metrics, &self.meters) else {
            return;
        };
        let metrics = meters.read(SystemTime::now());
        if metrics.is_empty() {
            return;
        }
        let request = Metrics {
            resource_metrics: [ResourceMetrics {
                resource: &self.resource,
                scope_metrics: [ScopeMetrics {
                    scope: scope(),
                    metrics,
                }],
            }],
        };
        let answer = self.post.send(url, &request).await;
        self.note(answer.err());
    }

    /// Says it once when a collector fails, and once when it works again.
    fn note(&mut self, error: Option<PostError>) {
        let is_failing = error.is_some();
        match error {
            Some(error) if !self.is_failing => warn!(%error, "telemetry is not taken"),
            None if self.is_failing => info!("telemetry is taken again"),
            Some(_) | None => {}
        }
        self.is_failing = is_failing;
    }
}

/// Spans on their way. Whoever stops waiting for the answer leaves them counted as dropped.
struct Unsent<'a>(&'a SpanCounts, usize);

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        count(&self.0.dropped, self.1);
    }
}

fn scope() -> Scope {
    Scope {
        name: SCOPE,
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// What all of it is of: the operator's words go before ours.
fn resource(service_name: &str, attributes: &BTreeMap<String, String>) -> Resource {
    let ours = [
        ("service.name", service_name.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "service.instance.id",
            format!("{:032x}", rand::random::<u128>()),
        ),
    ];
    let ours = ours
        .into_iter()
        .filter(|(key, _)| !attributes.contains_key(*key));
    let theirs = attributes
        .iter()
        .map(|(key, value)| text(key, value.as_str()));
    Resource {
        attributes: ours
            .map(|(key, value)| text(key, value))
            .chain(theirs)
            .collect(),
    }
}
