//! What the handle and the engine's thread share: the bounded queue and the pulse.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{BackendError, Health, HealthState, Priority, TeamId};
use serde::{Deserialize, Serialize};

use crate::adapters::AdapterSet;
use crate::decoder::{Interrupt, Token};
use crate::forecast::Outlook;
use crate::gallery::Seen;
use crate::grammar::Grammar;
use crate::reply::{Bell, ReplySender};
use crate::sampler::Sampler;
use crate::voice::VoiceRules;
use crate::waiting::{Place, Seat, Waiting};

/// One chat, ready to be computed.
pub(crate) struct Request {
    /// Whose it is; the cache is shared within a team only.
    pub team: Option<TeamId>,
    pub priority: Priority,
    /// What the reply says that it came from.
    pub model: Arc<str>,
    pub adapters: AdapterSet,
    /// Never empty, and shorter than the context.
    pub prompt: Vec<Token>,
    /// What those of its tokens stand for that are images': held for as long as they may have to be
    /// computed.
    pub images: Vec<Arc<Seen>>,
    /// What the caller expects the reply to be; mostly empty.
    pub prediction: Vec<Token>,
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

/// Said of an overloaded engine that has nothing yet to measure by.
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
    waiting: Waiting,
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
        let Some(team) = choices.first().map(|request| request.team.clone()) else {
            return Ok(());
        };
        let mut queue = self.queue_with_room(team.as_ref(), choices.len())?;
        let mut is_newcomer = false;
        for request in choices {
            is_newcomer |= queue.waiting.push(request);
        }
        drop(queue);
        if is_newcomer {
            // A team alone has its prompts computed in batches too long for another to wait for.
            self.interrupt.raise();
        }
        self.bell.ring();
        Ok(())
    }

    /// What `submit` would say to `team` of so many now, so that work towards it can be spared.
    ///
    /// # Errors
    /// As for [`Shared::submit`].
    pub(crate) fn check_room(
        &self,
        team: Option<&TeamId>,
        choices: usize,
    ) -> Result<(), BackendError> {
        self.queue_with_room(team, choices).map(drop)
    }

    /// The queue under its lock, with room for so many more of `team`.
    fn queue_with_room(
        &self,
        team: Option<&TeamId>,
        choices: usize,
    ) -> Result<MutexGuard<'_, Queue>, BackendError> {
        let mut queue = self.queue();
        if queue.is_closed {
            return Err(BackendError::Engine("it has stopped"));
        }
        if !queue.waiting.has_room(team, choices, self.queue_max) {
            queue.waiting.drop_cancelled();
        }
        if queue.waiting.has_room(team, choices, self.queue_max) {
            return Ok(queue);
        }
        drop(queue);
        Err(self.overloaded())
    }

    fn overloaded(&self) -> BackendError {
        BackendError::Overloaded {
            retry_after: self.wait().unwrap_or(WAIT_UNKNOWN),
        }
    }

    /// Takes the next request for `place` whose reader is still there, if `fits` it. Its seat is to
    /// be given back by [`Shared::settle`].
    pub(crate) fn take_if(
        &self,
        place: Place,
        fits: impl FnOnce(&Request) -> bool,
    ) -> Option<(Request, Seat)> {
        self.queue().waiting.take_if(place, fits)
    }

    pub(crate) fn settle(&self, seat: Seat) {
        self.queue().waiting.settle(seat);
    }

    /// True when more than one team asks these days.
    pub(crate) fn has_rivals(&self) -> bool {
        self.queue().waiting.has_rivals()
    }

    /// How many tokens a reply bounded by `output_max` is expected to have.
    pub(crate) fn reply_tokens(&self, output_max: u32) -> u32 {
        self.queue().waiting.reply_tokens(output_max)
    }

    /// Requests computed at once, those on spare slots not counted.
    pub(crate) fn slots(&self) -> u32 {
        self.pulse.slots
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Ends the queue: what waits in it, and what would yet come, is refused.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closed = true;
        for request in queue.waiting.drain() {
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

    pub(crate) fn vitals(&self) -> Vitals {
        let outlook = self.pulse.outlook();
        let rate = |seconds: Option<f64>| seconds.filter(|it| *it > 0.0).map(f64::recip);
        Vitals {
            running: self.pulse.running.load(Ordering::Relaxed),
            slots_max: self.pulse.slots,
            waiting: u32::try_from(self.waiting()).unwrap_or(u32::MAX),
            prompt_rate: rate(outlook.prompt_s),
            reply_rate: rate(outlook.step_s),
        }
    }

    /// How far the thread has come, for whoever wants to know whether it hangs.
    pub(crate) fn stride(&self) -> Stride {
        if self.pulse.is_resting.load(Ordering::SeqCst) {
            return Stride::Resting;
        }
        let steps = self.pulse.steps.load(Ordering::Relaxed);
        Stride::At(steps.wrapping_add(self.interrupt.looks()))
    }

    /// How long a request that came now would wait for a slot. Until the machine's speed was
    /// measured: those before it and itself, each taking as long as the last few did, so many at a
    /// time as there are slots.
    fn wait(&self) -> Option<Duration> {
        let queue = self.queue();
        let (waiting, ahead) = (queue.waiting.len(), queue.waiting.ahead());
        drop(queue);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let pulse = &self.pulse;
        if waiting == 0 && pulse.running.load(Ordering::Relaxed) < pulse.slots {
            return Some(Duration::ZERO);
        }
        if let Some(wait) = pulse.outlook().wait(ahead, pulse.slots) {
            return Some(wait);
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
    outlook: Mutex<Outlook>,
    drafted: AtomicU64,
    accepted: AtomicU64,
}

/// Tokens drafted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftCount {
    pub drafted: u64,
    /// Of these, those that the reply took.
    pub accepted: u64,
}

/// What an engine is busy with, and how fast it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// Chats being computed; those on spare slots count.
    pub running: u32,
    pub slots_max: u32,
    pub waiting: u32,
    /// Tokens of prompts read a second, as last measured.
    pub prompt_rate: Option<f64>,
    /// Tokens that each running reply gets a second, as last measured.
    pub reply_rate: Option<f64>,
}

impl DraftCount {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            drafted: self.drafted.saturating_add(other.drafted),
            accepted: self.accepted.saturating_add(other.accepted),
        }
    }
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
            outlook: Mutex::default(),
            drafted: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        }
    }

    pub(crate) fn count_draft(&self, drafted: u32, accepted: u32) {
        self.drafted
            .fetch_add(u64::from(drafted), Ordering::Relaxed);
        self.accepted
            .fetch_add(u64::from(accepted), Ordering::Relaxed);
    }

    pub(crate) fn drafts(&self) -> DraftCount {
        DraftCount {
            drafted: self.drafted.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
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

    pub(crate) fn set_outlook(&self, outlook: Outlook) {
        *self.outlook.lock().unwrap_or_else(PoisonError::into_inner) = outlook;
    }

    fn outlook(&self) -> Outlook {
        *self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
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
            priority: Priority::default(),
            model: "m".into(),
            adapters: AdapterSet::NONE,
            prompt: vec![1],
            images: Vec::new(),
            prediction: Vec::new(),
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
        assert!(shared.check_room(None, 2).is_err());
        drop(two.1);
        assert!(shared.check_room(None, 2).is_ok());
    }

    #[test]
    fn a_measured_machine_foretells_the_wait_from_the_tokens_ahead() {
        let shared = Shared::new(1, 4);
        shared.pulse.set_outlook(Outlook {
            prompt_s: Some(0.01),
            step_s: Some(0.5),
            reading: 99,
            steps: 8,
        });
        let (first, _stream) = request(&shared);
        shared.submit(vec![first]).unwrap();
        let refused = shared.check_room(None, 2).unwrap_err();
        // 99 tokens and one to read, eight steps until a slot is free; a reply of one token, among
        // four, is less than a step.
        assert!(
            matches!(refused, BackendError::Overloaded { retry_after } if retry_after == Duration::from_secs(5)),
            "{refused:?}"
        );
        assert_eq!(shared.health().wait, Some(Duration::from_secs(5)));
    }

    #[test]
    fn vitals_tell_rates_from_times() {
        let shared = Shared::new(4, 2);
        assert_eq!(shared.vitals().prompt_rate, None);
        shared.pulse.set_running(1);
        shared.pulse.set_outlook(Outlook {
            prompt_s: Some(0.01),
            step_s: Some(0.5),
            ..Outlook::default()
        });
        let (waits, _stream) = request(&shared);
        shared.submit(vec![waits]).unwrap();
        let expected = Vitals {
            running: 1,
            slots_max: 2,
            waiting: 1,
            prompt_rate: Some(100.0),
            reply_rate: Some(2.0),
        };
        assert_eq!(shared.vitals(), expected);
    }

    #[test]
    fn those_who_left_make_room() {
        let shared = Shared::new(1, 1);
        let (first, stream) = request(&shared);
        shared.submit(vec![first]).unwrap();
        drop(stream);
        let (second, _stream) = request(&shared);
        shared.submit(vec![second]).unwrap();
        assert!(shared.take_if(Place::Regular, |_| true).is_some());
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
