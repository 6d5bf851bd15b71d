//! Records of several replicas in one Postgres.
//!
//! ```text
//! queue ─► SharedPlace ─ Postgres takes them ─────────────────────► hedge.records
//!               └─ it does not, or not in time ─► waiting.sqlite ─ Mover ─┘
//! ```
//! A batch that Postgres does not take within three quarters of a second goes into a file beside. Where it
//! was refused, or three were late, so does each after it, until the mover has brought one of them there:
//! then batches go straight again. Nobody waits for the mover, and it is as patient as is needed.
//!
//! Whether a batch was taken whose answer was lost nobody knows, so it is sent again. A record's name, its
//! end's moment, its id and its replica, is written once: what is there already stays.

mod marks;
mod mover;
mod place;
pub(super) mod replica;
pub(super) mod row;
mod shift;
mod waiting;

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, Notify, watch};

pub use mover::Mover;
pub use place::SharedPlace;
pub(crate) use replica::of as replica_of;
pub use shift::{
    RecordsState, ShiftFault, Shifted, ShiftedFile, own_records, records_state, shift_records,
};

#[cfg(test)]
pub(super) use waiting::Waiting;

use super::desk::{RecordRules, Tally};
use crate::{Outbox, PostgresAddress};

pub(super) use marks::{KnownSecrets, register, word};

/// How Postgres was found last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody has asked yet.
    Unknown,
    Takes,
    Away,
}

/// What both halves know.
#[derive(Debug)]
pub struct Common {
    rules: RecordRules,
    address: PostgresAddress,
    /// Records whose costs are counted elsewhere.
    outbox: Option<Arc<Outbox>>,
    tally: Arc<Tally>,
    standing: watch::Sender<Standing>,
    /// Told when something was put into the file.
    waiting: Notify,
    /// Held by who brings a batch from the file to Postgres, and by who changes what is in both.
    moving: Mutex<()>,
}

impl Common {
    /// As long as it is held nothing goes from the file to Postgres.
    pub(super) async fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().await
    }
}

/// Both halves.
pub fn shared(
    rules: RecordRules,
    address: PostgresAddress,
    outbox: Option<Arc<Outbox>>,
    tally: Arc<Tally>,
) -> (SharedPlace, Mover) {
    let (standing, _) = watch::channel(Standing::Unknown);
    let common = Arc::new(Common {
        rules,
        address,
        outbox,
        tally,
        standing,
        waiting: Notify::new(),
        moving: Mutex::default(),
    });
    (SharedPlace::new(Arc::clone(&common)), Mover::new(common))
}
