//! Over a Redis that each test starts for itself. Where none is installed they say so and pass.

mod book;
mod leases;
#[expect(dead_code, reason = "TLS is for the black-box tests alone")]
pub mod server;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::time::{SystemTime, UNIX_EPOCH};

use domain::{KeptRecord, Measure, MicroUsd, Period, Scope, Thresholds, WhenSpent};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::*;
use crate::conformance::{check_quotas, record_of};
use server::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// Some replicas over one server.
struct Replicas {
    server: Server,
    all: Vec<Replica>,
    tasks: JoinSet<()>,
}

struct Replica {
    quotas: SharedQuotas,
    outbox: Arc<Outbox>,
    driver: AbortHandle,
    /// By how many seconds its clock is wrong.
    clock: Arc<AtomicI64>,
    stop: Option<oneshot::Sender<()>>,
}

impl Replicas {
    /// `None` where there is no Redis to start.
    async fn start(count: u32) -> Option<Self> {
        Some(Self::over(Server::start()?, count).await)
    }

    async fn over(server: Server, count: u32) -> Self {
        let mut replicas = Self {
            server,
            all: Vec::new(),
            tasks: JoinSet::new(),
        };
        for _ in 0..count {
            replicas.join(WhenApart::Share, Vec::new());
        }
        for replica in &replicas.all {
            replica.shared().await;
        }
        replicas
    }

    fn rules(&self, when_apart: WhenApart) -> SharedRules {
        SharedRules {
            redis: self.server.url().parse().unwrap(),
            prefix: "test".into(),
            replicas: NonZeroU32::new(3).unwrap(),
            when_apart,
            answer_max: Duration::from_secs(5),
            lease: Duration::from_secs(2),
            replica: format!("{}-{}", std::process::id(), self.all.len()),
        }
    }

    fn join(&mut self, when_apart: WhenApart, settled: Vec<Settled>) {
        let clock = Arc::new(AtomicI64::new(0));
        let (wrong, began) = (Arc::clone(&clock), Instant::now());
        let now = move || {
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            Moment {
                nanos: u64::try_from(began.elapsed().as_nanos()).unwrap(),
                unix: unix
                    .as_secs()
                    .saturating_add_signed(wrong.load(Ordering::SeqCst)),
            }
        };
        let (quotas, driver) = SharedQuotas::new(self.rules(when_apart), Calendar::utc(), now);
        quotas.restore(settled);
        let outbox = Arc::<Outbox>::default();
        outbox.open(&self.all.len().to_string());
        let quotas = quotas.with_outbox(Arc::clone(&outbox));
        let (stop, stopped) = oneshot::channel();
        let driver = self.tasks.spawn(driver.run(async move {
            let _ = stopped.await;
        }));
        self.all.push(Replica {
            quotas,
            driver,
            outbox,
            clock,
            stop: Some(stop),
        });
    }

    fn quotas(&self) -> Vec<&dyn Quotas> {
        let all = self.all.iter();
        all.map(|replica| &replica.quotas as &dyn Quotas).collect()
    }

    async fn settled(&self) {
        for replica in &self.all {
            replica.settled().await;
        }
    }
}

impl Replica {
    async fn shared(&self) {
        let shared = timeout(PATIENCE, self.quotas.until_shared()).await;
        shared.expect("Redis is asked in time");
    }

    async fn apart(&self) {
        eventually(|| self.quotas.counts().is_apart).await;
    }

    async fn settled(&self) {
        eventually(|| self.quotas.counts().unsettled == 0).await;
    }

    async fn take(&self, limits: &[Limit], cost: i64) -> Result<Grant, Exhausted> {
        self.quotas.take(limits, of(cost)).await
    }

    /// What is left for everybody, by Redis itself.
    async fn left(&self, limit: &Limit) -> u64 {
        let nothing = Use::default();
        let taken = self.quotas.take(std::slice::from_ref(limit), nothing).await;
        let grant = taken.unwrap();
        let left = grant.left[0].amount;
        grant.settle(nothing);
        left
    }

    /// As a process that was killed.
    fn kill(&self) {
        self.driver.abort();
    }
}

async fn eventually(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it comes to be");
}

