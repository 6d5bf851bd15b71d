//! One piece of work for all who ask for the same at once.
//!
//! ```text
//! leads ─► Flight { look up, plan, open, stream } ◄─ joins
//!            │ polled by whichever reader is there        each reads all events, from the first on
//!            └─ its last reader leaves ─► dropped, which cancels it
//! ```
//! Nobody owns the work but those who read it: whoever polls drives it for all, so that the leader may
//! leave, or be slow, without the others noticing. Who leads has taken the limits for it and pays; the
//! others pay for a request.
//!
//! What is read is as the leader would have been sent it, values put back. So only a request with the
//! same key and the very same findings joins: everything that it would have been sent is the same.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use domain::{BackendError, CacheKey, ChatEvent, ChatStream, Fault, Findings, Priority};
use futures::future::BoxFuture;
use futures::task::ArcWake;
use futures::{FutureExt, Stream, StreamExt};

use crate::answer::{Answer, Refusal};
use crate::keep::text_bytes;

/// Bytes of events that are held so that a newcomer can begin at the first. Beyond it nobody joins any
/// more, and of what all have read nothing is held; a reader so far behind the first one holds the others
/// up, until it reads on or its connection is given up.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an event takes beside its text: an estimate, on the high side.
const EVENT_BYTES: usize = 96;

/// Flights that one request waits for before it goes alone, where those it joined turned out to be for
/// their leaders only.
pub(crate) const FLIGHTS_MAX: usize = 2;

/// What the work came to once it was opened.
pub(crate) struct Flown {
    pub outcome: Result<Answer, Refusal>,
    /// Whether it would have come to the same for everybody who asks the same: not where the leader's own
    /// limits had a part in it.
    pub is_for_all: bool,
}

/// By what requests are the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    pub key: CacheKey,
    /// A reply that comes whole is no stream to read along.
    pub is_streamed: bool,
}

/// All flights under way. Each has its leader's seat, so there are no more than seats.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<FlightKey, Weak<Flight>>>);

/// A place in a flight.
pub(crate) enum Boarded {
    /// Nobody is at this work. Whoever leads begins it with [`Reader::begin`].
    Leads(Reader),
    Joins(Reader),
    /// Somebody is, whose work is not for this one.
    Alone,
}

impl Flights {
    pub fn board(
        self: &Arc<Self>,
        key: FlightKey,
        findings: &Arc<Findings>,
        priority: Priority,
    ) -> Boarded {
        loop {
            let mut flights = self.lock();
            let known = flights.get(&key).cloned();
            let Some(flight) = known.as_ref().and_then(Weak::upgrade) else {
                let flight = Arc::new(Flight::new(self, key, findings, priority));
                flights.insert(key, Arc::downgrade(&flight));
                drop(flights);
                return Boarded::Leads(flight.take_seat(true));
            };
            // What follows locks the flight, and may drop it.
            drop(flights);
            match flight.admit(findings, priority) {
                Admission::Seat(reader) => return Boarded::Joins(reader),
                Admission::Refused => return Boarded::Alone,
                Admission::Closed => self.forget(key, &flight),
            }
        }
    }

    /// A place in work that is under way and may be read along.
    pub fn join(&self, key: FlightKey, findings: &Findings, priority: Priority) -> Option<Reader> {
        let known = self.lock().get(&key).cloned();
        let flight = known.as_ref().and_then(Weak::upgrade)?;
        match flight.admit(findings, priority) {
            Admission::Seat(reader) => Some(reader),
            Admission::Refused | Admission::Closed => None,
        }
    }

