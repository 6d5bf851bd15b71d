//! Which models are in memory: every decision, and none of the doing.
//!
//! A value that is told what happened and when, and says what is to be done. Requests hold a model
//! from when they come to when their reply ends; one that is held is never unloaded.
//!
//! ```text
//! Unloaded ─► Loading ─► Loaded ─► Unloading ─► Unloaded
//!                └─────► Failed ─(after a while)─► Unloaded
//! ```

use std::fmt;
use std::time::{Duration, Instant};

/// After this a model that could not be loaded is tried again, if a request comes for it.
pub const RETRY_AFTER: Duration = Duration::from_secs(30);
/// What a load is expected to take before one was timed, beside the reading of its bytes.
const LOAD_LEAST: Duration = Duration::from_secs(1);
/// Bytes that a slow disk reads in a second.
const READ_BYTES_PER_S: u64 = 500 * 1024 * 1024;

/// What is known of a model before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub name: String,
    /// Foretold, in bytes.
    pub need: u64,
    pub is_loaded_at_start: bool,
    /// `None`: it stays.
    pub keep_alive: Option<Duration>,
}

/// Why a model is unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Idle,
    /// Another needs its memory.
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Unloaded,
    Loading {
        since: Instant,
    },
    Loaded,
    Unloading,
    /// `None`: not to be tried again.
    Failed {
        retry_at: Option<Instant>,
    },
}

/// What is to be done about the model of that index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Load(usize),
    Unload(usize, Cause),
}

/// Why a request cannot wait for its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It could not be loaded a moment ago, or for good.
    Failed,
    /// It would not fit beside those that stay.
    TooLarge(Shortage),
}

/// Why a model does not fit, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub needs: u64,
    pub budget: u64,
    /// Who has the rest, and how much.
    pub in_use: Vec<(String, u64)>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self
            .in_use
            .iter()
            .map(|(_, bytes)| *bytes)
            .fold(0, u64::saturating_add);
        write!(
            f,
            "it needs {}, local.memory_bytes_max is {} and {} of it is in use",
            mebibytes(self.needs),
            mebibytes(self.budget),
            mebibytes(used)
        )?;
        for (at, (name, bytes)) in self.in_use.iter().enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            write!(f, "{before}{name} {}", mebibytes(*bytes))?;
        }
        Ok(())
    }
}

/// As operators read it.
#[must_use]
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}

#[derive(Clone, Debug)]
struct Entry {
    terms: Terms,
    state: State,
    /// Requests under way, and those that wait for it.
    holds: u32,
    /// Since when it is wanted and not on its way.
    wanted_since: Option<Instant>,
    used_at: Instant,
    load_took: Option<Duration>,
}

impl Entry {
    fn is_in_memory(&self) -> bool {
        match self.state {
            State::Loading { .. } | State::Loaded | State::Unloading => true,
            State::Unloaded | State::Failed { .. } => false,
        }
    }

    fn is_idle(&self) -> bool {
        self.state == State::Loaded && self.holds == 0
    }

    /// When it is unloaded if nobody comes; `None` while it is held, and if it stays.
    fn leaves_at(&self) -> Option<Instant> {
        let keep_alive = self.terms.keep_alive.filter(|_| self.is_idle())?;
        Some(self.used_at + keep_alive)
    }

    /// It is in memory to stay, or is to be from the start.
    fn stays(&self) -> bool {
        let is_expected = self.terms.is_loaded_at_start && self.wanted_since.is_some();
        self.terms.keep_alive.is_none() && (self.is_in_memory() || is_expected)
    }
}

/// The models of a node, in the order of their indices.
#[derive(Clone, Debug)]
pub struct Registry {
    budget: u64,
    entries: Vec<Entry>,
}

impl Registry {
    /// Those that are loaded at the start are wanted from `now` on.
    #[must_use]
    pub fn new(budget: u64, models: impl IntoIterator<Item = Terms>, now: Instant) -> Self {
        let entry = |terms: Terms| Entry {
            wanted_since: terms.is_loaded_at_start.then_some(now),
            terms,
            state: State::Unloaded,
            holds: 0,
            used_at: now,
            load_took: None,
        };
        Self {
            budget,
            entries: models.into_iter().map(entry).collect(),
        }
    }

