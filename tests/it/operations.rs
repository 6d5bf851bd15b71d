//! What an operator sees: probes, metrics, reload, the end.

use http::StatusCode;
use serde_json::json;

use crate::harness::{Hedge, ask, fake, with};

#[tokio::test]
async fn probes_and_metrics_answer() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    assert_eq!(hedge.get("/healthz").await.status, StatusCode::OK);
    hedge.chat(&ask("fake/bench", "hi")).await;
    hedge.chat(&ask("fake/bench", "hi")).await;
    hedge.chat(&ask("fake/nothing", "hi")).await;
    crate::harness::eventually("all three are counted", async || {
        let metrics = hedge.metrics().await;
        let counted = |labels: &[&str]| {
            let holds = |line: &&str| labels.iter().all(|label| line.contains(label));
            metrics
                .lines()
                .filter(holds)
                .any(|line| line.ends_with(" 1"))
        };
        counted(&["exchanges_total", "cloud", "missed", "answered"])
            && counted(&["exchanges_total", "cache", "hit_exact"])
            && counted(&["model_not_found"])
    })
    .await;
}

#[tokio::test]
async fn models_are_listed_and_each_can_be_asked_for() {
    let fake = fake();
    let aliases = "[aliases]\nsmart = [\"fake/other\", \"fake/bench\"]";
    let hedge = Hedge::before(&fake, aliases).await;
    let listed = hedge.get("/v1/models").await.json();
    let names: Vec<&str> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    for name in ["auto", "fake/bench", "fake/other", "smart"] {
        assert!(names.contains(&name), "{name} in {names:?}");
        assert_eq!(
            hedge.get(&format!("/v1/models/{name}")).await.json()["id"],
            name
        );
    }
    assert_eq!(
        hedge.get("/v1/models/fake/none").await.status,
        StatusCode::NOT_FOUND
    );
    hedge.chat(&ask("smart", "hi")).await;
    assert_eq!(fake.seen()[0].body["model"], "other");
}

#[tokio::test]
async fn every_answer_has_an_id_and_timings_when_asked() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let mut request = crate::harness::chat_request(&ask("fake/bench", "hi"));
    let one = http::HeaderValue::from_static("1");
    request.headers_mut().insert("x-hedge-timing", one);
    let reply = hedge.send(request).await;
    assert!(
        reply.header("server-timing").contains("route;dur="),
        "{:?}",
        reply.headers
    );
    let other = hedge.chat(&ask("fake/none", "hi")).await;
    assert!(other.header("server-timing").is_empty());
    let ids = [reply.header("x-request-id"), other.header("x-request-id")];
    assert!(
        !ids[0].is_empty() && !ids[1].is_empty() && ids[0] != ids[1],
        "{ids:?}"
    );
}

#[tokio::test]
async fn a_reply_under_way_is_finished_before_the_end() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let text = "[[fake tokens=20 gap-ms=20]]";
    let body = with(ask("fake/bench", text), json!({"stream": true}));
    let mut reply = hedge.open(&body).await;
    reply.next().await.unwrap();
    hedge.terminate();
    let reply = reply.read().await;
    assert!(reply.is_done(), "{}", reply.text);
    assert!(hedge.ended_well().await);
}