    fn forget(&self, key: FlightKey, flight: &Flight) {
        let mut flights = self.lock();
        if flights
            .get(&key)
            .is_some_and(|known| std::ptr::eq(known.as_ptr(), flight))
        {
            flights.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FlightKey, Weak<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", self.lock().len())
    }
}

enum Admission {
    Seat(Reader),
    Refused,
    Closed,
}

struct Flight {
    flights: Arc<Flights>,
    key: FlightKey,
    findings: Arc<Findings>,
    /// Of the leader, whose turn the work has.
    priority: Priority,
    leader_left: Arc<AtomicBool>,
    /// Rung when there is something to poll for.
    bell: Arc<Bell>,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// What was read and may be read again, from the event with the index `first` on.
    held: VecDeque<ChatEvent>,
    first: usize,
    held_bytes: usize,
    /// How the stream ended.
    ended: Option<Option<BackendError>>,
    is_closed: bool,
    /// By seat: the index of its next event. `None`: it is free.
    readers: Vec<Option<usize>>,
}

enum Stage {
    /// The leader is about to begin.
    Waiting,
    Opening(BoxFuture<'static, Flown>),
    Streaming {
        opened: Box<Opened>,
        events: ChatStream,
    },
    Refused {
        refusal: Refusal,
        is_for_all: bool,
    },
}

/// The answer without its stream.
struct Opened {
    answer: Answer,
    is_for_all: bool,
}

/// What a reader of a flight learns when it is opened.
pub(crate) enum Told {
    /// Of the leader's answer, for whoever joined it. The stream is the reader's own.
    Answer(Box<Answer>),
    Refused(Refusal),
    /// It came to something that is the leader's alone.
    Released,
}

impl Flight {
    fn new(
        flights: &Arc<Flights>,
        key: FlightKey,
        findings: &Arc<Findings>,
        priority: Priority,
    ) -> Self {
        Self {
            flights: Arc::clone(flights),
            key,
            findings: Arc::clone(findings),
            priority,
            leader_left: Arc::default(),
            bell: Arc::default(),
            state: Mutex::new(State {
                stage: Stage::Waiting,
                held: VecDeque::new(),
                first: 0,
                held_bytes: 0,
                ended: None,
                is_closed: false,
                readers: Vec::new(),
            }),
        }
    }

    fn take_seat(self: &Arc<Self>, is_leader: bool) -> Reader {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.seat(&mut state, is_leader)
    }

    fn seat(self: &Arc<Self>, state: &mut State, is_leader: bool) -> Reader {
        let free = state.readers.iter().position(Option::is_none);
        let seat = free.unwrap_or_else(|| {
            state.readers.push(None);
            state.readers.len() - 1
        });
        state.readers[seat] = Some(0);
        Reader {
            flight: Arc::clone(self),
            seat,
            is_leader,
        }
    }

    fn admit(self: &Arc<Self>, findings: &Findings, priority: Priority) -> Admission {
        // Whose work broke down is nobody's to join.
        let Ok(mut state) = self.state.lock() else {
            return Admission::Closed;
        };
        if state.is_closed || state.ended.is_some() {
            return Admission::Closed;
        }
        // Work that goes behind others is too late for who would not.
        if self.priority > priority || *self.findings != *findings {
            return Admission::Refused;
        }
        Admission::Seat(self.seat(&mut state, false))
    }

    /// Nobody joins from now on.
    fn close(&self, state: &mut State) {
        state.is_closed = true;
        self.flights.forget(self.key, self);
    }

