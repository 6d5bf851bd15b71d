//! Several replicas and one Postgres: what they keep is one, and it counts each exchange once, whatever
//! becomes of a replica or of Postgres.
//!
//! Each test starts a Postgres of its own, and is skipped where none is installed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use futures::{StreamExt, stream};
use http::StatusCode;
use loadtest::{POSTGRES_PASSWORD, PostgresServer};
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, away, eventually, fake, signal, upstream, wanted, with};
use crate::records::{savings, under, until_written};

/// Requests of a test. With `HEDGE_TEST_SHARED=5000` as many as that.
const ASKED: usize = 240;
const ASKED_WANTED: &str = "HEDGE_TEST_SHARED";

const REPLICAS: usize = 3;

/// At once.
const TOGETHER: usize = 12;

pub const DATABASE: &str = "hedge";

pub fn postgres() -> Option<PostgresServer> {
    let server = PostgresServer::start().unwrap()?;
    server.database(DATABASE).unwrap();
    Some(server)
}

/// A replica before `fake`, of two teams, with a model that costs, one that costs another price, and a
/// reference for what is reused.
fn config(server: &PostgresServer, fake: &loadtest::FakeUpstream) -> String {
    format!(
        "[local]\nenabled = false
        [offline]\nenabled = false
        [store]\npostgres = '{}'
        [savings]\nreference_model = 'fake/bench'
        [[keys]]\nname = 'one'\nteam = 'a'
        secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
        [[keys]]\nname = 'two'\nteam = 'b'
        secret = 'sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3'
        [[prices]]\nupstream = 'fake'\nmodels = ['bench']\ninput = 2.0\ncached_input = 0.3
        output = 30.0
        [[prices]]\nupstream = 'fake'\nmodels = ['other']\ninput = 0.7\noutput = 1.1\n{}",
        server.url(DATABASE),
        upstream(fake, "")
    )
}

async fn replicas(server: &PostgresServer, fake: &loadtest::FakeUpstream) -> Vec<Hedge> {
    let config = config(server, fake);
    let mut hedges = Vec::new();
    for _ in 0..REPLICAS {
        hedges.push(Hedge::start(&config).await);
    }
    hedges
}

/// What a caller saw of its exchange: its team, and the money that its tokens come to.
struct Seen {
    team: &'static str,
    microusd: i64,
}

/// The same by the price list and by nothing of hedge's.
fn cost(model: &str, usage: &Value) -> i64 {
    let count = |of: &Value| of.as_i64().unwrap_or(0);
    let prompt = count(&usage["prompt_tokens"]);
    let cached = count(&usage["prompt_tokens_details"]["cached_tokens"]);
    let (input, cached_input, output) = match model {
        "fake/bench" => (2_000_000, 300_000, 30_000_000),
        "fake/other" => (700_000, 700_000, 1_100_000),
        other => panic!("{other} has no price"),
    };
    let sum = (prompt - cached) * input
        + cached * cached_input
        + count(&usage["completion_tokens"]) * output;
    (sum + 999_999) / 1_000_000
}

/// The exchange with this number, at a replica. Each asks something else, so that none is reused.
async fn exchange(hedge: &Hedge, name: &str, at: usize) -> Seen {
    let model = if at.is_multiple_of(3) {
        "fake/other"
    } else {
        "fake/bench"
    };
    let (key, team) = if at.is_multiple_of(5) {
        ("two", "b")
    } else {
        ("one", "a")
    };
    let text = format!(
        "[[fake tokens={} cached={}]] {name} {at}",
        1 + at * 7 % 40,
        at % 4
    );
    let request = under(key, &format!("{name}-{at}"), &ask(model, &text));
    let reply = hedge.send(request).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    Seen {
        team,
        microusd: cost(model, &reply.json()["usage"]),
    }
}

fn spent(seen: &[Seen], team: Option<&str>) -> i64 {
    let of = seen
        .iter()
        .filter(|it| team.is_none_or(|team| it.team == team));
    of.map(|it| it.microusd).sum()
}

