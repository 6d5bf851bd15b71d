//! The log: a queue that never makes anybody wait, and the driver behind it.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use domain::{AdminChange, AuditLog, SealedEntry};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::chain::AuditFileName;
use super::counts::{AuditCounts, Counts, Lost};
use super::line::milliseconds;
use super::writer::{AuditRules, Entry, Writer};

/// Entries that wait for the disk. One more is counted, and a line says so later.
pub const QUEUE_MAX: usize = 8_192;

/// Entries of one write.
pub const BATCH_MAX: usize = 256;

/// How long an entry waits for others to be written with: a write costs as much for one as for some.
/// A process that is killed takes no more with it.
pub const GATHER: Duration = Duration::from_millis(10);

/// What was written is on the disk itself after that long at most; a power cut takes no more with it.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How long an operator waits for the entry of a change.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Between tries of a disk that fails. Entries wait in the queue meanwhile.
pub const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A log in files. Dropped, its driver writes what was appended, and ends.
#[derive(Debug)]
pub struct AuditFile {
    queue: mpsc::Sender<Entry>,
    counts: Arc<Counts>,
    synced: Arc<Mutex<(AuditFileName, u64)>>,
}

impl AuditFile {
    /// Goes on with the log in the folder, or begins one. Waits for the disk. Of the driver a node runs
    /// one, on a runtime with blocking threads.
    ///
    /// # Errors
    /// The folder or its last file cannot be written, or another process writes it.
    pub fn open(
        rules: AuditRules,
    ) -> io::Result<(Arc<Self>, impl Future<Output = ()> + Send + 'static)> {
        let writer = Writer::open(rules)?;
        let (queue, entries) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        let synced = Arc::new(Mutex::new(writer.synced()));
        let driver = Driver {
            entries,
            counts: Arc::clone(&counts),
            synced: Arc::clone(&synced),
            batch: Vec::with_capacity(BATCH_MAX),
            is_failing: false,
        };
        let file = Self {
            queue,
            counts,
            synced,
        };
        Ok((Arc::new(file), driver.run(writer)))
    }

    #[must_use]
    pub fn counts(&self) -> AuditCounts {
        self.counts.now()
    }

    /// How much of the newest file is on the disk. What follows may still be taken back.
    #[must_use]
    pub fn synced(&self) -> (AuditFileName, u64) {
        *self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once it is written and outlives this process. False where there was no room in the queue,
    /// which is counted, or the disk did not answer for `CHANGE_WAIT_MAX`: then it waits with the others.
    pub async fn note(&self, change: AdminChange) -> bool {
        let (done, written) = oneshot::channel();
        if self.queue.try_send(Entry::Change(change, done)).is_err() {
            self.counts.lose(milliseconds(SystemTime::now()));
            return false;
        }
        matches!(timeout(CHANGE_WAIT_MAX, written).await, Ok(Ok(())))
    }
}

impl AuditLog for AuditFile {
    fn append(&self, entry: SealedEntry) {
        if self.queue.try_send(Entry::Sealed(Box::new(entry))).is_err() {
            self.counts.lose(milliseconds(SystemTime::now()));
        }
    }
}

struct Driver {
    entries: mpsc::Receiver<Entry>,
    counts: Arc<Counts>,
    synced: Arc<Mutex<(AuditFileName, u64)>>,
    /// Taken from the queue, and not written yet.
    batch: Vec<Entry>,
    is_failing: bool,
}

impl Driver {
    async fn run(mut self, mut writer: Writer) {
        let mut synced = Instant::now();
        let mut is_open = true;
        while is_open || self.has_work() {
            if is_open && !self.has_work() {
                let sync_at = synced + SYNC_EVERY;
                tokio::select! {
                    biased;
                    count = self.entries.recv_many(&mut self.batch, BATCH_MAX) => is_open = count > 0,
                    () = sleep_until(sync_at), if writer.is_unsynced() => {}
                }
                self.gather().await;
            }
            let is_due = !is_open || synced.elapsed() >= SYNC_EVERY;
            let lost = self.counts.take_unsaid();
            let batch = std::mem::take(&mut self.batch);
            let work = move || {
                let written = match batch.is_empty() && lost.count == 0 {
                    true => Ok(()),
                    false => writer.write(&batch, lost),
                };
                let synced = if is_due { writer.sync() } else { Ok(()) };
                (writer, batch, written, synced)
            };
            // Only a runtime that ends takes it away.
            let Ok((back, batch, written, on_disk)) = tokio::task::spawn_blocking(work).await
            else {
                return;
            };
            writer = back;
            *self.synced.lock().unwrap_or_else(PoisonError::into_inner) = writer.synced();
            if is_due {
                synced = Instant::now();
            }
            let done = match written {
                Ok(()) => {
                    self.wrote(batch.len(), lost);
                    batch.into_iter().for_each(Entry::done);
                    on_disk
                }
                Err(error) => {
                    self.counts.put_back(lost);
                    self.batch = batch;
                    Err(error)
                }
            };
            match done {
                Ok(()) => self.is_failing &= self.has_work(),
                Err(error) => {
                    self.failed(&error);
                    if self.entries.is_closed() {
                        return self.give_up();
                    }
                    sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    /// Waits a little for more, where some came.
    async fn gather(&mut self) {
        if self.batch.is_empty() || self.batch.len() >= BATCH_MAX || self.entries.is_closed() {
            return;
        }
        sleep(GATHER).await;
        while self.batch.len() < BATCH_MAX {
            let Ok(entry) = self.entries.try_recv() else {
                return;
            };
            self.batch.push(entry);
        }
    }

    fn has_work(&self) -> bool {
        !self.batch.is_empty() || self.counts.has_unsaid()
    }

    fn wrote(&mut self, count: usize, lost: Lost) {
        self.counts.wrote(count);
        if count > 0 && std::mem::take(&mut self.is_failing) {
            info!("audit log is written again");
        }
        if lost.count > 0 {
            warn!(
                lost = lost.count,
                "audit entries are missing; the log says so"
            );
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.counts.fail();
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(%error, "audit log cannot be written; entries wait");
        }
    }

    /// The node ends, and the disk does not answer.
    fn give_up(mut self) {
        let mut count = self.batch.len() as u64 + self.counts.take_unsaid().count;
        while self.entries.try_recv().is_ok() {
            count += 1;
        }
        warn!(
            lost = count,
            "audit entries are missing, and the log cannot say so"
        );
    }
}
