//! Exact replies of several replicas: in memory, and behind that in Redis or Valkey.
//!
//! ```text
//! find ─► in memory, while this replica knows of all purges            keep ─► in memory ─► driver ─► Redis
//! fetch ─► driver ─► Redis: the reply, and how purges stand ─► memory  purge ─► journal ─► Redis's replies ─► wait
//! ```
//! - Every purge is a numbered line of a journal in Redis, before anything is removed. A reply there says of
//!   which number on it was kept, and one that a later line means answers nobody, removed or not.
//! - Each replica asks for new lines four times in a lease, and while it has not heard for as long as a lease
//!   it answers nothing from memory. So a purge that has waited for a lease is over everywhere, also where a
//!   replica cannot reach Redis, and one that comes back hears first what was said meanwhile.
//! - What was kept before a purge and is written after it is refused by its number.
//! - What another version of hedge kept is not read, and goes with a purge as all the rest does.
//! - A Redis that began anew, or that knows of fewer purges than were heard of, begins another generation:
//!   nothing that was kept in one before counts.
//!
//! Redis is a place for copies. Where it is away, slow or full a look is a miss and a reply is not kept there;
//! only a purge has to reach it.

mod driver;
mod said;
mod script;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{CacheAway, CacheKey, CacheStore, Kept, Purge};
use redis::Client;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

pub use driver::ReplyDriver;

use crate::RedisAddress;
use crate::moka_replies::{MokaReplies, aside};
use driver::Ask;
use said::{Said, Traits};
use script::{Broken, Caller, Found, Keys, Put};
use standing::{Stamp, Standing};

/// How long a replica goes by what it last heard of purges.
pub const REPLY_LEASE: Duration = Duration::from_secs(1);

/// Looks that wait for their answer; one more is a miss.
const LOOKS_MAX: usize = 1_024;

/// Replies that wait to be written; one more is kept in memory alone.
pub const REPLY_QUEUE_MAX: usize = 256;

/// Of a reply as it is written. A larger one is kept in memory alone.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Texts beyond this are read and written where they hold up nobody: half a millisecond's worth.
const ASIDE_BYTES: usize = 64 * 1024;

/// After a look that failed nobody looks for so long.
const REST: Duration = Duration::from_secs(1);

/// Another machine's clock may be faster by so much of a lease.
const SLACK: u32 = 10;

/// For all of a purge, or of looking what one would take.
const PURGE_MAX: Duration = Duration::from_secs(120);

/// For removing one reply.
const FORGET_MAX: Duration = Duration::from_secs(1);

/// Replies that are removed in one call.
const DROP_COUNT: usize = 256;

/// Where replies are shared, and how.
#[derive(Clone)]
pub struct SharedReplyRules {
    pub redis: RedisAddress,
    /// What all keys begin with, in a hash slot of their own.
    pub prefix: String,
    /// What replies may take in Redis, and in this process.
    pub far_bytes_max: u64,
    pub near_bytes_max: u64,
    /// How long a look waits for Redis.
    pub look_max: Duration,
    /// How long a replica goes by what it last heard: the same for all.
    pub lease: Duration,
}

/// What came of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedReplyCounts {
    /// Redis cannot be asked.
    pub is_apart: bool,
    /// How often it could not be asked any more.
    pub partings: u64,
    /// Looks: another replica had kept it, or this one before it gave it up.
    pub found: u64,
    pub missed: u64,
    /// Looks that were not answered in time, or not soundly.
    pub failed: u64,
    /// Looks that were not asked, since Redis was away or resting.
    pub unasked: u64,
    pub kept: u64,
    /// Replies that a purge came before.
    pub stale: u64,
    /// Replies that there was no room for.
    pub full: u64,
    /// Replies that could not be written.
    pub lost: u64,
    /// In Redis, of all replicas, as it was last heard.
    pub entries: u64,
    pub bytes: u64,
}

/// Replies that several replicas share.
pub struct SharedReplies {
    desk: Arc<Desk>,
    looks: mpsc::Sender<Ask>,
    puts: mpsc::Sender<Put>,
}

