//! What the handle, its replies and the driver share: the open lines to the child.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use domain::{BackendError, ChatEvent, Health, HealthState};
use futures::Stream;
use tokio::sync::{mpsc, oneshot, watch};

use super::frame::{ASK_BYTES_MAX, Outbox};
use super::words::{Ask, Failure, Order, Part, Pulse, Query, Word};
use crate::offload::Placement;
use crate::queue::{DraftCount, Vitals};

/// Replies open at once. One more is refused as overloaded.
const LINES_MAX: usize = 4_096;
/// Requests that wait to be written. With more than this, further ones are refused as overloaded.
const OUTBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What the caller is told to wait where the child cannot say.
const WAIT_UNKNOWN: Duration = Duration::from_secs(1);

/// Where the child is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Ready,
    /// Ended, and being started again.
    Restarting,
    /// Given up.
    Quarantined,
    /// Told to end, or ended for good.
    Stopped,
}

pub(super) const RESTARTING: &str = "its process ended and is being started again";
/// Said of a model that was given up.
pub const QUARANTINED: &str = "quarantined: loading it failed three times; the log says how, and \
     a restart of the server tries again";
const STOPPED: BackendError = BackendError::Engine("it has stopped");

#[derive(Debug)]
pub(super) struct Desk {
    book: Mutex<Book>,
    pub outbox: Outbox,
    phase: watch::Sender<Phase>,
    window: u32,
    /// Ends of a child that was ready, other than by being told to.
    pub ends: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Book {
    /// Changed only with the book held, so that no line is opened to a child that is gone.
    phase: Phase,
    pulse: Pulse,
    /// Of the children before, and of this one.
    drafts_before: DraftCount,
    drafts: DraftCount,
    vitals: Vitals,
    placement: Placement,
    /// The child's number with the system, while there is one.
    pid: Option<u32>,
    lines: HashMap<u64, Line>,
    next_id: u64,
}

/// The driver's end of one reply.
#[derive(Debug)]
struct Line {
    taken: Option<oneshot::Sender<Result<(), BackendError>>>,
    feed: Feed,
    end: Arc<OnceLock<Option<BackendError>>>,
}

/// What comes over a line.
#[derive(Debug)]
enum Feed {
    Events(mpsc::Sender<ChatEvent>),
    Parts(mpsc::Sender<Part>),
}

impl Line {
    fn end(mut self, error: Option<BackendError>) {
        if let Some(taken) = self.taken.take() {
            let refusal = error.clone().unwrap_or(BackendError::Interrupted);
            // Gone where the caller is.
            let _ = taken.send(Err(refusal));
        }
        let _ = self.end.set(error);
    }
}

impl Desk {
    /// For a child that is ready.
    pub(super) fn new(window: u32) -> Self {
        Self {
            book: Mutex::new(Book {
                phase: Phase::Ready,
                pulse: Pulse {
                    state: HealthState::Ready,
                    wait: Some(Duration::ZERO),
                },
                drafts_before: DraftCount::default(),
                drafts: DraftCount::default(),
                vitals: Vitals::default(),
                placement: Placement::default(),
                pid: None,
                lines: HashMap::new(),
                next_id: 0,
            }),
            outbox: Outbox::default(),
            phase: watch::Sender::new(Phase::Ready),
            window,
            ends: Arc::default(),
        }
    }

    /// What was drafted in all.
    pub(super) fn drafts(&self) -> DraftCount {
        let book = self.book();
        book.drafts_before.and(book.drafts)
    }

    /// As last told; of a child that is gone, nothing.
    pub(super) fn vitals(&self) -> Vitals {
        self.book().vitals
    }

    /// Where this child's layers lie, or the last one's.
    pub(super) fn placement(&self) -> Placement {
        self.book().placement.clone()
    }

    pub(super) fn set_placement(&self, placement: Placement) {
        self.book().placement = placement;
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.book().pid
    }

    pub(super) fn set_pid(&self, pid: Option<u32>) {
        self.book().pid = pid;
    }

    pub(super) fn health(&self) -> Health {
        let book = self.book();
        let (state, wait, reason) = match book.phase {
            Phase::Ready => (book.pulse.state, book.pulse.wait, None),
            Phase::Restarting => (HealthState::Starting, Some(WAIT_UNKNOWN), Some(RESTARTING)),
            Phase::Quarantined => (HealthState::Down, None, Some(QUARANTINED)),
            Phase::Stopped => (HealthState::Down, None, None),
        };
        Health {
            reason,
            ..Health::of(state, wait)
        }
    }

