//! Ollama's API before a cloud model, and with the model on this machine.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, fake, request, with};

/// As curl sends it: nobody says that it is JSON.
async fn send(hedge: &Hedge, path: &str, body: &Value) -> Reply {
    let body = Bytes::from(body.to_string());
    hedge.send(request(Method::POST, path, body)).await
}

fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}],
        "options": {"temperature": 0}})
}

fn lines(reply: &Reply) -> Vec<Value> {
    let lines = reply.text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn said(lines: &[Value]) -> String {
    let pieces = lines
        .iter()
        .filter_map(|line| line["message"]["content"].as_str());
    pieces.collect()
}

/// The last object's counts, and that its times add up.
fn check_last(last: &Value, completion_tokens: Option<u64>) {
    assert_eq!(last["done"], true, "{last}");
    assert_eq!(last["done_reason"], "stop", "{last}");
    assert!(last["prompt_eval_count"].as_u64().unwrap() > 0, "{last}");
    if let Some(tokens) = completion_tokens {
        assert_eq!(last["eval_count"], tokens, "{last}");
    }
    let time = |name: &str| last[name].as_u64().unwrap_or(0);
    let parts = time("load_duration") + time("prompt_eval_duration") + time("eval_duration");
    assert!(time("eval_duration") > 0, "{last}");
    assert!(parts <= time("total_duration"), "{last}");
}

#[tokio::test]
async fn a_cloud_model_answers_ollamas_clients() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = chat("fake/bench:latest", "[[fake tokens=3]]");
    let reply = send(&hedge, "/api/chat", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    assert_eq!(reply.route(), "cloud:fake");
    assert_eq!(said(&lines(&reply)), "t0 t1 t2 ");
    check_last(lines(&reply).last().unwrap(), Some(3));

    let body = with(body, json!({"stream": false}));
    let reply = send(&hedge, "/api/chat", &body).await;
    assert_eq!(said(&[reply.json()]), "t0 t1 t2 ");
    check_last(&reply.json(), Some(3));

    let tools = json!({"tools": [{"type": "function", "function": {"name": "weather"}}]});
    let body = with(chat("fake/bench", "[[fake call=weather]]"), tools);
    let reply = send(&hedge, "/api/chat", &body).await;
    let lines = lines(&reply);
    let calls: Vec<&Value> = lines
        .iter()
        .flat_map(|line| {
            line["message"]["tool_calls"]
                .as_array()
                .into_iter()
                .flatten()
        })
        .collect();
    assert_eq!(calls.len(), 1, "{}", reply.text);
    assert_eq!(calls[0]["function"]["name"], "weather");
    assert_eq!(
        calls[0]["function"]["arguments"],
        json!({"place": "Lisbon"})
    );

    let body = json!({"model": "fake/bench", "prompt": "hi", "stream": false, "system": "short"});
    let reply = send(&hedge, "/api/generate", &body).await.json();
    assert!(reply["response"].as_str().unwrap().starts_with("t0"));
    let seen = fake.seen().pop().unwrap().body;
    assert_eq!(
        seen["messages"][0],
        json!({"role": "system", "content": "short"})
    );
}

#[tokio::test]
async fn a_raw_prompt_goes_to_the_clouds_own_path() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = json!({"model": "fake/bench", "prompt": "[[fake tokens=2]]", "raw": true,
        "options": {"num_predict": 9, "num_ctx": 64}});
    let reply = send(&hedge, "/api/generate", &body).await;
    let text: String = lines(&reply)
        .iter()
        .filter_map(|line| line["response"].as_str())
        .map(str::to_owned)
        .collect();
    assert_eq!(text, "t0 t1 ", "{}", reply.text);
    let seen = fake.seen().pop().unwrap().body;
    assert_eq!(seen["prompt"], "[[fake tokens=2]]");
    assert_eq!(seen["max_tokens"], 9);
    assert!(seen.get("messages").is_none() && seen.get("/options/num_ctx").is_none());
}

#[tokio::test]
async fn failures_are_sentences_and_broken_streams_end_in_one() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    for (marker, status) in [("status=500", 502), ("status=429 retry-after=7", 429)] {
        let body = chat("fake/bench", &format!("[[fake {marker}]]"));
        let reply = send(&hedge, "/api/chat", &body).await;
        assert_eq!(reply.status.as_u16(), status, "{}", reply.text);
        assert!(reply.json()["error"].is_string(), "{}", reply.text);
    }
    let body = chat("fake/bench", "[[fake cut-after=2]]");
    let reply = send(&hedge, "/api/chat", &body).await;
    let lines = lines(&reply);
    assert_eq!(said(&lines), "t0 t1 ");
    assert!(lines.last().unwrap()["error"].is_string(), "{}", reply.text);
    assert!(lines.iter().all(|line| line["done"] != true));
}

#[cfg(feature = "llama")]
mod here {
    use super::*;

    const QUESTION: &str = "What is the capital of Portugal?";

    #[tokio::test]
    async fn the_model_on_this_machine_answers_ollamas_clients() {
        let hedge = Hedge::start("").await;
        // Asked first: a repeat would come from the cache.
        let reply = send(&hedge, "/api/chat", &chat("local:latest", QUESTION)).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        let lines = lines(&reply);
        assert!(said(&lines).contains("Lisbon"), "{}", reply.text);
        check_last(lines.last().unwrap(), None);
        let whole = with(chat("local", QUESTION), json!({"stream": false}));
        let reply = send(&hedge, "/api/chat", &whole).await.json();
        assert_eq!(reply["message"]["content"], said(&lines));

        let schema = json!({"type": "object", "properties": {"sure": {"type": "boolean"}},
            "required": ["sure"], "additionalProperties": false});
        let body = json!({"model": "local", "prompt": QUESTION, "format": schema, "stream": false});
        let reply = send(&hedge, "/api/generate", &body).await.json();
        let told: Value = serde_json::from_str(reply["response"].as_str().unwrap()).unwrap();
        assert!(told["sure"].is_boolean(), "{told}");
    }

    #[tokio::test]
    async fn a_model_is_loaded_listed_and_shown() {
        let hedge = Hedge::start("[local]\nload = \"demand\"").await;
        let running = async || hedge.get("/api/ps").await.json();
        assert_eq!(running().await, json!({"models": []}));
        let reply = send(&hedge, "/api/generate", &json!({"model": "local"})).await;
        assert_eq!(reply.json()["done_reason"], "load", "{}", reply.text);
        let model = reply.json()["model"].as_str().unwrap().to_owned();
        let running = running().await;
        // By its own name, whatever it was asked by.
        assert_eq!(running["models"][0]["name"], "hedge-tiny", "{running}");
        assert!(running["models"][0]["size"].as_u64().unwrap() > 0);

        let tags = hedge.get("/api/tags").await.json();
        let tags = tags["models"].as_array().unwrap();
        let tag = tags.iter().find(|tag| tag["name"] == *model).unwrap();
        assert!(tag["size"].as_u64().unwrap() > 0, "{tag}");
        let shown = send(&hedge, "/api/show", &json!({ "model": model }))
            .await
            .json();
        let family = shown["details"]["family"].as_str().unwrap();
        assert!(!family.is_empty());
        assert_eq!(shown["model_info"]["general.architecture"], family);
        let context = &shown["model_info"][format!("{family}.context_length")];
        assert!(context.as_u64().unwrap() > 0, "{}", shown["model_info"]);
        assert!(shown["template"].as_str().unwrap().contains("messages"));
        let capabilities = shown["capabilities"].as_array().unwrap();
        assert!(
            capabilities.contains(&json!("completion")),
            "{capabilities:?}"
        );
    }
}
