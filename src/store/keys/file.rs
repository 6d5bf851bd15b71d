//! The file: who may read it, what stands in it, and when it is on the disk.
//!
//! One process has it open at a time, for another would go on with keys that this one took away.

use std::collections::HashMap;
use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row, query, query_scalar};

use super::kept::{KeptKey, KeptTeam, KeyFault, KeyPlace, KeyRow, Rows, signed, unsigned};
use super::secret::{KeyTag, TagSecret};
use crate::lock::Lock;
use crate::own_files::{make_dir, make_file};
use crate::sqlite::{self, CORRUPT, NOT_A_DATABASE, Newer, code};

/// In their folder.
const FILE_NAME: &str = "keys.sqlite";
const SECRET_NAME: &str = "keys.secret";
const LOCK_NAME: &str = "keys.lock";

/// Facts by name.
const PROOF: &str = "proof";
const MADE: &str = "made";

/// Each brings a file forward by one version. The first makes a new one. What was
/// released is never changed. `grants` and `limits` are JSON, in the configuration's words.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE teams (
        name TEXT PRIMARY KEY,
        made_s INTEGER NOT NULL,
        limits TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE keys (
        name TEXT PRIMARY KEY,
        team TEXT NOT NULL,
        made_s INTEGER NOT NULL,
        until_s INTEGER,
        is_enabled INTEGER NOT NULL,
        grants TEXT NOT NULL,
        tag BLOB NOT NULL,
        tag_before BLOB,
        before_until_s INTEGER,
        used_day INTEGER
    ) STRICT, WITHOUT ROWID;
"];

const PUT_KEY: &str = "
    INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (name) DO UPDATE SET
        team = ?2, made_s = ?3, until_s = ?4, is_enabled = ?5, grants = ?6, tag = ?7, tag_before = ?8,
        before_until_s = ?9, used_day = ?10
";
const PUT_TEAM: &str = "
    INSERT INTO teams VALUES (?1, ?2, ?3)
    ON CONFLICT (name) DO UPDATE SET made_s = ?2, limits = ?3
";
const PUT_FACT: &str = "INSERT INTO facts VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING";

