//! Who waits for limits, and what became of events that tell of them. Whose limit it is no label says but
//! by its kind.

use domain::Limit;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    scope: &'static str,
    count: &'static str,
    per: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Counted by whoever tells of them. A copy counts the same.
#[derive(Clone, Debug, Default)]
pub struct EventMetrics {
    warnings: Family<LimitLabels, Counter>,
    sent: Family<ResultLabel, Counter>,
    waiting: Gauge,
}

impl EventMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "limit_warnings",
            "Times that what was used of a limit passed one of its thresholds",
            self.warnings.clone(),
        );
        registry.register(
            "events",
            "Events for the webhook: delivered, failed for good, and dropped because too many waited",
            self.sent.clone(),
        );
        registry.register(
            "limit_queue_requests",
            "Requests that wait for a limit to have enough left for them",
            self.waiting.clone(),
        );
    }

    pub fn read(&self, waiting: usize) {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub fn note_warning(&self, limit: &Limit) {
        let labels = LimitLabels {
            scope: limit.scope.as_label(),
            count: limit.measure.as_label(),
            per: limit.per.as_label(),
        };
        self.warnings.get_or_create(&labels).inc();
    }

    pub fn note_event(&self, result: &'static str) {
        self.sent.get_or_create(&ResultLabel { result }).inc();
    }

    #[cfg(test)]
    pub fn events(&self, result: &'static str) -> u64 {
        self.sent.get_or_create(&ResultLabel { result }).get()
    }
}
