//! What became of looking for other questions' replies, and what is kept for it.

use domain::ReuseStats;
use pipeline::ReuseCounts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::gauge;
use super::registry::Registry;
use super::sealed::raise;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GuardLabel {
    guard: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RatingLabel {
    rating: &'static str,
}

/// Of a node that reuses replies for other questions; of another, nothing but zeros.
#[derive(Debug, Default)]
pub struct ReuseMetrics {
    look_ups: Family<ResultLabel, Counter>,
    refusals: Family<GuardLabel, Counter>,
    shadows: Family<ResultLabel, Counter>,
    feedback: Family<RatingLabel, Counter>,
    entries: Gauge,
    compartments: Gauge,
    bytes: Gauge,
    evictions: Counter,
    faults: Counter,
    apart: Gauge,
}

impl ReuseMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "cache_look_ups",
            "Look-ups of other questions' replies; requests alike at once are one",
            self.look_ups.clone(),
        );
        registry.register(
            "cache_refusals",
            "Look-ups whose best neighbour a guard refused, by guard",
            self.refusals.clone(),
        );
        registry.register(
            "cache_shadows",
            "Replies made afresh that were held against the kept one",
            self.shadows.clone(),
        );
        registry.register(
            "cache_feedback",
            "Answers that their callers rated",
            self.feedback.clone(),
        );
        registry.register(
            "cache_entries",
            "Replies kept for other questions",
            self.entries.clone(),
        );
        registry.register(
            "cache_compartments",
            "Compartments that have such a reply",
            self.compartments.clone(),
        );
        registry.register(
            "cache_bytes",
            "What such replies take, in memory and on disk: an estimate",
            self.bytes.clone(),
        );
        registry.register(
            "cache_evictions",
            "Such replies that were given up to keep within a bound",
            self.evictions.clone(),
        );
        registry.register(
            "cache_faults",
            "Such replies that could not be written, read or believed",
            self.faults.clone(),
        );
        registry.register(
            "cache_apart",
            "1 while the Postgres of such replies cannot be had, and none is found",
            self.apart.clone(),
        );
    }

    /// Reads the counts anew.
    pub fn read(&self, stats: &ReuseStats, counts: &ReuseCounts) {
        for (result, count) in [
            ("served", counts.served),
            ("missed", counts.missed),
            ("shadowed", counts.shadowed),
            ("unasked", counts.unasked),
            ("failed", counts.failed),
        ] {
            raise(&self.look_ups.get_or_create(&ResultLabel { result }), count);
        }
        for (guard, count) in counts.refused_by() {
            raise(&self.refusals.get_or_create(&GuardLabel { guard }), count);
        }
        for (result, count) in [
            ("right", counts.shadows_right),
            ("wrong", counts.shadows_wrong),
            ("dropped", counts.shadows_dropped),
        ] {
            raise(&self.shadows.get_or_create(&ResultLabel { result }), count);
        }
        for (rating, count) in [("good", counts.feedback_good), ("bad", counts.feedback_bad)] {
            raise(&self.feedback.get_or_create(&RatingLabel { rating }), count);
        }
        self.entries.set(gauge(stats.entries));
        self.compartments.set(gauge(stats.compartments));
        self.bytes.set(gauge(stats.bytes));
        raise(&self.evictions, stats.evicted);
        raise(&self.faults, stats.faults);
        self.apart.set(i64::from(stats.is_apart));
    }
}
