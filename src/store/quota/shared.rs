//! Limits of several replicas, counted together in Redis or Valkey.
//!
//! ```text
//! take ─► Ask ─► driver ─ one script ─► Redis ─► Grant        settle ─► Book ─► driver ─ one script a batch ─► Redis
//!   └─ no answer in time, or none to ask ─► this replica's share, told to Redis when it is back
//! ```
//! - Redis's own clock counts. A replica says in which window of its calendar it believes to be, and is
//!   told if it is not.
//! - What a replica holds is kept under a lease that it renews each second. With every new connection it
//!   begins another one and says what it holds, so that nothing stays held of a take whose answer was
//!   lost, and nothing on its way over the old connection counts any more. A replica that died holds
//!   nothing once its lease is over.
//! - What is settled goes in numbered batches, and Redis remembers the last number: a batch whose answer
//!   was lost is counted once.
//! - Every replica remembers the totals it was last told. A Redis that begins anew is told them, before
//!   anybody takes from it.
//!
//! The one who asks never has Redis's connection: dropping `take` cannot leave anything behind.

mod book;
mod driver;
mod forget;
mod script;
#[cfg(test)]
pub(super) mod tests;
mod users;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    ExchangeRecord, Exhausted, Grant, Left, Limit, LimitWarning, LimitWatch, Quotas, Reach,
    Returned, Shortage, Use,
};
use redis::Client;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::calendar::Calendar;
use super::local::{Moment, Settled, Wait};
use crate::RedisAddress;
use crate::outbox::{Noted, Outbox};
use book::{Book, Part, Refused};
use driver::{ASKS_MAX, Ask};
use script::{Keys, Want};

pub use book::WhenApart;
pub use driver::SharedDriver;
pub use forget::ForgetFault;

/// How often a take is asked anew because the connection broke under it.
const TRIES_MAX: usize = 2;

/// Where the shared counts are, and how they are used.
#[derive(Clone)]
pub struct SharedRules {
    pub redis: RedisAddress,
    /// Of all keys.
    pub prefix: String,
    /// How many share the counts.
    pub replicas: NonZeroU32,
    pub when_apart: WhenApart,
    /// How long a take waits for its answer.
    pub answer_max: Duration,
    /// How long what a replica holds stays held after it was last heard of.
    pub lease: Duration,
    /// A name that no other process ever had.
    pub replica: String,
}

/// What became of shared counts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedCounts {
    pub is_apart: bool,
    /// How often they could not be asked any more.
    pub partings: u64,
    /// How often Redis began anew.
    pub generations: u64,
    /// Takes that were answered by this replica alone: granted.
    pub granted_apart: u64,
    /// The same: refused.
    pub refused_apart: u64,
    /// Accounts and parts of grants that wait to be told.
    pub unsettled: u64,
    /// Exchanges whose use found no room among what waits.
    pub lost: u64,
}

/// Limits that count with those of other replicas.
pub struct SharedQuotas {
    desk: Arc<Desk>,
    asks: mpsc::Sender<Ask>,
    lists: mpsc::Sender<users::List>,
    answer_max: Duration,
    keys: Keys,
}

/// What the askers and the driver have in common.
struct Desk {
    book: Mutex<Book>,
    /// The node of a cluster that has our keys, or what was configured.
    client: Mutex<Client>,
    /// There is something to settle.
    unsettled: Notify,
    /// Somebody wants to know how limits stand.
    look: Notify,
    /// An answer did not come in time.
    trouble: Notify,
    is_shared: watch::Sender<bool>,
    /// Is told of thresholds that were passed.
    watch: OnceLock<Arc<dyn LimitWatch>>,
    /// Users' limits could not be told of or listed when that was last tried.
    is_users_broken: AtomicBool,
    /// Where records go with what they cost.
    outbox: OnceLock<Arc<Outbox>>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    partings: AtomicU64,
    generations: AtomicU64,
    granted_apart: AtomicU64,
    refused_apart: AtomicU64,
}

