//! The one that talks with Redis while requests are answered: it asks what others look for, writes what is
//! kept, and hears what was said to be removed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::CacheKey;
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use redis::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use super::script::{Broken, Caller, Found, Placed, Put, Room, Written};
use super::{ASIDE_BYTES, DROP_COUNT, Desk, VALUE_BYTES_MAX, count};
use crate::moka_replies::aside;
use crate::redis_address::moved;

/// Between two attempts to reach Redis.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// Connecting, and hearing all that was said meanwhile.
const LINK_MAX: Duration = Duration::from_secs(5);

/// How often what was said is asked for in the time of one lease.
const LOOKS_PER_LEASE: u32 = 4;

/// Looks that were asked and not answered.
const ASKED_MAX: usize = 1_024;

/// How often it is looked how much room there is.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Of the memory that Redis may have, so many quarters are free for replies among all else. Beyond that none
/// is written, and some go each time, until what counts has room again.
const QUARTERS: u64 = 3;

/// Replies that go each time.
const LESS: usize = 512;

/// Somebody looks for a reply.
#[derive(Debug)]
pub struct Ask {
    pub key: CacheKey,
    pub answer: oneshot::Sender<Found>,
}

/// The driver.
pub struct ReplyDriver {
    desk: Arc<Desk>,
    /// As configured.
    home: Client,
    looks: mpsc::Receiver<Ask>,
    puts: mpsc::Receiver<Put>,
}

type Call = BoxFuture<'static, Result<(), Broken>>;

impl ReplyDriver {
    pub(super) fn new(
        desk: Arc<Desk>,
        home: Client,
        looks: mpsc::Receiver<Ask>,
        puts: mpsc::Receiver<Put>,
    ) -> Self {
        Self {
            desk,
            home,
            looks,
            puts,
        }
    }

    /// Asks and writes until nobody looks or keeps any more.
    pub async fn run(mut self) {
        let mut is_said = false;
        loop {
            let linked = match timeout(LINK_MAX, self.link()).await {
                Ok(linked) => linked,
                Err(_) => Err(Broken::TimedOut),
            };
            let broken = match linked {
                Ok((caller, run)) => {
                    info!("replies are shared with the other replicas");
                    self.desk.is_linked.store(true, Ordering::Relaxed);
                    let end = self.serve(&caller, &run).await;
                    self.desk.is_linked.store(false, Ordering::Relaxed);
                    let Err(broken) = end else {
                        return;
                    };
                    count(&self.desk.tally.partings);
                    is_said = false;
                    broken
                }
                Err(broken) => {
                    self.follow(&broken);
                    broken
                }
            };
            // Who waits for an answer has a miss, and what was to be written is in memory alone.
            while self.looks.try_recv().is_ok() {}
            while self.puts.try_recv().is_ok() {
                count(&self.desk.tally.lost);
            }
            if !is_said {
                warn!(error = %broken, "replies are not shared: their Redis cannot be asked");
                is_said = true;
            }
            if self.looks.is_closed() {
                return;
            }
            sleep(RETRY_EVERY).await;
        }
    }

    /// Connects, and hears what was said.
    async fn link(&self) -> Result<(Caller, String), Broken> {
        let mut caller = self.desk.caller().await?;
        let run = caller.run().await?;
        hear(Arc::clone(&self.desk), caller.clone(), run.clone()).await?;
        Ok((caller, run))
    }

    /// The node of a cluster that has our keys may be another one. One that cannot be reached is asked for
    /// anew where we were told to begin.
    fn follow(&self, broken: &Broken) {
        let there = match broken {
            Broken::Redis(error) => moved(&self.home, error),
            Broken::TimedOut => None,
        };
        *self.desk.client() = there.unwrap_or_else(|| self.home.clone());
    }

    async fn serve(&mut self, caller: &Caller, run: &str) -> Result<(), Broken> {
        let desk = Arc::clone(&self.desk);
        let mut asked: FuturesUnordered<Call> = FuturesUnordered::new();
        let mut writing = pin!(Fuse::terminated());
        let mut hearing = pin!(Fuse::terminated());
        let mut tidying = pin!(Fuse::terminated());
        let mut looks = interval(desk.rules.lease / LOOKS_PER_LEASE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tidies = interval(TIDY_EVERY);
        tidies.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(answered) = asked.next(), if !asked.is_empty() => answered?,
                heard = &mut hearing, if !hearing.is_terminated() => heard?,
                wrote = &mut writing, if !writing.is_terminated() => wrote?,
                tidied = &mut tidying, if !tidying.is_terminated() => tidied?,
                ask = self.looks.recv(), if asked.len() < ASKED_MAX => match ask {
                    Some(ask) => asked.push(look(caller.clone(), ask)),
                    // Nobody is there any more.
                    None => return Ok(()),
                },
                Some(put) = self.puts.recv(), if writing.is_terminated() => {
                    writing.set(write(Arc::clone(&desk), caller.clone(), put).fuse());
                }
                _ = looks.tick(), if hearing.is_terminated() => {
                    hearing.set(hear(Arc::clone(&desk), caller.clone(), run.to_owned()).fuse());
                }
                () = desk.look.notified(), if hearing.is_terminated() => {
                    hearing.set(hear(Arc::clone(&desk), caller.clone(), run.to_owned()).fuse());
                }
                _ = tidies.tick(), if tidying.is_terminated() => {
                    tidying.set(tidy(Arc::clone(&desk), caller.clone()).fuse());
                }
            }
        }
    }
}

