//! Saved states of sequences that no slot holds any more, for prompts that begin alike.
//!
//! A state is found by the tokens it begins with: restored, it is cut to what a new prompt has in
//! common with it, and the rest is computed. So one that ends in another's question serves all
//! who share its system prompt. Where a memory cannot be cut, only a state whose whole is the
//! prompt's beginning serves.
//!
//! The store is bounded in bytes. What goes first is the least saved work: the tokens that no
//! other entry would save too, by how long ago they were of use. On disk (see [`disk`]) entries
//! outlive the process; they are written when it stops and read when a prompt asks for one.
//!
//! Not here: when to save and to restore, which the scheduler decides.

mod disk;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::TeamId;
use tracing::{info, warn};

use self::disk::{Disk, FileId, Kept, Key, Progress, Reading};
use crate::config::{EngineConfig, PrefixScope};
use crate::decoder::{Fingerprint, Token};
use crate::gallery::is_of_image;
use crate::slot::{common_prefix, count};

/// Fewer tokens are computed again sooner than they are saved, found or restored.
pub(crate) const PREFIX_TOKENS_MIN: u32 = 64;

/// Entries at once, whatever their size: each is compared with every new prompt.
pub(crate) const ENTRIES_MAX: usize = 256;

/// Saving must be this much cheaper than computing: most states are never asked for again. So it
/// adds at most 3 % to what a prompt costs.
const SAVE_WORTH: f64 = 32.0;
/// Restoring must be this much cheaper than computing.
const RESTORE_WORTH: f64 = 2.0;
/// Seconds per byte of copying a state before any was measured: 1 GB/s, memory never touched before.
const COPY_BYTE_S: f64 = 1e-9;
/// Seconds per byte of reading one from a disk and checking it: 250 MB/s.
pub(crate) const READ_BYTE_S: f64 = 4e-9;
/// Copies of fewer bytes say little about the rate.
const TELLING_BYTES: usize = 64 * 1024;
/// The share of a new measurement in the mean.
const WEIGHT: f64 = 0.2;

/// The part of [`crate::EngineConfig`] that the store goes by.
#[derive(Clone, Debug)]
pub(crate) struct PrefixRules {
    pub scope: PrefixScope,
    /// In memory, and as many on disk.
    pub bytes_max: usize,
    /// This model's own folder.
    pub dir: Option<PathBuf>,
    pub worth: Worth,
}

impl PrefixRules {
    pub(crate) fn of(config: &EngineConfig) -> Self {
        let bytes_max = config.prefix_bytes_max;
        let bytes_max = bytes_max.unwrap_or(EngineConfig::PREFIX_BYTES_DEFAULT_MAX);
        let dir = config.prefix_dir.as_ref();
        Self {
            scope: config.prefix_scope,
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            dir: dir.map(|dir| dir.join(folder(&config.name))),
            worth: Worth::Measured,
        }
    }
}

/// A model's name as that of a folder, which is never hidden and never another's parent.
fn folder(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let plain = name
        .chars()
        .map(|letter| if is_plain(letter) { letter } else { '_' });
    format!("m-{}", plain.collect::<String>())
}

/// Which states are worth their copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Those that take longer to compute than to copy, as measured.
    Measured,
    /// All: for tests, whose time stands still.
    Always,
}

/// Whose a state is, and what it was computed under: a digest under this node's key, so that no name
/// lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner([u8; 32]);

pub(crate) struct Prefixes {
    rules: PrefixRules,
    /// In order of owner, then of tokens: those that begin alike lie side by side.
    entries: Vec<Entry>,
    /// Counts prompts; the clock of ages.
    clock: u64,
    can_cut: bool,
    key: Key,
    disk: Option<Disk>,
    /// The file that is being read; one at a time.
    reading: Option<Reading>,
    /// Seconds per byte of copying a state; a moving mean.
    copy_byte_s: f64,
}

