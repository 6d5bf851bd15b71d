//! The file: who may read it, what is in it, and what becomes of a damaged one.

use std::io;
use std::path::Path;

use domain::TextFault;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Executor, query_scalar, raw_sql};
use tracing::warn;

use crate::sqlite::{self, BUSY, CORRUPT, NOT_A_DATABASE, Newer, code};

pub const FILE_NAME: &str = "texts.sqlite";

/// What SQLite keeps beside the file while it is open, or after a crash.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// A damaged file is called so, and the second after which nothing in it may be kept any more.
const DAMAGED: &str = ".damaged-until-";

/// Files of the folder that are looked at; of more nobody knows how they came there.
const FILES_MAX: usize = 1_000;

/// Each brings a file forward by one version. What was released is never changed.
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
    sqlite::make(dir, FILE_NAME).map_err(FileError::Unmade)?;
    match open_whole(dir).await {
        Err(FileError::Damaged) => {
            set_aside(dir, until_s).map_err(FileError::Unmade)?;
            warn!("the texts' file is damaged; it was set aside and another begun");
            sqlite::make(dir, FILE_NAME).map_err(FileError::Unmade)?;
            open_whole(dir).await
        }
        opened => opened,
    }
}

async fn open_whole(dir: &Path) -> Result<SqliteConnection, FileError> {
    let opened = sqlite::open(&dir.join(FILE_NAME)).await?;
    let mut connection = opened.ok_or(FileError::Damaged)?;
    let brought = sqlite::bring_forward(&mut connection, &MIGRATIONS).await?;
    brought.map_err(|Newer { version, known }| FileError::Newer { version, known })?;
    Ok(connection)
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
