//! Writes records in batches, in one task, behind a queue that nobody waits for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use domain::{ExchangeRecord, KeptRecord, RecordSink};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor, query, query_scalar, raw_sql};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::file::{self, FileError};
use super::row;

/// Records that wait to be written. One more is dropped and counted: some ten seconds of a busy node.
pub const RECORD_QUEUE_MAX: usize = 16_384;

/// Of one transaction.
pub const RECORD_BATCH_MAX: usize = 1_024;

/// How long a record waits for others to be written with. What a crash may lose is this and the time that
/// writing takes: less than a second.
const GATHER: Duration = Duration::from_millis(250);

/// After a write that failed.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Between two looks for what is too old or too much.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// Rows that are removed at one go, so that what comes meanwhile is written in between.
const TIDY_ROWS: i64 = 10_000;

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
    /// The file could not be written when that was last tried.
    pub is_failing: bool,
}

#[derive(Debug, Default)]
struct Tally {
    written: AtomicU64,
    dropped: AtomicU64,
    failing: AtomicU64,
}

/// Takes records.
#[derive(Debug)]
pub struct RecordFile {
    desk: mpsc::Sender<KeptRecord>,
    /// Told when the queue fills.
    filling: Arc<Notify>,
    tally: Arc<Tally>,
    last_us: AtomicI64,
    end: watch::Sender<bool>,
}

/// The driver.
#[derive(Debug)]
pub struct RecordWriter {
    rules: RecordRules,
    inbox: mpsc::Receiver<KeptRecord>,
    filling: Arc<Notify>,
    tally: Arc<Tally>,
    end: watch::Receiver<bool>,
    connection: Option<SqliteConnection>,
}

impl RecordFile {
    /// What takes records, and what writes them. The file is opened by the latter.
    #[must_use]
    pub fn new(rules: RecordRules) -> (Arc<Self>, RecordWriter) {
        let (desk, inbox) = mpsc::channel(RECORD_QUEUE_MAX);
        let (end, ends) = watch::channel(false);
        let filling = Arc::new(Notify::new());
        let tally = Arc::<Tally>::default();
        let writer = RecordWriter {
            rules,
            inbox,
            filling: Arc::clone(&filling),
            tally: Arc::clone(&tally),
            end: ends,
            connection: None,
        };
        let sink = Self {
            desk,
            filling,
            tally,
            last_us: AtomicI64::new(0),
            end,
        };
        (Arc::new(sink), writer)
    }

    #[must_use]
    pub fn counts(&self) -> RecordCounts {
        RecordCounts {
            written: self.tally.written.load(Ordering::Relaxed),
            dropped: self.tally.dropped.load(Ordering::Relaxed),
            queued: (RECORD_QUEUE_MAX - self.desk.capacity()) as u64,
            is_failing: self.tally.failing.load(Ordering::Relaxed) > 0,
        }
    }

    /// Ends the driver, once all that was appended is written or cannot be.
    pub fn close(&self) {
        self.end.send_replace(true);
    }

    /// Now, and never twice in a row the same: callers may give one id to two requests.
    fn moment(&self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
        let last = self.last_us.load(Ordering::Relaxed);
        // A clock that was set back counts from there.
        let is_close = (0..1_000_000).contains(&(last - now));
        let moment = if is_close { last + 1 } else { now };
        self.last_us.store(moment, Ordering::Relaxed);
        moment
    }
}

impl RecordSink for RecordFile {
    fn append(&self, record: &ExchangeRecord) {
        let kept = KeptRecord::of(record, self.moment());
        if self.desk.try_send(kept).is_err() {
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.desk.capacity() < RECORD_QUEUE_MAX - RECORD_BATCH_MAX {
            self.filling.notify_one();
        }
    }
}

impl RecordWriter {
    /// Writes until it is closed, or nobody can append any more.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(RECORD_BATCH_MAX);
        let mut tidy_at = Instant::now();
        let mut dropped_before = 0;
        // So that there is something to read.
        drop(self.connect().await);
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
                let has_more = self.tidy().await;
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
        while !self.write(batch).await {
            tokio::select! {
                () = sleep(RETRY_EVERY) => {}
                () = ended(&mut self.end) => return false,
            }
        }
        batch.clear();
        true
    }

