//! All keys of one moment, in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use domain::{KeyDigest, KeyDirectory, KeyTrouble, Limit, Principal};

use super::secret::{KeyTag, TagSecret};
use crate::static_keys::{StaticKeys, each_once};

const DAY_S: u64 = 86_400;

/// Says what time it is, in Unix seconds.
pub type UnixClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The last day on which a key was used, in days since 1970; 0: none is known. Shared by all rings that
/// the key is in.
#[derive(Debug, Default)]
pub struct UsedDay(AtomicU32);

impl UsedDay {
    #[must_use]
    pub fn new(day: Option<u32>) -> Self {
        Self(AtomicU32::new(day.unwrap_or(0)))
    }

    #[must_use]
    pub fn day(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|day| *day > 0)
    }

    /// To a day that is known from elsewhere. It never goes back.
    pub fn raise(&self, day: u32) {
        self.0.fetch_max(day, Ordering::Relaxed);
    }

    fn note(&self, now_s: u64) {
        let day = u32::try_from(now_s / DAY_S).unwrap_or(u32::MAX);
        // Written once a day and not with each request: others read it.
        if self.0.load(Ordering::Relaxed) < day {
            self.0.store(day, Ordering::Relaxed);
        }
    }
}

/// One key that opens, as long as it does.
#[derive(Clone, Debug)]
pub struct Held {
    pub tag: KeyTag,
    pub is_enabled: bool,
    /// Unix seconds: from then on it opens nothing. `None`: never.
    pub until_s: Option<u64>,
    pub principal: Principal,
    pub used: Arc<UsedDay>,
}

/// The configuration's keys, and those that were made here. Another takes its place when one of them
/// changes; this one never does, but for the days.
pub struct KeyRing {
    of_file: StaticKeys,
    is_required: bool,
    /// `None` where nothing was ever made.
    secret: Option<TagSecret>,
    /// By a part of their tag. Two with the same part stand one after the other.
    held: HashMap<u64, Vec<Held>>,
    clock: UnixClock,
}

impl KeyRing {
    #[must_use]
    pub fn new(of_file: StaticKeys, clock: UnixClock) -> Self {
        Self {
            is_required: of_file.is_required(),
            of_file,
            secret: None,
            held: HashMap::new(),
            clock,
        }
    }

    /// The same, which asks for a key even where it knows none that opens.
    #[must_use]
    pub fn requiring(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// The same with keys whose tags are of `secret`.
    #[must_use]
    pub fn with(mut self, secret: TagSecret, held: impl IntoIterator<Item = Held>) -> Self {
        self.secret = Some(secret);
        for key in held {
            self.held.entry(key.tag.place()).or_default().push(key);
        }
        self
    }
}

impl KeyDirectory for KeyRing {
    fn is_required(&self) -> bool {
        self.is_required
    }

    fn find(&self, digest: &KeyDigest) -> Result<Principal, KeyTrouble> {
        if let Ok(found) = self.of_file.find(digest) {
            return Ok(found);
        }
        let secret = self.secret.as_ref().ok_or(KeyTrouble::Unknown)?;
        let tag = secret.tag(digest);
        let near = self.held.get(&tag.place()).into_iter().flatten();
        // All of them are compared, whichever it is.
        let found = near.fold(None, |found, held| match held.tag.is(&tag) {
            true => Some(held),
            false => found,
        });
        let held = found.ok_or(KeyTrouble::Unknown)?;
        if !held.is_enabled {
            return Err(KeyTrouble::Disabled);
        }
        let now_s = (self.clock)();
        if held.until_s.is_some_and(|until| now_s >= until) {
            return Err(KeyTrouble::Expired);
        }
        held.used.note(now_s);
        Ok(held.principal.clone())
    }

    fn anyone(&self) -> Principal {
        self.of_file.anyone()
    }

    fn limits(&self) -> Vec<Limit> {
        let anyone = (!self.is_required).then(|| self.of_file.anyone());
        let held = self.held.values().flatten().map(|held| &held.principal);
        let of_file = self.of_file.principals();
        each_once(of_file.chain(held).chain(anyone.as_ref()))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("of_file", &self.of_file)
            .field("held", &self.held.values().map(Vec::len).sum::<usize>())
            .finish_non_exhaustive()
    }
}
