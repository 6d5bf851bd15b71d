//! The one that talks with Redis: it greets it, asks it what others want to take, and tells it what was
//! used, in one task.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::Grant;
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use redis::{AsyncConnectionConfig, Client};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

use super::book::{BATCH_MAX, Refused};
use super::script::{Broken, Caller, Entry, Keys, Kind, Reply, Scripts, Want};
use super::{Desk, SharedRules, users};
use crate::outbox::Outbox;
use crate::redis_address::moved;

/// Takes that wait to be asked; more wait for these, as long as an answer may take.
pub const ASKS_MAX: usize = 1_024;

/// Takes that were asked and not answered.
const ASKED_MAX: usize = 1_024;

/// Between two attempts to reach Redis.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// For a connection, and for each answer that nobody waits for; as long as a take waits where that is longer.
const CALL_MAX: Duration = Duration::from_secs(1);

/// For all that comes before the first take of a connection. Each step of it has its own time-out.
const LINK_MAX: Duration = Duration::from_secs(10);

/// How often a take is asked anew in other windows of the calendar: around midnight once.
const TURNS_MAX: u8 = 2;

/// How often a lease is renewed, and how often it is looked how limits stand.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// So long all replicas may restate what they know to a Redis that began anew, before any of them takes
/// from it.
const GATHER: Duration = Duration::from_secs(1);

/// For what is yet to be settled when the node ends.
const FINISH_MAX: Duration = Duration::from_secs(2);

/// Leases of ours that a new one takes over from. Older ones have ended by themselves, or soon do.
const LEASES_KEPT: usize = 16;

/// Names of records that are removed in one call.
const WRITTEN_BATCH_MAX: usize = 1_000;

/// Somebody wants to take.
#[derive(Debug)]
pub struct Ask {
    pub wants: Vec<Want>,
    /// How often it was asked in other windows.
    pub turns: u8,
    pub answer: oneshot::Sender<Result<Grant, Refused>>,
}

/// The driver.
pub struct SharedDriver {
    desk: Arc<Desk>,
    asks: mpsc::Receiver<Ask>,
    lists: mpsc::Receiver<users::List>,
    /// As configured.
    home: Client,
    rules: SharedRules,
    scripts: Arc<Scripts>,
    /// Of this replica, so far.
    leases: u64,
    /// The latest of them.
    last_leases: Vec<String>,
}

/// Shared counts that can be asked.
struct Link {
    number: u64,
    caller: Caller,
}

enum End {
    Stopped(Box<Caller>),
    Broken(Broken),
}

type Answered = (Ask, Result<Reply, Broken>);

impl SharedDriver {
    pub(super) fn new(
        desk: Arc<Desk>,
        asks: mpsc::Receiver<Ask>,
        lists: mpsc::Receiver<users::List>,
        home: Client,
        rules: SharedRules,
    ) -> Self {
        Self {
            desk,
            asks,
            lists,
            home,
            rules,
            scripts: Arc::default(),
            leases: 0,
            last_leases: Vec::new(),
        }
    }

