//! Images to a model on this machine that has a projector, through the whole program.
//!
//! The projector is `fixtures/mmproj-tiny.gguf`, of random weights: what the model makes of an image
//! means nothing, but is the same for the same image.

use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, root, with};

const TOKENS: u64 = 16;

/// Two pictures of 2 x 2 pixels: red, and blue.
const RED: &str = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg==";
const BLUE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAD0lEQVR4nGNgYPgPRmAKABf2A/1+6zfzAAAAAElFTkSuQmCC";

async fn seeing(more: &str) -> Hedge {
    let projector = root().join("tests/fixtures/mmproj-tiny.gguf");
    let config = format!("[local]\nprojector = '{}'\n{more}", projector.display());
    Hedge::start(&config).await
}

fn about(url: &str) -> Value {
    let image = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]}], "max_tokens": 8, "logprobs": true});
    with(ask("local", ""), image)
}

fn inline(base64: &str) -> String {
    format!("data:image/png;base64,{base64}")
}

#[tokio::test]
async fn an_image_is_answered_counted_and_kept_apart() {
    for isolation in ["process", "thread"] {
        let hedge = seeing(&format!("isolation = '{isolation}'")).await;
        let text = with(ask("local", "What is this?"), json!({"max_tokens": 8}));
        let blind = hedge.chat(&text).await.json();
        let reply = hedge.chat(&about(&inline(RED))).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert!(reply.route().starts_with("local:"), "{:?}", reply.headers);
        let red = reply.json();
        let prompt = |reply: &Value| reply["usage"]["prompt_tokens"].as_u64().unwrap();
        assert_eq!(prompt(&red), prompt(&blind) + TOKENS);
        let logprobs = |reply: &Value| reply["choices"][0]["logprobs"].clone();
        // Not the reply that was kept for another image.
        let blue = hedge.chat(&about(&inline(BLUE))).await;
        assert_eq!(blue.status, StatusCode::OK, "{}", blue.text);
        assert_ne!(logprobs(&blue.json()), logprobs(&red));
        let again = hedge.chat(&about(&inline(RED))).await.json();
        assert_eq!(
            logprobs(&again)["content"][0]["token"],
            logprobs(&red)["content"][0]["token"]
        );
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_its_place() {
    let hedge = seeing("").await;
    for wrong in [
        "https://a.example/x.png",
        "data:image/png;base64,AAAA",
        "data:image/png,x",
    ] {
        let reply = hedge.chat(&about(wrong)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
        let param = &reply.json()["error"]["param"];
        assert_eq!(
            param, "messages[0].content[1].image_url.url",
            "{}",
            reply.text
        );
    }
    // And nothing broke.
    let reply = hedge.chat(&about(&inline(RED))).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
}
