//! The driver behind the handle: it talks to the child, and starts the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

use super::desk::{Desk, Phase};
use super::frame::{ASK_BYTES_MAX, FrameReader, Pen, TELL_BYTES_MAX, put};
use super::launch::{Childlike, Death, Launch};
use super::words::{Card, Order, Word};
use crate::load::LoadError;
use crate::offload::Placement;

/// Loads that may fail in a row. One that fails three times will not do better the fourth.
const FAILED_LOADS_MAX: u32 = 3;
/// The first wait before a restart: most ends are not repeated.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A child that ran so long was in order: what failed before it is forgotten.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// Gigabytes from a slow disk take minutes. A child that takes longer is ended.
const LOAD_MAX: Duration = Duration::from_secs(30 * 60);
/// For words that were sent before the end and are still on the way.
const LAST_WORDS_MAX: Duration = Duration::from_millis(100);
/// For a child to end that was asked to. The node waits a little longer than this.
const STOP_MAX: Duration = Duration::from_secs(3);
/// For a child to be gone that has hung up, and again after it was killed.
const BURY_MAX: Duration = Duration::from_millis(500);

/// The parts into which the patience with a silent child is cut. They are counted, not the time, so
/// that a proxy that was itself held up does not take that for the child's silence.
const WATCHES: u32 = 8;
const HANGS: &str = "it made no progress for longer than hang_max";

/// A child that has loaded its model.
pub(super) struct Link<L: Launch> {
    stream: L::Stream,
    child: L::Child,
    reader: FrameReader,
    placement: Placement,
}

/// Why a child has not loaded it.
#[derive(Debug)]
pub(super) enum Unloaded {
    /// Cleanly, in its own words.
    Refused(String),
    Died(Death),
    /// It said something else, or nothing for too long, and was ended.
    Garbled(&'static str),
}

impl Unloaded {
    fn words(&self) -> String {
        match self {
            Unloaded::Refused(words) => words.clone(),
            Unloaded::Died(death) => death.to_string(),
            Unloaded::Garbled(what) => (*what).to_owned(),
        }
    }
}

/// What failed so far, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    failed_loads: u32,
    /// Since the last steady run.
    count: u32,
}

impl Restarts {
    /// The wait before the next try; `None` when there shall be none.
    fn load_failed(&mut self) -> Option<Duration> {
        self.failed_loads += 1;
        (self.failed_loads < FAILED_LOADS_MAX).then(|| self.backoff())
    }

    fn ended_after(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY_AFTER {
            *self = Self::default();
        }
        self.backoff()
    }

    /// Twice as long each time.
    fn backoff(&mut self) -> Duration {
        let doubled = BACKOFF_MIN.saturating_mul(1_u32.checked_shl(self.count).unwrap_or(u32::MAX));
        self.count += 1;
        doubled.min(BACKOFF_MAX)
    }
}

/// Loads the model for the first time. A child that dies is followed by another, up to the bound.
///
/// # Errors
/// It was refused, or every child died.
pub(super) async fn first<L: Launch>(
    launcher: &mut L,
    load: &Order,
    restarts: &mut Restarts,
) -> Result<(Link<L>, Card), LoadError> {
    loop {
        let unloaded = match hatch(launcher, load).await {
            Ok(loaded) => return Ok(loaded),
            Err(Unloaded::Refused(words)) => return Err(LoadError::Elsewhere { words }),
            Err(unloaded) => unloaded,
        };
        let reason = unloaded.words();
        match restarts.load_failed() {
            Some(wait) => {
                warn!(
                    reason,
                    wait_ms = wait.as_millis(),
                    "engine process died while loading"
                );
                sleep(wait).await;
            }
            None => {
                error!(
                    reason,
                    "engine process died while loading; the model is quarantined"
                );
                return Err(LoadError::Quarantined { reason });
            }
        }
    }
}

/// Starts one child and waits until it has loaded.
async fn hatch<L: Launch>(launcher: &mut L, load: &Order) -> Result<(Link<L>, Card), Unloaded> {
    let (mut stream, mut child) = launcher
        .launch()
        .map_err(|error| Unloaded::Died(Death::NotBorn(error.kind())))?;
    let mut reader = FrameReader::new(TELL_BYTES_MAX);
    let mut frame = Vec::new();
    put(&mut frame, load, ASK_BYTES_MAX)
        .map_err(|_| Unloaded::Refused("the model's path is no UTF-8".to_owned()))?;
    let answer = {
        let asking = async {
            // A child that is gone already says so by the end of its stream.
            let _ = stream.write_all(&frame).await;
            reader.next::<Word>(&mut stream).await
        };
        tokio::pin!(asking);
        tokio::select! {
            biased;
            answer = timeout(LOAD_MAX, &mut asking) => answer.ok(),
            _ = child.ended() => timeout(LAST_WORDS_MAX, &mut asking).await.ok(),
        }
    };
    match answer {
        Some(Ok(Some(Word::Ready { card, placement }))) if !card.is_empty() => {
            let link = Link {
                stream,
                child,
                reader,
                placement,
            };
            return Ok((link, card));
        }
        Some(Ok(Some(Word::Refused { words }))) => {
            bury(child).await;
            return Err(Unloaded::Refused(words));
        }
        Some(Ok(Some(_))) => child.kill(),
        Some(Ok(None) | Err(_)) | None => return Err(Unloaded::Died(bury(child).await)),
    }
    bury(child).await;
    Err(Unloaded::Garbled("it spoke out of its turn"))
}

