//! Keys of several replicas in one Postgres.
//!
//! ```text
//! a change here ─► SharedKeys ─► hedge.keys, generation + 1 ─► Bell ─ Redis ─► Bell of the others
//!                                        ▲                                        │ "look"
//!                 KeyFollower ─ which generation? all rows ─┘◄── every half second ──┘
//!                      └─► KeysHeard ─► whoever keeps the ring
//! ```
//! Whether something changed is one number, asked for every half second; what changed is read whole. Redis
//! only says when to look: a message that is lost costs half a second, and one that somebody else sends
//! costs a look.
//!
//! A change takes the row of the generation for itself until it is committed, so that two replicas change
//! one after the other, each going on from what the other one left.

mod bell;
mod follower;
mod place;
mod row;
mod shift;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub use follower::KeyFollower;
pub use place::SharedKeys;
pub use shift::{KeyShift, ShiftedKeys, shift_keys};

use super::kept::{KeyFault, Rows};
use super::secret::TagSecret;
use crate::{PostgresAddress, PostgresFault, RedisAddress};
use bell::Bell;

/// Between two looks whether something changed: how late a change arrives where nobody tells of it.
pub const KEYS_POLL_EVERY: Duration = Duration::from_millis(500);

/// What nobody has.
const NO_GENERATION: i64 = -1;

/// Where the keys are, and how changes are told.
#[derive(Clone)]
pub struct SharedKeyRules {
    pub postgres: PostgresAddress,
    /// Where Redis is, and what its names begin with. `None`: changes are found by looking.
    pub redis: Option<(RedisAddress, String)>,
    /// The secret of all keys, should there be none yet.
    pub fresh: [u8; 32],
}

/// What was heard last.
#[derive(Clone, Debug, Default)]
pub struct KeysHeard {
    /// `None` before the first look.
    pub is_away: Option<bool>,
    pub rows: Option<StampedRows>,
}

/// Rows, and of which turn of this replica's own they are.
#[derive(Clone, Debug)]
pub struct StampedRows {
    pub rows: Arc<Rows>,
    turn: u64,
}

/// How it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedKeyCounts {
    /// Postgres cannot be asked.
    pub is_apart: bool,
    /// How often it could not be asked any more.
    pub partings: u64,
    /// Redis tells of changes.
    pub is_told: bool,
}

/// What all parts know.
struct Common {
    address: PostgresAddress,
    fresh: [u8; 32],
    heard: watch::Sender<KeysHeard>,
    /// The generation that whoever keeps the ring has.
    known: AtomicI64,
    /// Rises with what this replica learns by a turn of its own: rows that were read before say less.
    turn: AtomicU64,
    /// The secret of the keys that are known here, once there are any.
    beginning: Mutex<Option<TagSecret>>,
    /// Somebody should look.
    look: Notify,
    /// The generation of the last change made here.
    made: watch::Sender<u64>,
    partings: AtomicU64,
    is_told: AtomicBool,
}

impl SharedKeys {
    /// The place, and the driver that hears of others' changes. `known` is what was last known.
    pub fn new(rules: SharedKeyRules, known: Option<&Rows>) -> (Self, KeyFollower) {
        let bell = rules.redis.as_ref();
        let bell = bell.map(|(redis, prefix)| Bell::new(redis.client(), prefix));
        let beginning = known.filter(|rows| rows.has_made);
        let common = Arc::new(Common {
            address: rules.postgres,
            fresh: rules.fresh,
            heard: watch::Sender::new(KeysHeard::default()),
            known: AtomicI64::new(NO_GENERATION),
            turn: AtomicU64::new(0),
            beginning: Mutex::new(beginning.map(|rows| rows.secret.clone())),
            look: Notify::new(),
            made: watch::Sender::new(0),
            partings: AtomicU64::new(0),
            is_told: AtomicBool::new(false),
        });
        let place = SharedKeys::of(Arc::clone(&common));
        (place, KeyFollower::new(common, bell))
    }
}

impl Common {
    fn is_away(&self) -> bool {
        self.heard.borrow().is_away.unwrap_or(true)
    }

    fn counts(&self) -> SharedKeyCounts {
        SharedKeyCounts {
            is_apart: self.is_away(),
            partings: self.partings.load(Ordering::Relaxed),
            is_told: self.is_told.load(Ordering::Relaxed),
        }
    }

    /// Keys do not begin anew unseen: an emptied database is not one without keys.
    fn accept(&self, rows: &Rows) -> Result<(), KeyFault> {
        let beginning = self.beginning.lock();
        let mut beginning = beginning.unwrap_or_else(PoisonError::into_inner);
        match &*beginning {
            Some(known) if !known.is(&rows.secret) => Err(KeyFault::OtherBeginning),
            Some(_) => Ok(()),
            None => {
                *beginning = rows.has_made.then(|| rows.secret.clone());
                Ok(())
            }
        }
    }

    fn is_begun(&self) -> bool {
        let beginning = self.beginning.lock();
        let beginning = beginning.unwrap_or_else(PoisonError::into_inner);
        beginning.is_some()
    }

    /// What is known here is of this generation now; rows that were being read meanwhile are older.
    fn turned(&self, generation: u64) {
        self.turn.fetch_add(1, Ordering::AcqRel);
        self.know(generation);
    }

    fn know(&self, generation: u64) {
        let generation = i64::try_from(generation).unwrap_or(NO_GENERATION);
        self.known.store(generation, Ordering::Release);
    }

    /// It is to be read again, whichever generation it is of.
    fn forget(&self) {
        self.known.store(NO_GENERATION, Ordering::Release);
        self.look.notify_one();
    }
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedKeyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeyRules")
            .field("postgres", &self.postgres)
            .field("redis", &self.redis)
            .finish_non_exhaustive()
    }
}

/// A fault of Postgres's in one line, with its cause.
fn cause(fault: &KeyFault) -> Option<String> {
    let fault = match fault {
        KeyFault::Postgres(fault) => fault,
        _ => return None,
    };
    std::error::Error::source(fault).map(ToString::to_string)
}

fn late() -> KeyFault {
    KeyFault::Postgres(PostgresFault::Late)
}
