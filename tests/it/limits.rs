//! What keys, teams and everybody may use, from outside.

use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, chat_request, eventually, fake, upstream, with};

const PRICES: &str = "[[prices]]\nupstream = 'fake'\nmodels = ['*']\ninput = 2.0\noutput = 30.0\n";

/// Two keys of one team, whose secrets are `one` and `two`.
const KEYS: &str = "
[[keys]]
name = 'one'
team = 'a'
secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
LIMITS
[[keys]]
name = 'two'
team = 'a'
secret = 'sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3'
[[teams]]
name = 'a'
";

async fn under(hedge: &Hedge, key: &str, body: &Value) -> Reply {
    let mut request = chat_request(body);
    let headers = request.headers_mut();
    let bearer = format!("Bearer {key}");
    headers.insert("authorization", HeaderValue::from_str(&bearer).unwrap());
    headers.insert("x-hedge-cost", HeaderValue::from_static("1"));
    // A kept reply costs nothing, and then nothing is learnt.
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    hedge.send(request).await
}

fn short(text: &str) -> Value {
    with(ask("fake/bench", text), json!({"max_tokens": 100}))
}

fn code(reply: &Reply) -> String {
    let body = reply.json();
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn requests_are_counted_and_the_headers_tell_what_is_left() {
    let fake = fake();
    let keys = KEYS.replace(
        "LIMITS",
        "limits = [{ count = 'requests', amount = 60, per = 'hour', burst = 3 }, \
         { count = 'tokens', amount = 100000, per = 'minute' }]",
    );
    let hedge = Hedge::before(&fake, &keys).await;
    for left in ["2", "1", "0"] {
        let reply = under(&hedge, "one", &short("hi")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "3");
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), left);
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), "100000");
        let tokens: u64 = reply
            .header("x-ratelimit-remaining-tokens")
            .parse()
            .unwrap();
        assert!((99_000..99_900).contains(&tokens), "{tokens}");
    }
    let reply = under(&hedge, "one", &short("hi")).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(code(&reply), "rate_limit_exceeded");
    let wait: u64 = reply.header("retry-after").parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    // The other key has no such limit.
    let reply = under(&hedge, "two", &short("hi")).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.headers.get("x-ratelimit-limit-requests").is_none());
    assert_eq!(fake.counts().asked, 4);
}

/// 64 at once, again and again, until a few cents are spent: not one millionth more.
#[tokio::test]
async fn a_budget_holds_under_a_race() {
    let fake = fake();
    let budget = 30_000;
    let keys = KEYS.replace(
        "LIMITS",
        "limits = [{ count = 'cost', usd = 1.0, per = 'day' }]",
    );
    let team =
        "limits = [{ count = 'cost', usd = 0.03, per = 'month' }]\n[local]\nenabled = false\n";
    let hedge = Hedge::start(&format!("{keys}{team}{}", upstream(&fake, PRICES))).await;
    let (mut spent, mut refused, mut answered) = (0, 0, 0);
    for round in 0..12 {
        let bodies: Vec<Value> = (0..64).map(|at| short(&format!("{round} {at}"))).collect();
        let keys = ["one", "two"].into_iter().cycle();
        let asking = bodies
            .iter()
            .zip(keys)
            .map(|(body, key)| under(&hedge, key, body));
        for reply in join_all(asking).await {
            match reply.status {
                StatusCode::OK => {
                    let cost: u64 = reply.header("x-hedge-cost-microusd").parse().unwrap();
                    assert!(cost > 0);
                    spent += cost;
                    answered += 1;
                }
                StatusCode::TOO_MANY_REQUESTS => {
                    assert_eq!(code(&reply), "insufficient_quota");
                    assert_eq!(reply.header("x-should-retry"), "false");
                    refused += 1;
                }
                other => panic!("{other}: {}", reply.text),
            }
            assert!(spent <= budget, "{spent}");
        }
    }
    assert!(refused > 0 && answered > 20, "{refused} {answered}");
    // Those of a race refuse each other by what they hold: one after the other, until nothing more passes.
    for at in 0.. {
        let reply = under(&hedge, "one", &short(&format!("rest {at}"))).await;
        if reply.status != StatusCode::OK {
            break;
        }
        let cost: u64 = reply.header("x-hedge-cost-microusd").parse().unwrap();
        spent += cost;
        // Its hold goes back when the record is made, which may be after the answer's end.
        eventually("it is settled", async || {
            let told = hedge.admin_get("/admin/v1/limits").await.json();
            told["limits"][0]["used"] == spent
        })
        .await;
    }
    // What is left is less than one request's worst: 100 tokens out, and what a short prompt is taken for
    // before anybody counted it.
    assert!(spent <= budget && budget - spent < 4_500, "{spent}");
}

