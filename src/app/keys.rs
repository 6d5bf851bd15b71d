//! Keys and teams of a running node: the configuration's, and those that are made while it runs.
//!
//! ```text
//! operator ─► Keys::change ─► a queue ─► Keeper, one at a time: judge ─► build ─► write ─► in force ─► audit
//! a request ─► Keys::find ─► the ring in force; no lock, no query
//! ```
//! The keeper is a task of the node: a change that was begun is ended, whoever asked for it may leave. The
//! file is made with the first change; a node whose keys all stand in the configuration has none. Where
//! replicas share a Postgres the rows are there, and what others change comes in between ([`place`]).

mod keeper;
mod place;
mod standing;
mod taking;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use api::{Changed, DeskFault, KeyChange, KeyDesk, KeyView, TeamView};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use domain::{ChangeLog, KeyDigest, KeyDirectory, KeyTrouble, Limit, Principal};
use futures::future::{BoxFuture, FutureExt};
use store::{KeyCopy, KeyFile, KeyPlace, Rows, SharedKeyRules, SharedKeys, UnixClock};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::config::{Config, ConfigFault, KeyGrant, QuotaSettings};
use crate::quotas::Counts;
pub use keeper::Keeper;
use keeper::Order;
pub use place::SharedKeysState;
use place::{Place, Shared};
use standing::{Book, Standing};

/// In the data folder.
const FOLDER: &str = "keys";
/// In that one: what replicas share, as it was last heard.
const COPY: &str = "shared";
/// How long a start waits to hear what replicas share.
const HEARD_MAX: Duration = Duration::from_secs(3);
/// Changes that wait for the one before them. One more is refused.
const ORDERS_MAX: usize = 64;

/// Keys that are made while the node runs. Each costs some kilobyte of memory.
pub const KEYS_MAX: usize = 10_000;
/// Teams that are.
pub const TEAMS_MAX: usize = 1_000;

/// What the configuration says of keys and teams.
#[derive(Clone, Debug)]
pub struct OfFile {
    pub keys: Vec<KeyGrant>,
    pub quotas: QuotaSettings,
    pub requires_keys: bool,
    /// What keys may name of the routes.
    pub routes: Arc<[String]>,
}

impl OfFile {
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            keys: config.keys.clone(),
            quotas: config.quotas.clone(),
            requires_keys: config.requires_keys,
            routes: policy::route_names(&config.routes.text)
                .unwrap_or_default()
                .into(),
        }
    }
}

/// The directory in force, and the way to whoever changes it.
pub struct Keys {
    standing: Arc<ArcSwap<Standing>>,
    clock: UnixClock,
    orders: mpsc::Sender<Order>,
    /// `None` where this node keeps its keys itself.
    shared: Option<Box<dyn Fn() -> SharedKeysState + Send + Sync>>,
}

