//! Neighbours in memory, within bounds of entries and bytes.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use domain::{
    CacheAway, Compartment, Entry, EntryId, Evidence, Neighbour, Purge, ReplyIndex, ReuseStats,
};

use super::code::{Code, cosine, floats};
use super::drawer::{Drawer, Parting};
use super::entries::{Entries, SHARDS, unix_ms, weight};
use super::list::{List, Nearest};

/// Rows that a search looks at before others have a turn: a fraction of a millisecond.
const TURN_ROWS: usize = 4_096;

/// More neighbours than that nobody is given.
pub const NEIGHBOURS_MAX: usize = 64;

/// The nearest entry of a search counts as used from this similarity on: below, hardly any answers.
const USED_SIMILARITY_MIN: f32 = 0.8;

/// Entries that are given up for one that comes. Further ones go with the next.
const EVICTED_MAX: usize = 256;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What an index holds at most.
#[derive(Clone, Copy, Debug)]
pub struct ReuseRules {
    /// Components of a vector; those of another length are left out.
    pub dimensions: usize,
    pub entries_max: u64,
    /// As counted: the texts and vectors, and an estimate of what else an entry takes.
    pub bytes_max: u64,
}

/// Entries in memory alone. They are gone with the process.
pub struct MemoryIndex {
    rules: ReuseRules,
    clock: Clock,
    entries: Entries,
    drawers: Vec<RwLock<HashMap<Compartment, Shared>>>,
    evicted: AtomicU64,
    faults: AtomicU64,
    state: Mutex<Option<Vec<u8>>>,
}

/// A drawer is `None` once it was taken out of the table, which only an empty one is.
type Shared = Arc<RwLock<Option<Drawer>>>;