#[cfg(feature = "llama")]
#[tokio::test]
async fn this_machine_stands_in_for_a_spent_budget() {
    let fake = fake();
    let limits = "[organisation]\nlimits = [{ count = 'cost', usd = 0.0, per = 'ever', when_spent = 'local' }]\n\
                  [routes]\nfile = 'ROUTES'\n";
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.toml");
    let rules = "default = 'all'\n[outcomes.all]\ncandidates = ['fake/bench', 'local']\n";
    std::fs::write(&routes, rules).unwrap();
    let limits = limits.replace("ROUTES", routes.to_str().unwrap());
    let hedge = Hedge::start(&format!("{limits}{}", upstream(&fake, PRICES))).await;
    let reply = hedge
        .chat(&ask("auto", "What is the capital of Portugal?"))
        .await;
    assert!(reply.route().starts_with("local:"), "{}", reply.text);
    assert!(
        reply.reason().ends_with("; budget spent"),
        "{}",
        reply.reason()
    );
    let reply = hedge.chat(&short("hi")).await;
    assert_eq!(code(&reply), "insufficient_quota");
    assert_eq!(fake.counts().asked, 0);
}

/// What was used is written down before the process ends.
#[tokio::test]
async fn a_budget_goes_on_after_a_restart() {
    let fake = fake();
    let config = format!(
        "[local]\nenabled = false\n[organisation]\nlimits = [{{ count = 'cost', usd = 0.02, per = 'ever' }}]\n{}",
        upstream(&fake, PRICES)
    );
    let mut hedge = Hedge::start(&config).await;
    let (mut answered, mut asked) = (Vec::new(), 0);
    let fresh = |asked: &mut u32| {
        *asked += 1;
        short(&format!("[[fake tokens=90]] {asked}"))
    };
    for _ in 0..3 {
        let mut count = 0;
        while count < 4 && hedge.chat(&fresh(&mut asked)).await.status == StatusCode::OK {
            count += 1;
        }
        answered.push(count);
        hedge = hedge.restarted().await;
    }
    let all: u32 = answered.iter().sum();
    assert!(answered[0] == 4 && all < 12, "{answered:?}");
    let kept: Value = serde_json::from_str(&hedge.kept("quotas.json")).unwrap();
    let amount = kept["accounts"][0]["amount"].as_u64().unwrap();
    assert!(amount <= 20_000 && amount > 10_000, "{amount}");
}