/// An error that Redis itself answers, being full or not allowing it, breaks no link.
fn is_broken(broken: &Broken) -> bool {
    match broken {
        Broken::TimedOut => true,
        Broken::Redis(error) => {
            error.is_io_error() || error.is_unrecoverable_error() || error.redirect_node().is_some()
        }
    }
}

fn look(mut caller: Caller, ask: Ask) -> Call {
    async move {
        match caller.find(&ask.key).await {
            // Who left meanwhile needs none.
            Ok(found) => drop(ask.answer.send(found)),
            Err(broken) if is_broken(&broken) => return Err(broken),
            // The asker sees that nobody answers.
            Err(_) => {}
        }
        Ok(())
    }
    .boxed()
}

fn write(desk: Arc<Desk>, mut caller: Caller, put: Put) -> Call {
    async move {
        let tally = &desk.tally;
        if desk.is_tight.load(Ordering::Relaxed) {
            count(&tally.full);
            return Ok(());
        }
        let written = if put.kept.reply.bytes() > ASIDE_BYTES {
            let kept = Arc::clone(&put.kept);
            aside(move || Written::of(&kept)).await
        } else {
            Written::of(&put.kept)
        };
        let Some(written) = written else {
            count(&tally.lost);
            return Ok(());
        };
        if written.value.len() > VALUE_BYTES_MAX {
            count(&tally.full);
            return Ok(());
        }
        match caller.put(&put, &written, desk.rules.far_bytes_max).await {
            Ok(Placed::Kept) => count(&tally.kept),
            Ok(Placed::Stale) => {
                count(&tally.stale);
                desk.look.notify_one();
            }
            Ok(Placed::Full) => count(&tally.full),
            Err(broken) => {
                count(&tally.lost);
                if is_broken(&broken) {
                    return Err(broken);
                }
            }
        }
        Ok(())
    }
    .boxed()
}

/// Hears what was said, and goes by it from when it was asked for on.
fn hear(desk: Arc<Desk>, mut caller: Caller, run: String) -> Call {
    async move {
        let asked_at = Instant::now();
        let known = desk.standing().stamp();
        let news = caller.sync(known.clone(), &fresh(), &run).await?;
        let begins = news.begins;
        if begins {
            warn!("replies that were shared do not count any more: their Redis began anew");
        }
        if known.as_ref() != Some(&news.now) {
            let hearer = Arc::clone(&desk);
            aside(move || hearer.standing().hear(news, &hearer.near)).await;
        }
        let until = desk.micros(asked_at + desk.rules.lease);
        desk.fresh_until.store(until, Ordering::Release);
        if begins {
            // What is left of them is of no use, and may be somebody's.
            sweep(&mut caller).await?;
        }
        Ok(())
    }
    .boxed()
}

/// The name of a generation, should one begin.
pub(super) fn fresh() -> String {
    Uuid::new_v4().simple().to_string()
}

async fn sweep(caller: &mut Caller) -> Result<(), Broken> {
    let mut cursor = 0;
    loop {
        let (next, listed) = caller.listed(cursor).await?;
        let keys: Vec<CacheKey> = listed.into_iter().map(|(key, _)| key).collect();
        for keys in keys.chunks(DROP_COUNT) {
            caller.drop(keys).await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

fn tidy(desk: Arc<Desk>, mut caller: Caller) -> Call {
    async move {
        let room = caller.room().await?;
        let is_tight = room.is_some_and(is_tight);
        if desk.is_tight.swap(is_tight, Ordering::Relaxed) != is_tight {
            if is_tight {
                warn!("replies give way in their Redis, whose memory is three quarters full");
            } else {
                info!("replies are kept in their Redis again");
            }
        }
        match caller.tidy(if is_tight { LESS } else { 0 }).await {
            Ok((entries, bytes)) => {
                desk.tally.entries.store(entries, Ordering::Relaxed);
                desk.tally.bytes.store(bytes, Ordering::Relaxed);
            }
            Err(broken) if is_broken(&broken) => return Err(broken),
            Err(_) => {}
        }
        Ok(())
    }
    .boxed()
}

fn is_tight(room: Room) -> bool {
    room.most > 0 && room.used / QUARTERS >= room.most / (QUARTERS + 1)
}

impl std::fmt::Debug for ReplyDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyDriver")
            .field("rules", &self.desk.rules)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_memory_is_left_to_what_counts() {
        for (used, most, wanted) in [
            (0, 0, false),
            (u64::MAX, 0, false),
            (74, 100, false),
            (75, 100, true),
            (200, 100, true),
        ] {
            assert_eq!(is_tight(Room { used, most }), wanted, "{used} of {most}");
        }
    }
}
