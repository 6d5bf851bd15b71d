//! Exact replies in memory, weighed by bytes.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use domain::{CacheAway, CacheKey, CacheStore, Kept, Purge};
use moka::Expiry;
use moka::sync::Cache;

/// What an entry takes beside its text: key, pointers, the reply's fixed parts and moka's own
/// bookkeeping. An estimate, on the high side.
pub const OVERHEAD_BYTES: usize = 512;

/// What a tag takes beside its text.
const TAG_OVERHEAD_BYTES: usize = 40;

/// Replies within a bound of bytes. When it is reached, the least useful entries go first, by
/// moka's TinyLFU; a reply larger than the whole bound is not kept.
#[derive(Clone)]
pub struct MokaReplies {
    cache: Cache<CacheKey, Entry>,
}

#[derive(Clone)]
struct Entry {
    kept: Arc<Kept>,
    ttl: Duration,
}

impl fmt::Debug for MokaReplies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MokaReplies")
            .field("entries", &self.cache.entry_count())
            .field("bytes", &self.cache.weighted_size())
            .finish()
    }
}

impl MokaReplies {
    /// Keeps at most about `bytes_max`, counting [`OVERHEAD_BYTES`] for each reply.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, entry: &Entry| weight(&entry.kept))
            .expire_after(OwnTtl)
            .build();
        Self { cache }
    }

    /// Does the housekeeping that is due now rather than with some later call, so that the counts in
    /// `Debug` and the bound are exact.
    pub fn settle(&self) {
        self.cache.run_pending_tasks();
    }

    /// Removes what is kept under `key`. False where nothing was.
    pub(crate) fn remove(&self, key: &CacheKey) -> bool {
        self.cache.remove(key).is_some()
    }

    /// Removes those that are meant, and gives their keys. Looks at every reply.
    pub(crate) fn remove_those(
        &self,
        is_meant: impl Fn(&CacheKey, &Kept) -> bool,
    ) -> Vec<CacheKey> {
        let meant = self.cache.iter();
        let meant = meant.filter(|(key, entry)| is_meant(key, &entry.kept));
        let keys: Vec<CacheKey> = meant.map(|(key, _)| *key).collect();
        keys.into_iter().filter(|key| self.remove(key)).collect()
    }

    /// The bytes kept, as of the last housekeeping.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}

fn weight(kept: &Kept) -> u32 {
    let tags: usize = kept
        .tags
        .iter()
        .map(|tag| tag.len() + TAG_OVERHEAD_BYTES)
        .sum();
    u32::try_from(kept.reply.bytes() + tags + OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

/// Each entry lives for the time it was kept with; being read does not prolong it.
struct OwnTtl;

impl Expiry<CacheKey, Entry> for OwnTtl {
    fn expire_after_create(&self, _: &CacheKey, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

/// Looking at every reply holds nobody up.
pub(crate) async fn aside<T: Default + Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

#[async_trait]
impl CacheStore for MokaReplies {
    fn find(&self, key: &CacheKey) -> Option<Arc<Kept>> {
        self.cache.get(key).map(|entry| entry.kept)
    }

    fn keep(&self, key: CacheKey, kept: Arc<Kept>, ttl: Duration) {
        if ttl.is_zero() {
            self.cache.invalidate(&key);
            return;
        }
        self.cache.insert(key, Entry { kept, ttl });
    }

    async fn forget(&self, key: &CacheKey) -> bool {
        self.remove(key)
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        let (replies, what) = (self.clone(), what.clone());
        let gone = aside(move || replies.remove_those(|_, kept| what.takes_kept(kept))).await;
        Ok(gone.len() as u64)
    }

    async fn meant(
        &self,
        what: &Purge,
        after: Option<CacheKey>,
        count: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, CacheAway> {
        let (replies, what) = (self.clone(), what.clone());
        let looking = move || {
            let meant = replies.cache.iter().filter(|(key, entry)| {
                after.is_none_or(|after| **key > after) && what.takes_kept(&entry.kept)
            });
            let mut meant: Vec<_> = meant.map(|(key, entry)| (*key, entry.kept)).collect();
            meant.sort_unstable_by_key(|(key, _)| *key);
            meant.truncate(count);
            meant
        };
        Ok(aside(looking).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{check_cache_store, kept_of};

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(at: u8) -> CacheKey {
        CacheKey([at; 32])
    }

    #[tokio::test]
    async fn it_keeps_the_contract_of_a_cache() {
        check_cache_store(&MokaReplies::new(1 << 20)).await;
    }

    #[test]
    fn the_bytes_kept_stay_within_the_bound() {
        let bound = 20 * 1024;
        let replies = MokaReplies::new(bound);
        for at in 0..200 {
            replies.keep(key(at), Arc::new(kept_of(&"x".repeat(1024))), MINUTE);
        }
        replies.settle();
        assert!(replies.bytes() <= bound, "{} bytes", replies.bytes());
        let kept = (0..200).filter(|at| replies.find(&key(*at)).is_some());
        let count = kept.count();
        assert!((1..=13).contains(&count), "{count} entries");
    }

    #[test]
    fn a_reply_larger_than_the_bound_is_not_kept() {
        let replies = MokaReplies::new(1024);
        replies.keep(key(1), Arc::new(kept_of(&"x".repeat(4096))), MINUTE);
        replies.settle();
        assert!(replies.find(&key(1)).is_none());
        assert_eq!(replies.bytes(), 0);
    }

    #[test]
    fn debug_shows_no_text() {
        let replies = MokaReplies::new(1 << 20);
        replies.keep(key(1), Arc::new(kept_of("my secret")), MINUTE);
        assert!(!format!("{replies:?}").contains("secret"));
    }
}
