//! What the handle and the engine's thread share: the bounded queue and the pulse.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{BackendError, Health, HealthState, TeamId};

use crate::decoder::{Interrupt, Token};
use crate::grammar::Grammar;
use crate::reply::{Bell, ReplySender};
use crate::sampler::Sampler;
use crate::voice::VoiceRules;

/// One chat, ready to be computed.
pub(crate) struct Request {
    /// Whose it is; the cache is shared within a team only.
    pub team: Option<TeamId>,
    /// Never empty, and shorter than the context.
    pub prompt: Vec<Token>,
    /// At least 1, and no more than the context has left.
    pub output_max: u32,
    pub sampler: Sampler,
    /// What the reply is held to; `None` for plain text.
    pub grammar: Option<Grammar>,
    pub rules: VoiceRules,
    pub reply: ReplySender,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt.len())
            .field("output_max", &self.output_max)
            .finish_non_exhaustive()
    }
}

/// Said of an overloaded engine that has not yet finished a chat to measure by.
const WAIT_UNKNOWN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Queue>,
    queue_max: usize,
    pub bell: Arc<Bell>,
    pub interrupt: Arc<Interrupt>,
    is_stopping: AtomicBool,
    pub pulse: Pulse,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Request>,
    is_closed: bool,
}

impl Shared {
    pub(crate) fn new(queue_max: usize, slots: u32) -> Self {
        Self {
            queue: Mutex::default(),
            queue_max,
            bell: Arc::default(),
            interrupt: Arc::default(),
            is_stopping: AtomicBool::new(false),
            pulse: Pulse::new(slots),
        }
    }

    /// Puts the choices of one request in the queue, all or none, and wakes the thread.
    ///
    /// # Errors
    /// The queue has no room for them, or the engine has ended.
    pub(crate) fn submit(&self, choices: Vec<Request>) -> Result<(), BackendError> {
        self.check_room(choices.len())?;
        let mut queue = self.queue();
        if queue.is_closed {
            return Err(BackendError::Engine("it has stopped"));
        }
        if queue.waiting.len() + choices.len() > self.queue_max {
            drop(queue);
            return Err(self.overloaded());
        }
        queue.waiting.extend(choices);
        drop(queue);
        self.bell.ring();
        Ok(())
    }

    /// What `submit` would say of so many now, so that work towards it can be spared.
    ///
    /// # Errors
    /// As for [`Shared::submit`].
    pub(crate) fn check_room(&self, choices: usize) -> Result<(), BackendError> {
        let mut queue = self.queue();
        if queue.is_closed {
            return Err(BackendError::Engine("it has stopped"));
        }
        if queue.waiting.len() + choices > self.queue_max {
            // Those who left while waiting take no place from those who come.
            queue
                .waiting
                .retain(|request| !request.reply.is_cancelled());
        }
        let is_full = queue.waiting.len() + choices > self.queue_max;
        drop(queue);
        if is_full {
            Err(self.overloaded())
        } else {
            Ok(())
        }
    }

    fn overloaded(&self) -> BackendError {
        BackendError::Overloaded {
            retry_after: self.wait().unwrap_or(WAIT_UNKNOWN),
        }
    }

    /// Takes the first request whose reader is still there, if `fits` it.
    pub(crate) fn take_if(&self, fits: impl FnOnce(&Request) -> bool) -> Option<Request> {
        let mut queue = self.queue();
        queue
            .waiting
            .retain(|request| !request.reply.is_cancelled());
        if !fits(queue.waiting.front()?) {
            return None;
        }
        queue.waiting.pop_front()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Ends the queue: what waits in it, and what would yet come, is refused.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closed = true;
        for request in queue.waiting.drain(..) {
            request
                .reply
                .end(Some(BackendError::Engine("it has stopped")));
        }
    }

    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.interrupt.raise();
        self.bell.ring();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn health(&self) -> Health {
        Health::of(self.pulse.state(), self.wait())
    }

    /// How far the thread has come, for whoever wants to know whether it hangs.
    pub(crate) fn stride(&self) -> Stride {
        if self.pulse.is_resting.load(Ordering::SeqCst) {
            return Stride::Resting;
        }
        let steps = self.pulse.steps.load(Ordering::Relaxed);
        Stride::At(steps.wrapping_add(self.interrupt.looks()))
    }

