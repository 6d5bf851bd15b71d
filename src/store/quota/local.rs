//! All limits of one process behind one lock, which is held for some arithmetic and never for anything
//! that waits.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    CountedUse, Exhausted, Grant, Left, Limit, LimitWarning, LimitWatch, Measure, Period, Quotas,
    Returned, Scope, Shortage, TeamId, Use, UserId,
};

use super::account::{Account, Held};
use super::bucket::{Bucket, Rate};
use super::calendar::{Calendar, Window};

/// How soon a place among those at once may be free: replies take seconds.
pub(super) const PLACE_WAIT: Duration = Duration::from_secs(1);

/// Windows that begin no further apart are the same, in another time zone: its day began half a day
/// earlier or later. A day's limit begins anew after that at the latest.
pub(super) const ZONES_APART: u64 = 12 * 60 * 60;

/// Users' accounts at once, where nobody says otherwise.
const USER_ACCOUNTS_MAX: usize = 20_000;

/// How long after one search for users' accounts that count for nothing the next one is, where the last
/// found too few: each looks at all of them.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

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

    pub fn is_of_user(&self) -> bool {
        self.scope.is_of_user()
    }

    /// Whether it is of that user, of one team or of any.
    pub fn is_of(&self, team: Option<&TeamId>, user: &UserId) -> bool {
        match &self.scope {
            Scope::User(of, who) => who == user && team.is_none_or(|team| team == of),
            Scope::Organisation
            | Scope::Team(_)
            | Scope::Key(_)
            | Scope::Tag(_)
            | Scope::Model(_)
            | Scope::Shadow => false,
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
    watch: Option<Arc<dyn LimitWatch>>,
    user_accounts_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: HashMap<Counter, Bucket>,
    accounts: HashMap<Counter, Account>,
    /// Those of users among both, with the limit as it was last asked for: callers choose how many users
    /// there are. `None`: nobody has asked since it was read.
    users: HashMap<Counter, Option<Limit>>,
    /// Before that, no user's account without use is looked for.
    search_after: u64,
    /// How many users' accounts there are when it is looked for some that count for nothing.
    search_at: usize,
    /// Accounts that were settled since they were last written down, or that are no more.
    changed: HashSet<Counter>,
    /// The latest time on the wall that was seen, in Unix seconds.
    latest: u64,
}

/// One limit's part of a grant.
enum Part {
    Drops {
        rate: Rate,
        units: u64,
        until: u64,
    },
    Held {
        held: Held,
        /// Where it is told how much was used.
        watched: Option<Limit>,
    },
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
                watch: None,
                user_accounts_max: USER_ACCOUNTS_MAX,
                state: Mutex::default(),
            }),
        }
    }

    /// With another bound of how many accounts users have at once, one for each limit of each user. Those
    /// without use and holds make room for others; where none is, a request that needs one more is
    /// refused.
    #[must_use]
    pub fn with_user_accounts_max(self, user_accounts_max: usize) -> Self {
        self.with(|counts| counts.user_accounts_max = user_accounts_max)
    }

    /// With somebody to tell when a limit's threshold is passed.
    #[must_use]
    pub fn with_watch(self, watch: Arc<dyn LimitWatch>) -> Self {
        self.with(|counts| counts.watch = Some(watch))
    }

    fn with(mut self, change: impl FnOnce(&mut Counts)) -> Self {
        let counts = Arc::get_mut(&mut self.counts);
        change(counts.expect("nobody was given a part of it before it was made"));
        self
    }

    /// Goes on from what was written down. Of windows that are over nothing is kept.
    pub fn restore(&self, settled: impl IntoIterator<Item = Settled>) {
        let (mut state, now) = self.counts.open();
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
                let counter = Counter {
                    scope: was.scope,
                    measure: was.measure,
                    period: was.period,
                };
                // Nor are users kept who may never ask again.
                if counter.is_of_user() {
                    state.changed.insert(counter);
                }
                continue;
            }
            let counter = Counter {
                scope: was.scope,
                measure: was.measure,
                period: was.period,
            };
            if counter.is_of_user() {
                state.users.insert(counter.clone(), None);
            }
            state
                .accounts
                .insert(counter, Account::new(window, was.amount));
        }
    }

    /// What was settled in each account that changed since the last call: to be written over what was
    /// written before. An amount of nothing says that there is nothing to be kept.
    #[must_use]
    pub fn settled(&self) -> Vec<Settled> {
        let mut state = self.counts.lock();
        let changed = std::mem::take(&mut state.changed);
        let settled = changed.into_iter().map(|counter| {
            let account = state.accounts.get(&counter);
            Settled {
                window_begin: account.map_or(0, |account| account.window().begin),
                amount: account.map_or(0, Account::settled),
                scope: counter.scope,
                measure: counter.measure,
                period: counter.period,
            }
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
        let (mut state, now) = self.counts.open();
        let bucket = Bucket::full_in(missing, now.nanos);
        if counter.is_of_user() {
            state.users.entry(counter.clone()).or_default();
        }
        state.buckets.insert(counter.clone(), bucket);
    }

    /// What is counted of a user: no more than `count_max`. Of limits that refill it is told only that they
    /// are counted.
    #[must_use]
    pub fn used_by(
        &self,
        team: Option<&TeamId>,
        user: &UserId,
        count_max: usize,
    ) -> Vec<CountedUse> {
        let state = self.counts.lock();
        let theirs = state.users.keys().filter(|it| it.is_of(team, user));
        let theirs = theirs.map(|counter| {
            let account = state.accounts.get(counter);
            counted(counter, account.map_or(0, Account::settled))
        });
        let mut theirs: Vec<CountedUse> = theirs.flatten().collect();
        theirs.sort_unstable_by(|one, other| by_name(one).cmp(&by_name(other)));
        theirs.truncate(count_max);
        theirs
    }

    /// Forgets what was counted of a user. What is held for exchanges under way stays until they end. Gives
    /// how many counts it was.
    pub fn forget(&self, team: Option<&TeamId>, user: &UserId) -> u64 {
        let mut state = self.counts.lock();
        let State {
            buckets,
            accounts,
            users,
            changed,
            ..
        } = &mut *state;
        let mut count = 0;
        users.retain(|counter, _| {
            if !counter.is_of(team, user) {
                return true;
            }
            count += 1;
            buckets.remove(counter);
            let Some(account) = accounts.get_mut(counter) else {
                return false;
            };
            changed.insert(counter.clone());
            account.forget();
            if account.is_idle() {
                accounts.remove(counter);
                return false;
            }
            true
        });
        count
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

    /// The counts, and what time it is. A clock on the wall that goes back stands still instead: no day
    /// begins twice.
    fn open(&self) -> (MutexGuard<'_, State>, Moment) {
        let mut state = self.lock();
        let now = (self.clock)();
        state.latest = state.latest.max(now.unix);
        let unix = state.latest;
        (state, Moment { unix, ..now })
    }

    /// Sees to it that every user among `limits` has an account, or says whose cannot.
    fn enlist<'a>(&self, state: &mut State, limits: &'a [Limit], now: Moment) -> Option<&'a Limit> {
        let of_users = limits.iter().filter(|limit| limit.scope.is_of_user());
        for limit in of_users {
            let counter = Counter::of(limit);
            if let Some(known) = state.users.get_mut(&counter) {
                if known.as_ref() != Some(limit) {
                    *known = Some(limit.clone());
                }
                continue;
            }
            let search_at = state.search_at.clamp(1, self.user_accounts_max);
            if state.users.len() >= search_at && now.nanos >= state.search_after {
                self.forget_idle(state, now);
            }
            if state.users.len() >= self.user_accounts_max {
                return Some(limit);
            }
            state.users.insert(counter, Some(limit.clone()));
        }
        None
    }

    /// Forgets users' accounts that count for nothing: a new one is the same.
    fn forget_idle(&self, state: &mut State, now: Moment) {
        let State {
            buckets,
            accounts,
            users,
            changed,
            ..
        } = state;
        let windows = Windows::at(&self.calendar, now.unix);
        users.retain(|counter, _| {
            if let Some(bucket) = buckets.get(counter) {
                let counts = bucket.full_after(now.nanos) > Duration::ZERO;
                if !counts {
                    buckets.remove(counter);
                }
                return counts;
            }
            let Some(account) = accounts.get_mut(counter) else {
                return false;
            };
            let was_settled = account.settled() > 0;
            account.turn(windows.of(counter.period));
            if account.is_idle() {
                accounts.remove(counter);
                if was_settled {
                    changed.insert(counter.clone());
                }
                return false;
            }
            true
        });
        // So that looking at all of them is worth it each time, whatever callers do.
        state.search_at = users.len().saturating_mul(2).max(64);
        let every = u64::try_from(SEARCH_EVERY.as_nanos()).unwrap_or(u64::MAX);
        if users.len().saturating_mul(10) > self.user_accounts_max.saturating_mul(9) {
            state.search_after = now.nanos.saturating_add(every);
        }
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
        // Its own: where the time zone was another one it may end later.
        match account.window().end {
            Some(end) => Wait::For(Duration::from_secs(end.saturating_sub(now.unix).max(1))),
            None => Wait::Ever,
        }
    }

    fn left(&self, state: &State, limit: &Limit, now: Moment) -> Left {
        left(state, limit, self.window(limit, now), now)
    }
}

