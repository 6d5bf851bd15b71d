//! Whether one model of one provider is asked at all: a value that is told what happened, and when.
//!
//! ```text
//! Closed ─failures in a row, or too great a share of them──► Open ─its time is up─► HalfOpen
//!    ▲                                                        ▲                        │
//!    │                                                        └─ the probe failed, twice as long
//!    └──────────────────────────────────── the probe was answered ─────────────────────┘
//! ```
//! Only faults of the provider are told as failures: neither what is wrong with a caller's request nor
//! a caller who left. What shows a provider that answers nobody is told apart from one that answers
//! some: the second is passed over while another candidate is left, and asked when none is.

use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// In a row; as many open it.
    pub failures_max: u32,
    /// Of the chats in `window`, in percent; more open it.
    pub failed_percent_max: u32,
    /// Chats in the window below which their share says nothing.
    pub chats_min: u32,
    pub window: Duration,
    /// How long it is open at first; each time in a row doubles it.
    pub open: Duration,
    pub open_max: Duration,
}

impl Default for BreakerRules {
    /// Five in a row are no accident even of a provider that fails a third of its chats (0.4 %). A
    /// fifth of twenty is where passing it over costs fewer second tries than asking it.
    fn default() -> Self {
        Self {
            failures_max: 5,
            failed_percent_max: 20,
            chats_min: 20,
            window: Duration::from_secs(30),
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(120),
        }
    }
}

/// Doublings after which only `open_max` counts.
const DOUBLINGS_MAX: u32 = 16;

/// Parts of the window, the oldest of which is forgotten at a time.
const PARTS: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

impl BreakerState {
    pub const ALL: [BreakerState; 3] = [
        BreakerState::Closed,
        BreakerState::Open,
        BreakerState::HalfOpen,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// How a chat was let through, to be told when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    Plain,
    /// The one chat that shows whether the provider is back.
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Instant,
        /// Whether it answered nobody, rather than too few.
        is_dead: bool,
    },
    HalfOpen {
        is_probed: bool,
        is_dead: bool,
    },
}

#[derive(Debug)]
pub struct Breaker {
    rules: BreakerRules,
    phase: Phase,
    since: Instant,
    failures_in_row: u32,
    /// Times in a row that it opened without a probe answered between.
    openings: u32,
    window: Window,
}

impl Breaker {
    #[must_use]
    pub fn new(rules: BreakerRules, now: Instant) -> Self {
        Self {
            rules,
            phase: Phase::Closed,
            since: now,
            failures_in_row: 0,
            openings: 0,
            window: Window::new(rules.window, now),
        }
    }

