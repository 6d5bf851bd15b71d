//! OpenAI's older completions at their door.

use serde_json::Value;

use crate::client::{ask, post};
use crate::node::node;

const PATH: &str = "/v1/completions";
const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn a_prompt_is_answered_raw_whole_and_streamed() {
    let node = node().await;
    let body = r#"{"model":"local","prompt":"Once","echo":true}"#;
    let raw = ask(node.client, post(PATH, JSON, body)).await;
    assert_eq!(raw.status, 200, "{}", raw.text());
    let reply = raw.json();
    assert_eq!(reply["object"], "text_completion");
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(reply["choices"][0]["text"], "Oncehello there");
    assert_eq!(reply["usage"]["total_tokens"], 5);
    assert_eq!(raw.header("x-hedge-route"), Some("local:tiny"));
    assert!(raw.header("openai-processing-ms").is_some());
    let call = node.calls.lock().unwrap()[0].clone();
    assert!(call.request().is_raw());
    assert_eq!(call.request().messages[0].text(), "Once");

    let body = r#"{"model":"local","prompt":"Twice","stream":true}"#;
    let raw = ask(node.client, post(PATH, JSON, body)).await;
    assert_eq!(
        raw.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let chunks = raw
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"));
    let chunks: Vec<Value> = chunks
        .map(|rest| serde_json::from_str(&format!("{{{rest}")).unwrap())
        .collect();
    let said: String = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(said, "hello there");
    assert!(raw.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_raw_prompt_and_a_chat_of_the_same_words_are_two_requests() {
    let node = node().await;
    let chat = r#"{"model":"local","messages":[{"role":"user","content":"hi"}],"max_tokens":16}"#;
    let prompt = r#"{"model":"local","prompt":"hi"}"#;
    for (path, body, route) in [
        ("/v1/chat/completions", chat, "local:tiny"),
        (PATH, prompt, "local:tiny"),
        (PATH, prompt, "cache:exact"),
        ("/v1/chat/completions", chat, "cache:exact"),
    ] {
        let raw = ask(node.client, post(path, JSON, body)).await;
        assert_eq!(raw.header("x-hedge-route"), Some(route), "{path}");
    }
}

#[tokio::test]
async fn what_is_not_taken_is_said_by_its_place() {
    let node = node().await;
    for (body, param) in [
        (r#"{"model":"local","prompt":["a","b"]}"#, "prompt"),
        (r#"{"model":"local","prompt":[1,2]}"#, "prompt"),
        (r#"{"model":"local","prompt":"a","best_of":3}"#, "best_of"),
        (r#"{"model":"local","prompt":"a","suffix":"b"}"#, "suffix"),
    ] {
        let raw = ask(node.client, post(PATH, JSON, body)).await;
        assert_eq!(raw.status, 400, "{body}");
        assert_eq!(raw.error("param"), param, "{}", raw.text());
    }
    let raw = ask(
        node.client,
        post(PATH, "", r#"{"model":"local","prompt":"a"}"#),
    )
    .await;
    assert_eq!(raw.status, 415);
}