/// One state, in memory, on disk or both.
struct Entry {
    owner: Owner,
    tokens: Box<[Token]>,
    bytes: usize,
    memory: Option<Arc<Vec<u8>>>,
    file: Option<FileId>,
    /// Its file was read and its state not restored yet.
    is_on_trial: bool,
    /// When it last served, or was saved.
    used: u64,
}

/// A state that begins as a prompt does.
pub(crate) struct Found {
    pub state: Arc<Vec<u8>>,
    /// Tokens of the whole state.
    pub count: u32,
    /// Those that it has in common with the prompt.
    pub common: u32,
    file: Option<FileId>,
}

/// What a search came to.
pub(crate) enum Sought {
    Found(Found),
    /// It is being read from disk. To be asked for again.
    BeingRead,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub owner: Owner,
    /// The prompt but for its last token, which is always computed.
    pub prompt: &'a [Token],
    /// How much of it some slot holds already.
    pub held: u32,
    /// More than this no sequence can hold.
    pub count_max: u32,
    /// Seconds that computing a token takes, if known.
    pub token_s: Option<f64>,
    /// How much of a file may be read now.
    pub read_bytes_max: usize,
}

/// Where an entry's state is.
enum Fetched {
    Here(Arc<Vec<u8>>),
    BeingRead,
    /// Not where it was looked for. To be looked for again.
    Lost,
}

impl Prefixes {
    /// Reads what lies on disk, if anything shall. A folder that cannot be used is warned of, and
    /// gone without.
    pub(crate) fn open(rules: PrefixRules, fingerprint: Fingerprint, can_cut: bool) -> Self {
        let mut store = Self {
            entries: Vec::new(),
            clock: 0,
            can_cut,
            key: Key::random(),
            disk: None,
            reading: None,
            copy_byte_s: COPY_BYTE_S,
            rules,
        };
        let Some(dir) = store.rules.dir.clone().filter(|_| store.is_on()) else {
            return store;
        };
        match Disk::open(&dir, fingerprint, ENTRIES_MAX, store.rules.bytes_max) {
            Ok((disk, key, kept)) => {
                info!(entries = kept.len(), dir = %dir.display(), "prefixes are kept on disk");
                store.key = key;
                store.disk = Some(disk);
                store.take_in(kept);
            }
            Err(error) => {
                warn!(dir = %dir.display(), %error, "prefixes are not kept on disk");
            }
        }
        store
    }

