//! Brings to Postgres what waits in the file, and finds out when Postgres is back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::KeptRecord;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, query_scalar};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::waiting::Waiting;
use super::{Common, KnownSecrets, Standing, marks, replica, row};
use crate::records::file::FileError;
use crate::records::place::{TIDY_ROWS, oldest_us};
use crate::subjects::SubjectSecret;
use crate::{Outbox, PostgresFault};

/// Between two tries while Postgres, or the file, cannot be used.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// For one batch. Beyond that the connection is taken to be dead.
const MOVE_MAX: Duration = Duration::from_secs(30);

/// Between two looks for what is too old.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// Of the database, held by the replica that removes what is too old: `hedge` in ASCII, and one.
const TIDY_LOCK: i64 = 0x68_65_64_67_65_01;

/// The driver's other half.
#[derive(Debug)]
pub struct Mover {
    common: Arc<Common>,
    waiting: Waiting,
}

#[derive(Debug, thiserror::Error)]
enum MoveFault {
    #[error(transparent)]
    Postgres(#[from] PostgresFault),
    #[error("the file of records that wait cannot be read")]
    File(#[from] FileError),
    #[error("the replica's name can neither be read nor made")]
    Replica(#[source] std::io::Error),
}

impl From<sqlx::Error> for MoveFault {
    fn from(error: sqlx::Error) -> Self {
        MoveFault::Postgres(error.into())
    }
}

impl Mover {
    pub(super) fn new(common: Arc<Common>) -> Self {
        let rules = &common.rules;
        Self {
            waiting: Waiting::new(&rules.dir, rules.bytes_max),
            common,
        }
    }

    /// Never ends by itself. It may be dropped at any time: what was brought and not yet taken out of the
    /// file is brought again, and changes nothing.
    pub async fn run(mut self) {
        let mut tidy_at = Instant::now();
        let mut was_said = false;
        loop {
            let is_tidying = Instant::now() >= tidy_at;
            match self.turn(is_tidying).await {
                Ok(has_more) => {
                    was_said = false;
                    if is_tidying {
                        let pause = if has_more { Duration::ZERO } else { TIDY_EVERY };
                        tidy_at = Instant::now() + pause;
                    }
                    tokio::select! {
                        () = self.common.waiting.notified() => {}
                        () = self.until_found() => {}
                        () = sleep_until(tidy_at) => {}
                    }
                }
                Err(fault) => {
                    match &fault {
                        MoveFault::Postgres(fault) => self.common.leave(fault),
                        MoveFault::File(_) | MoveFault::Replica(_) if !was_said => {
                            let cause = std::error::Error::source(&fault).map(ToString::to_string);
                            warn!(error = %fault, cause, "records wait that cannot be brought to Postgres");
                            was_said = true;
                        }
                        MoveFault::File(_) | MoveFault::Replica(_) => {}
                    }
                    self.waiting.drop_connection();
                    sleep(RETRY_EVERY).await;
                }
            }
        }
    }

    /// Brings all that waits. Gives whether more is too old than was removed.
    async fn turn(&mut self, is_tidying: bool) -> Result<bool, MoveFault> {
        let takes = *self.common.standing.borrow() == Standing::Takes;
        let outbox = self.common.outbox.clone();
        let has_orphans = outbox.as_ref().is_some_and(|outbox| outbox.has_found());
        if takes && !is_tidying && !has_orphans && !self.waiting.is_there() {
            return Ok(false);
        }
        let mut connection = self.common.address.open().await?;
        marks::register(&mut connection, &self.common.rules.dir).await?;
        self.empty(&mut connection).await?;
        // Where nothing waited, that it can be written was seen when it was opened.
        self.common.enter();
        if let Some(outbox) = outbox {
            adopt(&outbox, &mut connection, &self.common.rules.dir).await?;
        }
        let has_more = if is_tidying {
            let tidied = timeout(MOVE_MAX, self.tidy(&mut connection)).await;
            tidied.map_err(|_| PostgresFault::Late)??
        } else {
            false
        };
        drop(connection.close().await);
        Ok(has_more)
    }

    async fn until_found(&self) {
        match &self.common.outbox {
            Some(outbox) => outbox.until_found().await,
            None => std::future::pending().await,
        }
    }

    async fn empty(&mut self, connection: &mut PgConnection) -> Result<(), MoveFault> {
        if !self.waiting.is_there() {
            return Ok(());
        }
        let replica = replica::of(&self.common.rules.dir).map_err(MoveFault::Replica)?;
        let common = Arc::clone(&self.common);
        let mut moved = 0;
        loop {
            let _moving = common.moving.lock().await;
            let batch = self.waiting.page(None).await?;
            if batch.is_empty() {
                break;
            }
            let secret = SubjectSecret::find(&common.rules.dir).ok().flatten();
            let sending = bring(connection, secret.as_ref(), &replica, &batch);
            let sent = timeout(MOVE_MAX, sending).await;
            sent.map_err(|_| PostgresFault::Late)??;
            self.waiting.remove(&batch).await?;
            let count = batch.len() as u64;
            moved += count;
            self.common
                .tally
                .written
                .fetch_add(count, Ordering::Relaxed);
            self.tell_waiting().await?;
            // It took one: what comes now need not wait.
            self.common.enter();
        }
        self.tell_waiting().await?;
        if moved > 0 {
            info!(
                count = moved,
                "records that waited were brought to Postgres"
            );
        }
        Ok(())
    }

    async fn tell_waiting(&mut self) -> Result<(), MoveFault> {
        let count = u64::try_from(self.waiting.count().await?).unwrap_or(0);
        self.common.tally.waiting.store(count, Ordering::Relaxed);
        Ok(())
    }

    /// Removes some of what is too old. One replica does at a time.
    async fn tidy(&self, connection: &mut PgConnection) -> Result<bool, MoveFault> {
        let oldest = oldest_us(self.common.rules.keep);
        let mut transaction = connection.begin().await?;
        let is_ours: bool = query_scalar("SELECT pg_try_advisory_xact_lock($1)")
            .bind(TIDY_LOCK)
            .persistent(false)
            .fetch_one(&mut *transaction)
            .await?;
        if !is_ours {
            return Ok(false);
        }
        let removed = sqlx::query(
            "DELETE FROM hedge.records WHERE ended_us <= (
                 SELECT MAX(ended_us) FROM (
                     SELECT ended_us FROM hedge.records WHERE ended_us < $1
                     ORDER BY ended_us LIMIT $2
                 ) AS old
             )",
        )
        .bind(oldest)
        .bind(TIDY_ROWS)
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let count = removed.rows_affected();
        if count > 0 {
            info!(count, "old records were removed");
        }
        Ok(count > 0)
    }
}

/// Brings records that replicas which died had not brought. Where that fails they are found again.
async fn adopt(
    outbox: &Outbox,
    connection: &mut PgConnection,
    dir: &Path,
) -> Result<(), PostgresFault> {
    let (orphans, damaged) = outbox.take_found();
    if !damaged.is_empty() {
        let count = damaged.len();
        warn!(
            count,
            "records of other replicas that Redis kept cannot be read, and are lost"
        );
        outbox.give_up(damaged);
    }
    if orphans.is_empty() {
        return Ok(());
    }
    let own = SubjectSecret::find(dir).ok().flatten();
    let secrets = match &own {
        Some(own) => Some(KnownSecrets::read(connection, own).await?),
        None => None,
    };
    for (replica, records) in orphans {
        let secret = secrets.as_ref().map(|secrets| secrets.of(&replica));
        let sent = timeout(MOVE_MAX, bring(connection, secret, &replica, &records)).await;
        let count = sent.map_err(|_| PostgresFault::Late)??;
        outbox.written(&replica, &records);
        if count > 0 {
            info!(
                replica,
                count, "records of a replica that died were brought to Postgres"
            );
        }
    }
    Ok(())
}

/// Writes what may be there already, also under another name: somebody may have been erased there or here
/// since it was sent first, and `secret` is what its replica marks with.
async fn bring(
    connection: &mut PgConnection,
    secret: Option<&SubjectSecret>,
    replica: &str,
    batch: &[KeptRecord],
) -> Result<u64, sqlx::Error> {
    let Some(secret) = secret else {
        return row::insert(connection, replica, batch).await;
    };
    let mut transaction = connection.begin().await?;
    // Nobody is erased between the look and the writing.
    transaction.execute(row::LOCK).await?;
    let batch = marks::without_renamed(&mut transaction, secret, replica, batch).await?;
    let count = match batch.is_empty() {
        true => 0,
        false => row::insert(&mut transaction, replica, &batch).await?,
    };
    transaction.commit().await?;
    Ok(count)
}
