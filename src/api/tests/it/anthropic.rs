//! Anthropic's API at its own paths: messages, counts, models, keys and refusals.

use api::IngressConfig;
use domain::{BackendError, ChatEvent, FinishReason, HealthState, Seal, SealKind, ToolCallPart};
use serde_json::{Value, json};

use crate::client::{Client, Raw, ask, chat};
use crate::node::{Event, Live, Node, Recipe, Script, end, live, node, started, text};
use crate::reading::post;

const VERSION: &str = "anthropic-version: 2023-06-01\r\nanthropic-beta: a,b\r\n";

fn hello(more: Value) -> Value {
    let mut body = json!({
        "model": "local", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}],
    });
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body
}

fn messages(headers: &str, more: Value) -> String {
    post("/v1/messages", &format!("{VERSION}{headers}"), &hello(more))
}

async fn send(node: &Node, more: Value) -> Raw {
    ask(node.client, messages("", more)).await
}

async fn get(node: &Node, path: &str, headers: &str) -> Raw {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    ask(node.client, request).await
}

/// The events of a stream, whose names are their data's types.
fn events(body: &str) -> Vec<Value> {
    let events = body.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(
            name.strip_prefix("event: "),
            data["type"].as_str(),
            "{event}"
        );
        data
    });
    events.collect()
}

fn saying(events: Vec<Event>) -> Recipe {
    let mut script = vec![started()];
    script.extend(events);
    Recipe {
        script: Script::Says(script),
        ..Recipe::default()
    }
}

/// `error.type` and `error.message` of a refusal in Anthropic's form.
fn refusal(raw: &Raw) -> (String, String) {
    let body = raw.json();
    assert_eq!(body["type"], "error", "{body}");
    assert_eq!(
        body["request_id"].as_str(),
        raw.header("x-request-id"),
        "{body}"
    );
    assert_eq!(raw.header("request-id"), raw.header("x-request-id"));
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    (raw.error("type"), raw.error("message"))
}

#[tokio::test]
async fn a_whole_message_has_anthropics_shape() {
    let node = node().await;
    let raw = send(&node, json!({})).await;
    assert_eq!(raw.status, 200, "{}", raw.text());
    assert_eq!(raw.header("content-type"), Some("application/json"));
    assert_eq!(raw.header("x-hedge-route"), Some("local:tiny"));
    assert_eq!(raw.header("request-id"), raw.header("x-request-id"));
    let mut message = raw.json();
    let id = message["id"].take();
    assert!(id.as_str().unwrap().starts_with("msg_"), "{id}");
    let expected = json!({
        "id": null,
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "hello there"}],
        "stop_reason": "end_turn",
        "stop_sequence": null,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
        },
    });
    assert_eq!(message, expected);
}

#[tokio::test]
async fn a_streamed_message_has_anthropics_events() {
    let node = node().await;
    let raw = send(&node, json!({"stream": true})).await;
    assert!(raw.is_complete);
    let kind = Some("text/event-stream; charset=utf-8");
    assert_eq!(raw.header("content-type"), kind);
    let seen = events(raw.text());
    let kinds: Vec<&str> = seen.iter().map(|it| it["type"].as_str().unwrap()).collect();
    let expected = [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(kinds, expected);
    let said: String = seen
        .iter()
        .filter_map(|event| event["delta"]["text"].as_str())
        .collect();
    assert_eq!(said, "hello there");
    assert_eq!(seen[6]["delta"]["stop_reason"], "end_turn");
    assert_eq!(seen[6]["usage"]["input_tokens"], 3);
    // A repeat comes from the cache, in the same form.
    let again = send(&node, json!({"stream": true})).await;
    assert_eq!(again.header("x-hedge-route"), Some("cache:exact"));
    let last = events(again.text()).pop().unwrap();
    assert_eq!(last["type"], "message_stop");
}

#[tokio::test]
async fn tools_thoughts_and_stops_pass_both_ways() {
    let thought = |text: &str| {
        Ok(ChatEvent::Thought {
            choice: 0,
            text: text.into(),
        })
    };
    let seal = Ok(ChatEvent::Seal {
        choice: 0,
        seal: Seal {
            of: domain::Dialect::Gemini,
            kind: SealKind::Signature,
            data: "c2ln".into(),
        },
    });
    let call = Ok(ChatEvent::ToolCall {
        choice: 0,
        index: 0,
        part: ToolCallPart {
            id: Some("call_1".into()),
            name: Some("f".into()),
            arguments: r#"{"a":1}"#.into(),
            seal: None,
        },
    });
    let ended = Ok(ChatEvent::ChoiceEnded {
        choice: 0,
        reason: FinishReason::ToolCalls,
    });
    let node = saying(vec![thought("hm"), seal, call, ended]).start().await;
    let tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let asked = json!({
        "system": "Be brief.",
        "tools": tools,
        "tool_choice": {"type": "any"},
        "stop_sequences": ["a", "b", "c", "d", "e"],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    });
    let raw = send(&node, asked).await;
    let message = raw.json();
    let content = json!([
        {"type": "thinking", "thinking": "hm", "signature": "hedge.gemini.c2ln"},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
    ]);
    assert_eq!(message["content"], content, "{message}");
    assert_eq!(message["stop_reason"], "tool_use");
    let answered = json!({
        "tools": tools,
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": content},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "no", "is_error": true},
            ]},
        ],
    });
    assert_eq!(send(&node, answered).await.status, 200);
    let calls = node.calls.lock().unwrap();
    let [first, second] = &calls[..] else {
        panic!("two calls");
    };
    let first = first.request();
    assert_eq!(first.messages[0].text(), "Be brief.");
    assert_eq!(first.sampling.stop.len(), 5);
    assert_eq!(first.tool_choice, domain::ToolChoice::Required);
    let messages = &second.request().messages;
    let made = domain::Part::Seal(Seal {
        of: domain::Dialect::Gemini,
        kind: SealKind::Signature,
        data: "c2ln".into(),
    });
    assert_eq!(messages[1].content[1], made);
    assert_eq!(messages[1].tool_calls[0].id, "call_1");
    assert!(messages[2].is_failure);
}

