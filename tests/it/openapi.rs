//! The document of the API is true: what it lists is there, and what is answered has its shape.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, chat_request, eventually, fake, request};

/// Of the methods that OpenAPI names.
fn method(word: &str) -> Option<Method> {
    Method::from_bytes(word.to_ascii_uppercase().as_bytes()).ok()
}

/// The value is what the document's schema of that name allows.
pub fn has_shape(document: &Value, name: &str, value: &Value) {
    let mut schema = json!({"$ref": format!("#/components/schemas/{name}")});
    schema["components"] = document["components"].clone();
    let shape = jsonschema::validator_for(&schema).unwrap();
    let faults: Vec<String> = shape.iter_errors(value).map(|it| it.to_string()).collect();
    assert_eq!(faults, [""; 0], "{name}: {value}");
}

#[tokio::test]
async fn every_operation_of_the_document_is_there() {
    let hedge = Hedge::start("").await;
    let document = hedge.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    eventually("there is a file of records", async || {
        hedge.admin_get("/admin/v1/savings").await.status == StatusCode::OK
    })
    .await;
    let mut count = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let is_admin = operations.get("servers").is_some();
        for (word, operation) in operations.as_object().unwrap() {
            let Some(method) = method(word).filter(|_| operation.get("responses").is_some()) else {
                continue;
            };
            count += 1;
            let place = path
                .replace("{id}", "local")
                .replace("{name}", "nobody")
                .replace("{digest}", "sha256:00");
            let reply = if is_admin {
                let body = if method == Method::GET { "" } else { "{}" };
                hedge.admin_send(method, &place, body).await
            } else {
                let body = if method == Method::POST { "{}" } else { "" };
                let mut asked = request(method, &place, Bytes::from(body));
                let json = http::HeaderValue::from_static("application/json");
                asked.headers_mut().insert("content-type", json);
                hedge.send(asked).await
            };
            assert_ne!(
                reply.status,
                StatusCode::METHOD_NOT_ALLOWED,
                "{word} {path}"
            );
            let is_nowhere = reply.text.contains("there is nothing at this path");
            let is_kept_thing = path.starts_with("/v1/responses/") || path.contains("{name}");
            assert!(
                !is_nowhere || is_kept_thing,
                "{word} {path}: {}",
                reply.text
            );
            let status = reply.status.as_u16().to_string();
            let told = operation["responses"].as_object().unwrap();
            assert!(
                told.contains_key(&status),
                "{word} {path} answers {status}: {}",
                reply.text
            );
        }
    }
    assert!(count >= 64, "{count} operations");
}

#[tokio::test]
async fn chats_have_the_shape_that_the_document_says() {
    let hedge = Hedge::start("").await;
    let document = hedge.get("/openapi.json").await.json();
    let check = |name: &str, value: &Value| has_shape(&document, name, value);
    let hi = json!([{"role": "user", "content": "hi"}]);
    let post = async |path: &str, body: Value| {
        let mut asked = request(Method::POST, path, Bytes::from(body.to_string()));
        let json = http::HeaderValue::from_static("application/json");
        asked.headers_mut().insert("content-type", json);
        hedge.send(asked).await
    };
    let whole = [
        (
            "/v1/chat/completions",
            "ChatCompletion",
            json!({"model": "local", "messages": hi, "logprobs": true, "top_logprobs": 2}),
        ),
        (
            "/v1/completions",
            "Completion",
            json!({"model": "local", "prompt": "Once"}),
        ),
        (
            "/v1/responses",
            "ResponseObject",
            json!({"model": "local", "input": "hi"}),
        ),
        (
            "/v1/messages",
            "AnthropicMessage",
            json!({"model": "local", "messages": hi, "max_tokens": 20}),
        ),
        (
            "/v1/messages/count_tokens",
            "TokenCount",
            json!({"model": "local", "messages": hi}),
        ),
        (
            "/api/chat",
            "OllamaChat",
            json!({"model": "local", "messages": hi, "stream": false}),
        ),
        (
            "/api/generate",
            "OllamaGenerated",
            json!({"model": "local", "prompt": "hi", "stream": false}),
        ),
        ("/api/show", "OllamaShown", json!({"model": "local"})),
        (
            "/tokenize",
            "Tokens",
            json!({"content": "hi", "with_pieces": true}),
        ),
        ("/apply-template", "Prompt", json!({"messages": hi})),
    ];
    for (path, name, body) in whole {
        let reply = post(path, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text);
        check(name, &reply.json());
    }
    let streamed = json!({"model": "local", "messages": hi, "stream": true, "stream_options": {"include_usage": true}});
    let reply = post("/v1/chat/completions", streamed).await;
    let chunks = reply.chunks();
    assert!(chunks.len() > 2);
    chunks.iter().for_each(|chunk| check("ChatChunk", chunk));
    let streamed = json!({"model": "local", "messages": hi, "max_tokens": 20, "stream": true});
    let reply = post("/v1/messages", streamed).await;
    let data = reply
        .text
        .lines()
        .filter_map(|it| it.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|it| serde_json::from_str(it).unwrap()).collect();
    assert!(events.len() > 5, "{}", reply.text);
    for event in &events {
        check("AnthropicStreamEvent", event);
    }
    let reply = post("/api/chat", json!({"model": "local", "messages": hi})).await;
    let lines = reply.text.lines().map(serde_json::from_str);
    let lines: Vec<Value> = lines.map(Result::unwrap).collect();
    // Out of the cache all of the text may be in one line; the last says how it ended.
    assert!(lines.len() >= 2, "{}", reply.text);
    lines.iter().for_each(|line| check("OllamaChat", line));
    let said = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let reply = post("/v1beta/models/local:generateContent", said).await;
    check("Generated", &reply.json());
    let reply = post("/v1beta/models/local:generateContent", json!({})).await;
    check("GoogleError", &reply.json());
    let bad = post("/v1/chat/completions", json!({})).await;
    check("Error", &bad.json());
    check(
        "AnthropicError",
        &post("/v1/messages", json!({})).await.json(),
    );
    check("OllamaError", &post("/api/chat", json!({})).await.json());
    for (path, name) in [
        ("/v1/models", "ModelList"),
        ("/api/tags", "OllamaTags"),
        ("/api/ps", "OllamaRunning"),
        ("/api/version", "OllamaVersion"),
        ("/readyz", "Ready"),
    ] {
        check(name, &hedge.get(path).await.json());
    }
    check("Health", &hedge.admin_get("/admin/health").await.json());
    check("Board", &hedge.admin_get("/admin/v1/models").await.json());
}

