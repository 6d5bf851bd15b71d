//! Whole chats, and what a bad one is told.

use std::sync::Arc;
use std::time::Duration;

use domain::{BackendError, BadRequest, Priority, TimeoutPhase};

use crate::client::{HELLO, HELLO_STREAMED, ask, chat};
use crate::node::{Recipe, Script, node, started, text};

#[tokio::test]
async fn a_whole_answer_says_where_it_came_from() {
    let node = node().await;
    let raw = ask(node.client, chat("", HELLO)).await;
    assert_eq!(raw.status, 200);
    assert_eq!(raw.header("content-type"), Some("application/json"));
    assert_eq!(raw.header("x-hedge-route"), Some("local:tiny"));
    assert!(!raw.header("x-hedge-reason").unwrap().is_empty());
    assert_eq!(raw.header("server-timing"), None);
    assert_eq!(raw.header("access-control-allow-origin"), None);
    let reply = raw.json();
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], "tiny");
    assert_eq!(reply["choices"][0]["message"]["content"], "hello there");
    assert_eq!(reply["usage"]["total_tokens"], 5);
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
}

#[tokio::test]
async fn a_repeat_comes_from_the_cache_unless_declined() {
    let node = node().await;
    for (lines, route, calls) in [
        ("", "local:tiny", 1),
        ("", "cache:exact", 1),
        ("cache-control: no-cache\r\n", "local:tiny", 2),
        ("cache-control: max-age=0, No-Store\r\n", "local:tiny", 3),
        ("", "cache:exact", 3),
    ] {
        let raw = ask(node.client, chat(lines, HELLO)).await;
        assert_eq!(raw.header("x-hedge-route"), Some(route), "{lines}");
        assert_eq!(node.calls.lock().unwrap().len(), calls, "{lines}");
    }
}

#[tokio::test]
async fn timing_is_told_to_who_asks() {
    let node = node().await;
    let raw = ask(node.client, chat("x-hedge-timing: 1\r\n", HELLO)).await;
    let timing = raw.header("server-timing").unwrap();
    for stage in ["admit", "scan", "lookup", "route", "open"] {
        assert!(timing.contains(&format!("{stage};dur=")), "{timing}");
    }
}

#[tokio::test]
async fn bad_requests_name_the_place() {
    let node = node().await;
    let cases = [
        (
            r#"{"model":"local","messages":[{"role":"robot","content":"x"}]}"#,
            "messages[0].role",
        ),
        (r#"{"model":"local","messages":[]}"#, "messages"),
        (
            r#"{"model":"local","messages":[{"role":"user","content":"x"}],"temperature":9}"#,
            "temperature",
        ),
    ];
    for (body, param) in cases {
        let raw = ask(node.client, chat("", body)).await;
        assert_eq!(raw.status, 400, "{body}");
        assert_eq!(raw.error("type"), "invalid_request_error");
        assert_eq!(raw.error("param"), param, "{}", raw.text());
    }
    for body in ["", "{", "[]", "{\"model\":\"local\"}"] {
        let raw = ask(node.client, chat("", body)).await;
        assert_eq!(raw.status, 400, "{body}");
        assert!(!raw.error("message").is_empty());
    }
}

#[tokio::test]
async fn an_unknown_model_is_404_with_the_nearest() {
    let node = node().await;
    let body = HELLO.replace("\"local\"", "\"locla\"");
    let raw = ask(node.client, chat("", &body)).await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (404, "model_not_found")
    );
    assert_eq!(raw.error("param"), "model");
    assert!(
        raw.error("message").contains("did you mean `local`"),
        "{}",
        raw.text()
    );
}

#[tokio::test]
async fn a_long_body_is_decoded_all_the_same() {
    let node = node().await;
    let body = HELLO.replace("hi", &"word ".repeat(40_000));
    assert_eq!(ask(node.client, chat("", &body)).await.status, 200);
    let broken = body.replace("user", "robot");
    let raw = ask(node.client, chat("", &broken)).await;
    assert_eq!(raw.error("param"), "messages[0].role");
}

#[tokio::test]
async fn a_reply_that_breaks_before_its_end_is_no_answer() {
    let script = Script::Says(vec![
        started(),
        text("half"),
        Err(BackendError::Interrupted),
    ]);
    let node = Recipe {
        script,
        ..Recipe::default()
    }
    .start()
    .await;
    let raw = ask(node.client, chat("", HELLO)).await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (502, "upstream_failed")
    );
    assert!(raw.header("x-hedge-reason").is_some());
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_node_goes_on() {
    let node = Recipe {
        script: Script::Panics,
        ..Recipe::default()
    }
    .start()
    .await;
    for _ in 0..2 {
        let raw = ask(node.client, chat("", HELLO)).await;
        assert_eq!(
            (raw.status, raw.error("code").as_str()),
            (500, "internal_error")
        );
        assert!(raw.header("x-request-id").is_some());
    }
}

#[tokio::test]
async fn the_priority_is_a_header_of_two_words() {
    for (lines, wanted) in [
        ("", Ok(Priority::Interactive)),
        (
            "x-hedge-priority: interactive\r\n",
            Ok(Priority::Interactive),
        ),
        ("x-hedge-priority: batch\r\n", Ok(Priority::Batch)),
        ("x-hedge-priority: Batch\r\n", Err(400)),
        ("x-hedge-priority: \r\n", Err(400)),
    ] {
        let node = Recipe::default().start().await;
        let calls = Arc::clone(&node.calls);
        let raw = ask(node.client, chat(lines, HELLO)).await;
        match wanted {
            Ok(priority) => assert_eq!(calls.lock().unwrap()[0].priority(), priority, "{lines}"),
            Err(status) => {
                assert_eq!(raw.status, status, "{lines}");
                assert_eq!(raw.error("param"), "x-hedge-priority");
                assert!(calls.lock().unwrap().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_back_ends_failure_is_told_in_http() {
    let wait = Duration::from_millis(2500);
    let rejected = BackendError::Rejected {
        status: 422,
        reason: BadRequest::at("tools[0].name", "is odd"),
    };
    let cases = [
        (
            BackendError::Overloaded { retry_after: wait },
            503,
            "overloaded",
            Some("3"),
        ),
        (
            BackendError::RateLimited { retry_after: None },
            429,
            "rate_limit_exceeded",
            Some("1"),
        ),
        (
            BackendError::Unreachable("refused"),
            502,
            "upstream_failed",
            None,
        ),
        (
            BackendError::Credentials { status: 401 },
            502,
            "upstream_failed",
            None,
        ),
        (
            BackendError::TimedOut(TimeoutPhase::FirstEvent),
            504,
            "upstream_timed_out",
            None,
        ),
        (BackendError::Engine("x"), 500, "internal_error", None),
        (rejected, 400, "null", None),
    ];
    for (error, status, code, wait) in cases {
        let script = Script::Says(vec![Err(error.clone())]);
        let node = Recipe {
            script,
            ..Recipe::default()
        }
        .start()
        .await;
        for body in [HELLO, HELLO_STREAMED] {
            let raw = ask(node.client, chat("", body)).await;
            assert_eq!(
                (raw.status, raw.error("code").as_str()),
                (status, code),
                "{error:?}"
            );
            assert_eq!(raw.header("retry-after"), wait, "{error:?}");
            assert!(raw.header("x-hedge-reason").is_some(), "{error:?}");
        }
    }
}