/// What is to be run: the keeper, and who hears of other replicas' changes.
pub struct Drivers {
    pub keeper: Keeper,
    /// `None` where this node keeps its keys itself.
    pub follower: Option<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drivers")
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// With what was made before, where there is any, and what changes it: to be run. `shared` is where
    /// replicas have their keys.
    ///
    /// # Errors
    /// What was made before cannot be read, or does not go with the configuration.
    pub async fn open(
        of_file: OfFile,
        data_dir: &Path,
        shared: Option<SharedKeyRules>,
        changes: Arc<dyn ChangeLog>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<(Arc<Self>, Drivers)> {
        let clock = Arc::new(now_s);
        Self::with_clock(of_file, data_dir, shared, changes, counts, clock).await
    }

    async fn with_clock(
        of_file: OfFile,
        data_dir: &Path,
        shared: Option<SharedKeyRules>,
        changes: Arc<dyn ChangeLog>,
        counts: Arc<Counts>,
        clock: UnixClock,
    ) -> anyhow::Result<(Arc<Self>, Drivers)> {
        let dir = folder(data_dir);
        let mut book = Book::new(of_file);
        let opened = match shared {
            Some(rules) => open_shared(&dir, rules, &mut book).await?,
            None => open_own(dir, &mut book).await?,
        };
        let standing = book.stand(&clock).map_err(crate::config::ConfigFaults)?;
        if book.has_limits() {
            counts
                .open()
                .context("cannot go on from what was used of limits")?;
        }
        let standing = Arc::new(ArcSwap::from_pointee(standing));
        let (orders, inbox) = mpsc::channel(ORDERS_MAX);
        let keys = Self {
            standing: Arc::clone(&standing),
            clock: Arc::clone(&clock),
            orders,
            shared: opened.state,
        };
        let keeper = Keeper {
            standing,
            clock,
            inbox,
            book,
            place: opened.place,
            generation: opened.generation,
            changes,
            counts,
        };
        let follower = opened.follower;
        Ok((Arc::new(keys), Drivers { keeper, follower }))
    }

    /// `None` where this node keeps its keys itself.
    #[must_use]
    pub fn shared(&self) -> Option<SharedKeysState> {
        self.shared.as_ref().map(|state| state())
    }

    /// Goes on with what another configuration says, whole or not at all.
    ///
    /// # Errors
    /// It does not go with what was made while the node ran.
    pub async fn reload(&self, of_file: OfFile) -> Result<(), Vec<ConfigFault>> {
        let (done, answer) = oneshot::channel();
        let order = Order::Reload(Box::new(of_file), done);
        let gone = || {
            let message = "the node is ending".to_owned();
            let path = String::new();
            vec![ConfigFault { path, message }]
        };
        self.orders.send(order).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Ends the keeper, once all that was ordered is done.
    pub async fn close(&self) {
        // It has ended already.
        drop(self.orders.send(Order::End).await);
    }

    fn now_s(&self) -> u64 {
        (self.clock)()
    }
}

impl KeyDirectory for Keys {
    fn is_required(&self) -> bool {
        self.standing.load().ring.is_required()
    }

    fn find(&self, digest: &KeyDigest) -> Result<Principal, KeyTrouble> {
        self.standing.load().ring.find(digest)
    }

    fn anyone(&self) -> Principal {
        self.standing.load().ring.anyone()
    }

    fn limits(&self) -> Vec<Limit> {
        self.standing.load().ring.limits()
    }
}

#[async_trait]
impl KeyDesk for Keys {
    fn keys(&self, after: &str, count: usize) -> Vec<KeyView> {
        self.standing.load().keys(after, count, self.now_s())
    }

    fn key(&self, name: &str) -> Option<KeyView> {
        self.standing.load().key(name, self.now_s())
    }

    fn teams(&self, after: &str, count: usize) -> Vec<TeamView> {
        self.standing.load().teams(after, count)
    }

    fn team(&self, name: &str) -> Option<TeamView> {
        self.standing.load().team(name)
    }

    async fn change(&self, who: &str, change: KeyChange) -> Result<Changed, DeskFault> {
        let (done, answer) = oneshot::channel();
        let order = Order::Change {
            who: who.to_owned(),
            change: Box::new(change),
            done,
        };
        // A full queue is a disk that does not answer, as is a keeper that has ended.
        self.orders.try_send(order).map_err(|_| DeskFault::Unkept)?;
        answer.await.map_err(|_| DeskFault::Unkept)?
    }

    fn is_apart(&self) -> Option<bool> {
        self.shared().map(|state| state.counts.is_apart)
    }
}

/// A place, and what is to be known and run beside it.
struct OpenedPlace {
    place: Place,
    generation: Option<u64>,
    state: Option<Box<dyn Fn() -> SharedKeysState + Send + Sync>>,
    follower: Option<BoxFuture<'static, ()>>,
}

async fn open_own(dir: PathBuf, book: &mut Book) -> anyhow::Result<OpenedPlace> {
    let copy = KeyCopy::new(dir.join(COPY)).load().await;
    // A node does not stand open because its keys are elsewhere.
    let is_without = matches!(&copy, Ok(None)) || matches!(&copy, Ok(Some(it)) if !it.has_made);
    if !is_without {
        bail!(
            "this node's keys are in a Postgres that replicas share, and the configuration names none; set \
             postgres under [store] again, or move {} away to go on without those keys",
            dir.join(COPY).display()
        );
    }
    let (mut file, mut generation) = (None, None);
    if KeyFile::is_in(&dir) {
        let opened = KeyFile::open(&dir, rand::random()).await;
        let mut opened = opened.with_context(|| hint(&dir))?;
        let rows = opened.load().await.with_context(|| hint(&dir))?;
        generation = Some(rows.generation);
        book.take(rows).map_err(crate::config::ConfigFaults)?;
        file = Some(opened);
    }
    Ok(OpenedPlace {
        place: Place::Own { dir, file },
        generation,
        state: None,
        follower: None,
    })
}

/// Goes on from what Postgres has, or where that is away from what it was last heard to have.
async fn open_shared(
    dir: &Path,
    rules: SharedKeyRules,
    book: &mut Book,
) -> anyhow::Result<OpenedPlace> {
    if KeyFile::is_in(dir) {
        bail!(
            "keys that were made on this node are in {}, and the configuration names a Postgres for them; \
             move them there with `hedge store migrate`, or move that file away to go on without them",
            KeyFile::path(dir).display()
        );
    }
    let postgres = rules.postgres.clone();
    let copy_dir = dir.join(COPY);
    let mut copy = KeyCopy::new(copy_dir.clone());
    let known = match copy.load().await {
        Ok(known) => known,
        Err(fault) if matches!(&fault, store::KeyFault::File(store::KeyFileError::Taken)) => {
            return Err(anyhow::Error::new(fault).context(hint(&copy_dir)));
        }
        Err(fault) => {
            let (dir, error) = (copy_dir.display(), domain::chain(&fault));
            warn!(%dir, error, "what was last heard of keys cannot be read; Postgres is asked for it");
            None
        }
    };
    let (keys, follower) = SharedKeys::new(rules, known.as_ref());
    let mut follower = follower.run().boxed();
    let mut heard = keys.heard();
    let first = async {
        tokio::select! {
            () = &mut follower => {}
            heard = heard.wait_for(|it| it.is_away.is_some()) => drop(heard),
        }
    };
    // One that does not answer is away, for now.
    drop(timeout(HEARD_MAX, first).await);
    let rows = heard.borrow().rows.clone().filter(|it| keys.takes(it));
    let rows: Option<Rows> = rows.map(|it| (*it.rows).clone());
    let generation = rows.as_ref().map(|rows| rows.generation);
    if let Some(rows) = &rows {
        let kept = copy.keep(rows).await;
        kept.with_context(|| hint(&copy_dir))?;
    }
    book.is_unheard = true;
    match rows.or(known) {
        // What is in words of a later version is said by whoever hears it next.
        Some(rows) => book.take_most(rows),
        None => error!(
            %postgres,
            "which keys replicas have was never heard here: until Postgres answers only those of the \
             configuration open"
        ),
    }
    let left_out = Arc::new(AtomicU64::new(0));
    let shared = Shared {
        heard,
        copy,
        left_out: Arc::clone(&left_out),
        is_to_learn: true,
        keys,
    };
    let counts = shared.keys.watcher();
    let state = move || SharedKeysState {
        counts: counts(),
        left_out: left_out.load(Ordering::Relaxed),
    };
    // It is learned as any other, and so is told what does not go with the configuration.
    shared.keys.forget();
    Ok(OpenedPlace {
        place: Place::Shared(Box::new(shared)),
        generation,
        state: Some(Box::new(state)),
        follower: Some(follower),
    })
}

/// Where a node that shares none keeps its keys.
#[must_use]
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

fn hint(dir: &Path) -> String {
    let path = KeyFile::path(dir);
    format!(
        "cannot go on with the keys in {}; if another hedge runs here, give one of them another \
         XDG_DATA_HOME, and if the file or the secret beside it is damaged, bring back a copy of the \
         whole folder, or move it away to begin without keys",
        path.display()
    )
}

#[cfg(test)]
mod tests;