    #[must_use]
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until, .. } if now < until => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// When it came into the state it is in.
    #[must_use]
    pub fn since(&self, now: Instant) -> Instant {
        match self.phase {
            Phase::Open { until, .. } if now >= until => until,
            Phase::Closed | Phase::Open { .. } | Phase::HalfOpen { .. } => self.since,
        }
    }

    /// Failures since the last answer.
    #[must_use]
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row
    }

    /// `None` when a chat may be sent now; else how long one should wait at least.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Closed
            | Phase::HalfOpen {
                is_probed: false, ..
            } => None,
            Phase::HalfOpen {
                is_probed: true, ..
            } => Some(PROBE_WAIT),
            Phase::Open { until, .. } => {
                let wait = until.saturating_duration_since(now);
                (!wait.is_zero()).then_some(wait)
            }
        }
    }

    /// Lets a chat through, or says how long to leave the provider alone. With `is_last_resort`
    /// nobody else is left: then one that answers some is asked all the same.
    ///
    /// # Errors
    /// The wait.
    pub fn admit(&mut self, now: Instant, is_last_resort: bool) -> Result<Pass, Duration> {
        if let Phase::Open { until, is_dead } = self.phase
            && now >= until
        {
            self.since = until;
            self.phase = Phase::HalfOpen {
                is_probed: false,
                is_dead,
            };
        }
        match &mut self.phase {
            Phase::Closed => Ok(Pass::Plain),
            Phase::HalfOpen { is_probed, .. } if !*is_probed => {
                *is_probed = true;
                Ok(Pass::Probe)
            }
            Phase::Open { is_dead, .. } | Phase::HalfOpen { is_dead, .. }
                if is_last_resort && !*is_dead =>
            {
                Ok(Pass::Plain)
            }
            Phase::Open { until, .. } => Err(*until - now),
            Phase::HalfOpen { .. } => Err(PROBE_WAIT),
        }
    }

    /// Its first content came, or a refusal that shows a provider at work.
    pub fn began(&mut self, now: Instant, pass: Pass) {
        match (pass, self.phase) {
            (Pass::Probe, Phase::HalfOpen { .. }) => {
                self.phase = Phase::Closed;
                self.since = now;
                self.openings = 0;
                self.failures_in_row = 0;
                self.window = Window::new(self.rules.window, now);
            }
            (
                Pass::Plain | Pass::Probe,
                Phase::Closed | Phase::Open { .. } | Phase::HalfOpen { .. },
            ) => {}
        }
    }

    /// The chat came to its end.
    pub fn answered(&mut self, now: Instant) {
        self.failures_in_row = 0;
        self.window.count(now, false);
    }

    /// The provider failed.
    pub fn failed(&mut self, now: Instant, pass: Pass) {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        self.window.count(now, true);
        match (pass, self.phase) {
            (Pass::Probe, Phase::HalfOpen { is_dead, .. }) => self.open(now, is_dead),
            (Pass::Plain | Pass::Probe, Phase::Closed) => {
                let (chats, failed) = self.window.counts(now);
                if self.failures_in_row >= self.rules.failures_max {
                    self.open(now, true);
                } else if chats >= self.rules.chats_min
                    && u64::from(failed) * 100
                        > u64::from(chats) * u64::from(self.rules.failed_percent_max)
                {
                    self.open(now, false);
                }
            }
            (Pass::Plain, Phase::Open { .. } | Phase::HalfOpen { .. })
            | (Pass::Probe, Phase::Open { .. }) => {}
        }
    }

    /// The caller left, or another candidate was quicker, before anything could be learnt.
    pub fn dropped(&mut self, pass: Pass) {
        if let (Pass::Probe, Phase::HalfOpen { is_probed, .. }) = (pass, &mut self.phase) {
            *is_probed = false;
        }
    }

    fn open(&mut self, now: Instant, is_dead: bool) {
        let doublings = self.openings.min(DOUBLINGS_MAX);
        self.openings = self.openings.saturating_add(1);
        let open = self.rules.open.saturating_mul(1 << doublings);
        self.phase = Phase::Open {
            until: now + open.min(self.rules.open_max),
            is_dead,
        };
        self.since = now;
    }
}

/// What others are told to wait while one chat shows whether the provider is back.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Chats and failures of the last while, in parts.
#[derive(Debug)]
struct Window {
    part: Duration,
    /// When the newest part began.
    began: Instant,
    /// Chats, and the failed among them, of each part; the newest first.
    parts: [(u32, u32); PARTS],
}

impl Window {
    fn new(window: Duration, now: Instant) -> Self {
        Self {
            part: window / PARTS as u32,
            began: now,
            parts: [(0, 0); PARTS],
        }
    }

    fn count(&mut self, now: Instant, is_failed: bool) {
        self.forget(now);
        let newest = &mut self.parts[0];
        newest.0 = newest.0.saturating_add(1);
        newest.1 = newest.1.saturating_add(u32::from(is_failed));
    }

    fn counts(&mut self, now: Instant) -> (u32, u32) {
        self.forget(now);
        let parts = self.parts.iter();
        parts.fold((0, 0), |(chats, failed), part| {
            (chats + part.0, failed + part.1)
        })
    }

