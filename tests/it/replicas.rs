//! Three replicas that count limits together in Redis. Where neither Redis nor Valkey is installed these
//! say so and pass.

#[path = "../../src/store/quota/shared/tests/server.rs"]
#[expect(dead_code, reason = "clusters are for the tests of the store alone")]
pub mod server;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use loadtest::{FakeUpstream, PostgresServer};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{
    Hedge, ask, away, chat_request, eventually, fake, signal, try_open, upstream, wanted, with,
};
use server::Server;

/// Requests of a race. With `HEDGE_TEST_RACE=20000` as many as that.
const RACE: usize = 1_500;
const RACE_WANTED: &str = "HEDGE_TEST_RACE";
const TOGETHER: usize = 64;

/// Replicas that are killed. With `HEDGE_TEST_REPLICA_KILLS=20` so many.
const KILLS: usize = 4;
const KILLS_WANTED: &str = "HEDGE_TEST_REPLICA_KILLS";

const DATABASE: &str = "hedge";

/// How long rates are watched, in seconds. With `HEDGE_TEST_RATE=60` as long as that.
const RATE: usize = 5;
const RATE_WANTED: &str = "HEDGE_TEST_RATE";

const PRICES: &str = "[[prices]]\nupstream = 'fake'\nmodels = ['*']\ninput = 2.0\noutput = 30.0\n";

/// What one request is taken for, in micro-dollars: a hundred tokens out, what a short prompt may come to,
/// and somebody else who may go on with it.
const WORST: u64 = 4_500;

/// Another number each time.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

struct Replicas {
    server: Server,
    fake: FakeUpstream,
    nodes: Vec<Hedge>,
    asked: AtomicUsize,
}

/// What a request came to.
struct Told {
    status: StatusCode,
    cost: u64,
}

impl Replicas {
    /// Three over `server`, with limits for everybody. Times are far beyond what a busy machine takes: who
    /// believes that Redis is away uses a share.
    async fn start(server: Server, lease_s: u32, limits: &str) -> Self {
        Self::start_with(server, lease_s, limits, ["", ""]).await
    }

    /// The same with more of `[store]`, and more tables.
    async fn start_with(
        server: Server,
        lease_s: u32,
        limits: &str,
        [store, tables]: [&str; 2],
    ) -> Self {
        let fake = fake();
        let config = format!(
            "[local]\nenabled = false\n[offline]\nenabled = false\n\
             [organisation]\nlimits = [{limits}]\n\
             [store]\nredis = '{}'\nreplicas = 3\nlease_s = {lease_s}\nanswer_ms_max = 10000\n\
             {store}\n{tables}\n{}",
            server.url(),
            upstream(&fake, PRICES)
        );
        // Launching holds this thread up: nobody should be asked meanwhile.
        let nodes: Vec<Hedge> = (0..3).map(|_| Hedge::launch(&config)).collect();
        for node in &nodes {
            node.until_ready().await;
        }
        let replicas = Self {
            server,
            fake,
            nodes,
            asked: AtomicUsize::new(0),
        };
        replicas.until(0..3, "shared").await;
        replicas
    }

    /// Waits until replicas say so of their limits.
    async fn until(&self, which: std::ops::Range<usize>, reach: &str) {
        for node in &self.nodes[which] {
            eventually(reach, async || {
                node.get("/readyz").await.json()["limits"] == reach
            })
            .await;
        }
    }

    /// Asks one replica after the other for something that was not asked before. `None`: it is gone.
    async fn ask(&self) -> Option<Told> {
        self.ask_for("fake/bench").await
    }

    async fn ask_for(&self, model: &str) -> Option<Told> {
        let at = self.asked.fetch_add(1, Ordering::Relaxed);
        let text = format!("[[fake tokens={}]] {at}", 1 + at * 7 % 90);
        let body = with(ask(model, &text), json!({"max_tokens": 100}));
        let mut request = chat_request(&body);
        let headers = request.headers_mut();
        headers.insert("x-hedge-cost", HeaderValue::from_static("1"));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        let node = &self.nodes[at % self.nodes.len()];
        let streamed = try_open(node.addr, request).await.ok()?;
        let reply = streamed.read().await;
        Some(Told {
            status: reply.status,
            cost: reply.header("x-hedge-cost-microusd").parse().unwrap_or(0),
        })
    }