    #[must_use]
    pub fn budget(&self) -> u64 {
        self.budget
    }

    #[must_use]
    pub fn state(&self, model: usize) -> State {
        self.entries[model].state
    }

    #[must_use]
    pub fn holds(&self, model: usize) -> u32 {
        self.entries[model].holds
    }

    #[must_use]
    pub fn terms(&self, model: usize) -> &Terms {
        &self.entries[model].terms
    }

    #[must_use]
    pub fn idle_since(&self, model: usize) -> Option<Instant> {
        let entry = &self.entries[model];
        entry.is_idle().then_some(entry.used_at)
    }

    #[must_use]
    pub fn leaves_at(&self, model: usize) -> Option<Instant> {
        self.entries[model].leaves_at()
    }

    /// Foretold bytes of all that is in memory, or on its way in or out.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.sum(Entry::is_in_memory)
    }

    fn sum(&self, counts: impl Fn(&Entry) -> bool) -> u64 {
        let entries = self.entries.iter().filter(|entry| counts(entry));
        entries
            .map(|entry| entry.terms.need)
            .fold(0, u64::saturating_add)
    }

    /// What a caller is told to wait while the model is loaded.
    #[must_use]
    pub fn load_wait(&self, model: usize, now: Instant) -> Duration {
        let entry = &self.entries[model];
        let reading = Duration::from_secs(entry.terms.need / READ_BYTES_PER_S);
        let took = entry.load_took.unwrap_or(LOAD_LEAST + reading);
        let passed = match entry.state {
            State::Loading { since } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        took.saturating_sub(passed).max(LOAD_LEAST)
    }

    /// A request comes. It is to be told of again by [`Registry::release`].
    ///
    /// # Errors
    /// It need not wait; and nothing is held.
    pub fn hold(&mut self, model: usize, now: Instant) -> Result<(), Denied> {
        if let State::Failed { retry_at } = self.entries[model].state {
            if retry_at.is_none_or(|at| now < at) {
                return Err(Denied::Failed);
            }
            self.entries[model].state = State::Unloaded;
        }
        if let Some(shortage) = self.never_fits(model) {
            return Err(Denied::TooLarge(shortage));
        }
        let entry = &mut self.entries[model];
        entry.holds += 1;
        entry.used_at = now;
        if matches!(entry.state, State::Unloaded | State::Unloading) {
            entry.wanted_since.get_or_insert(now);
        }
        Ok(())
    }

    /// A reply ended, or a request waits no longer. True when something may be to do now.
    pub fn release(&mut self, model: usize, now: Instant) -> bool {
        let entry = &mut self.entries[model];
        entry.holds = entry.holds.saturating_sub(1);
        entry.used_at = now;
        if entry.holds > 0 {
            return false;
        }
        if !entry.terms.is_loaded_at_start || entry.load_took.is_some() {
            // Nobody is left to load it for.
            entry.wanted_since = None;
        }
        entry.terms.keep_alive.is_some() || entry.state != State::Loaded
    }

    pub fn loaded(&mut self, model: usize, now: Instant) {
        let entry = &mut self.entries[model];
        if let State::Loading { since } = entry.state {
            entry.load_took = Some(now.saturating_duration_since(since));
        }
        entry.state = State::Loaded;
        entry.used_at = now;
    }

    pub fn failed(&mut self, model: usize, now: Instant, may_retry: bool) {
        let entry = &mut self.entries[model];
        entry.wanted_since = None;
        entry.state = State::Failed {
            retry_at: may_retry.then_some(now + RETRY_AFTER),
        };
    }

    pub fn unloaded(&mut self, model: usize) {
        self.entries[model].state = State::Unloaded;
    }

    /// What is to be done now. It counts as begun.
    pub fn decide(&mut self, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        for model in 0..self.entries.len() {
            let is_over = self.entries[model].leaves_at().is_some_and(|at| at <= now);
            if is_over {
                self.unload(model, Cause::Idle, &mut acts);
            }
        }
        // In the order they were asked for: a large one must not wait for ever for small ones.
        let mut wanted: Vec<(Instant, usize)> = (0..self.entries.len())
            .filter(|model| self.entries[*model].state == State::Unloaded)
            .filter_map(|model| Some((self.entries[model].wanted_since?, model)))
            .collect();
        wanted.sort();
        for (_, model) in wanted {
            if !self.make_room(model, &mut acts) {
                break;
            }
            let entry = &mut self.entries[model];
            entry.state = State::Loading { since: now };
            entry.wanted_since = None;
            acts.push(Act::Load(model));
        }
        acts
    }

    /// True when `model` fits now. Else others begin to leave, where that helps: those first that
    /// were not asked for longest.
    fn make_room(&mut self, model: usize, acts: &mut Vec<Act>) -> bool {
        let fits = |used: u64| used.saturating_add(self.entries[model].terms.need) <= self.budget;
        if fits(self.in_use()) {
            return true;
        }
        let mut left = self.sum(|entry| entry.is_in_memory() && entry.state != State::Unloading);
        let mut idle: Vec<usize> = (0..self.entries.len())
            .filter(|other| {
                let other = &self.entries[*other];
                other.is_idle() && other.terms.keep_alive.is_some()
            })
            .collect();
        idle.sort_by_key(|other| self.entries[*other].used_at);
        let mut leaving = Vec::new();
        for other in idle {
            if fits(left) {
                break;
            }
            left = left.saturating_sub(self.entries[other].terms.need);
            leaving.push(other);
        }
        if fits(left) {
            for other in leaving {
                self.unload(other, Cause::Memory, acts);
            }
        }
        false
    }

    fn unload(&mut self, model: usize, cause: Cause, acts: &mut Vec<Act>) {
        self.entries[model].state = State::Unloading;
        acts.push(Act::Unload(model, cause));
    }

    /// When [`Registry::decide`] has something to do though nothing happened.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.entries.iter().filter_map(Entry::leaves_at).min()
    }

    /// Why `model` cannot be had, however long one waits: it is too large for what those that stay
    /// leave of the budget.
    #[must_use]
    pub fn never_fits(&self, model: usize) -> Option<Shortage> {
        self.shortage(model, Entry::stays)
    }

    /// Why `model` does not fit as things are now.
    #[must_use]
    pub fn does_not_fit(&self, model: usize) -> Option<Shortage> {
        self.shortage(model, Entry::is_in_memory)
    }

    fn shortage(&self, model: usize, counts: impl Fn(&Entry) -> bool) -> Option<Shortage> {
        let entry = &self.entries[model];
        if entry.is_in_memory() {
            return None;
        }
        let others = self.entries.iter().enumerate();
        let others = others.filter(|(other, entry)| *other != model && counts(entry));
        let in_use: Vec<(String, u64)> = others
            .map(|(_, other)| (other.terms.name.clone(), other.terms.need))
            .collect();
        let used = in_use
            .iter()
            .map(|(_, bytes)| *bytes)
            .fold(0, u64::saturating_add);
        let needs = entry.terms.need;
        (used.saturating_add(needs) > self.budget).then_some(Shortage {
            needs,
            budget: self.budget,
            in_use,
        })
    }
}

/// The first model that does not fit beside those before it, of those that are to be loaded at the
/// start: by its index.
#[must_use]
pub fn first_without_room(budget: u64, models: &[Terms]) -> Option<(usize, Shortage)> {
    let mut in_use: Vec<(String, u64)> = Vec::new();
    let mut used = 0_u64;
    for (at, terms) in models.iter().enumerate() {
        if !terms.is_loaded_at_start {
            continue;
        }
        if used.saturating_add(terms.need) > budget {
            let shortage = Shortage {
                needs: terms.need,
                budget,
                in_use,
            };
            return Some((at, shortage));
        }
        used = used.saturating_add(terms.need);
        in_use.push((terms.name.clone(), terms.need));
    }
    None
}

#[cfg(test)]
mod tests;