impl MemoryIndex {
    #[must_use]
    pub fn new(rules: ReuseRules, clock: Clock) -> Self {
        Self {
            rules,
            clock,
            entries: Entries::new(),
            drawers: (0..SHARDS).map(|_| RwLock::default()).collect(),
            evicted: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    pub(super) fn dimensions(&self) -> usize {
        self.rules.dimensions
    }

    pub(super) fn has(&self, id: EntryId) -> bool {
        self.entries.find(id).is_some()
    }

    /// Whether it still has this entry, and not another one of its name.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        let held = self.entries.find(entry.id);
        held.is_some_and(|it| it.kept.kept_at == entry.kept.kept_at)
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.count() >= self.rules.entries_max
            || self.entries.bytes() >= self.rules.bytes_max
    }

    pub(super) fn count_faults(&self, count: u64) {
        self.faults.fetch_add(count, Ordering::Relaxed);
    }

    /// The code of a vector, where it is one of ours.
    pub(super) fn code_of(&self, vector: &[f32]) -> Option<Code> {
        let code = (vector.len() == self.rules.dimensions).then(|| Code::of(vector));
        code.flatten()
    }

    /// Takes an entry in, whose vector is in `code`. Gives those that went to make room, of which it may
    /// be one; `None` where its time is over, or where it would fill the index alone.
    pub(super) fn take_in(&self, entry: &Arc<Entry>, code: &Code) -> Option<Vec<EntryId>> {
        let now = self.now();
        let is_over = entry.expires_at <= now;
        if is_over || weight(entry, self.rules.dimensions) > self.rules.bytes_max {
            return None;
        }
        let (id, now_ms) = (entry.id, unix_ms(now));
        self.remove(id);
        // First by its name: whoever finds a row without an entry may remove it.
        self.entries.put(Arc::clone(entry), code, now_ms);
        self.put_row(entry, code);
        let mut evicted = Vec::new();
        let is_beyond = |entries: &Entries| {
            entries.count() > self.rules.entries_max || entries.bytes() > self.rules.bytes_max
        };
        while evicted.len() < EVICTED_MAX && is_beyond(&self.entries) {
            let least = self.entries.least_useful(id, now_ms);
            if self.remove(least) {
                evicted.push(least);
            }
        }
        let count = evicted.len() as u64;
        self.evicted.fetch_add(count, Ordering::Relaxed);
        Some(evicted)
    }

    fn put_row(&self, entry: &Entry, code: &Code) {
        let (id, end_ms) = (entry.id, unix_ms(entry.expires_at));
        loop {
            let drawer = self.drawer_for(&entry.compartment);
            // Looking for the place takes longest; others look meanwhile.
            let place = read(&drawer).as_ref().map(|it| it.place_for(code));
            let mut open = write(&drawer);
            let (Some(place), Some(it)) = (place, open.as_mut()) else {
                continue;
            };
            let place = it.put(place, id, end_ms, code);
            let crowded = it.crowded(place);
            drop(open);
            if let Some(parting) = crowded.and_then(|list| Parting::of(place, &list)) {
                part(&drawer, &parting);
            }
            return;
        }
    }

    /// Removes an entry with its row. Gives false where there is none.
    fn remove(&self, id: EntryId) -> bool {
        let Some(entry) = self.entries.take(id, self.rules.dimensions) else {
            return false;
        };
        self.remove_row(&entry.compartment, id);
        true
    }

    fn remove_row(&self, compartment: &Compartment, id: EntryId) {
        let Some(drawer) = self.drawer(compartment) else {
            return;
        };
        let is_empty = write(&drawer).as_mut().is_some_and(|it| {
            it.take(id);
            it.is_empty()
        });
        if !is_empty {
            return;
        }
        let mut table = write(self.table(compartment));
        let mut closing = write(&drawer);
        if closing.as_ref().is_some_and(Drawer::is_empty) {
            *closing = None;
            table.remove(compartment);
        }
    }

    /// Compartments are digests: any of their bytes tells them apart.
    fn table(&self, compartment: &Compartment) -> &RwLock<HashMap<Compartment, Shared>> {
        &self.drawers[usize::from(compartment.0[0]) % SHARDS]
    }

    fn drawer(&self, compartment: &Compartment) -> Option<Shared> {
        read(self.table(compartment)).get(compartment).cloned()
    }

    fn drawer_for(&self, compartment: &Compartment) -> Shared {
        if let Some(drawer) = self.drawer(compartment) {
            return drawer;
        }
        let fresh = || Arc::new(RwLock::new(Some(Drawer::new(self.rules.dimensions))));
        let mut table = write(self.table(compartment));
        Arc::clone(table.entry(*compartment).or_insert_with(fresh))
    }

    fn lists_near(&self, compartment: &Compartment, query: &Code) -> Vec<Arc<List>> {
        let Some(drawer) = self.drawer(compartment) else {
            return Vec::new();
        };
        let open = read(&drawer);
        let lists = open.as_ref().map(|it| it.lists_near(query));
        lists.unwrap_or_default()
    }

    /// The entry with its vector.
    fn whole(&self, entry: &Entry, code: &[i16]) -> Arc<Entry> {
        Arc::new(Entry {
            vector: floats(code),
            ..entry.clone()
        })
    }

    /// Removes what is meant, and gives how many went.
    pub(super) async fn remove_meant(&self, what: &Purge) -> u64 {
        let remove = |ids: Vec<EntryId>| {
            let gone = ids.into_iter().filter(|id| self.remove(*id));
            gone.count() as u64
        };
        let now = self.now();
        match what {
            Purge::Entry(id) => remove(vec![*id]),
            Purge::Compartment(compartment) => {
                let drawer = self.drawer(compartment);
                let ids = drawer.and_then(|it| read(&it).as_ref().map(Drawer::ids));
                remove(ids.unwrap_or_default())
            }
            Purge::All
            | Purge::Expired
            | Purge::Tag(_)
            | Purge::Model(_)
            | Purge::Team(_)
            | Purge::Subject(..) => {
                let mut count = 0;
                for shard in 0..SHARDS {
                    count += remove(self.entries.matching(shard, |it| what.takes(it, now)));
                    tokio::task::yield_now().await;
                }
                count
            }
        }
    }
}

/// Parts a list, and puts what is about it in order. What takes long is done while others look.
fn part(drawer: &RwLock<Option<Drawer>>, parting: &Parting) {
    let halves = write(drawer).as_mut().and_then(|it| it.part(parting));
    let moves = halves.and_then(|halves| {
        let open = read(drawer);
        open.as_ref().map(|it| it.moves_about(halves))
    });
    if let (Some(moves), Some(it)) = (moves, write(drawer).as_mut()) {
        it.move_rows(&moves);
    }
}

// Whoever panicked holding a lock here left at worst a row without an entry, which is removed when it
// is found.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl ReplyIndex for MemoryIndex {
    async fn nearest(
        &self,
        compartment: &Compartment,
        vector: &[f32],
        count: usize,
    ) -> Vec<Neighbour> {
        let Some(query) = self.code_of(vector) else {
            return Vec::new();
        };
        let now = self.now();
        let now_ms = unix_ms(now);
        let lists = self.lists_near(compartment, &query);
        let mut nearest = Nearest::new(count.min(NEIGHBOURS_MAX));
        let mut rows = 0;
        for (at, list) in lists.iter().enumerate() {
            list.scan(&query, now_ms, at, &mut nearest);
            rows += list.len();
            if rows >= TURN_ROWS {
                rows = 0;
                tokio::task::yield_now().await;
            }
        }
        let mut neighbours = Vec::with_capacity(count.min(NEIGHBOURS_MAX));
        for found in nearest.into_found() {
            let Some(entry) = self.entries.find(found.id) else {
                self.remove_row(compartment, found.id);
                continue;
            };
            if entry.compartment != *compartment || entry.expires_at <= now {
                continue;
            }
            let similarity = cosine(found.product);
            if neighbours.is_empty() && similarity >= USED_SIMILARITY_MIN {
                self.entries.touch(found.id, now_ms);
            }
            let entry = self.whole(&entry, lists[found.list].code(found.row));
            neighbours.push(Neighbour { entry, similarity });
        }
        neighbours
    }

