//! One record per exchange, however it ends.

use std::fmt;
use std::sync::Arc;

use domain::{CacheOutcome, ExchangeRecord, ModelAlias, Outcome, Principal, RecordSink, RequestId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

/// Leaves exactly one record, on drop. Its place in the recorder's queue was taken at admission, so
/// that leaving it cannot fail or wait.
pub(crate) struct Receipt {
    record: Option<ExchangeRecord>,
    admitted_at: Instant,
    desk: Option<mpsc::OwnedPermit<ExchangeRecord>>,
    /// The exchange's seat, given back with the receipt.
    _seat: OwnedSemaphorePermit,
}

impl Receipt {
    pub(crate) fn new(
        request_id: RequestId,
        principal: &Principal,
        model_asked: ModelAlias,
        desk: mpsc::OwnedPermit<ExchangeRecord>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let record = ExchangeRecord {
            request_id,
            key: principal.key.clone(),
            team: principal.team.clone(),
            model_asked,
            route: None,
            reason: String::new(),
            cache: CacheOutcome::Bypassed,
            // What stands if nobody says otherwise: the caller left.
            outcome: Outcome::Abandoned,
            usage: None,
            masked_count: 0,
            first_content_after: None,
            took: std::time::Duration::ZERO,
            failed_candidates: Vec::new(),
        };
        Self {
            record: Some(record),
            admitted_at: Instant::now(),
            desk: Some(desk),
            _seat: seat,
        }
    }

    /// Notes something. A no-op once the record has left, which only `Drop` does.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut ExchangeRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// Notes that content has begun to flow.
    pub(crate) fn note_first_content(&mut self) {
        let after = self.admitted_at.elapsed();
        self.note(|record| record.first_content_after = Some(after));
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let took = self.admitted_at.elapsed();
        if let (Some(desk), Some(mut record)) = (self.desk.take(), self.record.take()) {
            record.took = took;
            desk.send(record);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

/// The driver that hands records to the sinks. Ends when the pipeline and every exchange are gone.
pub struct Recorder {
    inbox: mpsc::Receiver<ExchangeRecord>,
    sinks: Vec<Arc<dyn RecordSink>>,
}

impl Recorder {
    pub(crate) fn new(
        inbox: mpsc::Receiver<ExchangeRecord>,
        sinks: Vec<Arc<dyn RecordSink>>,
    ) -> Self {
        Self { inbox, sinks }
    }

    /// Runs until nothing is left to record.
    pub async fn run(mut self) {
        while let Some(record) = self.inbox.recv().await {
            for sink in &self.sinks {
                sink.append(&record);
            }
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} sinks)", self.sinks.len())
    }
}
