//! `auto`: what stays here, what goes to the cloud, and what happens when the cloud is gone.

use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, fake, upstream, with};

/// A coding task of more than 600 words, with a tool.
fn hard_task() -> Value {
    let requirement = "It must keep every invariant of the store and come with tests. ";
    let text = format!(
        "Please refactor this module and fix the race in it.\n```rust\npub fn settle(ledger: &Ledger, \
         hold: Hold) -> Result<Receipt, LedgerError> {{\n    ledger.settle(hold)\n}}\n```\n{}",
        requirement.repeat(50)
    );
    assert!(text.split_whitespace().count() >= 600);
    let tools = json!({"tools": [{"type": "function", "function": {
        "name": "run_tests", "parameters": {"type": "object", "properties": {}}}}]});
    with(ask("auto", &text), tools)
}

#[tokio::test]
async fn simple_questions_stay_here_and_hard_ones_go_to_the_cloud() {
    let fake = fake();
    let hedge = Hedge::start(&upstream(&fake, "")).await;
    for text in [
        "hi",
        "What is the capital of Portugal?",
        "Convert 7 km to m",
    ] {
        let reply = hedge.chat(&ask("auto", text)).await;
        assert!(
            reply.route().starts_with("local:"),
            "{text}: {:?}",
            reply.headers
        );
        assert!(!reply.reason().is_empty(), "{text}");
    }
    assert_eq!(fake.counts().asked, 0, "nothing of it left this machine");
    let reply = hedge.chat(&hard_task()).await;
    assert_eq!(reply.route(), "cloud:fake", "{}", reply.text);
    assert!(!reply.reason().is_empty() && !reply.reason().contains("fallback"));
    assert_eq!(fake.seen()[0].body["model"], "bench");
}

#[tokio::test]
async fn without_the_cloud_the_local_model_answers_and_says_so() {
    let fake = fake();
    let hedge = Hedge::start(&upstream(&fake, "")).await;
    fake.kill();
    let reply = hedge.chat(&hard_task()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert!(reply.route().starts_with("local:"), "{:?}", reply.headers);
    let reason = reply.reason();
    assert!(reason.contains("fallback: fake"), "{reason}");
}

#[tokio::test]
async fn a_failing_cloud_is_passed_over_and_a_rejection_is_not() {
    let fake = fake();
    let config = upstream(&fake, "whole_reply_timeout_ms = 300");
    let hedge = Hedge::start(&config).await;
    for (marker, is_passed_over) in [
        ("status=500", true),
        ("status=429 retry-after=1", true),
        ("garbage", true),
        ("hang", true),
        ("status=400", false),
    ] {
        let mut body = hard_task();
        let text = body["messages"][0]["content"].as_str().unwrap();
        body["messages"][0]["content"] = format!("{text} [[fake {marker}]]").into();
        body["max_tokens"] = 8.into();
        let reply = hedge.chat(&body).await;
        assert_eq!(
            reply.status == StatusCode::OK,
            is_passed_over,
            "{marker}: {}",
            reply.text
        );
        assert_eq!(
            reply.reason().contains("fallback"),
            is_passed_over,
            "{marker}: {}",
            reply.reason()
        );
    }
}

#[tokio::test]
async fn a_named_model_is_never_replaced_by_another() {
    let fake = fake();
    let hedge = Hedge::start(&upstream(&fake, "")).await;
    let reply = hedge.chat(&ask("fake/bench", "hi")).await;
    assert_eq!(reply.route(), "cloud:fake");
    fake.kill();
    let reply = hedge.chat(&ask("fake/bench", "hello")).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text);
}

#[tokio::test]
async fn local_only_sends_nothing_away() {
    let fake = fake();
    let config = format!("[routes]\nfile = \"local-only\"\n{}", upstream(&fake, ""));
    let hedge = Hedge::start(&config).await;
    let reply = hedge
        .chat(&with(hard_task(), json!({"max_tokens": 8})))
        .await;
    assert!(reply.route().starts_with("local:"), "{}", reply.text);
    assert_eq!(fake.counts().asked, 0);
}