fn of(cost: i64) -> Use {
    Use {
        requests: 1,
        cost: MicroUsd(cost),
        ..Use::default()
    }
}

fn budget(amount: u64, per: Period) -> Limit {
    Limit {
        scope: Scope::Team("{a}:b".into()),
        measure: Measure::Cost,
        amount,
        per,
        burst: amount,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    }
}

fn requests(amount: u64, per: Period, burst: u64) -> Limit {
    Limit {
        scope: Scope::Organisation,
        measure: Measure::Requests,
        amount,
        per,
        burst,
        when_spent: WhenSpent::Refuse,
        warn_at: Thresholds::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_one_and_for_three() {
    for count in [1, 3] {
        let Some(replicas) = Replicas::start(count).await else {
            return;
        };
        check_quotas(&replicas.quotas(), async || replicas.settled().await).await;
        assert!(replicas.all.iter().all(|it| it.quotas.held() == 0));
        let granted_apart = replicas
            .all
            .iter()
            .map(|it| it.quotas.counts().granted_apart);
        assert_eq!(granted_apart.sum::<u64>(), 0);
    }
}

#[tokio::test]
async fn what_a_killed_replica_held_goes_back_when_its_lease_is_over() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    let [one, two] = &replicas.all[..] else {
        panic!("there are two");
    };
    let limits = [budget(100, Period::Day)];
    let lost = one.take(&limits, 70).await.unwrap();
    let kept = two.take(&limits, 20).await.unwrap();
    one.kill();
    assert!(two.take(&limits, 30).await.is_err(), "its lease holds");
    let freed = async {
        while two.take(&limits, 80).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("its lease ends");
    two.settled().await;
    // What the other holds is still held.
    assert_eq!(two.left(&limits[0]).await, 80);
    kept.settle(of(20));
    two.settled().await;
    assert_eq!(two.left(&limits[0]).await, 80);
    drop(lost);
}

#[tokio::test]
async fn what_a_killed_replica_settled_has_its_record() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    let [one, two] = &replicas.all[..] else {
        panic!("there are two");
    };
    let limits = [budget(100, Period::Day)];
    let ended = |id: &str| ExchangeRecord {
        ended_us: domain::moment_us(),
        ..record_of(id, "t")
    };
    let exchange = async |id: &str| {
        let grant = one.take(&limits, 30).await.unwrap();
        let record = ended(id);
        grant.settle_with(of(20), &record);
        one.settled().await;
        KeptRecord::of(&record, record.ended_us)
    };
    let written = exchange("written").await;
    one.outbox.until_told().await;
    one.outbox.written("0", &[written]);
    let is_removed = || {
        replicas
            .server
            .ask(&["HLEN", "{test}:records"])
            .starts_with(":0\r")
    };
    eventually(is_removed).await;
    // Who gives a grant back without a record leaves none.
    drop(one.take(&limits, 30).await.unwrap());
    let lost = exchange("lost").await;
    one.kill();
    // What is no record harms nobody.
    for command in [
        ["HSET", "{test}:records", "0:1:x", "x"],
        ["ZADD", "{test}:records:at", "1", "0:1:x"],
        ["ZADD", "{test}:records:at", "1", "0:2:gone"],
    ] {
        replicas.server.ask(&command);
    }
    let mut damaged = Vec::new();
    let mut found = BTreeMap::new();
    let finding = async {
        while found.is_empty() {
            two.outbox.until_found().await;
            let (orphans, unread) = two.outbox.take_found();
            found = orphans;
            damaged.extend(unread);
        }
    };
    timeout(PATIENCE, finding).await.expect("it is found");
    assert_eq!(
        found,
        BTreeMap::from([("0".to_owned(), vec![lost.clone()])])
    );
    assert!(damaged.contains(&"0:1:x".to_owned()), "{damaged:?}");
    assert_eq!(two.left(&limits[0]).await, 60);
    // Until it is on a disk it is found again.
    two.outbox.until_found().await;
    two.outbox.written("0", &[lost]);
    two.outbox.give_up(damaged);
    eventually(is_removed).await;
}

#[tokio::test]
async fn who_stops_waiting_leaves_nothing_held() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    let one = &replicas.all[0];
    let limits = [budget(1_000, Period::Month)];
    for wait in 0..50 {
        let wait = Duration::from_micros(wait * 20);
        drop(timeout(wait, one.take(&limits, 10)).await);
    }
    let all_is_back = async {
        while one.quotas.held() > 0 || one.left(&limits[0]).await < 1_000 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, all_is_back)
        .await
        .expect("all comes back");
}