    /// So many at once, again and again, as long as there is something to ask for.
    async fn race(&self, count: usize, each: impl Fn(Option<Told>)) {
        self.race_for("fake/bench", count, each).await;
    }

    async fn race_for(&self, model: &str, count: usize, each: impl Fn(Option<Told>)) {
        let rest = AtomicUsize::new(count);
        let take = || {
            let less = |rest: usize| rest.checked_sub(1);
            rest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        };
        let racing = (0..TOGETHER).map(async |_| {
            while take().is_ok() {
                each(self.ask_for(model).await);
            }
        });
        join_all(racing).await;
    }

    /// What Redis has of accounts: settled, and held.
    fn ledger(&self) -> (u64, u64) {
        self.accounts("*:cost*")
    }

    /// Settled in the budget of a model.
    fn settled_of(&self, model: &str) -> u64 {
        self.accounts(&format!("*:cost:*:model:{model}")).0
    }

    fn accounts(&self, which: &str) -> (u64, u64) {
        let (mut settled, mut held) = (0, 0);
        let keys = self.server.ask(&["KEYS", which]);
        for key in keys.lines().filter(|line| line.contains('{')) {
            let fields = self.server.ask(&["HGETALL", key]);
            let fields: Vec<&str> = fields
                .lines()
                .filter(|line| !line.starts_with(['*', '$', '+']))
                .collect();
            for pair in fields.chunks(2) {
                match pair {
                    ["settled", units] => settled += units.parse::<u64>().unwrap(),
                    [name, units] if name.starts_with("held:") => {
                        held += units.parse::<u64>().unwrap();
                    }
                    _ => {}
                }
            }
        }
        (settled, held)
    }

    /// What the records of a replica come to.
    async fn recorded(&self, at: usize) -> u64 {
        let savings = self.nodes[at].admin_get("/admin/v1/savings").await.json();
        savings["spent_microusd"].as_u64().unwrap()
    }
}

/// Of the only limit, as a replica tells it.
async fn used(node: &Hedge) -> Value {
    let limits = node.admin_get("/admin/v1/limits").await.json();
    limits["limits"][0]["used"].clone()
}

#[tokio::test]
async fn a_budget_holds_under_a_race_on_three_replicas() {
    let Some(server) = Server::start() else {
        return;
    };
    let budget = 30_000;
    let limits = "{ count = 'cost', usd = 0.03, per = 'month' }";
    let replicas = Replicas::start(server, 60, limits).await;
    let [spent, answered, refused] = [const { AtomicU64::new(0) }; 3];
    let race = wanted(RACE_WANTED, RACE);
    let each = |told: Option<Told>| match told.expect("all replicas live") {
        Told { status, cost } if status == StatusCode::OK => {
            assert!(cost > 0);
            answered.fetch_add(1, Ordering::Relaxed);
            let spent = spent.fetch_add(cost, Ordering::Relaxed) + cost;
            assert!(spent <= budget, "{spent}");
        }
        Told { status, .. } => {
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
            refused.fetch_add(1, Ordering::Relaxed);
        }
    };
    replicas.race(race, each).await;
    let mut spent = spent.into_inner();
    let (answered, refused) = (answered.into_inner(), refused.into_inner());
    assert_eq!(answered + refused, race as u64);
    assert!(answered > 10 && refused > 0, "{answered} {refused}");
    // One after the other, until nothing more passes.
    eventually("nothing is held", async || replicas.ledger() == (spent, 0)).await;
    while let Some(told) = replicas.ask().await
        && told.status == StatusCode::OK
    {
        spent += told.cost;
        eventually("it is settled", async || replicas.ledger() == (spent, 0)).await;
    }
    assert!(spent <= budget && budget - spent < WORST, "{spent}");
    eventually("nothing is held", async || replicas.ledger() == (spent, 0)).await;
    for node in &replicas.nodes {
        eventually("all see what was used", async || used(node).await == spent).await;
        let metrics = node.metrics().await;
        let parted = "hedge_shared_limits_partings_total 0";
        assert!(metrics.contains(parted), "{metrics}");
    }
    eventually("the records say the same", async || {
        let mut recorded = 0;
        for at in 0..3 {
            recorded += replicas.recorded(at).await;
        }
        recorded == spent
    })
    .await;
    assert!(replicas.fake.counts().asked as u64 >= answered);
}

