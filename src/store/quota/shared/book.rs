//! What one replica knows of the shared counts, what it holds of them, and what it has yet to tell them.
//!
//! Values that are told the time and what was answered; nothing here waits or sends.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use domain::{
    CountedUse, Exhausted, Grant, Left, Limit, LimitWarning, Measure, Period, Quotas, TeamId, Use,
    UserId,
};
use futures::FutureExt;

use super::super::bucket::{Bucket, Rate};
use super::super::calendar::{Calendar, Window};
use super::super::local::{
    Counter, LocalQuotas, Moment, PLACE_WAIT, Settled, Wait, by_name, counted, rate,
};
use super::script::{Entry, Kind, Seen, Stated, Want};
use super::users::Users;
use crate::outbox::Noted;

/// Of one batch, and of one look. A script of so many takes well under a millisecond.
pub const BATCH_MAX: usize = 128;

/// Accounts of one batch: the rest is for what refills.
const ACCOUNTS_MAX: usize = BATCH_MAX * 3 / 4;

/// Accounts that wait to be settled: with what is added to them later they are still as many. What finds no
/// place is counted as lost, and said.
pub const UNSETTLED_MAX: usize = 65_536;

/// Of limits that refill: parts of grants that wait to be put back. The oldest are let go, since they come
/// back by themselves.
pub const BACKS_MAX: usize = 16_384;

/// Limits whose standing is remembered. Of others it is known when they were taken from.
pub const KNOWN_MAX: usize = 16_384;

/// How often room is made among them, at most: all are gone through for it.
const CLEAR_NANOS: u64 = 1_000_000_000;

/// How often it is looked which users' windows are over.
const SWEEP_NANOS: u64 = 600 * 1_000_000_000;

/// What nobody asked for so long is not looked at any more.
const ASKED_NANOS_MAX: u64 = 3_600 * 1_000_000_000;

/// When asking again may help while the shared counts cannot be asked: nobody knows.
const APART_WAIT: Duration = Duration::from_secs(1);

/// What becomes of limits that do not refill while the shared counts cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenApart {
    /// This replica's share of what was last known to be left may be used.
    #[default]
    Share,
    /// Nothing may.
    Refuse,
}

/// One account in one of its windows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    counter: Counter,
    begin: u64,
}

/// What is yet to be told of a place.
#[derive(Clone, Copy, Debug, Default)]
struct Delta {
    released: u64,
    used: u64,
    end: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    units: u64,
    end: Option<u64>,
}

/// How a limit stood when it was last answered.
#[derive(Clone, Copy, Debug)]
struct Known {
    seen: Option<Seen>,
    /// In local nanoseconds.
    seen_at: u64,
    asked_at: u64,
}

/// One limit's part of a grant.
#[derive(Debug)]
pub enum Part {
    Drops {
        counter: Counter,
        rate: Rate,
        units: u64,
        /// By Redis's clock; `None` where it was not asked.
        until: Option<(u64, u64)>,
    },
    Held {
        counter: Counter,
        window: Window,
        units: u64,
    },
}

impl Part {
    fn counter(&self) -> &Counter {
        match self {
            Self::Drops { counter, .. } | Self::Held { counter, .. } => counter,
        }
    }
}

/// A batch that was sent, or is about to be.
#[derive(Clone, Debug)]
pub struct Batch {
    pub number: u64,
    pub entries: Vec<Entry>,
    /// Records of exchanges whose costs are in it.
    pub records: Vec<Noted>,
}

/// This replica on its own.
#[derive(Debug)]
struct Apart {
    quotas: LocalQuotas,
    /// Of limits that refill.
    began: HashMap<Counter, Began>,
}

/// How this replica went on alone with a limit that refills.
#[derive(Clone, Copy, Debug)]
struct Began {
    share: u64,
    amount: u64,
    /// Until it would have been full again, in nanoseconds, and when that was.
    missing: u64,
    at: u64,
}

/// Why nothing was taken: at which place in the list, and until when.
pub type Refused = (usize, Wait);

pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

pub struct Book {
    calendar: Calendar,
    clock: Clock,
    replicas: u64,
    when_apart: WhenApart,
    /// The link over which the shared counts are asked; `None`: there is none.
    link: Option<u64>,
    links: u64,
    apart: Apart,
    /// What is held in the shared counts for this replica, or will be once they are told.
    held: HashMap<Place, Held>,
    /// Held places that they were not told of.
    untold: HashSet<Place>,
    unsettled: HashMap<Place, Delta>,
    backs: VecDeque<Entry>,
    charges: HashMap<Counter, u64>,
    /// Records of exchanges that wait to be told.
    noted: Vec<Noted>,
    sent: Option<Batch>,
    batches: u64,
    known: HashMap<Counter, Known>,
    /// When room was last made there.
    cleared_at: u64,
    changed: HashSet<Counter>,
    /// Users' accounts that were given out to be written down, and when their window began.
    written: HashMap<Counter, u64>,
    /// When it was last looked which of them are over.
    swept_at: u64,
    /// Limits with thresholds, as they were last taken from.
    watched: HashMap<Counter, Limit>,
    /// Whose limits were taken from here.
    users: Users,
    generation: Option<String>,
    /// Seconds by which Redis's wall clock is ahead of ours.
    skew: i64,
    /// Exchanges whose use found no place among what waits.
    lost: u64,
}

