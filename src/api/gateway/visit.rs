//! One request that was opened, from there to its answer's end: what it holds, and what is written down
//! of it.

use std::sync::Arc;
use std::time::Duration;

use domain::{RequestId, SealedEntry, SealedResult, SealedSide};
use relay::Edge;
use relay::shape::{Shape, Spent};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Gateway;
use super::accounts::UnderWay;
use super::opening::{Holding, Opened};
use super::outer::Peer;

/// Leaves one entry, on drop.
pub(super) struct Visit {
    gateway: Arc<Gateway>,
    pub id: RequestId,
    entry: SealedEntry,
    edge: Option<Arc<Edge>>,
    began: Instant,
    /// Whether the pipeline may record it.
    is_open: bool,
    under_way: Option<UnderWay>,
    _seat: OwnedSemaphorePermit,
    _holding: Holding,
}

impl Visit {
    pub fn new(
        gateway: &Arc<Gateway>,
        id: RequestId,
        opened: &Opened,
        peer: &Peer,
        seat: OwnedSemaphorePermit,
        holding: Holding,
    ) -> Self {
        let path = opened.line.path();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let certificate = peer.certificate.as_ref();
        let entry = SealedEntry {
            at: gateway.books.time(),
            side: SealedSide::Relay,
            edge: None,
            relay: gateway.rules.relay_id.clone(),
            certificate: certificate.map(|certificate| certificate.serial.clone()),
            key_id: opened.key_id,
            enc: opened.digest.short(),
            path: Some(shortened(path)),
            model: None,
            tokens_in: None,
            tokens_out: None,
            shape: None,
            bytes_up: opened.sealed_bytes,
            bytes_down: 0,
            status: None,
            took: Duration::ZERO,
            cost: None,
            // What stands if nobody says otherwise: the edge left.
            result: SealedResult::Abandoned,
        };
        Self {
            gateway: Arc::clone(gateway),
            id,
            entry,
            edge: None,
            began: Instant::now(),
            is_open: false,
            under_way: None,
            _seat: seat,
            _holding: holding,
        }
    }

    /// It goes on into the node.
    pub fn admit(&mut self, edge: Arc<Edge>, under_way: UnderWay) {
        self.gateway.books.open(self.id.clone(), &edge.id);
        self.is_open = true;
        self.under_way = Some(under_way);
        self.note_edge(Some(edge));
    }

    pub fn note_edge(&mut self, edge: Option<Arc<Edge>>) {
        self.entry.edge = edge.as_ref().map(|edge| edge.id.clone());
        self.edge = edge;
    }

    pub fn note_shape(&mut self, shape: Shape) {
        self.entry.shape = Some(shape.to_string());
    }

    pub fn note_status(&mut self, status: u16) {
        self.entry.status = Some(status);
    }

    pub fn note_sealed(&mut self, bytes: usize) {
        self.entry.bytes_down += bytes as u64;
    }

    pub fn note_spent(&self, spent: Spent, waits: u64, waited: Duration) {
        self.gateway.tally.count_shaped(spent);
        self.gateway.tally.count_waits(waits, waited);
    }

    pub fn end(&mut self, result: SealedResult) {
        self.entry.result = result;
    }

    /// Its edge is known no more.
    pub fn is_revoked(&self) -> bool {
        self.is_open && self.edge.as_ref().is_some_and(|edge| edge.is_revoked())
    }

    pub fn now(&self) -> relay::UnixTime {
        self.gateway.books.now()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.entry.took = self.began.elapsed();
        let tally = &self.gateway.tally;
        tally.count_result(self.entry.result);
        tally.count_bytes(self.entry.bytes_up, self.entry.bytes_down);
        let entry = self.entry.clone();
        if self.is_open {
            self.gateway.books.close(&self.id, entry);
        } else {
            self.gateway.books.refuse(entry);
        }
    }
}

/// A path that an edge sent, cut to a length worth keeping.
fn shortened(path: &str) -> String {
    const CHARS_MAX: usize = 128;
    path.chars().take(CHARS_MAX).collect()
}
