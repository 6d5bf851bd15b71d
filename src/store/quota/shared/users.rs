//! Users' limits, for the operator: those nearest to their end, over all replicas.
//!
//! Each replica tells Redis once a second of the users' limits that were taken from there, with how much was
//! left of them; Redis keeps the names of those nearest to their end, apart from the counts. Whoever asks looks
//! these up anew. So nobody looks through all keys, no request waits for it, and where it fails nothing else
//! does.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::{Left, Limit, Measure, Period, Scope, Thresholds, Use, WhenSpent};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use super::super::local::Counter;
use super::book::BATCH_MAX;
use super::driver::is_account;
use super::script::{Broken, Caller, Scripts, UserLine};
use super::{Desk, SharedQuotas};

/// Limits of users whose names Redis keeps for this, and of which a replica tells it in a second: those nearest
/// to their end. More are never listed.
pub const USERS_KEPT_MAX: usize = 1_000;

/// Limits of users that a replica knows for this. Where there are more, those that it told of go, and of others
/// it is told when they are taken from again.
pub const USERS_KNOWN_MAX: usize = 4_096;

/// Who asks at once; one more is told what this replica knows.
pub const LISTS_MAX: usize = 4;

/// How long who asks waits.
const LIST_MAX: Duration = Duration::from_secs(2);

/// How often limits are looked at in other windows of the calendar: around midnight once.
const TURNS_MAX: usize = 2;

/// How long what is under way says something, in seconds.
const CONCURRENCY_S: u64 = 600;

/// How long anything does, in seconds: longer than any month has.
const KEPT_S_MAX: u64 = 35 * 86_400;

/// Of all of a limit.
const WHOLE: u128 = 1_000_000;

/// Somebody asks.
pub type List = oneshot::Sender<Vec<(Limit, Left)>>;

/// Users' limits that were taken from here, or would have been.
#[derive(Default)]
pub struct Users {
    limits: HashMap<Counter, Limit>,
    /// Those of which Redis is not told yet.
    untold: HashSet<Counter>,
}

impl Users {
    pub fn touch(&mut self, limits: &[Limit]) {
        for limit in limits.iter().filter(|limit| limit.scope.is_of_user()) {
            let counter = Counter::of(limit);
            if !self.limits.contains_key(&counter) && !self.has_room() {
                continue;
            }
            self.untold.insert(counter.clone());
            self.limits.insert(counter, limit.clone());
        }
    }

    fn has_room(&mut self) -> bool {
        if self.limits.len() >= USERS_KNOWN_MAX && self.untold.len() < USERS_KNOWN_MAX {
            let untold = &self.untold;
            self.limits.retain(|counter, _| untold.contains(counter));
        }
        self.limits.len() < USERS_KNOWN_MAX
    }

    /// The same of one that is known.
    pub fn touch_again(&mut self, counter: &Counter) {
        if counter.scope.is_of_user() && self.limits.contains_key(counter) {
            self.untold.insert(counter.clone());
        }
    }

    /// Those that were touched since the last call.
    fn take_untold(&mut self) -> Vec<Limit> {
        let untold = std::mem::take(&mut self.untold).into_iter();
        let limits = untold.filter_map(|counter| self.limits.get(&counter).cloned());
        limits.collect()
    }

    fn all(&self) -> Vec<Limit> {
        self.limits.values().cloned().collect()
    }

    pub fn forget(&mut self, is_theirs: impl Fn(&Counter) -> bool) {
        self.limits.retain(|counter, _| !is_theirs(counter));
        self.untold.retain(|counter| !is_theirs(counter));
    }
}

/// A user's limit as it is kept beside its name.
#[derive(Serialize, Deserialize)]
struct Written {
    team: String,
    user: String,
    count: String,
    per: String,
    amount: u64,
    burst: u64,
    when_spent: String,
    warn_at: Vec<u16>,
}

impl Written {
    fn of(limit: &Limit) -> Option<Self> {
        let Scope::User(team, user) = &limit.scope else {
            return None;
        };
        Some(Self {
            team: team.as_str().to_owned(),
            user: user.as_str().to_owned(),
            count: limit.measure.as_label().to_owned(),
            per: limit.per.as_label().to_owned(),
            amount: limit.amount,
            burst: limit.burst,
            when_spent: word(limit.when_spent).to_owned(),
            warn_at: limit.warn_at.iter().collect(),
        })
    }

