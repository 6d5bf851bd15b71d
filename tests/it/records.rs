//! What is kept of exchanges: one record each however they end, and what they come to.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use futures::{StreamExt, stream};
use http::{HeaderValue, StatusCode};
use loadtest::FakeUpstream;
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, chat_request, eventually, fake, root, wanted, with};

/// Requests that are replayed and recomputed. With `HEDGE_TEST_REPLAY=10000` as many as that.
const REPLAYED: usize = 300;
const REPLAY_WANTED: &str = "HEDGE_TEST_REPLAY";

/// Streams whose clients leave. With `HEDGE_TEST_LEAVING=2000` as many as that.
const LEAVING: usize = 200;
const LEAVING_WANTED: &str = "HEDGE_TEST_LEAVING";

/// At once.
const TOGETHER: usize = 16;

/// What a client's leaving may take to be settled.
const SETTLED_MAX_US: i64 = 1_000_000;

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_micros() as i64
}

/// Two teams, a pool, an upstream with prices, and one that is never there.
fn everything(cloud: &FakeUpstream, pool: &FakeUpstream) -> String {
    let (cloud, pool) = (cloud.base_url(), pool.base_url());
    format!(
        "[local]\nenabled = false
        [offline]\nenabled = false
        [savings]\nreference_model = 'fake/bench'
        [organisation]\ntime_zone = 'Asia/Kolkata'
        limits = [{{ count = 'cost', usd = 1000, per = 'ever' }}]
        [aliases]\nsmart = 'fake/bench'\nsafe = ['dead/big', 'gpu/large']\nmine = 'gpu/large'
        [[keys]]\nname = 'one'\nteam = 'a'
        secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
        [[keys]]\nname = 'two'\nteam = 'b'
        secret = 'sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3'
        [[upstreams]]\nname = 'fake'\nbase_url = '{cloud}'\nkey = 'env:FAKE_KEY'
        models = ['bench', 'other']
        [[upstreams]]\nname = 'dead'\nbase_url = 'http://127.0.0.1:1/v1'\nmodels = ['big']
        [[pools]]\nname = 'gpu'\nkind = 'vllm'\nendpoints = ['{pool}']\nmodels = ['large']
        key = 'env:FAKE_KEY'
        [[prices]]\nupstream = 'fake'\nmodels = ['bench']\ninput = 2.0\ncached_input = 0.3
        output = 30.0
        [[prices]]\nupstream = 'fake'\nmodels = ['other']\ninput = 0.7\noutput = 1.1
        [[prices]]\nupstream = 'dead'\nmodels = ['big']\ninput = 5.0\noutput = 50.0\n"
    )
}

/// The same for the script, which knows nothing of hedge.
fn prices() -> Value {
    json!({
        "prices": {
            "fake/bench": {"input": 2_000_000, "cached_input": 300_000, "output": 30_000_000},
            "fake/other": {"input": 700_000, "output": 1_100_000},
            "dead/big": {"input": 5_000_000, "output": 50_000_000},
        },
        "aliases": {"smart": "fake/bench", "safe": "dead/big"},
        "reference": "fake/bench",
    })
}

/// The request at a place in a mixed day: its key, and its body.
fn mixed(at: usize) -> (&'static str, Value) {
    let tokens = 1 + at * 7 % 40;
    let text = format!("[[fake tokens={tokens} cached={}]] question {at}", at % 4);
    let body = match at % 12 {
        0 | 1 => ask("fake/bench", &text),
        2 => ask("fake/other", &text),
        // The same again and again, from the cache or at once with others.
        3 | 4 => ask("fake/bench", "[[fake tokens=9]] what everybody asks"),
        5 => ask("smart", &text),
        6 => ask("mine", &text),
        7 => with(ask("gpu/large", &text), json!({"stream": true})),
        8 => ask("safe", &text),
        9 => with(ask("auto", &text), json!({"stream": true})),
        10 => ask("auto", "[[fake tokens=5]] what everybody asks of anybody"),
        _ => ask("nobody/none", &text),
    };
    (if at.is_multiple_of(5) { "two" } else { "one" }, body)
}

pub fn under(
    key: &str,
    id: &str,
    body: &Value,
) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = chat_request(body);
    let headers = request.headers_mut();
    let bearer = HeaderValue::from_str(&format!("Bearer {key}"));
    headers.insert("authorization", bearer.unwrap());
    headers.insert("x-request-id", HeaderValue::from_str(id).unwrap());
    request
}

