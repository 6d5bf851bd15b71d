//! What callers hold of an index whose entries are written down as well: memory, and a queue that never makes
//! anybody wait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::{Entry, EntryId, Evidence, Purge, ReplyIndex as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::code::Code;
use super::memory::MemoryIndex;

/// Changes that wait to be written. One more is counted, and is gone with the process.
pub const REUSE_QUEUE_MAX: usize = 8_192;

/// Of a state; a longer one is not written.
pub const STATE_BYTES_MAX: usize = 4 << 20;

/// Purges that wait to be written.
const OWED_MAX: usize = 64;

/// What is to be written.
#[derive(Debug)]
pub enum Change {
    /// The entry has no vector; it is in the code.
    Keep(Arc<Entry>, Code),
    Learn(EntryId, Evidence),
    Forget(EntryId),
}

/// What the driver is told.
pub enum Task {
    Change(Change),
    Purge(Purge, oneshot::Sender<u64>),
    /// Answered when all before it is written, and what was written before is in memory.
    Flush(oneshot::Sender<()>),
}

pub struct Front {
    memory: Arc<MemoryIndex>,
    tasks: mpsc::Sender<Task>,
    state: watch::Sender<Option<Vec<u8>>>,
}

/// What its driver gets.
pub struct Behind {
    pub memory: Arc<MemoryIndex>,
    pub queue: mpsc::Receiver<Task>,
    pub states: watch::Receiver<Option<Vec<u8>>>,
}

/// Purges that have yet to be written.
#[derive(Default)]
pub struct Owed(Vec<Purge>);

impl Owed {
    /// With one more than [`OWED_MAX`], all rows go.
    pub fn note(&mut self, what: Purge) {
        if self.0.len() >= OWED_MAX {
            self.0 = vec![Purge::All];
        } else if !self.0.contains(&what) {
            self.0.push(what);
        }
    }

    pub fn take(&mut self) -> Vec<Purge> {
        std::mem::take(&mut self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Front {
    /// `state` is what was saved last.
    pub fn new(memory: MemoryIndex, state: Option<Vec<u8>>) -> (Self, Behind) {
        let memory = Arc::new(memory);
        let (tasks, queue) = mpsc::channel(REUSE_QUEUE_MAX);
        let (state, states) = watch::channel(state);
        let front = Self {
            memory: Arc::clone(&memory),
            tasks,
            state,
        };
        let behind = Behind {
            memory,
            queue,
            states,
        };
        (front, behind)
    }

    pub fn memory(&self) -> &MemoryIndex {
        &self.memory
    }

    /// Waits until what was written before is back, and what came since is written.
    pub async fn flush(&self) {
        let (done, waits) = oneshot::channel();
        if self.tasks.send(Task::Flush(done)).await.is_ok() {
            // A driver that ended has nothing left to write.
            drop(waits.await);
        }
    }

    fn tell(&self, change: Change) {
        if self.tasks.try_send(Task::Change(change)).is_err() {
            self.memory.count_faults(1);
        }
    }

    pub fn keep(&self, mut entry: Entry) {
        let Some(code) = self.memory.code_of(&entry.vector) else {
            return self.memory.count_faults(1);
        };
        entry.vector = Vec::new();
        let entry = Arc::new(entry);
        let Some(evicted) = self.memory.take_in(&entry, &code) else {
            return;
        };
        self.tell(Change::Keep(entry, code));
        for id in evicted {
            self.tell(Change::Forget(id));
        }
    }

    pub fn learn(&self, id: EntryId, evidence: Evidence) {
        self.memory.learn(id, evidence.clone());
        self.tell(Change::Learn(id, evidence));
    }

    /// Removes what is meant. Gives how many rows the driver removed; `None` where it did not in time.
    pub async fn purge(&self, what: &Purge, within: Duration) -> Option<u64> {
        let (done, waits) = oneshot::channel();
        let written = async {
            let task = Task::Purge(what.clone(), done);
            self.tasks.send(task).await.ok()?;
            waits.await.ok()
        };
        timeout(within, written).await.ok().flatten()
    }

    pub fn load_state(&self) -> Option<Vec<u8>> {
        self.state.borrow().clone()
    }

    pub fn save_state(&self, state: Vec<u8>) {
        match state.len() <= STATE_BYTES_MAX {
            true => drop(self.state.send_replace(Some(state))),
            false => self.memory.count_faults(1),
        }
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
