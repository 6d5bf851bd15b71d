//! How many threads compute, where others want the processor too.
//!
//! At every operation the threads of a computation wait for the slowest, so one that has to share
//! its core with a busy neighbour holds up all: two threads beside one neighbour on two cores decode
//! 17 t/s, one alone 28 (0.5B, Q8_0). Whether that is so shows only in the time that steps take.
//!
//! So each step is held against the quickest of its size. When steps stay slow, fewer threads are
//! tried for a look's time, and kept where the look was quicker; while there are fewer, more are
//! tried now and then. A trial is judged against the look right before it, so what else makes steps
//! slow, such as long texts, is the same for both. Steps of replies and steps with prompts are
//! counted apart, each with a number of threads of its own: they wait differently.
//!
//! **Bounds.** After a trial that took t, the next begins no sooner than [`REST`] t of computing
//! later, so after the first they take at most one part in 33 of the time; each that failed in a row
//! doubles the rest, up to [`FAILURES_MAX`] times. A number is changed only for a gain of
//! [`GAIN`] and tried only beyond [`SLOW`], so noise moves nothing to and fro.

use std::time::{Duration, Instant};

use crate::decoder::Threads;

/// Steps are slow when they take so many times what the quickest of their size took.
const SLOW: f64 = 1.3;
/// Looks in a row that must be slow before fewer threads are tried.
const SLOW_LOOKS: u32 = 2;
/// By how much of the time another number must be quicker.
const GAIN: f64 = 0.1;
/// A look is at least so many steps,
const LOOK_STEPS: u32 = 8;
/// and so long: a scheduler gives processors away for some milliseconds at a time.
const LOOK_S: f64 = 0.2;
/// Of which so many must be of sizes that were met before.
const LOOK_STEPS_KNOWN: u32 = 4;
/// A trial that is so much slower,
const LOST: f64 = 1.25;
/// in so many steps of sizes that were met before, is over as soon as they took as long as a look.
const LOST_STEPS: u32 = 2;
/// Computing time between trials, in times of the last one.
const REST: f64 = 32.0;
/// Trials failed in a row, beyond which the rest between them grows no more.
const FAILURES_MAX: u32 = 3;
/// By how much the quickest time is forgotten with each step of its size: texts grow longer, and
/// what is always slow is no sign of a neighbour.
const FORGETTING: f64 = 1.0 / 8_192.0;
/// After so long without a step, failed trials say nothing any more.
const PAUSE: Duration = Duration::from_secs(30);

/// Step sizes that are told apart: each up to 16 tokens, then each doubling.
const SIZES: usize = 16 + 28;

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Tokens of replies, and drafts of them.
    Replies,
    /// Prompts, whatever else.
    Prompts,
}

/// The threads of one engine.
#[derive(Debug)]
pub(crate) struct Crew {
    replies: Lane,
    prompts: Lane,
    /// What the decoder was told last.
    told: u32,
    last_step: Option<Instant>,
}

/// Of one kind of work.
#[derive(Debug)]
struct Lane {
    most: u32,
    /// The number settled on.
    count: u32,
    /// Tried instead of it.
    trial: Option<u32>,
    /// Seconds per token of the quickest step of each size with all threads.
    quickest_s: [Option<f64>; SIZES],
    look: Look,
    /// What the last whole look gave.
    slowness: f64,
    slow_looks: u32,
    /// Computing time until the next trial.
    rest_s: f64,
    /// Of the last trial.
    cost_s: f64,
    failures: u32,
    /// Which way the last trial went, if it failed.
    failed: Option<Way>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Fewer,
    More,
}

/// Some steps in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    steps: u32,
    took_s: f64,
    /// Those of sizes met before, what they took, and what they would have at best.
    known: u32,
    known_s: f64,
    best_s: f64,
}

impl Crew {
    pub(crate) fn new(threads: Threads) -> Self {
        let most = if threads.adapts { threads.count } else { 1 };
        Self {
            replies: Lane::new(most),
            prompts: Lane::new(most),
            told: most,
            last_step: None,
        }
    }

    /// The number of threads for a step of `work`, where the decoder is to be told.
    pub(crate) fn change(&mut self, work: Work, now: Instant) -> Option<u32> {
        let pause = self
            .last_step
            .replace(now)
            .map(|last| now.saturating_duration_since(last));
        if pause.is_some_and(|pause| pause >= PAUSE) {
            self.replies.wake();
            self.prompts.wake();
        }
        let wanted = self.lane(work).wanted();
        let is_new = std::mem::replace(&mut self.told, wanted) != wanted;
        is_new.then_some(wanted)
    }

    /// True when what the next step of `work` takes says little about others.
    pub(crate) fn is_on_trial(&mut self, work: Work) -> bool {
        self.lane(work).trial.is_some()
    }

    /// Learns from a step of `tokens` tokens.
    pub(crate) fn learn(&mut self, work: Work, tokens: u32, took: Duration) {
        let lane = self.lane(work);
        if lane.most > 1 && tokens > 0 {
            lane.learn(tokens, took.as_secs_f64());
        }
    }

