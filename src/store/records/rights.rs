//! Whose records are: found, and made nobody's.
//!
//! ```text
//! erase ─► what waits in the queue is written ─► files of this node's ─► Postgres, where records are shared
//!              └─ each: its rows, a thousand at a time ─► written anew, so that nothing is left in what was free
//! ```
//! A record that is erased stays, with all its numbers: its marks go, the id that its caller may have
//! chosen, and what a caller wrote for a model that nobody answered for. Its new id follows from the old
//! one under the secret that its marks were made with: a batch whose answer was lost, and that waits to be
//! sent again, comes to the same records.

mod file;
mod shared;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    KeptRecord, Marker, RecordFault, RecordName, RecordRights, RecordsErased, Subject, TeamId,
};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::desk::RecordDesk;
use super::file::{FILE_NAME, FileError};
use super::reading::{Reading, Source};
use super::row::read;
use super::shared::{KnownSecrets, word};
use crate::sqlite::{BUSY, code};
use crate::subjects::SubjectSecret;
use crate::{PostgresAddress, PostgresFault};

/// Rows that are changed at one go.
const ERASE_ROWS: i64 = 1_000;

/// For one page of somebody's records: all there are may have to be looked through.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// What somebody who comes while another one's are looked for or removed waits for that.
const TURN_MAX: Duration = Duration::from_secs(30);

/// Of one page.
const PAGE_MAX: u32 = 1_000;

/// Finds and erases in the place where a desk writes.
pub struct RecordEraser {
    desk: Arc<RecordDesk>,
    dir: PathBuf,
    source: Source,
    secret: SubjectSecret,
    /// One at a time: each may write a whole file anew.
    turn: Mutex<()>,
}

impl RecordEraser {
    /// Of a node that keeps its records in `dir`, for itself. `secret` is what it marks with.
    #[must_use]
    pub fn new(desk: Arc<RecordDesk>, dir: &Path, secret: SubjectSecret) -> Self {
        Self {
            desk,
            dir: dir.to_owned(),
            source: Source::File(dir.join(FILE_NAME)),
            secret,
            turn: Mutex::default(),
        }
    }

    /// Of one that shares them, and in `dir` has what waits.
    #[must_use]
    pub fn shared(
        desk: Arc<RecordDesk>,
        dir: &Path,
        address: PostgresAddress,
        secret: SubjectSecret,
    ) -> Self {
        Self {
            source: Source::Shared(address),
            ..Self::new(desk, dir, secret)
        }
    }

    async fn settle(&self) -> Result<(), RecordFault> {
        self.desk.until_opened().await;
        match self.desk.until_settled().await {
            true => Ok(()),
            false => Err(RecordFault::Unwritten),
        }
    }

    async fn find(
        &self,
        subject: &Subject,
        count: i64,
        before: &RecordName,
    ) -> Result<Vec<KeptRecord>, RecordFault> {
        let mut reading = self.source.connect().await?;
        let found = match &mut reading {
            Reading::File(connection) => {
                let word = word(&self.secret.mark(&subject.who), &subject.who);
                file::find(connection, subject, &word, count, before).await
            }
            Reading::Shared(connection) => {
                shared::find(connection, subject, &self.secret, count, before).await
            }
        };
        reading.close().await;
        found.map_err(|error| self.source.fault(error))
    }

    async fn turn(&self) -> Result<MutexGuard<'_, ()>, RecordFault> {
        let turn = timeout(TURN_MAX, self.turn.lock()).await;
        turn.map_err(|_| RecordFault::Busy)
    }
}

impl fmt::Debug for RecordEraser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordEraser")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl RecordRights for RecordEraser {
    async fn of(
        &self,
        subject: &Subject,
        count: u32,
        before: Option<RecordName>,
    ) -> Result<Vec<KeptRecord>, RecordFault> {
        let _turn = self.turn().await?;
        self.settle().await?;
        if self.desk.counts().waiting > 0 {
            // Some would be left out.
            return Err(RecordFault::Unwritten);
        }
        let before = before.unwrap_or(RecordName {
            ended_us: i64::MAX,
            request_id: String::new(),
        });
        let count = i64::from(count.min(PAGE_MAX));
        let found = timeout(LOOK_MAX, self.find(subject, count, &before)).await;
        found.map_err(|_| RecordFault::Busy)?
    }

    async fn erase(&self, subject: &Subject) -> Result<RecordsErased, RecordFault> {
        let _turn = self.turn().await?;
        self.settle().await?;
        // What is on its way from the file to Postgres is in neither as it was.
        let common = self.desk.common().map(Arc::clone);
        let _moving = match &common {
            Some(common) => Some(common.hold_still().await),
            None => None,
        };
        let mut erased = file::erase_all(&self.dir, subject, &self.secret)
            .await
            .map_err(file_fault)?;
        match &self.source {
            Source::File(_) => erased.is_rewritten = true,
            Source::Shared(address) => {
                let shared = shared::erase(address, &self.dir, subject, &self.secret).await;
                let (records, is_rewritten) = shared.map_err(postgres_fault)?;
                erased.records += records;
                erased.is_rewritten = is_rewritten;
            }
        }
        Ok(erased)
    }
}

fn file_fault(fault: FileError) -> RecordFault {
    match fault {
        FileError::Unmade(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            RecordFault::Busy
        }
        // Others write it.
        FileError::Sql(error) if code(&error) == Some(BUSY) => RecordFault::Busy,
        fault => RecordFault::Unreadable(Box::new(fault)),
    }
}

fn postgres_fault(fault: PostgresFault) -> RecordFault {
    RecordFault::Away(Box::new(fault))
}

/// What is bound for the team: `None` is all.
fn team(subject: &Subject) -> Option<&str> {
    subject.team.as_ref().map(TeamId::as_str)
}