    fn forget(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.began);
        let parts = gone.as_nanos() / self.part.as_nanos().max(1);
        if parts == 0 {
            return;
        }
        if parts >= PARTS as u128 {
            self.parts = [(0, 0); PARTS];
            self.began = now;
            return;
        }
        for _ in 0..parts {
            self.parts.rotate_right(1);
            self.parts[0] = (0, 0);
            self.began += self.part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> BreakerRules {
        BreakerRules {
            failures_max: 3,
            failed_percent_max: 20,
            chats_min: 10,
            window: 30 * SECOND,
            open: SECOND,
            open_max: 5 * SECOND,
        }
    }

    fn dead(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(rules(), now);
        for _ in 0..3 {
            assert_eq!(breaker.admit(now, false), Ok(Pass::Plain));
            breaker.failed(now, Pass::Plain);
        }
        assert_eq!(breaker.state(now), BreakerState::Open);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_an_answer_forgets_them() {
        let now = Instant::now();
        let mut breaker = Breaker::new(rules(), now);
        breaker.failed(now, Pass::Plain);
        breaker.failed(now, Pass::Plain);
        breaker.answered(now);
        breaker.failed(now, Pass::Plain);
        breaker.failed(now, Pass::Plain);
        assert_eq!(breaker.admit(now, false), Ok(Pass::Plain));
        breaker.failed(now, Pass::Plain);
        assert_eq!(breaker.wait(now), Some(SECOND));
        for is_last_resort in [false, true] {
            assert_eq!(
                breaker.admit(now, is_last_resort),
                Err(SECOND),
                "it is dead"
            );
        }
    }

    #[test]
    fn a_share_of_failures_opens_it_and_it_still_serves_as_the_last_resort() {
        let now = Instant::now();
        let mut breaker = Breaker::new(rules(), now);
        for at in 0..12 {
            assert_eq!(breaker.state(now), BreakerState::Closed, "{at}");
            if at % 4 == 3 {
                breaker.failed(now, Pass::Plain);
            } else {
                breaker.answered(now);
            }
        }
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert_eq!(breaker.admit(now, false), Err(SECOND));
        assert_eq!(breaker.admit(now, true), Ok(Pass::Plain));
    }

    #[test]
    fn old_chats_leave_the_window() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(rules(), now);
        for _ in 0..40 {
            breaker.answered(now);
            breaker.failed(now, Pass::Plain);
            now += 9 * SECOND;
        }
        assert_eq!(breaker.state(now), BreakerState::Closed, "ten never meet");
    }

    #[test]
    fn one_probe_at_a_time_shows_whether_it_is_back() {
        let start = Instant::now();
        let mut breaker = dead(start);
        let now = start + SECOND;
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        assert_eq!(breaker.since(now), now);
        assert_eq!(breaker.admit(now, true), Ok(Pass::Probe));
        assert_eq!(breaker.admit(now, true), Err(PROBE_WAIT), "one at a time");
        breaker.dropped(Pass::Probe);
        assert_eq!(breaker.admit(now, false), Ok(Pass::Probe));
        breaker.began(now, Pass::Probe);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        assert_eq!(breaker.failures_in_row(), 0);
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_a_cap_and_an_answer_starts_over() {
        let mut now = Instant::now();
        let mut breaker = dead(now);
        let mut waits = Vec::new();
        for _ in 0..5 {
            now += breaker.wait(now).unwrap();
            assert_eq!(breaker.admit(now, false), Ok(Pass::Probe));
            breaker.failed(now, Pass::Probe);
            waits.push(breaker.wait(now).unwrap().as_secs());
        }
        assert_eq!(waits, [2, 4, 5, 5, 5]);
        now += 5 * SECOND;
        assert_eq!(breaker.admit(now, false), Ok(Pass::Probe));
        breaker.began(now, Pass::Probe);
        (0..3).for_each(|_| breaker.failed(now, Pass::Plain));
        assert_eq!(breaker.wait(now), Some(SECOND));
    }

    #[test]
    fn a_chat_from_before_it_opened_neither_closes_it_nor_keeps_it_open() {
        let now = Instant::now();
        let mut breaker = dead(now);
        breaker.began(now, Pass::Plain);
        breaker.answered(now);
        assert_eq!(breaker.state(now), BreakerState::Open);
        breaker.failed(now, Pass::Plain);
        assert_eq!(breaker.wait(now), Some(SECOND));
    }
}