fn left(state: &State, limit: &Limit, window: Window, now: Moment) -> Left {
    let counter = Counter::of(limit);
    if let Some(rate) = rate(limit) {
        let bucket = state.buckets.get(&counter).copied().unwrap_or_default();
        return Left {
            amount: bucket.left(rate, now.nanos),
            whole_after: Some(bucket.full_after(now.nanos)),
        };
    }
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

/// Those of one moment: telling them takes longer than all the arithmetic.
struct Windows {
    day: Window,
    month: Window,
}

impl Windows {
    fn at(calendar: &Calendar, unix: u64) -> Self {
        Self {
            day: calendar.window(Period::Day, unix),
            month: calendar.window(Period::Month, unix),
        }
    }

    fn of(&self, period: Period) -> Window {
        match period {
            Period::Day => self.day,
            Period::Month => self.month,
            Period::Second | Period::Minute | Period::Hour | Period::Ever => Window::EVER,
        }
    }
}

/// As it is told; `None` of what is no user's.
pub(super) fn counted(counter: &Counter, used: u64) -> Option<CountedUse> {
    let Scope::User(team, _) = &counter.scope else {
        return None;
    };
    Some(CountedUse {
        team: team.clone(),
        measure: counter.measure.as_label(),
        per: counter.period.as_label(),
        used,
    })
}

pub(super) fn by_name(of: &CountedUse) -> (&str, &str, &str) {
    (of.team.as_str(), of.measure, of.per)
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
        let (mut state, now) = self.counts.open();
        if let Some(limit) = self.counts.enlist(&mut state, limits, now) {
            return Err(Exhausted {
                limit: limit.clone(),
                retry_after: Some(SEARCH_EVERY),
                why: Shortage::Accounts,
            });
        }
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
                why: Shortage::Amount,
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
                        Some(Ok(held)) => Part::Held {
                            held,
                            watched: (!limit.warn_at.is_empty()).then(|| limit.clone()),
                        },
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
        let (state, now) = self.counts.open();
        let left = limits.iter();
        left.map(|limit| self.counts.left(&state, limit, now))
            .collect()
    }

    async fn users(&self, count_max: usize) -> Vec<(Limit, Left)> {
        let (state, now) = self.counts.open();
        let windows = Windows::at(&self.counts.calendar, now.unix);
        let limits = state.users.values().flatten();
        let mut all: Vec<(u128, &Limit, Left)> = limits
            .map(|limit| {
                let left = left(&state, limit, windows.of(Counter::of(limit).period), now);
                let whole = u128::from(limit.whole().max(1));
                (u128::from(left.amount) * 1_000_000 / whole, limit, left)
            })
            .collect();
        if count_max < all.len() && count_max > 0 {
            all.select_nth_unstable_by_key(count_max - 1, |(share, ..)| *share);
        }
        all.truncate(count_max);
        all.sort_by_cached_key(|(share, limit, _)| (*share, limit.account()));
        let all = all.into_iter();
        all.map(|(_, limit, left)| (limit.clone(), left)).collect()
    }
}

