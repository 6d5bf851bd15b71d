use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{
    Exhausted, Grant, Limit, LimitWarning, LimitWatch, Measure, MicroUsd, Period, Quotas, Scope,
    Shortage, Thresholds, Use, WhenSpent,
};
use futures::executor::block_on;

use super::*;
use crate::conformance::check_quotas;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400;

/// A clock that stands until it is told otherwise.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn quotas(&self) -> LocalQuotas {
        let seconds = Arc::clone(&self.0);
        LocalQuotas::new(Calendar::utc(), move || {
            let seconds = seconds.load(Ordering::SeqCst);
            Moment {
                nanos: seconds * SECOND,
                unix: seconds,
            }
        })
    }

    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn limit(scope: Scope, measure: Measure, amount: u64, per: Period, burst: u64) -> Limit {
    Limit {
        scope,
        measure,
        amount,
        per,
        burst,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    }
}

fn team(measure: Measure, amount: u64, per: Period) -> Limit {
    limit(Scope::Team("a".into()), measure, amount, per, amount)
}

fn key(measure: Measure, amount: u64, per: Period) -> Limit {
    limit(Scope::Key("k".into()), measure, amount, per, amount)
}

fn of(input: u64, output: u64, cost: i64) -> Use {
    Use {
        requests: 1,
        input_tokens: input,
        output_tokens: output,
        cost: MicroUsd(cost),
    }
}

