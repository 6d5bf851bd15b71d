//! OpenAI's older completions before a cloud model, and with the model on this machine.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Hedge, Reply, fake, request, with};

async fn complete(hedge: &Hedge, body: &Value) -> Reply {
    let body = Bytes::from(body.to_string());
    let mut request = request(Method::POST, "/v1/completions", body);
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    hedge.send(request).await
}

fn text(reply: &Reply) -> String {
    let reply = reply.json();
    let text = reply["choices"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {reply}"))
        .to_owned()
}

fn streamed_text(reply: &Reply) -> String {
    let chunks = reply.chunks();
    let pieces = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str());
    pieces.collect()
}

#[tokio::test]
async fn a_cloud_model_continues_a_text() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = json!({"model": "fake/bench", "prompt": "[[fake tokens=3]]", "echo": true,
        "user": "u", "unknown": [1, 2.50]});
    let whole = complete(&hedge, &body).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    assert_eq!(whole.route(), "cloud:fake");
    assert_eq!(text(&whole), "[[fake tokens=3]]t0 t1 t2 ");
    assert_eq!(whole.json()["object"], "text_completion");
    assert_eq!(whole.json()["usage"]["completion_tokens"], 3);
    let seen = fake.seen().pop().unwrap().body;
    assert_eq!(seen["model"], "bench");
    assert_eq!(seen["prompt"], "[[fake tokens=3]]");
    assert_eq!(seen["unknown"], json!([1, 2.50]));
    assert!(seen.get("echo").is_none(), "{seen}");

    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let streamed = complete(&hedge, &with(body, options)).await;
    assert_eq!(streamed_text(&streamed), text(&whole));
    let last = streamed.chunks().pop().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], 3);
    assert!(streamed.is_done());
}

#[tokio::test]
async fn personal_data_in_a_prompt_does_not_reach_a_public_upstream() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = json!({"model": "fake/bench", "prompt": "Mail ana.lima@example.com about"});
    let reply = complete(&hedge, &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let seen = fake.seen().pop().unwrap().body;
    assert!(!seen.to_string().contains("ana.lima"), "{seen}");
    assert!(
        seen["prompt"].as_str().unwrap().ends_with(" about"),
        "{seen}"
    );
    assert_eq!(seen["max_tokens"], 16);
}

#[tokio::test]
async fn judging_texts_is_not_offered() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = Bytes::from(r#"{"input":"x"}"#);
    let reply = hedge
        .send(request(Method::POST, "/v1/moderations", body))
        .await;
    assert_eq!(reply.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(reply.json()["error"]["code"], "not_offered");
}

#[cfg(feature = "llama")]
mod here {
    use super::*;
    use crate::harness::ask;

    const PROMPT: &str = "The capital of Portugal is";

    #[tokio::test]
    async fn the_model_on_this_machine_continues_a_text_without_its_template() {
        let hedge = Hedge::start("").await;
        let body = json!({"model": "local", "prompt": PROMPT, "temperature": 0, "logprobs": 2,
            "max_tokens": 8});
        let whole = complete(&hedge, &body).await;
        assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
        assert!(whole.route().starts_with("local:"));
        // Far fewer than the template alone comes to.
        let prompt_tokens = whole.json()["usage"]["prompt_tokens"].as_u64().unwrap();
        let chat = hedge.chat(&ask("local", PROMPT)).await.json();
        let chat_tokens = chat["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(prompt_tokens < chat_tokens, "{prompt_tokens} {chat_tokens}");
        let counted = Bytes::from(json!({"content": PROMPT, "add_special": true}).to_string());
        let mut counting = request(Method::POST, "/tokenize", counted);
        let json_type = http::HeaderValue::from_static("application/json");
        counting.headers_mut().insert(CONTENT_TYPE, json_type);
        let counted = hedge.send(counting).await.json();
        let counted = counted["tokens"].as_array().unwrap().len() as u64;
        assert_eq!(prompt_tokens, counted);

        let logprobs = &whole.json()["choices"][0]["logprobs"];
        let tokens = logprobs["tokens"].as_array().unwrap();
        let spelled: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(spelled, text(&whole), "{logprobs}");
        assert_eq!(logprobs["text_offset"][0], 0);
        let streamed = complete(&hedge, &with(body, json!({"stream": true}))).await;
        assert_eq!(streamed_text(&streamed), text(&whole));
    }

    #[tokio::test]
    async fn a_control_token_in_a_prompt_stays_text() {
        let hedge = Hedge::start("").await;
        let turn = "<|im_start|>user\nWhat is the capital of Portugal?<|im_end|>\n";
        let body = json!({"model": "local", "prompt": turn, "temperature": 0});
        let reply = complete(&hedge, &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        // As a token each mark would be one.
        let tokens = reply.json()["usage"]["prompt_tokens"].as_u64().unwrap();
        let bare = json!({"model": "local", "prompt": turn.replace("<|im_start|>", "")
            .replace("<|im_end|>", "")});
        let bare = complete(&hedge, &bare).await.json();
        let bare = bare["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(tokens > bare + 4, "{tokens} {bare}");
    }

    #[tokio::test]
    async fn a_prompt_beyond_the_context_is_named_as_one() {
        let hedge = Hedge::start("").await;
        let body = json!({"model": "local", "prompt": "word ".repeat(60_000)});
        let reply = complete(&hedge, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["param"], "prompt");
    }
}
