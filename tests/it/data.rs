//! What is kept that is somebody's: handed out, and removed so that nothing names him, from outside.

use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use loadtest::PostgresServer;
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, chat_request, eventually, fake, hedge, request, with};
use crate::openapi::has_shape;
use crate::records::{savings, until_written};

const EXPORT: &str = "/admin/v1/data/export";
const ERASE: &str = "/admin/v1/data/erase";

const ANNA: &str = "anna@example.com";
/// As it stands in the ids that her requests have.
const ANNA_IN_IDS: &str = "anna.example.com/";

const LIMITS: &str = "
[organisation]
limits = [{ count = 'cost', usd = 1000, per = 'month' }]
user_limits = [
  { count = 'requests', amount = 100, per = 'day' },
  { count = 'requests', amount = 1000, per = 'minute' },
]
[[prices]]
upstream = 'fake'
models = ['bench']
input = 2.0
output = 30.0
[audit]
enabled = true
";

/// A chat of a user's, whose caller puts the user's name where it can.
async fn chat_for(hedge: &Hedge, user: &str, at: usize, model: &str) -> Reply {
    let body = with(
        ask(model, &format!("question {at} of {user}")),
        json!({"user": user}),
    );
    let mut request = chat_request(&body);
    let id = format!("{}/{at}", user.replace('@', "."));
    let headers = request.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_str(&id).unwrap());
    headers.insert(
        "x-hedge-cache-tags",
        HeaderValue::from_static("customer:17"),
    );
    hedge.send(request).await
}

async fn response_for(hedge: &Hedge, user: &str) -> Value {
    let body = json!({"model": "fake/bench", "input": format!("remember {user}"), "safety_identifier": user});
    let mut asked = request(Method::POST, "/v1/responses", Bytes::from(body.to_string()));
    let json = HeaderValue::from_static("application/json");
    asked.headers_mut().insert("content-type", json);
    let made = hedge.send(asked).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    made.json()
}

async fn export(hedge: &Hedge, body: Value) -> Vec<Value> {
    let document = hedge.get("/openapi.json").await.json();
    let mut body = body;
    let mut all = Vec::new();
    loop {
        let page = hedge.admin_post(EXPORT, &body.to_string()).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        let page = page.json();
        has_shape(&document, "DataPage", &page);
        all.extend(page["items"].as_array().unwrap().clone());
        if page["after"].is_null() {
            return all;
        }
        body["after"] = page["after"].clone();
    }
}

async fn erase(hedge: &Hedge, body: Value) -> Value {
    let erased = hedge.admin_post(ERASE, &body.to_string()).await;
    assert_eq!(erased.status, StatusCode::OK, "{}", erased.text);
    let erased = erased.json();
    has_shape(
        &hedge.get("/openapi.json").await.json(),
        "DataErased",
        &erased,
    );
    erased
}

fn count(items: &[Value], place: &str) -> usize {
    items.iter().filter(|item| item["kept_in"] == place).count()
}

/// The files below `dir` that have `needle` in them.
fn files_with(dir: &Path, needle: &str) -> Vec<String> {
    let needle = needle.as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, &String::from_utf8_lossy(needle)));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if bytes.windows(needle.len()).any(|it| it == needle) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Without when it was looked at.
fn sums(hedge: &Hedge) -> Value {
    let (mut sums, _) = savings(hedge, &[]);
    sums["since"].take();
    sums["until"].take();
    sums
}

async fn spent(hedge: &Hedge) -> Value {
    let limits = hedge.admin_get("/admin/v1/limits").await.json();
    let all = limits["limits"].as_array().unwrap().iter();
    let mut all: Vec<Value> = all
        .filter(|it| it["scope"] == "organisation")
        .cloned()
        .collect();
    assert_eq!(all.len(), 1, "{limits}");
    all.remove(0)["left"].take()
}

