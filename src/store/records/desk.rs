//! Writes records in batches, in one task, behind a queue that nobody waits for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::{ExchangeRecord, KeptRecord, RecordSink, moment_us};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, warn};

use super::place::FilePlace;
use super::shared::{Common, Mover, SharedPlace, shared};
use crate::{Outbox, PostgresAddress};

/// Records that wait to be written. One more is dropped and counted: some ten seconds of a busy node.
pub const RECORD_QUEUE_MAX: usize = 16_384;

/// Of one transaction.
pub const RECORD_BATCH_MAX: usize = 896;

/// How long a record waits for others to be written with. What a crash may lose is this and the time that
/// writing takes: less than a second.
const GATHER: Duration = Duration::from_millis(250);

/// After a write that failed.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How long who reads waits for the file of a node that only just starts.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long who erases waits for what is in the queue.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Between two looks for what is too old or too much.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// Where records are kept, for how long, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRules {
    pub dir: PathBuf,
    /// Since they ended. Zero: for ever.
    pub keep: Duration,
    /// Of the file; the oldest go first.
    pub bytes_max: u64,
}

/// What became of records so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    pub written: u64,
    /// They found no room in the queue, or the node ended before they could be written.
    pub dropped: u64,
    pub queued: u64,
    /// They could not be written when that was last tried.
    pub is_failing: bool,
    /// In the file beside, until Postgres takes them.
    pub waiting: u64,
    /// Postgres did not take them when that was last tried.
    pub is_away: bool,
}

/// Counted by who writes, read by anybody.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub written: AtomicU64,
    pub dropped: AtomicU64,
    pub is_failing: AtomicBool,
    pub waiting: AtomicU64,
    pub is_away: AtomicBool,
}

/// Takes records.
#[derive(Debug)]
pub struct RecordDesk {
    desk: mpsc::Sender<KeptRecord>,
    /// Told when the queue fills.
    filling: Arc<Notify>,
    tally: Arc<Tally>,
    end: watch::Sender<bool>,
    opened: watch::Receiver<bool>,
    /// Taken into the queue, and of these out of it and on a disk.
    sent: AtomicU64,
    settled: watch::Receiver<u64>,
    /// Where they are shared.
    common: Option<Arc<Common>>,
}

/// The driver.
#[derive(Debug)]
pub struct RecordWriter {
    inbox: mpsc::Receiver<KeptRecord>,
    filling: Arc<Notify>,
    tally: Arc<Tally>,
    end: watch::Receiver<bool>,
    /// Told once the file was opened, or could not be.
    opened: watch::Sender<bool>,
    settled: watch::Sender<u64>,
    place: Place,
    /// Brings to Postgres what waits for it.
    mover: Option<Mover>,
}

/// Where they are written.
#[derive(Debug)]
enum Place {
    File(FilePlace),
    Shared(SharedPlace),
}

impl Place {
    /// So that there is something to read.
    async fn open(&mut self) {
        match self {
            Place::File(file) => file.open().await,
            Place::Shared(shared) => shared.open().await,
        }
    }

    /// True once they are on a disk, here or there.
    async fn write(&mut self, batch: &[KeptRecord]) -> bool {
        match self {
            Place::File(file) => file.write(batch).await,
            Place::Shared(shared) => shared.write(batch).await,
        }
    }

    /// Removes some of what is too old or too much. True where there is more.
    async fn tidy(&mut self) -> bool {
        match self {
            Place::File(file) => file.tidy().await,
            // Its mover does.
            Place::Shared(_) => false,
        }
    }

    async fn close(self) {
        match self {
            Place::File(file) => file.close().await,
            Place::Shared(shared) => shared.close().await,
        }
    }
}

impl RecordDesk {
    /// What takes records, and what writes them into a file of this node. It is opened by the latter.
    #[must_use]
    pub fn new(rules: RecordRules) -> (Arc<Self>, RecordWriter) {
        let tally = Arc::<Tally>::default();
        let place = Place::File(FilePlace::new(rules, Arc::clone(&tally)));
        Self::of(place, None, None, tally)
    }

    /// What takes records, and what writes them into a Postgres that others write to as well. While it
    /// takes none they wait in a file in the rules' folder. Through `outbox` costs that are counted elsewhere
    /// have their records, whoever dies.
    #[must_use]
    pub fn shared(
        rules: RecordRules,
        address: PostgresAddress,
        outbox: Option<Arc<Outbox>>,
    ) -> (Arc<Self>, RecordWriter) {
        let tally = Arc::<Tally>::default();
        let (place, mover) = shared(rules, address, outbox, Arc::clone(&tally));
        let common = Some(place.common());
        Self::of(Place::Shared(place), Some(mover), common, tally)
    }

    fn of(
        place: Place,
        mover: Option<Mover>,
        common: Option<Arc<Common>>,
        tally: Arc<Tally>,
    ) -> (Arc<Self>, RecordWriter) {
        let (desk, inbox) = mpsc::channel(RECORD_QUEUE_MAX);
        let (end, ends) = watch::channel(false);
        let (opens, opened) = watch::channel(false);
        let (settles, settled) = watch::channel(0);
        let filling = Arc::new(Notify::new());
        let writer = RecordWriter {
            inbox,
            filling: Arc::clone(&filling),
            tally: Arc::clone(&tally),
            end: ends,
            opened: opens,
            settled: settles,
            place,
            mover,
        };
        let sink = Self {
            desk,
            filling,
            tally,
            end,
            opened,
            sent: AtomicU64::new(0),
            settled,
            common,
        };
        (Arc::new(sink), writer)
    }

