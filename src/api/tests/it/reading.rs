//! Tokens, texts and prompts, as llama-server and vLLM answer them.

use domain::HealthState;
use serde_json::{Value, json};

use crate::client::{Raw, ask};
use crate::node::{Node, Recipe, node};

pub fn post(path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn send(node: &Node, path: &str, body: Value) -> Raw {
    ask(node.client, post(path, "", &body)).await
}

#[tokio::test]
async fn texts_become_tokens_and_tokens_texts() {
    let node = node().await;
    for (path, body, answer) in [
        (
            "/tokenize",
            json!({"content": "ab"}),
            json!({"tokens": [97, 98]}),
        ),
        (
            "/tokenize",
            json!({"content": "ü", "add_special": true, "with_pieces": true, "model": "tiny"}),
            json!({"tokens": [
                {"id": 256, "piece": "<s>"}, {"id": 195, "piece": [195]}, {"id": 188, "piece": [188]},
            ]}),
        ),
        (
            "/tokenize",
            json!({"prompt": "a", "model": "local"}),
            json!({"tokens": [256, 97], "count": 2, "max_model_len": 2048}),
        ),
        (
            "/tokenize",
            json!({"messages": [{"role": "user", "content": "ab"}]}),
            json!({"tokens": [97, 98], "count": 2, "max_model_len": 2048}),
        ),
        (
            "/detokenize",
            json!({"tokens": [97, 195, 188]}),
            json!({"content": "aü"}),
        ),
        (
            "/detokenize",
            json!({"tokens": [195]}),
            json!({"content": "\u{FFFD}"}),
        ),
        (
            "/detokenize",
            json!({"tokens": [97], "model": "auto"}),
            json!({"content": "a", "prompt": "a"}),
        ),
        (
            "/apply-template",
            json!({"messages": [{"role": "user", "content": "hi"}]}),
            json!({"prompt": "<hi>"}),
        ),
    ] {
        let raw = send(&node, path, body.clone()).await;
        assert_eq!(raw.status, 200, "{path} {body}: {}", raw.text());
        assert_eq!(raw.json(), answer, "{path} {body}");
        assert_eq!(raw.header("content-type"), Some("application/json"));
    }
    // Nobody was asked to chat.
    assert!(node.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn faults_are_refused_with_their_place() {
    let node = node().await;
    for (path, body, status, param) in [
        ("/tokenize", json!({}), 400, "content"),
        ("/tokenize", json!({"content": [300]}), 400, "content"),
        (
            "/tokenize",
            json!({"content": "a", "model": "tinny"}),
            404,
            "model",
        ),
        ("/detokenize", json!({"tokens": [1, -1]}), 400, "tokens[1]"),
        ("/apply-template", json!({}), 400, "messages"),
    ] {
        let raw = send(&node, path, body.clone()).await;
        assert_eq!(raw.status, status, "{path} {body}: {}", raw.text());
        assert_eq!(raw.error("param"), param, "{path} {body}");
    }
}

/// The doors are those of chats: keys, media types, hosts and origins.
#[tokio::test]
async fn nobody_reads_without_a_key() {
    let keyed = Recipe {
        key: Some("k"),
        ..Recipe::default()
    };
    let node = keyed.start().await;
    let bodies = [
        ("/tokenize", json!({"content": "a"})),
        ("/detokenize", json!({"tokens": [97]})),
        (
            "/apply-template",
            json!({"messages": [{"role": "user", "content": "a"}]}),
        ),
        (
            "/rerank",
            json!({"model": "finder", "query": "a", "documents": ["a"]}),
        ),
    ];
    for (path, body) in bodies {
        let without = ask(node.client, post(path, "", &body)).await;
        assert_eq!(without.status, 401, "{path}");
        let with = ask(
            node.client,
            post(path, "authorization: Bearer k\r\n", &body),
        )
        .await;
        assert_eq!(with.status, 200, "{path}: {}", with.text());
        let page = "authorization: Bearer k\r\norigin: https://evil.example\r\n";
        assert_eq!(ask(node.client, post(path, page, &body)).await.status, 403);
        let plain = post(path, "authorization: Bearer k\r\n", &body);
        let plain = plain.replace("application/json", "text/plain");
        assert_eq!(ask(node.client, plain).await.status, 415, "{path}");
    }
}

#[tokio::test]
async fn a_model_that_loads_is_worth_waiting_for() {
    let starting = Recipe {
        health: HealthState::Starting,
        ..Recipe::default()
    };
    let node = starting.start().await;
    let raw = send(&node, "/tokenize", json!({"content": "a"})).await;
    assert_eq!(raw.status, 503, "{}", raw.text());
    assert!(raw.header("retry-after").is_some());
}