    /// Waits until the child is ready, at most `patience`.
    pub(super) async fn until_ready(&self, patience: Duration) -> Result<(), BackendError> {
        let mut phase = self.phase.subscribe();
        let settled = phase.wait_for(|phase| *phase != Phase::Restarting);
        match tokio::time::timeout(patience, settled).await {
            Ok(Ok(phase)) => match *phase {
                Phase::Ready | Phase::Restarting => Ok(()),
                Phase::Quarantined => Err(BackendError::Engine(QUARANTINED)),
                Phase::Stopped => Err(STOPPED),
            },
            Ok(Err(_)) => Err(STOPPED),
            Err(_) => Err(BackendError::Overloaded {
                retry_after: WAIT_UNKNOWN,
            }),
        }
    }

    /// Opens a line and sends what `ask` makes for it. The answer to the second part says whether
    /// the child has taken it.
    pub(super) fn open(
        self: &Arc<Self>,
        ask: impl FnOnce(u64) -> Ask,
    ) -> Result<(LineStream<ChatEvent>, Taken), BackendError> {
        let (taken, is_taken) = oneshot::channel();
        let stream = self.open_line(|id| Order::Ask(ask(id)), Feed::Events, Some(taken))?;
        Ok((stream, Taken(is_taken)))
    }

    /// Opens a line for what is answered in parts.
    pub(super) fn query(self: &Arc<Self>, query: Query) -> Result<LineStream<Part>, BackendError> {
        self.open_line(|id| Order::Query { id, query }, Feed::Parts, None)
    }

    fn open_line<T>(
        self: &Arc<Self>,
        order: impl FnOnce(u64) -> Order,
        feed: impl FnOnce(mpsc::Sender<T>) -> Feed,
        taken: Option<oneshot::Sender<Result<(), BackendError>>>,
    ) -> Result<LineStream<T>, BackendError> {
        let mut book = self.book();
        match book.phase {
            Phase::Ready => {}
            Phase::Restarting => return Err(BackendError::Interrupted),
            Phase::Quarantined => return Err(BackendError::Engine(QUARANTINED)),
            Phase::Stopped => return Err(STOPPED),
        }
        if book.lines.len() >= LINES_MAX || self.outbox.bytes() > OUTBOX_BYTES_MAX {
            return Err(BackendError::Overloaded {
                retry_after: book.pulse.wait.unwrap_or(WAIT_UNKNOWN),
            });
        }
        let id = book.next_id;
        self.outbox
            .put(&order(id), ASK_BYTES_MAX)
            .map_err(|_| BackendError::Engine("the request is too long for it"))?;
        book.next_id += 1;
        let (sender, receiver) = mpsc::channel(self.window as usize);
        let end = Arc::new(OnceLock::new());
        let line = Line {
            taken,
            feed: feed(sender),
            end: Arc::clone(&end),
        };
        book.lines.insert(id, line);
        let stream = LineStream {
            id,
            events: receiver,
            end,
            desk: Arc::clone(self),
            read: 0,
            is_over: false,
        };
        Ok(stream)
    }

    /// Takes what the child says. Words about lines that are closed are late, not wrong.
    ///
    /// # Errors
    /// It says what it may not say now.
    pub(super) fn take(&self, word: Word) -> Result<(), &'static str> {
        let mut book = self.book();
        match word {
            Word::Taken { id } => {
                if let Some(taken) = book.lines.get_mut(&id).and_then(|line| line.taken.take()) {
                    let _ = taken.send(Ok(()));
                }
            }
            Word::Event { id, event } => match book.lines.get(&id).map(|line| &line.feed) {
                Some(Feed::Events(events)) => pass_on(events, event)?,
                Some(Feed::Parts(_)) => return Err(OUT_OF_TURN),
                None => {}
            },
            Word::Part { id, part } => match book.lines.get(&id).map(|line| &line.feed) {
                Some(Feed::Parts(parts)) => pass_on(parts, part)?,
                Some(Feed::Events(_)) => return Err(OUT_OF_TURN),
                None => {}
            },
            Word::Ended { id, failure } => {
                if let Some(line) = book.lines.remove(&id) {
                    line.end(failure.map(Failure::into));
                }
            }
            Word::Pulse(pulse) => book.pulse = pulse,
            Word::Alive => {}
            Word::Drafts(drafts) => book.drafts = drafts,
            Word::Vitals(vitals) => book.vitals = vitals,
            Word::Ready { .. } | Word::Refused { .. } => return Err(OUT_OF_TURN),
        }
        Ok(())
    }

