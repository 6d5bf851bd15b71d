//! Exact replies: when one is given again, and when not.

use bytes::Bytes;
use http::Method;
use http::header::CACHE_CONTROL;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Hedge, Reply, ask, chat_request, eventually, fake, request, root, with};

async fn chat(hedge: &Hedge, text: &str, cache_control: Option<&'static str>) -> Reply {
    let mut request = chat_request(&ask("fake/bench", text));
    if let Some(value) = cache_control {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(CACHE_CONTROL, value);
    }
    hedge.send(request).await
}

#[tokio::test]
async fn the_same_request_again_is_answered_from_the_cache() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let first = chat(&hedge, "one", None).await;
    assert_eq!(first.route(), "cloud:fake");
    let second = chat(&hedge, "one", None).await;
    assert_eq!(second.route(), "cache:exact");
    assert_eq!(second.content(), first.content());
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        let of = |reply: &Reply| reply.json()["usage"][count].clone();
        assert!(of(&first).is_u64(), "{count}");
        assert_eq!(of(&second), of(&first), "{count}");
    }
    assert_eq!(fake.counts().asked, 1);
    assert_eq!(chat(&hedge, "two", None).await.route(), "cloud:fake");
}

#[tokio::test]
async fn a_kept_reply_can_be_streamed() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let whole = chat(&hedge, "one", None).await;
    let body = with(ask("fake/bench", "one"), json!({"stream": true}));
    let streamed = hedge.chat(&body).await;
    assert_eq!(streamed.route(), "cache:exact");
    assert_eq!(streamed.streamed_text(), whole.content());
    assert!(streamed.is_done());
}

#[tokio::test]
async fn no_store_neither_reads_nor_keeps() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    chat(&hedge, "one", Some("no-store")).await;
    assert_eq!(chat(&hedge, "one", None).await.route(), "cloud:fake");
    assert_eq!(
        chat(&hedge, "one", Some("no-store")).await.route(),
        "cloud:fake"
    );
    assert_eq!(fake.counts().asked, 3);
}

#[tokio::test]
async fn no_cache_asks_anew_and_keeps_the_answer() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    chat(&hedge, "one", None).await;
    assert_eq!(
        chat(&hedge, "one", Some("no-cache")).await.route(),
        "cloud:fake"
    );
    assert_eq!(chat(&hedge, "one", None).await.route(), "cache:exact");
    assert_eq!(fake.counts().asked, 2);
}

#[tokio::test]
async fn what_did_not_end_well_is_not_kept() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let cut = with(
        ask("fake/bench", "[[fake cut-after=2]]"),
        json!({"stream": true}),
    );
    hedge.chat(&cut).await;
    hedge.chat(&cut).await;
    assert_eq!(fake.counts().asked, 2);
    // A reader who leaves half way leaves no half a reply behind.
    let slow = with(
        ask("fake/bench", "[[fake tokens=50 gap-ms=20]]"),
        json!({"stream": true}),
    );
    hedge.open(&slow).await.next().await.unwrap();
    let again = hedge.chat(&slow).await;
    // Or reads along with what the first one left, where that is not known yet.
    assert!(["cloud:fake", "cache:shared"].contains(&again.route()));
    assert!(again.is_done());
}

#[tokio::test]
async fn requests_alike_at_once_are_one_call() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = with(
        ask("fake/bench", "[[fake tokens=20 gap-ms=20]]"),
        json!({"stream": true}),
    );
    let replies = futures::future::join_all((0..20).map(|_| hedge.chat(&body))).await;
    let told = |cache: &str| {
        let told = replies.iter();
        told.filter(|it| it.header("x-hedge-cache") == cache)
            .count()
    };
    assert_eq!((told("miss"), told("shared")), (1, 19));
    for reply in &replies {
        assert!(reply.is_done());
        assert_eq!(reply.streamed_text(), replies[0].streamed_text());
    }
    assert_eq!(fake.counts().asked, 1);
    let later = hedge.chat(&body).await;
    assert!(later.header("x-hedge-cache").starts_with("exact; age="));
}

#[tokio::test]
async fn a_tag_that_is_none_is_refused_with_its_place() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    for (tags, status) in [
        ("spring, 2026/a:b", 200),
        ("a,b,c,d,e,f,g,h,h", 200),
        ("a,b,c,d,e,f,g,h,i", 400),
        ("no spaces", 400),
        ("'", 400),
    ] {
        let mut request = chat_request(&ask("fake/bench", "one"));
        let value = http::HeaderValue::from_static(tags);
        request.headers_mut().insert("x-hedge-cache-tags", value);
        let reply = hedge.send(request).await;
        assert_eq!(reply.status.as_u16(), status, "{tags}");
        if status == 400 {
            assert_eq!(reply.json()["error"]["param"], "x-hedge-cache-tags");
        }
    }
}

