//! The file of a node that shares nothing: written in batches, tidied, and never waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use domain::KeptRecord;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor, query, query_scalar, raw_sql};
use tracing::{error, info, warn};

use super::desk::{RecordRules, Tally};
use super::file::{self, FILE_NAME, FileError};
use super::hold::Hold;
use super::row;
use crate::sqlite::used_bytes;

/// Rows that are removed at one go, so that what comes meanwhile is written in between.
pub const TIDY_ROWS: i64 = 10_000;

/// Where a node writes.
#[derive(Debug)]
pub struct FilePlace {
    rules: RecordRules,
    tally: Arc<Tally>,
    hold: Option<Hold>,
    connection: Option<SqliteConnection>,
}

impl FilePlace {
    pub fn new(rules: RecordRules, tally: Arc<Tally>) -> Self {
        Self {
            rules,
            tally,
            hold: None,
            connection: None,
        }
    }

    /// Makes the file, so that there is something to read. Where it cannot, writing says so.
    pub async fn open(&mut self) {
        drop(self.connect().await);
    }

    pub async fn write(&mut self, batch: &[KeptRecord]) -> bool {
        let mut written = self.try_write(batch).await;
        if matches!(written, Err(FileError::Damaged)) {
            // It is set aside when it is opened anew.
            self.connection = None;
            written = self.try_write(batch).await;
        }
        let was_failing = self.tally.is_failing.load(Ordering::Relaxed);
        match written {
            Ok(()) => {
                let count = batch.len() as u64;
                self.tally.written.fetch_add(count, Ordering::Relaxed);
                self.tally.is_failing.store(false, Ordering::Relaxed);
                if was_failing {
                    info!("records are written again");
                }
                true
            }
            Err(error) => {
                self.connection = None;
                self.tally.is_failing.store(true, Ordering::Relaxed);
                if !was_failing {
                    let dir = self.rules.dir.display();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    error!(%dir, %error, cause, "records cannot be written; it is tried every second");
                }
                false
            }
        }
    }

    pub async fn close(self) {
        if let Some(connection) = self.connection {
            // What it has not put into the file is in the log beside it.
            drop(connection.close().await);
        }
    }

    async fn connect(&mut self) -> Result<&mut SqliteConnection, FileError> {
        let dir = &self.rules.dir;
        if self.hold.is_none() {
            let hold = Hold::shared(dir, FILE_NAME).map_err(FileError::Unmade)?;
            self.hold = Some(hold);
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => file::open(dir, FILE_NAME, SystemTime::now()).await?,
        };
        Ok(self.connection.insert(connection))
    }

    async fn try_write(&mut self, batch: &[KeptRecord]) -> Result<(), FileError> {
        let connection = self.connect().await?;
        Ok(row::write(connection, batch).await?)
    }

    /// Removes some of what is too old or too much. True where there is more.
    pub async fn tidy(&mut self) -> bool {
        let oldest = oldest_us(self.rules.keep);
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

/// What ended before is too old.
pub fn oldest_us(keep: Duration) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let oldest = now.unwrap_or_default().saturating_sub(keep).as_micros();
    match keep {
        Duration::ZERO => 0,
        _ => i64::try_from(oldest).unwrap_or(0),
    }
}

/// Removes rows that ended before `oldest`, or the oldest of a file that is too long.
async fn remove_some(
    connection: &mut SqliteConnection,
    oldest: i64,
    bytes_max: u64,
) -> Result<bool, FileError> {
    let is_too_long = used_bytes(connection).await? > bytes_max;
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