    fn lane(&mut self, work: Work) -> &mut Lane {
        match work {
            Work::Replies => &mut self.replies,
            Work::Prompts => &mut self.prompts,
        }
    }
}

impl Lane {
    fn new(most: u32) -> Self {
        Self {
            most,
            count: most,
            trial: None,
            quickest_s: [None; SIZES],
            look: Look::default(),
            slowness: 1.0,
            slow_looks: 0,
            rest_s: 0.0,
            cost_s: 0.0,
            failures: 0,
            failed: None,
        }
    }

    fn wanted(&self) -> u32 {
        self.trial.unwrap_or(self.count)
    }

    fn learn(&mut self, tokens: u32, took_s: f64) {
        let each_s = took_s / f64::from(tokens);
        let quickest_s = &mut self.quickest_s[size(tokens)];
        if self.trial.unwrap_or(self.count) == self.most {
            let forgotten = quickest_s.map_or(each_s, |quickest| quickest * (1.0 + FORGETTING));
            *quickest_s = Some(forgotten.min(each_s));
        }
        self.look.steps += 1;
        self.look.took_s += took_s;
        if let Some(quickest_s) = *quickest_s {
            self.look.known += 1;
            self.look.known_s += took_s;
            self.look.best_s += quickest_s * f64::from(tokens);
        }
        if self.trial.is_none() {
            self.rest_s = (self.rest_s - took_s).max(0.0);
        }
        if !self.look.is_whole() && !self.is_lost() {
            return;
        }
        let look = std::mem::take(&mut self.look);
        match self.trial.take() {
            Some(tried) => self.judge(tried, look),
            None => self.consider(look),
        }
    }

    /// A trial that is much slower already: with long steps, a whole look takes seconds.
    fn is_lost(&self) -> bool {
        let Look {
            took_s,
            known,
            known_s,
            best_s,
            ..
        } = self.look;
        self.trial.is_some()
            && took_s >= LOOK_S
            && known >= LOST_STEPS
            && known_s > best_s * self.slowness * LOST
    }

    /// After a look at the number settled on: is another to be tried?
    fn consider(&mut self, look: Look) {
        let Some(slowness) = look.slowness() else {
            return;
        };
        self.slowness = slowness;
        // What fewer threads explain is not slow.
        let share = f64::from(self.most) / f64::from(self.count);
        let is_slow = slowness > SLOW * share;
        self.slow_looks = if is_slow { self.slow_looks + 1 } else { 0 };
        if self.rest_s > 0.0 {
            return;
        }
        let may_go_down = self.slow_looks >= SLOW_LOOKS && self.count > 1;
        let has_gone_down = self.failed == Some(Way::Fewer) && self.count < self.most;
        if may_go_down && !has_gone_down {
            // Further down each time: with several neighbours, one thread fewer changes nothing.
            let fewer = 1 << self.failures;
            self.trial = Some(self.count.saturating_sub(fewer).max(1));
        } else if self.count < self.most {
            let has_gone_up = self.failed == Some(Way::More);
            self.trial = Some(if has_gone_up {
                self.count + 1
            } else {
                self.most
            });
        }
    }

    fn judge(&mut self, tried: u32, look: Look) {
        let is_quicker = look
            .slowness()
            .is_some_and(|slowness| slowness < self.slowness * (1.0 - GAIN));
        self.cost_s = look.took_s;
        self.slow_looks = 0;
        if is_quicker {
            self.count = tried;
            self.failures = 0;
            self.failed = None;
        } else {
            let way = if tried < self.count {
                Way::Fewer
            } else {
                Way::More
            };
            // To the whole and one more in turn.
            let is_second = self.failed == Some(Way::More) && way == Way::More;
            self.failed = Some(way).filter(|_| !is_second);
            self.failures = (self.failures + 1).min(FAILURES_MAX);
        }
        let doublings = self.failures.saturating_sub(1);
        self.rest_s = self.cost_s * REST * f64::from(1_u32 << doublings);
    }

    /// After a pause.
    fn wake(&mut self) {
        if self.trial.take().is_some() {
            self.cost_s = self.cost_s.max(self.look.took_s);
            self.rest_s = self.cost_s * REST;
        }
        self.look = Look::default();
        self.slow_looks = 0;
        self.failures = 0;
        self.failed = None;
        self.rest_s = self.rest_s.min(self.cost_s * REST);
    }
}

impl Look {
    fn is_whole(&self) -> bool {
        self.steps >= LOOK_STEPS && self.took_s >= LOOK_S
    }

    /// How many times what they would have at best these steps took; `None` when too few can be
    /// compared.
    fn slowness(&self) -> Option<f64> {
        let is_telling = self.known >= LOOK_STEPS_KNOWN && self.best_s > 0.0;
        is_telling.then(|| self.known_s / self.best_s)
    }
}

/// The place of a step of `tokens`, at least 1, among the sizes.
fn size(tokens: u32) -> usize {
    match tokens {
        1..=16 => tokens as usize - 1,
        _ => 16 + (tokens.ilog2() as usize - 4).min(SIZES - 17),
    }
}

#[cfg(test)]
mod tests;
