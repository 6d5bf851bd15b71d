//! The file: who may read it, how old ones are brought forward, and what becomes of a damaged one.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor, query, query_scalar, raw_sql};
use tracing::warn;

use crate::sqlite::{CORRUPT, NOT_A_DATABASE, code};

/// In its folder.
pub const FILE_NAME: &str = "records.sqlite";

/// Beside it: what waits for Postgres. A file of the same kind.
pub const WAITING_NAME: &str = "waiting.sqlite";

/// What SQLite keeps beside the file while it is open, or after a crash.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// Another process may be writing.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this where it grew longer.
const LOG_BYTES_KEPT: &str = "8388608";

/// Each brings a file forward by one version, in one transaction. The first makes a new one. What was
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
    make(dir, name).map_err(FileError::Unmade)?;
    match open_whole(dir, name).await {
        Err(FileError::Damaged) => {
            let aside = set_aside(dir, name, "damaged", now).map_err(FileError::Unmade)?;
            let aside = aside.display();
            warn!(%aside, "the records' file is damaged; it was set aside and another begun");
            make(dir, name).map_err(FileError::Unmade)?;
            open_whole(dir, name).await
        }
        opened => opened,
    }
}

/// SQLite gives what it makes beside the file the file's own mode.
fn make(dir: &Path, name: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.open(dir.join(name)).map(drop)
}

/// The same of a file that is there, whole.
pub async fn open_whole(dir: &Path, name: &str) -> Result<SqliteConnection, FileError> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join(name))
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
    bring_forward(&mut connection, &MIGRATIONS).await?;
    Ok(connection)
}

/// Makes the file one of the last version.
pub async fn bring_forward(
    connection: &mut SqliteConnection,
    migrations: &[&'static str],
) -> Result<(), FileError> {
    let version: i64 = query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let known = migrations.len() as i64;
    let missing = usize::try_from(version).ok();
    let missing = missing.and_then(|version| migrations.get(version..));
    let Some(missing) = missing else {
        return Err(FileError::Newer { version, known });
    };
    for migration in missing {
        // Another process may have done it in the meantime: the lock comes before the look.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let before: i64 = query_scalar("PRAGMA user_version")
            .fetch_one(&mut *transaction)
            .await?;
        let own = migrations.iter().position(|it| it == migration);
        if own.is_some_and(|own| before == own as i64) {
            transaction.execute(raw_sql(*migration)).await?;
            let after = format!("PRAGMA user_version = {}", before + 1);
            transaction
                .execute(query(sqlx::AssertSqlSafe(after)))
                .await?;
        }
        transaction.commit().await?;
    }
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