#[tokio::test]
async fn what_a_killed_replica_held_is_there_again_after_its_lease() {
    let Some(server) = Server::start() else {
        return;
    };
    let budget = 60_000;
    let limits = "{ count = 'cost', usd = 0.06, per = 'month' }";
    let replicas = Replicas::start(server, 8, limits).await;
    let spent = AtomicU64::new(0);
    let (answered, is_killed) = (AtomicU64::new(0), AtomicBool::new(false));
    let each = |told: Option<Told>| {
        let Some(told) = told else {
            assert!(is_killed.load(Ordering::Relaxed), "two replicas live");
            return;
        };
        if told.status != StatusCode::OK {
            // Of the one that dies what was under way breaks off.
            assert!(!told.status.is_server_error(), "{}", told.status);
            return;
        }
        spent.fetch_add(told.cost, Ordering::Relaxed);
        if answered.fetch_add(1, Ordering::Relaxed) == 20 {
            is_killed.store(true, Ordering::Relaxed);
            signal(replicas.nodes[2].pid(), "-KILL");
        }
    };
    let race = wanted(RACE_WANTED, RACE) / 3;
    replicas.race(race, each).await;
    assert!(is_killed.load(Ordering::Relaxed));
    // Nobody takes from it any more: it goes back by the others' asking.
    eventually("nothing is held", async || {
        replicas.ask().await;
        replicas.ledger().1 == 0
    })
    .await;
    // All that is left can be had.
    let is_spent = async || {
        let told = replicas.ask().await;
        told.is_some_and(|told| told.status == StatusCode::TOO_MANY_REQUESTS)
    };
    eventually("it is spent", is_spent).await;
    eventually("nothing is held", async || replicas.ledger().1 == 0).await;
    let (settled, _) = replicas.ledger();
    assert!(settled <= budget && budget - settled < WORST, "{settled}");
}