#[tokio::test]
async fn the_operator_sees_what_is_left_of_every_limit() {
    let fake = fake();
    let keys = KEYS.replace(
        "LIMITS",
        "limits = [{ count = 'requests', amount = 60, per = 'hour', burst = 3 }, \
         { count = 'concurrency', amount = 4 }]",
    );
    let others = "limits = [{ count = 'cost', usd = 2, per = 'month' }]\n[organisation]\n\
                  limits = [{ count = 'tokens', amount = 1000, per = 'day' }]\n";
    let hedge = Hedge::before(&fake, &format!("{keys}{others}{PRICES}")).await;
    let reply = under(&hedge, "one", &short("[[fake tokens=7]] hi")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let cost: u64 = reply.header("x-hedge-cost-microusd").parse().unwrap();
    let tokens = reply.json()["usage"]["total_tokens"].as_u64().unwrap();
    let path = "/admin/v1/limits";
    let told = async || hedge.admin_get(path).await.json()["limits"].clone();
    // What was held goes back when the record is made, which may be after the answer's end.
    eventually("it is settled", async || told().await[0]["used"] == tokens).await;
    let limits = told().await;
    let seen: Vec<Value> = limits.as_array().unwrap().iter().map(figures).collect();
    let wanted = json!([
        [
            "organisation",
            null,
            "tokens",
            "day",
            1000,
            null,
            1000 - tokens,
            tokens
        ],
        [
            "team",
            "a",
            "cost",
            "month",
            2_000_000,
            null,
            2_000_000 - cost,
            cost
        ],
        ["key", "one", "concurrency", null, 4, null, 4, 0],
        ["key", "one", "requests", "hour", 60, 3, 2, 1],
    ]);
    assert_eq!(json!(seen), wanted);
    assert_eq!(limits[2]["whole_in_s"], Value::Null);
    let whole_in_s = limits[3]["whole_in_s"].as_f64().unwrap();
    assert!((0.0..=60.0).contains(&whole_in_s), "{whole_in_s}");
    let document = hedge.get("/openapi.json").await.json();
    crate::openapi::has_shape(&document, "Limits", &hedge.admin_get(path).await.json());
    assert_eq!(hedge.get(path).await.status, StatusCode::NOT_FOUND);
}

fn figures(limit: &Value) -> Value {
    let names = [
        "scope", "name", "count", "per", "amount", "burst", "left", "used",
    ];
    names.iter().map(|name| limit[name].clone()).collect()
}

fn requests(amount: u32) -> String {
    format!("[{{ count = 'requests', amount = {amount}, per = 'day' }}]")
}

#[tokio::test]
async fn each_user_of_a_team_has_limits_of_its_own() {
    let fake = fake();
    let other = "[[keys]]\nname = 'other'\nteam = 'b'\nsecret = 'sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa'\n";
    let keys = KEYS.replace("LIMITS", "");
    let users = format!("[organisation]\nuser_limits = {}\n", requests(2));
    let hedge = Hedge::before(&fake, &format!("{other}{keys}{users}")).await;
    let of = |user: Value| with(short("hi"), json!({"user": user}));
    for user in ["ann@x.example", "bob"] {
        for _ in 0..2 {
            let reply = under(&hedge, "one", &of(json!(user))).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        }
        // The other key is of the same team, and its user the same.
        let reply = under(&hedge, "two", &of(json!(user))).await;
        assert_eq!(code(&reply), "rate_limit_exceeded");
    }
    // The same word of another team is somebody else.
    let reply = under(&hedge, "other", &of(json!("ann@x.example"))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    // Who names nobody is one more; so is another word for it.
    for _ in 0..2 {
        let reply = under(&hedge, "one", &short("hi")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    let reply = under(&hedge, "one", &of(json!(""))).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    let newer = with(short("hi"), json!({"safety_identifier": "ann@x.example"}));
    let reply = under(&hedge, "one", &newer).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    for wrong in [json!(5), json!("a\nb"), json!("u".repeat(257))] {
        let reply = under(&hedge, "one", &of(wrong)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.json()["error"]["param"], "user");
    }
    let told = hedge.admin_get("/admin/v1/limits").await.json();
    let document = hedge.get("/openapi.json").await.json();
    crate::openapi::has_shape(&document, "Limits", &told);
    let mut seen: Vec<Value> = told["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| json!([limit["scope"], limit["team"], limit["name"], limit["left"]]))
        .collect();
    seen.sort_by_key(Value::to_string);
    let wanted = json!([
        ["user", "a", "", 0],
        ["user", "a", "ann@x.example", 0],
        ["user", "a", "bob", 0],
        ["user", "b", "ann@x.example", 1],
    ]);
    assert_eq!(json!(seen), wanted);
    // Nobody's name is where it does not belong.
    assert!(!hedge.metrics().await.contains("ann@x.example"));
    assert!(!hedge.log().contains("ann@x.example"));
}

#[tokio::test]
async fn a_request_says_whom_it_is_for_where_it_must_and_there_is_room_for_so_many() {
    let fake = fake();
    let keys = KEYS.replace("LIMITS", "");
    let users = format!(
        "user_required = true\nuser_limits = {}\n[limits]\nuser_accounts_max = 1\n",
        requests(2)
    );
    let hedge = Hedge::before(&fake, &format!("{keys}{users}")).await;
    let reply = under(&hedge, "one", &short("hi")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.json()["error"]["param"], "user");
    let of = |user: &str| with(short("hi"), json!({"user": user}));
    let reply = under(&hedge, "one", &of("ann@x.example")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let reply = under(&hedge, "one", &of("bob")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(code(&reply), "accounts_full");
    assert_eq!(reply.header("retry-after"), "1");
    let reply = under(&hedge, "one", &of("ann@x.example")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(fake.counts().asked, 2);
}

#[tokio::test]
async fn tags_and_models_have_limits_whoever_asks() {
    let fake = fake();
    let keys = KEYS.replace("LIMITS", "");
    let limits = format!(
        "[[tags]]\nname = 'batch'\nlimits = {}\n[[models]]\nname = 'quick'\nlimits = {}\n\
         [aliases]\nquick = 'fake/bench'\n",
        requests(1),
        requests(1)
    );
    let hedge = Hedge::before(&fake, &format!("{keys}{limits}")).await;
    let tagged = async |key: &str, tags: &str| {
        let mut request = chat_request(&short("hi"));
        let headers = request.headers_mut();
        let bearer = format!("Bearer {key}");
        headers.insert("authorization", HeaderValue::from_str(&bearer).unwrap());
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        headers.insert("x-hedge-cache-tags", HeaderValue::from_str(tags).unwrap());
        hedge.send(request).await.status
    };
    assert_eq!(tagged("one", "spring, batch").await, StatusCode::OK);
    assert_eq!(tagged("two", "batch").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(tagged("two", "spring").await, StatusCode::OK);
    let quick = with(ask("quick", "hi"), json!({"max_tokens": 100}));
    assert_eq!(under(&hedge, "one", &quick).await.status, StatusCode::OK);
    let reply = under(&hedge, "two", &quick).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    // By another name it is not meant.
    let reply = under(&hedge, "two", &short("hi")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
}

#[tokio::test]
async fn requests_wait_for_a_place_where_the_limit_says_so() {
    let fake = fake();
    let keys = KEYS.replace("LIMITS", "");
    let places = "limits = [{ count = 'concurrency', amount = 1, when_spent = 'queue' }]\n\
                  [limits]\nqueue_ms_max = 60000\n";
    let hedge = Hedge::before(&fake, &format!("{keys}{places}")).await;
    let bodies: Vec<Value> = (0..6).map(|at| short(&format!("hi {at}"))).collect();
    let keys = ["one", "two"].into_iter().cycle();
    let asking = bodies.iter().zip(keys);
    let asking = asking.map(|(body, key)| under(&hedge, key, body));
    for reply in join_all(asking).await {
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    assert_eq!(fake.counts().asked, 6);
    let metrics = hedge.metrics().await;
    assert!(
        metrics.contains("hedge_limit_queue_requests 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_limit_that_is_nearly_used_up_is_told() {
    let fake = fake();
    let keys = KEYS.replace("LIMITS", "");
    let limits =
        "limits = [{ count = 'requests', amount = 4, per = 'day', warn_at = [0.5, 1.0] }]\n";
    let hedge = Hedge::before(&fake, &format!("{keys}{limits}")).await;
    let metric = "hedge_limit_warnings_total{scope=\"team\",count=\"requests\",per=\"day\"}";
    let told = async || {
        let metrics = hedge.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with(metric));
        line.map(|line| line[metric.len()..].trim().to_owned())
    };
    for (asked, warnings) in [(1, None), (2, Some("1")), (3, Some("1")), (4, Some("2"))] {
        let reply = under(&hedge, "one", &short("hi")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        eventually("it is settled", async || {
            let metrics = hedge.metrics().await;
            metrics.contains("hedge_exchanges_in_flight 0")
        })
        .await;
        assert_eq!(told().await.as_deref(), warnings, "{asked}");
    }
    assert!(hedge.log().contains("limit is nearly used up"));
}
