//! The keys that requests are sealed to, one after the other.
//!
//! ```text
//! birth ── lead ──► in use ── every ──► the next is in use ──► end of life: wiped
//! ```
//!
//! They are random and in memory only. What is sealed to a key nobody opens after its life, not even
//! who takes the relay's machine then. A key is told of from its birth, so that edges have it when
//! it is in use. Time comes as an argument, and never goes back in here.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::CryptoRng;

use crate::key_config::KeyConfig;
use crate::sealed::{HeadRefused, RequestHead};
use crate::secret_key::SecretKey;
use crate::suite::{Ciphers, Kem};
use crate::time::UnixTime;

/// How long a key is what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingTimes {
    /// From one birth to the next.
    pub every: Duration,
    /// From birth to use.
    pub lead: Duration,
    /// From birth to end.
    pub life: Duration,
    /// From birth until its id may be another's.
    pub id_rest: Duration,
}

impl Default for RingTimes {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        Self {
            every: 60 * MINUTE,
            lead: 10 * MINUTE,
            life: 120 * MINUTE,
            id_rest: 24 * 60 * MINUTE,
        }
    }
}

/// Times that no ring can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    #[error("keys are not born at whole seconds of at least one")]
    Every,
    #[error("a key would end while it is in use")]
    Life,
    #[error("there are 256 key ids, and more would be needed at once")]
    Ids,
    #[error("a ring has at least one kind of key")]
    NoKem,
}

struct RingKey {
    config: KeyConfig,
    secret: Arc<SecretKey>,
    used_from: UnixTime,
    ends: UnixTime,
}

/// What may be told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    pub config: KeyConfig,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
}

/// The keys of one relay.
pub struct KeyRing {
    times: RingTimes,
    ciphers: Ciphers,
    kems: Vec<Kem>,
    /// Oldest first.
    keys: VecDeque<RingKey>,
    next_id: u8,
    next_birth: UnixTime,
    latest: UnixTime,
}

impl KeyRing {
    /// With first keys that are in use at once, of each of `kems`.
    ///
    /// # Errors
    /// Where the times cannot be kept.
    pub fn new<R: CryptoRng>(
        times: RingTimes,
        kems: &[Kem],
        ciphers: Ciphers,
        now: UnixTime,
        rng: &mut R,
    ) -> Result<Self, RingFault> {
        if kems.is_empty() {
            return Err(RingFault::NoKem);
        }
        if times.every.as_secs() == 0 {
            return Err(RingFault::Every);
        }
        if times.every + times.lead > times.life {
            return Err(RingFault::Life);
        }
        let resting = times
            .id_rest
            .max(times.life)
            .as_secs()
            .div_ceil(times.every.as_secs())
            + 1;
        if resting.saturating_mul(kems.len() as u64) > 256 {
            return Err(RingFault::Ids);
        }
        let mut kems = kems.to_vec();
        // As lists are written: X25519 first, X-Wing last.
        kems.sort_by_key(|kem| std::cmp::Reverse(*kem));
        kems.dedup();
        let mut ring = Self {
            times,
            ciphers,
            kems,
            keys: VecDeque::new(),
            next_id: rng.next_u32() as u8,
            next_birth: now,
            latest: now,
        };
        ring.turn(now, rng);
        Ok(ring)
    }

    /// Wipes what has ended, and makes what is due. To be called at [`next_turn`](Self::next_turn),
    /// or at any other time. Whether what is published is another now.
    pub fn turn<R: CryptoRng>(&mut self, now: UnixTime, rng: &mut R) -> bool {
        let before = self.in_use_since();
        self.latest = self.latest.max(now);
        let now = self.latest;
        let count = self.keys.len();
        self.keys.retain(|key| key.ends > now);
        let mut is_changed = self.keys.len() != count;
        let is_bare = self.in_use_since().is_none();
        if is_bare || now >= self.next_birth {
            let used_from = if is_bare {
                now
            } else {
                now.after(self.times.lead)
            };
            self.bear(used_from, rng);
            is_changed = true;
        }
        is_changed || self.in_use_since() != before
    }

    fn bear<R: CryptoRng>(&mut self, used_from: UnixTime, rng: &mut R) {
        for kem in self.kems.clone() {
            let secret = SecretKey::generate(kem, rng);
            self.keys.push_back(RingKey {
                config: KeyConfig::of(self.next_id, &secret, self.ciphers),
                secret: Arc::new(secret),
                used_from,
                ends: self.latest.after(self.times.life),
            });
            self.next_id = self.next_id.wrapping_add(1);
        }
        self.next_birth = self.latest.after(self.times.every);
    }

    /// When the next key is born, comes into use, or ends.
    pub fn next_turn(&self) -> UnixTime {
        let uses = self.keys.iter().map(|key| key.used_from);
        let ends = self.keys.iter().map(|key| key.ends);
        let ahead = uses.chain(ends).filter(|time| *time > self.latest);
        ahead.fold(self.next_birth, UnixTime::min)
    }

    /// The secret of the key that a request names.
    ///
    /// # Errors
    /// Where there is none, it has ended, or it was offered for other algorithms.
    pub fn find(&self, head: &RequestHead, now: UnixTime) -> Result<Arc<SecretKey>, HeadRefused> {
        let now = self.latest.max(now);
        let found = self.keys.iter().find(|key| key.config.id() == head.key_id);
        let key = found.ok_or(HeadRefused)?;
        let is_right = key.ends > now
            && key.config.kem() == head.suite.kem
            && key.config.aeads().contains(&head.suite.aead);
        is_right.then(|| Arc::clone(&key.secret)).ok_or(HeadRefused)
    }

    /// The keys in use, then those to come. Those that were in use before are still accepted, and
    /// nobody needs to be told.
    pub fn published(&self) -> Vec<PublishedKey> {
        let since = self.in_use_since();
        let keys = self.keys.iter().filter(|key| Some(key.used_from) >= since);
        keys.map(|key| PublishedKey {
            config: key.config.clone(),
            not_before: key.used_from,
            not_after: key.ends,
        })
        .collect()
    }

    /// The keys in use, as `application/ohttp-keys`: X25519 first, since some readers take the first
    /// entry, and X-Wing last, since others take the last.
    pub fn list(&self) -> Vec<u8> {
        let since = self.in_use_since();
        let keys = self.keys.iter().filter(|key| Some(key.used_from) == since);
        KeyConfig::write_list(keys.map(|key| &key.config))
    }

    /// Of the youngest keys that are in use.
    fn in_use_since(&self) -> Option<UnixTime> {
        let used = self.keys.iter().map(|key| key.used_from);
        used.filter(|used_from| *used_from <= self.latest).max()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.keys.iter().map(|key| key.config.id()).collect();
        f.debug_struct("KeyRing")
            .field("ids", &ids)
            .field("next_birth", &self.next_birth)
            .finish_non_exhaustive()
    }
}