#[tokio::test]
async fn a_share_is_used_while_redis_is_away_and_told_when_it_is_back() {
    let Some(mut replicas) = Replicas::start(1).await else {
        return;
    };
    let limits = [
        budget(400, Period::Ever),
        requests(30, Period::Hour, 30),
        Limit {
            measure: Measure::Concurrency,
            ..budget(9, Period::Ever)
        },
    ];
    let one = &replicas.all[0];
    let before = one.take(&limits, 100).await.unwrap();
    replicas.server.stop();
    let one = &replicas.all[0];
    one.apart().await;
    // A third of the three hundred that were left, and of the places at once.
    assert_eq!(one.quotas.left(&limits)[0].amount, 100);
    let more = one.take(&limits, 101).await.unwrap_err();
    assert_eq!(more.limit, limits[0]);
    assert!(more.retry_after.is_some(), "it may pass when Redis is back");
    let first = one.take(&limits, 60).await.unwrap();
    let second = one.take(&limits, 40).await.unwrap();
    let busy = one.take(&limits, 0).await.unwrap_err();
    assert_eq!(busy.limit, limits[2]);
    assert!(one.take(&limits[..1], 1).await.is_err());
    first.settle(of(50));
    before.settle(of(70));
    // Empty: it was not told to keep anything.
    replicas.server.run();
    let one = &replicas.all[0];
    one.shared().await;
    one.settled().await;
    assert_eq!(one.left(&limits[0]).await, 400 - 50 - 70 - 40);
    // Three requests, but for what an hour's rate brought back, and of which one is counted again.
    assert_eq!(one.left(&limits[1]).await, 28);
    second.settle(of(1));
    one.settled().await;
    assert_eq!(one.left(&limits[0]).await, 400 - 50 - 70 - 1);
    let counts = one.quotas.counts();
    assert_eq!((counts.partings, counts.generations), (1, 1));
    assert_eq!((counts.granted_apart, counts.lost), (2, 0));
}

#[tokio::test]
async fn nothing_of_a_budget_is_given_apart_where_that_is_the_rule() {
    let Some(mut replicas) = Replicas::start(0).await else {
        return;
    };
    replicas.join(WhenApart::Refuse, Vec::new());
    replicas.all[0].shared().await;
    replicas.server.stop();
    let one = &replicas.all[0];
    one.apart().await;
    let refused = one.take(&[budget(400, Period::Day)], 1).await.unwrap_err();
    assert_eq!(refused.limit, budget(400, Period::Day));
    assert!(refused.retry_after.is_some());
    // What costs nothing passes, and so do rates.
    assert!(one.take(&[budget(400, Period::Day)], 0).await.is_ok());
    let rates = [requests(30, Period::Hour, 6)];
    assert!(one.take(&rates, 1).await.is_ok());
    assert!(one.take(&rates, 1).await.is_ok());
    assert!(one.take(&rates, 1).await.is_err(), "a third of the burst");
}

/// A Redis that was emptied is told what all replicas know, before any of them takes from it.
#[tokio::test]
async fn lost_counts_are_restored_by_those_who_remember() {
    let Some(replicas) = Replicas::start(3).await else {
        return;
    };
    let limits = [budget(1_000, Period::Month)];
    for (at, replica) in replicas.all.iter().enumerate() {
        let used = 100 * (i64::try_from(at).unwrap() + 1);
        replica.take(&limits, used).await.unwrap().settle(of(used));
        replica.settled().await;
    }
    let held = replicas.all[0].take(&limits, 150).await.unwrap();
    for round in 1..3 {
        replicas.server.ask(&["FLUSHALL"]);
        for replica in &replicas.all {
            eventually(|| replica.quotas.counts().generations == round).await;
            replica.shared().await;
        }
        for replica in &replicas.all {
            assert_eq!(replica.left(&limits[0]).await, 1_000 - 600 - 150);
        }
    }
    held.settle(of(5));
    replicas.settled().await;
    assert_eq!(replicas.all[2].left(&limits[0]).await, 1_000 - 605);
    // The script cache is another thing that may be lost.
    replicas.server.ask(&["SCRIPT", "FLUSH"]);
    assert_eq!(replicas.all[1].left(&limits[0]).await, 1_000 - 605);
}