/// Rows, names and money in Postgres, by its own client.
fn kept(server: &PostgresServer) -> (usize, usize, i64) {
    let sql = "SELECT COUNT(*), COUNT(DISTINCT request_id), \
               COALESCE(SUM(cost_microusd + hedge_cost_microusd), 0) FROM hedge.records";
    let told = server.query(DATABASE, sql).unwrap();
    let mut parts = told.split('|').map(|it| it.parse::<i64>().unwrap());
    let mut part = || parts.next().unwrap();
    (part() as usize, part() as usize, part())
}

fn metric(scrape: &str, name: &str) -> Option<i64> {
    let line = scrape
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Postgres takes what they write, and has what waited for it.
async fn until_all_is_brought(hedges: &[Hedge]) {
    eventually("nothing waits for Postgres", async || {
        for hedge in hedges {
            let scrape = hedge.metrics().await;
            let waits = metric(&scrape, "hedge_records_waiting") != Some(0);
            if waits || !scrape.contains("\nhedge_store_failing{store=\"postgres\"} 0\n") {
                return false;
            }
        }
        true
    })
    .await;
}

/// Nothing waits at all. Not under load.
async fn until_none_waits(hedges: &[Hedge]) {
    eventually("nothing waits", async || {
        for hedge in hedges {
            let scrape = hedge.metrics().await;
            if metric(&scrape, "hedge_records_queued") != Some(0) {
                return false;
            }
        }
        true
    })
    .await;
    until_all_is_brought(hedges).await;
}

fn hides_the_password(hedges: &[Hedge]) {
    for hedge in hedges {
        let log = hedge.log();
        assert!(!log.contains(POSTGRES_PASSWORD), "{log}");
    }
}

#[tokio::test]
async fn what_three_replicas_keep_is_one_and_is_what_their_callers_saw() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let hedges = replicas(&server, &fake).await;
    let count = wanted(ASKED_WANTED, ASKED);
    let asking = (0..count).map(|at| exchange(&hedges[at % REPLICAS], "r", at));
    let seen: Vec<Seen> = stream::iter(asking).buffered(TOGETHER).collect().await;
    // The same again, which costs nothing: what is reused is each replica's own.
    for hedge in &hedges {
        for round in 0..2 {
            let body = with(
                ask("fake/bench", "[[fake tokens=9]] what everybody asks"),
                json!({}),
            );
            let reply = hedge
                .send(under("one", &format!("same-{round}"), &body))
                .await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        }
    }
    let body = ask("fake/bench", "[[fake tokens=9]] what everybody asks");
    let once = hedges[0].send(under("one", "same-2", &body)).await.json();
    let each = cost("fake/bench", &once["usage"]);
    let all = count + 2 * REPLICAS + 1;
    eventually("all is kept", async || kept(&server).0 == all).await;
    let (rows, _, money) = kept(&server);
    assert_eq!(rows, all);
    assert_eq!(money, spent(&seen, None) + each * REPLICAS as i64);

    // Each of them tells the whole, and so does the command line.
    let mut told = Vec::new();
    for hedge in &hedges {
        let a = hedge
            .admin_get("/admin/v1/savings?since=1h&team=a")
            .await
            .json();
        let b = hedge
            .admin_get("/admin/v1/savings?since=1h&team=b")
            .await
            .json();
        assert_eq!(
            a["spent_microusd"],
            spent(&seen, Some("a")) + each * REPLICAS as i64
        );
        assert_eq!(b["spent_microusd"], spent(&seen, Some("b")));
        let (whole, _) = savings(hedge, &[]);
        assert_eq!(whole["total"]["requests"], all);
        assert_eq!(whole["spent_microusd"], money);
        // Of what was reused, four times in all, nothing was charged.
        let saved = 4 * each;
        assert_eq!(whole["total"]["saved_microusd"], saved, "{whole}");
        let overview = hedge.admin_get("/admin/v1/overview").await.json();
        let teams = overview["teams"].as_array().unwrap();
        let sum: i64 = teams
            .iter()
            .map(|it| it["spent_microusd"].as_i64().unwrap())
            .sum();
        assert_eq!(sum, money);
        told.push(crate::records::all_records(hedge).await);
        let ready = hedge.get("/readyz").await;
        assert_eq!(ready.json()["records"], "shared");
    }
    assert_eq!(told[0].len(), all);
    assert!(
        told.iter().all(|it| *it == told[0]),
        "each page says the same"
    );
    let replicas = server
        .query(
            DATABASE,
            "SELECT COUNT(DISTINCT replica) FROM hedge.records",
        )
        .unwrap();
    assert_eq!(replicas, REPLICAS.to_string());
    hides_the_password(&hedges);
}

