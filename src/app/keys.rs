//! Keys and teams of a running node: the configuration's, and those that are made while it runs.
//!
//! ```text
//! operator ─► Keys::change ─► a queue ─► Keeper, one at a time: judge ─► build ─► write ─► in force ─► audit
//! a request ─► Keys::find ─► the ring in force; no lock, no query
//! ```
//! The keeper is a task of the node: a change that was begun is ended, whoever asked for it may leave. The
//! file is made with the first change; a node whose keys all stand in the configuration has none.

mod keeper;
mod standing;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use api::{Changed, DeskFault, KeyChange, KeyDesk, KeyView, TeamView};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use domain::{ChangeLog, KeyDigest, KeyDirectory, KeyTrouble, Limit, Principal};
use store::{KeyFile, UnixClock};
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, ConfigFault, KeyGrant, QuotaSettings};
use crate::quotas::Counts;
pub use keeper::Keeper;
use keeper::Order;
use standing::{Book, Standing};

/// In the data folder.
const FOLDER: &str = "keys";
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
}

impl OfFile {
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            keys: config.keys.clone(),
            quotas: config.quotas.clone(),
            requires_keys: config.requires_keys,
        }
    }
}

/// The directory in force, and the way to whoever changes it.
pub struct Keys {
    standing: Arc<ArcSwap<Standing>>,
    clock: UnixClock,
    orders: mpsc::Sender<Order>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// With what was made before, where there is any, and what changes it: to be run.
    ///
    /// # Errors
    /// What was made before cannot be read, or does not go with the configuration.
    pub async fn open(
        of_file: OfFile,
        data_dir: &Path,
        changes: Arc<dyn ChangeLog>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<(Arc<Self>, Keeper)> {
        Self::with_clock(of_file, data_dir, changes, counts, Arc::new(now_s)).await
    }

    async fn with_clock(
        of_file: OfFile,
        data_dir: &Path,
        changes: Arc<dyn ChangeLog>,
        counts: Arc<Counts>,
        clock: UnixClock,
    ) -> anyhow::Result<(Arc<Self>, Keeper)> {
        let dir = data_dir.join(FOLDER);
        let (mut book, mut file) = (Book::new(of_file), None);
        if KeyFile::is_in(&dir) {
            let mut found = KeyFile::open(&dir, rand::random())
                .await
                .with_context(|| hint(&dir))?;
            let rows = found.load().await.with_context(|| hint(&dir))?;
            book.take(rows, found.secret().clone())
                .map_err(crate::config::ConfigFaults)?;
            file = Some(found);
        }
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
        };
        let keeper = Keeper {
            standing,
            clock,
            inbox,
            book,
            file,
            dir,
            changes,
            counts,
        };
        Ok((Arc::new(keys), keeper))
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