/// A Redis that wrote down what it had, and was killed while it was asked.
#[tokio::test]
async fn a_restart_of_redis_counts_everything_once() {
    let Some(server) = Server::start_lasting() else {
        return;
    };
    let mut replicas = Replicas::over(server, 1).await;
    let limits = [budget(1_000_000, Period::Month)];
    let mut used = 0;
    for _ in 0..3 {
        for _ in 0..20 {
            let grant = replicas.all[0].take(&limits, 100).await.unwrap();
            grant.settle(of(7));
            used += 7;
        }
        replicas.server.stop();
        let one = &replicas.all[0];
        one.apart().await;
        one.take(&limits, 100).await.unwrap().settle(of(7));
        used += 7;
        replicas.server.run();
        let one = &replicas.all[0];
        one.shared().await;
        one.settled().await;
        assert_eq!(one.left(&limits[0]).await, 1_000_000 - used);
        one.settled().await;
        assert_eq!(one.quotas.held(), 0);
    }
}

#[tokio::test]
async fn a_new_process_goes_on_from_what_was_written_down() {
    let Some(mut replicas) = Replicas::start(1).await else {
        return;
    };
    let limits = [budget(1_000, Period::Ever)];
    let one = &mut replicas.all[0];
    one.take(&limits, 300).await.unwrap().settle(of(250));
    one.settled().await;
    let written = one.quotas.settled();
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].amount, 250);
    assert!(one.quotas.settled().is_empty(), "nothing changed since");
    drop(one.stop.take());
    while replicas.tasks.join_next().await.is_some() {}
    replicas.server.ask(&["FLUSHALL"]);
    replicas.join(WhenApart::Share, written);
    let two = &replicas.all[1];
    two.shared().await;
    assert_eq!(two.left(&limits[0]).await, 750);
    assert_eq!(two.quotas.counts().generations, 0);
}

/// Clocks of replicas are days apart, and Redis's counts.
#[tokio::test]
async fn a_replica_whose_clock_is_wrong_counts_in_the_same_day() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    let limits = [budget(100, Period::Day)];
    for (days, left) in [(0, 90), (3, 80), (-40, 70), (0, 60)] {
        let [one, two] = &replicas.all[..] else {
            panic!("there are two");
        };
        one.clock.store(days * 86_400, Ordering::SeqCst);
        let grant = one.take(&limits, 10).await.unwrap();
        assert_eq!(grant.left[0].amount, left);
        let whole = grant.left[0].whole_after.unwrap();
        assert!(whole <= Duration::from_secs(86_400), "{whole:?}");
        grant.settle(of(10));
        one.settled().await;
        assert_eq!(two.left(&limits[0]).await, left);
    }
}

/// Nor does one end the day for all that counted alone with a clock that was ahead.
#[tokio::test]
async fn a_clock_that_was_ahead_while_alone_begins_no_day() {
    for (period, days, is_known) in [
        (Period::Day, 1, true),
        (Period::Day, 9, false),
        (Period::Month, 400, true),
    ] {
        let Some(server) = Server::start_lasting() else {
            return;
        };
        let mut replicas = Replicas::over(server, 2).await;
        let limits = [budget(100, period)];
        if is_known {
            replicas.all[1]
                .take(&limits, 60)
                .await
                .unwrap()
                .settle(of(60));
            replicas.settled().await;
        }
        replicas.server.stop();
        let one = &replicas.all[0];
        one.apart().await;
        one.clock.store(days * 86_400, Ordering::SeqCst);
        one.take(&limits, 1).await.unwrap().settle(of(1));
        replicas.server.run();
        for replica in &replicas.all {
            replica.shared().await;
        }
        replicas.settled().await;
        let left = if is_known { 39 } else { 99 };
        assert_eq!(replicas.all[1].left(&limits[0]).await, left, "{days}");
        replicas.all[1]
            .take(&limits, 9)
            .await
            .unwrap()
            .settle(of(9));
        replicas.settled().await;
        assert_eq!(replicas.all[0].left(&limits[0]).await, left - 9, "{days}");
    }
}

