//! A connection to read records over, of either family.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use domain::RecordFault;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::{PostgresAddress, PostgresFault};

/// While the writer's log is put into the file.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// Where records are.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    Shared(PostgresAddress),
}

/// One that is open.
pub enum Reading {
    File(SqliteConnection),
    Shared(PgConnection),
}

/// The rows that a question of [`super::asks::Asks`] finds, each read by a function of
/// [`super::columns::Columns`].
macro_rules! ask {
    ($reading:expr, $ask:ident, [$($bound:expr),*], $read:ident) => {
        match $reading {
            $crate::records::reading::Reading::File(connection) => {
                let ask = sqlx::query($crate::records::asks::FILE.$ask)$(.bind($bound))*;
                let rows = ask.fetch_all(&mut *connection).await?;
                rows.iter().map($read).collect::<Result<Vec<_>, sqlx::Error>>()?
            }
            $crate::records::reading::Reading::Shared(connection) => {
                let ask = sqlx::query($crate::records::asks::SHARED.$ask)$(.bind($bound))*;
                let rows = ask.persistent(false).fetch_all(&mut *connection).await?;
                rows.iter().map($read).collect::<Result<Vec<_>, sqlx::Error>>()?
            }
        }
    };
}
pub(super) use ask;

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Shared(address) => write!(f, "{address}"),
        }
    }
}

impl Source {
    pub async fn connect(&self) -> Result<Reading, RecordFault> {
        match self {
            Source::File(path) => {
                if !path.is_file() {
                    return Err(RecordFault::Absent);
                }
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .read_only(true)
                    .create_if_missing(false)
                    .busy_timeout(BUSY_MAX)
                    .disable_statement_logging();
                let connected = SqliteConnection::connect_with(&options).await;
                connected
                    .map(Reading::File)
                    .map_err(|error| self.fault(error))
            }
            Source::Shared(address) => match address.connect().await {
                Ok(connection) => Ok(Reading::Shared(connection)),
                Err(PostgresFault::Sql(error)) => Err(self.fault(error)),
                Err(fault) => Err(RecordFault::Away(Box::new(fault))),
            },
        }
    }

    /// What a failed look says to who asked.
    pub fn fault(&self, error: sqlx::Error) -> RecordFault {
        match self {
            Source::File(_) => RecordFault::Unreadable(Box::new(error)),
            // Nobody has written there yet.
            Source::Shared(_) if is_missing(&error) => RecordFault::Absent,
            Source::Shared(_) if error.as_database_error().is_none() => {
                RecordFault::Away(Box::new(error))
            }
            Source::Shared(_) => RecordFault::Unreadable(Box::new(error)),
        }
    }
}

impl Reading {
    pub async fn close(self) {
        match self {
            Reading::File(connection) => drop(connection.close().await),
            Reading::Shared(connection) => drop(connection.close().await),
        }
    }
}

/// `undefined_table` and `invalid_schema_name`, in PostgreSQL's table of error codes (appendix A).
fn is_missing(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|it| it.code());
    matches!(code.as_deref(), Some("42P01" | "3F000"))
}