impl SharedQuotas {
    /// The counts, and the driver that asks Redis.
    pub fn new(
        rules: SharedRules,
        calendar: Calendar,
        clock: impl Fn() -> Moment + Send + Sync + 'static,
    ) -> (Self, SharedDriver) {
        let client = rules.redis.client();
        let book = Book::new(calendar, Arc::new(clock), rules.replicas, rules.when_apart);
        let desk = Arc::new(Desk {
            book: Mutex::new(book),
            client: Mutex::new(client.clone()),
            unsettled: Notify::new(),
            look: Notify::new(),
            trouble: Notify::new(),
            is_shared: watch::Sender::new(false),
            watch: OnceLock::new(),
            is_users_broken: AtomicBool::new(false),
            outbox: OnceLock::new(),
            tally: Tally::default(),
        });
        let (asks, inbox) = mpsc::channel(ASKS_MAX);
        let (lists, listed) = mpsc::channel(users::LISTS_MAX);
        let quotas = Self {
            desk: Arc::clone(&desk),
            asks,
            lists,
            answer_max: rules.answer_max,
            keys: Keys::new(&rules.prefix),
        };
        let driver = SharedDriver::new(desk, inbox, listed, client, rules);
        (quotas, driver)
    }

    /// Tells `watch` when this replica brings what was used past a part of a limit. Once.
    #[must_use]
    pub fn with_watch(self, watch: Arc<dyn LimitWatch>) -> Self {
        // There is one.
        let _ = self.desk.watch.set(watch);
        self
    }

    /// Leaves records with Redis until they are on a disk.
    #[must_use]
    pub fn with_outbox(self, outbox: Arc<Outbox>) -> Self {
        // There is one.
        let _ = self.desk.outbox.set(outbox);
        self
    }

    /// Waits until Redis is asked.
    pub async fn until_shared(&self) {
        let mut is_shared = self.desk.is_shared.subscribe();
        // The sender is on the desk.
        let _ = is_shared.wait_for(|is_shared| *is_shared).await;
    }

    /// Goes on from what was written down: Redis is told, should it know less. Before the driver runs.
    pub fn restore(&self, settled: impl IntoIterator<Item = Settled>) {
        self.desk.book().restore(settled);
    }

    /// What was settled in each account that changed since the last call, by everybody: to be written
    /// over what was written before.
    #[must_use]
    pub fn settled(&self) -> Vec<Settled> {
        self.desk.book().settled()
    }

    /// What this replica holds, or has not yet told that it holds no more.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.desk.book().held()
    }

    #[must_use]
    pub fn counts(&self) -> SharedCounts {
        let tally = &self.desk.tally;
        let book = self.desk.book();
        SharedCounts {
            is_apart: book.link().is_none(),
            partings: tally.partings.load(Ordering::Relaxed),
            generations: tally.generations.load(Ordering::Relaxed),
            granted_apart: tally.granted_apart.load(Ordering::Relaxed),
            refused_apart: tally.refused_apart.load(Ordering::Relaxed),
            unsettled: book.unsettled() as u64,
            lost: book.lost(),
        }
    }

    /// `None`: there is nobody to ask any more.
    async fn ask(&self, link: u64, wants: Vec<Want>) -> Option<Result<Grant, Refused>> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            let ask = Ask {
                wants,
                turns: 0,
                answer,
            };
            self.asks.send(ask).await.ok()?;
            answered.await.ok()
        };
        match timeout(self.answer_max, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                self.desk.part(link);
                None
            }
        }
    }

    fn take_apart(&self, limits: &[Limit], worst: Use) -> Result<Grant, Refused> {
        let tally = &self.desk.tally;
        let taken = {
            let mut book = self.desk.book();
            if let Some(link) = book.link() {
                self.desk.part_in(&mut book, link);
            }
            book.take_apart(limits, worst)
        };
        match taken {
            Ok((grant, parts, left)) => {
                tally.granted_apart.fetch_add(1, Ordering::Relaxed);
                let taken = Taken {
                    desk: Arc::clone(&self.desk),
                    parts,
                    apart: Mutex::new(Some(grant)),
                };
                Ok(Grant::new(Box::new(taken), left))
            }
            Err(refused) => {
                tally.refused_apart.fetch_add(1, Ordering::Relaxed);
                Err(refused)
            }
        }
    }
}