/// Keys of another type, or with nonsense in them, are no reason to fall over.
#[tokio::test]
async fn a_redis_with_nonsense_in_it_is_as_one_that_is_away() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    let one = &replicas.all[0];
    let limit = requests(3_000, Period::Hour, 30);
    let name = "{test}:limit:requests:hour:organisation";
    for nonsense in [["SET", name, "soon"], ["HSET", name, "a"]] {
        replicas.server.ask(&["DEL", name]);
        let mut words = nonsense.to_vec();
        words.extend((nonsense[0] == "HSET").then_some("b"));
        replicas.server.ask(&words);
        let grant = one.take(std::slice::from_ref(&limit), 0).await.unwrap();
        assert!(grant.left[0].amount <= 10, "by this replica's share");
        one.apart().await;
        replicas.server.ask(&["DEL", name]);
        one.shared().await;
    }
    assert!(one.take(&[limit], 0).await.unwrap().left[0].amount >= 20);
}

#[tokio::test]
async fn every_key_lies_in_one_slot_of_a_cluster() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    let limits = [budget(100, Period::Day), requests(3_000, Period::Hour, 30)];
    let taken = replicas.all[0].take(&limits, 10).await.unwrap();
    taken.settle(of(10));
    replicas.settled().await;
    let keys = replicas.server.ask(&["KEYS", "*"]);
    let keys: Vec<&str> = keys.lines().filter(|line| line.contains('{')).collect();
    assert!(keys.len() >= 4, "{keys:?}");
    assert!(keys.iter().all(|key| key.contains("{test}:")), "{keys:?}");
}

#[tokio::test]
async fn the_node_of_a_cluster_that_has_the_keys_is_found() {
    let (Some(first), Some(second)) = (Server::start_node(), Server::start_node()) else {
        return;
    };
    first.meet(&second);
    let replicas = Replicas::over(first, 2).await;
    let limits = [budget(100, Period::Day), requests(3_000, Period::Hour, 30)];
    let taken = replicas.all[0].take(&limits, 10).await.unwrap();
    assert_eq!(replicas.all[1].left(&limits[0]).await, 90);
    drop(taken);
    assert!(second.ask(&["KEYS", "*"]).contains("{test}:state"));
    // There, too, a user is forgotten.
    let theirs = [of_user("red", "anna", Measure::Cost, Period::Day)];
    let one = &replicas.all[0];
    one.take(&theirs, 10).await.unwrap().settle(of(10));
    one.settled().await;
    let anna = domain::UserId::new("anna");
    assert_eq!(one.quotas.forget(None, &anna).await.unwrap(), 1);
}

fn of_user(team: &str, user: &str, measure: Measure, per: Period) -> Limit {
    Limit {
        scope: Scope::User(team.into(), user.into()),
        measure,
        ..budget(1_000, per)
    }
}