    /// The next life's phase. Whatever is open ends now, unless the child is ready.
    pub(super) fn set_phase(&self, phase: Phase) {
        let mut book = self.book();
        if book.phase == Phase::Stopped {
            return;
        }
        book.phase = phase;
        let ended = std::mem::take(&mut book.drafts);
        book.drafts_before = book.drafts_before.and(ended);
        book.vitals = Vitals::default();
        let error = match phase {
            Phase::Ready => None,
            Phase::Restarting | Phase::Quarantined => Some(BackendError::Interrupted),
            Phase::Stopped => Some(STOPPED),
        };
        // Nothing of the last child's is for the next.
        self.outbox.clear();
        if let Some(error) = error {
            for (_, line) in book.lines.drain() {
                line.end(Some(error.clone()));
            }
        }
        if phase == Phase::Stopped {
            // Written if there is a child to read it.
            let _ = self.outbox.put(&Order::Stop, ASK_BYTES_MAX);
        }
        self.phase.send_replace(phase);
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.phase.borrow() == Phase::Stopped
    }

    pub(super) async fn until_stopped(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is in `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
    }

    fn leave(&self, id: u64) {
        if self.book().lines.remove(&id).is_some() {
            self.say(&Order::Leave { id });
        }
    }

    /// A few bytes about an open line, which its window bounds.
    fn say(&self, order: &Order) {
        // Only a request can be too long.
        let _ = self.outbox.put(order, ASK_BYTES_MAX);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change under the lock is whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const OUT_OF_TURN: &str = "a word out of its turn";

/// # Errors
/// There is no room, which the window should have seen to.
fn pass_on<T>(sender: &mpsc::Sender<T>, item: T) -> Result<(), &'static str> {
    match sender.try_send(item) {
        Err(mpsc::error::TrySendError::Full(_)) => Err("more events than were asked for"),
        // Closed: the reader has just left.
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
    }
}

/// Whether the child took the request.
pub(super) struct Taken(oneshot::Receiver<Result<(), BackendError>>);

impl Taken {
    pub(super) async fn wait(self) -> Result<(), BackendError> {
        self.0.await.unwrap_or(Err(BackendError::Interrupted))
    }
}

/// The reader's end of one reply.
pub(super) struct LineStream<T> {
    id: u64,
    events: mpsc::Receiver<T>,
    end: Arc<OnceLock<Option<BackendError>>>,
    desk: Arc<Desk>,
    /// Events read and not yet said to be.
    read: u32,
    is_over: bool,
}

impl<T> Stream for LineStream<T> {
    type Item = Result<T, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(event) = ready!(self.events.poll_recv(cx)) {
            self.read += 1;
            // One word back for half a window: the other half is on its way meanwhile.
            if self.read >= self.desk.window.div_ceil(2) {
                let (id, count) = (self.id, std::mem::take(&mut self.read));
                self.desk.say(&Order::Credit { id, count });
            }
            return Poll::Ready(Some(Ok(event)));
        }
        self.is_over = true;
        let end = self.end.get().cloned();
        Poll::Ready(end.unwrap_or(Some(BackendError::Interrupted)).map(Err))
    }
}

impl<T> Drop for LineStream<T> {
    fn drop(&mut self) {
        if !self.is_over {
            self.desk.leave(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drafts_of_all_children_count() {
        let desk = Desk::new(1);
        let drafts = |drafted, accepted| DraftCount { drafted, accepted };
        for (told, all) in [(drafts(5, 3), drafts(5, 3)), (drafts(9, 4), drafts(9, 4))] {
            desk.take(Word::Drafts(told)).unwrap();
            assert_eq!(desk.drafts(), all);
        }
        desk.set_phase(Phase::Restarting);
        assert_eq!(desk.drafts(), drafts(9, 4));
        desk.set_phase(Phase::Ready);
        desk.take(Word::Drafts(drafts(2, 1))).unwrap();
        assert_eq!(desk.drafts(), drafts(11, 5));
    }
}
