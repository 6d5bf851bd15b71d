//! How replies are shared with other replicas.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::SharedReplies;

use super::gauge;
use super::registry::Registry;
use super::sealed::raise;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Of a node that shares replies.
#[derive(Debug)]
pub struct SharedReplyMetrics {
    replies: Arc<SharedReplies>,
    apart: Gauge,
    partings: Counter,
    looks: Family<ResultLabel, Counter>,
    writes: Family<ResultLabel, Counter>,
    entries: Gauge,
    bytes: Gauge,
}

impl SharedReplyMetrics {
    pub fn new(replies: Arc<SharedReplies>, registry: &mut Registry) -> Self {
        let ours = Self {
            replies,
            apart: Gauge::default(),
            partings: Counter::default(),
            looks: Family::default(),
            writes: Family::default(),
            entries: Gauge::default(),
            bytes: Gauge::default(),
        };
        registry.register(
            "shared_replies_apart",
            "1 while the Redis of shared replies cannot be asked",
            ours.apart.clone(),
        );
        registry.register(
            "shared_replies_partings",
            "How often the Redis of shared replies could not be asked any more",
            ours.partings.clone(),
        );
        registry.register(
            "shared_replies_looks",
            "Replies that were not in memory, looked for among those that replicas share",
            ours.looks.clone(),
        );
        registry.register(
            "shared_replies_writes",
            "Replies that were to be shared",
            ours.writes.clone(),
        );
        registry.register(
            "shared_replies_entries",
            "Replies that replicas share",
            ours.entries.clone(),
        );
        registry.register(
            "shared_replies_bytes",
            "What replies that replicas share take in Redis: an estimate",
            ours.bytes.clone(),
        );
        ours
    }

    /// Reads the counts anew.
    pub fn read(&self) {
        let counts = self.replies.counts();
        self.apart.set(counts.is_apart.into());
        raise(&self.partings, counts.partings);
        for (result, count) in [
            ("found", counts.found),
            ("missed", counts.missed),
            ("failed", counts.failed),
            ("unasked", counts.unasked),
        ] {
            raise(&self.looks.get_or_create(&ResultLabel { result }), count);
        }
        for (result, count) in [
            ("kept", counts.kept),
            ("stale", counts.stale),
            ("full", counts.full),
            ("lost", counts.lost),
        ] {
            raise(&self.writes.get_or_create(&ResultLabel { result }), count);
        }
        self.entries.set(gauge(counts.entries));
        self.bytes.set(gauge(counts.bytes));
    }
}