impl Book {
    pub fn new(
        calendar: Calendar,
        clock: Clock,
        replicas: NonZeroU32,
        when_apart: WhenApart,
    ) -> Self {
        let apart = Apart::new(&calendar, &clock);
        Self {
            calendar,
            clock,
            replicas: replicas.get().into(),
            when_apart,
            link: None,
            links: 0,
            apart,
            held: HashMap::new(),
            untold: HashSet::new(),
            unsettled: HashMap::new(),
            backs: VecDeque::new(),
            charges: HashMap::new(),
            noted: Vec::new(),
            sent: None,
            batches: 0,
            known: HashMap::new(),
            cleared_at: 0,
            changed: HashSet::new(),
            written: HashMap::new(),
            swept_at: 0,
            watched: HashMap::new(),
            users: Users::default(),
            generation: None,
            skew: 0,
            lost: 0,
        }
    }

    pub fn link(&self) -> Option<u64> {
        self.link
    }

    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Entries that wait to be told.
    pub fn unsettled(&self) -> usize {
        let sent = self.sent.as_ref().map_or(0, |batch| batch.entries.len());
        self.unsettled.len() + self.backs.len() + self.charges.len() + sent
    }

    /// What this replica holds, over all accounts.
    pub fn held(&self) -> u64 {
        let held = self.held.values().map(|held| held.units);
        held.fold(0, u64::saturating_add)
    }

    /// Remembers whose thresholds may be passed.
    pub fn watch(&mut self, limits: &[Limit]) {
        for limit in limits.iter().filter(|limit| !limit.warn_at.is_empty()) {
            let counter = Counter::of(limit);
            if self.watched.len() < KNOWN_MAX || self.watched.contains_key(&counter) {
                self.watched.insert(counter, limit.clone());
            }
        }
    }

    /// Users whose limits were taken from here.
    pub fn users(&mut self) -> &mut Users {
        &mut self.users
    }

    fn warning(&self, counter: &Counter, used: u64, settled: u64) -> Option<LimitWarning> {
        let limit = self.watched.get(counter)?;
        let before = settled.saturating_sub(used);
        let permille = limit.warn_at.passed(limit.amount, before, settled)?;
        Some(LimitWarning {
            limit: limit.clone(),
            permille,
            used: settled,
        })
    }

    /// What is to be asked for `worst`.
    pub fn wants(&self, limits: &[Limit], worst: Use) -> Vec<Want> {
        let limits = limits.iter();
        let wants = limits.map(|limit| self.want(limit, worst.of(limit.measure)));
        wants.collect()
    }

    fn want(&self, limit: &Limit, units: u64) -> Want {
        let counter = Counter::of(limit);
        let kind = match rate(limit) {
            Some(rate) => Kind::Refills(rate),
            None => Kind::Account {
                amount: limit.amount,
                window: self.window(&counter),
            },
        };
        Want {
            counter,
            units,
            kind,
        }
    }

    /// The same wants in the windows of now: Redis's clock was another.
    pub fn turn(&mut self, wants: &mut [Want], unix: u64) {
        self.note_time(unix);
        for want in wants {
            let now = self.window(&want.counter);
            if let Kind::Account { window, .. } = &mut want.kind {
                *window = now;
            }
        }
    }

    pub fn note_time(&mut self, unix: u64) {
        let ours = i64::try_from((self.clock)().unix).unwrap_or(i64::MAX);
        let theirs = i64::try_from(unix).unwrap_or(i64::MAX);
        self.skew = theirs.saturating_sub(ours);
    }

    fn window(&self, counter: &Counter) -> Window {
        if counter.measure == Measure::Concurrency {
            return Window::EVER;
        }
        let now = (self.clock)().unix.saturating_add_signed(self.skew);
        self.calendar.window(counter.period, now)
    }

    /// What came of a take that was granted.
    pub fn grant(&mut self, wants: Vec<Want>, seen: &[Seen]) -> (Vec<Part>, Vec<Left>) {
        let now = (self.clock)();
        self.note(wants.iter(), seen, now);
        let left = wants.iter().zip(seen);
        let left = left.map(|(want, seen)| self.left_of(want, seen, now));
        let left = left.collect();
        let mut parts = Vec::with_capacity(wants.len());
        for (want, seen) in wants.into_iter().zip(seen) {
            let Want { counter, units, .. } = want;
            parts.push(match (want.kind, seen) {
                (Kind::Refills(rate), Seen::Refills { full_at, .. }) => Part::Drops {
                    counter,
                    rate,
                    units,
                    until: Some(*full_at),
                },
                (Kind::Account { window, .. }, Seen::Account { window_begin, .. }) => {
                    let window = Window {
                        begin: *window_begin,
                        ..window
                    };
                    self.hold(&counter, window, units);
                    Part::Held {
                        counter,
                        window,
                        units,
                    }
                }
                // They were read by what was asked.
                (Kind::Refills(_) | Kind::Account { .. }, _) => continue,
            });
        }
        (parts, left)
    }

    fn hold(&mut self, counter: &Counter, window: Window, units: u64) -> Place {
        let place = Place {
            counter: counter.clone(),
            begin: window.begin,
        };
        let held = self.held.entry(place.clone()).or_default();
        held.units = held.units.saturating_add(units);
        held.end = window.end;
        place
    }

