//! Neighbours in memory, with a table in Postgres behind them that other replicas have behind theirs.
//!
//! ```text
//! keep, learn ─► queue ─► driver: under a lock ─► hedge.reuse_entries
//!                            │  four times a second ◄─ what others kept, learned and removed
//!                            ▼
//! nearest ─► memory, while it is known what was removed elsewhere
//! ```
//! Each replica searches its own memory, so no request waits for Postgres. Vectors are looked through there
//! and not by an extension: a compartment is a small part of all, and an index of all vectors that is filtered
//! afterwards misses most of such a part.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use domain::{
    CacheAway, Compartment, Entry, EntryId, Evidence, Neighbour, Purge, ReplyIndex, ReuseStats,
};
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::entries::unix_ms;
use super::file::Row;
use super::front::{Behind, Change, Front, Owed, Task};
use super::memory::{Clock, MemoryIndex, ReuseRules};
use super::table::{Heard, NEWS_MAX, News, PURGES_KEPT_S, Table};
use crate::texts::TextKey;
use crate::{PostgresAddress, PostgresFault};

/// How often a replica asks what others did.
pub const REUSE_FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// A replica that has not heard of the others for so long answers nothing: somebody may have removed it.
pub const REUSE_HEARD_MAX: Duration = Duration::from_secs(2);

/// Changes of one write: others wait for it.
const BATCH_MAX: usize = 64;

/// Rows that are brought back at one go.
const PAGE_ROWS: i64 = NEWS_MAX;

/// For one exchange with Postgres.
const ASK_MAX: Duration = Duration::from_secs(10);

/// For what was learned, at the start: a node does not wait longer for it.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// How long Postgres is left alone after it failed.
const RETRY_EVERY: Duration = Duration::from_secs(1);

const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long a purge waits for Postgres. It is done later where that takes longer.
const PURGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Purges that were heard of and are held against entries that come late.
const REMOVED_MAX: usize = 256;

/// Away for longer, what a replica has in memory is read anew: purges may be forgotten by then.
const AWAY_MAX: Duration = Duration::from_secs(PURGES_KEPT_S as u64 / 2);

/// Where entries are shared, and under what.
#[derive(Clone)]
pub struct SharedReuseRules {
    pub postgres: PostgresAddress,
    /// Replicas of another name neither see nor remove these entries.
    pub realm: String,
    /// Tells vectors apart.
    pub encoder: String,
    /// What was asked and answered is sealed under it.
    pub secret: [u8; 32],
    pub index: ReuseRules,
}

impl fmt::Debug for SharedReuseRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedReuseRules")
            .field("postgres", &self.postgres)
            .field("realm", &self.realm)
            .field("encoder", &self.encoder)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Entries in memory that other replicas have too. Dropped, its driver writes what is left and ends.
#[derive(Debug)]
pub struct SharedIndex {
    front: Front,
    hearing: Arc<Hearing>,
}

/// When the others were heard of last, and what they removed.
#[derive(Debug)]
struct Hearing {
    start: Instant,
    /// Milliseconds since, and one; 0: never.
    last: AtomicU64,
    removed: Mutex<VecDeque<(SystemTime, Purge)>>,
}

impl Hearing {
    fn note(&self, at: Instant) {
        let ms = at.saturating_duration_since(self.start).as_millis() as u64;
        self.last.store(ms + 1, Ordering::Release);
    }

    fn is_recent(&self) -> bool {
        let Some(last) = self.last.load(Ordering::Acquire).checked_sub(1) else {
            return false;
        };
        let since = self.start.elapsed().as_millis() as u64;
        since.saturating_sub(last) < REUSE_HEARD_MAX.as_millis() as u64
    }

    fn removed(&self) -> MutexGuard<'_, VecDeque<(SystemTime, Purge)>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_removed(&self, at: SystemTime, what: &Purge) {
        let mut removed = self.removed();
        if removed.len() >= REMOVED_MAX {
            removed.pop_front();
        }
        removed.push_back((at, what.clone()));
    }

    /// Whether somebody removed what an entry was made of before it came here: it waited to be compared.
    fn is_removed(&self, entry: &Entry, now: SystemTime) -> bool {
        let removed = self.removed();
        let mut later = removed.iter().filter(|(at, _)| *at > entry.kept.kept_at);
        later.any(|(_, what)| what.takes(entry, now))
    }
}

