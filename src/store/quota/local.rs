//! All limits of one process behind one lock, which is held for some arithmetic and never for anything
//! that waits.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{Exhausted, Grant, Left, Limit, Measure, Period, Quotas, Returned, Scope, Use};

use super::account::{Account, Held};
use super::bucket::{Bucket, Rate};
use super::calendar::{Calendar, Window};

/// How soon a place among those at once may be free: replies take seconds.
pub(super) const PLACE_WAIT: Duration = Duration::from_secs(1);

/// Windows that begin no further apart are the same, in another time zone: its day began half a day
/// earlier or later. A day's limit begins anew after that at the latest.
pub(super) const ZONES_APART: u64 = 12 * 60 * 60;

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since any one moment, of a clock that never goes back.
    pub nanos: u64,
    /// Unix seconds, of the one on the wall.
    pub unix: u64,
}

/// Which count it is. Amounts are none of it: a limit that is raised goes on from what was used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Counter {
    pub scope: Scope,
    pub measure: Measure,
    pub period: Period,
}

impl Counter {
    pub fn of(limit: &Limit) -> Self {
        Self {
            scope: limit.scope.clone(),
            measure: limit.measure,
            // At once is a time of its own.
            period: match limit.measure {
                Measure::Concurrency => Period::Ever,
                _ => limit.per,
            },
        }
    }
}

/// What was settled in a window, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub scope: Scope,
    pub measure: Measure,
    pub period: Period,
    /// Unix seconds.
    pub window_begin: u64,
    pub amount: u64,
}

/// Limits that count in this process alone.
pub struct LocalQuotas {
    counts: Arc<Counts>,
}

struct Counts {
    calendar: Calendar,
    clock: Box<dyn Fn() -> Moment + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: HashMap<Counter, Bucket>,
    accounts: HashMap<Counter, Account>,
    /// Accounts that were settled since they were last written down.
    changed: HashMap<Counter, ()>,
}

/// One limit's part of a grant.
enum Part {
    Drops { rate: Rate, units: u64, until: u64 },
    Held(Held),
}

struct Taken {
    counts: Arc<Counts>,
    parts: Vec<(Counter, Part)>,
}

impl LocalQuotas {
    #[must_use]
    pub fn new(calendar: Calendar, clock: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self {
            counts: Arc::new(Counts {
                calendar,
                clock: Box::new(clock),
                state: Mutex::default(),
            }),
        }
    }

    /// Goes on from what was written down. Of windows that are over nothing is kept.
    pub fn restore(&self, settled: impl IntoIterator<Item = Settled>) {
        let now = (self.counts.clock)();
        let mut state = self.counts.lock();
        for was in settled {
            if was.measure == Measure::Concurrency {
                continue;
            }
            let calendar = &self.counts.calendar;
            let mut window = calendar.window(was.period, now.unix);
            if was.window_begin > window.begin.saturating_add(ZONES_APART) {
                // The clock is behind: as for one that goes back, the account stays where it was.
                window = calendar.window(was.period, was.window_begin);
            } else if window.begin > was.window_begin.saturating_add(ZONES_APART) {
                continue;
            }
            let counter = Counter {
                scope: was.scope,
                measure: was.measure,
                period: was.period,
            };
            state
                .accounts
                .insert(counter, Account::new(window, was.amount));
        }
    }

    /// What was settled in each account that changed since the last call: to be written over what was
    /// written before.
    #[must_use]
    pub fn settled(&self) -> Vec<Settled> {
        let mut state = self.counts.lock();
        let changed = std::mem::take(&mut state.changed);
        let settled = changed.into_keys().filter_map(|counter| {
            let account = state.accounts.get(&counter)?;
            Some(Settled {
                window_begin: account.window().begin,
                amount: account.settled(),
                scope: counter.scope,
                measure: counter.measure,
                period: counter.period,
            })
        });
        settled.collect()
    }

