//! What is written down of one sealed exchange: one entry, however it ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use domain::{AuditLog, Parcel, SealedEntry, SealedResult, SealedSide};
use tokio::time::Instant;

use super::ClientRules;
use super::member::Relay;
use super::opening::Head;
use super::outer::{is_problem, is_undone};
use super::sealing::Sealed;

/// An entry on its way. Written when it is dropped.
pub(super) struct Journal {
    entry: Option<SealedEntry>,
    begun: Instant,
    audit: Arc<dyn AuditLog>,
}

impl Journal {
    pub(super) fn begin(
        relay: &Relay,
        parcel: &Parcel,
        sealed: &Sealed,
        rules: &ClientRules,
        audit: &Arc<dyn AuditLog>,
    ) -> Self {
        let entry = SealedEntry {
            at: SystemTime::now(),
            side: SealedSide::Edge,
            edge: Some(relay.edge_id.clone()),
            relay: relay.id().to_owned(),
            certificate: None,
            key_id: sealed.key_id,
            enc: sealed.digest.short(),
            path: Some(parcel.path.split('?').next().unwrap_or_default().to_owned()),
            model: Some(parcel.model.clone()),
            tokens_in: None,
            tokens_out: None,
            shape: Some(rules.shape.to_string()),
            bytes_up: sealed.bytes.len() as u64,
            bytes_down: 0,
            status: None,
            took: Duration::ZERO,
            cost: None,
            result: SealedResult::Abandoned,
        };
        Self {
            entry: Some(entry),
            begun: Instant::now(),
            audit: Arc::clone(audit),
        }
    }

    /// Nothing was sent, so there was no exchange.
    pub(super) fn forget(mut self) {
        self.entry = None;
    }

    pub(super) fn came(&mut self, bytes: usize) {
        if let Some(entry) = &mut self.entry {
            entry.bytes_down += bytes as u64;
        }
    }

    pub(super) fn head(&mut self, head: &Head) {
        if let Some(entry) = &mut self.entry {
            entry.status = Some(head.status);
        }
    }

    pub(super) fn broken(&mut self) {
        self.result(SealedResult::Broken);
    }

    /// The sealed answer came to its end.
    pub(super) fn ended(&mut self, verdict: SealedResult) {
        self.result(verdict);
    }

    fn result(&mut self, result: SealedResult) {
        if let Some(entry) = &mut self.entry {
            entry.result = result;
        }
    }
}

/// What an answer says of how the exchange went, once it is whole.
pub(super) fn verdict(head: &Head) -> SealedResult {
    match head.status {
        // A relay's own words, and no provider's.
        400 if is_undone(head) && is_problem(head) => SealedResult::OffTime,
        401 if is_undone(head) => SealedResult::Unproven,
        403 if is_undone(head) => SealedResult::Denied,
        409 if is_undone(head) => SealedResult::Repeated,
        429 if is_undone(head) => SealedResult::Capped,
        _ => SealedResult::Answered,
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.took = self.begun.elapsed();
            self.audit.append(entry);
        }
    }
}
