//! Keeps texts, finds them, seals them anew and removes them.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{
    FoundText, KeptText, Mark, OpenedText, Said, Subject, TeamId, TextFault, TextShelf, Unopened,
    chain,
};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row, query, query_as, query_scalar};
use tokio::sync::{Mutex as Turn, Notify};
use tokio::time::sleep;
use tracing::{info, warn};

use super::file::{self, FileError};
use super::seal::{Clear, Sealed, TextKeys};
use crate::reuse::Clock;
use crate::sqlite::used_bytes;

/// Between two looks for what is over, and for what an old key sealed.
pub const TEXT_SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Rows that are removed, and sealed anew, at one go: what comes meanwhile is written in between.
const REMOVE_ROWS: i64 = 1_000;
const RESEAL_ROWS: i64 = 32;

/// Rows that go at one go where the file is too long.
const SHRINK_ROWS: i64 = 64;

/// Of one page.
const PAGE_MAX: u32 = 1_000;

/// How texts are kept, beside whose and in which form.
#[derive(Debug)]
pub struct TextPolicy {
    pub keys: TextKeys,
    /// Since their exchange ended. What is kept already goes sooner where this is shorter than it was.
    pub keep: Duration,
    /// Of the file; the oldest go first.
    pub bytes_max: u64,
}

/// What is in the file, as it was last looked at, and what went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextsHeld {
    pub held: u64,
    /// Their time was over, or the file too long.
    pub removed: u64,
    /// Of those held: sealed under another key than the newest one, which is there.
    pub under_old_keys: u64,
    /// Of those held: sealed under keys that are not there.
    pub locked: u64,
}

#[derive(Debug, Default)]
struct Tally {
    held: AtomicU64,
    removed: AtomicU64,
    under_old_keys: AtomicU64,
    locked: AtomicU64,
    is_failing: AtomicBool,
}