    fn read(text: &str) -> Option<Limit> {
        let it: Self = serde_json::from_str(text).ok()?;
        let mut measures = Measure::ALL.into_iter();
        let mut periods = Period::ALL.into_iter();
        let mut words = [WhenSpent::Refuse, WhenSpent::Free, WhenSpent::Queue].into_iter();
        Some(Limit {
            measure: measures.find(|measure| measure.as_label() == it.count)?,
            per: periods.find(|period| period.as_label() == it.per)?,
            when_spent: words.find(|when| word(*when) == it.when_spent)?,
            warn_at: Thresholds::new(&it.warn_at)?,
            amount: it.amount,
            burst: it.burst,
            scope: Scope::User(it.team.as_str().into(), it.user.as_str().into()),
        })
    }
}

fn word(when: WhenSpent) -> &'static str {
    match when {
        WhenSpent::Refuse => "refuse",
        WhenSpent::Free => "local",
        WhenSpent::Queue => "queue",
    }
}

/// What is left, in millionths of all.
fn share(limit: &Limit, left: &Left) -> u64 {
    let share = u128::from(left.amount) * WHOLE / u128::from(limit.whole().max(1));
    u64::try_from(share.min(WHOLE)).unwrap_or(u64::MAX)
}

fn line((limit, left): &(Limit, Left)) -> Option<UserLine> {
    let after_s = match (limit.measure, left.whole_after) {
        (Measure::Concurrency, _) => CONCURRENCY_S,
        (_, Some(after)) => after.as_secs().saturating_add(1).min(KEPT_S_MAX),
        (_, None) => KEPT_S_MAX,
    };
    Some(UserLine {
        counter: Counter::of(limit),
        share: share(limit, left),
        after_s,
        limit: serde_json::to_string(&Written::of(limit)?).ok()?,
    })
}

fn sort(users: &mut [(Limit, Left)]) {
    users.sort_by_cached_key(|(limit, left)| (share(limit, left), limit.account()));
}

impl SharedQuotas {
    pub(super) async fn users_of_all(&self, count_max: usize) -> Vec<(Limit, Left)> {
        let asking = async {
            let (list, listed) = oneshot::channel();
            self.desk.book().link()?;
            self.lists.try_send(list).ok()?;
            listed.await.ok()
        };
        let mut users = match timeout(LIST_MAX, asking).await {
            Ok(Some(users)) => users,
            Ok(None) | Err(_) => self.users_known(),
        };
        sort(&mut users);
        users.truncate(count_max);
        users
    }

    /// As far as this replica knows.
    pub(super) fn users_known(&self) -> Vec<(Limit, Left)> {
        let limits = self.desk.book().users().all();
        // A few at a time: requests want the book too.
        let some = limits.chunks(BATCH_MAX);
        let known = some.flat_map(|some| self.desk.book().users_left(some.to_vec()));
        known.collect()
    }
}

impl Desk {
    /// Says so once when users' limits cannot be told of or listed any more. What Redis refuses of these alone
    /// is no reason to count apart, and whether it can be asked at all others find out.
    fn note_users(&self, broken: Option<&Broken>) {
        let was_broken = self
            .is_users_broken
            .swap(broken.is_some(), Ordering::Relaxed);
        if let (Some(broken), false) = (broken, was_broken) {
            warn!(error = %broken, "users' limits cannot be listed over all replicas");
        }
    }
}

/// Tells of users' limits that were taken from here.
pub async fn tell(desk: &Desk, scripts: &Scripts, caller: &mut Caller) {
    let untold = desk.book().users().take_untold();
    if untold.is_empty() {
        return;
    }
    let some = untold.chunks(BATCH_MAX);
    let mut seen: Vec<(Limit, Left)> = some.flat_map(|some| desk.book().users_seen(some)).collect();
    sort(&mut seen);
    seen.truncate(USERS_KEPT_MAX);
    let mut told = Ok(());
    for seen in seen.chunks(BATCH_MAX) {
        told = told_of(seen, scripts, caller).await;
        if told.is_err() {
            break;
        }
    }
    desk.note_users(told.err().as_ref());
}