    /// Of each limit that refills and is not full: how long until it is, in nanoseconds.
    pub(super) fn missing(&self) -> Vec<(Counter, u64)> {
        let now = (self.counts.clock)();
        let state = self.counts.lock();
        let buckets = state.buckets.iter();
        let missing = buckets.map(|(counter, bucket)| {
            let nanos = bucket.full_after(now.nanos).as_nanos();
            (counter.clone(), u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        missing.filter(|(_, nanos)| *nanos > 0).collect()
    }

    /// Of a limit that refills: goes on from so many nanoseconds before it is full.
    pub(super) fn begin(&self, counter: &Counter, missing: u64) {
        let now = (self.counts.clock)();
        let bucket = Bucket::full_in(missing, now.nanos);
        self.counts.lock().buckets.insert(counter.clone(), bucket);
    }

    /// What is held for exchanges under way, over all accounts.
    #[must_use]
    pub fn held(&self) -> u64 {
        let state = self.counts.lock();
        let held = state.accounts.values().map(Account::held);
        held.fold(0, u64::saturating_add)
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked holding it was at arithmetic, which leaves no half of anything.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn window(&self, limit: &Limit, now: Moment) -> Window {
        match limit.measure {
            Measure::Concurrency => Window::EVER,
            _ => self.calendar.window(limit.per, now.unix),
        }
    }

    fn wait(&self, state: &mut State, limit: &Limit, units: u64, now: Moment) -> Wait {
        let counter = Counter::of(limit);
        if let Some(rate) = rate(limit) {
            let bucket = state.buckets.get(&counter).copied().unwrap_or_default();
            return match bucket.wait(rate, units, now.nanos) {
                Ok(Duration::ZERO) => Wait::None,
                Ok(wait) => Wait::For(wait),
                Err(_) => Wait::Ever,
            };
        }
        let window = self.window(limit, now);
        let account = state
            .accounts
            .entry(counter)
            .or_insert_with(|| Account::new(window, 0));
        account.turn(window);
        if units <= account.left(limit.amount) {
            return Wait::None;
        }
        if units > limit.amount {
            return Wait::Ever;
        }
        if limit.measure == Measure::Concurrency {
            return Wait::For(PLACE_WAIT);
        }
        match window.end {
            Some(end) => Wait::For(Duration::from_secs(end.saturating_sub(now.unix).max(1))),
            None => Wait::Ever,
        }
    }

    fn left(&self, state: &State, limit: &Limit, now: Moment) -> Left {
        let counter = Counter::of(limit);
        if let Some(rate) = rate(limit) {
            let bucket = state.buckets.get(&counter).copied().unwrap_or_default();
            return Left {
                amount: bucket.left(rate, now.nanos),
                whole_after: Some(bucket.full_after(now.nanos)),
            };
        }
        let window = self.window(limit, now);
        let account = state.accounts.get(&counter).copied();
        let mut account = account.unwrap_or_else(|| Account::new(window, 0));
        account.turn(window);
        Left {
            amount: account.left(limit.amount),
            whole_after: account
                .window()
                .end
                .map(|end| Duration::from_secs(end.saturating_sub(now.unix))),
        }
    }
}

/// The longest of several is the last in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    None,
    For(Duration),
    Ever,
}

pub(super) fn rate(limit: &Limit) -> Option<Rate> {
    if limit.measure == Measure::Concurrency {
        return None;
    }
    Some(Rate {
        amount: limit.amount,
        period: limit.per.refills_in()?,
        burst: limit.burst,
    })
}

#[async_trait]
impl Quotas for LocalQuotas {
    async fn take(&self, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted> {
        let now = (self.counts.clock)();
        let mut state = self.counts.lock();
        let mut longest: Option<(Wait, &Limit)> = None;
        for limit in limits {
            let wait = self
                .counts
                .wait(&mut state, limit, worst.of(limit.measure), now);
            if wait > longest.map_or(Wait::None, |(wait, _)| wait) {
                longest = Some((wait, limit));
            }
        }
        if let Some((wait, limit)) = longest {
            return Err(Exhausted {
                limit: limit.clone(),
                retry_after: match wait {
                    Wait::For(wait) => Some(wait),
                    Wait::None | Wait::Ever => None,
                },
            });
        }
        let mut parts = Vec::with_capacity(limits.len());
        for limit in limits {
            let (counter, units) = (Counter::of(limit), worst.of(limit.measure));
            let part = match rate(limit) {
                Some(rate) => {
                    let bucket = state.buckets.entry(counter.clone()).or_default();
                    let until = bucket.take(rate, units, now.nanos);
                    Part::Drops { rate, units, until }
                }
                None => {
                    let account = state.accounts.get_mut(&counter);
                    // It was looked at above, under the same lock.
                    let held = account.map(|account| account.hold(limit.amount, units));
                    match held {
                        Some(Ok(held)) => Part::Held(held),
                        Some(Err(_)) | None => continue,
                    }
                }
            };
            parts.push((counter, part));
        }
        let left = limits.iter();
        let left = left.map(|limit| self.counts.left(&state, limit, now));
        let left = left.collect();
        drop(state);
        let counts = Arc::clone(&self.counts);
        Ok(Grant::new(Box::new(Taken { counts, parts }), left))
    }

    fn left(&self, limits: &[Limit]) -> Vec<Left> {
        let now = (self.counts.clock)();
        let state = self.counts.lock();
        let left = limits.iter();
        left.map(|limit| self.counts.left(&state, limit, now))
            .collect()
    }
}

impl Returned for Taken {
    fn settle(&self, used: Use) {
        let now = (self.counts.clock)();
        let mut state = self.counts.lock();
        for (counter, part) in &self.parts {
            let used = used.of(counter.measure);
            match part {
                Part::Drops { rate, units, until } => {
                    let bucket = state.buckets.entry(counter.clone()).or_default();
                    if used > *units {
                        bucket.take(*rate, used - units, now.nanos);
                    } else {
                        bucket.put_back(*rate, units - used, *until, now.nanos);
                    }
                }
                Part::Held(held) => {
                    let is_lasting = counter.measure != Measure::Concurrency;
                    if let Some(account) = state.accounts.get_mut(counter) {
                        account.settle(*held, if is_lasting { used } else { 0 });
                    }
                    if is_lasting {
                        state.changed.insert(counter.clone(), ());
                    }
                }
            }
        }
    }
}

impl fmt::Debug for LocalQuotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.counts.lock();
        f.debug_struct("LocalQuotas")
            .field("buckets", &state.buckets.len())
            .field("accounts", &state.accounts.len())
            .finish_non_exhaustive()
    }
}
