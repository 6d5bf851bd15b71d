//! The file: who may read it, what is in it, and what becomes of a damaged one.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use domain::TextFault;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor, query_scalar, raw_sql};
use tracing::warn;

use crate::sqlite::{BUSY, CORRUPT, NOT_A_DATABASE, code};

pub const FILE_NAME: &str = "texts.sqlite";

/// What SQLite keeps beside the file while it is open, or after a crash.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// A damaged file is called so, and the second after which nothing in it may be kept any more.
const DAMAGED: &str = ".damaged-until-";

/// Files of the folder that are looked at; of more nobody knows how they came there.
const FILES_MAX: usize = 1_000;

/// Another process may be writing.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this where it grew longer.
const LOG_BYTES_KEPT: &str = "8388608";

/// Each brings a file forward by one version, in one transaction. What was released is never changed.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE texts (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        ended_us INTEGER NOT NULL,
        until_us INTEGER NOT NULL,
        team TEXT NOT NULL,
        marks TEXT,
        id BLOB NOT NULL,
        key_id TEXT NOT NULL,
        salt BLOB NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX texts_by_until ON texts (until_us);
    CREATE INDEX texts_by_end ON texts (ended_us);
    CREATE INDEX texts_by_id ON texts (id);
    CREATE INDEX texts_by_key ON texts (key_id, seq);
    -- Whether somebody's erasing has yet to write the file anew.
    CREATE TABLE scrub (owed INTEGER PRIMARY KEY) STRICT;
"];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the texts' file is damaged")]
    Damaged,
    #[error("the texts' file is of version {version}, and this program knows {known} at most")]
    Newer { version: i64, known: i64 },
    #[error("the texts' folder or file cannot be made")]
    Unmade(#[source] io::Error),
    #[error("the texts' file cannot be used")]
    Sql(#[source] sqlx::Error),
}

impl From<sqlx::Error> for FileError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error) {
            Some(CORRUPT | NOT_A_DATABASE) => FileError::Damaged,
            Some(_) | None => FileError::Sql(error),
        }
    }
}

impl From<FileError> for TextFault {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Sql(error) if code(&error) == Some(BUSY) => TextFault::Busy,
            error => TextFault::Unusable(Box::new(error)),
        }
    }
}

pub fn exists(dir: &Path) -> bool {
    dir.join(FILE_NAME).is_file()
}

/// Opens the file in `dir`, made where there is none. A damaged one is set aside until `until_s`, and another
/// begun.
pub async fn open(dir: &Path, until_s: u64) -> Result<SqliteConnection, FileError> {
    make(dir).map_err(FileError::Unmade)?;
    match open_whole(dir).await {
        Err(FileError::Damaged) => {
            set_aside(dir, until_s).map_err(FileError::Unmade)?;
            warn!("the texts' file is damaged; it was set aside and another begun");
            make(dir).map_err(FileError::Unmade)?;
            open_whole(dir).await
        }
        opened => opened,
    }
}

/// SQLite gives what it makes beside the file the file's own mode.
fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(dir.join(FILE_NAME)).map(drop)
}

async fn open_whole(dir: &Path) -> Result<SqliteConnection, FileError> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join(FILE_NAME))
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", LOG_BYTES_KEPT)
        // What is removed is overwritten.
        .pragma("secure_delete", "ON")
        .busy_timeout(BUSY_MAX)
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let found: String = query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut connection)
        .await?;
    if found != "ok" {
        return Err(FileError::Damaged);
    }
    bring_forward(&mut connection).await?;
    Ok(connection)
}

/// Makes the file one of the last version.
async fn bring_forward(connection: &mut SqliteConnection) -> Result<(), FileError> {
    // Another process may be at it: the lock comes before the look.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let version: i64 = query_scalar("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await?;
    let known = MIGRATIONS.len() as i64;
    let missing = usize::try_from(version).ok();
    let missing = missing.and_then(|version| MIGRATIONS.get(version..));
    let Some(missing) = missing else {
        return Err(FileError::Newer { version, known });
    };
    for migration in missing {
        transaction.execute(raw_sql(*migration)).await?;
    }
    let after = format!("PRAGMA user_version = {known}");
    transaction
        .execute(raw_sql(sqlx::AssertSqlSafe(after)))
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// What the file takes on the disk, but for pages that are free again.
pub async fn used_bytes(connection: &mut SqliteConnection) -> Result<u64, FileError> {
    let used: i64 = query_scalar(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(used).unwrap_or(0))
}

/// Gives what is free back to the disk, and empties the log, which has what was removed too. False where
/// others read: then a later one does.
pub async fn clear_up(connection: &mut SqliteConnection) -> Result<bool, FileError> {
    connection
        .execute(raw_sql("PRAGMA incremental_vacuum"))
        .await?;
    let busy: i64 = query_scalar("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(connection)
        .await?;
    Ok(busy == 0)
}

/// Writes the file anew where that is owed: what is free in its pages may hold what was in them.
pub async fn scrub(connection: &mut SqliteConnection) -> Result<bool, FileError> {
    let is_owed: bool = query_scalar("SELECT EXISTS (SELECT 1 FROM scrub)")
        .fetch_one(&mut *connection)
        .await?;
    if !is_owed {
        return Ok(true);
    }
    connection.execute(raw_sql("VACUUM")).await?;
    let is_clear = clear_up(connection).await?;
    if is_clear {
        connection.execute(raw_sql("DELETE FROM scrub")).await?;
    }
    Ok(is_clear)
}

fn set_aside(dir: &Path, until_s: u64) -> io::Result<()> {
    for beside in BESIDE.into_iter().chain([""]) {
        let from = dir.join(format!("{FILE_NAME}{beside}"));
        let to = dir.join(format!("{FILE_NAME}{DAMAGED}{until_s}{beside}"));
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes damaged files whose time is over by `now_s`; all of them where there is none. Gives how many.
pub fn remove_damaged(dir: &Path, now_s: Option<u64>) -> io::Result<u64> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries.take(FILES_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        let until = name.to_str().and_then(|name| {
            let rest = name.strip_prefix(FILE_NAME)?.strip_prefix(DAMAGED)?;
            let rest = BESIDE
                .iter()
                .find_map(|it| rest.strip_suffix(it))
                .unwrap_or(rest);
            rest.parse::<u64>().ok()
        });
        let Some(until) = until else {
            continue;
        };
        if now_s.is_none_or(|now| until <= now) {
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
