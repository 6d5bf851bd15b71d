//! Entries in a file: SQLite, so that one that changes is written alone and a crash leaves no half.
//!
//! What stands in it is the masked text of questions and answers. The file is this user's alone, and what
//! is removed is overwritten.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::{Compartment, Entry, EntryId, Evidence, Purge, Subject, TeamId, Who};
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tracing::warn;

use super::code::Code;
use super::entries::unix_ms;
use super::front::Change;
use crate::own_files::make_dir;
use crate::sqlite::{BUSY, CORRUPT, ERROR, NOT_A_DATABASE, code};

/// Of the form below. A file of another is set aside.
const VERSION: i64 = 1;

/// Says that a file is one of these: `hdgR`.
const APPLICATION: i64 = 0x6864_6752;

pub(super) const NAME: &str = "reuse.sqlite";

/// Where a file goes that cannot be read. One is kept, the last.
pub(super) const ASIDE: &str = "reuse.sqlite.damaged";

/// How long another process may have the file before this one gives up. One that ends needs a moment.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Pages that are given back to the disk at one go.
const VACUUM_PAGES: &str = "PRAGMA incremental_vacuum(1024)";

/// `entry` is JSON without the vector and the evidence. The columns beside it say the same, to be
/// selected by.
const SCHEMA: &str = "
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        id INTEGER NOT NULL UNIQUE,
        encoder TEXT NOT NULL,
        compartment BLOB NOT NULL,
        team TEXT NOT NULL,
        model TEXT NOT NULL,
        tags TEXT NOT NULL,
        expires_at_ms INTEGER NOT NULL,
        vector BLOB NOT NULL,
        evidence BLOB NOT NULL,
        entry BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entries_by_end ON entries (expires_at_ms);
    CREATE TABLE states (encoder TEXT PRIMARY KEY, state BLOB NOT NULL) STRICT;
    PRAGMA application_id = 0x68646752;
    PRAGMA user_version = 1;
";

/// Why there is no file to keep entries in.
#[derive(Debug, thiserror::Error)]
pub enum ReuseFileError {
    #[error("the cache's folder or file cannot be written")]
    Folder(#[source] io::Error),
    #[error("another process has the cache's file")]
    Taken,
    #[error("the cache's file cannot be opened")]
    Sql(#[source] sqlx::Error),
}

/// An open file.
#[derive(Debug)]
pub(super) struct RowFile {
    dir: PathBuf,
    /// Rows of another encoder are not looked at: their vectors mean something else.
    encoder: String,
    connection: SqliteConnection,
}

/// A row as it was read, believed by nobody yet.
pub(super) struct Row {
    pub seq: i64,
    pub id: i64,
    pub compartment: Vec<u8>,
    pub vector: Vec<u8>,
    pub evidence: Vec<u8>,
    pub entry: Vec<u8>,
}

impl RowFile {
    /// Opens the file in a folder, or makes it. One that is damaged, or of a form that is not known here,
    /// is set aside.
    pub async fn open(dir: &Path, encoder: &str) -> Result<Self, ReuseFileError> {
        make_dir(dir).map_err(ReuseFileError::Folder)?;
        match Self::open_whole(dir, encoder).await {
            Ok(Some(file)) => return Ok(file),
            Ok(None) => {}
            Err(ReuseFileError::Sql(error)) if is_damaged(&error) => {}
            Err(error) => return Err(error),
        }
        set_aside(dir).map_err(ReuseFileError::Folder)?;
        let fresh = Self::open_whole(dir, encoder).await?;
        let odd = || ReuseFileError::Folder(io::ErrorKind::InvalidData.into());
        fresh.ok_or_else(odd)
    }

    /// `None` where the file is none of ours.
    async fn open_whole(dir: &Path, encoder: &str) -> Result<Option<Self>, ReuseFileError> {
        let path = dir.join(NAME);
        // SQLite gives its journal the permissions that the file has.
        let made = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        let made = made.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
        made.map_err(ReuseFileError::Folder)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .locking_mode(SqliteLockingMode::Exclusive)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("secure_delete", "ON")
            .busy_timeout(BUSY_MAX)
            .disable_statement_logging();
        let fault = |error| match code(&error) {
            Some(BUSY) => ReuseFileError::Taken,
            _ => ReuseFileError::Sql(error),
        };
        let mut connection = options.connect().await.map_err(fault)?;
        let is_ours = Self::is_ours(&mut connection).await.map_err(fault)?;
        if !is_ours {
            let closed = connection.close().await;
            closed.map_err(ReuseFileError::Sql)?;
            return Ok(None);
        }
        let (dir, encoder) = (dir.to_owned(), encoder.to_owned());
        Ok(Some(Self {
            dir,
            encoder,
            connection,
        }))
    }

    /// Takes the lock, makes the tables in a new file, and says whether an old one has them.
    async fn is_ours(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let mut own = connection.begin_with("BEGIN IMMEDIATE").await?;
        let number = |sql| sqlx::query_scalar::<_, i64>(sql);
        let tables = number("SELECT count(*) FROM sqlite_schema")
            .fetch_one(&mut *own)
            .await?;
        if tables == 0 {
            sqlx::raw_sql(SCHEMA).execute(&mut *own).await?;
        }
        let application = number("PRAGMA application_id").fetch_one(&mut *own).await?;
        let version = number("PRAGMA user_version").fetch_one(&mut *own).await?;
        own.commit().await?;
        Ok((application, version) == (APPLICATION, VERSION))
    }

    /// Sets the file aside and begins a new one.
    pub async fn renew(self) -> Result<Self, ReuseFileError> {
        let Self {
            dir,
            encoder,
            connection,
        } = self;
        // Of a damaged file nothing has to be written back.
        let _ = connection.close_hard().await;
        set_aside(&dir).map_err(ReuseFileError::Folder)?;
        Self::open(&dir, &encoder).await
    }

    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            warn!(%error, "the cache's file was not closed");
        }
    }