fn take(quotas: &LocalQuotas, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted> {
    block_on(quotas.take(limits, worst))
}

#[tokio::test]
async fn the_contract_holds() {
    check_quotas(&[&Clock::default().quotas()], async || {}).await;
}

#[test]
fn waits_are_to_the_second() {
    let clock = Clock::default();
    let quotas = clock.quotas();
    let limits = [
        key(Measure::Requests, 1, Period::Minute),
        team(Measure::Tokens, 10, Period::Hour),
        key(Measure::Concurrency, 1, Period::Ever),
    ];
    let _under_way = take(&quotas, &limits, of(4, 6, 0)).unwrap();
    let refused = take(&quotas, &limits, of(1, 1, 0)).unwrap_err();
    assert_eq!(refused.limit.measure, Measure::Tokens);
    assert_eq!(refused.retry_after, Some(Duration::from_secs(720)));
    // One request that is more than the limit never passes.
    let refused = take(&quotas, &limits, of(11, 0, 0)).unwrap_err();
    assert_eq!(
        (refused.limit.measure, refused.retry_after),
        (Measure::Tokens, None)
    );
}

#[test]
fn a_new_day_begins_anew_and_a_new_process_goes_on() {
    let clock = Clock::default();
    let quotas = clock.quotas();
    let limits = [
        key(Measure::Cost, 100, Period::Day),
        key(Measure::Cost, 500, Period::Ever),
        key(Measure::Requests, 5, Period::Minute),
    ];
    take(&quotas, &limits, of(0, 0, 60))
        .unwrap()
        .settle(of(0, 0, 60));
    let written = quotas.settled();
    assert_eq!(written.len(), 2);
    assert!(quotas.settled().is_empty(), "nothing changed since");

    let next = clock.quotas();
    next.restore(written.clone());
    let left: Vec<u64> = next.left(&limits).iter().map(|left| left.amount).collect();
    assert_eq!(left, [40, 440, 5]);

    clock.pass(86_400);
    assert_eq!(quotas.left(&limits)[0].amount, 100);
    let late = clock.quotas();
    late.restore(written);
    let left: Vec<u64> = late.left(&limits).iter().map(|left| left.amount).collect();
    assert_eq!(left, [100, 440, 5]);
}

/// 64 threads, 20,000 requests of varying worst cases against a few cents.
#[test]
fn a_race_never_overshoots_and_leaves_nothing_held() {
    let clock = Clock::default();
    let quotas = Arc::new(clock.quotas());
    let budget = 40_000;
    let limits = Arc::new([
        limit(
            Scope::Organisation,
            Measure::Cost,
            budget * 2,
            Period::Month,
            1,
        ),
        team(Measure::Cost, budget, Period::Day),
        key(Measure::Concurrency, 48, Period::Ever),
    ]);
    let spent = Arc::new(AtomicU64::new(0));
    let threads = (0..64_u64).map(|thread| {
        let (quotas, limits, spent) =
            (Arc::clone(&quotas), Arc::clone(&limits), Arc::clone(&spent));
        std::thread::spawn(move || {
            for round in 0..313_u64 {
                let worst = i64::try_from((thread * 31 + round * 17) % 190 + 1).unwrap();
                let Ok(grant) = take(&quotas, &limits[..], of(0, 0, worst)) else {
                    continue;
                };
                let left = quotas.left(&limits[1..2])[0].amount;
                assert!(left <= budget);
                let used = worst * i64::try_from(round % 4).unwrap() / 3;
                if round % 7 == 0 {
                    drop(grant);
                } else {
                    spent.fetch_add(used.unsigned_abs(), Ordering::SeqCst);
                    grant.settle(of(0, 0, used));
                }
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
    let spent = spent.load(Ordering::SeqCst);
    assert!(spent <= budget, "{spent}");
    // The sum of what was used is what the accounts say, to the last millionth.
    assert_eq!(quotas.left(&limits[..])[1].amount, budget - spent);
    assert_eq!(quotas.held(), 0);
    // What is left can be had, to the last millionth, and no more.
    let rest = i64::try_from(budget - spent).unwrap();
    assert!(take(&quotas, &limits[..], of(0, 0, rest + 1)).is_err());
    assert!(take(&quotas, &limits[..], of(0, 0, rest)).is_ok());
}

fn user(name: &str, measure: Measure, amount: u64, per: Period) -> Limit {
    let scope = Scope::User("a".into(), name.into());
    limit(scope, measure, amount, per, amount)
}

#[test]
fn users_of_two_teams_never_share() {
    let clock = Clock::default();
    let quotas = clock.quotas();
    let of = |team: &str| {
        let scope = Scope::User(team.into(), "u".into());
        [limit(scope, Measure::Requests, 2, Period::Day, 2)]
    };
    take(&quotas, &of("a"), of_request()).unwrap();
    take(&quotas, &of("a"), of_request()).unwrap();
    assert!(take(&quotas, &of("a"), of_request()).is_err());
    assert!(take(&quotas, &of("b"), of_request()).is_ok());
}

fn of_request() -> Use {
    of(0, 0, 0)
}

#[test]
fn users_beyond_the_bound_are_refused_until_one_counts_no_more() {
    let clock = Clock::default();
    let quotas = clock.quotas().with_user_accounts_max(3);
    let daily = |name: &str| [user(name, Measure::Requests, 5, Period::Day)];
    let minute = |name: &str| [user(name, Measure::Requests, 60, Period::Minute)];
    take(&quotas, &daily("a"), of_request()).unwrap();
    take(&quotas, &daily("b"), of_request()).unwrap();
    take(&quotas, &minute("c"), of_request()).unwrap();
    let refused = take(&quotas, &daily("d"), of_request()).unwrap_err();
    assert_eq!(refused.why, Shortage::Accounts);
    assert_eq!(refused.limit, daily("d")[0]);
    // Whoever has an account is none the worse, and nobody's count begins anew.
    assert_eq!(quotas.left(&daily("a"))[0].amount, 4);
    assert!(take(&quotas, &daily("a"), of_request()).is_ok());
    // A bucket that is full again makes room for one more.
    clock.pass(1);
    assert!(take(&quotas, &daily("d"), of_request()).is_ok());
    clock.pass(1);
    assert!(take(&quotas, &daily("e"), of_request()).is_err());
    // The next day all of them may go.
    clock.pass(86_400);
    for name in ["e", "f", "g"] {
        assert!(take(&quotas, &daily(name), of_request()).is_ok(), "{name}");
    }
    assert!(take(&quotas, &daily("h"), of_request()).is_err());
}

#[test]
fn an_account_with_a_hold_stays_and_one_without_use_goes() {
    let clock = Clock::default();
    let quotas = clock.quotas().with_user_accounts_max(1);
    let cost = |name: &str| [user(name, Measure::Cost, 100, Period::Ever)];
    let held = take(&quotas, &cost("a"), of(0, 0, 60)).unwrap();
    clock.pass(10);
    assert!(take(&quotas, &cost("b"), of(0, 0, 1)).is_err());
    // It came to nothing: as if it had never asked.
    held.settle(of(0, 0, 0));
    clock.pass(10);
    take(&quotas, &cost("b"), of(0, 0, 1))
        .unwrap()
        .settle(of(0, 0, 1));
    clock.pass(10);
    assert!(take(&quotas, &cost("a"), of(0, 0, 1)).is_err());
}

#[test]
fn what_users_used_is_written_down_for_as_long_as_it_counts() {
    let clock = Clock::default();
    let quotas = clock.quotas().with_user_accounts_max(2);
    let cost = |name: &str| [user(name, Measure::Cost, 100, Period::Day)];
    for (name, used) in [("a", 30), ("b", 40)] {
        take(&quotas, &cost(name), of(0, 0, used))
            .unwrap()
            .settle(of(0, 0, used));
    }
    let written = quotas.settled();
    assert_eq!(written.len(), 2);
    let next = clock.quotas();
    next.restore(written.clone());
    assert_eq!(next.left(&cost("a"))[0].amount, 70);
    // The next day both make room, and it is said that nothing of them is to be kept.
    clock.pass(86_400);
    let _held = take(&quotas, &cost("c"), of(0, 0, 1)).unwrap();
    let gone: Vec<u64> = quotas.settled().iter().map(|it| it.amount).collect();
    assert_eq!(gone, [0, 0]);
    // Nor does a process that begins then keep them.
    let late = clock.quotas();
    late.restore(written);
    let gone: Vec<u64> = late.settled().iter().map(|it| it.amount).collect();
    assert_eq!(gone, [0, 0]);
}

#[tokio::test]
async fn users_are_shown_by_how_little_is_left_to_them() {
    let clock = Clock::default();
    let quotas = clock.quotas();
    let cost = |name: &str| [user(name, Measure::Cost, 100, Period::Day)];
    for (name, used) in [("a", 30), ("b", 90), ("c", 10), ("d", 60)] {
        take(&quotas, &cost(name), of(0, 0, used))
            .unwrap()
            .settle(of(0, 0, used));
    }
    // Others' limits are no part of it.
    take(&quotas, &[team(Measure::Cost, 9, Period::Day)], of(0, 0, 9)).unwrap();
    let shown: Vec<(String, u64)> = quotas
        .users(3)
        .await
        .into_iter()
        .map(|(limit, left)| (limit.scope.key(), left.amount))
        .collect();
    let expected = [("user:1:a:b", 10), ("user:1:a:d", 40), ("user:1:a:a", 70)];
    assert_eq!(shown, expected.map(|(key, left)| (key.to_owned(), left)));
    assert_eq!(quotas.users(0).await, []);
    assert_eq!(quotas.users(9).await.len(), 4);
}

/// However many users callers make up, no more than the bound are kept.
#[tokio::test]
async fn made_up_users_fill_no_memory() {
    let clock = Clock::default();
    let quotas = clock.quotas().with_user_accounts_max(100);
    for index in 0..10_000 {
        let limits = [user(
            &index.to_string(),
            Measure::Tokens,
            10,
            Period::Minute,
        )];
        // Each is given back at once, so that it can go.
        if let Ok(grant) = take(&quotas, &limits, of(1, 0, 0)) {
            drop(grant);
        }
        clock.pass(u64::from(index % 10 == 0));
    }
    assert!(quotas.users(usize::MAX).await.len() <= 100);
}

#[derive(Default)]
struct Told(std::sync::Mutex<Vec<(u16, u64)>>);

impl LimitWatch for Told {
    fn passed(&self, warning: LimitWarning) {
        let mut told = self.0.lock().unwrap();
        told.push((warning.permille, warning.used));
    }
}

#[test]
fn a_threshold_is_told_once_in_its_period_and_of_what_was_settled() {
    let (clock, told) = (Clock::default(), Arc::new(Told::default()));
    let quotas = clock.quotas().with_watch(Arc::clone(&told) as _);
    let limits = [Limit {
        warn_at: Thresholds::new(&[800, 950]).unwrap(),
        ..team(Measure::Cost, 100, Period::Day)
    }];
    let spend = |held: i64, used: i64| {
        let grant = take(&quotas, &limits, of(0, 0, held)).unwrap();
        grant.settle(of(0, 0, used));
        std::mem::take(&mut *told.0.lock().unwrap())
    };
    // What is only held passes nothing.
    assert_eq!(spend(100, 10), []);
    assert_eq!(spend(80, 70), [(800, 80)]);
    assert_eq!(spend(10, 5), []);
    assert_eq!(spend(10, 10), [(950, 95)]);
    assert_eq!(spend(5, 5), []);
    clock.pass(86_400);
    assert_eq!(spend(100, 100), [(950, 100)]);
    // A process that goes on from what was used says nothing again.
    let next = clock.quotas().with_watch(Arc::clone(&told) as _);
    next.restore(quotas.settled());
    let raised = [Limit {
        amount: 105,
        ..limits[0].clone()
    }];
    take(&next, &raised, of(0, 0, 1))
        .unwrap()
        .settle(of(0, 0, 1));
    assert_eq!(*told.0.lock().unwrap(), []);
}

#[test]
fn a_wall_clock_that_goes_back_gives_no_budget_anew() {
    let (nanos, unix) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let now = |seconds: u64| {
        nanos.fetch_add(SECOND, Ordering::SeqCst);
        unix.store(seconds, Ordering::SeqCst);
    };
    let clock = {
        let (nanos, unix) = (Arc::clone(&nanos), Arc::clone(&unix));
        move || Moment {
            nanos: nanos.load(Ordering::SeqCst),
            unix: unix.load(Ordering::SeqCst),
        }
    };
    let quotas = LocalQuotas::new(Calendar::utc(), clock.clone()).with_user_accounts_max(1);
    let limits = [
        key(Measure::Cost, 100, Period::Day),
        user("u", Measure::Cost, 100, Period::Day),
    ];
    let left = |quotas: &LocalQuotas| -> Vec<u64> {
        let left = quotas.left(&limits);
        left.iter().map(|left| left.amount).collect()
    };
    now(20 * DAY);
    take(&quotas, &limits, of(0, 0, 90))
        .unwrap()
        .settle(of(0, 0, 90));
    // An hour, a day, a month, and to where time began.
    for back in [20 * DAY - 3_600, 19 * DAY, DAY, 0] {
        now(back);
        assert_eq!(left(&quotas), [10, 10], "{back}");
        let refused = take(&quotas, &limits, of(0, 0, 11)).unwrap_err();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(DAY)));
    }
    // One that was never asked for begins no earlier, and ends no earlier, than the others.
    let other = [team(Measure::Cost, 50, Period::Day)];
    let whole_after = quotas.left(&other)[0].whole_after;
    assert_eq!(whole_after, Some(Duration::from_secs(DAY)));
    // Nor does a restart under the clock that is wrong.
    let next = LocalQuotas::new(Calendar::utc(), clock.clone());
    next.restore(quotas.settled());
    assert_eq!(left(&next), [10, 10]);
    // Forth and back gives the next day's once, and that day's not again when it comes.
    now(21 * DAY + 5);
    assert_eq!(left(&quotas), [100, 100]);
    take(&quotas, &limits, of(0, 0, 60))
        .unwrap()
        .settle(of(0, 0, 60));
    now(20 * DAY + 10);
    assert_eq!(left(&quotas), [40, 40]);
    now(21 * DAY);
    assert_eq!(left(&quotas), [40, 40]);
    now(22 * DAY);
    assert_eq!(left(&quotas), [100, 100]);
}

#[test]
fn what_refills_does_not_know_the_wall_clock() {
    let unix = Arc::new(AtomicU64::new(1_000_000));
    let nanos = Arc::new(AtomicU64::new(0));
    let quotas = {
        let (nanos, unix) = (Arc::clone(&nanos), Arc::clone(&unix));
        LocalQuotas::new(Calendar::utc(), move || Moment {
            nanos: nanos.load(Ordering::SeqCst),
            unix: unix.load(Ordering::SeqCst),
        })
    };
    let limits = [key(Measure::Requests, 60, Period::Minute)];
    for _ in 0..60 {
        take(&quotas, &limits, of_request()).unwrap();
    }
    for jump in [0, 1, 1_000_000_000] {
        unix.store(jump, Ordering::SeqCst);
        assert_eq!(quotas.left(&limits)[0].amount, 0);
    }
    nanos.fetch_add(2 * SECOND, Ordering::SeqCst);
    assert_eq!(quotas.left(&limits)[0].amount, 2);
}

#[test]
fn a_user_who_is_forgotten_begins_anew_and_nobody_else_does() {
    let clock = Clock::default();
    let quotas = clock.quotas();
    let user = |team: &str, user: &str, measure, per| {
        limit(
            Scope::User(team.into(), user.into()),
            measure,
            100,
            per,
            100,
        )
    };
    let limits = [
        user("red", "anna", Measure::Cost, Period::Month),
        user("red", "anna", Measure::Requests, Period::Minute),
        user("blue", "anna", Measure::Cost, Period::Month),
        user("red", "ben", Measure::Cost, Period::Month),
        limit(
            Scope::Tag("anna".into()),
            Measure::Cost,
            100,
            Period::Month,
            100,
        ),
        team(Measure::Cost, 100, Period::Month),
    ];
    take(&quotas, &limits, of(0, 0, 10))
        .unwrap()
        .settle(of(0, 0, 10));
    let under_way = take(&quotas, &limits[..1], of(0, 0, 40)).unwrap();
    let anna = domain::UserId::new("anna");
    let red = domain::TeamId::new("red");
    let used = quotas.used_by(None, &anna, 9);
    assert_eq!(
        used.iter().map(|it| it.used).collect::<Vec<_>>(),
        [10, 10, 0]
    );
    assert_eq!(quotas.used_by(None, &anna, 1).len(), 1);
    drop(quotas.settled());
    assert_eq!(quotas.forget(None, &"ann".into()), 0);
    assert_eq!(quotas.forget(Some(&red), &anna), 2);
    let left = |quotas: &LocalQuotas| {
        let left = quotas.left(&limits).into_iter();
        left.map(|left| left.amount).collect::<Vec<_>>()
    };
    assert_eq!(
        left(&quotas),
        [60, 100, 90, 90, 90, 90],
        "what is held is held"
    );
    let written = quotas.settled();
    assert_eq!(written.len(), 1);
    assert_eq!(
        (&written[0].scope, written[0].amount),
        (&limits[0].scope, 0)
    );
    under_way.settle(of(0, 0, 5));
    assert_eq!(left(&quotas)[0], 95);
    assert_eq!(quotas.forget(None, &anna), 2);
    assert_eq!(left(&quotas), [100, 100, 100, 90, 90, 90]);
    assert!(quotas.used_by(None, &anna, 9).is_empty());
}