pub async fn until_written(hedge: &Hedge, count: usize) {
    let line = format!("hedge_records_total{{result=\"written\"}} {count}\n");
    eventually("all records are written", async || {
        hedge.metrics().await.contains(&line)
    })
    .await;
}

/// `hedge savings --json` and what it printed.
pub fn savings(hedge: &Hedge, more: &[&str]) -> (Value, Vec<u8>) {
    let mut command = hedge.command("savings");
    let done = command
        .args(["--since", "1h", "--json"])
        .args(more)
        .output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    (serde_json::from_slice(&done.stdout).unwrap(), done.stdout)
}

#[tokio::test]
async fn savings_agree_with_what_an_independent_script_makes_of_the_records() {
    let (cloud, pool) = (fake(), fake());
    let hedge = Hedge::start(&everything(&cloud, &pool)).await;
    let count = wanted(REPLAY_WANTED, REPLAYED);
    let asking = (0..count).map(|at| {
        let (key, body) = mixed(at);
        let request = under(key, &format!("r-{at}"), &body);
        let hedge = &hedge;
        async move { hedge.send(request).await.status }
    });
    let statuses: Vec<StatusCode> = stream::iter(asking).buffered(16).collect().await;
    let answered = statuses.iter().filter(|it| it.is_success()).count();
    assert!(answered >= count * 11 / 12, "{answered} of {count}");
    until_written(&hedge, count).await;

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let prices = file("prices.json", prices().to_string().as_bytes());
    let mut totals = Vec::new();
    for team in [None, Some("a"), Some("b")] {
        let more: Vec<&str> = team.iter().flat_map(|team| ["--team", *team]).collect();
        let (told, printed) = savings(&hedge, &more);
        let script = root().join("tests/records/recompute.py");
        let agreed = Command::new("python3")
            .arg(script)
            .arg(hedge.data_path("records/records.sqlite"))
            .args([&prices, &file("savings.json", &printed)])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&agreed.stderr);
        assert!(agreed.status.success(), "{team:?}: {said}");
        // Anything is saved in every way there is, but that shadows are no requests.
        let ways = parts(&told["saved_by"]).into_iter();
        for (label, sum) in ways.filter(|(label, _)| *label != "shadow") {
            let requests = sum["requests"].as_i64().unwrap();
            assert!(requests > 0, "{team:?} {label}");
        }
        totals.push(told);
    }
    let figure = |at: usize| totals[at]["total"]["saved_microusd"].as_i64().unwrap();
    assert_eq!(figure(0), figure(1) + figure(2));
    assert!(figure(0) > 0);
    assert_eq!(totals[0]["reference_model"], "fake/bench");
    assert_eq!(totals[0]["time_zone"], "Asia/Kolkata");
    assert!(
        totals[0]["since"]["local"]
            .as_str()
            .unwrap()
            .ends_with("+05:30")
    );

    // The operator's listener says the same, and no other does.
    let path = "/admin/v1/savings?since=1h&team=a";
    let told = hedge.admin_get(path).await.json();
    for part in [
        "total",
        "saved_by",
        "basis",
        "spent_microusd",
        "team",
        "method",
    ] {
        assert_eq!(told[part], totals[1][part], "{part}");
    }
    assert_eq!(hedge.get(path).await.status, StatusCode::NOT_FOUND);

    // What was settled of the budget is what the records say, to the micro-dollar.
    let spent = totals[0]["spent_microusd"].as_u64().unwrap();
    eventually("the budget's file has all of it", async || {
        let kept: Value = serde_json::from_str(&hedge.kept("quotas.json")).unwrap();
        kept["accounts"][0]["amount"].as_u64() == Some(spent)
    })
    .await;
}

fn parts(told: &Value) -> Vec<(&str, &Value)> {
    let parts = told.as_array().unwrap().iter();
    parts
        .map(|part| (part[0].as_str().unwrap(), &part[1]))
        .collect()
}

