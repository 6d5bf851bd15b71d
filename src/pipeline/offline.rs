//! What becomes of an exchange while no public upstream can be reached.
//!
//! ```text
//! Planned ─ online, or not meant for one ─────────────────────────────► Planned
//!    └ offline ─┬ local ─► those on this machine and among ours, else all ─► Planned
//!               ├ queue ─► waits ─► online: planned anew ──────────────────► Planned
//!               │                └► still offline: as local, else refused
//!               └ refuse ─► refused
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::{Fault, Link, Trust};
use policy::{Plan, WhenOffline};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::Refusal;
use crate::snapshot::Snapshot;
use crate::stages::Planned;
use crate::trunk::{plan, refuse};
use crate::vitals::Ward;

/// What follows the rule's name in the reason.
const OFFLINE: &str = "offline";

/// The link, and how long requests may wait for it.
#[derive(Clone)]
pub struct OfflineRules {
    /// `None`: it is never down.
    link: Option<Arc<dyn Link>>,
    wait_max: Duration,
    /// One for each request that may wait at once; one more is treated as if it had waited.
    places: Arc<Semaphore>,
    /// What a refused caller is told to wait.
    retry_after: Duration,
}

impl OfflineRules {
    #[must_use]
    pub fn new(
        link: Arc<dyn Link>,
        wait_max: Duration,
        waiting_max: usize,
        retry_after: Duration,
    ) -> Self {
        Self {
            link: Some(link),
            wait_max,
            places: Arc::new(Semaphore::new(waiting_max.min(Semaphore::MAX_PERMITS))),
            retry_after,
        }
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_offline())
    }

    /// True when it is online by the end.
    async fn wait(&self) -> bool {
        let Some(link) = &self.link else {
            return true;
        };
        let Ok(_place) = self.places.try_acquire() else {
            return false;
        };
        timeout(self.wait_max, link.until_online()).await.is_ok()
    }
}

impl Default for OfflineRules {
    fn default() -> Self {
        Self {
            link: None,
            wait_max: Duration::ZERO,
            places: Arc::new(Semaphore::new(0)),
            retry_after: Duration::ZERO,
        }
    }
}

impl fmt::Debug for OfflineRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfflineRules")
            .field("is_offline", &self.is_offline())
            .field("wait_max", &self.wait_max)
            .finish_non_exhaustive()
    }
}

/// Whether an exchange is meant for an upstream out of reach.
pub(crate) fn concerns(planned: &Planned) -> bool {
    let snapshot = &planned.missed.admitted.snapshot;
    snapshot.offline().is_offline() && wants_public(&planned.plan, snapshot)
}

/// Changes an exchange that this concerns as its route says.
pub(crate) async fn pass(planned: Planned, ward: &Ward) -> Result<Planned, Refusal> {
    let snapshot = Arc::clone(&planned.missed.admitted.snapshot);
    let rules = snapshot.offline();
    match planned.plan.trouble.when_offline {
        WhenOffline::Local => Ok(among_ours(planned, &snapshot).unwrap_or_else(|planned| *planned)),
        WhenOffline::Refuse => Err(refused(planned, rules)),
        WhenOffline::Queue => {
            if rules.wait().await {
                return plan(planned.missed, ward);
            }
            among_ours(planned, &snapshot).map_err(|planned| refused(*planned, rules))
        }
    }
}

/// Whether the one meant to answer is a public upstream.
fn wants_public(plan: &Plan, snapshot: &Snapshot) -> bool {
    let first = plan.candidates.first().map(|it| it.backend);
    let wanted = plan.passed_over.first().copied().or(first);
    wanted.is_some_and(|backend| is_public(backend, snapshot))
}

fn is_public(backend: usize, snapshot: &Snapshot) -> bool {
    let backend = snapshot.backends().get(backend);
    backend.is_some_and(|it| it.card().trust == Trust::Public)
}

/// The plan without public upstreams; as it was where nobody is left.
fn among_ours(mut planned: Planned, snapshot: &Snapshot) -> Result<Planned, Box<Planned>> {
    let plan = &mut planned.plan;
    let ours = |backend: usize| !is_public(backend, snapshot);
    if !plan.candidates.iter().any(|it| ours(it.backend)) {
        return Err(Box::new(planned));
    }
    plan.candidates.retain(|it| ours(it.backend));
    // Why these were passed over is said already.
    plan.passed_over.retain(|backend| ours(*backend));
    for candidate in &mut plan.candidates {
        candidate.reason = format!("{}; {OFFLINE}", candidate.reason);
    }
    // The reply is a stand-in's.
    planned.missed.keeping = None;
    Ok(planned)
}

fn refused(mut planned: Planned, rules: &OfflineRules) -> Refusal {
    let reason = format!("{}; {OFFLINE}", planned.plan.rule);
    let receipt = &mut planned.missed.admitted.receipt;
    receipt.note(|record| record.reason.clone_from(&reason));
    let fault = Fault::Offline {
        retry_after: rules.retry_after,
    };
    refuse(receipt, fault, Some(reason))
}
