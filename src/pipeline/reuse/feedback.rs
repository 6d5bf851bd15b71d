//! What a caller says an answer was worth.

use std::sync::Arc;

use domain::{CacheAway, CacheKey, CacheOutcome, Entry, EntryId, Kept, Purge, RequestId, TeamId};

use super::learner::entry_id;
use super::{Traced, count, removed};
use crate::trunk::Pipeline;

/// Thumbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rating {
    Good,
    Bad,
}

impl Rating {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Rating::Good => "good",
            Rating::Bad => "bad",
        }
    }

    /// By what callers call it.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "good" | "up" | "thumbs_up" | "👍" => Some(Rating::Good),
            "bad" | "down" | "thumbs_down" | "👎" => Some(Rating::Bad),
            _ => None,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedbackTaken {
    /// Where the answer came from.
    pub outcome: CacheOutcome,
    /// False where the same request was rated before: the first word counts.
    pub is_new: bool,
    /// The reply answers nobody any more.
    pub is_removed: bool,
}

impl Pipeline {
    /// Takes a team's word on the answer to one of its latest requests; `None` where no such is
    /// remembered.
    pub async fn rate(
        &self,
        team: &TeamId,
        id: &RequestId,
        rating: Rating,
    ) -> Option<FeedbackTaken> {
        let works = self.works();
        let trace = works.traces.rate(id, team)?;
        let mut taken = FeedbackTaken {
            outcome: trace.outcome,
            is_new: !trace.is_rated,
            is_removed: false,
        };
        if trace.is_rated {
            return Some(taken);
        }
        let is_good = rating == Rating::Good;
        let core = works.reuse.as_ref().map(|reuse| reuse.core());
        if let Some(core) = core {
            count(match is_good {
                true => &core.counts.feedback_good,
                false => &core.counts.feedback_bad,
            });
        }
        let served = trace
            .nearest
            .filter(|_| trace.outcome == CacheOutcome::HitSemantic);
        let id = served.map_or_else(|| entry_id(&trace.key), |near| near.id);
        if let (Some(near), Some(core), Some(class)) = (served, core, trace.class) {
            core.acceptance().learn(class, &near.judgement, is_good);
        }
        match core {
            // A reply that was bad where it was asked for is none for others.
            Some(core) if served.is_none() && !is_good => {
                taken.is_removed = removed(core.remove(&Purge::Entry(id)).await);
            }
            Some(core) => {
                let kept_at = served.map(|near| near.kept_at);
                taken.is_removed = core.note(id, kept_at, is_good, None).await;
            }
            None => {}
        }
        if served.is_none() && !is_good {
            taken.is_removed |= works.cache.forget(&trace.key).await;
        }
        Some(taken)
    }

    /// What the cache did for one of the latest requests, of every team that used the id.
    #[must_use]
    pub fn traced(&self, id: &RequestId) -> Vec<Traced> {
        self.works().traces.shown(id)
    }

    /// Removes kept replies. Gives how many went of exact ones, and of those for other requests.
    ///
    /// # Errors
    /// Those that others keep cannot be reached. The rest went.
    pub async fn purge(&self, what: &Purge) -> Result<(u64, u64), CacheAway> {
        let works = self.works();
        let exact = works.cache.purge(what).await;
        let others = match &works.reuse {
            Some(reuse) => reuse.core().remove(what).await,
            None => Ok(0),
        };
        Ok((exact?, others?))
    }

    /// What a purge would take of exact replies, in order and after one of them: no more than `count`.
    ///
    /// # Errors
    /// Those that others keep cannot be reached.
    pub async fn kept(
        &self,
        what: &Purge,
        after: Option<CacheKey>,
        count: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, CacheAway> {
        self.works().cache.meant(what, after, count).await
    }

    /// The same of those for other requests.
    #[must_use]
    pub fn entries(&self, what: &Purge, after: Option<EntryId>, count: usize) -> Vec<Arc<Entry>> {
        match &self.works().reuse {
            Some(reuse) => reuse.core().index.meant(what, after, count),
            None => Vec::new(),
        }
    }

    /// What is kept for other requests, and what came of looking; `None` where nothing is.
    #[must_use]
    pub fn reuse_stats(&self) -> Option<(domain::ReuseStats, super::ReuseCounts)> {
        Some(self.works().reuse.as_ref()?.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbs_have_several_words() {
        for (word, rating) in [
            ("good", Some(Rating::Good)),
            ("thumbs_up", Some(Rating::Good)),
            ("down", Some(Rating::Bad)),
            ("👎", Some(Rating::Bad)),
            ("Good", None),
            ("", None),
        ] {
            assert_eq!(Rating::named(word), rating, "{word}");
        }
    }
}
