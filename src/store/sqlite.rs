//! What files of SQLite have in common: what is said of a failure, how they are made, opened and brought
//! forward.

use std::io;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor, query_scalar, raw_sql};

use crate::own_files::{make_dir, make_file};

/// Another process may be writing, or somebody looking with SQLite's own tool.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this where it grew longer.
const LOG_BYTES_KEPT: &str = "8388608";

/// What a connection keeps of its file, in KiB, as a negative number; SQLite's default is four times that.
/// The system keeps the rest, for all connections together.
const CACHE_KIB: &str = "-512";

/// SQLite's primary result codes.
pub(crate) const ERROR: i32 = 1;
/// Another process has the file.
pub(crate) const BUSY: i32 = 5;
/// The file is not as it was written.
pub(crate) const CORRUPT: i32 = 11;
pub(crate) const NOT_A_DATABASE: i32 = 26;

/// The primary code; the upper bits, which tell more, are left out.
pub(crate) fn code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Makes a folder and a file in it that are this user's alone, where they are not there. SQLite gives what it
/// makes beside the file the file's own mode.
pub(crate) fn make(dir: &Path, name: &str) -> io::Result<()> {
    make_dir(dir)?;
    make_file(&dir.join(name)).map(drop)
}

/// Opens a file to write, each commit of which is on the disk, and in which what is removed is overwritten.
/// `None` where it is damaged.
pub(crate) async fn open(path: &Path) -> Result<Option<SqliteConnection>, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", LOG_BYTES_KEPT)
        .pragma("secure_delete", "ON")
        .pragma("cache_size", CACHE_KIB)
        .busy_timeout(BUSY_MAX)
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let found: String = query_scalar("PRAGMA quick_check(1)")
        .fetch_one(&mut connection)
        .await?;
    Ok((found == "ok").then_some(connection))
}

/// The file is of a later version than this program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newer {
    pub version: i64,
    pub known: i64,
}

/// Makes a file one of the last version. Each of `migrations` brings it forward by one; all that are missing
/// are one transaction, so that nobody reads what is between two versions.
pub(crate) async fn bring_forward(
    connection: &mut SqliteConnection,
    migrations: &[&'static str],
) -> Result<Result<(), Newer>, sqlx::Error> {
    let known = migrations.len() as i64;
    // Who writes need not be waited for where there is nothing to do.
    if version(connection).await? == known {
        return Ok(Ok(()));
    }
    // Another process may be at it: the lock comes before the look that counts.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let version = version(&mut transaction).await?;
    let missing = usize::try_from(version).ok();
    let Some(missing) = missing.and_then(|version| migrations.get(version..)) else {
        return Ok(Err(Newer { version, known }));
    };
    for migration in missing {
        transaction.execute(raw_sql(*migration)).await?;
    }
    let after = format!("PRAGMA user_version = {known}");
    transaction
        .execute(raw_sql(sqlx::AssertSqlSafe(after)))
        .await?;
    transaction.commit().await?;
    Ok(Ok(()))
}

async fn version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    query_scalar("PRAGMA user_version")
        .fetch_one(connection)
        .await
}

/// What a file takes on the disk, but for pages that are free again.
pub(crate) async fn used_bytes(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let used: i64 = query_scalar(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(used).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen: who read the records a moment after their file was begun found a column missing.
    #[tokio::test]
    async fn a_file_is_brought_forward_whole_or_not_at_all() {
        let folder = tempfile::TempDir::new().unwrap();
        make(folder.path(), "it").unwrap();
        let file = open(&folder.path().join("it")).await.unwrap();
        let mut file = file.unwrap();
        let steps = ["CREATE TABLE one (a)", "ALTER TABLE one ADD COLUMN b"];
        let broken = [steps[0], steps[1], "ALTER TABLE two ADD COLUMN c"];
        bring_forward(&mut file, &broken).await.unwrap_err();
        let tables = "SELECT COUNT(*) FROM sqlite_schema";
        let found: i64 = query_scalar(tables).fetch_one(&mut file).await.unwrap();
        assert_eq!((found, version(&mut file).await.unwrap()), (0, 0));
        assert_eq!(bring_forward(&mut file, &steps).await.unwrap(), Ok(()));
        assert_eq!(version(&mut file).await.unwrap(), 2);
        let newer = Newer {
            version: 2,
            known: 1,
        };
        let refused = bring_forward(&mut file, &steps[..1]).await.unwrap();
        assert_eq!(refused, Err(newer));
    }
}
