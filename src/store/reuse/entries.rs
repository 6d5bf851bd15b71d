//! What is kept, by its name: found at once, and given up by how little use it is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use domain::{Entry, EntryId, Evidence};

use super::code::Code;

/// Parts with a lock each. Names are drawn at random, so their lowest bits say which.
pub const SHARDS: usize = 16;

/// Entries that are compared to find one that goes. Four times in five the least useful of so many is
/// among the least useful tenth of all.
const SAMPLES: u32 = 16;

/// What an entry takes beside its texts and vector: the fixed parts of it and of its reply, the
/// allocations of both, and a row in each table. An estimate, on the high side.
pub const ENTRY_OVERHEAD_BYTES: usize = 1_024;

/// Added to how long an entry was of no use, so that what was used a second ago does not outweigh all
/// else.
const IDLE_S_MIN: f64 = 600.0;

/// Entries without their vectors, which are in the drawers.
#[derive(Debug)]
pub struct Entries {
    shards: Vec<RwLock<Shard>>,
    count: AtomicU64,
    bytes: AtomicU64,
    /// Draws so far.
    draws: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    at: HashMap<EntryId, u32>,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    uses: AtomicU32,
    /// Unix milliseconds.
    used_ms: AtomicU64,
}

/// Whole milliseconds since 1970.
pub fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The bytes that an entry is counted as.
pub fn weight(entry: &Entry, dimensions: usize) -> u64 {
    let kept = &entry.kept;
    let names = entry.class.len() + kept.team.as_str().len() + kept.model.as_str().len();
    let tags: usize = kept.tags.iter().map(String::len).sum();
    let vector = dimensions * size_of::<i16>();
    let texts = entry.text.len() + kept.reply.bytes() + names + tags;
    (texts + vector + ENTRY_OVERHEAD_BYTES) as u64
}

impl Slot {
    /// Of two the one with less goes first.
    fn usefulness(&self, now_ms: u64) -> f64 {
        let Evidence { right, wrong, .. } = &self.entry.evidence;
        if unix_ms(self.entry.expires_at) <= now_ms {
            return -2.0;
        }
        if wrong > right {
            return -1.0;
        }
        let used_ms = self.used_ms.load(Ordering::Relaxed);
        let idle_s = now_ms.saturating_sub(used_ms) as f64 / 1_000.0;
        let uses = f64::from(self.uses.load(Ordering::Relaxed)) + f64::from(*right);
        (1.0 + uses) / (IDLE_S_MIN + idle_s)
    }
}

impl Entries {
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            draws: AtomicU64::new(0),
        }
    }

    fn shard(&self, id: EntryId) -> &RwLock<Shard> {
        let at = id.0 % self.shards.len() as u64;
        &self.shards[at as usize]
    }

    // Whoever panicked holding a lock here left at worst a count that is off.
    fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
        shard.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
        shard.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// `entry` has no vector. There is none of its name.
    pub fn put(&self, entry: Arc<Entry>, code: &Code, now_ms: u64) {
        let bytes = weight(&entry, code.components().len());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut shard = Self::write(self.shard(entry.id));
        let at = shard.slots.len() as u32;
        shard.at.insert(entry.id, at);
        shard.slots.push(Slot {
            entry,
            uses: AtomicU32::new(0),
            used_ms: AtomicU64::new(now_ms),
        });
    }

    pub fn take(&self, id: EntryId, dimensions: usize) -> Option<Arc<Entry>> {
        let mut shard = Self::write(self.shard(id));
        let at = shard.at.remove(&id)?;
        let slot = shard.slots.swap_remove(at as usize);
        if let Some(moved) = shard.slots.get(at as usize) {
            let moved = moved.entry.id;
            shard.at.insert(moved, at);
        }
        drop(shard);
        self.count.fetch_sub(1, Ordering::Relaxed);
        let bytes = weight(&slot.entry, dimensions);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(slot.entry)
    }

    pub fn find(&self, id: EntryId) -> Option<Arc<Entry>> {
        let shard = Self::read(self.shard(id));
        let at = shard.at.get(&id)?;
        Some(Arc::clone(&shard.slots[*at as usize].entry))
    }

    /// Notes that an entry was near enough to have been of use.
    pub fn touch(&self, id: EntryId, now_ms: u64) {
        let shard = Self::read(self.shard(id));
        if let Some(at) = shard.at.get(&id) {
            let slot = &shard.slots[*at as usize];
            slot.used_ms.store(now_ms, Ordering::Relaxed);
            slot.uses.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn learn(&self, id: EntryId, evidence: Evidence) {
        let mut shard = Self::write(self.shard(id));
        if let Some(at) = shard.at.get(&id).copied() {
            let slot = &mut shard.slots[at as usize];
            Arc::make_mut(&mut slot.entry).evidence = evidence;
        }
    }

    /// The names in one of the [`SHARDS`] parts for which `is_meant` says so.
    pub fn matching(&self, shard: usize, is_meant: impl Fn(&Entry) -> bool) -> Vec<EntryId> {
        let shard = Self::read(&self.shards[shard]);
        let entries = shard.slots.iter().map(|slot| &slot.entry);
        let meant = entries.filter(|entry| is_meant(entry));
        meant.map(|entry| entry.id).collect()
    }

    /// Of some entries the one that is of least use, `newest` only where there is no other.
    pub fn least_useful(&self, newest: EntryId, now_ms: u64) -> EntryId {
        let mut least = None;
        let look = |slot: &Slot, least: &mut Option<(f64, EntryId)>| {
            let usefulness = slot.usefulness(now_ms);
            let is_less = least.is_none_or(|(it, _)| usefulness < it);
            if slot.entry.id != newest && is_less {
                *least = Some((usefulness, slot.entry.id));
            }
        };
        for _ in 0..SAMPLES {
            let draw = self.draw();
            let shard = Self::read(&self.shards[draw as usize % SHARDS]);
            let at = (draw >> 8) as usize;
            if let Some(at) = at.checked_rem(shard.slots.len()) {
                look(&shard.slots[at], &mut least);
            }
        }
        if least.is_none() {
            // So few that none was drawn.
            for shard in &self.shards {
                let shard = Self::read(shard);
                shard.slots.iter().for_each(|it| look(it, &mut least));
            }
        }
        least.map_or(newest, |(_, id)| id)
    }

    /// SplitMix64: which entries are compared need not be unforeseeable.
    fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut it = self.draws.fetch_add(STEP, Ordering::Relaxed);
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }
}