#[tokio::test]
async fn a_user_who_is_forgotten_is_named_nowhere_and_nobody_else_is_touched() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    let (one, two) = (&replicas.all[0], &replicas.all[1]);
    let name = "an*na:[x]?";
    let cost = |team, user| of_user(team, user, Measure::Cost, Period::Month);
    let all = [
        cost("red", name),
        of_user("red", name, Measure::Requests, Period::Minute),
        cost("b:lue", name),
        cost("red", "an*na:[x]"),
        cost("red", "anna"),
        budget(1_000, Period::Month),
    ];
    for replica in [one, two] {
        replica.take(&all, 10).await.unwrap().settle(of(10));
    }
    replicas.settled().await;
    // One is under way while it is forgotten.
    let under_way = one.take(&all[..1], 50).await.unwrap();
    let user = domain::UserId::new(name);
    let red = domain::TeamId::new("red");
    let used = one.quotas.used_by(Some(&red), &user, 9);
    assert_eq!(used.len(), 2, "{used:?}");
    assert_eq!(used[0].used, 20, "of both replicas");
    assert_eq!(one.quotas.forget(None, &"nobody".into()).await.unwrap(), 0);
    assert_eq!(one.quotas.forget(None, &"*".into()).await.unwrap(), 0);
    assert_eq!(one.quotas.forget(Some(&red), &user).await.unwrap(), 2);
    assert_eq!(
        one.quotas.forget(None, &user).await.unwrap(),
        2,
        "of the other team, and what is held"
    );
    two.quotas.forget(None, &user).await.unwrap();
    assert_eq!(one.left(&all[0]).await, 950, "what is held is");
    under_way.settle(of(7));
    replicas.settled().await;
    assert_eq!(one.left(&all[0]).await, 993);
    assert_eq!(one.quotas.forget(None, &user).await.unwrap(), 1);
    for replica in [one, two] {
        assert!(replica.quotas.used_by(None, &user, 9).is_empty());
        let settled = replica.quotas.settled().into_iter();
        let mut theirs = settled.filter(|it| it.scope == all[0].scope);
        assert!(theirs.all(|it| it.amount == 0));
    }
    let client = Client::open(replicas.server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(!keys.iter().any(|key| key.ends_with(name)), "{keys:?}");
    for (limit, left) in [
        (&all[3], 980),
        (&all[4], 980),
        (&all[5], 980),
        (&all[2], 1_000),
    ] {
        assert_eq!(two.left(limit).await, left, "{limit:?}");
    }
}

/// What the operator's list has of users, by whose it is.
async fn listed(replica: &Replica, count_max: usize) -> Vec<(String, u64)> {
    let users = replica.quotas.users(count_max).await.into_iter();
    let shown = users.map(|(limit, left)| (limit.scope.key(), left.amount));
    shown.collect()
}