    /// The longest unused come first.
    fn take_in(&mut self, kept: Vec<Kept>) {
        for kept in kept {
            self.clock += 1;
            self.insert(Entry {
                owner: Owner(kept.owner),
                tokens: kept.tokens.into(),
                bytes: kept.bytes,
                memory: None,
                file: Some(kept.file),
                is_on_trial: false,
                used: self.clock,
            });
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.rules.bytes_max > 0
    }

    pub(crate) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    pub(crate) fn owner(&self, team: Option<&TeamId>) -> Owner {
        let name = team.map_or("", TeamId::as_str).as_bytes();
        Owner(match (self.rules.scope, team) {
            (PrefixScope::Global, _) => self.key.tag(&[b"everybody"]),
            (PrefixScope::Team, Some(_)) => self.key.tag(&[b"team:", name]),
            (PrefixScope::Team, None) => self.key.tag(&[b"no team"]),
        })
    }

    /// The same, for what was computed under adapters that come to `meaning`.
    pub(crate) fn under(&self, owner: Owner, meaning: &[u8]) -> Owner {
        if meaning.is_empty() {
            return owner;
        }
        Owner(self.key.tag(&[b"under:", &owner.0, meaning]))
    }

    /// How many of `tokens` no entry would save.
    pub(crate) fn uncovered(&self, owner: Owner, tokens: &[Token]) -> u32 {
        let covered = self.best(owner, tokens).map_or(0, |(_, common)| common);
        count(tokens).saturating_sub(covered)
    }

    /// Whether a state of `bytes` is to be saved, for the sake of `gain` tokens. Makes room for it.
    pub(crate) fn admits(&mut self, gain: u32, bytes: usize, token_s: Option<f64>) -> bool {
        let fits = bytes > 0 && bytes <= self.rules.bytes_max;
        let pays = self.pays(gain, bytes, self.copy_byte_s * SAVE_WORTH, token_s);
        if !(fits && pays) {
            return false;
        }
        self.trim(self.rules.bytes_max - bytes, ENTRIES_MAX - 1);
        true
    }

    /// Whether `gain` tokens are computed in more time than `bytes` are copied to another sequence.
    pub(crate) fn pays_to_copy(&self, gain: u32, bytes: usize, token_s: Option<f64>) -> bool {
        bytes == 0 || self.pays(gain, bytes, self.copy_byte_s * RESTORE_WORTH, token_s)
    }

    /// Learns how long copying a state took.
    pub(crate) fn learn(&mut self, bytes: usize, took: Duration) {
        if bytes >= TELLING_BYTES {
            let each = took.as_secs_f64() / bytes as f64;
            self.copy_byte_s += WEIGHT * (each - self.copy_byte_s);
        }
    }

    /// Keeps the state of `tokens`. Entries that are its beginning say nothing more.
    pub(crate) fn put(&mut self, owner: Owner, tokens: &[Token], state: Vec<u8>) {
        if self.can_cut {
            self.entries.retain_mut(|entry| {
                if entry.owner == owner && tokens.starts_with(&entry.tokens) {
                    // Its file is worth keeping until the longer one has one.
                    entry.memory = None;
                }
                entry.is_anywhere()
            });
        }
        self.insert(Entry {
            owner,
            tokens: tokens.into(),
            bytes: state.len() + size_of_val(tokens),
            memory: Some(Arc::new(state)),
            file: None,
            is_on_trial: false,
            used: self.clock,
        });
        self.trim(self.rules.bytes_max, ENTRIES_MAX);
    }

    fn insert(&mut self, mut entry: Entry) {
        let key = (entry.owner, &*entry.tokens);
        match self.entries.binary_search_by(|other| other.key().cmp(&key)) {
            Ok(index) => {
                let other = &mut self.entries[index];
                entry.file = entry.file.or(other.file.take());
                entry.is_on_trial |= other.is_on_trial;
                *other = entry;
            }
            Err(index) => self.entries.insert(index, entry),
        }
    }

    /// The state that saves most of the prompt's computing beyond what is held, if it pays.
    pub(crate) fn find(&mut self, wanted: Wanted<'_>) -> Option<Sought> {
        self.clock += 1;
        loop {
            let (index, common) = self.best(wanted.owner, wanted.prompt)?;
            let entry = &mut self.entries[index];
            let (count, bytes) = (count(&entry.tokens), entry.bytes);
            let is_in_memory = entry.memory.is_some();
            let file = entry.file.filter(|_| !is_in_memory || entry.is_on_trial);
            if common >= PREFIX_TOKENS_MIN {
                // Also where a slot serves it: it is not forgotten while others ask for it.
                entry.used = self.clock;
            }
            let gain = common.saturating_sub(wanted.held);
            let read_byte_s = if is_in_memory { 0.0 } else { READ_BYTE_S };
            let byte_s = (self.copy_byte_s + read_byte_s) * RESTORE_WORTH;
            if gain < PREFIX_TOKENS_MIN
                || count > wanted.count_max
                || !self.pays(gain, bytes, byte_s, wanted.token_s)
            {
                return None;
            }
            match self.state(index, wanted.read_bytes_max) {
                Fetched::Here(state) => {
                    return Some(Sought::Found(Found {
                        state,
                        count,
                        common,
                        file,
                    }));
                }
                Fetched::BeingRead => return Some(Sought::BeingRead),
                Fetched::Lost => {}
            }
        }
    }

    /// Tells what became of what was found. A file is trusted again only after its state was
    /// restored, or one that ends the process would do so at every start.
    pub(crate) fn restored(&mut self, found: &Found, is_sound: bool) {
        if let (Some(file), Some(disk), true) = (found.file, &self.disk, is_sound) {
            disk.trust(file);
            if let Some(entry) = self.of_file(file) {
                entry.is_on_trial = false;
            }
        }
        if !is_sound {
            let is_it = |entry: &Entry| {
                let state = entry.memory.as_ref();
                let is_same = state.is_some_and(|state| Arc::ptr_eq(state, &found.state));
                is_same || (found.file.is_some() && entry.file == found.file)
            };
            while let Some(index) = self.entries.iter().position(is_it) {
                self.remove(index);
            }
        }
    }

    /// From memory, or from disk into memory: so much of it now. An entry that is lost is gone.
    fn state(&mut self, index: usize, bytes_max: usize) -> Fetched {
        let entry = &self.entries[index];
        if let Some(state) = &entry.memory {
            return Fetched::Here(Arc::clone(state));
        }
        let (Some(disk), Some(wanted)) = (&self.disk, entry.file) else {
            self.entries.remove(index);
            return Fetched::Lost;
        };
        // What somebody else asked for is read first.
        let reading = self.reading.take().or_else(|| disk.begin(wanted));
        let Some(mut reading) = reading else {
            self.entries.remove(index);
            return Fetched::Lost;
        };
        let file = reading.id();
        match reading.go_on(bytes_max) {
            Progress::Part => {
                self.reading = Some(reading);
                Fetched::BeingRead
            }
            Progress::Whole(state) => {
                let state = Arc::new(state);
                if let Some(entry) = self.of_file(file) {
                    entry.memory = Some(Arc::clone(&state));
                    entry.is_on_trial = true;
                    self.trim_memory(self.rules.bytes_max);
                }
                if file == wanted {
                    Fetched::Here(state)
                } else {
                    Fetched::Lost
                }
            }
            Progress::Lost => {
                self.entries.retain(|entry| entry.file != Some(file));
                Fetched::Lost
            }
        }
    }

    fn of_file(&mut self, file: FileId) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.file == Some(file))
    }

    /// The entry that has most in common with `prompt`; the cheapest of those that have as much.
    fn best(&self, owner: Owner, prompt: &[Token]) -> Option<(usize, u32)> {
        let entries = self.entries.iter().enumerate();
        let own = entries.filter(|(_, entry)| entry.owner == owner);
        let common = own.filter_map(|(index, entry)| {
            let common = common_prefix(&entry.tokens, prompt);
            let serves = common > 0 && (self.can_cut || common == count(&entry.tokens));
            let cost = (entry.memory.is_none(), entry.tokens.len());
            serves.then_some((index, common, Reverse(cost)))
        });
        let best = common.max_by_key(|(_, common, cheapness)| (*common, *cheapness));
        best.map(|(index, common, _)| (index, common))
    }

    fn pays(&self, gain: u32, bytes: usize, byte_s: f64, token_s: Option<f64>) -> bool {
        self.rules.worth == Worth::Always
            || token_s.is_none_or(|token_s| f64::from(gain) * token_s >= bytes as f64 * byte_s)
    }

    /// What would be lost with the entry: tokens that no neighbour has too, less with every prompt
    /// since it was of use.
    fn worth(&self, index: usize) -> f64 {
        let entry = &self.entries[index];
        let near = [index.checked_sub(1), index.checked_add(1)];
        let near = near
            .into_iter()
            .flatten()
            .filter_map(|at| self.entries.get(at));
        let covered = near
            .filter(|other| other.owner == entry.owner)
            .map(|other| common_prefix(&entry.tokens, &other.tokens))
            .max();
        let own = count(&entry.tokens).saturating_sub(covered.unwrap_or(0));
        let age = self.clock.saturating_sub(entry.used);
        f64::from(own) / (1.0 + age as f64)
    }

    fn least_of(&self, is_asked: impl Fn(&Entry) -> bool) -> Option<usize> {
        let asked = (0..self.entries.len()).filter(|index| is_asked(&self.entries[*index]));
        asked.min_by(|one, other| {
            let (one, other) = (*one, *other);
            let by_worth = self.worth(one).total_cmp(&self.worth(other));
            by_worth.then(self.entries[one].used.cmp(&self.entries[other].used))
        })
    }

    fn trim(&mut self, bytes_max: usize, entries_max: usize) {
        self.trim_memory(bytes_max);
        while self.entries.len() > entries_max
            && let Some(index) = self.least_of(|_| true)
        {
            self.remove(index);
        }
    }

    fn trim_memory(&mut self, bytes_max: usize) {
        while self.memory_bytes() > bytes_max
            && let Some(index) = self.least_of(|entry| entry.memory.is_some())
        {
            self.entries[index].memory = None;
            if self.entries[index].file.is_none() {
                self.entries.remove(index);
            }
        }
    }

    fn remove(&mut self, index: usize) {
        let entry = self.entries.remove(index);
        if let (Some(file), Some(disk)) = (entry.file, &self.disk) {
            disk.remove(file);
        }
    }

    fn memory_bytes(&self) -> usize {
        let held = self.entries.iter().filter(|entry| entry.memory.is_some());
        held.map(|entry| entry.bytes).sum()
    }

    /// Writes to disk what is not there, most saved work first, until `is_late`.
    pub(crate) fn write(&mut self, is_late: &dyn Fn() -> bool) {
        if self.disk.is_none() {
            return;
        }
        while self.entries.iter().map(|entry| entry.bytes).sum::<usize>() > self.rules.bytes_max
            && let Some(index) = self.least_of(|_| true)
        {
            self.remove(index);
        }
        let mut order: Vec<usize> = (0..self.entries.len())
            .filter(|index| {
                let entry = &self.entries[*index];
                // An image's tokens mean something to this process only.
                entry.file.is_none() && !entry.tokens.iter().any(|token| is_of_image(*token))
            })
            .collect();
        order.sort_by(|one, other| self.worth(*other).total_cmp(&self.worth(*one)));
        let wanted = order.len();
        let mut written = 0;
        for index in order {
            if is_late() {
                break;
            }
            match self.write_one(index, is_late) {
                Ok(true) => written += 1,
                Ok(false) => break,
                Err(error) => {
                    warn!(%error, "a prefix was not written");
                    break;
                }
            }
        }
        self.remove_covered();
        info!(written, wanted, "prefixes written");
    }

    /// False when it became late.
    fn write_one(&mut self, index: usize, is_late: &dyn Fn() -> bool) -> std::io::Result<bool> {
        let entry = &mut self.entries[index];
        let (Some(disk), Some(state)) = (&self.disk, &entry.memory) else {
            return Ok(true);
        };
        entry.file = disk.write(entry.owner.0, &entry.tokens, state, is_late)?;
        Ok(entry.file.is_some())
    }

    /// Files that are the beginning of another say nothing more.
    fn remove_covered(&mut self) {
        let is_covered = |pair: &[Entry]| {
            pair[0].owner == pair[1].owner
                && pair[1].file.is_some()
                && pair[1].tokens.starts_with(&pair[0].tokens)
        };
        for index in (1..self.entries.len()).rev() {
            if self.can_cut && is_covered(&self.entries[index - 1..=index]) {
                self.remove(index - 1);
            }
        }
    }
}

impl Entry {
    fn key(&self) -> (Owner, &[Token]) {
        (self.owner, &self.tokens)
    }

    fn is_anywhere(&self) -> bool {
        self.memory.is_some() || self.file.is_some()
    }
}
