//! Whether one endpoint may be asked: a value that is told what happened, and when.
//!
//! ```text
//! Unseen ─asked, well──► In ─failures_max in a row──► Out(until) ─time is up, asked, well─► Trial
//!    └────asked, ill──────────────────────────────────► ▲                                    │
//!                       ▲                               └── the one chat failed, longer ─────┤
//!                       └────────────────────────────────── the one chat was answered ───────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::HealthRules;

/// Doublings of the first wait after which only `eject_max` counts.
const DOUBLINGS_MAX: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not asked yet: it may be tried, for it is as likely well as not.
    Unseen,
    In,
    /// Out until then, and after it until it says that it is well.
    Out {
        until: Instant,
    },
    /// It says that it is well; one chat at a time shows whether it is.
    Trial {
        is_taken: bool,
    },
}

/// How an endpoint stands, for metrics and the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Unseen,
    In,
    Trial,
    Out,
}

impl EndpointState {
    pub const ALL: [EndpointState; 4] = [
        EndpointState::Unseen,
        EndpointState::In,
        EndpointState::Trial,
        EndpointState::Out,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            EndpointState::Unseen => "unseen",
            EndpointState::In => "in",
            EndpointState::Trial => "trial",
            EndpointState::Out => "out",
        }
    }
}

/// What an event changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Ejected {
        wait: Duration,
    },
    /// Asked again after its time, it still is not well.
    StaysOut {
        wait: Duration,
    },
    Returned,
}

#[derive(Debug)]
pub(crate) struct Standing {
    rules: HealthRules,
    phase: Phase,
    /// In a row, since the last answer.
    chats_failed: u32,
    /// In a row. Apart from the chats: an engine may say that it is well and answer nobody.
    looks_failed: u32,
    /// In a row, since the last answered trial.
    ejections: u32,
}

impl Standing {
    pub fn new(rules: HealthRules) -> Self {
        Self {
            rules,
            phase: Phase::Unseen,
            chats_failed: 0,
            looks_failed: 0,
            ejections: 0,
        }
    }

    pub fn state(&self) -> EndpointState {
        match self.phase {
            Phase::Unseen => EndpointState::Unseen,
            Phase::In => EndpointState::In,
            Phase::Trial { .. } => EndpointState::Trial,
            Phase::Out { .. } => EndpointState::Out,
        }
    }

    /// Whether a chat may be sent there.
    pub fn is_open(&self) -> bool {
        matches!(
            self.phase,
            Phase::Unseen | Phase::In | Phase::Trial { is_taken: false }
        )
    }