impl SharedIndex {
    /// The index, and its driver, which finds what others kept as soon as Postgres can be had.
    pub async fn open(
        rules: SharedReuseRules,
        clock: Clock,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + use<>) {
        let table = Table {
            realm: rules.realm,
            encoder: rules.encoder,
            origin: i64::from_le_bytes(
                *uuid::Uuid::new_v4()
                    .as_bytes()
                    .first_chunk()
                    .expect("sixteen bytes have eight"),
            ),
            key: TextKey::of(rules.secret),
        };
        let mut own = None;
        let mut state = None;
        let opening = async {
            let mut opened = rules.postgres.open().await?;
            state = table.state(&mut opened).await?;
            own = Some(opened);
            Ok::<(), PostgresFault>(())
        };
        match timeout(OPEN_MAX, opening).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "kept replies are not shared until Postgres is there"),
            Err(_) => warn!("kept replies are not shared until Postgres is there"),
        }
        let (front, behind) = Front::new(MemoryIndex::new(rules.index, clock), state);
        let Behind {
            memory,
            queue,
            states,
        } = behind;
        let hearing = Arc::new(Hearing {
            start: Instant::now(),
            last: AtomicU64::new(0),
            removed: Mutex::default(),
        });
        let driver = Driver {
            memory,
            hearing: Arc::clone(&hearing),
            queue,
            states,
            address: rules.postgres,
            table,
            rows_max: i64::try_from(rules.index.entries_max).unwrap_or(i64::MAX),
            is_failing: own.is_none(),
            own,
            seen: None,
            heard_at: None,
            retry_at: Instant::now(),
            owed: Owed::default(),
            flushes: Vec::new(),
            is_state_due: false,
        };
        (Arc::new(Self { front, hearing }), driver.run())
    }

    /// Waits until what others kept is here, and what came since is written.
    pub async fn flush(&self) {
        self.front.flush().await;
    }
}

#[async_trait]
impl ReplyIndex for SharedIndex {
    async fn nearest(
        &self,
        compartment: &Compartment,
        vector: &[f32],
        count: usize,
    ) -> Vec<Neighbour> {
        if !self.hearing.is_recent() {
            return Vec::new();
        }
        let memory = self.front.memory();
        let found = memory.nearest(compartment, vector, count).await;
        if self.hearing.is_recent() {
            found
        } else {
            Vec::new()
        }
    }

    fn keep(&self, entry: Entry) {
        let now = self.front.memory().now();
        if !self.hearing.is_removed(&entry, now) {
            self.front.keep(entry);
        }
    }

    fn learn(&self, id: EntryId, evidence: Evidence) {
        self.front.learn(id, evidence);
    }

    fn find(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.front.memory().find(id)
    }

    fn meant(&self, what: &Purge, after: Option<EntryId>, count: usize) -> Vec<Arc<Entry>> {
        self.front.memory().meant(what, after, count)
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        let count = self.front.memory().remove_meant(what).await;
        let rows = self.front.purge(what, PURGE_WAIT_MAX).await;
        let rows = rows.ok_or_else(|| CacheAway(Box::new(PostgresFault::Late)))?;
        // One entry that was found wrong is heard of soon enough.
        if !matches!(what, Purge::Expired | Purge::Entry(_)) {
            // By then each has heard of it, or answers nothing.
            sleep(REUSE_HEARD_MAX).await;
        }
        Ok(rows.max(count))
    }

    fn stats(&self) -> ReuseStats {
        ReuseStats {
            is_apart: !self.hearing.is_recent(),
            ..self.front.memory().stats()
        }
    }

    fn load_state(&self) -> Option<Vec<u8>> {
        self.front.load_state()
    }

    fn save_state(&self, state: Vec<u8>) {
        self.front.save_state(state);
    }
}