    fn poll_opened(&self, reader: &Reader, cx: &mut Context<'_>) -> Poll<Told> {
        // Enlisted before anything is looked at, so that no ring is missed.
        self.bell.enlist(reader.seat, cx.waker());
        let Ok(mut state) = self.state.lock() else {
            return Poll::Ready(Told::Refused(broken()));
        };
        loop {
            match &mut state.stage {
                Stage::Waiting => return Poll::Pending,
                Stage::Streaming { opened, .. } => {
                    if !opened.is_for_all && !reader.is_leader {
                        return Poll::Ready(Told::Released);
                    }
                    return Poll::Ready(Told::Answer(Box::new(
                        opened.answer.told(reader.is_leader),
                    )));
                }
                Stage::Refused {
                    refusal,
                    is_for_all,
                } => {
                    if !*is_for_all && !reader.is_leader {
                        return Poll::Ready(Told::Released);
                    }
                    return Poll::Ready(Told::Refused(refusal.clone()));
                }
                Stage::Opening(opening) => {
                    let waker = futures::task::waker(Arc::clone(&self.bell));
                    let polled = opening.poll_unpin(&mut Context::from_waker(&waker));
                    let Poll::Ready(Flown {
                        outcome,
                        is_for_all,
                    }) = polled
                    else {
                        return Poll::Pending;
                    };
                    state.stage = match outcome {
                        Ok(answer) => {
                            let (answer, events) = answer.split();
                            let opened = Box::new(Opened { answer, is_for_all });
                            Stage::Streaming { opened, events }
                        }
                        Err(refusal) => Stage::Refused {
                            refusal,
                            is_for_all,
                        },
                    };
                    if !is_for_all || matches!(state.stage, Stage::Refused { .. }) {
                        self.close(&mut state);
                    }
                    self.bell.ring();
                }
            }
        }
    }

