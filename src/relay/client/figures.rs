//! What a client counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientFigures {
    /// Requests that were sealed and sent, each time anew.
    pub sealed_requests: u64,
    /// Of requests' bodies, in bytes.
    pub content_up_bytes: u64,
    /// Of requests as they were sent.
    pub sealed_up_bytes: u64,
    /// Of answers' bodies as they were handed on.
    pub content_down_bytes: u64,
    /// Of answers as they came.
    pub sealed_down_bytes: u64,
    pub manifests_taken: u64,
    pub manifests_refused: u64,
    /// Requests sealed anew because a relay did not know the key.
    pub rekeyed: u64,
    /// Requests sealed anew because the clock was corrected.
    pub redated: u64,
    /// Requests sealed anew because the relay did not know the session any more.
    pub resigned: u64,
    /// Requests that went on to another member.
    pub failovers: u64,
    /// Answers that did not open, or were cut.
    pub broken: u64,
    /// Answers whose rest nobody read out, there being too many of them.
    pub tails_left: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sealed_requests: AtomicU64,
    pub(super) content_up_bytes: AtomicU64,
    pub(super) sealed_up_bytes: AtomicU64,
    pub(super) content_down_bytes: AtomicU64,
    pub(super) sealed_down_bytes: AtomicU64,
    pub(super) manifests_taken: AtomicU64,
    pub(super) manifests_refused: AtomicU64,
    pub(super) rekeyed: AtomicU64,
    pub(super) redated: AtomicU64,
    pub(super) resigned: AtomicU64,
    pub(super) failovers: AtomicU64,
    pub(super) broken: AtomicU64,
    pub(super) tails_left: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(super) fn add(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

impl Counts {
    pub(super) fn figures(&self) -> ClientFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClientFigures {
            sealed_requests: read(&self.sealed_requests),
            content_up_bytes: read(&self.content_up_bytes),
            sealed_up_bytes: read(&self.sealed_up_bytes),
            content_down_bytes: read(&self.content_down_bytes),
            sealed_down_bytes: read(&self.sealed_down_bytes),
            manifests_taken: read(&self.manifests_taken),
            manifests_refused: read(&self.manifests_refused),
            rekeyed: read(&self.rekeyed),
            redated: read(&self.redated),
            resigned: read(&self.resigned),
            failovers: read(&self.failovers),
            broken: read(&self.broken),
            tails_left: read(&self.tails_left),
        }
    }
}
