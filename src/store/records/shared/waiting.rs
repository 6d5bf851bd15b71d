//! The file in which records wait for Postgres.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::KeptRecord;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor, QueryBuilder, Sqlite, query, query_scalar};

use crate::records::desk::RECORD_BATCH_MAX;
use crate::records::file::{self, FileError, WAITING_NAME};
use crate::records::row;
use crate::sqlite::used_bytes;

/// One end of it. Several may be open at once.
#[derive(Debug)]
pub struct Waiting {
    dir: PathBuf,
    name: &'static str,
    bytes_max: u64,
    connection: Option<SqliteConnection>,
}

/// Why it takes nothing.
#[derive(Debug, thiserror::Error)]
pub enum WaitingFault {
    #[error("the file of records that wait is full")]
    Full,
    #[error("the file of records that wait cannot be used")]
    File(#[source] FileError),
}

impl<E: Into<FileError>> From<E> for WaitingFault {
    fn from(error: E) -> Self {
        WaitingFault::File(error.into())
    }
}

impl Waiting {
    pub fn new(dir: &Path, bytes_max: u64) -> Self {
        Self::called(dir, WAITING_NAME, bytes_max)
    }

    /// Another file of records, to be emptied as well.
    pub fn called(dir: &Path, name: &'static str, bytes_max: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            name,
            bytes_max,
            connection: None,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// Whether there is a file at all.
    pub fn is_there(&self) -> bool {
        self.path().is_file()
    }

    async fn connect(&mut self) -> Result<&mut SqliteConnection, FileError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => file::open(&self.dir, self.name, SystemTime::now()).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Puts `batch` into it, on the disk when this returns.
    pub async fn append(&mut self, batch: &[KeptRecord]) -> Result<(), WaitingFault> {
        let appended = self.try_append(batch).await;
        if appended.is_err() {
            // It is opened anew, and set aside where it is damaged.
            self.connection = None;
        }
        appended
    }

    async fn try_append(&mut self, batch: &[KeptRecord]) -> Result<(), WaitingFault> {
        let bytes_max = self.bytes_max;
        let connection = self.connect().await?;
        if used_bytes(connection).await? > bytes_max {
            return Err(WaitingFault::Full);
        }
        Ok(row::write(connection, batch).await?)
    }

    /// The first that come after `after`, a name, in the order of their names.
    pub async fn page(&mut self, after: Option<&KeptRecord>) -> Result<Vec<KeptRecord>, FileError> {
        let after = after.map_or((i64::MIN, ""), |it| (it.ended_us, it.request_id.as_str()));
        let connection = self.connect().await?;
        let rows = query(
            "SELECT * FROM records WHERE (ended_us, request_id) > (?, ?)
             ORDER BY ended_us, request_id LIMIT ?",
        )
        .bind(after.0)
        .bind(after.1)
        .bind(RECORD_BATCH_MAX as i64)
        .fetch_all(connection)
        .await?;
        let records = rows.iter().map(row::read);
        Ok(records.collect::<Result<_, _>>()?)
    }

    /// Takes these out: by name, since others may come that are older.
    pub async fn remove(&mut self, batch: &[KeptRecord]) -> Result<(), FileError> {
        let mut statement: QueryBuilder<Sqlite> =
            QueryBuilder::new("DELETE FROM records WHERE (ended_us, request_id) IN (VALUES ");
        for (at, record) in batch.iter().enumerate() {
            statement.push(if at == 0 { "(" } else { ", (" });
            statement.push_bind(record.ended_us);
            statement.push(", ");
            statement.push_bind(record.request_id.clone());
            statement.push(")");
        }
        statement.push(")");
        let connection = self.connect().await?;
        connection
            .execute(statement.build().persistent(false))
            .await?;
        connection.execute("PRAGMA incremental_vacuum").await?;
        Ok(())
    }

    pub async fn count(&mut self) -> Result<i64, FileError> {
        let connection = self.connect().await?;
        let count = query_scalar("SELECT COUNT(*) FROM records");
        Ok(count.fetch_one(connection).await?)
    }

    /// So that it is opened anew.
    pub fn drop_connection(&mut self) {
        self.connection = None;
    }

    pub async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // What is in the log beside it goes into the file.
            drop(connection.close().await);
        }
    }
}