impl Returned for Taken {
    fn settle(&self, used: Use) {
        let (mut state, now) = self.counts.open();
        let mut warnings = Vec::new();
        for (counter, part) in &self.parts {
            let used = used.of(counter.measure);
            match part {
                Part::Drops { rate, units, until } => {
                    if used > *units {
                        // One of a user's that was full meanwhile may be gone.
                        if counter.is_of_user() {
                            state.users.entry(counter.clone()).or_default();
                        }
                        let bucket = state.buckets.entry(counter.clone()).or_default();
                        bucket.take(*rate, used - units, now.nanos);
                    } else if let Some(bucket) = state.buckets.get_mut(counter) {
                        bucket.put_back(*rate, units - used, *until, now.nanos);
                    }
                }
                Part::Held { held, watched } => {
                    let is_lasting = counter.measure != Measure::Concurrency;
                    if let Some(account) = state.accounts.get_mut(counter) {
                        let before = account.settled();
                        account.settle(*held, if is_lasting { used } else { 0 });
                        let watched = watched.as_ref();
                        warnings.extend(
                            watched.and_then(|limit| warning(limit, before, account.settled())),
                        );
                    }
                    if is_lasting {
                        state.changed.insert(counter.clone());
                    }
                }
            }
        }
        drop(state);
        if let Some(watch) = &self.counts.watch {
            for warning in warnings {
                watch.passed(warning);
            }
        }
    }
}

fn warning(limit: &Limit, before: u64, after: u64) -> Option<LimitWarning> {
    let permille = limit.warn_at.passed(limit.amount, before, after)?;
    Some(LimitWarning {
        limit: limit.clone(),
        permille,
        used: after,
    })
}

impl fmt::Debug for LocalQuotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.counts.lock();
        f.debug_struct("LocalQuotas")
            .field("buckets", &state.buckets.len())
            .field("accounts", &state.accounts.len())
            .field("users", &state.users.len())
            .finish_non_exhaustive()
    }
}