/// Every record there is, by pages, latest first.
pub async fn all_records(hedge: &Hedge) -> Vec<Value> {
    let mut records = Vec::new();
    let mut path = "/admin/v1/records?limit=1000".to_owned();
    loop {
        let page = hedge.admin_get(&path).await.json();
        records.extend(page["records"].as_array().unwrap().iter().cloned());
        let Some(before) = page["before"].as_str() else {
            return records;
        };
        path = format!("/admin/v1/records?limit=1000&before={before}");
    }
}

/// One stream whose client leaves: how many tokens it was given, and when it had left.
async fn leave(hedge: &Hedge, at: usize) -> (u64, i64) {
    // Spread over the stream, from its first token on.
    let stays = 1 + at * 37 % 60;
    let text = format!("[[fake tokens=400 gap-ms=25]] leaving {at}");
    let body = with(
        ask("fake/bench", &text),
        json!({"stream": true, "max_tokens": 500}),
    );
    let request = under("one", &format!("leaving-{at}"), &body);
    let mut reply = crate::harness::open(hedge.addr, request).await;
    assert_eq!(reply.status, StatusCode::OK);
    let mut given = 0;
    while given < stays as u64 {
        let bytes = reply.next().await.expect("it is longer than that");
        given += String::from_utf8_lossy(&bytes)
            .matches("\"content\":\"")
            .count() as u64;
    }
    drop(reply);
    (given, now_us())
}

#[tokio::test]
async fn a_client_that_leaves_has_a_record_with_what_it_was_sent() {
    let (cloud, pool) = (fake(), fake());
    let hedge = Hedge::start(&everything(&cloud, &pool)).await;
    let count = wanted(LEAVING_WANTED, LEAVING);
    // The first count of tokens waits for the vocabulary to be read.
    let mut left = vec![leave(&hedge, 0).await];
    until_written(&hedge, 1).await;
    for first in (1..count).step_by(TOGETHER) {
        let some = first..count.min(first + TOGETHER);
        left.extend(join_all(some.map(|at| leave(&hedge, at))).await);
    }
    until_written(&hedge, count).await;
    let records = all_records(&hedge).await;
    assert_eq!(records.len(), count);
    for record in &records {
        let id = record["request_id"].as_str().unwrap();
        let at: usize = id.strip_prefix("leaving-").unwrap().parse().unwrap();
        let (given, left_at) = left[at];
        let is_first = at == 0;
        assert_eq!(record["outcome"], "abandoned", "{record}");
        assert_eq!(record["is_counted"], true, "{record}");
        // A token of the fake's is one of the vocabulary's, or two. More than was read had been written
        // to the connection when the client left.
        let tokens = record["output_tokens"].as_u64().unwrap();
        assert!(tokens >= given, "{given}: {record}");
        assert!(
            tokens < 400,
            "it did not go on without its client: {record}"
        );
        // What is settled is settled before the record leaves.
        let took = record["ended_us"].as_i64().unwrap() - left_at;
        assert!(
            is_first || took <= SETTLED_MAX_US,
            "{took} us after: {record}"
        );
        let input = record["input_tokens"].as_u64().unwrap();
        let cost = (input * 2_000_000 + tokens * 30_000_000).div_ceil(1_000_000);
        assert_eq!(record["cost_microusd"].as_u64(), Some(cost), "{record}");
    }
    let spent: u64 = records
        .iter()
        .map(|it| it["cost_microusd"].as_u64().unwrap())
        .sum();
    eventually("the budget's file has it", async || {
        let kept: Value = serde_json::from_str(&hedge.kept("quotas.json")).unwrap();
        kept["accounts"][0]["amount"].as_u64() == Some(spent)
    })
    .await;
    eventually("the upstream's work has ended", async || {
        cloud.counts().abandoned as usize == count
    })
    .await;
}

