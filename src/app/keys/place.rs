//! Where what is made while the node runs is kept: in a file of its own, or with other replicas.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::DeskFault;
use store::{
    KeyCopy, KeyFault, KeyFile, KeyPlace, KeyRow, KeysHeard, Rows, SharedKeyCounts, SharedKeys,
};
use tokio::sync::watch;
use tracing::{error, warn};

use super::taking::LeftOut;

/// The place, as the keeper has it.
pub enum Place {
    /// `None` before the first change, and after one that failed.
    Own {
        dir: PathBuf,
        file: Option<KeyFile>,
    },
    Shared(Box<Shared>),
}

/// What several replicas have.
pub struct Shared {
    pub keys: SharedKeys,
    pub heard: watch::Receiver<KeysHeard>,
    /// To start from while Postgres is away.
    pub copy: KeyCopy,
    pub left_out: Arc<AtomicU64>,
    /// What was heard is learned, though its generation is known.
    pub is_to_learn: bool,
}

/// How keys stand that replicas share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedKeysState {
    pub counts: SharedKeyCounts,
    /// Keys and teams that do not go with this replica's configuration.
    pub left_out: u64,
}

impl Place {
    /// `None`: the file is not open.
    pub fn keys(&mut self) -> Option<&mut dyn KeyPlace> {
        match self {
            Self::Own { file, .. } => file.as_mut().map(|file| file as _),
            Self::Shared(shared) => Some(&mut shared.keys),
        }
    }

    /// Waits for what others changed. Cancel safe.
    pub async fn news(&mut self) {
        if let Self::Shared(shared) = self
            && shared.heard.changed().await.is_ok()
        {
            return;
        }
        // There is nobody to hear from, or nobody any more.
        std::future::pending().await
    }

    /// What follows from a change that could not be made.
    pub fn failed(&mut self, fault: &KeyFault) -> DeskFault {
        match self {
            Self::Own { dir, file } => {
                // Whether it was written shows when it is opened again.
                *file = None;
                let path = KeyFile::path(dir);
                let (path, error) = (path.display(), domain::chain(fault));
                error!(%path, error, "keys and teams stay as they are: their file cannot be written");
                DeskFault::Unkept
            }
            Self::Shared(_) => {
                let error = domain::chain(fault);
                warn!(
                    error,
                    "a change of keys or teams was refused: Postgres did not take it"
                );
                DeskFault::Away
            }
        }
    }

    pub async fn close(self) {
        match self {
            Self::Own { file, .. } => {
                if let Some(file) = file {
                    file.close().await;
                }
            }
            Self::Shared(shared) => {
                let mut shared = *shared;
                shared.keys.close().await;
                shared.copy.close().await;
            }
        }
    }
}

impl Shared {
    /// Says what does not go with the configuration here, when that is other than it was.
    pub fn leave_out(&self, left_out: &LeftOut) {
        let count = left_out.count() as u64;
        let was = self.left_out.swap(count, Ordering::Relaxed);
        if count > 0 && was != count {
            let named = left_out.names();
            error!(
                count,
                named,
                "keys or teams that another replica made do not go with the configuration here, and open \
                 nothing; give all replicas the same keys and teams"
            );
        }
    }

    /// Keeps what was heard for a start without Postgres.
    pub async fn keep(&mut self, rows: &Rows) {
        if let Err(error) = self.copy.keep(rows).await {
            self.unkept(&error);
            // With the next that is heard, in a minute at most.
            self.is_to_learn = true;
        }
    }

    /// The same of what was changed here.
    pub async fn keep_row(&mut self, row: &KeyRow) {
        if let Err(error) = self.copy.write(row).await {
            self.unkept(&error);
            // It is made anew from all that there is.
            self.is_to_learn = true;
            self.keys.forget();
        }
    }

    fn unkept(&self, error: &(dyn std::error::Error + 'static)) {
        let (dir, error) = (self.copy.dir().display(), domain::chain(error));
        warn!(%dir, error,
            "keys could not be written down here: a start while Postgres is away would go on from older ones");
    }
}
