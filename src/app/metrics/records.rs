//! What became of records of exchanges.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::RecordDesk;

use super::registry::Registry;
use super::sealed::raise;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Of a node that keeps records.
#[derive(Debug)]
pub struct RecordMetrics {
    desk: Arc<RecordDesk>,
    records: Family<ResultLabel, Counter>,
    queued: Gauge,
    failing: Gauge,
    waiting: Gauge,
    away: Family<StoreLabel, Gauge>,
}

/// A server that replicas share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabel {
    store: &'static str,
}

const POSTGRES: StoreLabel = StoreLabel { store: "postgres" };

impl RecordMetrics {
    pub fn new(desk: Arc<RecordDesk>, is_shared: bool, registry: &mut Registry) -> Self {
        let ours = Self {
            desk,
            records: Family::default(),
            queued: Gauge::default(),
            failing: Gauge::default(),
            waiting: Gauge::default(),
            away: Family::default(),
        };
        registry.register(
            "records",
            "Records of exchanges: written, and dropped because they could not be written in time",
            ours.records.clone(),
        );
        registry.register(
            "records_queued",
            "Records of exchanges that wait to be written",
            ours.queued.clone(),
        );
        registry.register(
            "records_failing",
            "1 while records cannot be written",
            ours.failing.clone(),
        );
        if is_shared {
            registry.register(
                "records_waiting",
                "Records of exchanges in the file beside, until Postgres takes them",
                ours.waiting.clone(),
            );
            registry.register(
                "store_failing",
                "1 while what replicas share cannot be reached",
                ours.away.clone(),
            );
        }
        ours
    }

    /// Reads the counts anew.
    pub fn read(&self) {
        let counts = self.desk.counts();
        let results = [("written", counts.written), ("dropped", counts.dropped)];
        for (result, count) in results {
            raise(&self.records.get_or_create(&ResultLabel { result }), count);
        }
        self.queued
            .set(i64::try_from(counts.queued).unwrap_or(i64::MAX));
        self.failing.set(i64::from(counts.is_failing));
        self.waiting
            .set(i64::try_from(counts.waiting).unwrap_or(i64::MAX));
        self.away
            .get_or_create(&POSTGRES)
            .set(i64::from(counts.is_away));
    }
}
