//! Responses that callers go on from, in memory, weighed by bytes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use domain::{ResponseShelf, StoredResponse, TeamId};
use moka::sync::Cache;

use crate::OVERHEAD_BYTES;

/// Responses within a bound of bytes and of time. When it is reached, those that were not read for
/// longest go first; a response larger than the whole bound is not kept. A restart forgets them all.
#[derive(Clone)]
pub struct MokaResponses {
    cache: Cache<(TeamId, String), Arc<StoredResponse>>,
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
    /// Keeps at most about `bytes_max`, counting [`OVERHEAD_BYTES`] for each, and each for `ttl`.
    #[must_use]
    pub fn new(bytes_max: u64, ttl: Duration) -> Self {
        let weigh = |_: &(TeamId, String), it: &Arc<StoredResponse>| {
            u32::try_from(it.bytes() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(weigh)
            // A new conversation is never less worth than an old one that was read often.
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .time_to_live(ttl)
            .build();
        Self { cache }
    }

    /// Does the housekeeping that is due now rather than with some later call.
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
        let key = (team.clone(), response.id.clone());
        self.cache.insert(key, Arc::new(response));
    }

    fn find(&self, team: &TeamId, id: &str) -> Option<Arc<StoredResponse>> {
        self.cache.get(&(team.clone(), id.to_owned()))
    }

    fn remove(&self, team: &TeamId, id: &str) -> bool {
        self.cache.remove(&(team.clone(), id.to_owned())).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_response_shelf, response_of};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_keeps_the_contract_of_a_shelf() {
        check_response_shelf(&MokaResponses::new(1 << 20, HOUR));
    }

    #[test]
    fn the_bytes_kept_stay_within_the_bound() {
        let bound = 20 * 1024;
        let shelf = MokaResponses::new(bound, HOUR);
        let team = TeamId::new("t");
        for at in 0..200 {
            shelf.keep(&team, response_of(&format!("resp_{at}"), &"x".repeat(1024)));
            shelf.settle();
        }
        assert!(shelf.bytes() <= bound, "{} bytes", shelf.bytes());
        assert!(shelf.find(&team, "resp_199").is_some());
        assert!(shelf.find(&team, "resp_0").is_none());
        shelf.keep(&team, response_of("resp_x", &"x".repeat(64 * 1024)));
        shelf.settle();
        assert!(shelf.find(&team, "resp_x").is_none());
    }

    #[test]
    fn debug_shows_no_text() {
        let shelf = MokaResponses::new(1 << 20, HOUR);
        let response = response_of("resp_1", "my secret");
        assert!(!format!("{shelf:?} {response:?}").contains("secret"));
        shelf.keep(&TeamId::new("t"), response);
    }
}