/// Why the file cannot be had, or not be written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("another process has the keys' file")]
    Taken,
    #[error("the keys' folder or a file in it cannot be made or read")]
    Folder(#[source] io::Error),
    #[error("the secret that the keys are hashed with cannot be read")]
    NoSecret(#[source] io::Error),
    #[error("the secret beside the keys' file is not the one that they are hashed with")]
    OtherSecret,
    #[error("the keys' file is damaged")]
    Damaged,
    #[error("the keys' file is of version {version}, and this program knows {known} at most")]
    Newer { version: i64, known: i64 },
    #[error("the keys' file cannot be used")]
    Sql(#[source] sqlx::Error),
}

impl From<sqlx::Error> for KeyFileError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error) {
            Some(CORRUPT | NOT_A_DATABASE) => Self::Damaged,
            Some(_) | None => Self::Sql(error),
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct KeyFile {
    connection: SqliteConnection,
    secret: TagSecret,
    /// Nobody else changes the file, so that counting from the opening on is enough.
    generation: u64,
    _lock: Lock,
}

impl KeyFile {
    /// Whether there is one in `dir`.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILE_NAME).is_file()
    }

    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(FILE_NAME)
    }

    /// Opens the file in `dir`, made where there is none, with `fresh` for a secret then.
    ///
    /// # Errors
    /// It cannot be had. One that is damaged, or has lost its secret, is no new beginning: all keys would
    /// be gone.
    pub async fn open(dir: &Path, fresh: [u8; 32]) -> Result<Self, KeyFileError> {
        let lock = make(dir)?;
        let path = dir.join(SECRET_NAME);
        let is_new = !path.exists() && !Self::is_in(dir);
        if is_new {
            let written = TagSecret::new(fresh).write_new(&path);
            written.map_err(KeyFileError::Folder)?;
        }
        let secret = TagSecret::read(&path).map_err(KeyFileError::NoSecret)?;
        own_file(&dir.join(FILE_NAME)).map_err(KeyFileError::Folder)?;
        let opened = sqlite::open(&dir.join(FILE_NAME)).await?;
        let mut connection = opened.ok_or(KeyFileError::Damaged)?;
        let brought = sqlite::bring_forward(&mut connection, &MIGRATIONS).await?;
        brought.map_err(|Newer { version, known }| KeyFileError::Newer { version, known })?;
        let mut file = Self {
            connection,
            secret,
            generation: 0,
            _lock: lock,
        };
        file.prove().await?;
        Ok(file)
    }

    #[must_use]
    pub fn secret(&self) -> &TagSecret {
        &self.secret
    }

    /// Whether the secret is the one that was there when the file was made.
    async fn prove(&mut self) -> Result<(), KeyFileError> {
        let own = self.secret.proof();
        self.put_fact(PROOF, &own.0).await?;
        let kept: Vec<u8> = query_scalar("SELECT value FROM facts WHERE name = ?")
            .bind(PROOF)
            .fetch_one(&mut self.connection)
            .await?;
        let kept = <[u8; 32]>::try_from(kept).map_err(|_| KeyFileError::Damaged)?;
        match own.is(&KeyTag(kept)) {
            true => Ok(()),
            false => Err(KeyFileError::OtherSecret),
        }
    }

    async fn put_fact(&mut self, name: &str, value: &[u8]) -> Result<(), KeyFileError> {
        let put = query(PUT_FACT).bind(name).bind(value);
        put.execute(&mut self.connection).await?;
        Ok(())
    }

    /// Puts all of `rows` in place of what stands there, whole or not at all. What is the same is left:
    /// of thousands one alone is other, as a rule.
    ///
    /// # Errors
    /// The disk's, or the tags are of another secret.
    pub(super) async fn replace(&mut self, rows: &Rows) -> Result<(), KeyFileError> {
        if !self.secret.is(&rows.secret) {
            return Err(KeyFileError::OtherSecret);
        }
        let there = self.read().await?;
        let keys: HashMap<&str, &KeptKey> = by_name(&there.keys, |key| &key.name);
        let teams: HashMap<&str, &KeptTeam> = by_name(&there.teams, |team| &team.name);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        if rows.has_made {
            note_made(&mut transaction).await?;
        }
        let stay = by_name(&rows.keys, |key| &key.name);
        for name in keys.keys().filter(|name| !stay.contains_key(*name)) {
            remove_key(&mut transaction, name).await?;
        }
        let stay = by_name(&rows.teams, |team| &team.name);
        for name in teams.keys().filter(|name| !stay.contains_key(*name)) {
            remove_team(&mut transaction, name).await?;
        }
        for key in &rows.keys {
            if !keys.get(key.name.as_str()).is_some_and(|it| it.is(key)) {
                put_key(&mut transaction, key).await?;
            }
        }
        for team in &rows.teams {
            if teams.get(team.name.as_str()) != Some(&team) {
                put_team(&mut transaction, team).await?;
            }
        }
        transaction.commit().await?;
        self.generation += 1;
        Ok(())
    }

    async fn read(&mut self) -> Result<Rows, KeyFileError> {
        let keys = query("SELECT * FROM keys ORDER BY name")
            .fetch_all(&mut self.connection)
            .await?;
        let teams = query("SELECT * FROM teams ORDER BY name")
            .fetch_all(&mut self.connection)
            .await?;
        let made: i64 = query_scalar("SELECT COUNT(*) FROM facts WHERE name = ?")
            .bind(MADE)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(Rows {
            generation: self.generation,
            secret: self.secret.clone(),
            keys: keys.iter().map(key).collect::<Result<_, _>>()?,
            teams: teams.iter().map(team).collect::<Result<_, _>>()?,
            has_made: made > 0,
        })
    }

    async fn write(&mut self, row: &KeyRow) -> Result<(), KeyFileError> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        match row {
            KeyRow::PutKey(key) => {
                note_made(&mut transaction).await?;
                put_key(&mut transaction, key).await?;
            }
            KeyRow::RemoveKey(name) => remove_key(&mut transaction, name).await?,
            KeyRow::PutTeam(team) => put_team(&mut transaction, team).await?,
            KeyRow::RemoveTeam(name) => remove_team(&mut transaction, name).await?,
        }
        transaction.commit().await?;
        self.generation += 1;
        Ok(())
    }

    async fn write_days(&mut self, days: &[(String, u32)]) -> Result<(), KeyFileError> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        for (name, day) in days {
            let put = query(
                "UPDATE keys SET used_day = ?1 WHERE name = ?2 AND COALESCE(used_day, 0) < ?1",
            );
            put.bind(day).bind(name).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// As a later version of this program leaves it.
    #[cfg(test)]
    pub(super) async fn set_version(&mut self, version: i64) {
        let set = format!("PRAGMA user_version = {version}");
        let set = query(sqlx::AssertSqlSafe(set));
        set.execute(&mut self.connection).await.unwrap();
    }

    /// Ends it, and gives its files other names under which nobody looks for them.
    ///
    /// # Errors
    /// The disk's. Its rows were set aside first, so that there is no file any more if its secret was not.
    pub(super) async fn set_aside(self, dir: &Path, why: &str) -> Result<PathBuf, KeyFileError> {
        // It takes its log beside with it.
        drop(self.connection.close().await);
        let aside = dir.join(format!("{FILE_NAME}.{why}"));
        for (from, to) in [
            (dir.join(FILE_NAME), aside.clone()),
            (
                dir.join(SECRET_NAME),
                dir.join(format!("{SECRET_NAME}.{why}")),
            ),
        ] {
            std::fs::rename(from, to).map_err(KeyFileError::Folder)?;
        }
        Ok(aside)
    }

    /// Ends it in order. What a crash leaves in the log beside the file is as good.
    pub async fn close(self) {
        drop(self.connection.close().await);
    }
}