    /// Asks and tells until `stop`, and then tells what is left to be told. After that nobody should
    /// count any more.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop.fuse());
        let mut is_said = false;
        loop {
            let linking = async {
                match timeout(LINK_MAX.max(self.rules.answer_max), self.link()).await {
                    Ok(linked) => linked,
                    Err(_) => Err(Broken::TimedOut),
                }
            };
            let linked = tokio::select! {
                biased;
                () = &mut stop => return self.leave_unsettled(),
                linked = linking => linked,
            };
            let broken = match linked {
                Ok(link) => {
                    info!("limits are counted with the other replicas'");
                    self.desk.is_shared.send_replace(true);
                    let number = link.number;
                    let end = self.serve(link, &mut stop).await;
                    self.desk.part(number);
                    match end {
                        End::Stopped(caller) => return self.finish(*caller).await,
                        End::Broken(broken) => {
                            is_said = false;
                            broken
                        }
                    }
                }
                Err(broken) => {
                    self.follow(&broken);
                    broken
                }
            };
            // Whoever still waits goes on alone.
            while self.asks.try_recv().is_ok() {}
            while self.lists.try_recv().is_ok() {}
            if !is_said {
                let replicas = self.rules.replicas;
                warn!(error = %broken, replicas, "limits are counted apart: the shared counts cannot be asked");
                is_said = true;
            }
            tokio::select! {
                biased;
                () = &mut stop => return self.leave_unsettled(),
                () = sleep(RETRY_EVERY) => {}
            }
        }
    }

    /// Connects, greets, and says what this replica holds and knows.
    async fn link(&mut self) -> Result<Link, Broken> {
        let call_max = CALL_MAX.max(self.rules.answer_max);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(call_max))
            .set_response_timeout(Some(call_max));
        let client = self.desk.client().clone();
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connecting.await?;
        self.leases += 1;
        let lease = format!("{}#{}", self.rules.replica, self.leases);
        let last_leases = self.last_leases.clone();
        self.last_leases.push(lease.clone());
        if self.last_leases.len() > LEASES_KEPT {
            self.last_leases.remove(0);
        }
        let mut caller = Caller {
            connection,
            keys: Keys::new(&self.rules.prefix),
            replica: self.rules.replica.clone(),
            lease,
            last_leases,
            lease_micros: u64::try_from(self.rules.lease.as_micros()).unwrap_or(u64::MAX),
        };
        let welcome = caller.hello(&self.scripts).await?;
        let is_other = self
            .desk
            .book()
            .greeted(&welcome.generation, welcome.batch, welcome.unix);
        if is_other {
            self.desk.tally.generations.fetch_add(1, Ordering::Relaxed);
            if welcome.was_empty {
                error!("the shared counts were lost; they go on from what replicas remember");
            } else {
                warn!("the shared counts were started anew, and may have lost their last second");
            }
        }
        let mut gather = GATHER.checked_sub(Duration::from_millis(welcome.age_ms));
        loop {
            // Before the last look at what is to be told: alone this replica goes on meanwhile.
            let is_stated = self.desk.book().is_stated();
            if is_stated && let Some(rest) = gather.take() {
                sleep(rest).await;
            }
            let stated = match self.desk.book().restated() {
                Ok(number) => return Ok(Link { number, caller }),
                Err(stated) => stated,
            };
            let told = caller.restate(&self.scripts, &stated).await;
            let seen = told.and_then(|reply| reply.seen(stated.iter().map(|_| true)));
            match seen {
                Ok(seen) => self.desk.book().heard(&stated, &seen),
                Err(broken) => {
                    self.desk.book().unheard(stated);
                    return Err(broken);
                }
            }
        }
    }

    /// The node of a cluster that has our keys may be another one. One that cannot be reached is asked for
    /// anew where we were told to begin.
    fn follow(&mut self, broken: &Broken) {
        let there = self.moved(broken).unwrap_or_else(|| self.home.clone());
        *self.desk.client() = there;
    }

    fn moved(&self, broken: &Broken) -> Option<Client> {
        let Broken::Redis(error) = broken else {
            return None;
        };
        moved(&self.home, error)
    }

    async fn serve(
        &mut self,
        link: Link,
        stop: &mut (impl FusedFuture<Output = ()> + Unpin),
    ) -> End {
        let desk = Arc::clone(&self.desk);
        let mut asked: FuturesUnordered<BoxFuture<'static, Answered>> = FuturesUnordered::new();
        let mut telling = pin!(Fuse::terminated());
        let mut looking = pin!(Fuse::terminated());
        let mut listing = pin!(Fuse::terminated());
        let mut ticks = interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What waited for this link.
        desk.unsettled.notify_one();
        loop {
            let came = tokio::select! {
                biased;
                () = &mut *stop => return End::Stopped(Box::new(link.caller)),
                () = desk.trouble.notified() => {
                    if desk.book().link() == Some(link.number) {
                        // It was another link's.
                        continue;
                    }
                    return End::Broken(Broken::TimedOut);
                }
                Some((ask, answer)) = asked.next(), if !asked.is_empty() => self.answer(&link, ask, answer, &asked),
                told = &mut telling, if !telling.is_terminated() => {
                    // More may have come meanwhile.
                    desk.unsettled.notify_one();
                    told
                }
                Some(ask) = self.asks.recv(), if asked.len() < ASKED_MAX => {
                    asked.push(self.ask(&link, ask));
                    Ok(())
                }
                () = desk.unsettled.notified(), if telling.is_terminated() => {
                    if let Some(tell) = self.tell(&link.caller) {
                        telling.set(tell.fuse());
                    }
                    Ok(())
                }
                looked = &mut looking, if !looking.is_terminated() => looked,
                () = &mut listing, if !listing.is_terminated() => Ok(()),
                Some(list) = self.lists.recv(), if listing.is_terminated() => {
                    listing.set(self.list(&link.caller, list).fuse());
                    Ok(())
                }
                _ = ticks.tick(), if looking.is_terminated() => {
                    looking.set(self.look(&link.caller, true).fuse());
                    Ok(())
                }
                () = desk.look.notified(), if looking.is_terminated() => {
                    looking.set(self.look(&link.caller, false).fuse());
                    Ok(())
                }
            };
            if let Err(broken) = came {
                return End::Broken(broken);
            }
        }
    }

    fn ask(&self, link: &Link, ask: Ask) -> BoxFuture<'static, Answered> {
        let (scripts, mut caller) = (Arc::clone(&self.scripts), link.caller.clone());
        async move {
            let answer = caller.take(&scripts, &ask.wants).await;
            (ask, answer)
        }
        .boxed()
    }

    fn answer(
        &self,
        link: &Link,
        ask: Ask,
        answer: Result<Reply, Broken>,
        asked: &FuturesUnordered<BoxFuture<'static, Answered>>,
    ) -> Result<(), Broken> {
        let reply = answer?;
        let Ask {
            mut wants,
            turns,
            answer,
        } = ask;
        let mut book = self.desk.book();
        if reply.word == "window" {
            if turns == TURNS_MAX {
                return Err(Broken::Odd);
            }
            // Midnight, or a clock that is another: asked anew, while the one who asks waits.
            book.turn(&mut wants, reply.unix);
            drop(book);
            let ask = Ask {
                wants,
                turns: turns + 1,
                answer,
            };
            asked.push(self.ask(link, ask));
            return Ok(());
        }
        let are_accounts = wants.iter().map(is_account);
        let seen = reply.seen(are_accounts)?;
        let answered = match reply.word.as_str() {
            "taken" => {
                let (parts, left) = book.grant(wants, &seen);
                drop(book);
                Ok(self.desk.grant(parts, left))
            }
            "spent" => {
                let refused = book.refuse(&wants, &seen);
                drop(book);
                Err(refused)
            }
            _ => return Err(Broken::Odd),
        };
        // Who left meanwhile gives the grant back by dropping it.
        drop(answer.send(answered));
        Ok(())
    }

    /// What is to be told, if anything.
    fn tell(&self, caller: &Caller) -> Option<BoxFuture<'static, Result<(), Broken>>> {
        let batch = self.desk.book().batch()?;
        let (scripts, mut caller) = (Arc::clone(&self.scripts), caller.clone());
        let desk = Arc::clone(&self.desk);
        let telling = async move {
            let reply = caller.settle(&scripts, &batch).await?;
            let entries = batch.entries.iter();
            let seen = reply.seen(entries.map(|it| matches!(it, Entry::Account { .. })))?;
            let (warnings, told) = {
                let mut book = desk.book();
                let told = book.sent_records();
                (book.counted(&seen), told)
            };
            if let Some(outbox) = desk.outbox() {
                outbox.told(told);
            }
            desk.warn(warnings);
            Ok(())
        };
        Some(telling.boxed())
    }

    /// Looks how limits stand, and says that we live.
    fn look(&self, caller: &Caller, renews: bool) -> BoxFuture<'static, Result<(), Broken>> {
        let (scripts, mut caller) = (Arc::clone(&self.scripts), caller.clone());
        let desk = Arc::clone(&self.desk);
        async move {
            if renews {
                let reply = caller.renew(&scripts).await?;
                desk.book().note_time(reply.unix);
                if let Some(outbox) = desk.outbox() {
                    tend(outbox, &scripts, &mut caller).await?;
                }
            }
            let wants = desk.book().looks();
            for wants in wants.chunks(BATCH_MAX) {
                let reply = caller.take(&scripts, wants).await?;
                if reply.word == "window" {
                    desk.book().note_time(reply.unix);
                    break;
                }
                let seen = reply.seen(wants.iter().map(is_account))?;
                desk.book().look(wants, &seen);
            }
            if renews {
                users::tell(&desk, &scripts, &mut caller).await;
            }
            Ok(())
        }
        .boxed()
    }

    /// Looks up which users are nearest to the end of a limit.
    fn list(&self, caller: &Caller, list: users::List) -> BoxFuture<'static, ()> {
        let (scripts, mut caller) = (Arc::clone(&self.scripts), caller.clone());
        let desk = Arc::clone(&self.desk);
        async move {
            if let Some(users) = users::list(&desk, &scripts, &mut caller).await {
                // Who asked may have left.
                drop(list.send(users));
            }
        }
        .boxed()
    }

    /// Tells what is left to be told, and gives the lease back.
    async fn finish(&self, mut caller: Caller) {
        let finishing = async {
            while let Some(tell) = self.tell(&caller) {
                tell.await?;
            }
            caller.leave().await
        };
        match timeout(FINISH_MAX, finishing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(%error, "the shared counts could not be told all");
                self.leave_unsettled();
            }
            Err(_) => self.leave_unsettled(),
        }
    }

    fn leave_unsettled(&self) {
        let unsettled = self.desk.book().unsettled();
        if unsettled > 0 {
            error!(
                unsettled,
                "this replica ends before the shared counts were told all it used"
            );
        }
    }
}

/// Removes from Redis what is on a disk by now, and looks for what a replica that died left there.
async fn tend(outbox: &Outbox, scripts: &Scripts, caller: &mut Caller) -> Result<(), Broken> {
    loop {
        let written = outbox.take_written(WRITTEN_BATCH_MAX);
        if written.is_empty() {
            break;
        }
        caller.forget(&written).await?;
    }
    outbox.find(caller.orphans(scripts).await?);
    Ok(())
}

pub(super) fn is_account(want: &Want) -> bool {
    matches!(want.kind, Kind::Account { .. })
}

impl std::fmt::Debug for SharedDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedDriver")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
