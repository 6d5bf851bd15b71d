//! What is sent to a collector by OpenTelemetry's protocol: spans and measures of exchanges, made of their
//! records once they have ended. Prompts and replies are not in records, and so not here.
//!
//! ```text
//! recorder ─► spans ─► bounded queue ─► driver ─► POST /v1/traces
//!         └─► meters, read by the driver ───────► POST /v1/metrics
//! ```
//! A queue that is full drops, and counts it; nobody waits for a collector.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domain::{ExchangeRecord, RecordSink};
use reqwest::Client;
use tokio::sync::mpsc;

use crate::config::TelemetrySettings;

mod driver;
mod meters;
mod otlp;
mod post;
mod providers;
mod spans;

pub use driver::Exporter;
use meters::Meters;
use otlp::{KeyValue, Span, Value};
use post::Post;
use providers::Providers;

/// The scope of all that is sent.
const SCOPE: &str = "hedge";

/// What became of spans, for `/metrics`.
#[derive(Debug, Default)]
pub struct SpanCounts {
    sent: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
}

impl SpanCounts {
    /// By what became of them: taken by the collector; found no room, or were not sent in time; refused by it, or
    /// it could not be asked.
    pub fn by_result(&self) -> [(&'static str, u64); 3] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [
            ("sent", read(&self.sent)),
            ("dropped", read(&self.dropped)),
            ("refused", read(&self.refused)),
        ]
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// Takes records. Never waits.
pub struct Otel {
    /// `None` where no spans are sent.
    queue: Option<mpsc::Sender<Vec<Span>>>,
    /// `None` where no measures are.
    meters: Option<Arc<Meters>>,
    providers: Providers,
    counts: Arc<SpanCounts>,
}

impl fmt::Debug for Otel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Otel")
    }
}

impl Otel {
    /// The sink, and the driver that sends.
    #[must_use]
    pub fn new(settings: &TelemetrySettings, client: Client) -> (Self, Exporter) {
        let (queue, inbox) = mpsc::channel(settings.queue_max);
        let meters = settings.metrics.is_some().then(Arc::<Meters>::default);
        let counts = Arc::<SpanCounts>::default();
        let exporter = Exporter::new(
            settings,
            Post::new(client, &settings.headers),
            inbox,
            meters.clone(),
            Arc::clone(&counts),
        );
        let sink = Self {
            queue: settings.traces.is_some().then_some(queue),
            meters,
            providers: Providers::new(settings.providers.clone()),
            counts,
        };
        (sink, exporter)
    }

    pub fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.counts)
    }
}

impl RecordSink for Otel {
    fn append(&self, record: &ExchangeRecord) {
        let Some(traced) = &record.trace else {
            return;
        };
        let provider = record.route.as_ref().map(|route| self.providers.of(route));
        if let Some(meters) = &self.meters {
            meters.measure(record, traced, provider);
        }
        if let (Some(queue), true) = (&self.queue, traced.context.is_sampled) {
            // Its place first: what finds none is not made.
            match queue.try_reserve() {
                Ok(place) => place.send(spans::of(record, traced, provider)),
                Err(_) => count(&self.counts.dropped, spans::count(record)),
            }
        }
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value,
    }
}

#[cfg(test)]
mod tests;
