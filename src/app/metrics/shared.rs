//! How limits are counted with other replicas.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::SharedQuotas;

use super::registry::Registry;
use super::sealed::raise;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// Of a node that counts with others.
#[derive(Debug)]
pub struct SharedMetrics {
    quotas: Arc<SharedQuotas>,
    apart: Gauge,
    partings: Counter,
    generations: Counter,
    takes_apart: Family<ResultLabel, Counter>,
    unsettled: Gauge,
    lost: Counter,
}

impl SharedMetrics {
    pub fn new(quotas: Arc<SharedQuotas>, registry: &mut Registry) -> Self {
        let ours = Self {
            quotas,
            apart: Gauge::default(),
            partings: Counter::default(),
            generations: Counter::default(),
            takes_apart: Family::default(),
            unsettled: Gauge::default(),
            lost: Counter::default(),
        };
        registry.register(
            "shared_limits_apart",
            "1 while the counts that replicas share cannot be asked",
            ours.apart.clone(),
        );
        registry.register(
            "shared_limits_partings",
            "How often the counts that replicas share could not be asked any more",
            ours.partings.clone(),
        );
        registry.register(
            "shared_limits_generations",
            "How often the counts that replicas share began anew",
            ours.generations.clone(),
        );
        registry.register(
            "shared_limits_takes_apart",
            "Requests that were held against this replica's own share: granted, and refused",
            ours.takes_apart.clone(),
        );
        registry.register(
            "shared_limits_unsettled",
            "Limits whose use waits to be told to the counts that replicas share",
            ours.unsettled.clone(),
        );
        registry.register(
            "shared_limits_lost",
            "Uses of limits that found no room among those that wait to be told",
            ours.lost.clone(),
        );
        ours
    }

    /// Reads the counts anew.
    pub fn read(&self) {
        let counts = self.quotas.counts();
        self.apart.set(counts.is_apart.into());
        raise(&self.partings, counts.partings);
        raise(&self.generations, counts.generations);
        raise(&self.lost, counts.lost);
        let results = [
            ("granted", counts.granted_apart),
            ("refused", counts.refused_apart),
        ];
        for (result, count) in results {
            let label = ResultLabel { result };
            raise(&self.takes_apart.get_or_create(&label), count);
        }
        self.unsettled
            .set(i64::try_from(counts.unsettled).unwrap_or(i64::MAX));
    }
}
