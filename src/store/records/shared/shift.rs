//! Moves what a node kept in files of its own into Postgres, and tells what is where.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use domain::{KeptRecord, RecordFault};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, query_as, query_scalar};
use tokio::time::timeout;

use super::row::{self, Weight};
use super::waiting::Waiting;
use super::{marks, replica};
use crate::postgres::{MIGRATIONS, server_version, version};
use crate::records::file::{self, FILE_NAME, FileError, WAITING_NAME};
use crate::records::hold::Hold;
use crate::records::reading::{Reading, Source};
use crate::subjects::SubjectSecret;
use crate::{PostgresAddress, PostgresFault};

/// For one batch.
const BATCH_MAX: Duration = Duration::from_secs(60);

/// The first version of the schema that has keys.
const SINCE_KEYS: i64 = 2;

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shifted {
    pub file: PathBuf,
    pub became: ShiftedFile,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShiftedFile {
    /// There is none, or nothing is in it.
    Empty,
    /// A node that already writes to Postgres brings it there by itself.
    Tended,
    /// All of it is in Postgres, by count and by sums of money.
    Moved {
        records: i64,
        /// Of them, what was not there before.
        new: u64,
        spent_microusd: i64,
        /// Where the file is now. It is not read any more.
        aside: PathBuf,
    },
}

/// Why records cannot be moved. What was moved before is there, and is not moved again.
#[derive(Debug, thiserror::Error)]
pub enum ShiftFault {
    #[error("a running node keeps its records in {file}")]
    Held { file: PathBuf },
    #[error("{file} cannot be used")]
    Folder {
        file: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{file} cannot be read")]
    File {
        file: PathBuf,
        #[source]
        error: FileError,
    },
    #[error(
        "of {sent} records Postgres has {found}, or their sums of money differ; nothing was removed"
    )]
    Differs { sent: i64, found: i64 },
    #[error(transparent)]
    Postgres(#[from] PostgresFault),
}

impl From<sqlx::Error> for ShiftFault {
    fn from(error: sqlx::Error) -> Self {
        ShiftFault::Postgres(error.into())
    }
}

/// Moves what is in the files of `dir`. `progress` is told of each file what was looked at so far, and
/// how many there are.
///
/// # Errors
/// A node holds a file, one cannot be read, or Postgres cannot be written. It may be called again.
pub async fn shift_records(
    dir: &Path,
    address: &PostgresAddress,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<Shifted>, ShiftFault> {
    let mut connection = address.open().await?;
    marks::register(&mut connection, dir).await?;
    let mut shifted = Vec::new();
    for name in [FILE_NAME, WAITING_NAME] {
        let became = shift_file(dir, name, &mut connection, &mut progress).await?;
        shifted.push(Shifted {
            file: dir.join(name),
            became,
        });
    }
    drop(connection.close().await);
    Ok(shifted)
}

async fn shift_file(
    dir: &Path,
    name: &'static str,
    connection: &mut PgConnection,
    progress: &mut impl FnMut(u64, u64),
) -> Result<ShiftedFile, ShiftFault> {
    let path = dir.join(name);
    if !path.is_file() {
        return Ok(ShiftedFile::Empty);
    }
    let folder = |error| ShiftFault::Folder {
        file: path.clone(),
        error,
    };
    let unreadable = |error| ShiftFault::File {
        file: path.clone(),
        error,
    };
    let _hold = match Hold::alone(dir, name) {
        Ok(hold) => hold,
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return match name {
                WAITING_NAME => Ok(ShiftedFile::Tended),
                _ => Err(ShiftFault::Held { file: path }),
            };
        }
        Err(error) => return Err(folder(error)),
    };
    let replica = replica::of(dir).map_err(folder)?;
    let secret = SubjectSecret::find(dir).map_err(folder)?;
    let mut waiting = Waiting::called(dir, name, u64::MAX);
    let all = waiting.count().await.map_err(unreadable)?;
    let all = u64::try_from(all).unwrap_or(0);
    progress(0, all);
    let mut weight = Weight::default();
    let mut new = 0;
    let mut last = None;
    loop {
        let batch = waiting.page(last.as_ref()).await.map_err(unreadable)?;
        let Some(end) = batch.last() else {
            break;
        };
        let moving = move_batch(connection, secret.as_ref(), &replica, &batch);
        let moved = timeout(BATCH_MAX, moving).await;
        new += moved.map_err(|_| PostgresFault::Late)??;
        weight = weight.plus(Weight::of(&batch));
        progress(u64::try_from(weight.records).unwrap_or(0), all);
        last = Some(end.clone());
    }
    waiting.close().await;
    if weight.records == 0 {
        return Ok(ShiftedFile::Empty);
    }
    let aside = file::set_aside(dir, name, "moved", SystemTime::now()).map_err(folder)?;
    Ok(ShiftedFile::Moved {
        records: weight.records,
        new,
        spent_microusd: weight.spent_microusd,
        aside,
    })
}

/// Writes `batch` and looks whether all of it is there, in one transaction. What an earlier try moved may
/// be nobody's there by now.
async fn move_batch(
    connection: &mut PgConnection,
    secret: Option<&SubjectSecret>,
    replica: &str,
    batch: &[KeptRecord],
) -> Result<u64, ShiftFault> {
    let mut transaction = connection.begin().await?;
    transaction.execute(row::LOCK).await?;
    let batch = match secret {
        Some(secret) => marks::without_renamed(&mut transaction, secret, replica, batch).await?,
        None => batch.to_vec(),
    };
    let new = row::insert(&mut transaction, replica, &batch).await?;
    let found = row::found(&mut transaction, replica, &batch).await?;
    let sent = Weight::of(&batch);
    if found != sent {
        return Err(ShiftFault::Differs {
            sent: sent.records,
            found: found.records,
        });
    }
    transaction.commit().await?;
    Ok(new)
}

/// What Postgres has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordsState {
    /// As the server calls itself.
    pub server: String,
    /// Of the schema that is there; zero where none is. `known` is the last that this program knows.
    pub version: i64,
    pub known: i64,
    pub records: i64,
    /// Whose records there are.
    pub replicas: i64,
    /// That were made while nodes ran.
    pub keys: i64,
    pub teams: i64,
}