    /// How long a request that came now would wait for a slot: those before it and itself, each
    /// taking as long as the last few did, so many at a time as there are slots.
    fn wait(&self) -> Option<Duration> {
        let waiting = u32::try_from(self.waiting()).unwrap_or(u32::MAX);
        let pulse = &self.pulse;
        if waiting == 0 && pulse.running.load(Ordering::Relaxed) < pulse.slots {
            return Some(Duration::ZERO);
        }
        let mean = Duration::from_micros(pulse.service_us_mean.load(Ordering::Relaxed));
        (!mean.is_zero()).then(|| mean.saturating_mul(waiting.saturating_add(1)) / pulse.slots)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change under the lock is whole, so a panic elsewhere leaves nothing half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the thread is. One that is twice at the same place has not moved in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stride {
    /// It has nothing to do.
    Resting,
    At(u64),
}

/// What the handle may know of the thread without asking it.
#[derive(Debug)]
pub(crate) struct Pulse {
    slots: u32,
    steps: AtomicU64,
    is_resting: AtomicBool,
    running: AtomicU32,
    /// A moving mean of how long a chat holds its slot; 0 before the first.
    service_us_mean: AtomicU64,
    state: AtomicU8,
}

const STATES: [HealthState; 3] = [HealthState::Ready, HealthState::Starting, HealthState::Down];

impl Pulse {
    fn new(slots: u32) -> Self {
        Self {
            slots: slots.max(1),
            steps: AtomicU64::new(0),
            is_resting: AtomicBool::new(false),
            running: AtomicU32::new(0),
            service_us_mean: AtomicU64::new(0),
            state: AtomicU8::new(1),
        }
    }

    pub(crate) fn set_state(&self, state: HealthState) {
        let index = STATES.iter().position(|other| *other == state).unwrap_or(0);
        self.state
            .store(u8::try_from(index).unwrap_or(0), Ordering::Relaxed);
    }

    fn state(&self) -> HealthState {
        STATES[usize::from(self.state.load(Ordering::Relaxed)) % STATES.len()]
    }

    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Around the thread's waiting for something to do.
    pub(crate) fn rest(&self, wait: impl FnOnce()) {
        self.is_resting.store(true, Ordering::SeqCst);
        wait();
        self.is_resting.store(false, Ordering::SeqCst);
    }

    pub(crate) fn set_running(&self, running: usize) {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        self.running.store(running, Ordering::Relaxed);
    }

    /// Learns from a finished chat. An eighth of each new time goes into the mean.
    pub(crate) fn learn(&self, service: Duration) {
        let us = u64::try_from(service.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let mean = self.service_us_mean.load(Ordering::Relaxed);
        let mean = if mean == 0 {
            us
        } else {
            mean - mean / 8 + us / 8
        };
        self.service_us_mean.store(mean.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use domain::Sampling;

    use super::*;
    use crate::reply::{ReplyStream, reply};

    fn request(shared: &Shared) -> (Request, ReplyStream) {
        let (sender, stream) = reply(4, Arc::clone(&shared.bell), Arc::clone(&shared.interrupt));
        let request = Request {
            team: None,
            prompt: vec![1],
            output_max: 1,
            sampler: Sampler::new(&Sampling::default(), 0.0, 0),
            grammar: None,
            rules: VoiceRules::default(),
            reply: sender,
        };
        (request, stream)
    }

    #[test]
    fn a_full_queue_refuses_with_the_wait_it_expects() {
        let shared = Shared::new(2, 4);
        shared.pulse.learn(Duration::from_secs(8));
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (request, stream) = request(&shared);
            shared.submit(vec![request]).unwrap();
            streams.push(stream);
        }
        let (third, _stream) = request(&shared);
        let refused = shared.submit(vec![third]).unwrap_err();
        // Two before it and itself, four at a time, eight seconds each.
        let BackendError::Overloaded { retry_after } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(retry_after, Duration::from_secs(6));
    }

    #[test]
    fn several_choices_are_taken_together_or_not_at_all() {
        let shared = Shared::new(2, 1);
        let three: (Vec<_>, Vec<_>) = (0..3).map(|_| request(&shared)).unzip();
        assert!(shared.submit(three.0).is_err());
        assert_eq!(shared.waiting(), 0);
        let two: (Vec<_>, Vec<_>) = (0..2).map(|_| request(&shared)).unzip();
        shared.submit(two.0).unwrap();
        assert_eq!(shared.waiting(), 2);
        assert!(shared.check_room(1).is_err());
        drop(two.1);
        assert!(shared.check_room(2).is_ok());
    }

    #[test]
    fn those_who_left_make_room() {
        let shared = Shared::new(1, 1);
        let (first, stream) = request(&shared);
        shared.submit(vec![first]).unwrap();
        drop(stream);
        let (second, _stream) = request(&shared);
        shared.submit(vec![second]).unwrap();
        assert!(shared.take_if(|_| true).is_some());
        assert_eq!(shared.waiting(), 0);
    }

    #[test]
    fn a_closed_queue_ends_those_who_wait_and_those_who_come() {
        let shared = Shared::new(4, 1);
        let (first, mut stream) = request(&shared);
        shared.submit(vec![first]).unwrap();
        shared.close();
        let end = futures::executor::block_on(futures::StreamExt::next(&mut stream));
        assert!(matches!(end, Some(Err(BackendError::Engine(_)))));
        let (second, _stream) = request(&shared);
        assert!(matches!(
            shared.submit(vec![second]),
            Err(BackendError::Engine(_))
        ));
    }

    #[test]
    fn an_engine_with_a_free_slot_has_no_wait() {
        let shared = Shared::new(4, 2);
        assert_eq!(shared.health().state, HealthState::Starting);
        shared.pulse.set_state(HealthState::Ready);
        assert_eq!(
            shared.health(),
            Health::of(HealthState::Ready, Some(Duration::ZERO))
        );
        shared.pulse.set_running(2);
        assert_eq!(shared.health().wait, None);
        shared.pulse.learn(Duration::from_secs(2));
        assert_eq!(shared.health().wait, Some(Duration::from_secs(1)));
    }
}
