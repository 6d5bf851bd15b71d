//! Models, probes, metrics and wrong turns.

use domain::HealthState;

use crate::client::{ask, get};
use crate::node::{Recipe, node};

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let node = node().await;
    let raw = get(node.client, "/v1/models").await;
    assert_eq!(raw.status, 200);
    assert_eq!(raw.json()["object"], "list");
    let listed = raw.json()["data"].as_array().unwrap().clone();
    let ids: Vec<&str> = listed
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["auto", "local", "tiny", "finder", "second"]);
    for model in &listed {
        let id = model["id"].as_str().unwrap();
        let one = get(node.client, &format!("/v1/models/{id}")).await;
        assert_eq!(one.json(), *model);
        assert_eq!(one.json()["object"], "model");
    }
    let raw = get(node.client, "/v1/models/some/tinny").await;
    assert_eq!(
        (raw.status, raw.error("code").as_str()),
        (404, "model_not_found")
    );
    let raw = get(node.client, "/v1/models/tinny").await;
    assert!(
        raw.error("message").contains("did you mean `tiny`"),
        "{}",
        raw.text()
    );
}

#[tokio::test]
async fn readiness_is_about_being_able_to_chat() {
    for (health, status) in [
        (HealthState::Ready, 200),
        (HealthState::Starting, 503),
        (HealthState::Down, 503),
    ] {
        let node = Recipe {
            health,
            ..Recipe::default()
        }
        .start()
        .await;
        for address in [node.client, node.admin] {
            let raw = get(address, "/readyz").await;
            assert_eq!(raw.status, status, "{health:?}");
            assert_eq!(raw.json()["backends"][0]["name"], "local");
            assert_eq!(raw.json()["backends"][0]["state"], health.as_label());
            let reason = raw.json()["backends"][0].get("reason").cloned();
            let is_down = health == HealthState::Down;
            assert_eq!(reason, is_down.then(|| "as told".into()));
            assert_eq!(get(address, "/healthz").await.status, 200);
        }
    }
}

#[tokio::test]
async fn metrics_are_the_nodes_and_the_doors() {
    let node = node().await;
    assert_eq!(get(node.client, "/nowhere").await.status, 404);
    for address in [node.admin, node.client] {
        let raw = get(address, "/metrics").await;
        assert_eq!(raw.status, 200);
        assert!(raw.text().starts_with("node_up 1\n"));
        assert!(
            raw.text()
                .contains("hedge_http_answers_total{status=\"404\"} 1\n")
        );
        assert!(raw.text().contains("hedge_http_connections "));
    }
}

#[tokio::test]
async fn the_admin_door_serves_no_chats() {
    let node = node().await;
    assert_eq!(get(node.admin, "/v1/models").await.status, 404);
    let raw = ask(node.admin, crate::client::chat("", crate::client::HELLO)).await;
    assert_eq!(raw.status, 404);
}

#[tokio::test]
async fn wrong_turns_are_told_the_way() {
    let node = node().await;
    let cases = [
        ("POST", "/", 405, "allow"),
        ("POST", "/chat/completions", 404, "base_url"),
        ("GET", "/models/local", 404, "base_url"),
        ("POST", "/v1/v1/chat/completions", 404, "twice"),
        ("POST", "/v1/chat/completions/", 404, "no more"),
        ("POST", "/v1/completions/", 404, "no more"),
        ("POST", "/v1/edits", 404, "GET /v1/models"),
        ("GET", "/v1/completions", 405, "allow"),
        ("POST", "/v1/moderations", 501, "moderation_models"),
        ("GET", "/v1/moderations", 405, "allow"),
        ("GET", "/v1/chat/completions", 405, "allow"),
        ("GET", "/v1/embeddings", 405, "allow"),
        ("GET", "/v1/rerank", 405, "allow"),
        ("GET", "/tokenize", 405, "allow"),
        ("POST", "/tokenize/", 404, ""),
        ("POST", "/v1/models", 405, "allow"),
        ("DELETE", "/v1/models/x", 405, "allow"),
    ];
    for (method, path, status, hint) in cases {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let raw = ask(node.client, request).await;
        assert_eq!(raw.status, status, "{method} {path}");
        assert!(
            raw.error("message").contains(hint),
            "{path}: {}",
            raw.text()
        );
        assert_eq!(raw.header("allow").is_some(), status == 405, "{path}");
    }
}