#[tokio::test]
async fn refusals_are_anthropics_at_its_paths() {
    let node = node().await;
    let long = json!({"system": "x".repeat(5 << 20)});
    let form = "content-type: text/plain\r\n";
    let body = hello(json!({})).to_string();
    let plain = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n{form}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let bare = |line: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\n{VERSION}\r\n");
    for (request, status, kind, says) in [
        (
            messages("", json!({"max_tokens": null})),
            400,
            "invalid_request_error",
            "'max_tokens'",
        ),
        (
            messages(
                "",
                json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            ),
            400,
            "invalid_request_error",
            "messages[0].content[0].text",
        ),
        (
            messages("", json!({"model": "tinny"})),
            404,
            "not_found_error",
            "tiny",
        ),
        (messages("", long), 413, "request_too_large", "larger"),
        (plain, 415, "invalid_request_error", "application/json"),
        (
            bare("GET /v1/messages"),
            405,
            "invalid_request_error",
            "method",
        ),
        (
            bare("GET /v1/messages/count_tokens"),
            405,
            "invalid_request_error",
            "method",
        ),
        (
            bare("POST /v1/messages/batches"),
            404,
            "not_found_error",
            "count_tokens",
        ),
        (
            bare("POST /v1/complete"),
            404,
            "not_found_error",
            "/v1/messages",
        ),
        (
            bare("POST /v1/v1/messages"),
            404,
            "not_found_error",
            "base_url",
        ),
        (bare("GET /v1/models/tinny"), 404, "not_found_error", "tiny"),
    ] {
        let raw = ask(node.client, &request).await;
        assert_eq!(raw.status, status, "{:.90}", request);
        let (seen, message) = refusal(&raw);
        assert_eq!(seen, kind, "{:.90}", request);
        assert!(message.contains(says), "{:.90}: {message}", request);
    }
    // Elsewhere they are OpenAI's.
    let raw = ask(node.client, chat("", "{}")).await;
    assert_eq!(raw.json().get("type"), None);
    assert_eq!(raw.header("request-id"), None);
}

#[tokio::test]
async fn a_failure_behind_us_has_anthropics_words() {
    let limited = BackendError::RateLimited {
        retry_after: Some(std::time::Duration::from_secs(7)),
    };
    for (error, status, kind) in [
        (limited, 429, "rate_limit_error"),
        (BackendError::Failed { status: 500 }, 502, "api_error"),
    ] {
        let recipe = Recipe {
            script: Script::Says(vec![Err(error)]),
            ..Recipe::default()
        };
        let node = recipe.start().await;
        let raw = send(&node, json!({})).await;
        assert_eq!(raw.status, status, "{}", raw.text());
        assert_eq!(refusal(&raw).0, kind);
        let waits = raw.header("retry-after").is_some();
        assert_eq!(waits, status == 429);
    }
    let recipe = Recipe {
        health: HealthState::Starting,
        ..Recipe::default()
    };
    let node = recipe.start().await;
    let counted = post("/v1/messages/count_tokens", "", &hello(json!({})));
    let raw = ask(node.client, counted).await;
    assert_eq!(
        (raw.status, refusal(&raw).0.as_str()),
        (529, "overloaded_error")
    );
}

#[tokio::test]
async fn a_stream_that_breaks_ends_in_an_error_event() {
    let recipe = saying(vec![text("half"), Err(BackendError::Interrupted)]);
    let node = recipe.start().await;
    let raw = send(&node, json!({"stream": true})).await;
    assert!(!raw.is_complete, "the body must not look whole");
    let seen = events(raw.text());
    let last = seen.last().unwrap();
    assert_eq!(last["type"], "error");
    assert_eq!(last["error"]["type"], "api_error");
    assert!(seen.iter().all(|event| event["type"] != "message_stop"));
}

