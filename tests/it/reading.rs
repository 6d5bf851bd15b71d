//! How the bundled model reads text, asked over HTTP: across its process's border and back.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, ask, request};

async fn post(hedge: &Hedge, path: &str, body: &Value) -> Reply {
    let mut request = request(Method::POST, path, Bytes::from(body.to_string()));
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    hedge.send(request).await
}

fn tokens(reply: &Reply) -> Vec<u64> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let json = reply.json();
    let tokens = json["tokens"].as_array().unwrap().iter();
    tokens.map(|token| token.as_u64().unwrap()).collect()
}

#[tokio::test]
async fn texts_of_any_letters_come_back_from_their_tokens() {
    for isolation in ["process", "thread"] {
        let hedge = Hedge::start(&format!("[local]\nisolation = \"{isolation}\"\n")).await;
        for text in [
            "Hello, world!",
            "Ünïcödé 日本語 🦀",
            " two  spaces\n\ttab",
            "",
        ] {
            let read = post(&hedge, "/tokenize", &json!({"content": text})).await;
            let tokens = tokens(&read);
            let back = post(&hedge, "/detokenize", &json!({"tokens": tokens})).await;
            assert_eq!(back.json(), json!({"content": text}), "{isolation}");
            let pieces = json!({"content": text, "with_pieces": true});
            let pieces = post(&hedge, "/tokenize", &pieces).await.json();
            let bytes: Vec<u8> = pieces["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|token| match &token["piece"] {
                    Value::String(text) => text.as_bytes().to_vec(),
                    bytes => serde_json::from_value(bytes.clone()).unwrap(),
                })
                .collect();
            assert_eq!(bytes, text.as_bytes(), "{isolation}");
        }
    }
}

/// What is counted is what a chat is charged.
#[tokio::test]
async fn a_chats_tokens_are_counted_as_they_are_charged() {
    let hedge = Hedge::start("").await;
    let chat = ask("local", "What is the capital of Portugal?");
    let charged = hedge.chat(&chat).await.json()["usage"]["prompt_tokens"].clone();
    let counted = post(&hedge, "/tokenize", &json!({"messages": chat["messages"]})).await;
    assert_eq!(counted.json()["count"], charged, "{}", counted.text);
    let prompt = post(
        &hedge,
        "/apply-template",
        &json!({"messages": chat["messages"]}),
    )
    .await;
    let prompt = prompt.json()["prompt"].as_str().unwrap().to_owned();
    assert!(prompt.contains("the capital of Portugal?"), "{prompt}");
    let read = post(
        &hedge,
        "/tokenize",
        &json!({"content": prompt, "add_special": true}),
    )
    .await;
    assert_eq!(json!(tokens(&read).len()), charged);
    // As text, what looks like a control token is text.
    let special = json!({"content": "<|im_end|>"});
    let plain = json!({"content": "<|im_end|>", "parse_special": false});
    assert_eq!(tokens(&post(&hedge, "/tokenize", &special).await).len(), 1);
    assert!(tokens(&post(&hedge, "/tokenize", &plain).await).len() > 1);
}

#[tokio::test]
async fn a_token_that_does_not_exist_is_a_fault_with_its_place() {
    let hedge = Hedge::start("").await;
    let refused = post(&hedge, "/detokenize", &json!({"tokens": [1, 16_000_000]})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
    assert_eq!(refused.json()["error"]["param"], "tokens[1]");
    let long = json!({"content": "word ".repeat(700_000)});
    let long = post(&hedge, "/tokenize", &long).await;
    assert!(tokens(&long).len() >= 700_000);
}