/// Waits until a replica's list is that: what others used it hears of within a second.
async fn until_listed(replica: &Replica, expected: &[(String, u64)]) {
    let listing = async {
        while listed(replica, 9).await != expected {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = timeout(PATIENCE, listing).await;
    assert!(in_time.is_ok(), "{:?}", listed(replica, 9).await);
}

fn cost_of(user: &str) -> Limit {
    of_user("red", user, Measure::Cost, Period::Day)
}

/// In what Redis keeps for the list.
fn are_named(server: &Server, what: &str) -> bool {
    let limits = server.ask(&["HGETALL", "{test}:users:limits"]);
    let shares = server.ask(&["ZRANGE", "{test}:users:shares", "0", "-1"]);
    let untils = server.ask(&["ZRANGE", "{test}:users:untils", "0", "-1"]);
    [limits, shares, untils]
        .iter()
        .any(|all| all.contains(what))
}

#[tokio::test]
async fn users_nearest_to_their_end_are_listed_whichever_replica_they_asked() {
    let Some(replicas) = Replicas::start(3).await else {
        return;
    };
    // One was taken from at several replicas, and one for nothing.
    for (at, name, cost) in [
        (0, "a", 300),
        (1, "b", 900),
        (2, "c", 100),
        (0, "d", 200),
        (1, "d", 200),
        (2, "d", 200),
        (0, "e", 0),
    ] {
        let grant = replicas.all[at].take(&[cost_of(name)], cost).await;
        grant.unwrap().settle(of(cost));
    }
    let expected = [("b", 100), ("d", 400), ("a", 700), ("c", 900)];
    let expected = expected.map(|(name, left)| (format!("user:3:red:{name}"), left));
    for replica in &replicas.all {
        until_listed(replica, &expected).await;
        assert_eq!(listed(replica, 2).await, expected[..2]);
    }
    // Who was forgotten is in no list, also where another replica was about to tell of him.
    let [one, two] = [0, 1].map(|at| &replicas.all[at]);
    assert!(are_named(&replicas.server, "red:b"));
    assert_eq!(one.quotas.forget(None, &"b".into()).await.unwrap(), 1);
    assert!(!are_named(&replicas.server, "red:b"));
    two.quotas.desk.book().users().touch(&[cost_of("b")]);
    assert_eq!(listed(two, 9).await, expected[1..]);
    assert!(!are_named(&replicas.server, "red:b"));
    two.quotas.forget(None, &"b".into()).await.unwrap();
    assert!(
        two.quotas
            .users_known()
            .iter()
            .all(|(limit, _)| *limit != cost_of("b"))
    );
}

/// However many users there are, Redis keeps no more of their names for the list than that.
#[tokio::test]
async fn names_of_users_for_the_list_are_bounded() {
    let Some(mut replicas) = Replicas::start(1).await else {
        return;
    };
    let count = users::USERS_KEPT_MAX as u64 + 100;
    for index in 0..count {
        // The later, the nearer to the end.
        let limit = Limit {
            amount: 2_000 - index,
            ..cost_of(&format!("u{index}"))
        };
        let grant = replicas.all[0].take(&[limit], 50).await.unwrap();
        grant.settle(of(50));
    }
    let last = format!("user:3:red:u{}", count - 1);
    let one = &replicas.all[0];
    one.settled().await;
    let are_kept = || {
        let kept = format!(":{}\r", users::USERS_KEPT_MAX);
        let shares = replicas.server.ask(&["ZCARD", "{test}:users:shares"]);
        let untils = replicas.server.ask(&["ZCARD", "{test}:users:untils"]);
        let limits = replicas.server.ask(&["HLEN", "{test}:users:limits"]);
        [shares, untils, limits]
            .iter()
            .all(|told| told.starts_with(&kept))
    };
    eventually(are_kept).await;
    assert_eq!(
        listed(one, 1).await,
        [(last.clone(), 2_000 - count + 1 - 50)]
    );
    assert_eq!(listed(one, 100).await.len(), 100);
    assert!(are_kept());
    assert!(!are_named(&replicas.server, "red:u0\r"));
    // While Redis is away it is those whom this replica knows, by its share.
    replicas.server.stop();
    let one = &replicas.all[0];
    one.apart().await;
    assert_eq!(listed(one, 1).await, [(last, (2_000 - count + 1 - 50) / 3)]);
    assert_eq!(listed(one, 100).await.len(), 100);
}

#[tokio::test]
async fn names_of_users_for_the_list_go_when_nothing_is_counted_any_more() {
    let Some(replicas) = Replicas::start(1).await else {
        return;
    };
    let one = &replicas.all[0];
    let refills = Limit {
        amount: 600,
        burst: 600,
        ..of_user("red", "quick", Measure::Requests, Period::Minute)
    };
    let places = of_user("red", "busy", Measure::Concurrency, Period::Ever);
    let busy = one.take(std::slice::from_ref(&places), 0).await.unwrap();
    eventually(|| are_named(&replicas.server, "red:busy")).await;
    busy.settle(of(0));
    eventually(|| !are_named(&replicas.server, "red:busy")).await;
    // Eight seconds until it is full again; nobody tells of it meanwhile.
    let many = Use {
        requests: 80,
        ..Use::default()
    };
    let grant = one.quotas.take(std::slice::from_ref(&refills), many).await;
    grant.unwrap().settle(many);
    eventually(|| are_named(&replicas.server, "red:quick")).await;
    eventually(|| !replicas.server.ask(&["KEYS", "*"]).contains(":users:")).await;
}

/// What Redis refuses of the list alone is no reason to count apart.
#[tokio::test]
async fn a_list_that_cannot_be_had_is_what_this_replica_knows() {
    let Some(replicas) = Replicas::start(2).await else {
        return;
    };
    let [one, two] = [0, 1].map(|at| &replicas.all[at]);
    replicas.server.ask(&["SET", "{test}:users:shares", "soon"]);
    for (replica, name, cost) in [(one, "a", 100), (two, "b", 200)] {
        let grant = replica.take(&[cost_of(name)], cost).await.unwrap();
        grant.settle(of(cost));
        replica.settled().await;
    }
    let [a, b] = [("a", 900), ("b", 800)].map(|(name, left)| (format!("user:3:red:{name}"), left));
    assert_eq!(listed(one, 9).await, std::slice::from_ref(&a));
    assert_eq!(listed(two, 9).await, std::slice::from_ref(&b));
    assert!(
        replicas
            .all
            .iter()
            .all(|it| it.quotas.counts().partings == 0)
    );
    replicas.server.ask(&["DEL", "{test}:users:shares"]);
    for (replica, name) in [(one, "a"), (two, "b")] {
        drop(replica.take(&[cost_of(name)], 0).await.unwrap());
    }
    until_listed(one, &[b, a]).await;
}