#[tokio::test]
async fn questions_about_records_that_make_no_sense_are_refused() {
    let (cloud, pool) = (fake(), fake());
    let hedge = Hedge::start(&everything(&cloud, &pool)).await;
    let words = "m\n'; DROP TABLE records; -- <script>";
    let refused = hedge.send(under("one", "forged", &ask(words, "hi"))).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND, "{}", refused.text);
    until_written(&hedge, 1).await;
    let records = all_records(&hedge).await;
    let asked = records[0]["model_asked"].as_str().unwrap();
    assert_eq!(asked, words.replace('\n', "\u{fffd}"));
    assert_eq!(records[0]["fault"], "model_not_found");
    assert_eq!(records[0]["place"], "nobody");
    for path in [
        "records?limit=0",
        "records?limit=1001",
        "records?limit=-1",
        "records?before=yesterday",
        "records?befor=1",
        "savings?since=yesterday",
        "savings?since=2026-02-30",
        "savings?since=1d&since=2d",
        "savings?team=%ff",
    ] {
        let reply = hedge.admin_get(&format!("/admin/v1/{path}")).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let nobody = "savings?since=1h&team=a%27%20OR%201%3D1%20--";
    let told = hedge.admin_get(&format!("/admin/v1/{nobody}")).await.json();
    assert_eq!(told["total"]["requests"], 0);
    for (more, word) in [
        (vec!["--since", "soon"], "--since"),
        (vec!["--json", "--csv"], "--csv"),
    ] {
        let done = hedge.command("savings").args(more).output().unwrap();
        assert!(!done.status.success());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains(word), "{said}");
    }
    let done = hedge.command("savings").arg("--csv").output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.contains("\nsaved_by,none,1,0,"), "{said}");
}

#[tokio::test]
async fn a_place_that_takes_no_records_keeps_nobody_from_answers() {
    let (cloud, pool) = (fake(), fake());
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("taken");
    std::fs::write(&place, "by a file").unwrap();
    let records = format!("[records]\ndir = '{}'\n", place.display());
    let config = format!("{records}{}", everything(&cloud, &pool));
    let hedge = Hedge::start(&config).await;
    let reply = hedge.send(under("one", "r", &ask("mine", "hi"))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    eventually("it is said", async || {
        let metrics = hedge.metrics().await;
        metrics.contains("\nhedge_records_failing 1\n")
    })
    .await;
    let reply = hedge.admin_get("/admin/v1/records").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.text);
    std::fs::remove_file(&place).unwrap();
    until_written(&hedge, 1).await;
    eventually("that is said, too", async || {
        hedge.log().contains("records are written again")
    })
    .await;
}

#[tokio::test]
async fn the_page_is_in_the_binary_and_the_operators_alone() {
    let (cloud, pool) = (fake(), fake());
    let hedge = Hedge::start(&everything(&cloud, &pool)).await;
    for at in 0..24 {
        let (key, body) = mixed(at);
        hedge.send(under(key, &format!("r-{at}"), &body)).await;
    }
    until_written(&hedge, 24).await;
    for (path, kind) in [
        ("/admin", "text/html; charset=utf-8"),
        ("/admin/page.css", "text/css; charset=utf-8"),
        ("/admin/page.js", "text/javascript; charset=utf-8"),
    ] {
        let page = hedge.admin_get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert_eq!(page.header("content-type"), kind);
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert_eq!(
            hedge.get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    // What it shows is what the records say.
    let shown = hedge.admin_get("/admin/v1/overview").await.json();
    let records = all_records(&hedge).await;
    let hours = shown["hours"].as_array().unwrap();
    assert_eq!(hours.len(), 24);
    for place in ["cache", "local", "upstream", "nobody"] {
        let of_hours: i64 = hours
            .iter()
            .map(|hour| hour["requests"][place].as_i64().unwrap())
            .sum();
        let of_records = records.iter().filter(|it| it["place"] == place).count();
        assert_eq!(of_hours, of_records as i64, "{place}");
    }
    for latency in shown["latency"].as_array().unwrap() {
        let mut took: Vec<i64> = records
            .iter()
            .filter(|it| it["place"] == latency["place"] && it["outcome"] == "answered")
            .map(|it| it["took_us"].as_i64().unwrap())
            .collect();
        took.sort_unstable();
        let rank = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1];
        assert_eq!(latency["answers"], took.len());
        assert_eq!(latency["took_p50_us"], rank(50));
        assert_eq!(latency["took_p95_us"], rank(95));
    }
    let teams = shown["teams"].as_array().unwrap();
    let spent: i64 = teams
        .iter()
        .map(|it| it["spent_microusd"].as_i64().unwrap())
        .sum();
    let told = hedge.admin_get("/admin/v1/savings?since=30d").await.json();
    assert_eq!(told["spent_microusd"], spent);
    let today = hedge
        .admin_get("/admin/v1/savings?since=today")
        .await
        .json();
    assert_eq!(
        today["since"]["local"].as_str().unwrap()[11..19],
        *"00:00:00"
    );
}
