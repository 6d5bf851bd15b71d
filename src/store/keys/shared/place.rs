//! The place in Postgres: one connection to change things with, of whoever changes them here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, raw_sql};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::kept::{KeyFault, KeyPlace, KeyRow, Rows};
use super::{Common, KeysHeard, SharedKeyCounts, StampedRows, late, row};

/// For one step of a change. Beyond that the connection is taken to be dead.
const STEP_MAX: Duration = Duration::from_secs(2);

/// The first waits for another replica's change for at most so long, and a replica that stops in the
/// middle of one is thrown out after the second.
const BEGIN: &str = "
    BEGIN;
    SET LOCAL lock_timeout = '1s';
    SET LOCAL idle_in_transaction_session_timeout = '5s';
";

/// Keys in a Postgres that replicas share.
pub struct SharedKeys {
    common: Arc<Common>,
    connection: Option<PgConnection>,
    /// With a transaction under way.
    turn: Option<PgConnection>,
}

impl SharedKeys {
    pub(super) fn of(common: Arc<Common>) -> Self {
        Self {
            common,
            connection: None,
            turn: None,
        }
    }

    /// What is heard of others' changes.
    #[must_use]
    pub fn heard(&self) -> watch::Receiver<KeysHeard> {
        self.common.heard.subscribe()
    }

    /// Tells how it stands, also while somebody else has the place.
    pub fn watcher(&self) -> impl Fn() -> SharedKeyCounts + Send + Sync + 'static {
        let common = Arc::clone(&self.common);
        move || common.counts()
    }

    /// Whether `heard` is what to go on from. Rows that were read before this replica's own last turn are
    /// not.
    #[must_use]
    pub fn takes(&self, heard: &StampedRows) -> bool {
        let turn = self.common.turn.load(Ordering::Acquire);
        if heard.turn != turn {
            return false;
        }
        self.common.know(heard.rows.generation);
        true
    }

    /// Has everything read again, whether it changed or not.
    pub fn forget(&self) {
        self.common.forget();
    }

    async fn connected(&mut self) -> Result<PgConnection, KeyFault> {
        if self.common.is_away() {
            return Err(KeyFault::Away);
        }
        // One that was left since the last change may have ended with a server that is back by now.
        if let Some(mut connection) = self.connection.take()
            && connection.ping().await.is_ok()
        {
            return Ok(connection);
        }
        Ok(self.common.address.connect().await?)
    }

    /// Gives the connection back once `step` has ended well.
    fn ended<T>(
        &mut self,
        step: Result<Result<(PgConnection, T), KeyFault>, tokio::time::error::Elapsed>,
    ) -> Result<T, KeyFault> {
        match step.unwrap_or_else(|_| Err(late())) {
            Ok((connection, given)) => {
                self.connection = Some(connection);
                Ok(given)
            }
            Err(fault) => {
                // Somebody finds out whether it is Postgres.
                self.common.look.notify_one();
                Err(fault)
            }
        }
    }
}

#[async_trait]
impl KeyPlace for SharedKeys {
    async fn begin(&mut self, known: Option<u64>) -> Result<Option<Rows>, KeyFault> {
        let common = Arc::clone(&self.common);
        let begun = timeout(STEP_MAX, async {
            let mut connection = self.connected().await?;
            connection.execute(raw_sql(BEGIN)).await?;
            let found = match row::generation_alone(&mut connection).await? {
                Some(found) => found,
                None => {
                    row::begin(&mut connection, common.fresh).await?;
                    let found = row::generation_alone(&mut connection).await?;
                    found.ok_or(KeyFault::NotBegun)?
                }
            };
            if known == Some(found) {
                return Ok((connection, None));
            }
            let rows = row::read(&mut connection).await?;
            common.accept(&rows)?;
            Ok((connection, Some(rows)))
        });
        let begun = begun.await;
        let rows = self.ended(begun)?;
        self.turn = self.connection.take();
        if let Some(rows) = &rows {
            self.common.turned(rows.generation);
        }
        Ok(rows)
    }

    async fn commit(&mut self, row: &KeyRow) -> Result<u64, KeyFault> {
        let mut connection = self.turn.take().ok_or(KeyFault::NotBegun)?;
        let committed = timeout(STEP_MAX, async {
            let generation = row::write(&mut connection, row).await?;
            connection.execute("COMMIT").await?;
            Ok((connection, generation))
        });
        let committed = committed.await;
        match self.ended(committed) {
            Ok(generation) => {
                self.common.turned(generation);
                if matches!(row, KeyRow::PutKey(_)) && !self.common.is_begun() {
                    // What the first key was hashed with is what keys are known by from here on.
                    self.common.forget();
                }
                self.common.made.send_replace(generation);
                Ok(generation)
            }
            Err(fault) => {
                // It may have been written.
                self.common.forget();
                Err(fault)
            }
        }
    }

    async fn abandon(&mut self) {
        if let Some(mut connection) = self.turn.take() {
            let back = timeout(STEP_MAX, async {
                connection.execute("ROLLBACK").await?;
                Ok((connection, ()))
            });
            let back = back.await;
            // The server does so by itself when the connection ends.
            drop(self.ended(back));
        }
    }

    async fn load(&mut self) -> Result<Rows, KeyFault> {
        let loaded = timeout(STEP_MAX, async {
            let mut connection = self.connected().await?;
            let rows = row::load(&mut connection).await?;
            Ok((connection, rows))
        });
        let loaded = loaded.await;
        self.ended(loaded)
    }

    async fn put_days(&mut self, days: &[(String, u32)]) -> Result<(), KeyFault> {
        let written = timeout(STEP_MAX, async {
            let mut connection = self.connected().await?;
            row::put_days(&mut connection, days).await?;
            Ok((connection, ()))
        });
        let written = written.await;
        self.ended(written)
    }
}

impl SharedKeys {
    /// Ends it in order.
    pub async fn close(mut self) {
        self.abandon().await;
        if let Some(connection) = self.connection.take() {
            drop(timeout(STEP_MAX, connection.close()).await);
        }
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKeys({})", self.common.address)
    }
}