#[tokio::test]
async fn a_replica_that_is_killed_loses_the_last_second_at_most_and_doubles_nothing() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let mut hedges = replicas(&server, &fake).await;
    let mut sure = 0;
    let mut unsure = 0;
    for round in 0..4_usize {
        let (early, late) = (&*format!("early-{round}"), &*format!("late-{round}"));
        // What is older than a second is safe.
        let early: Vec<Seen> = stream::iter(0..20)
            .map(|at| exchange(&hedges[0], early, at))
            .buffered(TOGETHER)
            .collect()
            .await;
        sure += early.len();
        let sql =
            format!("SELECT COUNT(*) FROM hedge.records WHERE request_id LIKE 'early-{round}-%'");
        eventually("they are kept", async || {
            server.query(DATABASE, &sql).unwrap() == "20"
        })
        .await;
        let late: Vec<Seen> = stream::iter(0..20)
            .map(|at| exchange(&hedges[0], late, at))
            .buffered(TOGETHER)
            .collect()
            .await;
        unsure += late.len();
        if round % 2 == 1 {
            // While what it wrote last is under way.
            tokio::time::sleep(std::time::Duration::from_millis(40 * round as u64)).await;
        }
        let killed = hedges.remove(0);
        hedges.insert(0, killed.killed().await);
    }
    until_none_waits(&hedges).await;
    let early = "SELECT COUNT(*), COUNT(DISTINCT request_id) FROM hedge.records \
                 WHERE request_id LIKE 'early-%'";
    assert_eq!(
        server.query(DATABASE, early).unwrap(),
        format!("{sure}|{sure}")
    );
    let (rows, names, _) = kept(&server);
    assert_eq!(rows, names, "none twice");
    assert!((sure..=sure + unsure).contains(&rows), "{rows}");
    let replicas = server
        .query(
            DATABASE,
            "SELECT COUNT(DISTINCT replica) FROM hedge.records",
        )
        .unwrap();
    assert_eq!(replicas, "1", "it is the same replica after it was killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_ends_and_begins_under_load_costs_no_answer_and_no_record() {
    let Some(mut server) = postgres() else { return };
    let fake = fake();
    let hedges = replicas(&server, &fake).await;
    let is_over = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    let load = join_all((0..TOGETHER).map(|_| async {
        let mut seen = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            seen.push(exchange(&hedges[at % REPLICAS], "load", at).await);
        }
        seen
    }));
    let trouble = async {
        for _ in 0..2 {
            let begin = next.load(Ordering::Relaxed);
            eventually("some are answered", async || {
                next.load(Ordering::Relaxed) > begin + 3 * TOGETHER
            })
            .await;
            server.stop();
            // Each replica notices, goes on, and says so.
            for hedge in &hedges {
                eventually("records wait", async || {
                    let scrape = hedge.metrics().await;
                    metric(&scrape, "hedge_records_waiting").is_some_and(|count| count > 0)
                        && scrape.contains("\nhedge_store_failing{store=\"postgres\"} 1\n")
                })
                .await;
                let ready = hedge.get("/readyz").await;
                assert_eq!(ready.status, StatusCode::OK);
                assert_eq!(ready.json()["records"], "waiting");
                let page = hedge.admin_get("/admin/v1/records").await;
                assert_eq!(
                    page.status,
                    StatusCode::SERVICE_UNAVAILABLE,
                    "{}",
                    page.text
                );
            }
            tokio::time::sleep(away()).await;
            server.resume().unwrap();
            until_all_is_brought(&hedges).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let (seen, ()) = futures::join!(load, trouble);
    let seen: Vec<Seen> = seen.into_iter().flatten().collect();
    eventually("all is kept", async || kept(&server).0 >= seen.len()).await;
    until_none_waits(&hedges).await;
    assert_eq!(kept(&server), (seen.len(), seen.len(), spent(&seen, None)));
    let (whole, _) = savings(&hedges[1], &[]);
    assert_eq!(whole["spent_microusd"], spent(&seen, None));
    assert_eq!(whole["total"]["requests"], seen.len());
    for hedge in &hedges {
        let scrape = hedge.metrics().await;
        assert_eq!(metric(&scrape, "hedge_records_failing"), Some(0));
        let log = hedge.log();
        let said = |words: &str| log.matches(words).count();
        // Once at each change; on a slow machine there may be more of them.
        let left = said("Postgres takes no records");
        assert!(left >= 2, "{log}");
        assert_eq!(said("records go to Postgres again"), left, "{log}");
    }
    hides_the_password(&hedges);
}

#[tokio::test]
async fn a_node_goes_over_to_postgres_with_all_that_it_kept() {
    let Some(server) = postgres() else { return };
    let fake = fake();
    let shared = config(&server, &fake);
    let store = format!("[store]\npostgres = '{}'\n", server.url(DATABASE));
    let alone = shared.replace(store.trim_end(), "");
    assert_ne!(alone, shared);
    let hedge = Hedge::start(&alone).await;
    let seen: Vec<Seen> = stream::iter(0..60)
        .map(|at| exchange(&hedge, "alone", at))
        .buffered(TOGETHER)
        .collect()
        .await;
    until_written(&hedge, 60).await;
    let run = |hedge: &Hedge, more: &[&str]| {
        let done = hedge.command("store").args(more).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let told = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(!(said + &told).contains(POSTGRES_PASSWORD));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.success(), told, said)
    };
    // Nowhere is said to move them to.
    let (is_well, _, said) = run(&hedge, &["migrate"]);
    assert!(!is_well && said.contains("[store]"), "{said}");
    let (is_well, told, _) = run(&hedge, &["status"]);
    assert!(is_well && told.contains("records: embedded"), "{told}");

    // The node still has the file.
    hedge.configure(&shared);
    let (is_well, _, said) = run(&hedge, &["migrate"]);
    assert!(
        !is_well && said.contains("a running node") && said.contains("stop it"),
        "{said}"
    );
    assert_eq!(
        server
            .query(DATABASE, "SELECT COUNT(*) FROM hedge.records")
            .unwrap(),
        "0"
    );

    let hedge = hedge.restarted().await;
    let (is_well, told, _) = run(&hedge, &["status", "--json"]);
    let status: Value = serde_json::from_str(&told).unwrap();
    assert!(is_well, "{status}");
    assert_eq!(
        (&status["family"], &status["own_records"]),
        (&json!("shared"), &json!(60))
    );
    assert_eq!(
        status["postgres"]["schema"],
        status["postgres"]["schema_known"]
    );
    // It may run meanwhile: it does not write there any more.
    let mut all = seen;
    all.push(exchange(&hedge, "shared", 1).await);
    for new in [60, 0] {
        let (is_well, told, said) = run(&hedge, &["migrate"]);
        assert!(is_well, "{said}");
        match new {
            60 => assert!(
                told.contains("60 records of $") && told.contains("; 60 were not"),
                "{told}"
            ),
            _ => assert!(told.contains("nothing to move"), "{told}"),
        }
    }
    until_written(&hedge, 1).await;
    assert_eq!(kept(&server), (61, 61, spent(&all, None)));
    let (whole, _) = savings(&hedge, &[]);
    assert_eq!(whole["spent_microusd"], spent(&all, None));
    let (is_well, told, _) = run(&hedge, &["status"]);
    assert!(
        is_well && told.contains("in its own file: no file"),
        "{told}"
    );
    assert!(told.contains("records: 61 of 1 replicas"), "{told}");
    let names = std::fs::read_dir(hedge.data_path("records")).unwrap();
    let mut names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
    assert!(names.any(|it| it.starts_with("records.sqlite.moved-")));
    signal(hedge.pid(), "-TERM");
    assert!(hedge.ended_well().await);
}