#[tokio::test]
async fn nothing_names_somebody_who_was_erased_and_the_money_stays() {
    let fake = fake();
    let hedge = Hedge::before(&fake, LIMITS).await;
    for at in 0..3 {
        let reply = chat_for(&hedge, ANNA, at, "fake/bench").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    }
    let lost = chat_for(&hedge, ANNA, 3, ANNA).await;
    assert_eq!(lost.status, StatusCode::NOT_FOUND, "{}", lost.text);
    let kept = response_for(&hedge, ANNA).await;
    for at in 0..2 {
        chat_for(&hedge, "ben", at, "fake/bench").await;
    }
    response_for(&hedge, "ben").await;
    until_written(&hedge, 8).await;
    let data = hedge.data_path("");
    eventually("what users used is written down", async || {
        let written = std::fs::read_to_string(hedge.data_path("quotas.json"));
        written.is_ok_and(|it| it.contains(ANNA) && it.contains("ben"))
    })
    .await;
    let before = (sums(&hedge), spent(&hedge).await);
    assert!(before.0["spent_microusd"].as_i64().unwrap() > 0);

    let hers = export(&hedge, json!({"user": ANNA})).await;
    assert_eq!(count(&hers, "limits"), 2, "{hers:?}");
    assert_eq!(count(&hers, "records"), 5);
    assert_eq!(count(&hers, "responses"), 1);
    assert_eq!(count(&hers, "replies"), 4);
    let response = hers.iter().find(|it| it["kept_in"] == "responses").unwrap();
    assert_eq!(response["id"], kept["id"]);
    assert_eq!(response["response"]["output"], kept["output"]);
    assert!(response["input"].to_string().contains("remember anna"));
    let one_by_one = export(&hedge, json!({"user": ANNA, "limit": 1})).await;
    assert_eq!(one_by_one, hers, "whatever the pages");
    assert_eq!(
        export(&hedge, json!({"user": ANNA, "team": "default"})).await,
        hers
    );
    assert!(
        export(&hedge, json!({"user": ANNA, "team": "red"}))
            .await
            .is_empty()
    );
    let his = export(&hedge, json!({"user": "ben"})).await;
    assert_eq!((count(&his, "records"), count(&his, "replies")), (3, 3));
    let tagged = export(&hedge, json!({"tag": "customer:17"})).await;
    assert_eq!(
        (count(&tagged, "records"), count(&tagged, "limits")),
        (6, 0)
    );
    // Or the search would find nothing anyway.
    assert!(files_with(&data, ANNA).len() >= 2 && !files_with(&data, ANNA_IN_IDS).is_empty());

    for name in ["nobody", "anna", "%", "' OR 1=1 --", "*", "\\", "\u{1f980}"] {
        let erased = erase(&hedge, json!({"user": name})).await;
        let counts = erased.as_object().unwrap().iter();
        let zero = counts.filter(|(_, count)| **count == 0).count();
        assert_eq!(
            (zero, &erased["rewritten"]),
            (7, &json!(true)),
            "{name}: {erased}"
        );
    }
    let erased = erase(&hedge, json!({"user": ANNA, "team": "red"})).await;
    assert_eq!(erased["records"], 0);
    assert_eq!(export(&hedge, json!({"user": ANNA})).await, hers);

    let erased = erase(&hedge, json!({"user": ANNA})).await;
    let expected = json!({
        "records": 5, "texts": 0, "responses": 1, "replies": 4, "entries": 0, "limits": 2, "files": 0,
        "rewritten": true,
    });
    assert_eq!(erased, expected);
    assert_eq!(files_with(&data, ANNA), [""; 0]);
    assert_eq!(files_with(&data, ANNA_IN_IDS), [""; 0]);
    assert!(export(&hedge, json!({"user": ANNA})).await.is_empty());
    assert_eq!(
        export(&hedge, json!({"user": "ben"})).await,
        his,
        "nobody else's"
    );
    assert_eq!(
        (sums(&hedge), spent(&hedge).await),
        before,
        "the money stays"
    );
    let gone = hedge
        .get(&format!("/v1/responses/{}", kept["id"].as_str().unwrap()))
        .await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    let listed = hedge.admin_get("/admin/v1/records?limit=50").await;
    assert_eq!(listed.json()["records"].as_array().unwrap().len(), 8);
    assert!(!listed.text.contains(ANNA) && !listed.text.contains("marks"));

    // Who comes back is new.
    assert_eq!(
        chat_for(&hedge, ANNA, 0, "fake/bench").await.route(),
        "cloud:fake"
    );
    until_written(&hedge, 9).await;
    assert_eq!(
        count(&export(&hedge, json!({"user": ANNA})).await, "records"),
        1
    );
    assert_eq!(erase(&hedge, json!({"user": ANNA})).await["limits"], 2);
    // Also for the next process.
    let hedge = hedge.restarted().await;
    assert_eq!(files_with(&hedge.data_path(""), ANNA), [""; 0]);
    assert_eq!(
        count(&export(&hedge, json!({"user": "ben"})).await, "records"),
        3
    );

    let audit = hedge.kept("audit/audit-00000001.jsonl");
    assert!(
        audit.contains("\"who\":\"loopback\",\"what\":\"data.erase\",\"id\":\"user "),
        "{audit}"
    );
    assert!(audit.contains("\"what\":\"data.export\"") && audit.contains(" of red\""));
    assert!(!audit.contains("anna"));
}

