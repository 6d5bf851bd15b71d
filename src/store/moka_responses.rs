//! Responses that callers go on from, in memory, weighed by bytes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::{ResponseShelf, StoredResponse, Subject, TeamId};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::OVERHEAD_BYTES;

/// Responses within a bound of bytes, each until nobody asked for it for a time. When the bound is
/// reached, those asked for longest ago go first: a conversation asks for all its responses with each
/// turn. A response larger than the whole bound is not kept.
#[derive(Clone)]
pub struct MokaResponses {
    cache: Cache<(TeamId, Arc<str>), Arc<StoredResponse>>,
}

impl fmt::Debug for MokaResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MokaResponses")
            .field("entries", &self.cache.entry_count())
            .field("bytes", &self.cache.weighted_size())
            .finish()
    }
}

impl MokaResponses {
    /// Keeps at most about `bytes_max`, counting [`OVERHEAD_BYTES`] for each response, and each for
    /// `ttl` after it was last asked for.
    #[must_use]
    pub fn new(bytes_max: u64, ttl: Duration) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, response: &Arc<StoredResponse>| {
                u32::try_from(response.bytes() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            // The newest is what a conversation goes on from; the default policy would rather keep
            // what was read often.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(ttl)
            .build();
        Self { cache }
    }

    /// Does the housekeeping that is due now rather than with some later call, so that the counts in
    /// `Debug` and the bound are exact.
    pub fn settle(&self) {
        self.cache.run_pending_tasks();
    }

    /// The bytes kept, as of the last housekeeping.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}

impl ResponseShelf for MokaResponses {
    fn keep(&self, team: &TeamId, response: StoredResponse) {
        let key = (team.clone(), Arc::from(response.id.as_str()));
        self.cache.insert(key, Arc::new(response));
    }

    fn find(&self, team: &TeamId, id: &str) -> Option<Arc<StoredResponse>> {
        self.cache.get(&(team.clone(), Arc::from(id)))
    }

    fn remove(&self, team: &TeamId, id: &str) -> bool {
        self.cache.remove(&(team.clone(), Arc::from(id))).is_some()
    }

    fn of_subject(
        &self,
        subject: &Subject,
        after: Option<(TeamId, String)>,
        count: usize,
    ) -> Vec<(TeamId, Arc<StoredResponse>)> {
        let after = after.map(|(team, id)| (team, Arc::from(id)));
        let theirs = self.cache.iter().filter(|(key, response)| {
            after.as_ref().is_none_or(|after| **key > *after) && response.is_of(subject, &key.0)
        });
        let mut theirs: Vec<_> = theirs.collect();
        theirs.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        theirs.truncate(count);
        let theirs = theirs.into_iter();
        theirs
            .map(|(key, response)| (key.0.clone(), response))
            .collect()
    }

    fn forget(&self, subject: &Subject) -> u64 {
        let theirs = self.cache.iter();
        let theirs = theirs.filter(|(key, response)| response.is_of(subject, &key.0));
        let keys: Vec<_> = theirs.map(|(key, _)| key).collect();
        let gone = keys
            .iter()
            .filter(|key| self.cache.remove(&***key).is_some());
        gone.count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_response_shelf, response_of};

    const HOUR: Duration = Duration::from_secs(3600);

    fn shelf(bytes_max: u64) -> (MokaResponses, TeamId) {
        (MokaResponses::new(bytes_max, HOUR), TeamId::new("team"))
    }

    #[test]
    fn it_keeps_the_contract_of_a_shelf() {
        check_response_shelf(&MokaResponses::new(1 << 20, HOUR));
    }

    #[test]
    fn what_was_asked_for_longest_ago_goes_first() {
        let (shelf, team) = shelf(8 * 2048);
        shelf.keep(&team, response_of("first", &"x".repeat(1024)));
        shelf.keep(&team, response_of("second", &"x".repeat(1024)));
        for turn in 0..100 {
            shelf.keep(&team, response_of(&turn.to_string(), &"x".repeat(1024)));
            shelf.settle();
            assert!(shelf.find(&team, "first").is_some(), "{turn}");
            assert!(shelf.find(&team, &turn.to_string()).is_some(), "{turn}");
            assert!(shelf.bytes() <= 8 * 2048, "{} bytes", shelf.bytes());
        }
        assert!(shelf.find(&team, "second").is_none());
    }

    #[test]
    fn a_response_larger_than_the_bound_is_not_kept() {
        let (shelf, team) = shelf(1024);
        shelf.keep(&team, response_of("a", &"x".repeat(4096)));
        shelf.settle();
        assert!(shelf.find(&team, "a").is_none());
        assert_eq!(shelf.bytes(), 0);
    }

    #[test]
    fn one_that_nobody_may_keep_for_any_time_is_not_found() {
        let shelf = MokaResponses::new(1 << 20, Duration::from_nanos(1));
        let team = TeamId::new("team");
        shelf.keep(&team, response_of("a", "text"));
        assert!(shelf.find(&team, "a").is_none());
    }

    #[test]
    fn debug_shows_no_text() {
        let (shelf, team) = shelf(1 << 20);
        shelf.keep(&team, response_of("a", "my secret"));
        let kept = shelf.find(&team, "a").unwrap();
        assert!(!format!("{shelf:?} {kept:?} {:?}", kept.input).contains("secret"));
    }
}