async fn told_of(
    seen: &[(Limit, Left)],
    scripts: &Scripts,
    caller: &mut Caller,
) -> Result<(), Broken> {
    let lines: Vec<UserLine> = seen.iter().filter_map(line).collect();
    caller.tell_users(scripts, &lines, USERS_KEPT_MAX).await
}

/// Those whose names are kept, as they stand now. `None`: Redis did not say.
pub async fn list(
    desk: &Desk,
    scripts: &Scripts,
    caller: &mut Caller,
) -> Option<Vec<(Limit, Left)>> {
    tell(desk, scripts, caller).await;
    let looked = look(desk, scripts, caller).await;
    desk.note_users(looked.as_ref().err());
    looked.ok()
}

async fn look(
    desk: &Desk,
    scripts: &Scripts,
    caller: &mut Caller,
) -> Result<Vec<(Limit, Left)>, Broken> {
    let texts = caller.users(USERS_KEPT_MAX).await?;
    let limits: Vec<Limit> = texts.iter().filter_map(|it| Written::read(it)).collect();
    let mut all = Vec::with_capacity(limits.len());
    for limits in limits.chunks(BATCH_MAX) {
        let left = left_now(limits, desk, scripts, caller).await?;
        // What was told of them may be of a moment when more was held.
        told_of(&left, scripts, caller).await?;
        all.extend(left);
    }
    all.retain(|(limit, left)| left.amount < limit.whole());
    Ok(all)
}

async fn left_now(
    limits: &[Limit],
    desk: &Desk,
    scripts: &Scripts,
    caller: &mut Caller,
) -> Result<Vec<(Limit, Left)>, Broken> {
    for _ in 0..TURNS_MAX {
        let wants = desk.book().wants(limits, Use::default());
        let reply = caller.take(scripts, &wants).await?;
        if reply.word == "window" {
            // Midnight, or a clock that is another.
            desk.book().note_time(reply.unix);
            continue;
        }
        let seen = reply.seen(wants.iter().map(is_account))?;
        return Ok(desk.book().left_by(limits, &seen));
    }
    Err(Broken::Odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(index: usize) -> Limit {
        Limit {
            scope: Scope::User("red".into(), index.to_string().as_str().into()),
            measure: Measure::Cost,
            amount: 5,
            per: Period::Day,
            burst: 5,
            when_spent: WhenSpent::Refuse,
            warn_at: Thresholds::default(),
        }
    }

    #[test]
    fn those_that_were_told_of_make_room_and_others_do_not() {
        let mut users = Users::default();
        let all: Vec<Limit> = (0..=USERS_KNOWN_MAX).map(of_user).collect();
        users.touch(&all);
        assert_eq!(users.all().len(), USERS_KNOWN_MAX);
        let last = Counter::of(&all[USERS_KNOWN_MAX]);
        users.touch_again(&last);
        assert_eq!(users.take_untold().len(), USERS_KNOWN_MAX, "not the last");
        assert!(users.take_untold().is_empty());
        users.touch_again(&Counter::of(&all[1]));
        users.touch(&all[USERS_KNOWN_MAX..]);
        let mut rest: Vec<String> = users.all().iter().map(Limit::account).collect();
        let mut wanted = [all[1].account(), all[USERS_KNOWN_MAX].account()];
        rest.sort();
        wanted.sort();
        assert_eq!(rest, wanted);
        users.forget(|counter| *counter == last);
        assert_eq!(users.take_untold(), [all[1].clone()]);
    }

    #[test]
    fn a_limit_is_read_as_it_is_written_and_another_word_is_none() {
        let limit = Limit {
            scope: Scope::User("r:ed".into(), "an\"na".into()),
            measure: Measure::Cost,
            amount: 5,
            per: Period::Day,
            burst: 5,
            when_spent: WhenSpent::Free,
            warn_at: Thresholds::new(&[500, 900]).unwrap(),
        };
        let text = serde_json::to_string(&Written::of(&limit).unwrap()).unwrap();
        assert_eq!(Written::read(&text), Some(limit));
        for other in ["", "{}", &text.replace("cost", "sheep")] {
            assert_eq!(Written::read(other), None, "{other}");
        }
    }
}