    /// Writes what there is, each batch once.
    async fn finish(mut self, mut batch: Vec<KeptRecord>) {
        self.inbox.close();
        loop {
            let room = RECORD_BATCH_MAX.saturating_sub(batch.len()).max(1);
            if batch.is_empty() && self.inbox.recv_many(&mut batch, room).await == 0 {
                break;
            }
            if !self.write(&batch).await {
                let lost = batch.len() + self.inbox.len();
                self.tally.dropped.fetch_add(lost as u64, Ordering::Relaxed);
                error!(count = lost, "records were lost: they could not be written");
                break;
            }
            batch.clear();
        }
        if let Some(connection) = self.connection.take() {
            // What it has not put into the file is in the log beside it.
            drop(connection.close().await);
        }
    }

    async fn write(&mut self, batch: &[KeptRecord]) -> bool {
        let mut written = self.try_write(batch).await;
        if matches!(written, Err(FileError::Damaged)) {
            // It is set aside when it is opened anew.
            self.connection = None;
            written = self.try_write(batch).await;
        }
        let was_failing = self.tally.failing.load(Ordering::Relaxed) > 0;
        match written {
            Ok(()) => {
                let count = batch.len() as u64;
                self.tally.written.fetch_add(count, Ordering::Relaxed);
                self.tally.failing.store(0, Ordering::Relaxed);
                if was_failing {
                    info!("records are written again");
                }
                true
            }
            Err(error) => {
                self.connection = None;
                self.tally.failing.store(1, Ordering::Relaxed);
                if !was_failing {
                    let dir = self.rules.dir.display();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    error!(%dir, %error, cause, "records cannot be written; it is tried every second");
                }
                false
            }
        }
    }

    async fn connect(&mut self) -> Result<&mut SqliteConnection, FileError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => file::open(&self.rules.dir, SystemTime::now()).await?,
        };
        Ok(self.connection.insert(connection))
    }

    async fn try_write(&mut self, batch: &[KeptRecord]) -> Result<(), FileError> {
        let connection = self.connect().await?;
        // One statement is one transaction. It is as long as the batch, so that none is asked for again.
        let mut statement = row::insert(batch);
        let statement = statement.build().persistent(false);
        connection.execute(statement).await?;
        Ok(())
    }

    /// Removes some of what is too old or too much. True where there is more.
    async fn tidy(&mut self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let keep = self.rules.keep;
        let oldest = now.saturating_sub(keep).as_micros();
        let oldest = match keep {
            Duration::ZERO => 0,
            _ => i64::try_from(oldest).unwrap_or(0),
        };
        let bytes_max = self.rules.bytes_max;
        let Ok(connection) = self.connect().await else {
            return false;
        };
        match remove_some(connection, oldest, bytes_max).await {
            Ok(has_more) => has_more,
            Err(error) => {
                // A damaged file shows when it is written next.
                warn!(%error, "old records could not be removed");
                false
            }
        }
    }
}

/// Returns once it is told to end.
async fn ended(end: &mut watch::Receiver<bool>) {
    // An error is that nobody is left to tell: nobody appends either.
    drop(end.wait_for(|is_over| *is_over).await);
}

/// Removes rows that ended before `oldest`, or the oldest of a file that is too long.
async fn remove_some(
    connection: &mut SqliteConnection,
    oldest: i64,
    bytes_max: u64,
) -> Result<bool, FileError> {
    let used: i64 = query_scalar(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )
    .fetch_one(&mut *connection)
    .await?;
    let is_too_long = u64::try_from(used).unwrap_or(0) > bytes_max;
    let before = if is_too_long { i64::MAX } else { oldest };
    let last: Option<i64> = query_scalar(
        "SELECT max(ended_us) FROM (
             SELECT ended_us FROM records WHERE ended_us < ? ORDER BY ended_us LIMIT ?
         )",
    )
    .bind(before)
    .bind(TIDY_ROWS)
    .fetch_one(&mut *connection)
    .await?;
    let Some(last) = last else {
        return Ok(false);
    };
    let removed = query("DELETE FROM records WHERE ended_us <= ?")
        .bind(last)
        .execute(&mut *connection)
        .await?;
    connection
        .execute(raw_sql("PRAGMA incremental_vacuum"))
        .await?;
    info!(count = removed.rows_affected(), "old records were removed");
    Ok(true)
}
