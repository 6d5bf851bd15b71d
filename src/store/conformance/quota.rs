//! Who keeps count of what is used.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{
    Exhausted, Grant, Limit, Measure, MicroUsd, Period, Quotas, Scope, Thresholds, Use, WhenSpent,
};
use futures::future::join_all;

const DAY: Duration = Duration::from_secs(86_400);

/// At once, and each of them again and again.
const TOGETHER: u64 = 64;
const ROUNDS: u64 = 24;

fn limit(scope: Scope, measure: Measure, amount: u64, per: Period) -> Limit {
    Limit {
        scope,
        measure,
        amount,
        per,
        burst: amount,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    }
}

fn team(name: &str, measure: Measure, amount: u64, per: Period) -> Limit {
    limit(Scope::Team(name.into()), measure, amount, per)
}

fn key(name: &str, measure: Measure, amount: u64, per: Period) -> Limit {
    limit(Scope::Key(name.into()), measure, amount, per)
}

fn of(input: u64, output: u64, cost: i64) -> Use {
    Use {
        requests: 1,
        input_tokens: input,
        output_tokens: output,
        cost: MicroUsd(cost),
    }
}

fn amounts(grant: &Grant) -> Vec<u64> {
    grant.left.iter().map(|left| left.amount).collect()
}

fn left(quotas: &dyn Quotas, limits: &[Limit]) -> Vec<u64> {
    let left = quotas.left(limits);
    left.iter().map(|left| left.amount).collect()
}

/// The contract of those who count together: one, or several that share their counts, of which nothing was
/// used before. `settle` waits until all that was settled is counted.
///
/// # Panics
/// Where it is broken.
pub async fn check_quotas(replicas: &[&dyn Quotas], settle: impl AsyncFn()) {
    let one = Bench {
        replicas,
        settle: &settle,
    };
    one.takes_all_or_none().await;
    one.names_what_lasts_longest().await;
    one.gives_back_what_was_dropped().await;
    one.counts_what_is_under_way().await;
    one.goes_on_where_a_limit_is_changed().await;
    one.counts_more_than_was_taken().await;
    one.holds_under_a_race().await;
}

struct Bench<'a, S> {
    replicas: &'a [&'a dyn Quotas],
    settle: &'a S,
}

