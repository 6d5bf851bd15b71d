//! What is wrong with a request is said where it is, and nothing breaks.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, chat_request, fake, request, with};

/// Field changes to a good chat, the status, the `param`, and a word of the message.
fn table() -> Vec<(Value, u16, Option<&'static str>, &'static str)> {
    let message = |message: Value| json!({"messages": [{"role": "user", "content": "a"}, message]});
    vec![
        (json!({"messages": []}), 400, Some("messages"), "messages"),
        (json!({"messages": null}), 400, Some("messages"), "messages"),
        (json!({"messages": "hello"}), 400, Some("messages"), "array"),
        (
            message(json!({"role": "wizard", "content": "x"})),
            400,
            Some("messages[1].role"),
            "wizard",
        ),
        (
            message(json!({"content": "x"})),
            400,
            Some("messages[1].role"),
            "role",
        ),
        (
            message(json!({"role": "user", "content": 7})),
            400,
            Some("messages[1].content"),
            "string",
        ),
        (
            json!({"temperature": -0.1}),
            400,
            Some("temperature"),
            "temperature",
        ),
        (
            json!({"temperature": 1e30}),
            400,
            Some("temperature"),
            "temperature",
        ),
        (
            json!({"temperature": "hot"}),
            400,
            Some("temperature"),
            "temperature",
        ),
        (json!({"top_p": 1.5}), 400, Some("top_p"), "top_p"),
        (
            json!({"max_tokens": -1}),
            400,
            Some("max_tokens"),
            "max_tokens",
        ),
        (
            json!({"max_tokens": 1.5}),
            400,
            Some("max_tokens"),
            "max_tokens",
        ),
        (json!({"n": 0}), 400, Some("n"), "n"),
        (json!({"seed": "x"}), 400, Some("seed"), "seed"),
        (
            json!({"stop": ["a", "b", "c", "d", "e"]}),
            400,
            Some("stop"),
            "stop",
        ),
        (json!({"stream": "yes"}), 400, Some("stream"), "stream"),
        (
            json!({"tools": [{"type": "function"}]}),
            400,
            Some("tools[0].function"),
            "function",
        ),
        (json!({"model": ""}), 400, Some("model"), "model"),
        (json!({"model": 3}), 400, Some("model"), "model"),
        (json!({"model": "fake/bensh"}), 404, None, "fake/bench"),
        (json!({"model": "nothing-like-it"}), 404, None, "/v1/models"),
    ]
}

#[tokio::test]
async fn every_bad_field_is_named_with_its_path() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    for (change, status, param, word) in table() {
        let reply = hedge
            .chat(&with(ask("fake/bench", "hi"), change.clone()))
            .await;
        assert_eq!(reply.status.as_u16(), status, "{change}: {}", reply.text);
        let error = &reply.json()["error"];
        if param.is_some() {
            assert_eq!(error["param"].as_str(), param, "{change}: {error}");
        }
        assert_eq!(error["type"], "invalid_request_error", "{change}: {error}");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(word), "{change}: {said}");
    }
    assert_eq!(fake.counts().asked, 0, "nothing of it was passed on");
    assert_eq!(
        hedge.chat(&ask("fake/bench", "hi")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn bodies_that_are_no_chat_are_refused() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], &str); 7] = [
        (b"", "JSON"),
        (b"hello", "JSON"),
        (b"[]", "object"),
        (br#"{"model": "fake/bench", "messages": [}"#, "JSON"),
        (br#"{"model": "fake/bench", "temperature": NaN}"#, "JSON"),
        (b"{\"model\": \"\xff\xfe\", \"messages\": []}", "UTF-8"),
        (deep.as_bytes(), "JSON"),
    ];
    for (body, word) in cases {
        let mut request = chat_request(&Value::Null);
        *request.body_mut() = Bytes::copy_from_slice(body).into();
        let reply = hedge.send(request).await;
        let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(
            reply.status,
            StatusCode::BAD_REQUEST,
            "{start}: {}",
            reply.text
        );
        let error = &reply.json()["error"];
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(word), "{start}: {said}");
    }
}

#[tokio::test]
async fn a_body_too_large_is_refused_before_it_is_read() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let reply = hedge.chat(&ask("fake/bench", &"x".repeat(20 << 20))).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(
        reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("4194304")
    );
    assert_eq!(fake.counts().asked, 0);
}

#[tokio::test]
async fn wrong_turns_say_the_right_way() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let cases = [
        (Method::GET, "/v1/chat/completions", 405, "POST"),
        (Method::POST, "/v1/models", 405, "GET"),
        (Method::GET, "/v1/nothing", 404, "/v1/chat/completions"),
        (Method::GET, "/models", 404, "/v1"),
    ];
    for (method, path, status, word) in cases {
        let reply = hedge.send(request(method, path, Bytes::new())).await;
        assert_eq!(reply.status.as_u16(), status, "{path}");
        let told = format!("{} {}", reply.text, reply.header("allow"));
        assert!(told.contains(word), "{path}: {told}");
    }
    let mut plain = chat_request(&ask("fake/bench", "hi"));
    let text = http::HeaderValue::from_static("text/plain");
    plain.headers_mut().insert(CONTENT_TYPE, text);
    assert_eq!(
        hedge.send(plain).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
}