struct Driver {
    memory: Arc<MemoryIndex>,
    hearing: Arc<Hearing>,
    queue: mpsc::Receiver<Task>,
    states: watch::Receiver<Option<Vec<u8>>>,
    address: PostgresAddress,
    table: Table,
    rows_max: i64,
    own: Option<PgConnection>,
    /// The number of the last change that is in memory; `None` until what was there is.
    seen: Option<i64>,
    /// When the others were heard of last, by the wall's clock, which goes on while a machine sleeps.
    heard_at: Option<SystemTime>,
    retry_at: Instant,
    owed: Owed,
    flushes: Vec<oneshot::Sender<()>>,
    is_state_due: bool,
    is_failing: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut tasks = Vec::with_capacity(BATCH_MAX);
        let mut follow = interval(REUSE_FOLLOW_EVERY);
        follow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut is_sweep_due = false;
            let mut is_open = true;
            tokio::select! {
                biased;
                _ = follow.tick() => {}
                _ = sweep.tick() => is_sweep_due = true,
                count = self.queue.recv_many(&mut tasks, BATCH_MAX) => is_open = count > 0,
                Ok(()) = self.states.changed() => self.is_state_due = true,
            }
            // Also where there is always something else to do.
            while is_open && tasks.len() < BATCH_MAX {
                match self.queue.try_recv() {
                    Ok(task) => tasks.push(task),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => is_open = false,
                }
            }
            self.connect().await;
            self.bring_back().await;
            self.work_off(&mut tasks).await;
            self.save_state().await;
            if is_sweep_due {
                self.sweep().await;
            }
            if self.seen.is_some() && self.own.is_some() {
                for done in self.flushes.drain(..) {
                    done.send(()).unwrap_or_default();
                }
            }
            if !is_open {
                return;
            }
        }
    }

    async fn connect(&mut self) {
        if self.own.is_some() || self.retry_at > Instant::now() {
            return;
        }
        match self.address.open().await {
            Ok(own) => {
                self.own = Some(own);
                if std::mem::take(&mut self.is_failing) {
                    info!("kept replies are shared again");
                }
                self.pay().await;
            }
            Err(error) => self.failed(&error),
        }
    }

    /// What is in memory may be what was removed.
    async fn begin_anew(&mut self) {
        self.seen = None;
        self.heard_at = None;
        self.memory.remove_meant(&Purge::All).await;
    }

    /// Whether it was away for so long that others' purges may be forgotten.
    fn was_away_long(&self) -> bool {
        let since = |at| self.memory.now().duration_since(at).ok();
        let away = self.heard_at.and_then(since);
        away.is_some_and(|away| away > AWAY_MAX)
    }

    fn failed(&mut self, error: &dyn fmt::Display) {
        self.own = None;
        self.retry_at = Instant::now() + RETRY_EVERY;
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(%error, "kept replies are not shared: Postgres cannot be had");
        }
    }

    /// Asks Postgres, where it can be had. `None` where it could not, which is noted.
    async fn ask<T>(
        &mut self,
        asking: impl AsyncFnOnce(&Table, &mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Option<T> {
        let own = self.own.as_mut()?;
        match timeout(ASK_MAX, asking(&self.table, own)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                self.failed(&error);
                None
            }
            Err(_) => {
                self.failed(&PostgresFault::Late);
                None
            }
        }
    }

    /// What was kept before this replica was there.
    async fn bring_back(&mut self) {
        if self.seen.is_some() {
            return;
        }
        let Some(last) = self.ask(async |table, own| table.settled(own).await).await else {
            return;
        };
        // What came before, from here or from a try that failed, may have been removed since.
        self.memory.remove_meant(&Purge::All).await;
        let mut before = i64::MAX;
        loop {
            let page = self
                .ask(async |table, own| table.page(own, before, PAGE_ROWS).await)
                .await;
            let Some(rows) = page else {
                return;
            };
            let is_last = (rows.len() as i64) < PAGE_ROWS || self.memory.is_full();
            before = rows.last().map_or(0, |row| row.seq);
            self.take_in(rows).await;
            if is_last {
                break;
            }
        }
        self.seen = Some(last);
    }

    /// Rows that others wrote, into memory.
    async fn take_in(&mut self, rows: Vec<Row>) {
        let memory = Arc::clone(&self.memory);
        let work = move || {
            let now = memory.now();
            let mut odd = Vec::new();
            for row in rows {
                match row.read(memory.dimensions()) {
                    Some((entry, code)) if entry.expires_at > now => {
                        memory.take_in(&Arc::new(entry), &code);
                    }
                    Some(_) => {}
                    None => odd.push(row),
                }
            }
            odd
        };
        // Only a runtime that ends takes it away.
        let odd = tokio::task::spawn_blocking(work).await.unwrap_or_default();
        if odd.is_empty() {
            return;
        }
        self.memory.count_faults(odd.len() as u64);
        warn!(
            rows = odd.len(),
            "rows of the cache cannot be believed; they are removed"
        );
        for row in odd {
            self.ask(async |table, own| table.forget(own, &row).await)
                .await;
        }
    }

    async fn take(&mut self, news: News) {
        let mut rows = Vec::new();
        for heard in news.heard {
            match heard {
                Heard::Row(row) => rows.push(*row),
                // In their order: what was kept before a purge is meant by it.
                Heard::Purge(what) => {
                    self.take_in(std::mem::take(&mut rows)).await;
                    self.hearing.note_removed(self.memory.now(), &what);
                    self.memory.remove_meant(&what).await;
                }
            }
        }
        self.take_in(rows).await;
    }

    async fn work_off(&mut self, tasks: &mut Vec<Task>) {
        let mut changes = Vec::new();
        for task in tasks.drain(..) {
            match task {
                Task::Change(change) => changes.push(change),
                Task::Flush(done) => self.flushes.push(done),
                Task::Purge(what, done) => {
                    self.write(&changes).await;
                    changes.clear();
                    // What others kept came meanwhile.
                    let count = self.memory.remove_meant(&what).await;
                    if let Some(rows) = self.purge(what).await {
                        // Whoever asked may have stopped waiting.
                        let _ = done.send(rows.max(count));
                    }
                }
            }
        }
        self.write(&changes).await;
    }

    /// Hears what others did, and writes what was done here. What Postgres does not take is this replica's alone.
    async fn write(&mut self, changes: &[Change]) {
        if self.was_away_long() {
            self.begin_anew().await;
        }
        // First without the lock: there may be much.
        let mut is_writing = false;
        loop {
            let began = Instant::now();
            let now = self.memory.now();
            let Some(seen) = self.seen else {
                return self.memory.count_faults(changes.len() as u64);
            };
            // What was removed since it was kept, by whomever, is not written.
            let is_there = |change: &&Change| match change {
                Change::Keep(entry, _) => self.memory.holds(entry),
                Change::Learn(..) | Change::Forget(_) => true,
            };
            let meant: Vec<&Change> = changes.iter().filter(is_there).collect();
            let asked = self.ask(async |table, own| {
                if table.last(own).await? < seen {
                    return Ok(None);
                }
                match is_writing {
                    false => Ok(Some((table.news(own, seen).await?, Vec::new()))),
                    true => table.write(own, seen, &meant, now).await.map(Some),
                }
            });
            let Some(asked) = asked.await else {
                return self.memory.count_faults(changes.len() as u64);
            };
            let Some((news, learned)) = asked else {
                warn!("Postgres was set back; kept replies are read anew");
                return self.begin_anew().await;
            };
            let is_all = news.is_all;
            self.seen = Some(news.seen);
            self.take(news).await;
            for (id, evidence) in learned {
                self.memory.learn(id, evidence);
            }
            if !is_all {
                continue;
            }
            self.hearing.note(began);
            self.heard_at = Some(now);
            if is_writing || changes.is_empty() {
                return;
            }
            is_writing = true;
        }
    }

    async fn purge(&mut self, what: Purge) -> Option<u64> {
        let now_ms = unix_ms(self.memory.now());
        let meant = what.clone();
        let gone = self
            .ask(async |table, own| table.purge(own, &meant, now_ms).await)
            .await;
        if gone.is_none() {
            self.owed.note(what);
        }
        gone
    }

    async fn pay(&mut self) {
        for what in self.owed.take() {
            self.purge(what).await;
        }
    }

    async fn save_state(&mut self) {
        let state = {
            let state = self.states.borrow_and_update();
            self.is_state_due |= state.has_changed();
            state.clone().filter(|_| self.is_state_due)
        };
        let Some(state) = state else {
            return;
        };
        let saved = self.ask(async |table, own| table.save_state(own, &state).await);
        if saved.await.is_some() {
            self.is_state_due = false;
        }
    }

    async fn sweep(&mut self) {
        self.memory.remove_meant(&Purge::Expired).await;
        self.purge(Purge::Expired).await;
        let rows_max = self.rows_max;
        self.ask(async |table, own| table.trim(own, rows_max).await)
            .await;
    }
}
