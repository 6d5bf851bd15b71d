//! Where a replica writes: to Postgres, or into a file while that takes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::KeptRecord;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::waiting::Waiting;
use super::{Common, Standing, replica, row};
use crate::PostgresFault;
use crate::records::file::WAITING_NAME;
use crate::records::hold::Hold;

/// What a batch waits for Postgres before it goes into the file: with the time that it was gathered in, a
/// second, which is what a crash may lose.
const DIRECT_MAX: Duration = Duration::from_millis(750);

/// Batches in a row that Postgres did not take in time, until it counts as away. One that is late is brought
/// by the mover, and nobody need know.
const LATE_MAX: u32 = 3;

/// What the first batch waits to learn whether Postgres is there.
const KNOWN_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct SharedPlace {
    common: Arc<Common>,
    replica: Option<String>,
    hold: Option<Hold>,
    connection: Option<PgConnection>,
    waiting: Waiting,
    late: u32,
}

impl SharedPlace {
    pub(super) fn new(common: Arc<Common>) -> Self {
        let rules = &common.rules;
        Self {
            waiting: Waiting::new(&rules.dir, rules.bytes_max),
            replica: None,
            hold: None,
            connection: None,
            late: 0,
            common,
        }
    }

    pub fn common(&self) -> Arc<Common> {
        Arc::clone(&self.common)
    }

    /// Waits a little until it is known whether Postgres is there.
    pub async fn open(&mut self) {
        self.own_folder();
        let mut standing = self.common.standing.subscribe();
        let known = standing.wait_for(|it| *it != Standing::Unknown);
        drop(timeout(KNOWN_MAX, known).await);
    }

    /// The replica's name, and the hold on the file. Without a folder of its own a replica can write to
    /// Postgres all the same.
    fn own_folder(&mut self) -> String {
        let dir = &self.common.rules.dir;
        if self.hold.is_none() {
            self.hold = Hold::shared(dir, WAITING_NAME).ok();
        }
        if self.replica.is_none() {
            let own = replica::of(dir);
            if let Err(error) = &own {
                let dir = dir.display();
                warn!(%dir, %error, "records have no folder to wait in while Postgres takes none");
            }
            let own = own.unwrap_or_else(|_| replica::fresh());
            if let Some(outbox) = &self.common.outbox {
                outbox.open(&own);
            }
            self.replica = Some(own);
        }
        self.replica.clone().unwrap_or_default()
    }

    /// True once they are in Postgres or in the file.
    pub async fn write(&mut self, batch: &[KeptRecord]) -> bool {
        let Some(outbox) = self.common.outbox.clone() else {
            return self.put(batch).await;
        };
        outbox.until_told().await;
        let is_written = self.put(batch).await;
        if is_written && let Some(replica) = &self.replica {
            outbox.written(replica, batch);
        }
        is_written
    }

    async fn put(&mut self, batch: &[KeptRecord]) -> bool {
        let tally = Arc::clone(&self.common.tally);
        let count = batch.len() as u64;
        if *self.common.standing.borrow() == Standing::Takes {
            let sent = timeout(DIRECT_MAX, self.send(batch)).await;
            match sent.unwrap_or(Err(PostgresFault::Late)) {
                Ok(()) => {
                    tally.written.fetch_add(count, Ordering::Relaxed);
                    self.late = 0;
                    self.works();
                    return true;
                }
                Err(PostgresFault::Late) if self.late + 1 < LATE_MAX => {
                    self.connection = None;
                    self.late += 1;
                }
                Err(fault) => {
                    self.connection = None;
                    self.late = 0;
                    self.common.leave(&fault);
                }
            }
        }
        match self.waiting.append(batch).await {
            Ok(()) => {
                tally.waiting.fetch_add(count, Ordering::Relaxed);
                self.common.waiting.notify_one();
                self.works();
                true
            }
            Err(fault) => {
                let was_failing = tally.is_failing.swap(true, Ordering::Relaxed);
                if !was_failing {
                    let file = self.waiting.path();
                    let cause = std::error::Error::source(&fault).map(ToString::to_string);
                    error!(file = %file.display(), error = %fault, cause,
                        "records can be written neither to Postgres nor into a file; it is tried \
                         every second");
                }
                false
            }
        }
    }

    fn works(&self) {
        let tally = &self.common.tally;
        if tally.is_failing.swap(false, Ordering::Relaxed) {
            info!("records are written again");
        }
    }

    async fn send(&mut self, batch: &[KeptRecord]) -> Result<(), PostgresFault> {
        let replica = self.own_folder();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.common.address.connect().await?,
        };
        row::insert(&mut connection, &replica, batch).await?;
        self.connection = Some(connection);
        Ok(())
    }

    pub async fn close(mut self) {
        self.waiting.close().await;
        if let Some(connection) = self.connection.take() {
            drop(timeout(DIRECT_MAX, sqlx::Connection::close(connection)).await);
        }
    }
}

impl Common {
    /// Postgres took nothing. Said once.
    pub fn leave(&self, fault: &PostgresFault) {
        let was = self.standing.send_replace(Standing::Away);
        self.tally.is_away.store(true, Ordering::Relaxed);
        if was != Standing::Away {
            let file = self.rules.dir.join(WAITING_NAME);
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            error!(postgres = %self.address, error = %fault, cause, file = %file.display(),
                "Postgres takes no records; they wait in a file until it does");
        }
        // Somebody has to look when it is back.
        self.waiting.notify_one();
    }

    /// It took something, or could.
    pub fn enter(&self) {
        let was = self.standing.send_replace(Standing::Takes);
        self.tally.is_away.store(false, Ordering::Relaxed);
        match was {
            Standing::Unknown => info!(postgres = %self.address, "records go to Postgres"),
            Standing::Away => info!(postgres = %self.address, "records go to Postgres again"),
            Standing::Takes => {}
        }
    }
}
