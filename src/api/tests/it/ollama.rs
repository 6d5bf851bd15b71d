//! Ollama's API at its doors.

use domain::HealthState;
use serde_json::{Value, json};

use crate::client::{Client, Raw, ask, get, post};
use crate::node::{Node, Recipe, node};

/// As curl sends a body when it is not told what it is.
const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";

async fn embedding() -> Node {
    let recipe = Recipe {
        embeds: true,
        ..Recipe::default()
    };
    recipe.start().await
}

async fn send(node: &Node, path: &str, body: &Value) -> Raw {
    ask(node.client, post(path, FORM, &body.to_string())).await
}

fn lines(raw: &Raw) -> Vec<Value> {
    let lines = raw.text().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn hello() -> Value {
    json!({"model": "local", "messages": [{"role": "user", "content": "hi"}]})
}

/// What the last object counts.
fn check_counts(last: &Value) {
    assert_eq!(last["done"], true);
    assert_eq!(last["done_reason"], "stop");
    assert_eq!(last["prompt_eval_count"], 3);
    assert_eq!(last["eval_count"], 2);
    let parts = ["load_duration", "prompt_eval_duration", "eval_duration"];
    let parts = parts.map(|name| last[name].as_u64().unwrap_or(0));
    let total = last["total_duration"].as_u64().unwrap();
    assert!(total > 0 && parts.iter().sum::<u64>() <= total, "{last}");
}

#[tokio::test]
async fn chats_and_prompts_are_answered_in_lines_and_whole() {
    let node = node().await;
    let prompt = json!({"model": "local:latest", "prompt": "hi"});
    for (path, body, said) in [
        ("/api/chat", hello(), "/message/content"),
        ("/api/generate", prompt, "/response"),
    ] {
        let raw = send(&node, path, &body).await;
        assert_eq!(raw.status, 200, "{}", raw.text());
        assert_eq!(raw.header("content-type"), Some("application/x-ndjson"));
        assert!(raw.header("x-hedge-route").is_some());
        assert!(raw.header("openai-processing-ms").is_some());
        let lines = lines(&raw);
        let text: String = lines
            .iter()
            .map(|line| line.pointer(said).unwrap().as_str().unwrap())
            .collect();
        assert_eq!(text, "hello there");
        let (last, pieces) = lines.split_last().unwrap();
        assert!(pieces.iter().all(|piece| piece["done"] == false));
        assert_eq!(last["model"], "tiny");
        check_counts(last);
        assert!(last.get("hedge").is_none(), "the head said it");

        let mut body = body;
        body["stream"] = false.into();
        let raw = send(&node, path, &body).await;
        assert_eq!(raw.header("content-type"), Some("application/json"));
        assert_eq!(raw.json().pointer(said).unwrap(), "hello there");
        check_counts(&raw.json());
    }
}

#[tokio::test]
async fn errors_are_a_sentence() {
    let node = node().await;
    for (body, status, words) in [
        (
            json!({"model": "nobody", "messages": [{"role": "user"}]}),
            404,
            "nobody",
        ),
        (json!({"messages": []}), 400, "model"),
        (
            json!({"model": "local", "options": {"top_p": 7}}),
            400,
            "options.top_p",
        ),
        (json!([]), 400, "model"),
    ] {
        let raw = send(&node, "/api/chat", &body).await;
        assert_eq!(raw.status, status, "{body}");
        let error = raw.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{error}");
    }
    let turns = [
        ("POST", "/api/nothing", 404, "/api/tags"),
        ("GET", "/api/chat", 405, "allow"),
        ("GET", "/api/embed", 405, "allow"),
        ("POST", "/api/tags", 405, "allow"),
        ("POST", "/api/pull", 501, "hedge models pull"),
        ("POST", "/api/push", 501, "operator"),
        ("POST", "/api/create", 501, "operator"),
        ("POST", "/api/copy", 501, "operator"),
        ("DELETE", "/api/delete", 501, "operator"),
        ("POST", "/api/blobs/sha256:00", 501, "operator"),
        // Every method was once refused as if models were fetched by it.
        ("GET", "/api/pull", 405, "allow"),
        ("TRACE", "/api/push", 405, "allow"),
        ("POST", "/api/delete", 405, "allow"),
        ("PUT", "/api/blobs/sha256:00", 405, "allow"),
    ];
    for (method, path, status, words) in turns {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let raw = ask(node.client, request).await;
        assert_eq!(raw.status, status, "{method} {path}");
        let error = raw.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(words), "{path}: {error}");
    }
}

#[tokio::test]
async fn nothing_to_say_loads_the_model() {
    let node = node().await;
    for (path, body) in [
        ("/api/chat", json!({"model": "local"})),
        (
            "/api/generate",
            json!({"model": "tiny:latest", "keep_alive": "1h"}),
        ),
        ("/api/generate", json!({"model": "auto"})),
    ] {
        let raw = send(&node, path, &body).await;
        assert_eq!(raw.status, 200, "{}", raw.text());
        assert_eq!(raw.json()["done_reason"], "load");
        assert_eq!(raw.json()["done"], true);
    }
    assert!(node.calls.lock().unwrap().is_empty(), "nobody was asked");
    let raw = send(&node, "/api/chat", &json!({"model": "nobody"})).await;
    assert_eq!(raw.status, 404);
    for (health, status) in [(HealthState::Starting, 503), (HealthState::Down, 503)] {
        let recipe = Recipe {
            health,
            ..Recipe::default()
        };
        let node = recipe.start().await;
        let raw = send(&node, "/api/chat", &json!({"model": "local"})).await;
        assert_eq!(raw.status, status, "{health:?}: {}", raw.text());
    }
}

