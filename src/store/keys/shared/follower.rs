//! Whoever hears of changes that other replicas made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info};

use super::super::kept::KeyFault;
use super::bell::Bell;
use super::{Common, KEYS_POLL_EVERY, StampedRows, cause, late, row};
use crate::postgres::PostgresFault;

/// For a connection, and for the schema to be brought forward where it is an old one.
const LINK_MAX: Duration = Duration::from_secs(5);
/// For the generation. Beyond that it is asked over another connection.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Looks in a row that were late, until Postgres counts as away. One may be held up by this machine alone.
const LATE_MAX: u32 = 2;
/// For all rows.
const LOAD_MAX: Duration = Duration::from_secs(10);
/// Everything is read that often though nothing changed: on which days keys were last used elsewhere.
const RELOAD_EVERY: Duration = Duration::from_secs(60);
/// Between two looks, however often somebody says that there is something to see.
const LOOK_GAP: Duration = Duration::from_millis(10);

/// The driver.
#[derive(Debug)]
pub struct KeyFollower {
    common: Arc<Common>,
    bell: Option<Bell>,
}

impl KeyFollower {
    pub(super) fn new(common: Arc<Common>, bell: Option<Bell>) -> Self {
        Self { common, bell }
    }

    /// Never ends by itself, and may be dropped at any time.
    pub async fn run(self) {
        let bell = async {
            if let Some(bell) = self.bell {
                bell.run(&self.common).await;
            }
        };
        tokio::join!(follow(&self.common), bell);
    }
}

async fn follow(common: &Common) {
    let mut connection = None;
    let mut reload_at = Instant::now();
    let mut late_looks = 0;
    loop {
        let is_due = Instant::now() >= reload_at;
        match look(common, &mut connection, is_due).await {
            Ok(found) => {
                if is_due {
                    reload_at = Instant::now() + RELOAD_EVERY;
                }
                late_looks = 0;
                common.enter(found);
            }
            Err(fault) => {
                connection = None;
                // What is there when it is back is read, whatever its number.
                reload_at = Instant::now();
                late_looks += 1;
                let is_late = matches!(fault, KeyFault::Postgres(PostgresFault::Late));
                if !is_late || late_looks >= LATE_MAX {
                    common.leave(&fault);
                }
            }
        }
        sleep(LOOK_GAP).await;
        tokio::select! {
            () = sleep(KEYS_POLL_EVERY) => {}
            () = common.look.notified() => {}
        }
    }
}

/// Asks which generation there is, and reads it where it is another than the one known.
async fn look(
    common: &Common,
    kept: &mut Option<PgConnection>,
    is_due: bool,
) -> Result<Option<StampedRows>, KeyFault> {
    if kept.is_none() {
        let linked = timeout(LINK_MAX, async {
            let mut connection = common.address.open().await?;
            row::begin(&mut connection, common.fresh).await?;
            Ok::<_, KeyFault>(connection)
        });
        *kept = Some(linked.await.map_err(|_| late())??);
    }
    let Some(connection) = kept else {
        return Err(late());
    };
    let asked = timeout(ANSWER_MAX, row::generation(connection));
    let found = asked.await.map_err(|_| late())??;
    // Somebody emptied the table under a connection that was there.
    let found = found.ok_or(KeyFault::Postgres(PostgresFault::Sql(
        sqlx::Error::RowNotFound,
    )))?;
    let is_known = i64::try_from(found) == Ok(common.known.load(Ordering::Acquire));
    if is_known && !is_due {
        return Ok(None);
    }
    let turn = common.turn.load(Ordering::Acquire);
    let loaded = timeout(LOAD_MAX, row::load(connection));
    let rows = loaded.await.map_err(|_| late())??;
    common.accept(&rows)?;
    Ok(Some(StampedRows {
        rows: Arc::new(rows),
        turn,
    }))
}

impl Common {
    /// It answered. Who hears of rows may change them at once: it is told with them that Postgres is there.
    fn enter(&self, found: Option<StampedRows>) {
        let was = self.heard.borrow().is_away;
        if was == Some(false) && found.is_none() {
            return;
        }
        self.heard.send_modify(|heard| {
            heard.is_away = Some(false);
            if found.is_some() {
                heard.rows = found;
            }
        });
        match was {
            Some(false) => {}
            Some(true) => info!(postgres = %self.address, "keys are those of all replicas again"),
            None => info!(postgres = %self.address, "keys are those of all replicas"),
        }
    }

    /// It did not, or with something that cannot be taken. Said once.
    fn leave(&self, fault: &KeyFault) {
        let was = self.heard.borrow().is_away;
        if was == Some(true) {
            return;
        }
        // Whoever hears of it may look at the count at once.
        self.partings.fetch_add(1, Ordering::Relaxed);
        self.heard.send_modify(|heard| heard.is_away = Some(true));
        error!(postgres = %self.address, error = %fault, cause = cause(fault),
            "keys that replicas share cannot be asked for: those known go on opening, and none is changed \
             until Postgres answers again");
    }
}
