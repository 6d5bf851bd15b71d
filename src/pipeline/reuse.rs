//! Replies of other requests that may answer this one: looked for after an exact miss, learned from
//! after the reply.
//!
//! ```text
//! Missed ─compared─► text ─CacheEncoder─► vector ─ReplyIndex─► neighbours ─judge─► Acceptance
//!   │ incomparable, slow or broken: as before            serve ◄── shadow ──┴── miss
//!   ▼                                                      │         │           │
//! plan                                                  replay    plan, and   plan, and keep
//!                                                                 compare ─► Learner
//! ```
//! Nothing here fails a request: an encoder or an index that is slow, wrong or gone is a miss.

mod agree;
mod encoder;
mod feedback;
mod learner;
mod look_up;
mod removed;
mod trace;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{CacheAway, Purge, ReplyIndex, ReuseStats};
use policy::ReuseScope;
use policy::reuse::{Acceptance, AcceptanceRules, Guard, Scorer};
use tokio::sync::mpsc;

pub use encoder::CacheEncoder;
pub use feedback::{FeedbackTaken, Rating};
pub use learner::Learner;
use removed::Removed;
pub use trace::{Traced, TracedNeighbour};

pub(crate) use agree::{Likeness, has_equal_words, likeness};
pub(crate) use learner::{Check, Planting, Seed, Shadow};
pub(crate) use look_up::{Sought, look_up};
pub(crate) use trace::{Trace, Traces};

/// Replies that wait to be compared. One more is not, and nothing is learned from it.
const CHECKS_MAX: usize = 256;

/// How replies answer other requests than their own; of a snapshot.
#[derive(Clone, Debug)]
pub struct ReuseRules {
    pub encoder: Arc<CacheEncoder>,
    pub acceptance: AcceptanceRules,
    pub scope: ReuseScope,
    /// Teams, the first among them, whose replies must agree before one of them answers another's; counts
    /// where the scope is shared.
    pub writers_min: usize,
    /// Would-be hits are answered afresh and compared, all of them.
    pub is_dry: bool,
    /// How long a reply is kept by its question's class, where that is not the rest's time.
    pub ttl_by_class: BTreeMap<String, Duration>,
    /// How long looking for one may take. Reached: a miss.
    pub look_up_max: Duration,
    /// From the look-up's beginning to the first event of a hit, at least: where several teams share, so
    /// that the time does not tell what others asked.
    pub hit_pad: Duration,
}

/// What reuse remembers. Shared by all exchanges.
#[derive(Clone)]
pub struct Reuse {
    core: Arc<Core>,
    desk: mpsc::Sender<Box<Check>>,
}

pub(crate) struct Core {
    pub index: Arc<dyn ReplyIndex>,
    pub scorer: Scorer,
    acceptance: Mutex<Acceptance>,
    removed: Mutex<Removed>,
    pub counts: Counts,
}

impl Core {
    pub fn acceptance(&self) -> MutexGuard<'_, Acceptance> {
        self.acceptance
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn removed(&self) -> MutexGuard<'_, Removed> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what is meant, also of replies that wait to be compared. Gives how many entries went.
    ///
    /// # Errors
    /// Those that others keep cannot be reached.
    pub async fn remove(&self, what: &Purge) -> Result<u64, CacheAway> {
        self.removed().note(what);
        self.index.purge(what).await
    }

    /// To be found by a later process.
    pub fn save(&self) {
        let state = self.acceptance().to_bytes();
        self.index.save_state(state);
    }
}

/// Whether the entry that was meant went. Where others cannot be told yet, it did here.
fn removed(purged: Result<u64, CacheAway>) -> bool {
    !matches!(purged, Ok(0))
}

/// What came of looking, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub served: AtomicU64,
    pub missed: AtomicU64,
    pub shadowed: AtomicU64,
    /// Nothing was looked for: not a question to compare.
    pub unasked: AtomicU64,
    /// The encoder or the index did not answer in time, or not soundly.
    pub failed: AtomicU64,
    pub shadows_right: AtomicU64,
    pub shadows_wrong: AtomicU64,
    /// Checks that there was no room for.
    pub shadows_dropped: AtomicU64,
    pub feedback_good: AtomicU64,
    pub feedback_bad: AtomicU64,
    /// Best neighbours that a guard refused, by [`Guard::index`].
    pub refused: [AtomicU64; Guard::ALL.len()],
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The same, to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReuseCounts {
    pub served: u64,
    pub missed: u64,
    pub shadowed: u64,
    pub unasked: u64,
    pub failed: u64,
    pub shadows_right: u64,
    pub shadows_wrong: u64,
    pub shadows_dropped: u64,
    pub feedback_good: u64,
    pub feedback_bad: u64,
    refused: [u64; Guard::ALL.len()],
}

impl ReuseCounts {
    /// Look-ups whose best neighbour a guard refused, by the guard's name.
    pub fn refused_by(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Guard::ALL
            .iter()
            .map(|guard| (guard.as_label(), self.refused[guard.index()]))
    }
}

impl Reuse {
    /// With what an earlier process learned, and the driver that compares replies and saves what is
    /// learned of it.
    #[must_use]
    pub fn new(index: Arc<dyn ReplyIndex>, scorer: Scorer) -> (Self, Learner) {
        let learned = index.load_state();
        let learned = learned.and_then(|state| Acceptance::from_bytes(&state));
        let core = Arc::new(Core {
            index,
            scorer,
            acceptance: Mutex::new(learned.unwrap_or_default()),
            removed: Mutex::default(),
            counts: Counts::default(),
        });
        let (desk, inbox) = mpsc::channel(CHECKS_MAX);
        let learner = Learner::new(Arc::clone(&core), inbox);
        (Self { core, desk }, learner)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn desk(&self) -> mpsc::Sender<Box<Check>> {
        self.desk.clone()
    }

    #[must_use]
    pub fn stats(&self) -> (ReuseStats, ReuseCounts) {
        let counts = &self.core.counts;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = ReuseCounts {
            served: of(&counts.served),
            missed: of(&counts.missed),
            shadowed: of(&counts.shadowed),
            unasked: of(&counts.unasked),
            failed: of(&counts.failed),
            shadows_right: of(&counts.shadows_right),
            shadows_wrong: of(&counts.shadows_wrong),
            shadows_dropped: of(&counts.shadows_dropped),
            feedback_good: of(&counts.feedback_good),
            feedback_bad: of(&counts.feedback_bad),
            refused: std::array::from_fn(|at| of(&counts.refused[at])),
        };
        (self.core.index.stats(), counts)
    }
}

impl fmt::Debug for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reuse").finish_non_exhaustive()
    }
}
