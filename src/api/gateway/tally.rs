//! What a gateway counts.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use domain::SealedResult;
use relay::OuterRefusal;
use relay::shape::Spent;

#[derive(Debug, Default)]
pub(super) struct GatewayTally {
    results: [AtomicU64; SealedResult::ALL.len()],
    refused: [AtomicU64; OuterRefusal::ALL.len()],
    connections: AtomicI64,
    connections_refused: AtomicU64,
    sealed_up_bytes: AtomicU64,
    sealed_down_bytes: AtomicU64,
    cells: AtomicU64,
    content_bytes: AtomicU64,
    plain_bytes: AtomicU64,
    missed_ticks: AtomicU64,
    waits: AtomicU64,
    waited_us: AtomicU64,
}

/// What a gateway did since it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFigures {
    /// Requests that were opened, by what came of them.
    pub results: [(SealedResult, u64); SealedResult::ALL.len()],
    /// What was answered in the clear, by why.
    pub refused: [(OuterRefusal, u64); OuterRefusal::ALL.len()],
    /// Requests under way.
    pub requests: u64,
    pub connections: u64,
    /// Connections that got no seat.
    pub connections_refused: u64,
    /// Sealed, of requests that were opened.
    pub sealed_up_bytes: u64,
    /// Sealed, of responses.
    pub sealed_down_bytes: u64,
    pub cells: u64,
    /// Of responses' bodies.
    pub content_bytes: u64,
    /// In cells: what is beyond `content_bytes` is what padding and framing cost.
    pub plain_bytes: u64,
    /// Ticks of the shape `constant` that nothing could go at.
    pub missed_ticks: u64,
    /// Times that content waited for its cell, and for how long in all.
    pub waits: u64,
    pub waited: Duration,
    /// Requests that are remembered, so that none is taken twice.
    pub replay_entries: u64,
}

impl GatewayTally {
    pub fn count_result(&self, result: SealedResult) {
        let at = SealedResult::ALL.iter().position(|known| *known == result);
        if let Some(counter) = at.and_then(|at| self.results.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn count_refused(&self, refusal: OuterRefusal) {
        let at = OuterRefusal::ALL.iter().position(|known| *known == refusal);
        if let Some(counter) = at.and_then(|at| self.refused.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn count_bytes(&self, up: u64, down: u64) {
        self.sealed_up_bytes.fetch_add(up, Ordering::Relaxed);
        self.sealed_down_bytes.fetch_add(down, Ordering::Relaxed);
    }

    pub fn count_shaped(&self, spent: Spent) {
        let add = |counter: &AtomicU64, more| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.cells, spent.cells);
        add(&self.content_bytes, spent.content_bytes);
        add(&self.plain_bytes, spent.plain_bytes);
        add(&self.missed_ticks, spent.missed_ticks);
    }

    pub fn count_waits(&self, waits: u64, waited: Duration) {
        self.waits.fetch_add(waits, Ordering::Relaxed);
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.waited_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn count_connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection until the guard drops.
    pub fn connection(&self) -> Open<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    pub fn figures(&self, requests: usize, replay_entries: usize) -> GatewayFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connections = self.connections.load(Ordering::Relaxed);
        GatewayFigures {
            results: std::array::from_fn(|at| (SealedResult::ALL[at], read(&self.results[at]))),
            refused: std::array::from_fn(|at| (OuterRefusal::ALL[at], read(&self.refused[at]))),
            requests: requests as u64,
            connections: u64::try_from(connections).unwrap_or_default(),
            connections_refused: read(&self.connections_refused),
            sealed_up_bytes: read(&self.sealed_up_bytes),
            sealed_down_bytes: read(&self.sealed_down_bytes),
            cells: read(&self.cells),
            content_bytes: read(&self.content_bytes),
            plain_bytes: read(&self.plain_bytes),
            missed_ticks: read(&self.missed_ticks),
            waits: read(&self.waits),
            waited: Duration::from_micros(read(&self.waited_us)),
            replay_entries: replay_entries as u64,
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Open<'a>(&'a GatewayTally);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