    #[must_use]
    pub fn counts(&self) -> RecordCounts {
        RecordCounts {
            written: self.tally.written.load(Ordering::Relaxed),
            dropped: self.tally.dropped.load(Ordering::Relaxed),
            queued: (RECORD_QUEUE_MAX - self.desk.capacity()) as u64,
            is_failing: self.tally.is_failing.load(Ordering::Relaxed),
            waiting: self.tally.waiting.load(Ordering::Relaxed),
            is_away: self.tally.is_away.load(Ordering::Relaxed),
        }
    }

    /// Ends the driver, once all that was appended is written or cannot be.
    pub fn close(&self) {
        self.end.send_replace(true);
    }

    /// Returns once the writer opened its file, or tried to: before that there is nothing to read.
    pub(super) async fn until_opened(&self) {
        let mut opened = self.opened.clone();
        // After the wait, or where there is no writer any more, reading finds what there is.
        let _ = timeout(OPEN_WAIT_MAX, opened.wait_for(|is_open| *is_open)).await;
    }

    /// Returns once all that was appended before is on a disk, here or there. False where that does not come
    /// to pass.
    pub(super) async fn until_settled(&self) -> bool {
        let sent = self.sent.load(Ordering::Acquire);
        let mut settled = self.settled.clone();
        let settling = settled.wait_for(|count| *count >= sent);
        matches!(timeout(SETTLE_MAX, settling).await, Ok(Ok(_)))
    }

    /// What is shared with others, where something is.
    pub(super) fn common(&self) -> Option<&Arc<Common>> {
        self.common.as_ref()
    }
}

impl RecordSink for RecordDesk {
    fn append(&self, record: &ExchangeRecord) {
        let ended_us = match record.ended_us {
            0 => moment_us(),
            ended_us => ended_us,
        };
        let kept = KeptRecord::of(record, ended_us);
        match self.desk.try_send(kept) {
            Ok(()) => drop(self.sent.fetch_add(1, Ordering::Release)),
            Err(_) => drop(self.tally.dropped.fetch_add(1, Ordering::Relaxed)),
        }
        if self.desk.capacity() < RECORD_QUEUE_MAX - RECORD_BATCH_MAX {
            self.filling.notify_one();
        }
    }
}

impl RecordWriter {
    /// Writes until it is closed, or nobody can append any more.
    pub async fn run(mut self) {
        let Some(mover) = self.mover.take() else {
            return self.write_all().await;
        };
        tokio::select! {
            biased;
            () = self.write_all() => {}
            // It never ends by itself, and may be ended at any time.
            () = mover.run() => {}
        }
    }

    async fn write_all(mut self) {
        let mut batch = Vec::with_capacity(RECORD_BATCH_MAX);
        let mut tidy_at = Instant::now();
        let mut dropped_before = 0;
        self.place.open().await;
        self.opened.send_replace(true);
        loop {
            let is_over = tokio::select! {
                biased;
                count = self.inbox.recv_many(&mut batch, RECORD_BATCH_MAX) => count == 0,
                () = ended(&mut self.end) => true,
                () = sleep_until(tidy_at) => false,
            };
            if is_over {
                return self.finish(batch).await;
            }
            if !batch.is_empty() {
                self.gather(&mut batch).await;
                if !self.write_through(&mut batch).await {
                    return self.finish(batch).await;
                }
            }
            let dropped = self.tally.dropped.load(Ordering::Relaxed);
            if dropped > dropped_before {
                let count = dropped - dropped_before;
                warn!(
                    count,
                    "records were dropped: they came faster than they could be written"
                );
                dropped_before = dropped;
            }
            if Instant::now() >= tidy_at {
                let has_more = self.place.tidy().await;
                tidy_at = Instant::now() + if has_more { Duration::ZERO } else { TIDY_EVERY };
            }
        }
    }

    /// Waits a little for more.
    async fn gather(&mut self, batch: &mut Vec<KeptRecord>) {
        if batch.len() < RECORD_BATCH_MAX {
            tokio::select! {
                () = sleep(GATHER) => {}
                () = self.filling.notified() => {}
                () = ended(&mut self.end) => {}
            }
        }
        let room = RECORD_BATCH_MAX.saturating_sub(batch.len());
        for _ in 0..room {
            let Ok(record) = self.inbox.try_recv() else {
                break;
            };
            batch.push(record);
        }
    }

    /// Tries until it is written. False where the node ends before that.
    async fn write_through(&mut self, batch: &mut Vec<KeptRecord>) -> bool {
        while !self.place.write(batch).await {
            tokio::select! {
                () = sleep(RETRY_EVERY) => {}
                () = ended(&mut self.end) => return false,
            }
        }
        self.settle(batch.len());
        batch.clear();
        true
    }

    fn settle(&self, count: usize) {
        self.settled.send_modify(|it| *it += count as u64);
    }

    /// Writes what there is, each batch once.
    async fn finish(mut self, mut batch: Vec<KeptRecord>) {
        self.inbox.close();
        loop {
            let room = RECORD_BATCH_MAX.saturating_sub(batch.len()).max(1);
            if batch.is_empty() && self.inbox.recv_many(&mut batch, room).await == 0 {
                break;
            }
            if !self.place.write(&batch).await {
                let lost = batch.len() + self.inbox.len();
                self.tally.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                error!(count = lost, "records were lost: they could not be written");
                break;
            }
            self.settle(batch.len());
            batch.clear();
        }
        self.place.close().await;
    }
}

/// Returns once it is told to end.
async fn ended(end: &mut watch::Receiver<bool>) {
    // An error is that nobody is left to tell: nobody appends either.
    drop(end.wait_for(|is_over| *is_over).await);
}