#[tokio::test]
async fn who_may_see_may_not_remove() {
    let fake = fake();
    let tokens = "
tokens = [
  { name = 'vera', role = 'viewer', secret = 'the-viewer' },
  { name = 'olga', role = 'operator', secret = 'the-operator' },
  { name = 'otto', role = 'owner', secret = 'the-owner' },
]
";
    let node = Hedge::before(&fake, tokens).await;
    let url = format!("http://{}", node.admin);
    let run = async |token: &'static str, args: &[&str], user: &str| {
        let mut command = hedge();
        command
            .arg("data")
            .args(args)
            .args(["--user", user, "--url", &url]);
        command.env("HEDGE_ADMIN_TOKEN", token);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        let done = done.await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    chat_for(&node, ANNA, 0, "fake/bench").await;
    chat_for(&node, ANNA, 1, "fake/bench").await;

    let (code, _, err) = run("the-viewer", &["export"], ANNA).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("role is `viewer`"), "{err}");
    let (code, out, err) = run("the-operator", &["export", "--json"], ANNA).await;
    assert_eq!(code, Some(0), "{err}");
    let items: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (count(&items, "records"), count(&items, "replies")),
        (2, 2),
        "{out}"
    );
    let (code, out, _) = run("the-operator", &["export", "--json"], "nobody").await;
    assert_eq!((code, out.as_str()), (Some(0), "[]\n"));
    let (_, out, _) = run("the-operator", &["export"], ANNA).await;
    assert_eq!(out.lines().count(), 4, "one line each: {out}");

    for token in ["the-viewer", "the-operator"] {
        let (code, _, err) = run(token, &["erase", "--yes"], ANNA).await;
        assert_eq!(code, Some(1));
        assert!(err.contains("role `owner`"), "{err}");
    }
    // Nobody is there to say yes.
    let (code, _, err) = run("the-owner", &["erase"], ANNA).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("--yes"), "{err}");
    let (code, out, err) = run("the-owner", &["erase", "--yes", "--json"], ANNA).await;
    assert_eq!(code, Some(0), "{err}");
    let erased: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&erased["records"], &erased["replies"]),
        (&json!(2), &json!(2))
    );
    let (_, out, _) = run("the-owner", &["erase", "--yes"], ANNA).await;
    assert!(
        out.starts_with("records that are nobody's now      0\n"),
        "{out}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_place() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    for (body, place) in [
        ("{}", "user"),
        (r#"{"user": ""}"#, "user"),
        (r#"{"user": ["a"]}"#, "user"),
        (r#"{"user": "a", "tag": "b"}"#, "tag"),
        (r#"{"tag": "no spaces"}"#, "tag"),
        (r#"{"user": "a", "team": 5}"#, "team"),
        (r#"{"user": "a", "all": true}"#, "all"),
    ] {
        for path in [EXPORT, ERASE] {
            let refused = hedge.admin_post(path, body).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(refused.json()["error"]["param"], place, "{path} {body}");
        }
    }
    for path in [EXPORT, ERASE] {
        let refused = hedge.admin_post(path, "[").await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        let long = format!(r#"{{"user": "{}"}}"#, "a".repeat(100_000));
        let refused = hedge.admin_post(path, &long).await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        let looked = hedge.admin_get(path).await;
        assert_eq!(looked.status, StatusCode::METHOD_NOT_ALLOWED);
        let elsewhere = hedge
            .send(request(Method::POST, path, Bytes::from("{}")))
            .await;
        assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
        assert!(
            elsewhere.text.contains("admin listener"),
            "{}",
            elsewhere.text
        );
    }
}

#[tokio::test]
async fn replicas_find_and_erase_what_any_of_them_wrote() {
    let Some(server) = PostgresServer::start().unwrap() else {
        return;
    };
    let url = server.database("hedge").unwrap();
    let fake = fake();
    let config = format!("[store]\npostgres = '{url}'\n{LIMITS}");
    let (one, two) = (
        Hedge::before(&fake, &config).await,
        Hedge::before(&fake, &config).await,
    );
    for hedge in [&one, &two] {
        for at in 0..2 {
            chat_for(hedge, ANNA, at, "fake/bench").await;
            chat_for(hedge, "ben", at, "fake/bench").await;
        }
        until_written(hedge, 4).await;
    }
    let before = sums(&one);
    assert_eq!(before["total"]["requests"], 8);
    let hers = export(&one, json!({"user": ANNA})).await;
    assert_eq!((count(&hers, "records"), count(&hers, "replies")), (4, 2));
    let count_of = |needle: &str| {
        let sql =
            format!("SELECT COUNT(*) FROM hedge.records AS it WHERE it::TEXT LIKE '%{needle}%'");
        server.query("hedge", &sql).unwrap()
    };
    assert_eq!(count_of("anna"), "4");
    let marked = "SELECT COUNT(*) FROM hedge.records WHERE marks IS NULL";

    let erased = erase(&one, json!({"user": ANNA})).await;
    let counts = ["records", "replies", "limits", "rewritten"].map(|name| erased[name].clone());
    assert_eq!(counts, [json!(4), json!(2), json!(2), json!(true)]);
    assert_eq!(
        (count_of("anna"), count_of("ben/")),
        ("0".into(), "4".into())
    );
    assert_eq!(server.query("hedge", marked).unwrap(), "4");
    assert_eq!(sums(&two), before, "the money stays");
    // What is each replica's own is removed there.
    let left = export(&two, json!({"user": ANNA})).await;
    assert_eq!((count(&left, "records"), count(&left, "replies")), (0, 2));
    assert_eq!(erase(&two, json!({"user": ANNA})).await["replies"], 2);
    for hedge in [&one, &two] {
        assert_eq!(files_with(&hedge.data_path(""), ANNA), [""; 0]);
        assert_eq!(files_with(&hedge.data_path(""), ANNA_IN_IDS), [""; 0]);
    }
    let his = export(&two, json!({"user": "ben"})).await;
    assert_eq!((count(&his, "records"), count(&his, "replies")), (4, 2));
}
