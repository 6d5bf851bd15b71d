//! The file: who may read it, how old ones are brought forward, and what becomes of a damaged one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sqlx::sqlite::SqliteConnection;
use tracing::warn;

use crate::sqlite::{self, CORRUPT, NOT_A_DATABASE, Newer, code};

/// In its folder.
pub const FILE_NAME: &str = "records.sqlite";

/// Beside it: what waits for Postgres. A file of the same kind.
pub const WAITING_NAME: &str = "waiting.sqlite";

/// What SQLite keeps beside the file while it is open, or after a crash.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Each brings a file forward by one version. The first makes a new one. What was
/// released is never changed.
pub const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE records (
        ended_us INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        key TEXT,
        team TEXT NOT NULL,
        model_asked TEXT NOT NULL,
        place TEXT NOT NULL,
        backend TEXT,
        model TEXT,
        reason TEXT NOT NULL,
        cache TEXT NOT NULL,
        outcome TEXT NOT NULL,
        fault TEXT,
        input_tokens INTEGER,
        output_tokens INTEGER,
        cached_tokens INTEGER,
        cache_write_tokens INTEGER,
        reasoning_tokens INTEGER,
        is_counted INTEGER NOT NULL,
        cost_microusd INTEGER,
        hedge_cost_microusd INTEGER NOT NULL,
        made_microusd INTEGER,
        counterfactual_microusd INTEGER,
        basis TEXT,
        saved_by TEXT,
        masked INTEGER NOT NULL,
        first_content_us INTEGER,
        took_us INTEGER NOT NULL,
        retries INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        rescues INTEGER NOT NULL,
        PRIMARY KEY (ended_us, request_id)
    ) STRICT, WITHOUT ROWID;
",
    // Whose it is, by marks, and whether somebody's erasing has yet to write the file anew.
    "
    ALTER TABLE records ADD COLUMN marks TEXT;
    CREATE TABLE scrub (owed INTEGER PRIMARY KEY) STRICT;
",
    // Of shadows: beside which model's answer they were asked for, and whether the two say the same.
    "
    ALTER TABLE records ADD COLUMN shadow_of TEXT;
    ALTER TABLE records ADD COLUMN agreement TEXT;
    ALTER TABLE records ADD COLUMN similarity_permille INTEGER;
",
];

/// Why the file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the records' file is damaged")]
    Damaged,
    #[error("the records' file is of version {version}, and this program knows {known} at most")]
    Newer { version: i64, known: i64 },
    #[error("the records' folder or file cannot be made")]
    Unmade(#[source] io::Error),
    #[error("the records' file cannot be used")]
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

/// Opens the file called `name` in `dir` to write, made or brought forward where that is needed. A damaged one is set
/// aside, and another begun.
pub async fn open(dir: &Path, name: &str, now: SystemTime) -> Result<SqliteConnection, FileError> {
    sqlite::make(dir, name).map_err(FileError::Unmade)?;
    match open_whole(dir, name).await {
        Err(FileError::Damaged) => {
            let aside = set_aside(dir, name, "damaged", now).map_err(FileError::Unmade)?;
            let aside = aside.display();
            warn!(%aside, "the records' file is damaged; it was set aside and another begun");
            sqlite::make(dir, name).map_err(FileError::Unmade)?;
            open_whole(dir, name).await
        }
        opened => opened,
    }
}

/// The same of a file that is there, whole.
pub async fn open_whole(dir: &Path, name: &str) -> Result<SqliteConnection, FileError> {
    let opened = sqlite::open(&dir.join(name)).await?;
    let mut connection = opened.ok_or(FileError::Damaged)?;
    bring_forward(&mut connection, &MIGRATIONS).await?;
    Ok(connection)
}

/// Makes the file one of the last version.
pub async fn bring_forward(
    connection: &mut SqliteConnection,
    migrations: &[&'static str],
) -> Result<(), FileError> {
    let brought = sqlite::bring_forward(connection, migrations).await?;
    brought.map_err(|Newer { version, known }| FileError::Newer { version, known })
}

/// Renames the file and what is beside it, so that somebody may look at it. Gives its new name.
pub fn set_aside(dir: &Path, name: &str, why: &str, now: SystemTime) -> io::Result<PathBuf> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    let aside = |beside: &str| -> (PathBuf, PathBuf) {
        let was = format!("{name}{beside}");
        let is = format!("{name}.{why}-{seconds}{beside}");
        (dir.join(was), dir.join(is))
    };
    for beside in BESIDE {
        let (from, to) = aside(beside);
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let (from, to) = aside("");
    std::fs::rename(from, &to)?;
    Ok(to)
}
