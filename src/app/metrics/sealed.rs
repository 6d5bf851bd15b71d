//! What a relay and an edge count of the sealed path, read when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

use api::gateway::{Gateway, GatewayFigures};
use domain::HealthState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use store::CopyState;

use super::registry::Registry;
use super::{Label, gauge};
use crate::sealed::{Chronicle, Edges, Uplink};

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

/// Of a node that keeps an audit log.
pub struct AuditMetrics {
    chronicle: Arc<Chronicle>,
    entries: Family<ResultLabels, Counter>,
    /// `None` where none are made.
    copies: Option<Copies>,
}

struct Copies {
    state: Arc<CopyState>,
    lines: Counter,
    is_away: Gauge,
}

impl Copies {
    fn new(state: Arc<CopyState>, registry: &mut Registry) -> Self {
        let copies = Self {
            state,
            lines: Counter::default(),
            is_away: Gauge::default(),
        };
        registry.register(
            "audit_copied_lines",
            "Lines of the audit log that were copied to Postgres",
            copies.lines.clone(),
        );
        registry.register(
            "audit_copies_away",
            "1 while lines of the audit log cannot be copied to Postgres",
            copies.is_away.clone(),
        );
        copies
    }

    fn read(&self) {
        raise(&self.lines, self.state.copied());
        self.is_away.set(self.state.is_away().into());
    }
}

impl AuditMetrics {
    pub fn new(
        chronicle: Arc<Chronicle>,
        copies: Option<Arc<CopyState>>,
        registry: &mut Registry,
    ) -> Self {
        let entries = Family::default();
        registry.register(
            "audit_entries",
            "Entries of the audit log: written, lost for want of room, and tries that failed",
            Family::clone(&entries),
        );
        Self {
            chronicle,
            entries,
            copies: copies.map(|state| Copies::new(state, registry)),
        }
    }

    pub fn read(&self) {
        if let Some(copies) = &self.copies {
            copies.read();
        }
        let Some(counts) = self.chronicle.counts() else {
            return;
        };
        for (result, count) in [
            ("written", counts.written),
            ("lost", counts.lost),
            ("failed", counts.failures),
        ] {
            raise(&self.entries.get_or_create(&ResultLabels { result }), count);
        }
    }
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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BackendLabels {
    backend: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BytesLabels {
    backend: String,
    direction: Label,
    kind: Label,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabels {
    backend: String,
    cause: Label,
}

/// One relay of an entry: as many as the configuration has.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MemberLabels {
    backend: String,
    relay: String,
}

/// Of a node that is an edge. Written anew for each scrape.
#[derive(Default)]
pub struct EdgeMetrics {
    requests: Family<BackendLabels, Counter>,
    bytes: Family<BytesLabels, Counter>,
    again: Family<CauseLabels, Counter>,
    manifests: Family<CauseLabels, Counter>,
    broken: Family<BackendLabels, Counter>,
    tails_left: Family<BackendLabels, Counter>,
    ready: Family<MemberLabels, Gauge>,
    in_flight: Family<MemberLabels, Gauge>,
    manifest_expires: Family<MemberLabels, Gauge>,
    certificate_expires: Family<MemberLabels, Gauge>,
}

impl EdgeMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sealed_requests",
            "Requests that were sealed and sent, each time anew",
            self.requests.clone(),
        );
        registry.register(
            "sealed_bytes",
            "Bytes of requests (up) and answers (down), as content and as they were sent sealed",
            self.bytes.clone(),
        );
        registry.register(
            "sealed_again",
            "Requests that were sealed once more, by why",
            self.again.clone(),
        );
        registry.register(
            "sealed_manifests",
            "Manifests of relays that were taken or refused",
            self.manifests.clone(),
        );
        registry.register(
            "sealed_broken",
            "Answers that did not open, or were cut",
            self.broken.clone(),
        );
        registry.register(
            "sealed_tails_left",
            "Answers whose padding was not read to its end, there being too many of them",
            self.tails_left.clone(),
        );
        for (name, help, family) in [
            (
                "sealed_relay_ready",
                "1 while a relay can be asked",
                &self.ready,
            ),
            (
                "sealed_relay_in_flight",
                "Requests under way at a relay",
                &self.in_flight,
            ),
            (
                "sealed_relay_manifest_expires_timestamp_seconds",
                "When the relay's manifest ends that is in force",
                &self.manifest_expires,
            ),
            (
                "sealed_relay_certificate_expires_timestamp_seconds",
                "When this edge's certificate at the relay ends",
                &self.certificate_expires,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
    }

    pub fn read(&self, uplinks: &[Arc<Uplink>]) {
        for family in [&self.requests, &self.broken, &self.tails_left] {
            family.clear();
        }
        for family in [&self.again, &self.manifests] {
            family.clear();
        }
        self.bytes.clear();
        for family in [
            &self.ready,
            &self.in_flight,
            &self.manifest_expires,
            &self.certificate_expires,
        ] {
            family.clear();
        }
        for uplink in uplinks {
            self.show(uplink);
        }
    }

    fn show(&self, uplink: &Uplink) {
        let backend = uplink.settings().asked.name.to_string();
        let figures = uplink.client().figures();
        let labels = BackendLabels {
            backend: backend.clone(),
        };
        for (family, count) in [
            (&self.requests, figures.sealed_requests),
            (&self.broken, figures.broken),
            (&self.tails_left, figures.tails_left),
        ] {
            family.get_or_create(&labels).inc_by(count);
        }
        for (family, cause, count) in [
            (&self.again, "key", figures.rekeyed),
            (&self.again, "clock", figures.redated),
            (&self.again, "session", figures.resigned),
            (&self.again, "failover", figures.failovers),
            (&self.manifests, "taken", figures.manifests_taken),
            (&self.manifests, "refused", figures.manifests_refused),
        ] {
            let labels = CauseLabels {
                backend: backend.clone(),
                cause,
            };
            family.get_or_create(&labels).inc_by(count);
        }
        for (direction, kind, bytes) in [
            ("up", "content", figures.content_up_bytes),
            ("up", "sealed", figures.sealed_up_bytes),
            ("down", "content", figures.content_down_bytes),
            ("down", "sealed", figures.sealed_down_bytes),
        ] {
            let labels = BytesLabels {
                backend: backend.clone(),
                direction,
                kind,
            };
            self.bytes.get_or_create(&labels).inc_by(bytes);
        }
        let labels = |relay: &str| MemberLabels {
            backend: backend.clone(),
            relay: relay.to_owned(),
        };
        for member in uplink.client().members() {
            let labels = labels(&member.relay_id);
            let is_ready = member.health.state == HealthState::Ready;
            self.ready.get_or_create(&labels).set(i64::from(is_ready));
            let in_flight = gauge(member.in_flight as u64);
            self.in_flight.get_or_create(&labels).set(in_flight);
            if let Some(expires) = member.expires {
                let expires = gauge(expires.0);
                self.manifest_expires.get_or_create(&labels).set(expires);
            }
        }
        for (relay, ends) in uplink.certificates() {
            let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
            let ends = gauge(ends.as_secs());
            self.certificate_expires
                .get_or_create(&labels(relay))
                .set(ends);
        }
    }
}