/// The texts of one folder.
pub struct TextVault {
    dir: PathBuf,
    clock: Clock,
    /// `None`: nothing further is kept, and what is there goes on time.
    policy: Mutex<Option<Arc<TextPolicy>>>,
    changed: Notify,
    /// One at a time. It is taken out while it is used, so that work that is dropped leaves none behind.
    connection: Turn<Option<SqliteConnection>>,
    tally: Tally,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Plain {
    request_id: String,
    said: Said,
}

/// A row as it is read.
struct Found {
    seq: i64,
    ended_us: i64,
    until_us: i64,
    team: String,
    marks: Option<String>,
    sealed: Sealed,
}

const COLUMNS: &str = "seq, ended_us, until_us, team, marks, id, key_id, salt, body";

impl TextVault {
    /// Of `dir`, which is not touched before there is something to keep, or to remove.
    #[must_use]
    pub fn new(dir: &Path, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            clock,
            policy: Mutex::default(),
            changed: Notify::new(),
            connection: Turn::default(),
            tally: Tally::default(),
        })
    }

    /// Whether something was ever kept there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        file::exists(&self.dir)
    }

    /// From now on this holds.
    pub fn set_policy(&self, policy: Option<TextPolicy>) {
        let mut held = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        *held = policy.map(Arc::new);
        drop(held);
        self.changed.notify_one();
    }

    #[must_use]
    pub fn counts(&self) -> TextsHeld {
        TextsHeld {
            held: self.tally.held.load(Ordering::Relaxed),
            removed: self.tally.removed.load(Ordering::Relaxed),
            under_old_keys: self.tally.under_old_keys.load(Ordering::Relaxed),
            locked: self.tally.locked.load(Ordering::Relaxed),
        }
    }

    /// Removes what is over and seals anew what an old key sealed, for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.tend().await;
            tokio::select! {
                () = sleep(TEXT_SWEEP_EVERY) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Closes the file. It is opened again where that is needed.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            drop(connection.close().await);
        }
    }

    /// One look.
    pub(super) async fn tend(&self) {
        let tended = async {
            self.sweep().await?;
            self.reseal().await?;
            self.count().await
        };
        let tended: Result<(), FileError> = tended.await;
        let was_failing = self
            .tally
            .is_failing
            .swap(tended.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (&tended, was_failing) {
            let cause = chain(error);
            warn!(
                cause,
                "texts that are over could not be removed; it is tried every half minute"
            );
        }
    }

    async fn sweep(&self) -> Result<(), FileError> {
        let now_s = u64::try_from(self.now_us() / 1_000_000).unwrap_or(0);
        let gone = file::remove_damaged(&self.dir, Some(now_s)).map_err(FileError::Unmade)?;
        if gone > 0 {
            info!(
                count = gone,
                "damaged files of texts were removed: their time was over"
            );
        }
        loop {
            let (now, oldest) = self.over_us();
            let bytes_max = self.policy().map(|policy| policy.bytes_max);
            let removed = self
                .with_file(async |connection| {
                    let removed = remove_over(connection, now, oldest).await?;
                    let shrunk = shrink(connection, bytes_max).await?;
                    if removed + shrunk > 0 {
                        file::clear_up(connection).await?;
                    }
                    Ok(removed + shrunk)
                })
                .await?;
            let Some(removed) = removed.filter(|count| *count > 0) else {
                return Ok(());
            };
            self.tally.removed.fetch_add(removed, Ordering::Relaxed);
            info!(
                count = removed,
                "texts were removed: their time was over, or the file too long"
            );
        }
    }

    /// Seals under the newest key what another one sealed that is there.
    async fn reseal(&self) -> Result<(), FileError> {
        let Some(policy) = self.policy() else {
            return Ok(());
        };
        let mut done = 0;
        for key in policy.keys.names().skip(1) {
            // The same key twice is no old one.
            if key == policy.keys.newest() {
                continue;
            }
            let mut after = 0;
            loop {
                let page = self.page_of_key(key, after).await?;
                let Some(last) = page.last() else {
                    break;
                };
                after = last.seq;
                done += self.reseal_some(&policy, page).await?;
            }
        }
        if done > 0 {
            self.with_file(async |connection| file::clear_up(connection).await)
                .await?;
            info!(count = done, "texts were sealed anew, under the newest key");
        }
        Ok(())
    }

    async fn page_of_key(&self, key: &str, after: i64) -> Result<Vec<Found>, FileError> {
        let page = self
            .with_file(async |connection| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM texts WHERE key_id = ? AND seq > ? ORDER BY seq LIMIT ?"
                );
                let rows = query(sqlx::AssertSqlSafe(sql))
                    .bind(key)
                    .bind(after)
                    .bind(RESEAL_ROWS)
                    .fetch_all(connection)
                    .await?;
                Ok(rows.iter().map(found).collect::<Result<Vec<_>, _>>()?)
            })
            .await?;
        Ok(page.unwrap_or_default())
    }

    async fn reseal_some(
        &self,
        policy: &Arc<TextPolicy>,
        page: Vec<Found>,
    ) -> Result<u64, FileError> {
        let policy = Arc::clone(policy);
        let sealing = tokio::task::spawn_blocking(move || {
            let anew = page.into_iter().filter_map(|found| {
                let text = policy.keys.open(&found.clear(), &found.sealed).ok()?;
                let plain: Plain = serde_json::from_slice(&text).ok()?;
                let sealed = policy.keys.seal(&found.clear(), &plain.request_id, &text)?;
                Some((found, sealed))
            });
            anew.collect::<Vec<_>>()
        });
        let anew = sealing.await.unwrap_or_default();
        let done = self
            .with_file(async |connection| {
                let mut transaction = connection.begin().await?;
                let mut done = 0;
                for (found, sealed) in &anew {
                    let updated = query(
                        "UPDATE texts SET key_id = ?, id = ?, salt = ?, body = ?
                         WHERE seq = ? AND salt = ?",
                    )
                    .bind(&sealed.key_id)
                    .bind(&sealed.id)
                    .bind(&sealed.salt)
                    .bind(&sealed.body)
                    .bind(found.seq)
                    .bind(&found.sealed.salt)
                    .execute(&mut *transaction)
                    .await?;
                    done += updated.rows_affected();
                }
                transaction.commit().await?;
                Ok(done)
            })
            .await?;
        Ok(done.unwrap_or(0))
    }

    async fn count(&self) -> Result<(), FileError> {
        let rows = self
            .with_file(async |connection| {
                let sql = "SELECT key_id, COUNT(*) FROM texts GROUP BY key_id";
                Ok(query_as::<_, (String, i64)>(sql)
                    .fetch_all(connection)
                    .await?)
            })
            .await?;
        let rows: HashMap<String, i64> = rows.into_iter().flatten().collect();
        let policy = self.policy();
        let keys = policy.as_ref().map(|policy| &policy.keys);
        let mut held = TextsHeld::default();
        for (key, count) in rows {
            let count = u64::try_from(count).unwrap_or(0);
            held.held += count;
            match keys {
                Some(keys) if keys.newest() == key => {}
                Some(keys) if keys.names().any(|name| name == key) => held.under_old_keys += count,
                Some(_) | None => held.locked += count,
            }
        }
        let was_locked = self.tally.locked.swap(held.locked, Ordering::Relaxed);
        if keys.is_some() && held.locked > was_locked {
            warn!(
                count = held.locked,
                "texts are sealed under keys that are none of retention.keys, and cannot be read"
            );
        }
        self.tally.held.store(held.held, Ordering::Relaxed);
        self.tally
            .under_old_keys
            .store(held.under_old_keys, Ordering::Relaxed);
        Ok(())
    }

    fn policy(&self) -> Option<Arc<TextPolicy>> {
        let held = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    fn now_us(&self) -> i64 {
        let since = (self.clock)().duration_since(SystemTime::UNIX_EPOCH);
        i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
    }

    /// Now, and when an exchange ended whose text is over by now, whatever was said of it then.
    fn over_us(&self) -> (i64, i64) {
        let now = self.now_us();
        let oldest = self.policy().map_or(i64::MIN, |policy| {
            let keep = i64::try_from(policy.keep.as_micros()).unwrap_or(i64::MAX);
            now.saturating_sub(keep)
        });
        (now, oldest)
    }

    /// With the file, where there is one.
    async fn with_file<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, FileError>,
    ) -> Result<Option<T>, FileError> {
        let mut turn = self.connection.lock().await;
        if turn.is_none() && !file::exists(&self.dir) {
            return Ok(None);
        }
        self.work(&mut turn, work).await.map(Some)
    }

    /// With the file, made where there is none.
    async fn with_made_file<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let mut turn = self.connection.lock().await;
        self.work(&mut turn, work).await
    }

    async fn work<T>(
        &self,
        turn: &mut Option<SqliteConnection>,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let mut connection = match turn.take() {
            Some(connection) => connection,
            None => file::open(&self.dir, self.damaged_until_s()).await?,
        };
        let done = work(&mut connection).await?;
        *turn = Some(connection);
        Ok(done)
    }

    /// Until when anything may be kept that is in a file now.
    fn damaged_until_s(&self) -> u64 {
        let keep = self.policy().map_or(0, |policy| policy.keep.as_secs());
        let now_s = u64::try_from(self.now_us() / 1_000_000).unwrap_or(0);
        now_s.saturating_add(keep)
    }

    async fn try_keep(&self, sealed: &[(KeptText, Sealed)]) -> Result<(), FileError> {
        self.with_made_file(async |connection| {
            let mut transaction = connection.begin().await?;
            for (text, sealed) in sealed {
                query(
                    "INSERT INTO texts (ended_us, until_us, team, marks, id, key_id, salt, body)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(text.ended_us)
                .bind(text.until_us)
                .bind(&text.team)
                .bind(&text.marks)
                .bind(&sealed.id)
                .bind(&sealed.key_id)
                .bind(&sealed.salt)
                .bind(&sealed.body)
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }

    /// As they are told.
    async fn opened(&self, rows: Vec<Found>) -> Result<Vec<FoundText>, TextFault> {
        let policy = self.policy();
        let opening = tokio::task::spawn_blocking(move || {
            let keys = policy.as_ref().map(|policy| &policy.keys);
            rows.into_iter()
                .map(|found| found.opened(keys))
                .collect::<Vec<_>>()
        });
        opening
            .await
            .map_err(|error| TextFault::Unusable(Box::new(error)))
    }

    async fn locked_count(&self) -> Result<u64, FileError> {
        let policy = self.policy();
        let names = policy.iter().flat_map(|policy| policy.keys.names());
        let names = serde_json::json!(names.collect::<Vec<_>>()).to_string();
        let (now, oldest) = self.over_us();
        let count = self
            .with_file(async |connection| {
                let count: i64 = query_scalar(
                    "SELECT COUNT(*) FROM texts WHERE until_us > ? AND ended_us > ?
                         AND key_id NOT IN (SELECT value FROM json_each(?))",
                )
                .bind(now)
                .bind(oldest)
                .bind(names)
                .fetch_one(connection)
                .await?;
                Ok(count)
            })
            .await?;
        Ok(u64::try_from(count.unwrap_or(0)).unwrap_or(0))
    }
}

impl fmt::Debug for TextVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextVault")
            .field("dir", &self.dir)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TextShelf for TextVault {
    async fn keep(&self, texts: &[KeptText]) -> Result<(), TextFault> {
        let Some(policy) = self.policy() else {
            return Ok(());
        };
        let now = self.now_us();
        let texts = texts.iter().filter(|text| text.until_us > now).cloned();
        let texts: Vec<KeptText> = texts.collect();
        if texts.is_empty() {
            return Ok(());
        }
        let sealing = tokio::task::spawn_blocking(move || {
            let sealed = texts.into_iter().filter_map(|text| {
                let plain = Plain {
                    request_id: text.request_id.clone(),
                    said: text.said.clone(),
                };
                let json = serde_json::to_vec(&plain).ok()?;
                let sealed = policy.keys.seal(&clear(&text), &text.request_id, &json)?;
                Some((text, sealed))
            });
            sealed.collect::<Vec<_>>()
        });
        let sealed = sealing
            .await
            .map_err(|error| TextFault::Unusable(Box::new(error)))?;
        match self.try_keep(&sealed).await {
            // It is set aside when it is opened anew.
            Err(FileError::Damaged) => Ok(self.try_keep(&sealed).await?),
            kept => Ok(kept?),
        }
    }

    async fn find(&self, request_id: &str, count: u32) -> Result<Vec<FoundText>, TextFault> {
        let policy = self.policy();
        let ids = policy.iter().flat_map(|policy| policy.keys.ids(request_id));
        let ids: Vec<Vec<u8>> = ids.collect();
        let (now, oldest) = self.over_us();
        let count = i64::from(count.min(PAGE_MAX));
        let rows = self
            .with_file(async |connection| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM texts WHERE id = ? AND until_us > ? AND ended_us > ?
                     ORDER BY seq DESC LIMIT ?"
                );
                let mut rows = Vec::new();
                for id in ids {
                    let some = query(sqlx::AssertSqlSafe(sql.clone()))
                        .bind(id)
                        .bind(now)
                        .bind(oldest)
                        .bind(count)
                        .fetch_all(&mut *connection)
                        .await?;
                    for row in &some {
                        rows.push(found(row)?);
                    }
                }
                Ok(rows)
            })
            .await?;
        let mut rows = rows.unwrap_or_default();
        rows.sort_by_key(|found| std::cmp::Reverse(found.seq));
        rows.dedup_by_key(|found| found.seq);
        rows.truncate(usize::try_from(count).unwrap_or(0));
        if rows.is_empty() {
            let locked = self.locked_count().await?;
            if locked > 0 {
                return Err(TextFault::Locked { count: locked });
            }
        }
        self.opened(rows).await
    }

    async fn of(
        &self,
        subject: &Subject,
        mark: &Mark,
        count: u32,
        before: Option<i64>,
    ) -> Result<Vec<FoundText>, TextFault> {
        let (now, oldest) = self.over_us();
        let rows = self
            .with_file(async |connection| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM texts
                     WHERE seq < ?1 AND until_us > ?2 AND ended_us > ?3
                         AND instr(marks, ?4) > 0 AND (?5 IS NULL OR team = ?5)
                     ORDER BY seq DESC LIMIT ?6"
                );
                let rows = query(sqlx::AssertSqlSafe(sql))
                    .bind(before.unwrap_or(i64::MAX))
                    .bind(now)
                    .bind(oldest)
                    .bind(mark.word(subject.who.as_label()))
                    .bind(subject.team.as_ref().map(TeamId::as_str))
                    .bind(i64::from(count.min(PAGE_MAX)))
                    .fetch_all(connection)
                    .await?;
                Ok(rows.iter().map(found).collect::<Result<Vec<_>, _>>()?)
            })
            .await?;
        self.opened(rows.unwrap_or_default()).await
    }

    async fn erase(&self, subject: &Subject, mark: &Mark) -> Result<u64, TextFault> {
        // What is in them cannot be asked.
        file::remove_damaged(&self.dir, None).map_err(FileError::Unmade)?;
        let erased = self
            .with_file(async |connection| {
                let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                let removed = query(
                    "DELETE FROM texts WHERE instr(marks, ?1) > 0 AND (?2 IS NULL OR team = ?2)",
                )
                .bind(mark.word(subject.who.as_label()))
                .bind(subject.team.as_ref().map(TeamId::as_str))
                .execute(&mut *transaction)
                .await?;
                if removed.rows_affected() > 0 {
                    query("INSERT OR IGNORE INTO scrub (owed) VALUES (1)")
                        .execute(&mut *transaction)
                        .await?;
                }
                transaction.commit().await?;
                let is_clear = file::scrub(connection).await?;
                Ok((removed.rows_affected(), is_clear))
            })
            .await?;
        match erased {
            None => Ok(0),
            Some((removed, true)) => Ok(removed),
            // The log has it still.
            Some((_, false)) => Err(TextFault::Busy),
        }
    }
}

