//! What became of spans that a collector is sent.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::registry::Registry;
use super::sealed::raise;
use crate::otel::SpanCounts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Of a node that sends traces.
#[derive(Debug)]
pub struct SpanMetrics {
    counts: Arc<SpanCounts>,
    spans: Family<ResultLabel, Counter>,
}

impl SpanMetrics {
    pub fn new(counts: Arc<SpanCounts>, registry: &mut Registry) -> Self {
        let spans = Family::default();
        registry.register(
            "telemetry_spans",
            "Spans that a collector took, that found no room or no time, and that it did not take",
            Family::clone(&spans),
        );
        Self { counts, spans }
    }

    pub fn read(&self) {
        for (result, count) in self.counts.by_result() {
            raise(&self.spans.get_or_create(&ResultLabel { result }), count);
        }
    }
}
