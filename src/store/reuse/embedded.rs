//! Neighbours in memory with a file behind them, and the driver that writes it and brings back what was kept
//! before.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    CacheAway, Compartment, Entry, EntryId, Evidence, Neighbour, Purge, ReplyIndex, ReuseStats,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::entries::unix_ms;
use super::file::{ReuseFileError, Row, RowFile, is_damaged};
use super::front::{Behind, Change, Front, Owed, Task};
use super::memory::{Clock, MemoryIndex, ReuseRules};

/// Changes of one write.
const BATCH_MAX: usize = 256;

/// Rows that are brought back at one go. What came meanwhile is written between two.
const PAGE_ROWS: u32 = 256;

/// How often entries are removed whose time is over, and what could not be removed is tried again.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How long a purge waits for the disk. It is done later where that takes longer.
const PURGE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Entries in memory, and in a file so that they outlive the process. Dropped, its driver writes what is
/// left and ends.
#[derive(Debug)]
pub struct EmbeddedIndex(Front);

impl EmbeddedIndex {
    /// Opens the file in a folder that is this process's alone. `encoder` tells vectors apart: entries of
    /// another are not brought back. Those of this one are by the driver, the last kept first, while the
    /// index serves.
    ///
    /// # Errors
    /// The folder cannot be written, or another process has the file. A damaged one is set aside.
    pub async fn open(
        dir: &Path,
        encoder: &str,
        rules: ReuseRules,
        clock: Clock,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>), ReuseFileError> {
        let mut file = RowFile::open(dir, encoder).await?;
        let state = match file.state().await {
            Ok(state) => state,
            Err(error) if is_damaged(&error) => {
                file = file.renew().await?;
                None
            }
            Err(error) => return Err(ReuseFileError::Sql(error)),
        };
        let (front, behind) = Front::new(MemoryIndex::new(rules, clock), state);
        let Behind {
            memory,
            queue,
            states,
        } = behind;
        let driver = Driver {
            memory,
            queue,
            states,
            file: Some(file),
            unread: Some(i64::MAX),
            owed: Owed::default(),
            flushes: Vec::new(),
            is_state_due: false,
            is_failing: false,
        };
        Ok((Arc::new(Self(front)), driver.run()))
    }

    /// Waits until what was kept before is back, and what came since is written.
    pub async fn flush(&self) {
        self.0.flush().await;
    }
}

#[async_trait]
impl ReplyIndex for EmbeddedIndex {
    async fn nearest(
        &self,
        compartment: &Compartment,
        vector: &[f32],
        count: usize,
    ) -> Vec<Neighbour> {
        self.0.memory().nearest(compartment, vector, count).await
    }

    fn keep(&self, entry: Entry) {
        self.0.keep(entry);
    }

    fn learn(&self, id: EntryId, evidence: Evidence) {
        self.0.learn(id, evidence);
    }

    fn find(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.0.memory().find(id)
    }

    fn meant(&self, what: &Purge, after: Option<EntryId>, count: usize) -> Vec<Arc<Entry>> {
        self.0.memory().meant(what, after, count)
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        let count = self.0.memory().remove_meant(what).await;
        let rows = self.0.purge(what, PURGE_WAIT_MAX).await;
        if rows.is_none() {
            warn!("removed entries may stand in the cache's file for a while");
        }
        // Rows that were not back in memory yet went as well.
        Ok(rows.unwrap_or(0).max(count))
    }

    fn stats(&self) -> ReuseStats {
        self.0.memory().stats()
    }

    fn load_state(&self) -> Option<Vec<u8>> {
        self.0.load_state()
    }

    fn save_state(&self, state: Vec<u8>) {
        self.0.save_state(state);
    }
}

