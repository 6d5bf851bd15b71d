use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Exhausted, Grant, Limit, Measure, MicroUsd, Period, Quotas, Scope, Use, WhenSpent};
use futures::executor::block_on;

use super::*;
use crate::conformance::check_quotas;

const SECOND: u64 = 1_000_000_000;

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