/// What Postgres has. Changes nothing there.
///
/// # Errors
/// It cannot be asked.
pub async fn records_state(address: &PostgresAddress) -> Result<RecordsState, PostgresFault> {
    let mut connection = address.connect().await?;
    let mut state = RecordsState {
        server: server_version(&mut connection).await?,
        version: version(&mut connection).await?,
        known: MIGRATIONS.len() as i64,
        ..RecordsState::default()
    };
    if state.version > 0 {
        let ask = query_as("SELECT COUNT(*), COUNT(DISTINCT replica) FROM hedge.records");
        (state.records, state.replicas) = ask.fetch_one(&mut connection).await?;
    }
    if state.version >= SINCE_KEYS {
        let ask = query_as(
            "SELECT (SELECT COUNT(*) FROM hedge.keys), (SELECT COUNT(*) FROM hedge.teams)",
        );
        (state.keys, state.teams) = ask.fetch_one(&mut connection).await?;
    }
    drop(connection.close().await);
    Ok(state)
}

/// How many records are in this node's own file, and how many wait in the one beside. `None` where there is
/// no such file. Changes neither.
///
/// # Errors
/// One cannot be read.
pub async fn own_records(dir: &Path) -> Result<(Option<i64>, Option<i64>), RecordFault> {
    let kept = count_of(dir.join(FILE_NAME)).await?;
    let waiting = count_of(dir.join(WAITING_NAME)).await?;
    Ok((kept, waiting))
}

async fn count_of(path: PathBuf) -> Result<Option<i64>, RecordFault> {
    let source = Source::File(path);
    let connected = match source.connect().await {
        Err(RecordFault::Absent) => return Ok(None),
        connected => connected?,
    };
    let Reading::File(mut connection) = connected else {
        return Ok(None);
    };
    let count = query_scalar("SELECT COUNT(*) FROM records");
    let count = count.fetch_one(&mut connection).await;
    drop(connection.close().await);
    count.map(Some).map_err(|error| source.fault(error))
}