/// Replies answer other questions wherever no guard refuses; the encoder is the one that the fixtures
/// have.
pub fn semantic(folder: &TempDir, more: &str) -> String {
    let mut bytes = std::fs::read(root().join("tests/fixtures/rank-tiny.gguf")).unwrap();
    let key = b"bert.pooling_type";
    let at = bytes.windows(key.len()).position(|window| window == key);
    // After the key comes the value's type, then the value: 1 is the mean.
    bytes[at.unwrap() + key.len() + 4] = 1;
    let encoder = folder.path().join("encoder.gguf");
    std::fs::write(&encoder, bytes).unwrap();
    format!(
        "[cache]\nencoder = {encoder:?}\nmax_wrong_rate = 1.0\nshadow_rate = 0.0\n\
         look_up_ms_max = 5000\n{more}\n"
    )
}

pub async fn is_loaded(hedge: &Hedge) {
    eventually("the encoder is there", async || {
        hedge.log().contains("cache's model is ready")
    })
    .await;
}

const QUESTION: &str = "What is the capital of France?";
const SAME: &str = "what is the capital of france";

async fn says(hedge: &Hedge, key: &str, id: &'static str, body: &Value) -> Reply {
    let mut request = chat_request(body);
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    request
        .headers_mut()
        .insert("x-request-id", http::HeaderValue::from_static(id));
    hedge.send(request).await
}

async fn rate(hedge: &Hedge, key: &str, body: &Value) -> Reply {
    let mut rating = request(Method::POST, "/v1/feedback", Bytes::from(body.to_string()));
    let headers = rating.headers_mut();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    hedge.send(rating).await
}

