//! Moderation, where somebody judges.

use serde_json::json;

use crate::client::ask;
use crate::node::{Recipe, node};
use crate::reading::post;

const PATH: &str = "/v1/moderations";

#[tokio::test]
async fn an_answer_goes_back_as_it_came() {
    let recipe = Recipe {
        judges: true,
        ..Recipe::default()
    };
    let node = recipe.start().await;
    for body in [
        json!({"input": ["a", "b"]}),
        json!({"model": "judge", "input": ["a", "b"]}),
        json!({"model": "local/judge", "input": ["a", "b"]}),
    ] {
        let raw = ask(node.client, post(PATH, "", &body)).await;
        assert_eq!((raw.status, raw.text()), (200, r#"{"results":2}"#));
        assert_eq!(raw.header("x-hedge-route"), Some("cloud:local"));
        assert_eq!(raw.header("x-hedge-reason"), Some("moderation"));
    }
    assert_eq!(node.calls.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_wrong_is_said_in_openais_form() {
    let recipe = Recipe {
        judges: true,
        key: Some("sk-a"),
        ..Recipe::default()
    };
    let node = recipe.start().await;
    let key = "authorization: Bearer sk-a\r\n";
    for (headers, body, status, param) in [
        ("", json!({"input": "a"}), 401, ""),
        (key, json!({"input": [1]}), 400, "input[0]"),
        (key, json!({"model": "tiny", "input": "a"}), 400, "model"),
        (key, json!({"model": "none", "input": "a"}), 404, "model"),
    ] {
        let raw = ask(node.client, post(PATH, headers, &body)).await;
        assert_eq!(raw.status, status, "{body}: {}", raw.text());
        if !param.is_empty() {
            assert_eq!(raw.error("param"), param, "{body}");
        }
        assert!(!raw.error("message").is_empty());
    }
    assert!(node.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn where_nobody_judges_that_is_said_whatever_is_asked() {
    let node = node().await;
    for body in [json!({"input": "a"}), json!([])] {
        let raw = ask(node.client, post(PATH, "", &body)).await;
        assert_eq!((raw.status, &*raw.error("code")), (501, "not_offered"));
    }
}