#[async_trait]
impl Quotas for SharedQuotas {
    async fn take(&self, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted> {
        let mut answer = None;
        if limits.iter().any(|limit| limit.scope.is_of_user()) {
            self.desk.book().users().touch(limits);
        }
        for _ in 0..TRIES_MAX {
            let asked = {
                let mut book = self.desk.book();
                book.watch(limits);
                book.link().map(|link| (link, book.wants(limits, worst)))
            };
            let Some((link, wants)) = asked else {
                break;
            };
            answer = self.ask(link, wants).await;
            if answer.is_some() {
                break;
            }
        }
        let answer = answer.unwrap_or_else(|| self.take_apart(limits, worst));
        answer.map_err(|(index, wait)| Exhausted {
            limit: limits[index].clone(),
            retry_after: match wait {
                Wait::For(wait) => Some(wait),
                Wait::None => Some(Duration::ZERO),
                Wait::Ever => None,
            },
            why: Shortage::Amount,
        })
    }

    fn reach(&self) -> Reach {
        match self.desk.book().link() {
            Some(_) => Reach::Shared,
            None => Reach::Apart,
        }
    }

    /// As Redis was last heard of, a second ago at most where somebody asks again and again.
    fn left(&self, limits: &[Limit]) -> Vec<Left> {
        let (left, is_unseen) = self.desk.book().left(limits);
        if is_unseen {
            self.desk.look.notify_one();
        }
        left
    }

    async fn users(&self, count_max: usize) -> Vec<(Limit, Left)> {
        self.users_of_all(count_max).await
    }
}

impl Desk {
    fn client(&self) -> MutexGuard<'_, Client> {
        // A client is replaced whole.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Whoever panicked holding it was at arithmetic, which leaves no half of anything.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> Option<&Arc<Outbox>> {
        // One that nobody has opened keeps nothing.
        self.outbox.get().filter(|outbox| outbox.is_open())
    }

    fn warn(&self, warnings: Vec<LimitWarning>) {
        if let Some(watch) = self.watch.get() {
            warnings.into_iter().for_each(|it| watch.passed(it));
        }
    }

    /// From now on this replica is on its own, unless it went on over another link meanwhile.
    fn part(&self, link: u64) {
        self.part_in(&mut self.book(), link);
    }

    fn part_in(&self, book: &mut Book, link: u64) {
        if book.part(link) {
            if let Some(outbox) = self.outbox() {
                outbox.told(book.forget_noted());
            }
            self.tally.partings.fetch_add(1, Ordering::Relaxed);
            self.is_shared.send_replace(false);
            self.trouble.notify_one();
        }
    }

    /// A grant of Redis's.
    fn grant(self: &Arc<Self>, parts: Vec<Part>, left: Vec<Left>) -> Grant {
        let taken = Taken {
            desk: Arc::clone(self),
            parts,
            apart: Mutex::new(None),
        };
        Grant::new(Box::new(taken), left)
    }
}

struct Taken {
    desk: Arc<Desk>,
    parts: Vec<Part>,
    /// What was taken of this replica's share.
    apart: Mutex<Option<Grant>>,
}

impl Taken {
    fn give_back(&self, used: Use, noted: Option<(&Outbox, Noted)>) {
        let apart = self.apart.lock();
        let apart = apart.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(grant) = apart {
            grant.settle(used);
        }
        let mut book = self.desk.book();
        book.settle(&self.parts, used);
        if let Some((outbox, noted)) = noted {
            book.note_record(noted, |waiting| outbox.count(waiting));
        }
        drop(book);
        self.desk.unsettled.notify_one();
    }
}

impl Returned for Taken {
    fn settle(&self, used: Use) {
        self.give_back(used, None);
    }

    fn settle_with(&self, used: Use, record: &ExchangeRecord) {
        let outbox = self.desk.outbox();
        let noted = outbox.and_then(|outbox| Some((&**outbox, outbox.note(record)?)));
        self.give_back(used, noted);
    }
}

impl fmt::Debug for SharedRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRules")
            .field("redis", &self.redis)
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
            .field("when_apart", &self.when_apart)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedQuotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedQuotas({:?})", self.counts())
    }
}