    fn keep(&self, mut entry: Entry) {
        let Some(code) = self.code_of(&entry.vector) else {
            return self.count_faults(1);
        };
        entry.vector = Vec::new();
        self.take_in(&Arc::new(entry), &code);
    }

    fn learn(&self, id: EntryId, evidence: Evidence) {
        self.entries.learn(id, evidence);
    }

    fn find(&self, id: EntryId) -> Option<Arc<Entry>> {
        let entry = self.entries.find(id)?;
        if entry.expires_at <= self.now() {
            return None;
        }
        let drawer = self.drawer(&entry.compartment)?;
        let code = read(&drawer).as_ref()?.code_of(id)?;
        Some(self.whole(&entry, &code))
    }

    fn meant(&self, what: &Purge, after: Option<EntryId>, count: usize) -> Vec<Arc<Entry>> {
        let now = self.now();
        let is_after = |entry: &Entry| after.is_none_or(|after| entry.id > after);
        let shards = 0..SHARDS;
        let ids = shards.flat_map(|shard| {
            self.entries
                .matching(shard, |it| is_after(it) && what.takes(it, now))
        });
        let mut ids: Vec<EntryId> = ids.collect();
        ids.sort_unstable();
        let found = ids.into_iter().filter_map(|id| self.entries.find(id));
        found.take(count).collect()
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        Ok(self.remove_meant(what).await)
    }

    fn stats(&self) -> ReuseStats {
        let compartments = self.drawers.iter().map(|table| read(table).len() as u64);
        ReuseStats {
            entries: self.entries.count(),
            compartments: compartments.sum(),
            bytes: self.entries.bytes(),
            evicted: self.evicted.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
            is_apart: false,
        }
    }

    fn load_state(&self) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn save_state(&self, state: Vec<u8>) {
        let mut saved = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = Some(state);
    }
}

impl fmt::Debug for MemoryIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryIndex")
            .field("rules", &self.rules)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