    pub async fn state(&mut self) -> Result<Option<Vec<u8>>, sqlx::Error> {
        sqlx::query_scalar("SELECT state FROM states WHERE encoder = ?")
            .bind(&self.encoder)
            .fetch_optional(&mut self.connection)
            .await
    }

    pub async fn save_state(&mut self, state: &[u8]) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT OR REPLACE INTO states (encoder, state) VALUES (?, ?)")
            .bind(&self.encoder)
            .bind(state)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// At most `count` rows that were written before one, the last of them first.
    pub async fn page(&mut self, before: i64, count: u32) -> Result<Vec<Row>, sqlx::Error> {
        let columns = sqlx::query_as::<_, (i64, i64, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>)>(
            "SELECT seq, id, compartment, vector, evidence, entry FROM entries \
             WHERE encoder = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
        )
        .bind(&self.encoder)
        .bind(before)
        .bind(count)
        .fetch_all(&mut self.connection)
        .await?;
        let rows = columns.into_iter();
        let rows = rows.map(|(seq, id, compartment, vector, evidence, entry)| Row {
            seq,
            id,
            compartment,
            vector,
            evidence,
            entry,
        });
        Ok(rows.collect())
    }

    /// Removes all rows of this encoder that were written before one.
    pub async fn cut(&mut self, before: i64) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM entries WHERE encoder = ? AND seq < ?")
            .bind(&self.encoder)
            .bind(before)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// All of it or nothing.
    pub async fn write(&mut self, changes: &[Change]) -> Result<(), sqlx::Error> {
        let mut own = self.connection.begin().await?;
        for change in changes {
            match change {
                Change::Keep(entry, code) => put(&mut own, &self.encoder, entry, code).await?,
                Change::Learn(id, evidence) => {
                    sqlx::query("UPDATE entries SET evidence = ? WHERE id = ?")
                        .bind(json(evidence)?)
                        .bind(id.0.cast_signed())
                        .execute(&mut *own)
                        .await?;
                }
                Change::Forget(id) => {
                    sqlx::query("DELETE FROM entries WHERE id = ?")
                        .bind(id.0.cast_signed())
                        .execute(&mut *own)
                        .await?;
                }
            }
        }
        own.commit().await
    }