/// Each round has a budget of its own, so that money flows whenever one dies.
#[tokio::test]
async fn what_replicas_counted_and_what_they_recorded_is_one_whoever_was_killed() {
    let (Some(server), Some(postgres)) = (Server::start(), PostgresServer::start().unwrap()) else {
        return;
    };
    let store = format!("postgres = '{}'", postgres.database(DATABASE).unwrap());
    let rounds = wanted(KILLS_WANTED, KILLS);
    let race = wanted(RACE_WANTED, RACE) / rounds;
    let budget = 40_000;
    let models = (0..rounds).map(|round| {
        format!(
            "[[models]]\nname = 'round-{round}'\n\
             limits = [{{ count = 'cost', usd = 0.04, per = 'month' }}]\n"
        )
    });
    let aliases = (0..rounds).map(|round| format!("round-{round} = 'fake/bench'\n"));
    let tables = format!(
        "{}[aliases]\n{}",
        models.collect::<String>(),
        aliases.collect::<String>()
    );
    let limits = "{ count = 'requests', amount = 1000000, per = 'ever' }";
    let mut replicas = Replicas::start_with(server, 6, limits, [&store, &tables]).await;
    let mut answered_in_all = 0;
    for round in 0..rounds {
        let model = format!("round-{round}");
        let victim = (random() % 3) as usize;
        // Of about thirty that the budget pays for.
        let (dies_at, waits) = (random() % 24, Duration::from_millis(random() % 300));
        let (answered, is_killed) = (AtomicU64::new(0), AtomicBool::new(false));
        let due = Notify::new();
        let each = |told: Option<Told>| {
            let Some(told) = told else {
                assert!(is_killed.load(Ordering::Relaxed), "two replicas live");
                return;
            };
            // Of the one that dies what was under way breaks off.
            assert!(!told.status.is_server_error(), "{}", told.status);
            if told.status == StatusCode::OK && answered.fetch_add(1, Ordering::Relaxed) == dies_at
            {
                due.notify_one();
            }
        };
        let killing = async {
            due.notified().await;
            tokio::time::sleep(waits).await;
            is_killed.store(true, Ordering::Relaxed);
            signal(replicas.nodes[victim].pid(), "-KILL");
        };
        futures::join!(replicas.race_for(&model, race, each), killing);
        answered_in_all += answered.into_inner();
        let killed = replicas.nodes.remove(victim);
        replicas.nodes.insert(victim, killed.killed().await);
        replicas.until(victim..victim + 1, "shared").await;
    }
    eventually("nothing is held", async || {
        replicas.ask_for("round-0").await;
        replicas.ledger().1 == 0
    })
    .await;
    // What was given back can be had: all of each budget.
    for round in 0..rounds {
        let model = format!("round-{round}");
        let is_spent = async || {
            let told = replicas.ask_for(&model).await;
            told.is_some_and(|told| told.status == StatusCode::TOO_MANY_REQUESTS)
        };
        eventually("it is spent", is_spent).await;
        eventually("nothing is held", async || replicas.ledger().1 == 0).await;
        let settled = replicas.settled_of(&model);
        assert!(
            settled <= budget && budget - settled < WORST,
            "{model}: {settled}"
        );
    }
    let (settled, _) = replicas.ledger();
    eventually("no record waits to be written", async || {
        replicas
            .server
            .ask(&["HLEN", "{hedge}:records"])
            .starts_with(":0\r")
    })
    .await;
    let sums = "SELECT COUNT(*) - COUNT(DISTINCT (replica, ended_us, request_id)), \
                SUM(cost_microusd + hedge_cost_microusd), COUNT(DISTINCT replica) \
                FROM hedge.records";
    let told = postgres.query(DATABASE, sums).unwrap();
    assert_eq!(
        told,
        format!("0|{settled}|3"),
        "of {answered_in_all} answers"
    );
}

/// Who is nearest to the end of a limit is listed at whichever replica the operator asks, and nowhere once
/// erased.
#[tokio::test]
async fn users_of_all_replicas_are_listed_and_gone_when_erased() {
    let Some(server) = Server::start() else {
        return;
    };
    let limits = "{ count = 'requests', amount = 1000000, per = 'ever' }]\n\
                  user_limits = [{ count = 'requests', amount = 10, per = 'day' }";
    let mut replicas = Replicas::start(server, 60, limits).await;
    for (at, user, count) in [(0, "anna", 4), (1, "ben", 7), (1, "anna", 1)] {
        for _ in 0..count {
            let body = with(
                ask("fake/bench", "[[fake tokens=1]]"),
                json!({"user": user}),
            );
            let reply = replicas.nodes[at].chat(&body).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        }
    }
    let users = async |node: &Hedge| {
        let told = node.admin_get("/admin/v1/limits").await.json();
        let limits = told["limits"].as_array().unwrap().iter();
        let users = limits.filter(|limit| limit["scope"] == "user");
        let users = users.map(|user| json!([user["name"], user["used"], user["left"]]));
        Value::Array(users.collect())
    };
    let both = json!([["ben", 7, 3], ["anna", 5, 5]]);
    for node in &replicas.nodes {
        eventually("both are listed", async || users(node).await == both).await;
    }
    let body = json!({"user": "ben"}).to_string();
    for node in &replicas.nodes {
        let erased = node.admin_post("/admin/v1/data/erase", &body).await;
        assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    }
    for node in &replicas.nodes {
        assert_eq!(users(node).await, json!([["anna", 5, 5]]));
    }
    let kept = ["{hedge}:users:shares", "{hedge}:users:untils"]
        .map(|key| replicas.server.ask(&["ZRANGE", key, "0", "-1"]));
    let limits = replicas.server.ask(&["HGETALL", "{hedge}:users:limits"]);
    for kept in kept.iter().chain([&limits]) {
        assert!(kept.contains("anna") && !kept.contains("ben"), "{kept}");
    }
    // A replica that cannot ask has whom it knows itself.
    replicas.server.stop();
    replicas.until(0..3, "apart").await;
    let known = users(&replicas.nodes[1]).await;
    assert_eq!(known.as_array().unwrap().len(), 1, "{known}");
    assert_eq!(known[0][0], "anna");
    assert_eq!(users(&replicas.nodes[2]).await, json!([]));
}