    fn poll_event(
        &self,
        reader: &Reader,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ChatEvent, BackendError>>> {
        self.bell.enlist(reader.seat, cx.waker());
        let Ok(mut state) = self.state.lock() else {
            return Poll::Ready(Some(Err(BackendError::Interrupted)));
        };
        let state = &mut *state;
        loop {
            if let Some(event) = state.next_of(reader.seat) {
                if state.is_closed && state.let_go() {
                    self.bell.ring();
                }
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(ended) = &state.ended {
                return Poll::Ready(ended.clone().map(Err));
            }
            ready!(self.poll_more(state));
        }
    }

    /// Reads on without taking anything, to the end.
    fn poll_driven(&self, reader: &Reader, cx: &mut Context<'_>) -> Poll<()> {
        self.bell.enlist(reader.seat, cx.waker());
        let Ok(mut state) = self.state.lock() else {
            return Poll::Ready(());
        };
        while state.ended.is_none() {
            ready!(self.poll_more(&mut state));
        }
        Poll::Ready(())
    }

    /// One event more, or the end.
    fn poll_more(&self, state: &mut State) -> Poll<()> {
        if state.is_closed && state.held_bytes > HELD_BYTES_MAX {
            return Poll::Pending;
        }
        let Stage::Streaming { events, .. } = &mut state.stage else {
            self.end(state, Some(BackendError::Interrupted));
            return Poll::Ready(());
        };
        let waker = futures::task::waker(Arc::clone(&self.bell));
        match ready!(events.poll_next_unpin(&mut Context::from_waker(&waker))) {
            Some(Ok(event)) => {
                state.hold(event);
                if !state.is_closed && state.held_bytes > HELD_BYTES_MAX {
                    self.close(state);
                }
            }
            Some(Err(error)) => self.end(state, Some(error)),
            None => self.end(state, None),
        }
        self.bell.ring();
        Poll::Ready(())
    }

    fn end(&self, state: &mut State, error: Option<BackendError>) {
        state.ended = Some(error);
        if let Stage::Streaming { events, .. } = &mut state.stage {
            *events = futures::stream::empty().boxed();
        }
        self.close(state);
    }
}

impl State {
    fn next_of(&mut self, seat: usize) -> Option<ChatEvent> {
        let at = self.readers[seat].as_mut()?;
        let event = self.held.get(*at - self.first)?.clone();
        *at += 1;
        Some(event)
    }

    fn hold(&mut self, event: ChatEvent) {
        self.held_bytes += EVENT_BYTES + text_bytes(&event);
        self.held.push_back(event);
    }

    /// Lets go of what all have read. True when others may go on that waited for it.
    fn let_go(&mut self) -> bool {
        let was_full = self.held_bytes > HELD_BYTES_MAX;
        let read_by_all = self.readers.iter().flatten().min().copied();
        let read_by_all = read_by_all.unwrap_or(self.first);
        while self.first < read_by_all
            && let Some(event) = self.held.pop_front()
        {
            self.first += 1;
            self.held_bytes -= EVENT_BYTES + text_bytes(&event);
        }
        was_full && self.held_bytes <= HELD_BYTES_MAX
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.forget(self.key, self);
    }
}

/// What those learn who read work that broke down.
fn broken() -> Refusal {
    Refusal {
        fault: Fault::Internal,
        reason: None,
    }
}

/// One who reads a flight.
pub(crate) struct Reader {
    flight: Arc<Flight>,
    seat: usize,
    is_leader: bool,
}

impl Reader {
    /// Begins the work.
    pub fn begin(&self, work: BoxFuture<'static, Flown>) {
        let state = self.flight.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.stage = Stage::Opening(work);
        drop(state);
        self.flight.bell.ring();
    }

    /// True once the leader has left: what was done for others is not what it was told.
    pub fn leader_left(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flight.leader_left)
    }

    /// What the work came to.
    pub async fn opened(&self) -> Told {
        poll_fn(|cx| self.flight.poll_opened(self, cx)).await
    }

    /// Keeps the work going for all, until it is done. Who leads may have left.
    pub async fn drive(&self) {
        poll_fn(|cx| self.flight.poll_driven(self, cx)).await;
    }

    /// The stream, from its first event.
    pub fn events(self) -> ChatStream {
        let is_leader = self.is_leader;
        let events = Events {
            reader: self,
            has_broken: false,
        };
        if is_leader {
            return events.boxed();
        }
        // Another's provider wrote that, under another's ids.
        let is_own = |event: &Result<ChatEvent, BackendError>| {
            std::future::ready(!matches!(event, Ok(ChatEvent::Written(_))))
        };
        events.filter(is_own).boxed()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.is_leader {
            self.flight.leader_left.store(true, Ordering::Release);
        }
        self.flight.bell.leave(self.seat);
        let state = self.flight.state.lock();
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.readers[self.seat] = None;
        if self.is_leader && matches!(state.stage, Stage::Waiting) {
            // It left before it began: nobody will.
            state.stage = Stage::Refused {
                refusal: broken(),
                is_for_all: false,
            };
            self.flight.close(&mut state);
        }
        if state.is_closed {
            state.let_go();
        }
        drop(state);
        // The one who left may be the one who was woken.
        self.flight.bell.ring();
    }
}

struct Events {
    reader: Reader,
    /// The error was told, and nothing comes after it.
    has_broken: bool,
}

impl Stream for Events {
    type Item = Result<ChatEvent, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_broken {
            return Poll::Ready(None);
        }
        let reader = &self.reader;
        let event = ready!(reader.flight.poll_event(reader, cx));
        self.has_broken = matches!(event, Some(Err(_)));
        Poll::Ready(event)
    }
}

/// Wakes all who wait, for any of them can go on for all.
#[derive(Default)]
struct Bell(Mutex<Vec<Option<Waker>>>);

impl Bell {
    fn enlist(&self, seat: usize, waker: &Waker) {
        let mut waiting = self.lock();
        if waiting.len() <= seat {
            waiting.resize(seat + 1, None);
        }
        match &mut waiting[seat] {
            Some(known) => known.clone_from(waker),
            free => *free = Some(waker.clone()),
        }
    }

    fn leave(&self, seat: usize) {
        if let Some(place) = self.lock().get_mut(seat) {
            *place = None;
        }
    }

    fn ring(&self) {
        let mut at = 0;
        loop {
            let waker = match self.lock().get_mut(at) {
                Some(place) => place.take(),
                None => return,
            };
            // Outside the lock: whoever is woken may be polled at once.
            if let Some(waker) = waker {
                waker.wake();
            }
            at += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Waker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArcWake for Bell {
    fn wake_by_ref(bell: &Arc<Self>) {
        bell.ring();
    }
}