#[tokio::test(start_paused = true)]
async fn a_silence_is_broken_by_pings() {
    let Live {
        node,
        events,
        ended: _ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(messages("", json!({"stream": true}))).await;
    events.send(started()).await.unwrap();
    events.send(text("a")).await.unwrap();
    client.until("\"a\"").await;
    for _ in 0..2 {
        client
            .until("event: ping\ndata: {\"type\":\"ping\"}\n\n")
            .await;
    }
    for event in end() {
        events.send(event).await.unwrap();
    }
    drop(events);
    client.until("event: message_stop").await;
}

#[tokio::test]
async fn a_key_may_come_in_either_header() {
    let keyed = Recipe {
        key: Some("k"),
        ..Recipe::default()
    };
    let node = keyed.start().await;
    for (header, status) in [
        ("x-api-key: k\r\n", 200),
        ("authorization: Bearer k\r\n", 200),
        ("authorization: Bearer k\r\nx-api-key: other\r\n", 200),
        ("x-api-key: other\r\n", 401),
        ("authorization: Bearer other\r\nx-api-key: k\r\n", 401),
        ("", 401),
        ("x-api-key: k\r\nx-api-key: k\r\n", 400),
    ] {
        let raw = ask(node.client, messages(header, json!({}))).await;
        assert_eq!(raw.status, status, "{header}: {}", raw.text());
        match status {
            401 => assert_eq!(refusal(&raw).0, "authentication_error"),
            400 => assert_eq!(refusal(&raw).0, "invalid_request_error"),
            _ => {}
        }
        let listed = get(&node, "/v1/models", header).await;
        assert_eq!(listed.status, status, "{header}");
        let counted = post("/v1/messages/count_tokens", header, &hello(json!({})));
        assert_eq!(ask(node.client, counted).await.status, status, "{header}");
    }
    // Rules may look at headers, but not at keys.
    let calls = node.calls.lock().unwrap();
    assert!(!calls.is_empty());
}

#[tokio::test]
async fn tokens_are_counted_by_the_model_that_is_asked() {
    let node = node().await;
    for (model, tokens, how) in [
        ("local", 2, "counted"),
        ("tiny", 2, "counted"),
        ("auto", 2, "estimated"),
    ] {
        let mut body = hello(json!({"model": model}));
        body.as_object_mut().unwrap().shift_remove("max_tokens");
        let raw = ask(
            node.client,
            post("/v1/messages/count_tokens?beta=true", VERSION, &body),
        )
        .await;
        assert_eq!(raw.status, 200, "{}", raw.text());
        assert_eq!(raw.json(), json!({"input_tokens": tokens}), "{model}");
        assert_eq!(raw.header("x-hedge-tokens"), Some(how), "{model}");
        assert_eq!(raw.header("request-id"), raw.header("x-request-id"));
    }
    let raw = ask(
        node.client,
        post(
            "/v1/messages/count_tokens",
            VERSION,
            &json!({"model": "local"}),
        ),
    )
    .await;
    assert_eq!(raw.status, 400);
    assert!(refusal(&raw).1.contains("'messages'"), "{}", raw.text());
    // Nobody was asked to chat.
    assert!(node.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn models_have_the_shape_that_the_header_asks_for() {
    let node = node().await;
    let raw = get(&node, "/v1/models?limit=20", VERSION).await;
    let list = raw.json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["auto", "local", "tiny", "finder", "second"]);
    assert_eq!(list["has_more"], false);
    assert_eq!(list["first_id"], "auto");
    assert_eq!(list["last_id"], "second");
    for model in list["data"].as_array().unwrap() {
        assert_eq!(model["type"], "model");
        assert_eq!(model["display_name"], model["id"]);
        assert!(model["created_at"].as_str().unwrap().ends_with('Z'));
        let path = format!("/v1/models/{}", model["id"].as_str().unwrap());
        assert_eq!(get(&node, &path, VERSION).await.json(), *model);
    }
    assert_eq!(get(&node, "/v1/models", "").await.json()["object"], "list");
}

#[tokio::test]
async fn betas_go_with_the_request_and_a_list_that_is_none_is_refused() {
    let node = node().await;
    let beta = |value: &str| format!("anthropic-beta: {value}\r\n");
    let raw = ask(node.client, messages(&beta("b, c-2025-01-01,"), json!({}))).await;
    assert_eq!(raw.status, 200, "{}", raw.text());
    // The lines of one header are one list, and a name counts once.
    let asked = node.calls.lock().unwrap()[0].request().betas.clone();
    assert_eq!(asked, ["a", "b", "c-2025-01-01"]);
    let many: Vec<String> = (0..33).map(|index| format!("b-{index}")).collect();
    for value in ["a b", "\u{e4}", &"x".repeat(97), &many.join(",")] {
        let raw = ask(node.client, messages(&beta(value), json!({}))).await;
        assert_eq!(raw.status, 400, "{value}");
        let (_, message) = refusal(&raw);
        assert!(
            message.contains("anthropic-beta") || message.contains("list"),
            "{message}"
        );
    }
    assert_eq!(node.calls.lock().unwrap().len(), 1);
}