/// What askers and driver have in common.
struct Desk {
    near: MokaReplies,
    standing: Mutex<Standing>,
    /// Until when what is in memory counts, and until when nobody looks: microseconds after `began`.
    fresh_until: AtomicU64,
    rests_until: AtomicU64,
    began: Instant,
    is_linked: AtomicBool,
    /// Redis has too little room for what else it counts.
    is_tight: AtomicBool,
    /// Somebody said something.
    look: Notify,
    /// The node of a cluster that has our keys, or where we were told to begin.
    client: Mutex<Client>,
    rules: SharedReplyRules,
    keys: Keys,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    partings: AtomicU64,
    found: AtomicU64,
    missed: AtomicU64,
    failed: AtomicU64,
    unasked: AtomicU64,
    kept: AtomicU64,
    stale: AtomicU64,
    full: AtomicU64,
    lost: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl SharedReplies {
    /// The replies, and the driver that asks Redis.
    pub fn new(rules: SharedReplyRules) -> (Self, ReplyDriver) {
        let client = rules.redis.client();
        let desk = Arc::new(Desk {
            near: MokaReplies::new(rules.near_bytes_max),
            standing: Mutex::default(),
            fresh_until: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
            began: Instant::now(),
            is_linked: AtomicBool::new(false),
            is_tight: AtomicBool::new(false),
            look: Notify::new(),
            client: Mutex::new(client.clone()),
            keys: Keys::new(&rules.prefix),
            rules,
            tally: Tally::default(),
        });
        let (looks, asked) = mpsc::channel(LOOKS_MAX);
        let (puts, written) = mpsc::channel(REPLY_QUEUE_MAX);
        let driver = ReplyDriver::new(Arc::clone(&desk), client, asked, written);
        (Self { desk, looks, puts }, driver)
    }

    #[must_use]
    pub fn counts(&self) -> SharedReplyCounts {
        let tally = &self.desk.tally;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SharedReplyCounts {
            is_apart: !self.desk.is_linked(),
            partings: of(&tally.partings),
            found: of(&tally.found),
            missed: of(&tally.missed),
            failed: of(&tally.failed),
            unasked: of(&tally.unasked),
            kept: of(&tally.kept),
            stale: of(&tally.stale),
            full: of(&tally.full),
            lost: of(&tally.lost),
            entries: of(&tally.entries),
            bytes: of(&tally.bytes),
        }
    }

    async fn look(&self, key: &CacheKey) -> Result<Found, Unanswered> {
        if !self.desk.is_linked() || self.desk.is_resting() {
            return Err(Unanswered::Unasked);
        }
        let (answer, answered) = oneshot::channel();
        let asking = self.looks.try_send(Ask { key: *key, answer });
        asking.map_err(|_| Unanswered::Unasked)?;
        match timeout(self.desk.rules.look_max, answered).await {
            Ok(Ok(found)) => Ok(found),
            // The link broke, or the time is up.
            Ok(Err(_)) | Err(_) => {
                self.desk.rest();
                Err(Unanswered::Failed)
            }
        }
    }

    /// Says that a reply is to be removed, and removes it.
    async fn forget_far(&self, key: CacheKey) -> Result<u64, Broken> {
        let mut caller = self.desk.caller().await?;
        let (stamp, count) = caller.say(&Said::Key(key), &driver::fresh()).await?;
        if let Ok(mut standing) = self.desk.standing.try_lock() {
            // Under the lock: what was fetched before is in memory by now, or will not come there.
            self.desk.near.remove(&key);
            standing.said_here(stamp);
        }
        self.desk.look.notify_one();
        Ok(count)
    }

    async fn purge_far(&self, said: &Said, mut gone: Vec<CacheKey>) -> Result<u64, Broken> {
        let mut caller = self.desk.caller().await?;
        caller.say(said, &driver::fresh()).await?;
        let at = Instant::now();
        self.desk.look.notify_one();
        let mut cursor = 0;
        loop {
            let (next, listed) = caller.listed(cursor).await?;
            let meant = listed.into_iter();
            let meant = meant.filter(|(key, traits)| match traits {
                Some(traits) => said.takes(key, traits),
                // Whatever it is: nobody can tell that it is not meant.
                None => true,
            });
            let meant: Vec<CacheKey> = meant.map(|(key, _)| key).collect();
            for keys in meant.chunks(DROP_COUNT) {
                gone.extend(caller.drop(keys).await?);
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        gone.sort_unstable();
        gone.dedup();
        let lease = self.desk.rules.lease;
        sleep_until(at + lease + lease / SLACK).await;
        Ok(gone.len() as u64)
    }

    async fn meant_far(
        &self,
        said: &Said,
        after: Option<CacheKey>,
        count: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, Broken> {
        let mut caller = self.desk.caller().await?;
        let mut keys = Vec::new();
        let mut cursor = 0;
        loop {
            let (next, listed) = caller.listed(cursor).await?;
            let meant = listed.into_iter().filter(|(key, traits)| {
                let traits = traits.as_ref();
                after.is_none_or(|after| *key > after)
                    && traits.is_some_and(|traits| said.takes(key, traits))
            });
            keys.extend(meant.map(|(key, _)| key));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let mut found = Vec::new();
        for key in keys {
            if found.len() == count {
                break;
            }
            let looked = caller.find(&key).await?;
            found.extend(read(looked.value).await.map(|kept| (key, kept)));
        }
        Ok(found)
    }
}

/// Why there is nothing to go by.
enum Unanswered {
    Unasked,
    Failed,
}

fn away(broken: Broken) -> CacheAway {
    CacheAway(Box::new(broken))
}

/// What was written, if it can be read.
async fn read(value: Vec<u8>) -> Option<Arc<Kept>> {
    if value.is_empty() || value.len() > VALUE_BYTES_MAX {
        return None;
    }
    let read = |value: &[u8]| serde_json::from_slice::<Kept>(value).ok().map(Arc::new);
    if value.len() > ASIDE_BYTES {
        return aside(move || read(&value)).await;
    }
    read(&value)
}

#[async_trait]
impl CacheStore for SharedReplies {
    fn find(&self, key: &CacheKey) -> Option<Arc<Kept>> {
        if !self.desk.is_fresh() {
            return None;
        }
        self.desk.near.find(key)
    }

    async fn fetch(&self, key: &CacheKey) -> Option<Arc<Kept>> {
        let tally = &self.desk.tally;
        let found = match self.look(key).await {
            Ok(found) => found,
            Err(why) => {
                count(match why {
                    Unanswered::Unasked => &tally.unasked,
                    Unanswered::Failed => &tally.failed,
                });
                return None;
            }
        };
        if found.value.is_empty() {
            count(&tally.missed);
            return None;
        }
        let (now, kept_under, rest) = (found.now, found.kept_under, found.rest);
        let Some(kept) = read(found.value).await else {
            count(&tally.failed);
            return None;
        };
        let is_taken = self.desk.take_in(key, &kept, &now, &kept_under, rest);
        count(if is_taken {
            &tally.found
        } else {
            &tally.missed
        });
        is_taken.then_some(kept)
    }

    fn keep(&self, key: CacheKey, kept: Arc<Kept>, ttl: Duration) {
        let standing = self.desk.standing();
        // Under the lock, or what is said meanwhile would find it neither here nor in Redis.
        self.desk.near.keep(key, Arc::clone(&kept), ttl);
        let stamp = standing.stamp();
        drop(standing);
        let Some(stamp) = stamp.filter(|_| self.desk.is_linked()) else {
            count(&self.desk.tally.lost);
            return;
        };
        let put = Put {
            key,
            kept,
            ttl,
            stamp,
        };
        if self.puts.try_send(put).is_err() {
            count(&self.desk.tally.lost);
        }
    }

    async fn forget(&self, key: &CacheKey) -> bool {
        let was_near = self.desk.near.remove(key);
        match timeout(FORGET_MAX, self.forget_far(*key)).await {
            Ok(Ok(count)) => was_near || count > 0,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn purge(&self, what: &Purge) -> Result<u64, CacheAway> {
        let Some(said) = Said::of(what) else {
            return Ok(0);
        };
        let (near, meant) = (self.desk.near.clone(), said.clone());
        let removing = move || near.remove_those(|key, kept| meant.takes(key, &Traits::of(kept)));
        let gone = aside(removing).await;
        match timeout(PURGE_MAX, self.purge_far(&said, gone)).await {
            Ok(purged) => purged.map_err(away),
            Err(_) => Err(away(Broken::TimedOut)),
        }
    }

    async fn meant(
        &self,
        what: &Purge,
        after: Option<CacheKey>,
        count: usize,
    ) -> Result<Vec<(CacheKey, Arc<Kept>)>, CacheAway> {
        let Some(said) = Said::of(what) else {
            return Ok(Vec::new());
        };
        let looking = timeout(PURGE_MAX, self.meant_far(&said, after, count));
        let far = match looking.await {
            Ok(far) => far.map_err(away)?,
            Err(_) => return Err(away(Broken::TimedOut)),
        };
        let near = self.desk.near.meant(what, after, count).await?;
        // Both have their first ones, so these are the first of both.
        let all: BTreeMap<CacheKey, Arc<Kept>> = far.into_iter().chain(near).collect();
        Ok(all.into_iter().take(count).collect())
    }
}

impl Desk {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        // Whoever panicked holding it left at worst what is heard of once more.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        // A client is replaced whole.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With a connection of its own.
    async fn caller(&self) -> Result<Caller, Broken> {
        let client = self.client().clone();
        Caller::connect(&client, self.keys.clone()).await
    }

    fn micros(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn is_fresh(&self) -> bool {
        self.micros(Instant::now()) < self.fresh_until.load(Ordering::Acquire)
    }

    fn is_resting(&self) -> bool {
        self.micros(Instant::now()) < self.rests_until.load(Ordering::Relaxed)
    }

    fn rest(&self) {
        let until = self.micros(Instant::now() + REST);
        self.rests_until.store(until, Ordering::Relaxed);
    }

    fn is_linked(&self) -> bool {
        self.is_linked.load(Ordering::Relaxed)
    }

    /// Keeps what Redis had, unless something was said that this replica has not heard yet, or that means it.
    fn take_in(
        &self,
        key: &CacheKey,
        kept: &Arc<Kept>,
        now: &Stamp,
        kept_under: &Stamp,
        rest: Duration,
    ) -> bool {
        // Whoever has it is hearing something new.
        let Ok(standing) = self.standing.try_lock() else {
            return false;
        };
        if standing.stamp().as_ref() != Some(now) {
            self.look.notify_one();
            return false;
        }
        let is_valid = standing.is_valid(kept_under, key, &Traits::of(kept));
        if is_valid {
            // Under the lock: what is heard after this finds it.
            self.near.keep(*key, Arc::clone(kept), rest);
        }
        is_valid
    }
}

impl fmt::Debug for SharedReplyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedReplyRules")
            .field("redis", &self.redis)
            .field("prefix", &self.prefix)
            .field("far_bytes_max", &self.far_bytes_max)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedReplies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedReplies({:?})", self.counts())
    }
}