/// One process has the file, so that a turn is taken and given back by nobody but it.
#[async_trait]
impl KeyPlace for KeyFile {
    async fn begin(&mut self, known: Option<u64>) -> Result<Option<Rows>, KeyFault> {
        match known == Some(self.generation) {
            true => Ok(None),
            false => Ok(Some(self.read().await?)),
        }
    }

    async fn commit(&mut self, row: &KeyRow) -> Result<u64, KeyFault> {
        self.write(row).await?;
        Ok(self.generation)
    }

    async fn abandon(&mut self) {}

    async fn load(&mut self) -> Result<Rows, KeyFault> {
        Ok(self.read().await?)
    }

    async fn put_days(&mut self, days: &[(String, u32)]) -> Result<(), KeyFault> {
        Ok(self.write_days(days).await?)
    }
}

fn by_name<T>(rows: &[T], name: impl Fn(&T) -> &str) -> HashMap<&str, &T> {
    rows.iter().map(|row| (name(row), row)).collect()
}

async fn remove_key(connection: &mut SqliteConnection, name: &str) -> Result<(), KeyFileError> {
    let remove = query("DELETE FROM keys WHERE name = ?").bind(name);
    remove.execute(connection).await?;
    Ok(())
}

async fn remove_team(connection: &mut SqliteConnection, name: &str) -> Result<(), KeyFileError> {
    let remove = query("DELETE FROM teams WHERE name = ?").bind(name);
    remove.execute(connection).await?;
    Ok(())
}

async fn note_made(connection: &mut SqliteConnection) -> Result<(), KeyFileError> {
    let made = query(PUT_FACT).bind(MADE).bind([1_u8].as_slice());
    made.execute(connection).await?;
    Ok(())
}

async fn put_key(connection: &mut SqliteConnection, key: &KeptKey) -> Result<(), KeyFileError> {
    let before = key.before.as_ref();
    let put = query(PUT_KEY)
        .bind(&key.name)
        .bind(&key.team)
        .bind(signed(key.made_s))
        .bind(key.until_s.map(signed))
        .bind(key.is_enabled)
        .bind(&key.grants)
        .bind(key.tag.0.as_slice())
        .bind(before.map(|(tag, _)| tag.0.as_slice()))
        .bind(before.map(|(_, until)| signed(*until)))
        .bind(key.used_day);
    put.execute(connection).await?;
    Ok(())
}

async fn put_team(connection: &mut SqliteConnection, team: &KeptTeam) -> Result<(), KeyFileError> {
    let put = query(PUT_TEAM)
        .bind(&team.name)
        .bind(signed(team.made_s))
        .bind(&team.limits);
    put.execute(connection).await?;
    Ok(())
}

/// The folder, and the lock in it.
fn make(dir: &Path) -> Result<Lock, KeyFileError> {
    make_dir(dir).map_err(KeyFileError::Folder)?;
    let lock = own_file(&dir.join(LOCK_NAME)).map_err(KeyFileError::Folder)?;
    Lock::alone(lock).map_err(|error| match error {
        TryLockError::WouldBlock => KeyFileError::Taken,
        TryLockError::Error(error) => KeyFileError::Folder(error),
    })
}

/// SQLite gives what it makes beside the file the file's own mode.
fn own_file(path: &Path) -> io::Result<File> {
    let file = make_file(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn key(row: &SqliteRow) -> Result<KeptKey, KeyFileError> {
    let before: Option<Vec<u8>> = row.try_get("tag_before")?;
    let before_until: Option<i64> = row.try_get("before_until_s")?;
    let before = match before.zip(before_until) {
        Some((bytes, until)) => Some((tag(bytes)?, unsigned(until))),
        None => None,
    };
    let until: Option<i64> = row.try_get("until_s")?;
    Ok(KeptKey {
        name: row.try_get("name")?,
        team: row.try_get("team")?,
        made_s: unsigned(row.try_get("made_s")?),
        until_s: until.map(unsigned),
        is_enabled: row.try_get("is_enabled")?,
        grants: row.try_get("grants")?,
        tag: tag(row.try_get("tag")?)?,
        before,
        used_day: row.try_get("used_day")?,
    })
}

fn team(row: &SqliteRow) -> Result<KeptTeam, KeyFileError> {
    Ok(KeptTeam {
        name: row.try_get("name")?,
        made_s: unsigned(row.try_get("made_s")?),
        limits: row.try_get("limits")?,
    })
}

fn tag(bytes: Vec<u8>) -> Result<KeyTag, KeyFileError> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| KeyFileError::Damaged)?;
    Ok(KeyTag(bytes))
}