    /// How long it is still out.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Out { until } => Some(until.saturating_duration_since(now)),
            Phase::Unseen | Phase::In | Phase::Trial { .. } => None,
        }
    }

    /// Whether it should be asked how it is; while it is out, it is left alone.
    pub fn is_due(&self, now: Instant) -> bool {
        self.wait(now).is_none_or(|wait| wait.is_zero())
    }

    /// A chat is sent there.
    pub fn chat_sent(&mut self) {
        if let Phase::Trial { is_taken } = &mut self.phase {
            *is_taken = true;
        }
    }

    /// Its first content came, or a refusal that shows a working engine.
    pub fn chat_answered(&mut self) -> Change {
        self.chats_failed = 0;
        self.ejections = 0;
        self.looks_failed = 0;
        match std::mem::replace(&mut self.phase, Phase::In) {
            Phase::Unseen | Phase::In => Change::None,
            Phase::Out { .. } | Phase::Trial { .. } => Change::Returned,
        }
    }

    /// No connection, one that broke, no answer in time, or one that is none.
    pub fn chat_failed(&mut self, now: Instant) -> Change {
        self.chats_failed = self.chats_failed.saturating_add(1);
        match self.phase {
            Phase::Trial { .. } => self.eject(now),
            Phase::Unseen | Phase::In if self.chats_failed >= self.rules.failures_max => {
                self.eject(now)
            }
            Phase::Unseen | Phase::In | Phase::Out { .. } => Change::None,
        }
    }

    /// It was slow or had no time: out again where it was on trial, else its chats to come
    /// decide. An engine under load is not to be left out, lest the others follow it.
    pub fn chat_doubtful(&mut self, now: Instant) -> Change {
        match self.phase {
            Phase::Trial { .. } => self.eject(now),
            Phase::Unseen | Phase::In | Phase::Out { .. } => Change::None,
        }
    }

    /// The caller left before anything could be learnt.
    pub fn chat_dropped(&mut self) {
        if let Phase::Trial { is_taken } = &mut self.phase {
            *is_taken = false;
        }
    }

    /// Asked, it said that it is well.
    pub fn looked_well(&mut self, now: Instant) {
        self.looks_failed = 0;
        match self.phase {
            Phase::Unseen => self.phase = Phase::In,
            Phase::Out { until } if until <= now => {
                self.phase = Phase::Trial { is_taken: false };
            }
            Phase::In | Phase::Trial { .. } | Phase::Out { .. } => {}
        }
    }

    /// Asked, it did not say so. One never seen well is out at once.
    pub fn looked_ill(&mut self, now: Instant) -> Change {
        self.looks_failed = self.looks_failed.saturating_add(1);
        match self.phase {
            Phase::Unseen => self.eject(now),
            Phase::Out { until } if until <= now => Change::StaysOut {
                wait: self.put_out(now),
            },
            Phase::In | Phase::Trial { .. } if self.looks_failed >= self.rules.failures_max => {
                self.eject(now)
            }
            Phase::In | Phase::Trial { .. } | Phase::Out { .. } => Change::None,
        }
    }

    fn eject(&mut self, now: Instant) -> Change {
        Change::Ejected {
            wait: self.put_out(now),
        }
    }

    fn put_out(&mut self, now: Instant) -> Duration {
        let doublings = self.ejections.min(DOUBLINGS_MAX);
        self.ejections = self.ejections.saturating_add(1);
        self.chats_failed = 0;
        self.looks_failed = 0;
        let wait = self.rules.eject.saturating_mul(1 << doublings);
        let wait = wait.min(self.rules.eject_max);
        self.phase = Phase::Out { until: now + wait };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> HealthRules {
        HealthRules {
            interval: SECOND,
            timeout: SECOND,
            failures_max: 3,
            eject: SECOND,
            eject_max: 5 * SECOND,
        }
    }

    fn seen_well(now: Instant) -> Standing {
        let mut standing = Standing::new(rules());
        standing.looked_well(now);
        assert_eq!(standing.state(), EndpointState::In);
        standing
    }

    #[test]
    fn the_third_failure_in_a_row_ejects_and_an_answer_forgets_two() {
        let now = Instant::now();
        let mut standing = seen_well(now);
        assert_eq!(standing.chat_failed(now), Change::None);
        assert_eq!(standing.chat_failed(now), Change::None);
        assert_eq!(standing.chat_answered(), Change::None);
        assert_eq!(standing.chat_failed(now), Change::None);
        assert_eq!(standing.chat_failed(now), Change::None);
        assert!(standing.is_open());
        assert_eq!(standing.chat_failed(now), Change::Ejected { wait: SECOND });
        assert!(!standing.is_open() && !standing.is_due(now));
    }

    #[test]
    fn saying_that_it_is_well_does_not_make_up_for_chats_that_fail() {
        let now = Instant::now();
        let mut standing = seen_well(now);
        for _ in 0..2 {
            assert_eq!(standing.chat_failed(now), Change::None);
            standing.looked_well(now);
        }
        assert_eq!(standing.chat_failed(now), Change::Ejected { wait: SECOND });
    }

    #[test]
    fn one_chat_at_a_time_shows_whether_it_is_back() {
        let now = Instant::now();
        let mut standing = Standing::new(rules());
        assert!(standing.is_open(), "not asked yet, it may be tried");
        assert_eq!(standing.looked_ill(now), Change::Ejected { wait: SECOND });
        standing.looked_well(now);
        assert!(!standing.is_open(), "its time is not up");
        let asked = now + SECOND;
        assert!(standing.is_due(asked));
        let stays = Change::StaysOut { wait: 2 * SECOND };
        assert_eq!(standing.looked_ill(asked), stays);
        let later = asked + 2 * SECOND;
        assert!(standing.is_due(later));
        standing.looked_well(later);
        assert_eq!(standing.state(), EndpointState::Trial);
        standing.chat_sent();
        assert!(!standing.is_open(), "one at a time");
        standing.chat_dropped();
        assert!(standing.is_open());
        standing.chat_sent();
        assert_eq!(standing.chat_answered(), Change::Returned);
        assert!(standing.is_open());
    }

    #[test]
    fn a_busy_engine_stays_and_one_on_trial_does_not() {
        let now = Instant::now();
        let mut standing = seen_well(now);
        for _ in 0..9 {
            assert_eq!(standing.chat_doubtful(now), Change::None);
        }
        let mut standing = Standing::new(rules());
        standing.looked_ill(now);
        standing.looked_well(now + SECOND);
        standing.chat_sent();
        let ejected = standing.chat_doubtful(now + SECOND);
        assert_eq!(ejected, Change::Ejected { wait: 2 * SECOND });
    }

    #[test]
    fn each_time_in_a_row_it_is_out_longer_up_to_a_bound() {
        let mut now = Instant::now();
        let mut standing = Standing::new(rules());
        let mut waits = Vec::new();
        standing.looked_ill(now);
        for _ in 0..5 {
            now += 10 * SECOND;
            standing.looked_well(now);
            standing.chat_sent();
            let Change::Ejected { wait } = standing.chat_failed(now) else {
                panic!("a failed trial ejects");
            };
            waits.push(wait.as_secs());
        }
        assert_eq!(waits, [2, 4, 5, 5, 5]);
        now += 10 * SECOND;
        standing.looked_well(now);
        standing.chat_sent();
        standing.chat_answered();
        let ejected = (0..3).map(|_| standing.chat_failed(now)).last();
        assert_eq!(ejected, Some(Change::Ejected { wait: SECOND }));
    }
}
