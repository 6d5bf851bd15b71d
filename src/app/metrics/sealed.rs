//! What a relay and an edge count of the sealed path, read when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use api::gateway::{Gateway, GatewayFigures};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Label, gauge};
use crate::sealed::Edges;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabels {
    direction: Label,
}

/// Sets a counter to what was counted elsewhere. It never falls.
pub fn raise(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

/// Of a node that is a relay.
pub struct RelayMetrics {
    gateway: Weak<Gateway>,
    known: Arc<Edges>,
    requests: Family<ResultLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    in_flight: Gauge,
    connections: Gauge,
    connections_refused: Counter,
    sealed_bytes: Family<DirectionLabels, Counter>,
    cells: Counter,
    content_bytes: Counter,
    plain_bytes: Counter,
    missed_ticks: Counter,
    waits: Counter,
    waited: Counter<f64, AtomicU64>,
    replay_entries: Gauge,
    edges: Gauge,
}

impl RelayMetrics {
    pub fn new(gateway: Weak<Gateway>, known: Arc<Edges>, registry: &mut Registry) -> Self {
        let metrics = Self {
            gateway,
            known,
            requests: Family::default(),
            refused: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            sealed_bytes: Family::default(),
            cells: Counter::default(),
            content_bytes: Counter::default(),
            plain_bytes: Counter::default(),
            missed_ticks: Counter::default(),
            waits: Counter::default(),
            waited: Counter::default(),
            replay_entries: Gauge::default(),
            edges: Gauge::default(),
        };
        registry.register(
            "relay_requests",
            "Sealed requests that were opened, by what came of them",
            metrics.requests.clone(),
        );
        registry.register(
            "relay_refused",
            "What edges were answered in the clear, by why",
            metrics.refused.clone(),
        );
        registry.register(
            "relay_sealed_bytes",
            "Bytes of sealed requests (up) and responses (down)",
            metrics.sealed_bytes.clone(),
        );
        for (name, help, gauge) in [
            (
                "relay_in_flight",
                "Sealed requests under way",
                &metrics.in_flight,
            ),
            (
                "relay_connections",
                "Connections of edges",
                &metrics.connections,
            ),
            (
                "relay_replay_entries",
                "Requests that are remembered, so that none is taken twice",
                &metrics.replay_entries,
            ),
            (
                "relay_edges",
                "Edges that have joined and are not revoked",
                &metrics.edges,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "relay_connections_refused",
                "Connections that got no seat",
                &metrics.connections_refused,
            ),
            (
                "relay_cells",
                "Cells of responses that were sealed",
                &metrics.cells,
            ),
            (
                "relay_content_bytes",
                "Bytes of responses' bodies",
                &metrics.content_bytes,
            ),
            (
                "relay_plain_bytes",
                "Bytes in cells: what is beyond the bodies is what shapes cost",
                &metrics.plain_bytes,
            ),
            (
                "relay_missed_ticks",
                "Ticks of the shape constant that nothing could go at",
                &metrics.missed_ticks,
            ),
            (
                "relay_waits",
                "Times that content waited for its cell",
                &metrics.waits,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "relay_waited_seconds",
            "For how long content waited for its cell: the delay that shapes cost",
            metrics.waited.clone(),
        );
        metrics
    }

    pub fn read(&self) {
        self.edges.set(gauge(self.known.count() as u64));
        let Some(gateway) = self.gateway.upgrade() else {
            return;
        };
        self.show(&gateway.figures());
    }

    fn show(&self, figures: &GatewayFigures) {
        for (result, count) in figures.results {
            let result = result.as_label();
            raise(
                &self.requests.get_or_create(&ResultLabels { result }),
                count,
            );
        }
        for (refusal, count) in figures.refused {
            let reason = refusal.as_label();
            raise(&self.refused.get_or_create(&ReasonLabels { reason }), count);
        }
        for (direction, bytes) in [
            ("up", figures.sealed_up_bytes),
            ("down", figures.sealed_down_bytes),
        ] {
            let labels = DirectionLabels { direction };
            raise(&self.sealed_bytes.get_or_create(&labels), bytes);
        }
        self.in_flight.set(gauge(figures.requests));
        self.connections.set(gauge(figures.connections));
        self.replay_entries.set(gauge(figures.replay_entries));
        raise(&self.connections_refused, figures.connections_refused);
        raise(&self.cells, figures.cells);
        raise(&self.content_bytes, figures.content_bytes);
        raise(&self.plain_bytes, figures.plain_bytes);
        raise(&self.missed_ticks, figures.missed_ticks);
        raise(&self.waits, figures.waits);
        let waited = figures.waited.as_secs_f64();
        let more = waited - self.waited.get();
        // Two scrapes at once are one after the other.
        self.waited.inc_by(more.max(0.0));
    }
}