#[tokio::test]
async fn the_same_question_in_other_words_is_answered_from_the_cache() {
    let (fake, folder) = (fake(), tempfile::tempdir().unwrap());
    let hedge = Hedge::before(&fake, &semantic(&folder, "")).await;
    is_loaded(&hedge).await;
    let question = |text: &str| ask("fake/bench", text);
    let first = says(&hedge, "", "first", &question(QUESTION)).await;
    assert_eq!(first.header("x-hedge-cache"), "miss");
    let second = says(&hedge, "", "second", &question(SAME)).await;
    assert_eq!(second.route(), "cache:semantic", "{}", second.reason());
    let told = second.header("x-hedge-cache");
    assert!(
        told.starts_with("semantic; similarity=") && told.contains("; age="),
        "{told}"
    );
    assert_eq!(second.content(), first.content());
    let streamed = with(
        question("what is the capital of France ?"),
        json!({"stream": true}),
    );
    let streamed = hedge.chat(&streamed).await;
    assert_eq!(streamed.route(), "cache:semantic");
    assert!(streamed.is_done());
    assert_eq!(fake.counts().asked, 1);
    // What is another question, or another's conversation, is asked.
    let others = [
        question("What is the capital of Portugal?"),
        question("What is the weather in France today?"),
        with(question(SAME), json!({"temperature": 1.7})),
        with(
            question(SAME),
            json!({"response_format": {"type": "json_object"}}),
        ),
        with(
            question(SAME),
            json!({"tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
            ]}),
        ),
        json!({"model": "fake/bench", "messages": [
            {"role": "system", "content": "in French"}, {"role": "user", "content": SAME},
        ]}),
        json!({"model": "fake/bench", "messages": [
            {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"},
            {"role": "user", "content": SAME},
        ]}),
    ];
    for (at, other) in others.iter().enumerate() {
        let reply = hedge.chat(other).await;
        assert_eq!(reply.header("x-hedge-cache"), "miss", "{other}");
        assert_eq!(fake.counts().asked, 2 + at as u64, "{other}");
    }
    let log = hedge.log();
    assert!(
        log.contains("cache:semantic") && !log.contains("capital of"),
        "{log}"
    );
    // The operator sees what was done, and no text.
    let stats = hedge.admin_get("/admin/v1/cache").await.json();
    assert_eq!(
        (stats["semantic"].clone(), stats["served"].clone()),
        (json!(true), json!(2))
    );
    let explained = hedge.admin_get("/admin/v1/cache/requests/second").await;
    let request = &explained.json()["requests"][0];
    assert_eq!(request["outcome"], "hit_semantic");
    assert_eq!(request["neighbour"]["verdict"], "serve");
    assert!(!explained.text.contains("capital"));
    let unknown = hedge.admin_get("/admin/v1/cache/requests/nobody").await;
    assert_eq!(unknown.status.as_u16(), 404);
    // Feedback: a bad answer is given to nobody again.
    let taken = rate(
        &hedge,
        "",
        &json!({"request_id": "second", "rating": "bad"}),
    )
    .await;
    let taken = taken.json();
    assert_eq!(
        (taken["cache"].clone(), taken["removed"].clone()),
        (json!("hit_semantic"), json!(true))
    );
    let fresh = hedge
        .chat(&question("what is the capital of France??"))
        .await;
    assert_eq!(fresh.header("x-hedge-cache"), "miss");
    let unknown = rate(
        &hedge,
        "",
        &json!({"request_id": "nobody", "rating": "bad"}),
    )
    .await;
    assert_eq!(unknown.status.as_u16(), 404);
    assert!(unknown.text.contains("x-request-id"), "{}", unknown.text);
    let metrics = hedge.metrics().await;
    for line in [
        "hedge_cache_look_ups_total{result=\"served\"} 2\n",
        "hedge_cache_look_ups_total{result=\"failed\"} 0\n",
        "hedge_cache_refusals_total{guard=\"name\"} 2\n",
        "hedge_cache_shadows_total{result=\"wrong\"} 0\n",
        "hedge_cache_feedback_total{rating=\"bad\"} 1\n",
        "hedge_cache_feedback_total{rating=\"good\"} 0\n",
        "hedge_cache_evictions_total 0\n",
        "hedge_cache_faults_total 0\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    // And purging.
    let purged = hedge
        .admin_post("/admin/v1/cache/purge", r#"{"all": true}"#)
        .await;
    assert!(
        purged.json()["entries"].as_u64().unwrap() > 0,
        "{}",
        purged.text
    );
    let again = hedge.chat(&question(QUESTION)).await;
    assert_eq!(again.header("x-hedge-cache"), "miss");
}

#[tokio::test]
async fn teams_are_not_answered_with_each_others_replies() {
    const TEAMS: &str = "
[[keys]]
name = 'one'
team = 'a'
secret = 'sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed'
[[keys]]
name = 'two'
team = 'b'
secret = 'sha256:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3'
";
    for shared in ["", "compartment = 'shared'\nshared_writers_min = 3"] {
        let (fake, folder) = (fake(), tempfile::tempdir().unwrap());
        let config = semantic(&folder, &format!("{shared}\n{TEAMS}"));
        let hedge = Hedge::before(&fake, &config).await;
        is_loaded(&hedge).await;
        let body = |text: &str| ask("fake/bench", text);
        says(&hedge, "one", "r", &body(QUESTION)).await;
        let own = says(&hedge, "one", "s", &body(SAME)).await;
        assert_eq!(own.route(), "cache:semantic", "{shared}");
        for text in [QUESTION, "what's the capital of france"] {
            // Each is new to this one: its own replies would answer it.
            hedge
                .admin_post("/admin/v1/cache/purge", r#"{"team": "b"}"#)
                .await;
            let other = says(&hedge, "two", "s", &body(text)).await;
            assert_eq!(other.route(), "cloud:fake", "{shared}: {text}");
        }
        // Nor do they rate each other's.
        let body = json!({"request_id": "r", "rating": "bad"});
        assert_eq!(rate(&hedge, "two", &body).await.status.as_u16(), 404);
        assert_eq!(rate(&hedge, "three", &body).await.status.as_u16(), 401);
        assert_eq!(rate(&hedge, "one", &body).await.json()["cache"], "missed");
    }
}

#[tokio::test]
async fn the_command_shows_and_removes_what_is_kept() {
    let (fake, folder) = (fake(), tempfile::tempdir().unwrap());
    let hedge = Hedge::before(&fake, &semantic(&folder, "")).await;
    is_loaded(&hedge).await;
    let mut tagged = chat_request(&ask("fake/bench", QUESTION));
    let headers = tagged.headers_mut();
    headers.insert(
        "x-hedge-cache-tags",
        http::HeaderValue::from_static("spring"),
    );
    headers.insert("x-request-id", http::HeaderValue::from_static("tagged"));
    hedge.send(tagged).await;
    let url = format!("http://{}", hedge.admin);
    let run = |args: &[&str]| {
        let mut command = crate::harness::hedge();
        let output = command.arg("cache").args(args).args(["--url", &url]);
        let output = output.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text, told)
    };
    let (ok, text, _) = run(&["stats"]);
    assert!(ok && text.contains("entries"), "{text}");
    let (ok, text, _) = run(&["explain", "tagged"]);
    assert!(
        ok && text.contains("missed") && text.contains("none in its compartment"),
        "{text}"
    );
    let (ok, _, told) = run(&["explain", "nobody"]);
    assert!(!ok && told.contains("no such request"), "{told}");
    let (ok, text, _) = run(&["purge", "--tag", "spring", "--json"]);
    let purged: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((ok, purged), (true, json!({"exact": 1, "entries": 1})));
    // One of them, and not none.
    assert!(!run(&["purge"]).0 && !run(&["purge", "--all", "--tag", "a"]).0);
}

#[tokio::test]
async fn what_is_kept_for_others_outlives_the_node_where_it_has_a_folder() {
    let (fake, folder) = (fake(), tempfile::tempdir().unwrap());
    let dir = folder.path().join("kept");
    let config = semantic(&folder, &format!("dir = {dir:?}"));
    let hedge = Hedge::before(&fake, &config).await;
    is_loaded(&hedge).await;
    let first = hedge.chat(&ask("fake/bench", QUESTION)).await;
    assert_eq!(first.header("x-hedge-cache"), "miss");
    let hedge = hedge.restarted().await;
    is_loaded(&hedge).await;
    eventually("what was kept is back", async || {
        let stats = hedge.admin_get("/admin/v1/cache").await.json();
        stats["entries"] == json!(1)
    })
    .await;
    let again = hedge.chat(&ask("fake/bench", SAME)).await;
    assert_eq!(again.route(), "cache:semantic");
    assert_eq!(again.content(), first.content());
    assert_eq!(fake.counts().asked, 1);
}
