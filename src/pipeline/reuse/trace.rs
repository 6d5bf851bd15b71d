//! What the cache did for the latest requests, by their ids: for feedback, and for whoever asks why.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use domain::{CacheKey, CacheOutcome, Compartment, EntryId, RequestId, TeamId};
use policy::reuse::{Class, Company, Judgement, Verdict};

/// Requests that are remembered; the oldest goes first.
const TRACES_MAX: usize = 4_096;

/// Bytes of a request's id up to which it is remembered, those of `x-request-id` with room to spare.
const ID_BYTES_MAX: usize = 256;

/// What became of one request. No text of it.
#[derive(Clone)]
pub(crate) struct Trace {
    /// Under which its own reply is kept.
    pub key: CacheKey,
    pub outcome: CacheOutcome,
    /// Why it was compared with no other.
    pub why_not: Option<&'static str>,
    pub compartment: Option<Compartment>,
    pub class: Option<Class>,
    pub nearest: Option<Nearest>,
    /// Somebody said already what the answer was worth.
    pub is_rated: bool,
}

/// The neighbour that was judged best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nearest {
    pub id: EntryId,
    /// When the entry's reply was made.
    pub kept_at: SystemTime,
    pub company: Company,
    pub judgement: Judgement,
    pub verdict: Verdict,
}

impl Trace {
    pub fn new(key: CacheKey, outcome: CacheOutcome) -> Self {
        Self {
            key,
            outcome,
            why_not: None,
            compartment: None,
            class: None,
            nearest: None,
            is_rated: false,
        }
    }
}

/// Those of the latest requests.
#[derive(Default)]
pub(crate) struct Traces(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    by_id: HashMap<(RequestId, TeamId), Trace>,
    order: VecDeque<(RequestId, TeamId)>,
}

impl Traces {
    pub fn put(&self, id: &RequestId, team: &TeamId, trace: Trace) {
        if id.as_str().len() > ID_BYTES_MAX {
            return;
        }
        let mut latest = self.lock();
        let name = (id.clone(), team.clone());
        // An id that a caller uses twice is its latest request's.
        if latest.by_id.insert(name.clone(), trace).is_some() {
            return;
        }
        latest.order.push_back(name);
        if latest.order.len() > TRACES_MAX
            && let Some(oldest) = latest.order.pop_front()
        {
            latest.by_id.remove(&oldest);
        }
    }

    /// What became of this team's request; the first who asks so with `rates` rates it.
    pub fn rate(&self, id: &RequestId, team: &TeamId) -> Option<Trace> {
        let mut latest = self.lock();
        let trace = latest.by_id.get_mut(&(id.clone(), team.clone()))?;
        let before = trace.clone();
        trace.is_rated = true;
        Some(before)
    }

    /// Of every team that used this id.
    pub fn shown(&self, id: &RequestId) -> Vec<Traced> {
        let latest = self.lock();
        let of_id = latest.by_id.iter().filter(|((known, _), _)| known == id);
        let mut shown: Vec<_> = of_id.map(|((_, team), it)| it.shown(team)).collect();
        shown.sort_by(|a, b| a.team.cmp(&b.team));
        shown
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traces({})", self.lock().order.len())
    }
}

/// What is shown of one request, without text.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    pub team: TeamId,
    /// By [`CacheOutcome::as_label`].
    pub outcome: &'static str,
    /// Why it was compared with no other; `None` where it was.
    pub why_not: Option<&'static str>,
    /// The beginning of its digest.
    pub compartment: Option<String>,
    pub class: Option<&'static str>,
    pub neighbour: Option<TracedNeighbour>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TracedNeighbour {
    /// In hexadecimal.
    pub entry: String,
    pub similarity: f32,
    pub probability_same: f32,
    /// Others near the question whose replies say the same, and whose do not.
    pub alike: u8,
    pub other: u8,
    /// What refused it, whatever its similarity.
    pub guard: Option<&'static str>,
    /// `serve`, `shadow` or `miss`.
    pub verdict: &'static str,
}

impl Trace {
    fn shown(&self, team: &TeamId) -> Traced {
        let neighbour = self.nearest.map(|near| TracedNeighbour {
            entry: format!("{:016x}", near.id.0),
            similarity: near.judgement.similarity,
            probability_same: near.judgement.probability_same,
            alike: near.company.alike,
            other: near.company.other,
            guard: near.judgement.refusal.map(|guard| guard.as_label()),
            verdict: match near.verdict {
                Verdict::Serve => "serve",
                Verdict::Shadow => "shadow",
                Verdict::Miss => "miss",
            },
        });
        Traced {
            team: team.clone(),
            outcome: self.outcome.as_label(),
            why_not: self.why_not,
            compartment: self.compartment.as_ref().map(Compartment::short),
            class: self.class.map(Class::as_label),
            neighbour,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_requests_are_remembered_by_team() {
        let traces = Traces::default();
        let trace = || Trace::new(CacheKey([0; 32]), CacheOutcome::Missed);
        for at in 0..TRACES_MAX + 2 {
            traces.put(&format!("r-{at}").as_str().into(), &"red".into(), trace());
        }
        let known = |id: &str, team: &str| traces.rate(&id.into(), &team.into()).is_some();
        assert!(!known("r-0", "red") && !known("r-1", "red") && known("r-2", "red"));
        assert!(!known("r-2", "blue"));
        // The same id again does not push others out.
        for _ in 0..TRACES_MAX {
            traces.put(&"r-9".into(), &"red".into(), trace());
        }
        assert!(known("r-3", "red"));
        let long = "x".repeat(ID_BYTES_MAX + 1);
        traces.put(&long.as_str().into(), &"red".into(), trace());
        assert!(!known(&long, "red"));
    }

    #[test]
    fn a_request_is_rated_once() {
        let traces = Traces::default();
        let (id, team) = ("r".into(), "red".into());
        traces.put(
            &id,
            &team,
            Trace::new(CacheKey([0; 32]), CacheOutcome::Missed),
        );
        assert!(!traces.rate(&id, &team).unwrap().is_rated);
        assert!(traces.rate(&id, &team).unwrap().is_rated);
    }
}