/// Waits for the end of a child that should have none left to live.
async fn bury(mut child: impl Childlike) -> Death {
    if let Ok(death) = timeout(BURY_MAX, child.ended()).await {
        return death;
    }
    child.kill();
    timeout(BURY_MAX, child.ended())
        .await
        .unwrap_or(Death::Stuck)
}

/// The driver's parts.
pub(super) struct Supervisor<L: Launch> {
    pub launcher: L,
    pub load: Order,
    pub card: Card,
    pub restarts: Restarts,
    pub desk: Arc<Desk>,
    /// The patience with a child that shows no progress.
    pub hang_max: Duration,
}

impl<L: Launch> Supervisor<L> {
    /// Runs until the desk is told to stop.
    pub(super) async fn run(mut self, mut link: Link<L>) {
        loop {
            let ready_at = Instant::now();
            self.desk.set_pid(link.child.id());
            self.desk.set_placement(link.placement.clone());
            let (child, complaint) = attend(&self.desk, link, self.hang_max).await;
            // At once: whoever waits for an event of this child's waits in vain.
            self.desk.set_phase(Phase::Restarting);
            let death = bury(child).await;
            self.desk.set_pid(None);
            if self.desk.is_stopped() {
                return info!("engine process stopped");
            }
            self.desk.ends.fetch_add(1, Ordering::Relaxed);
            let wait = self.restarts.ended_after(ready_at.elapsed());
            error!(
                end = %death,
                complaint,
                wait_ms = wait.as_millis(),
                "engine process ended; its replies were cut off, and it is started again"
            );
            let next = {
                let desk = Arc::clone(&self.desk);
                tokio::select! {
                    next = self.revive(wait) => next,
                    () = desk.until_stopped() => return,
                }
            };
            let Some(next) = next else {
                self.desk.set_phase(Phase::Quarantined);
                return self.desk.until_stopped().await;
            };
            link = next;
            self.desk.set_phase(Phase::Ready);
            info!("engine process is ready again");
        }
    }

    /// The next child; `None` when there shall be none.
    async fn revive(&mut self, mut wait: Duration) -> Option<Link<L>> {
        loop {
            sleep(wait).await;
            let unloaded = match hatch(&mut self.launcher, &self.load).await {
                Ok((link, card)) if card == self.card => return Some(link),
                Ok((mut link, _)) => {
                    link.child.kill();
                    bury(link.child).await;
                    Unloaded::Garbled("its file holds another model than at the start")
                }
                Err(unloaded) => unloaded,
            };
            let reason = unloaded.words();
            let Some(next) = self.restarts.load_failed() else {
                error!(
                    reason,
                    "engine process cannot load; the model is quarantined"
                );
                return None;
            };
            wait = next;
            warn!(
                reason,
                wait_ms = wait.as_millis(),
                "engine process cannot load"
            );
        }
    }
}

/// Talks until the child ends, is told to, hangs, or says what it may not say: why it is to be ended
/// is returned.
async fn attend<L: Launch>(
    desk: &Desk,
    link: Link<L>,
    hang_max: Duration,
) -> (L::Child, Option<&'static str>) {
    let Link {
        stream,
        mut child,
        mut reader,
        ..
    } = link;
    let complaint = {
        let (mut read, write) = tokio::io::split(stream);
        let mut pen = Pen::new(write);
        let mut watch = interval(hang_max / WATCHES);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent = 0;
        let talk = async {
            loop {
                tokio::select! {
                    biased;
                    _ = watch.tick() => {
                        silent += 1;
                        if silent > WATCHES {
                            return Some(HANGS);
                        }
                    }
                    word = reader.next::<Word>(&mut read) => match word {
                        Ok(Some(word)) => {
                            // An event was drawn by the engine's thread, and a part is of an answer
                            // it has given; other words it need not have a hand in.
                            if matches!(
                                word,
                                Word::Alive | Word::Event { .. } | Word::Part { .. }
                            ) {
                                silent = 0;
                            }
                            if let Err(complaint) = desk.take(word) {
                                return Some(complaint);
                            }
                        }
                        Ok(None) => return None,
                        Err(fault) => return fault.complaint(),
                    },
                    written = pen.write_some(&desk.outbox, || ()) => match written {
                        Ok(()) => {}
                        Err(_) => return None,
                    },
                }
            }
        };
        tokio::pin!(talk);
        tokio::select! {
            biased;
            complaint = &mut talk => complaint,
            _ = child.ended() => {
                timeout(LAST_WORDS_MAX, &mut talk).await.unwrap_or_default()
            }
            () = desk.until_stopped() => {
                timeout(STOP_MAX, &mut talk).await.unwrap_or_default()
            }
        }
    };
    if complaint.is_some() {
        child.kill();
    }
    (child, complaint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_a_steady_run_forgets() {
        let mut restarts = Restarts::default();
        let waits: Vec<_> = (0..40)
            .map(|_| restarts.ended_after(Duration::ZERO))
            .collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(waits.is_sorted());
        assert_eq!(waits[39], BACKOFF_MAX);
        assert_eq!(restarts.ended_after(STEADY_AFTER), BACKOFF_MIN);
    }

    #[test]
    fn three_failed_loads_are_the_last() {
        let mut restarts = Restarts::default();
        assert!(restarts.load_failed().is_some());
        assert!(restarts.load_failed().is_some());
        // A short run between them changes nothing, a steady one does.
        restarts.ended_after(Duration::from_secs(1));
        assert!(restarts.load_failed().is_none());
        restarts.ended_after(STEADY_AFTER);
        assert!(restarts.load_failed().is_some());
    }
}
