//! Google's API at its own paths: replies whole and streamed, keys and refusals.

use domain::BackendError;
use serde_json::{Value, json};

use crate::client::{Raw, ask, get};
use crate::node::{Node, Recipe, Script, node, started, text};
use crate::reading::post;

const WHOLE: &str = "/v1beta/models/local:generateContent";
const STREAMED: &str = "/v1beta/models/local:streamGenerateContent";

fn hello() -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]})
}

async fn send(node: &Node, path: &str, headers: &str) -> Raw {
    ask(node.client, post(path, headers, &hello())).await
}

/// What every answer of the scripted back end ends with.
fn last() -> Value {
    json!({
        "candidates": [{"content": {"parts": [{"text": ""}], "role": "model"},
            "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": "tiny",
    })
}

/// Without its id, which differs.
fn nameless(mut chunk: Value) -> Value {
    let id = chunk.as_object_mut().unwrap().shift_remove("responseId");
    assert!(!id.unwrap().as_str().unwrap().is_empty());
    chunk
}

#[tokio::test]
async fn a_whole_reply_has_googles_shape() {
    let node = node().await;
    for path in [WHOLE, "/v1beta/models/loc%61l:generateContent?key=x"] {
        let raw = send(&node, path, "").await;
        assert_eq!(raw.status, 200, "{}", raw.text());
        assert_eq!(raw.header("content-type"), Some("application/json"));
        let mut expected = last();
        expected["candidates"][0]["content"]["parts"][0]["text"] = "hello there".into();
        assert_eq!(nameless(raw.json()), expected);
    }
}

#[tokio::test]
async fn a_stream_is_events_or_one_array() {
    let node = node().await;
    let raw = send(&node, &format!("{STREAMED}?alt=sse"), "").await;
    assert!(raw.is_complete);
    let kind = Some("text/event-stream; charset=utf-8");
    assert_eq!(raw.header("content-type"), kind);
    let events = raw.text().split_terminator("\r\n\r\n");
    let events: Vec<Value> = events
        .map(|event| {
            let data = event.split("data: ").last().unwrap();
            nameless(serde_json::from_str(data).unwrap())
        })
        .collect();
    assert_eq!(*events.last().unwrap(), last());
    let said = |chunks: &[Value]| -> String {
        let texts = chunks.iter();
        let texts = texts.map(|it| &it["candidates"][0]["content"]["parts"][0]["text"]);
        texts.map(|it| it.as_str().unwrap()).collect()
    };
    assert_eq!(said(&events), "hello there");
    let raw = send(&node, STREAMED, "").await;
    let kind = Some("application/json; charset=utf-8");
    assert_eq!(raw.header("content-type"), kind);
    let chunks: Vec<Value> = serde_json::from_slice(&raw.body).unwrap();
    assert_eq!(said(&chunks), "hello there");
}

#[tokio::test]
async fn a_refusal_has_googles_form() {
    let node = node().await;
    let body = json!({"contents": [{"role": "robot", "parts": [{"text": "hi"}]}]});
    let raw = ask(node.client, post(WHOLE, "", &body)).await;
    assert_eq!(raw.status, 400);
    assert_eq!(raw.error("status"), "INVALID_ARGUMENT");
    let details = &raw.json()["error"]["details"];
    assert_eq!(
        details[1]["fieldViolations"][0]["field"],
        "contents[0].role"
    );
    assert_eq!(details[2]["requestId"].as_str(), raw.header("x-request-id"));
    let raw = send(&node, "/v1beta/models/nobody:generateContent", "").await;
    assert_eq!(
        (raw.status, raw.error("status").as_str()),
        (404, "NOT_FOUND")
    );
    for path in ["/v1beta/models/local:countTokens", "/v1beta/models/local"] {
        let raw = send(&node, path, "").await;
        assert_eq!(raw.status, 404, "{path}");
        assert_eq!(raw.error("status"), "NOT_FOUND");
    }
    let raw = get(node.client, WHOLE).await;
    assert_eq!((raw.status, raw.header("allow")), (405, Some("POST")));
}

#[tokio::test]
async fn a_key_may_come_in_googles_header() {
    let keyed = Recipe {
        key: Some("k"),
        ..Recipe::default()
    };
    let node = keyed.start().await;
    for (headers, status) in [
        ("x-goog-api-key: k\r\n", 200),
        ("authorization: Bearer k\r\n", 200),
        ("x-goog-api-key: other\r\n", 401),
        ("", 401),
    ] {
        let raw = send(&node, WHOLE, headers).await;
        assert_eq!(raw.status, status, "{headers}");
    }
    // Addresses end up in logs.
    let raw = send(&node, &format!("{WHOLE}?key=k"), "").await;
    assert_eq!(raw.error("status"), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_stream_that_breaks_ends_in_an_error() {
    let breaking = Recipe {
        script: Script::Says(vec![started(), text("he"), Err(BackendError::Interrupted)]),
        ..Recipe::default()
    };
    let node = breaking.start().await;
    let raw = send(&node, &format!("{STREAMED}?alt=sse"), "").await;
    assert_eq!(raw.status, 200);
    assert!(!raw.is_complete);
    let last = raw.text().split("data: ").last().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["status"], "UNAVAILABLE");
}
