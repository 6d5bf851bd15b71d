//! Moves the keys and teams that a node kept in a file of its own into Postgres.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, query_scalar};
use tokio::time::timeout;

use super::super::file::{KeyFile, KeyFileError};
use super::super::kept::{KeyFault, KeyPlace, Rows};
use super::row;
use crate::{PostgresAddress, PostgresFault};

/// For all of them: there are some thousands at most.
const SHIFT_MAX: Duration = Duration::from_secs(60);
/// In the name of a file that is read no more.
const ASIDE: &str = "moved";

/// What became of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShiftedKeys {
    /// There is none.
    Empty,
    /// All of it is in Postgres, by count.
    Moved {
        keys: usize,
        teams: usize,
        /// It was there before: the run that moved it could not set the file aside.
        is_again: bool,
        /// Where the file is now, and its secret beside it. Neither is read any more.
        aside: PathBuf,
    },
}

/// Why keys cannot be moved. Nothing was changed in Postgres then.
#[derive(Debug, thiserror::Error)]
pub enum KeyShift {
    #[error("a running node keeps its keys in {file}")]
    Held { file: PathBuf },
    #[error("{file} cannot be used")]
    File {
        file: PathBuf,
        #[source]
        error: KeyFileError,
    },
    #[error(
        "keys or teams were made in Postgres already, and those in {file} are hashed with another secret, \
         so that they cannot be joined"
    )]
    OtherBeginning { file: PathBuf },
    #[error("of {sent} keys and teams Postgres has {found}; nothing was moved")]
    Differs { sent: i64, found: i64 },
    #[error(transparent)]
    Postgres(#[from] PostgresFault),
    #[error(transparent)]
    Rows(#[from] KeyFault),
}

impl From<sqlx::Error> for KeyShift {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Moves what is in the file in `dir`, and sets it aside. `moment_s` names where.
///
/// # Errors
/// A node has the file, it cannot be read, or Postgres has keys of another beginning or cannot be written.
/// It may be called again.
pub async fn shift_keys(
    dir: &Path,
    address: &PostgresAddress,
    moment_s: u64,
) -> Result<ShiftedKeys, KeyShift> {
    if !KeyFile::is_in(dir) {
        return Ok(ShiftedKeys::Empty);
    }
    let path = KeyFile::path(dir);
    let unusable = |error| match error {
        KeyFileError::Taken => KeyShift::Held { file: path.clone() },
        error => KeyShift::File {
            file: path.clone(),
            error,
        },
    };
    let opened = KeyFile::open(dir, [0; 32]).await;
    let mut file = opened.map_err(unusable)?;
    let rows = file.load().await?;
    let mut connection = address.open().await?;
    let moving = timeout(SHIFT_MAX, put_all(&mut connection, &rows, &path));
    let is_again = moving.await.map_err(|_| PostgresFault::Late)??;
    drop(connection.close().await);
    let aside = file.set_aside(dir, &format!("{ASIDE}-{moment_s}")).await;
    let aside = aside.map_err(unusable)?;
    Ok(ShiftedKeys::Moved {
        keys: rows.keys.len(),
        teams: rows.teams.len(),
        is_again,
        aside,
    })
}

/// Gives whether they were there already.
async fn put_all(
    connection: &mut PgConnection,
    rows: &Rows,
    path: &Path,
) -> Result<bool, KeyShift> {
    let mut transaction = connection.begin().await?;
    // With the rest: under a beginning without its keys others would make theirs.
    row::begin(&mut transaction, rows.secret.bytes()).await?;
    row::generation_alone(&mut transaction).await?;
    let there = row::read(&mut transaction).await?;
    let is_begun = there.has_made || !there.keys.is_empty() || !there.teams.is_empty();
    if is_begun && there.secret.is(&rows.secret) {
        // Whatever became of them since is newer.
        return Ok(true);
    }
    if is_begun {
        let file = path.to_owned();
        return Err(KeyShift::OtherBeginning { file });
    }
    let own = sqlx::query("UPDATE hedge.key_state SET secret = $1");
    let own = own.bind(rows.secret.bytes().to_vec()).persistent(false);
    own.execute(&mut *transaction).await?;
    for team in &rows.teams {
        row::put_team(&mut transaction, team).await?;
    }
    for key in &rows.keys {
        row::put_key(&mut transaction, key).await?;
    }
    let count = "SELECT (SELECT COUNT(*) FROM hedge.keys) + (SELECT COUNT(*) FROM hedge.teams)";
    let found: i64 = query_scalar(count).fetch_one(&mut *transaction).await?;
    let sent = i64::try_from(rows.keys.len() + rows.teams.len()).unwrap_or(i64::MAX);
    if found != sent {
        return Err(KeyShift::Differs { sent, found });
    }
    row::turn(&mut transaction, rows.has_made).await?;
    transaction.commit().await?;
    Ok(false)
}