#[tokio::test]
async fn records_and_what_they_come_to_have_the_shape_that_the_document_says() {
    let cloud = fake();
    let config = format!(
        "[savings]\nreference_model = 'fake/bench'
        [[upstreams]]\nname = 'fake'\nbase_url = '{}'\nkey = 'env:FAKE_KEY'
        models = ['bench', 'unpriced']
        [[upstreams]]\nname = 'dead'\nbase_url = 'http://127.0.0.1:1/v1'\nmodels = ['big']
        [aliases]\nsafe = ['dead/big', 'fake/bench']
        [[prices]]\nupstream = 'fake'\nmodels = ['bench']\ninput = 2.0\noutput = 30.0\n",
        cloud.base_url()
    );
    let hedge = Hedge::start(&config).await;
    let document = hedge.get("/openapi.json").await.json();
    // From the cloud, from the cache, without a price, from somebody else, from this machine, from nobody.
    let asked = [
        ("fake/bench", "one"),
        ("fake/bench", "one"),
        ("fake/unpriced", "two"),
        ("safe", "three"),
        ("local", "hi"),
        ("nobody/none", "four"),
    ];
    for (model, text) in asked {
        hedge.send(chat_request(&ask(model, text))).await;
    }
    let answer = async |path: &str| {
        let reply = hedge.admin_get(&format!("/admin/v1/{path}")).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text);
        reply.json()
    };
    let count = format!(
        "hedge_records_total{{result=\"written\"}} {}\n",
        asked.len()
    );
    eventually("all records are written", async || {
        hedge.metrics().await.contains(&count)
    })
    .await;
    let told = answer("records").await;
    assert_eq!(told["before"], Value::Null);
    has_shape(&document, "Records", &told);
    let records = told["records"].as_array().unwrap().iter();
    let places: Vec<&str> = records.map(|it| it["place"].as_str().unwrap()).collect();
    assert_eq!(
        places,
        [
            "nobody", "local", "upstream", "upstream", "cache", "upstream"
        ]
    );
    let told = answer("records?limit=2").await;
    has_shape(&document, "Records", &told);
    let before = told["before"].as_str().unwrap();
    has_shape(
        &document,
        "Records",
        &answer(&format!("records?before={before}")).await,
    );
    for path in [
        "savings",
        "savings?since=today&team=nobody",
        "savings?since=2026-01-01",
    ] {
        has_shape(&document, "Savings", &answer(path).await);
    }
    let told = answer("overview").await;
    has_shape(&document, "Overview", &told);
    assert_eq!(told["latency"].as_array().unwrap().len(), 3);
}