#[tokio::test]
async fn models_are_listed_and_shown() {
    let node = embedding().await;
    let listed = get(node.client, "/api/tags").await.json();
    let names: Vec<&str> = listed["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["auto", "local", "tiny", "lengths", "finder", "second"]
    );
    for model in listed["models"].as_array().unwrap() {
        // Ollama's own client cuts it.
        assert_eq!(model["digest"].as_str().unwrap().len(), 64);
        let body = json!({"model": format!("{}:latest", model["name"].as_str().unwrap())});
        let shown = send(&node, "/api/show", &body).await;
        assert_eq!(shown.status, 200, "{}", shown.text());
        assert!(shown.json()["model_info"].is_object());
        assert!(shown.json()["details"].is_object());
    }
    let shown = send(&node, "/api/show", &json!({"model": "local"}))
        .await
        .json();
    assert_eq!(
        shown["capabilities"],
        json!(["completion", "tools", "vision", "audio"])
    );
    assert_eq!(shown["model_info"]["general.context_length"], 2048);
    let shown = send(&node, "/api/show", &json!({"name": "lengths"}))
        .await
        .json();
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    assert_eq!(shown["model_info"]["general.embedding_length"], 2);
    let raw = send(&node, "/api/show", &json!({"model": "nobody"})).await;
    assert_eq!(raw.status, 404);
    assert!(raw.json()["error"].as_str().unwrap().contains("nobody"));
    // No board knows what is loaded.
    assert_eq!(
        get(node.client, "/api/ps").await.json(),
        json!({"models": []})
    );
}

#[tokio::test]
async fn texts_are_embedded_in_both_forms() {
    let node = embedding().await;
    let body = json!({"model": "lengths:latest", "input": ["a", "bcd"], "truncate": true});
    let raw = send(&node, "/api/embed", &body).await;
    assert_eq!(raw.status, 200, "{}", raw.text());
    assert_eq!(raw.json()["embeddings"], json!([[1.0, 0.0], [3.0, 0.0]]));
    assert_eq!(raw.json()["prompt_eval_count"], 7);
    assert_eq!(raw.json()["model"], "lengths");
    assert_eq!(raw.header("x-hedge-route"), Some("local:lengths"));
    let body = json!({"model": "lengths", "prompt": "ab"});
    let raw = send(&node, "/api/embeddings", &body).await;
    assert_eq!(raw.json(), json!({"embedding": [2.0, 0.0]}));
    for (path, body, answer) in [
        ("/api/embed", json!({"model": "lengths"}), "/embeddings"),
        ("/api/embeddings", json!({"model": "lengths"}), "/embedding"),
    ] {
        let raw = send(&node, path, &body).await;
        assert_eq!(raw.json().pointer(answer), Some(&json!([])));
    }
    let raw = send(
        &node,
        "/api/embed",
        &json!({"model": "local", "input": "a"}),
    )
    .await;
    assert_eq!(raw.status, 400);
    assert!(raw.json()["error"].as_str().unwrap().contains("lengths"));
}

#[tokio::test]
async fn clients_find_out_that_somebody_is_there() {
    let node = node().await;
    let raw = get(node.client, "/").await;
    assert_eq!(raw.status, 200);
    assert!(raw.text().starts_with("Ollama is running"));
    assert!(raw.text().contains("/v1/chat/completions"));
    let mut client = Client::connect(node.client).await;
    client
        .send("HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status, 200);
    let version = get(node.client, "/api/version").await.json();
    let version = version["version"].as_str().unwrap();
    assert!(
        version.split('.').all(|part| part.parse::<u32>().is_ok()),
        "{version}"
    );
    assert_eq!(get(node.admin, "/api/version").await.status, 404);
    assert_eq!(get(node.admin, "/").await.status, 404);
}

#[tokio::test]
async fn keys_are_asked_for_as_everywhere() {
    let recipe = Recipe {
        key: Some("sk-1"),
        embeds: true,
        ..Recipe::default()
    };
    let node = recipe.start().await;
    let bearer = "authorization: Bearer sk-1\r\n";
    for (path, body) in [
        ("/api/chat", hello()),
        ("/api/chat", json!({"model": "local"})),
        ("/api/show", json!({"model": "local"})),
        ("/api/embed", json!({"model": "lengths", "input": "a"})),
    ] {
        let body = body.to_string();
        let raw = ask(node.client, post(path, "", &body)).await;
        assert_eq!(raw.status, 401, "{path}");
        assert!(raw.json()["error"].is_string());
        let raw = ask(node.client, post(path, bearer, &body)).await;
        assert_eq!(raw.status, 200, "{path}: {}", raw.text());
    }
    for path in ["/api/tags", "/api/ps"] {
        assert_eq!(get(node.client, path).await.status, 401, "{path}");
    }
    assert_eq!(get(node.client, "/api/version").await.status, 200);
}

/// A page of the web may send such a body without asking first; it may not call all the same.
#[tokio::test]
async fn pages_of_the_web_are_not_let_in_by_the_form_of_their_body() {
    let node = node().await;
    let lines = format!("{FORM}origin: https://evil.example\r\n");
    let raw = ask(node.client, post("/api/chat", &lines, &hello().to_string())).await;
    assert_eq!(raw.status, 403);
    assert!(node.calls.lock().unwrap().is_empty());
    let lines = "content-encoding: gzip\r\n";
    let raw = ask(node.client, post("/api/chat", lines, &hello().to_string())).await;
    assert_eq!(raw.status, 415);
}