impl<S: AsyncFn()> Bench<'_, S> {
    /// Asks one after the other, so that each learns of what the one before did.
    async fn take(&self, at: u64, limits: &[Limit], worst: Use) -> Result<Grant, Exhausted> {
        let at = usize::try_from(at).expect("a few") % self.replicas.len();
        self.replicas[at].take(limits, worst).await
    }

    async fn takes_all_or_none(&self) {
        let limits = [
            team("all", Measure::Requests, 5, Period::Hour),
            key("all", Measure::Cost, 100, Period::Day),
        ];
        let first = self.take(0, &limits, of(0, 0, 80)).await;
        let first = first.expect("there is enough");
        assert_eq!(amounts(&first), [4, 20]);
        for at in 1..4 {
            let refused = self.take(at, &limits, of(0, 0, 21)).await;
            let refused = refused.expect_err("there is not enough");
            assert_eq!(refused.limit, limits[1]);
            let wait = refused.retry_after.expect("the day ends");
            assert!(wait <= DAY, "{wait:?}");
        }
        let rest = self.take(1, &limits, of(0, 0, 20)).await;
        assert_eq!(amounts(&rest.expect("that is left")), [3, 0]);
        first.settle(of(0, 0, 30));
        (self.settle)().await;
        let again = self.take(2, &limits, of(0, 0, 0)).await;
        assert_eq!(amounts(&again.expect("it came back")), [2, 70]);
    }

    async fn names_what_lasts_longest(&self) {
        let limits = [
            key("long", Measure::Requests, 1, Period::Minute),
            team("long", Measure::Tokens, 10, Period::Hour),
            key("long", Measure::Concurrency, 1, Period::Ever),
        ];
        let under_way = self.take(0, &limits, of(4, 6, 0)).await;
        let refused = self.take(1, &limits, of(1, 1, 0)).await;
        let refused = refused.expect_err("all of them are used");
        assert_eq!(refused.limit, limits[1]);
        let wait = refused.retry_after.expect("it comes back");
        let about = Duration::from_secs(660)..=Duration::from_secs(720);
        assert!(about.contains(&wait), "{wait:?}");
        // One request that is more than the limit never passes.
        let refused = self.take(2, &limits, of(11, 0, 0)).await;
        let refused = refused.expect_err("it is more than the limit");
        assert_eq!(
            (refused.limit.measure, refused.retry_after),
            (Measure::Tokens, None)
        );
        drop(under_way);
    }

    async fn gives_back_what_was_dropped(&self) {
        let limits = [
            key("dropped", Measure::Requests, 10, Period::Hour),
            key("dropped", Measure::Tokens, 100, Period::Hour),
            key("dropped", Measure::Cost, 100, Period::Ever),
            key("dropped", Measure::Concurrency, 2, Period::Ever),
        ];
        let taken = self.take(0, &limits, of(50, 50, 100)).await;
        assert_eq!(amounts(taken.as_ref().expect("all is left")), [9, 0, 0, 1]);
        drop(taken);
        (self.settle)().await;
        assert_eq!(left(self.replicas[0], &limits), [9, 100, 100, 2]);
    }

    async fn counts_what_is_under_way(&self) {
        let limits = [key("busy", Measure::Concurrency, 2, Period::Ever)];
        let first = self.take(0, &limits, of(0, 0, 0)).await;
        let second = self.take(1, &limits, of(0, 0, 0)).await;
        assert!(second.is_ok());
        let refused = self.take(2, &limits, of(0, 0, 0)).await;
        let refused = refused.expect_err("both places are taken");
        assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
        first.expect("there are two").settle(of(5, 5, 5));
        (self.settle)().await;
        assert!(self.take(1, &limits, of(0, 0, 0)).await.is_ok());
    }

    async fn goes_on_where_a_limit_is_changed(&self) {
        let month = |amount| [key("changed", Measure::Cost, amount, Period::Month)];
        let taken = self.take(0, &month(100), of(0, 0, 90)).await;
        taken.expect("it is left").settle(of(0, 0, 90));
        (self.settle)().await;
        assert_eq!(left(self.replicas[0], &month(1_000)), [910]);
        assert!(self.take(1, &month(50), of(0, 0, 1)).await.is_err());
        let nothing = self.take(2, &month(50), of(0, 0, 0)).await;
        assert!(nothing.is_ok(), "nothing is there always");
    }

    async fn counts_more_than_was_taken(&self) {
        let limits = [
            key("more", Measure::Tokens, 100, Period::Hour),
            key("more", Measure::Cost, 100, Period::Ever),
        ];
        let taken = self.take(0, &limits, of(10, 0, 10)).await;
        taken.expect("it is left").settle(of(90, 60, 150));
        (self.settle)().await;
        assert_eq!(left(self.replicas[0], &limits), [0, 0]);
        let refused = self.take(1, &limits[..1], of(1, 0, 0)).await;
        let wait = refused.expect_err("it is paid off").retry_after;
        let wait = wait.expect("it comes back");
        let about = Duration::from_secs(1_740)..=Duration::from_secs(1_836);
        assert!(about.contains(&wait), "{wait:?}");
        assert!(self.take(2, &limits[1..], of(0, 0, 1)).await.is_err());
    }

    /// Many at once, of varying worst cases, against a few cents.
    async fn holds_under_a_race(&self) {
        let budget = 40_000;
        let limits = [
            limit(
                Scope::Organisation,
                Measure::Cost,
                budget * 2,
                Period::Month,
            ),
            team("race", Measure::Cost, budget, Period::Day),
            key("race", Measure::Concurrency, 48, Period::Ever),
        ];
        let (spent, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let racing = (0..TOGETHER).map(async |racer| {
            for round in 0..ROUNDS {
                let worst = (racer * 31 + round * 17) % 190 + 1;
                let units = i64::try_from(worst).expect("it is small");
                let Ok(grant) = self.take(racer, &limits, of(0, 0, units)).await else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                assert!(grant.left[1].amount <= budget - worst);
                if round % 7 == 0 {
                    drop(grant);
                    continue;
                }
                let used = worst * (round % 4) / 3;
                spent.fetch_add(used, Ordering::Relaxed);
                let used = i64::try_from(used).expect("it is small");
                grant.settle(of(0, 0, used));
            }
        });
        join_all(racing).await;
        (self.settle)().await;
        let spent = spent.into_inner();
        assert!(spent <= budget, "{spent} of {budget}");
        // The sum of what was used is what was counted, to the last millionth.
        let nothing = self.take(0, &limits[..2], of(0, 0, 0)).await;
        let nothing = nothing.expect("nothing is there always");
        assert_eq!(amounts(&nothing), [budget * 2 - spent, budget - spent]);
        // And all that is left can be had, and no more.
        let rest = i64::try_from(budget - spent).expect("it is small");
        assert!(self.take(1, &limits, of(0, 0, rest + 1)).await.is_err());
        let rest = self.take(2, &limits, of(0, 0, rest)).await;
        drop(rest.expect("it is left"));
        (self.settle)().await;
    }
}