fn clear(text: &KeptText) -> Clear<'_> {
    Clear {
        ended_us: text.ended_us,
        until_us: text.until_us,
        team: &text.team,
        marks: text.marks.as_deref(),
    }
}

impl Found {
    fn clear(&self) -> Clear<'_> {
        Clear {
            ended_us: self.ended_us,
            until_us: self.until_us,
            team: &self.team,
            marks: self.marks.as_deref(),
        }
    }

    fn opened(self, keys: Option<&TextKeys>) -> FoundText {
        let opened = match keys {
            Some(keys) => keys.open(&self.clear(), &self.sealed),
            None => Err(Unopened::KeyMissing {
                key_id: self.sealed.key_id.clone(),
            }),
        };
        let opened = opened.and_then(|text| {
            let plain: Result<Plain, _> = serde_json::from_slice(&text);
            let plain = plain.map_err(|_| Unopened::Altered)?;
            Ok(OpenedText {
                request_id: plain.request_id,
                said: plain.said,
            })
        });
        FoundText {
            seq: self.seq,
            ended_us: self.ended_us,
            until_us: self.until_us,
            team: self.team,
            opened,
        }
    }
}

fn found(row: &SqliteRow) -> Result<Found, sqlx::Error> {
    Ok(Found {
        seq: row.try_get("seq")?,
        ended_us: row.try_get("ended_us")?,
        until_us: row.try_get("until_us")?,
        team: row.try_get("team")?,
        marks: row.try_get("marks")?,
        sealed: Sealed {
            key_id: row.try_get("key_id")?,
            id: row.try_get("id")?,
            salt: row.try_get("salt")?,
            body: row.try_get("body")?,
        },
    })
}

/// Rows whose time is over, some of them.
async fn remove_over(
    connection: &mut SqliteConnection,
    now: i64,
    oldest: i64,
) -> Result<u64, FileError> {
    let removed = query(
        "DELETE FROM texts WHERE seq IN (
             SELECT seq FROM texts WHERE until_us <= ? OR ended_us <= ? LIMIT ?
         )",
    )
    .bind(now)
    .bind(oldest)
    .bind(REMOVE_ROWS)
    .execute(connection)
    .await?;
    Ok(removed.rows_affected())
}

/// The oldest rows of a file that is too long, some of them.
async fn shrink(
    connection: &mut SqliteConnection,
    bytes_max: Option<u64>,
) -> Result<u64, FileError> {
    let Some(bytes_max) = bytes_max else {
        return Ok(0);
    };
    if used_bytes(connection).await? <= bytes_max {
        return Ok(0);
    }
    let removed =
        query("DELETE FROM texts WHERE seq IN (SELECT seq FROM texts ORDER BY ended_us LIMIT ?)")
            .bind(SHRINK_ROWS)
            .execute(connection)
            .await?;
    Ok(removed.rows_affected())
}