    /// What came of a take that was refused: the limit that will longest not suffice.
    pub fn refuse(&mut self, wants: &[Want], seen: &[Seen]) -> Refused {
        let now = (self.clock)();
        self.note(wants.iter(), seen, now);
        let mut longest = (0, Wait::None);
        for (index, (want, seen)) in wants.iter().zip(seen).enumerate() {
            let wait = self.wait(want, seen, now);
            if wait > longest.1 {
                longest = (index, wait);
            }
        }
        longest
    }

    fn wait(&self, want: &Want, seen: &Seen, now: Moment) -> Wait {
        match (want.kind, seen) {
            (Kind::Refills(rate), Seen::Refills { missing, .. }) => {
                let bucket = Bucket::full_in(*missing, now.nanos);
                match bucket.wait(rate, want.units, now.nanos) {
                    Ok(Duration::ZERO) => Wait::None,
                    Ok(wait) => Wait::For(wait),
                    Err(_) => Wait::Ever,
                }
            }
            (Kind::Account { amount, window }, Seen::Account { settled, held, .. }) => {
                let left = amount.saturating_sub(settled.saturating_add(*held));
                if want.units <= left {
                    return Wait::None;
                }
                if want.units > amount {
                    return Wait::Ever;
                }
                if want.counter.measure == Measure::Concurrency {
                    return Wait::For(PLACE_WAIT);
                }
                match window.end {
                    Some(end) => {
                        let unix = now.unix.saturating_add_signed(self.skew);
                        Wait::For(Duration::from_secs(end.saturating_sub(unix).max(1)))
                    }
                    None => Wait::Ever,
                }
            }
            (Kind::Refills(_) | Kind::Account { .. }, _) => Wait::None,
        }
    }

    fn left_of(&self, want: &Want, seen: &Seen, now: Moment) -> Left {
        match (want.kind, seen) {
            (Kind::Refills(rate), Seen::Refills { missing, .. }) => Left {
                amount: Bucket::full_in(*missing, now.nanos).left(rate, now.nanos),
                whole_after: Some(Duration::from_nanos(*missing)),
            },
            (Kind::Account { amount, window }, Seen::Account { settled, held, .. }) => Left {
                amount: amount.saturating_sub(settled.saturating_add(*held)),
                whole_after: self.until_end(window, now),
            },
            (Kind::Refills(_) | Kind::Account { .. }, _) => Left {
                amount: 0,
                whole_after: None,
            },
        }
    }

    fn until_end(&self, window: Window, now: Moment) -> Option<Duration> {
        let unix = now.unix.saturating_add_signed(self.skew);
        let end = window.end?;
        Some(Duration::from_secs(end.saturating_sub(unix)))
    }