    /// Removes what is meant, of every encoder's, and gives how many rows went.
    pub async fn purge(&mut self, what: &Purge, now_ms: u64) -> Result<u64, sqlx::Error> {
        if *what != Purge::Expired {
            // It may hold what is meant, and cannot be asked.
            drop(std::fs::remove_file(self.dir.join(ASIDE)));
        }
        let delete = match what {
            Purge::All => sqlx::query("DELETE FROM entries"),
            Purge::Expired => sqlx::query("DELETE FROM entries WHERE expires_at_ms <= ?")
                .bind(i64::try_from(now_ms).unwrap_or(i64::MAX)),
            Purge::Tag(tag) => sqlx::query(
                "DELETE FROM entries \
                 WHERE EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)",
            )
            .bind(tag),
            Purge::Model(model) => {
                sqlx::query("DELETE FROM entries WHERE model = ?").bind(model.as_str())
            }
            Purge::Team(team) => {
                sqlx::query("DELETE FROM entries WHERE team = ?").bind(team.as_str())
            }
            // No column says whose it is: the file's form is older.
            Purge::Subject(
                Subject {
                    who: Who::User(_),
                    team,
                },
                mark,
            ) => sqlx::query(
                "DELETE FROM entries WHERE (?1 IS NULL OR team = ?1) \
                 AND json_extract(CAST(entry AS TEXT), '$.kept.user') = ?2",
            )
            .bind(team.as_ref().map(TeamId::as_str))
            .bind(mark.to_string()),
            Purge::Subject(
                Subject {
                    who: Who::Tag(tag),
                    team,
                },
                _,
            ) => sqlx::query(
                "DELETE FROM entries WHERE (?1 IS NULL OR team = ?1) \
                 AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?2)",
            )
            .bind(team.as_ref().map(TeamId::as_str))
            .bind(tag.as_str()),
            Purge::Compartment(compartment) => {
                sqlx::query("DELETE FROM entries WHERE compartment = ?").bind(&compartment.0[..])
            }
            Purge::Entry(id) => {
                sqlx::query("DELETE FROM entries WHERE id = ?").bind(id.0.cast_signed())
            }
        };
        let gone = delete.execute(&mut self.connection).await?.rows_affected();
        // Pages that were divided, and the journal, have what was in them, also of rows that went before:
        // of somebody's nothing is to be left.
        let is_somebodys = matches!(what, Purge::Subject(..));
        if gone > 0 || is_somebodys {
            let vacuum = sqlx::raw_sql(match is_somebodys {
                true => "VACUUM",
                false => VACUUM_PAGES,
            });
            vacuum.execute(&mut self.connection).await?;
            // What was removed stands in the journal until that is begun anew.
            let checkpoint = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)");
            checkpoint.execute(&mut self.connection).await?;
        }
        Ok(gone)
    }
}

async fn put(
    own: &mut SqliteConnection,
    encoder: &str,
    entry: &Entry,
    code: &Code,
) -> Result<(), sqlx::Error> {
    let tags = serde_json::to_string(&entry.kept.tags).map_err(encoding)?;
    sqlx::query(
        "INSERT OR REPLACE INTO entries (id, encoder, compartment, team, model, tags, \
         expires_at_ms, vector, evidence, entry) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(entry.id.0.cast_signed())
    .bind(encoder)
    .bind(&entry.compartment.0[..])
    .bind(entry.kept.team.as_str())
    .bind(entry.kept.model.as_str())
    .bind(tags)
    .bind(i64::try_from(unix_ms(entry.expires_at)).unwrap_or(i64::MAX))
    .bind(code.bytes())
    .bind(json(&entry.evidence)?)
    .bind(json(&without_evidence(entry))?)
    .execute(own)
    .await?;
    Ok(())
}

/// Evidence changes, and has a column of its own.
pub(super) fn without_evidence(entry: &Entry) -> Entry {
    Entry {
        evidence: Evidence::default(),
        ..entry.clone()
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, sqlx::Error> {
    serde_json::to_vec(value).map_err(encoding)
}

fn encoding(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Encode(Box::new(error))
}

impl Row {
    /// The entry without its vector, and the vector. `None` where one part of the row does not agree with
    /// another, or cannot be read.
    pub fn read(&self, dimensions: usize) -> Option<(Entry, Code)> {
        let mut entry: Entry = serde_json::from_slice(&self.entry).ok()?;
        let code = Code::read(&self.vector, dimensions)?;
        let compartment: [u8; 32] = self.compartment.as_slice().try_into().ok()?;
        let is_same = entry.id == self.id()
            && entry.compartment == Compartment(compartment)
            && entry.vector.is_empty();
        if !is_same {
            return None;
        }
        entry.evidence = serde_json::from_slice(&self.evidence).ok()?;
        Some((entry, code))
    }

    pub fn id(&self) -> EntryId {
        EntryId(self.id.cast_unsigned())
    }
}

/// Whether the file is not as it was written, so that no other try will do.
pub(super) fn is_damaged(error: &sqlx::Error) -> bool {
    let is_odd = matches!(
        error,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_)
    );
    is_odd || matches!(code(error), Some(ERROR | CORRUPT | NOT_A_DATABASE))
}

fn set_aside(dir: &Path) -> io::Result<()> {
    warn!(
        "the cache's file is damaged or of another version; it is set aside, and a new one begun"
    );
    std::fs::rename(dir.join(NAME), dir.join(ASIDE))?;
    // The journal belongs to what was set aside, and says nothing without it.
    for rest in ["-wal", "-shm", "-journal"] {
        let gone = std::fs::remove_file(dir.join(format!("{NAME}{rest}")));
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