/// In no stretch of time do more pass than what it brings and one burst, and all that it brings do.
#[tokio::test]
async fn a_rate_holds_on_three_replicas() {
    let Some(server) = Server::start() else {
        return;
    };
    // So slow that asking for more than it is no question of the machine.
    let (rate, burst) = (10, 10);
    let limits =
        format!("{{ count = 'requests', amount = {rate}, per = 'second', burst = {burst} }}");
    let replicas = Replicas::start(server, 60, &limits).await;
    let watched = Duration::from_secs(wanted(RATE_WANTED, RATE) as u64);
    let began = Instant::now();
    let asking = (0..24).map(async |_| {
        let mut passed = Vec::new();
        while began.elapsed() < watched {
            let sent = began.elapsed();
            match replicas.ask().await.expect("all replicas live").status {
                StatusCode::OK => passed.push((sent, began.elapsed())),
                StatusCode::TOO_MANY_REQUESTS => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => panic!("{other}"),
            }
        }
        passed
    });
    let mut passed: Vec<_> = join_all(asking).await.into_iter().flatten().collect();
    passed.sort_unstable();
    let brought = rate * watched.as_secs();
    assert!(
        passed.len() as u64 * 100 >= brought * 99,
        "{} of {brought}",
        passed.len()
    );
    for (index, (from, _)) in passed.iter().enumerate() {
        // Each passed at some moment between the two of it.
        let mut until: Vec<_> = passed[index..].iter().map(|(_, until)| *until).collect();
        until.sort_unstable();
        for (count, until) in until.into_iter().enumerate() {
            let time = until.saturating_sub(*from).as_secs_f64();
            let most = time * rate as f64 + burst as f64;
            assert!((count + 1) as f64 <= most + 1e-6, "{count} in {time} s");
        }
    }
}

#[tokio::test]
async fn redis_may_go_and_come_back_under_load() {
    let Some(server) = Server::start_lasting() else {
        return;
    };
    let limits = "{ count = 'cost', usd = 900, per = 'month' }, \
                  { count = 'requests', amount = 36000000, per = 'hour', burst = 3000 }";
    let mut replicas = Replicas::start(server, 60, limits).await;
    let spent = AtomicU64::new(0);
    let each = |told: Option<Told>| {
        let told = told.expect("all replicas live");
        assert_eq!(told.status, StatusCode::OK);
        spent.fetch_add(told.cost, Ordering::Relaxed);
    };
    replicas.race(150, each).await;
    for _ in 0..2 {
        replicas.server.stop();
        replicas.until(0..3, "apart").await;
        let gone = Instant::now();
        replicas.race(150, each).await;
        while gone.elapsed() < away() {
            replicas.race(150, each).await;
        }
        let metrics = replicas.nodes[0].metrics().await;
        assert!(metrics.contains("hedge_shared_limits_apart 1"), "{metrics}");
        replicas.server.run();
        // While it comes back, too.
        futures::join!(replicas.until(0..3, "shared"), replicas.race(150, each));
        let spent = spent.load(Ordering::Relaxed);
        eventually("all is settled", async || replicas.ledger() == (spent, 0)).await;
        for node in &replicas.nodes {
            eventually("all see what was used", async || used(node).await == spent).await;
        }
    }
    let log = replicas.nodes[0].log();
    assert!(log.contains("limits are counted apart"), "{log}");
    assert!(log.contains("limits are counted with the other replicas'"));
    let metrics = replicas.nodes[0].metrics().await;
    assert!(
        metrics.contains("hedge_shared_limits_partings_total 2"),
        "{metrics}"
    );
    assert!(metrics.contains("hedge_shared_limits_lost_total 0"));
    assert!(metrics.contains("hedge_shared_limits_unsettled 0"));
}