    fn note<'a>(&mut self, wants: impl Iterator<Item = &'a Want>, seen: &[Seen], now: Moment) {
        for (want, seen) in wants.zip(seen) {
            self.learn(&want.counter, *seen, now);
        }
    }

    /// What a look found.
    pub fn look(&mut self, wants: &[Want], seen: &[Seen]) {
        let now = (self.clock)();
        self.note(wants.iter(), seen, now);
    }

    fn learn(&mut self, counter: &Counter, seen: Seen, now: Moment) {
        if !self.known.contains_key(counter) && !self.has_room(now) {
            return;
        }
        let known = self.known.entry(counter.clone()).or_insert(Known {
            seen: None,
            seen_at: now.nanos,
            asked_at: now.nanos,
        });
        let settled = |seen: Option<Seen>| match seen {
            Some(Seen::Account { settled, .. }) => Some(settled),
            Some(Seen::Refills { .. }) | None => None,
        };
        if settled(known.seen) != settled(Some(seen)) {
            self.changed.insert(counter.clone());
        }
        known.seen = Some(seen);
        known.seen_at = now.nanos;
    }

    fn has_room(&mut self, now: Moment) -> bool {
        let is_time = now.nanos.saturating_sub(self.cleared_at) >= CLEAR_NANOS;
        if self.known.len() >= KNOWN_MAX && is_time {
            self.cleared_at = now.nanos;
            self.known
                .retain(|_, known| now.nanos.saturating_sub(known.asked_at) <= ASKED_NANOS_MAX);
        }
        self.known.len() < KNOWN_MAX
    }

    /// What is left of each limit as far as is known here, and whether somebody should look.
    pub fn left(&mut self, limits: &[Limit]) -> (Vec<Left>, bool) {
        let now = (self.clock)();
        if self.link.is_none() {
            return (self.left_apart(limits), false);
        }
        let mut is_unseen = false;
        let mut left = Vec::with_capacity(limits.len());
        for limit in limits {
            let want = self.want(limit, 0);
            let seen = self.ask(&want.counter, now);
            is_unseen |= seen.is_none();
            let seen = seen.filter(|seen| self.is_of_now(&want, seen));
            let seen = seen.unwrap_or(match want.kind {
                Kind::Refills(_) => Seen::Refills {
                    missing: 0,
                    full_at: (0, 0),
                },
                Kind::Account { window, .. } => Seen::Account {
                    window_begin: window.begin,
                    settled: 0,
                    held: 0,
                },
            });
            left.push(self.left_of(&want, &seen, now));
        }
        (left, is_unseen)
    }

    /// How it stands now, by what is known; and that somebody wants to know.
    fn ask(&mut self, counter: &Counter, now: Moment) -> Option<Seen> {
        if !self.known.contains_key(counter) && !self.has_room(now) {
            return None;
        }
        let known = self.known.entry(counter.clone()).or_insert(Known {
            seen: None,
            seen_at: now.nanos,
            asked_at: now.nanos,
        });
        known.asked_at = now.nanos;
        Some(known.seen?.at(now.nanos.saturating_sub(known.seen_at)))
    }

    /// What is left of users' limits, as far as is known here. Of those with something on its way to Redis it
    /// is asked again later.
    pub fn users_seen(&mut self, limits: &[Limit]) -> Vec<(Limit, Left)> {
        let now = (self.clock)();
        let mut seen = Vec::with_capacity(limits.len());
        for limit in limits {
            let want = self.want(limit, 0);
            if self.is_on_its_way(&want) {
                self.users.touch_again(&want.counter);
            } else if let Some(left) = self.left_seen(&want, now) {
                seen.push((limit.clone(), left));
            }
        }
        seen
    }

    fn is_on_its_way(&self, want: &Want) -> bool {
        let Kind::Account { window, .. } = want.kind else {
            return self.charges.contains_key(&want.counter);
        };
        let place = Place {
            counter: want.counter.clone(),
            begin: window.begin,
        };
        let mut sent = self.sent.iter().flat_map(|batch| &batch.entries);
        self.unsettled.contains_key(&place) || sent.any(|entry| *entry.counter() == want.counter)
    }

    /// What is left of users' limits for all that this replica knows, whatever is on its way; on its own, of
    /// its share.
    pub fn users_left(&self, limits: Vec<Limit>) -> Vec<(Limit, Left)> {
        if self.link.is_none() {
            let left = self.left_apart(&limits);
            return limits.into_iter().zip(left).collect();
        }
        let now = (self.clock)();
        let limits = limits.into_iter();
        let left = limits.filter_map(|limit| {
            let left = self.left_seen(&self.want(&limit, 0), now)?;
            Some((limit, left))
        });
        left.collect()
    }

    fn left_seen(&self, want: &Want, now: Moment) -> Option<Left> {
        let known = self.known.get(&want.counter)?;
        let seen = known.seen?.at(now.nanos.saturating_sub(known.seen_at));
        let is_of_now = self.is_of_now(want, &seen);
        is_of_now.then(|| self.left_of(want, &seen, now))
    }

    /// What is left of limits that were just looked at.
    pub fn left_by(&self, limits: &[Limit], seen: &[Seen]) -> Vec<(Limit, Left)> {
        let now = (self.clock)();
        let limits = limits.iter().zip(seen);
        let left = limits.map(|(limit, seen)| {
            let left = self.left_of(&self.want(limit, 0), seen, now);
            (limit.clone(), left)
        });
        left.collect()
    }

    /// An account that has not gone on to a later window.
    fn is_of_now(&self, want: &Want, seen: &Seen) -> bool {
        match (want.kind, seen) {
            (Kind::Account { window, .. }, Seen::Account { window_begin, .. }) => {
                // Its day began half a day apart at most where the time zone is another.
                window.begin <= window_begin.saturating_add(super::super::local::ZONES_APART)
            }
            _ => true,
        }
    }

    /// Limits to look at: those that somebody asked of, or took from, within the hour.
    pub fn looks(&self) -> Vec<Want> {
        let now = (self.clock)();
        let known = self.known.iter();
        let asked =
            known.filter(|(_, known)| now.nanos.saturating_sub(known.asked_at) <= ASKED_NANOS_MAX);
        let wants = asked.map(|(counter, _)| Want {
            counter: counter.clone(),
            units: 0,
            kind: match counter.refills_in() {
                Some(period) => Kind::Refills(Rate {
                    amount: 1,
                    period,
                    burst: 1,
                }),
                None => Kind::Account {
                    amount: 0,
                    window: self.window(counter),
                },
            },
        });
        wants.collect()
    }

    /// Takes a grant back.
    pub fn settle(&mut self, parts: &[Part], used: Use) {
        for part in parts {
            self.users.touch_again(part.counter());
            match part {
                Part::Held {
                    counter,
                    window,
                    units,
                } => {
                    let is_lasting = counter.measure != Measure::Concurrency;
                    let used = if is_lasting {
                        used.of(counter.measure)
                    } else {
                        0
                    };
                    self.settle_held(counter, *window, *units, used);
                }
                Part::Drops {
                    counter,
                    rate,
                    units,
                    until,
                } => {
                    let used = used.of(counter.measure);
                    match until {
                        // Alone it is counted by what this replica has of its own.
                        None if self.link.is_none() => {}
                        _ if used > *units => {
                            let charge = self.charges.entry(counter.clone()).or_default();
                            *charge = charge.saturating_add(rate.time_of(used - units));
                        }
                        Some(until) if used < *units => self.put_back(Entry::Back {
                            counter: counter.clone(),
                            nanos: rate.time_back(units - used),
                            until: *until,
                        }),
                        Some(_) | None => {}
                    }
                }
            }
        }
    }

    /// Remembers a record to be told with what its exchange used, where `has_room` for so many.
    pub fn note_record(&mut self, record: Noted, has_room: impl FnOnce(usize) -> bool) {
        if self.link.is_some() && has_room(self.noted.len()) {
            self.noted.push(record);
        }
    }

    /// Records of the batch that was sent.
    pub fn sent_records(&self) -> usize {
        self.sent.as_ref().map_or(0, |sent| sent.records.len())
    }

    /// Records that are not told any more: what was used is told later, and their replica lives.
    pub fn forget_noted(&mut self) -> usize {
        let noted = std::mem::take(&mut self.noted).len();
        let sent = self
            .sent
            .as_mut()
            .map(|sent| std::mem::take(&mut sent.records));
        noted + sent.map_or(0, |records| records.len())
    }

    fn settle_held(&mut self, counter: &Counter, window: Window, units: u64, used: u64) {
        if units == 0 && used == 0 {
            return;
        }
        let place = Place {
            counter: counter.clone(),
            begin: window.begin,
        };
        if !self.unsettled.contains_key(&place) && self.unsettled.len() >= UNSETTLED_MAX {
            self.lost = self.lost.saturating_add(1);
            // It is not told, and is not held either when it is next stated what is.
            return self.release(&place, units);
        }
        let delta = self.unsettled.entry(place).or_default();
        delta.released = delta.released.saturating_add(units);
        delta.used = delta.used.saturating_add(used);
        delta.end = window.end;
        if used > 0 {
            self.changed.insert(counter.clone());
        }
    }

    fn put_back(&mut self, back: Entry) {
        if self.backs.len() >= BACKS_MAX {
            self.backs.pop_front();
        }
        self.backs.push_back(back);
    }

    /// What is to be told next, if anything: the same again as long as it was not heard.
    pub fn batch(&mut self) -> Option<Batch> {
        if self.sent.is_none() {
            let places: Vec<Place> = self.unsettled.keys().take(ACCOUNTS_MAX).cloned().collect();
            let mut entries = Vec::with_capacity(places.len());
            for place in places {
                let Some(delta) = self.unsettled.remove(&place) else {
                    continue;
                };
                entries.push(Entry::Account {
                    window: Window {
                        begin: place.begin,
                        end: delta.end,
                    },
                    counter: place.counter,
                    released: delta.released,
                    used: delta.used,
                });
            }
            let room = BATCH_MAX - entries.len();
            let backs = self.backs.drain(..room.min(self.backs.len()));
            entries.extend(backs);
            let room = BATCH_MAX - entries.len();
            let charged: Vec<Counter> = self.charges.keys().take(room).cloned().collect();
            for counter in charged {
                if let Some(nanos) = self.charges.remove(&counter) {
                    entries.push(Entry::Charge { counter, nanos });
                }
            }
            // Each goes with the last of what its exchange used.
            let records = match self.unsettled.is_empty() {
                true => std::mem::take(&mut self.noted),
                false => Vec::new(),
            };
            if entries.is_empty() && records.is_empty() {
                return None;
            }
            self.batches += 1;
            self.sent = Some(Batch {
                number: self.batches,
                entries,
                records,
            });
        }
        self.sent.clone()
    }

    /// The batch that was sent was counted, and this is how its limits stand: which thresholds it passed.
    pub fn counted(&mut self, seen: &[Seen]) -> Vec<LimitWarning> {
        let now = (self.clock)();
        let Some(batch) = self.sent.take() else {
            return Vec::new();
        };
        let mut warnings = Vec::new();
        let mut seen = seen.iter();
        for entry in batch.entries {
            let seen = seen.next();
            let (counter, window, released, used) = match entry {
                Entry::Account {
                    counter,
                    window,
                    released,
                    used,
                } => (counter, window, released, used),
                Entry::Back { counter, .. } | Entry::Charge { counter, .. } => {
                    if let Some(seen) = seen {
                        self.learn(&counter, *seen, now);
                    }
                    continue;
                }
            };
            if let Some(
                seen @ Seen::Account {
                    window_begin,
                    settled,
                    ..
                },
            ) = seen
                && *window_begin == window.begin
            {
                self.learn(&counter, *seen, now);
                warnings.extend(self.warning(&counter, used, *settled));
            }
            let place = Place {
                counter,
                begin: window.begin,
            };
            self.release(&place, released);
        }
        warnings
    }

    fn release(&mut self, place: &Place, units: u64) {
        let Some(held) = self.held.get_mut(place) else {
            return;
        };
        held.units = held.units.saturating_sub(units);
        if held.units == 0 {
            self.held.remove(place);
        }
    }

    /// The shared counts greet us again: which generation they are, and which batch they counted last.
    /// True where it is another generation than the one before.
    pub fn greeted(&mut self, generation: &str, batch: u64, unix: u64) -> bool {
        self.note_time(unix);
        if self.sent.as_ref().is_some_and(|sent| sent.number <= batch) {
            drop(self.counted(&[]));
        }
        self.untold.extend(self.held.keys().cloned());
        let before = self.generation.replace(generation.to_owned());
        if before.as_deref() == Some(generation) {
            return false;
        }
        let accounts = self.known.iter().filter_map(|(counter, known)| {
            let Seen::Account {
                window_begin,
                settled,
                ..
            } = known.seen?
            else {
                return None;
            };
            (settled > 0).then(|| Place {
                counter: counter.clone(),
                begin: window_begin,
            })
        });
        self.untold.extend(accounts);
        before.is_some()
    }

    /// Accounts that the shared counts have yet to be told of. Once there are none, they are asked from
    /// now on, over the link that is told.
    pub fn restated(&mut self) -> Result<u64, Vec<Stated>> {
        let places: Vec<Place> = self.untold.iter().take(BATCH_MAX).cloned().collect();
        if places.is_empty() {
            return Ok(self.join());
        }
        let stated = places.into_iter().map(|place| {
            self.untold.remove(&place);
            let held = self.held.get(&place);
            let end = held
                .map(|held| held.end)
                .unwrap_or_else(|| self.calendar.window(place.counter.period, place.begin).end);
            let known = self.known.get(&place.counter).and_then(|known| known.seen);
            let settled = match known {
                Some(Seen::Account {
                    window_begin,
                    settled,
                    ..
                }) if window_begin == place.begin => settled,
                _ => 0,
            };
            Stated {
                window: Window {
                    begin: place.begin,
                    end,
                },
                held: held.map_or(0, |held| held.units),
                settled,
                counter: place.counter,
            }
        });
        Err(stated.collect())
    }

    /// They could not be told.
    pub fn unheard(&mut self, stated: Vec<Stated>) {
        let places = stated.into_iter().map(|stated| Place {
            counter: stated.counter,
            begin: stated.window.begin,
        });
        self.untold.extend(places);
    }

    /// Whether there is anything that the shared counts were not told of.
    pub fn is_stated(&self) -> bool {
        self.untold.is_empty()
    }

    /// How accounts stand after they were restated.
    pub fn heard(&mut self, stated: &[Stated], seen: &[Seen]) {
        let now = (self.clock)();
        for (stated, seen) in stated.iter().zip(seen) {
            if let Seen::Account { window_begin, .. } = seen
                && *window_begin == stated.window.begin
            {
                self.learn(&stated.counter, *seen, now);
            }
        }
    }

    fn join(&mut self) -> u64 {
        // What this replica let through alone is missing from the shared ones.
        let now = (self.clock)();
        for (counter, nanos) in self.apart.quotas.missing() {
            let Some(began) = self.apart.began.get(&counter) else {
                continue;
            };
            // What was missing before is missing there too, and came back meanwhile.
            let before = began
                .missing
                .saturating_sub(now.nanos.saturating_sub(began.at));
            let nanos = u128::from(nanos.saturating_sub(before)) * u128::from(began.share)
                / u128::from(began.amount.max(1));
            let charge = self.charges.entry(counter).or_default();
            *charge = charge.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        self.apart = Apart::new(&self.calendar, &self.clock);
        self.links += 1;
        self.link = Some(self.links);
        self.links
    }

    /// The link is broken: from now on this replica is on its own. False where it was already.
    pub fn part(&mut self, link: u64) -> bool {
        if self.link != Some(link) {
            return false;
        }
        self.link = None;
        true
    }

    /// Under way here: held, and not waiting to be given back.
    fn running(&self, place: &Place) -> u64 {
        let held = self.held.get(place).map_or(0, |held| held.units);
        let waiting = self.unsettled.get(place).map_or(0, |delta| delta.released);
        let sent = self.sent.iter().flat_map(|batch| &batch.entries);
        let sent = sent.filter_map(|entry| match entry {
            Entry::Account {
                counter,
                window,
                released,
                ..
            } if *counter == place.counter && window.begin == place.begin => Some(*released),
            _ => None,
        });
        held.saturating_sub(waiting.saturating_add(sent.sum()))
    }

    /// What this replica may use of a limit on its own.
    fn share(&self, limit: &Limit) -> Limit {
        let part = |amount: u64| (amount / self.replicas).max(amount.min(1));
        if rate(limit).is_some() || limit.measure == Measure::Concurrency {
            return Limit {
                amount: part(limit.amount),
                burst: part(limit.burst),
                ..limit.clone()
            };
        }
        let want = self.want(limit, 0);
        let known = self.known.get(&want.counter).and_then(|known| known.seen);
        let left = match known.filter(|seen| self.is_of_now(&want, seen)) {
            Some(Seen::Account { settled, held, .. }) => {
                limit.amount.saturating_sub(settled.saturating_add(held))
            }
            Some(Seen::Refills { .. }) | None => limit.amount,
        };
        Limit {
            amount: left / self.replicas,
            burst: limit.burst.min(left / self.replicas),
            ..limit.clone()
        }
    }

    /// Takes of this replica's share.
    pub fn take_apart(
        &mut self,
        limits: &[Limit],
        worst: Use,
    ) -> Result<(Grant, Vec<Part>, Vec<Left>), Refused> {
        let shares: Vec<Limit> = limits.iter().map(|limit| self.share(limit)).collect();
        for (index, share) in shares.iter().enumerate() {
            if share.measure == Measure::Concurrency {
                let place = Place {
                    counter: Counter::of(share),
                    begin: Window::EVER.begin,
                };
                if self.running(&place).saturating_add(worst.of(share.measure)) > share.amount {
                    return Err((index, Wait::For(PLACE_WAIT)));
                }
            } else if self.when_apart == WhenApart::Refuse
                && rate(share).is_none()
                && worst.of(share.measure) > 0
            {
                return Err((index, Wait::For(APART_WAIT)));
            }
        }
        let counted: Vec<Limit> = shares
            .iter()
            .filter(|share| share.measure != Measure::Concurrency)
            .cloned()
            .collect();
        for (limit, share) in limits.iter().zip(&shares) {
            if rate(limit).is_some() {
                self.begin_apart(limit, share);
            }
        }
        let taken = self.apart.quotas.take(&counted, worst).now_or_never();
        let grant = match taken.expect("counting in this process never waits") {
            Ok(grant) => grant,
            Err(exhausted) => return Err(self.refused_apart(limits, &shares, worst, &exhausted)),
        };
        let mut parts = Vec::with_capacity(limits.len());
        for limit in limits {
            let (counter, units) = (Counter::of(limit), worst.of(limit.measure));
            if let Some(rate) = rate(limit) {
                parts.push(Part::Drops {
                    counter,
                    rate,
                    units,
                    until: None,
                });
                continue;
            }
            let window = self.window(&counter);
            let place = self.hold(&counter, window, units);
            self.untold.insert(place);
            parts.push(Part::Held {
                counter,
                window,
                units,
            });
        }
        let left = self.left_apart(limits);
        Ok((grant, parts, left))
    }

    /// A limit that refills goes on from where it was known to be.
    fn begin_apart(&mut self, limit: &Limit, share: &Limit) {
        let (counter, now) = (Counter::of(limit), (self.clock)());
        // Callers choose how many users there are.
        let is_full = limit.scope.is_of_user() && self.apart.began.len() >= KNOWN_MAX;
        if is_full || self.apart.began.contains_key(&counter) {
            return;
        }
        let known = self.known.get(&counter);
        let seen = known.and_then(|known| {
            let after = now.nanos.saturating_sub(known.seen_at);
            Some(known.seen?.at(after))
        });
        let missing = match seen {
            Some(Seen::Refills { missing, .. }) => missing,
            Some(Seen::Account { .. }) | None => 0,
        };
        self.apart.quotas.begin(&counter, missing);
        let began = Began {
            share: share.amount,
            amount: limit.amount,
            missing,
            at: now.nanos,
        };
        self.apart.began.insert(counter, began);
    }

    fn refused_apart(
        &self,
        limits: &[Limit],
        shares: &[Limit],
        worst: Use,
        exhausted: &Exhausted,
    ) -> Refused {
        let index = shares.iter().position(|share| *share == exhausted.limit);
        let index = index.unwrap_or(0);
        let limit = &limits[index];
        let units = worst.of(limit.measure);
        let is_never = match rate(limit) {
            Some(rate) => units > rate.burst,
            None => units > limit.amount,
        };
        let wait = match exhausted.retry_after {
            _ if is_never => Wait::Ever,
            Some(wait) if rate(limit).is_some() => Wait::For(wait),
            // More than the share, and within the limit: when there is a limit again.
            Some(_) | None => Wait::For(APART_WAIT),
        };
        (index, wait)
    }

    fn left_apart(&self, limits: &[Limit]) -> Vec<Left> {
        let left = limits.iter().map(|limit| {
            let share = self.share(limit);
            if limit.measure == Measure::Concurrency {
                let place = Place {
                    counter: Counter::of(limit),
                    begin: Window::EVER.begin,
                };
                return Left {
                    amount: share.amount.saturating_sub(self.running(&place)),
                    whole_after: None,
                };
            }
            let left = self.apart.quotas.left(std::slice::from_ref(&share));
            left.into_iter().next().unwrap_or(Left {
                amount: 0,
                whole_after: None,
            })
        });
        left.collect()
    }

    /// What was settled in each account that changed since the last call, by all replicas as far as is
    /// known, and by this one. Nothing for a user whose window is over: users may never ask again.
    pub fn settled(&mut self) -> Vec<Settled> {
        let mut settled = self.settled_since();
        for was in &settled {
            let counter = counter_of(was);
            if was.amount > 0 && counter.is_of_user() {
                self.written.insert(counter, was.window_begin);
            } else {
                self.written.remove(&counter);
            }
        }
        let now = (self.clock)().nanos;
        if now.saturating_sub(self.swept_at) >= SWEEP_NANOS {
            self.swept_at = now;
            settled.extend(self.sweep());
        }
        settled
    }

    /// Those that were written and are over.
    fn sweep(&mut self) -> Vec<Settled> {
        let begun = |counter: &Counter| self.window(counter).begin;
        let over = self.written.iter();
        let over = over.filter(|(counter, begin)| is_over(**begin, begun(counter)));
        let over: Vec<(Counter, u64)> = over.map(|(it, begin)| (it.clone(), *begin)).collect();
        let nothing = over.into_iter().map(|(counter, window_begin)| {
            self.written.remove(&counter);
            Settled {
                scope: counter.scope,
                measure: counter.measure,
                period: counter.period,
                window_begin,
                amount: 0,
            }
        });
        nothing.collect()
    }

    fn settled_since(&mut self) -> Vec<Settled> {
        let changed = std::mem::take(&mut self.changed);
        let settled = changed.into_iter().filter_map(|counter| {
            if counter.measure == Measure::Concurrency || counter.refills_in().is_some() {
                return None;
            }
            let known = self.known.get(&counter).and_then(|known| known.seen);
            let (begin, known) = match known {
                Some(Seen::Account {
                    window_begin,
                    settled,
                    ..
                }) => (window_begin, settled),
                Some(Seen::Refills { .. }) | None => (self.window(&counter).begin, 0),
            };
            let place = Place { counter, begin };
            let amount = known.saturating_add(self.untold_use(&place));
            Some(Settled {
                scope: place.counter.scope,
                measure: place.counter.measure,
                period: place.counter.period,
                window_begin: begin,
                amount,
            })
        });
        settled.collect()
    }

    /// What is known of a user: no more than `count_max`.
    pub fn used_by(
        &self,
        team: Option<&TeamId>,
        user: &UserId,
        count_max: usize,
    ) -> Vec<CountedUse> {
        let theirs = self.known.iter();
        let theirs = theirs.filter(|(counter, _)| counter.is_of(team, user));
        let theirs = theirs.filter_map(|(counter, known)| match known.seen {
            Some(Seen::Account { settled, .. }) => counted(counter, settled),
            Some(Seen::Refills { .. }) | None => counted(counter, 0),
        });
        let mut theirs: Vec<CountedUse> = theirs.collect();
        theirs.sort_unstable_by(|one, other| by_name(one).cmp(&by_name(other)));
        theirs.truncate(count_max);
        theirs
    }

    /// Forgets what a user used, here; what of it waits to be told is not told any more. What is held stays
    /// held. False while some of it is on its way.
    pub fn forget(&mut self, team: Option<&TeamId>, user: &UserId) -> bool {
        let is_theirs = |counter: &Counter| counter.is_of(team, user);
        let theirs = self.known.keys().filter(|counter| is_theirs(counter));
        let theirs: Vec<Counter> = theirs.cloned().collect();
        self.changed.extend(theirs);
        self.known.retain(|counter, _| !is_theirs(counter));
        self.watched.retain(|counter, _| !is_theirs(counter));
        self.users.forget(is_theirs);
        self.charges.retain(|counter, _| !is_theirs(counter));
        self.backs.retain(|entry| !is_theirs(entry.counter()));
        for (place, delta) in &mut self.unsettled {
            if is_theirs(&place.counter) {
                delta.used = 0;
            }
        }
        self.apart.quotas.forget(team, user);
        self.apart.began.retain(|counter, _| !is_theirs(counter));
        let sent = self.sent.iter().flat_map(|batch| &batch.entries);
        !sent.map(Entry::counter).any(is_theirs)
    }

    /// What was used here and is not counted there.
    fn untold_use(&self, place: &Place) -> u64 {
        let waiting = self.unsettled.get(place).map_or(0, |delta| delta.used);
        let sent = self.sent.iter().flat_map(|batch| &batch.entries);
        let sent = sent.filter_map(|entry| match entry {
            Entry::Account {
                counter,
                window,
                used,
                ..
            } if *counter == place.counter && window.begin == place.begin => Some(*used),
            _ => None,
        });
        waiting.saturating_add(sent.sum())
    }

    /// Goes on from what was written down: the shared counts are told, should they know less.
    pub fn restore(&mut self, settled: impl IntoIterator<Item = Settled>) {
        let now = (self.clock)();
        for was in settled {
            if was.measure == Measure::Concurrency || was.period.refills_in().is_some() {
                continue;
            }
            let counter = counter_of(&was);
            if counter.is_of_user() {
                self.written.insert(counter.clone(), was.window_begin);
                if is_over(was.window_begin, self.window(&counter).begin) {
                    continue;
                }
            }
            let seen = Seen::Account {
                window_begin: was.window_begin,
                settled: was.amount,
                held: 0,
            };
            self.learn(&counter, seen, now);
            let begin = was.window_begin;
            self.untold.insert(Place { counter, begin });
        }
        self.changed.clear();
    }
}

fn counter_of(settled: &Settled) -> Counter {
    Counter {
        scope: settled.scope.clone(),
        measure: settled.measure,
        period: settled.period,
    }
}

/// Whether a window that began `then` is over, where the one that is now began `now`.
fn is_over(then: u64, now: u64) -> bool {
    now > then.saturating_add(super::super::local::ZONES_APART)
}

impl Counter {
    fn refills_in(&self) -> Option<Duration> {
        match self.measure {
            Measure::Concurrency => None,
            _ => Period::refills_in(self.period),
        }
    }
}

impl Seen {
    /// The same so many nanoseconds later.
    fn at(self, after: u64) -> Self {
        match self {
            Self::Refills { missing, full_at } => Self::Refills {
                missing: missing.saturating_sub(after),
                full_at,
            },
            Self::Account { .. } => self,
        }
    }
}

impl Apart {
    fn new(calendar: &Calendar, clock: &Clock) -> Self {
        let clock = Arc::clone(clock);
        Self {
            quotas: LocalQuotas::new(calendar.clone(), move || clock()),
            began: HashMap::new(),
        }
    }
}