struct Driver {
    memory: Arc<MemoryIndex>,
    queue: mpsc::Receiver<Task>,
    states: watch::Receiver<Option<Vec<u8>>>,
    /// `None` once there is none to be had.
    file: Option<RowFile>,
    /// Rows before this one are not back in memory yet. `None` when all are.
    unread: Option<i64>,
    /// What the disk has yet to remove.
    owed: Owed,
    flushes: Vec<oneshot::Sender<()>>,
    /// Whether the last state has yet to be written.
    is_state_due: bool,
    is_failing: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut sweep_at = Instant::now() + SWEEP_EVERY;
        let mut tasks = Vec::with_capacity(BATCH_MAX);
        loop {
            self.bring_back().await;
            if self.unread.is_none() {
                // What was before them in the queue is written.
                for done in self.flushes.drain(..) {
                    done.send(()).unwrap_or_default();
                }
            }
            let is_open = self.next(&mut tasks, sweep_at).await;
            self.work_off(&mut tasks).await;
            self.save_state().await;
            if sweep_at <= Instant::now() {
                sweep_at = Instant::now() + SWEEP_EVERY;
                self.sweep().await;
            }
            if !is_open {
                break;
            }
        }
        self.pay().await;
        if !self.owed.is_empty() {
            error!("removed entries still stand in the cache's file");
        }
        if let Some(file) = self.file {
            file.close().await;
        }
    }

    /// The next tasks, or none where something else is due. Gives false when no more will come.
    async fn next(&mut self, tasks: &mut Vec<Task>, sweep_at: Instant) -> bool {
        if self.unread.is_some() {
            while tasks.len() < BATCH_MAX {
                match self.queue.try_recv() {
                    Ok(task) => tasks.push(task),
                    Err(mpsc::error::TryRecvError::Empty) => return true,
                    Err(mpsc::error::TryRecvError::Disconnected) => return false,
                }
            }
            return true;
        }
        tokio::select! {
            biased;
            count = self.queue.recv_many(tasks, BATCH_MAX) => count > 0,
            Ok(()) = self.states.changed() => {
                self.is_state_due = true;
                true
            }
            () = sleep_until(sweep_at) => true,
        }
    }

    /// One page of what was kept before.
    async fn bring_back(&mut self) {
        let (Some(before), Some(file)) = (self.unread, &mut self.file) else {
            self.unread = None;
            return;
        };
        let rows = match file.page(before, PAGE_ROWS).await {
            Ok(rows) => rows,
            Err(error) => {
                self.unread = None;
                return self.failed(error).await;
            }
        };
        let is_last = rows.len() < PAGE_ROWS as usize;
        self.unread = rows.last().map(|row| row.seq).filter(|_| !is_last);
        let memory = Arc::clone(&self.memory);
        let work = move || {
            let now = memory.now();
            // The first that there was no room for, and those that cannot be believed.
            let (mut beyond, mut odd) = (None, Vec::new());
            for row in rows {
                if memory.is_full() {
                    beyond = Some(row.seq + 1);
                    break;
                }
                odd.extend(bring_back(&memory, &row, now));
            }
            (beyond, odd)
        };
        // Only a runtime that ends takes it away.
        let Ok((beyond, odd)) = tokio::task::spawn_blocking(work).await else {
            return;
        };
        self.memory.count_faults(odd.len() as u64);
        if !odd.is_empty() {
            warn!(
                rows = odd.len(),
                "rows of the cache cannot be believed; they are removed"
            );
            let changes: Vec<Change> = odd.into_iter().map(Change::Forget).collect();
            self.write(&changes).await;
        }
        if let (Some(beyond), Some(file)) = (beyond, &mut self.file) {
            self.unread = None;
            if let Err(error) = file.cut(beyond).await {
                self.failed(error).await;
            }
        }
    }

    async fn work_off(&mut self, tasks: &mut Vec<Task>) {
        let mut changes = Vec::new();
        for task in tasks.drain(..) {
            match task {
                Task::Change(change) => changes.push(change),
                Task::Flush(done) => self.flushes.push(done),
                Task::Purge(what, done) => {
                    // In their order: what was kept before a purge is meant by it.
                    self.write(&changes).await;
                    changes.clear();
                    // Rows came back since it was purged in memory.
                    let count = self.memory.remove_meant(&what).await;
                    let rows = self.purge(what).await;
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(rows.unwrap_or(0).max(count));
                }
            }
        }
        self.write(&changes).await;
    }

    async fn write(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let Some(file) = &mut self.file else {
            return self.memory.count_faults(changes.len() as u64);
        };
        match file.write(changes).await {
            Ok(()) => self.succeeded(),
            Err(error) => {
                self.memory.count_faults(changes.len() as u64);
                self.failed(error).await;
            }
        }
    }

    /// Gives how many rows went, where the disk did it.
    async fn purge(&mut self, what: Purge) -> Option<u64> {
        let now_ms = unix_ms(self.memory.now());
        let file = self.file.as_mut()?;
        match file.purge(&what, now_ms).await {
            Ok(rows) => {
                self.succeeded();
                Some(rows)
            }
            Err(error) => {
                self.owed.note(what);
                self.failed(error).await;
                None
            }
        }
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
        let (Some(state), Some(file)) = (state, &mut self.file) else {
            return;
        };
        match file.save_state(&state).await {
            Ok(()) => self.is_state_due = false,
            Err(error) => self.failed(error).await,
        }
    }

    async fn sweep(&mut self) {
        self.pay().await;
        self.memory.remove_meant(&Purge::Expired).await;
        self.purge(Purge::Expired).await;
    }

    fn succeeded(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            info!("the cache's file is written again");
        }
    }

    async fn failed(&mut self, error: sqlx::Error) {
        if is_damaged(&error) {
            let Some(file) = self.file.take() else {
                return;
            };
            match file.renew().await {
                Ok(file) => self.file = Some(file),
                Err(error) => error!(%error, "the cache goes on without a file"),
            }
            return;
        }
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(%error, "the cache's file cannot be written; entries will not outlive the process");
        }
    }
}

/// Takes a row in. Gives its name where it cannot be believed.
fn bring_back(memory: &MemoryIndex, row: &Row, now: std::time::SystemTime) -> Option<EntryId> {
    let Some((entry, code)) = row.read(memory.dimensions()) else {
        return Some(row.id());
    };
    if entry.expires_at > now && !memory.has(entry.id) {
        memory.take_in(&Arc::new(entry), &code);
    }
    None
}
