//! The way through to an upstream, and every way it can fail.

use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::json;

use crate::harness::{Hedge, ask, chat_request, eventually, fake, upstream, with};

#[tokio::test]
async fn a_reply_passes_through_whole_and_streamed() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let whole = hedge.chat(&ask("fake/bench", "[[fake tokens=3]]")).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    assert_eq!(whole.content(), "t0 t1 t2 ");
    assert_eq!(whole.json()["usage"]["completion_tokens"], 3);
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "stop");

    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let body = with(ask("fake/bench", "[[fake tokens=4]]"), options);
    let streamed = hedge.chat(&body).await;
    assert_eq!(streamed.streamed_text(), "t0 t1 t2 t3 ");
    assert_eq!(
        streamed.chunks().last().unwrap()["usage"]["completion_tokens"],
        4
    );
    assert!(streamed.is_done());
}

#[tokio::test]
async fn fields_we_do_not_know_arrive_untouched_and_callers_keys_do_not() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let unknown = json!({"reasoning_effort": "low", "metadata": {"a": [1, 2.50]}, "user": "u"});
    let mut request = chat_request(&with(ask("fake/other", "hi"), unknown.clone()));
    let key = http::HeaderValue::from_static("Bearer callers-own");
    request.headers_mut().insert(AUTHORIZATION, key);
    hedge.send(request).await;
    let seen = &fake.seen()[0];
    assert_eq!(seen.body["model"], "other");
    for (name, value) in unknown.as_object().unwrap() {
        assert_eq!(&seen.body[name], value, "{name}");
    }
    assert_eq!(seen.headers["authorization"], "Bearer cloud-key");
    assert!(!hedge.log().contains("cloud-key"));
}

#[tokio::test]
async fn a_tool_call_passes_through() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let tools = json!({"tools": [{"type": "function", "function": {"name": "weather"}}]});
    let body = with(ask("fake/bench", "[[fake call=weather]]"), tools);
    let call = |message: &serde_json::Value| message["tool_calls"][0]["function"].clone();
    let whole = hedge.chat(&body).await.json();
    assert_eq!(call(&whole["choices"][0]["message"])["name"], "weather");
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    let chunks = hedge
        .chat(&with(body, json!({"stream": true, "seed": 1})))
        .await
        .chunks();
    assert!(
        chunks
            .iter()
            .any(|chunk| call(&chunk["choices"][0]["delta"])["name"] == "weather")
    );
}

#[tokio::test]
async fn each_failure_has_its_status() {
    let fake = fake();
    let config = upstream(&fake, "whole_reply_timeout_ms = 300\nidle_timeout_ms = 300");
    let hedge = Hedge::start(&format!("[local]\nenabled = false\n{config}")).await;
    let cases = [
        ("[[fake status=400]]", 400),
        ("[[fake status=401]]", 502),
        ("[[fake status=500]]", 502),
        ("[[fake status=429 retry-after=7]]", 429),
        ("[[fake garbage]]", 502),
        ("[[fake cut-after=1]]", 502),
        ("[[fake hang]]", 504),
        ("[[fake hang-after=1]]", 504),
    ];
    for (marker, status) in cases {
        let reply = hedge.chat(&ask("fake/bench", marker)).await;
        assert_eq!(reply.status.as_u16(), status, "{marker}: {}", reply.text);
        assert!(reply.json()["error"]["message"].is_string(), "{marker}");
        if status == 429 {
            assert_eq!(reply.header("retry-after"), "7");
        }
    }
    assert_eq!(
        hedge.chat(&ask("fake/bench", "hi")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_stream_that_dies_ends_with_an_error_and_never_with_done() {
    let fake = fake();
    let config = upstream(&fake, "idle_timeout_ms = 300");
    let hedge = Hedge::start(&format!("[local]\nenabled = false\n{config}")).await;
    for marker in ["cut-after=3", "end-early=3", "hang-after=3"] {
        let text = format!("[[fake {marker}]]");
        let body = with(ask("fake/bench", &text), json!({"stream": true}));
        let reply = hedge.chat(&body).await;
        assert_eq!(reply.status, StatusCode::OK, "{marker}: {}", reply.text);
        assert_eq!(reply.streamed_text(), "t0 t1 t2 ", "{marker}");
        let last = reply.chunks().pop().unwrap();
        assert!(last["error"]["message"].is_string(), "{marker}: {last}");
        assert!(!reply.text.contains("[DONE]"), "{marker}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstreams_work() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let text = "[[fake tokens=100000 gap-ms=5]]";
    let mut reply = hedge
        .open(&with(ask("fake/bench", text), json!({"stream": true})))
        .await;
    reply.next().await.unwrap();
    assert_eq!(fake.counts().abandoned, 0);
    drop(reply);
    eventually("the upstream sees it", async || {
        fake.counts().abandoned == 1
    })
    .await;
}

#[tokio::test]
async fn personal_data_does_not_reach_a_public_upstream() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let text = "Write to ana.lima@example.com about the invoice.";
    let reply = hedge.chat(&ask("fake/bench", text)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let sent = fake.seen()[0].body.to_string();
    assert!(!sent.contains("ana.lima"), "{sent}");
    assert!(sent.contains("about the invoice"), "{sent}");
    assert!(!hedge.log().contains("ana.lima"));
}

#[tokio::test]
async fn a_dead_upstream_is_said_at_once() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    fake.kill();
    let reply = hedge.chat(&ask("fake/bench", "hi")).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{}", reply.text);
    assert_eq!(reply.json()["error"]["code"], "upstream_failed");
}

/// Whatever is fetched is public: this machine is not, by whichever name.
#[tokio::test]
async fn an_image_at_an_address_is_fetched_from_nowhere_within() {
    let fake = fake();
    let asked = |url: &str| {
        let mut body = ask("fake/bench", "hi");
        body["messages"][0]["content"] = json!([
            {"type": "text", "text": "what is it?"},
            {"type": "image_url", "image_url": {"url": url}},
        ]);
        body
    };
    let fetching = "[images]\nfetch = true\nallow_http = true\n";
    for (settings, words) in [
        ("", "images.fetch is off"),
        (fetching, "no public server could be reached there"),
    ] {
        let upstream = upstream(&fake, "image_urls = false");
        let config = format!("{settings}[local]\nenabled = false\n{upstream}");
        let hedge = Hedge::start(&config).await;
        for url in [
            "http://127.0.0.1/a.png",
            "http://localhost/a.png",
            "http://[::ffff:127.0.0.1]/a.png",
            "http://169.254.169.254/latest/meta-data",
        ] {
            let reply = hedge.chat(&asked(url)).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
            let error = &reply.json()["error"];
            assert_eq!(error["param"], "messages[0].content[1].image_url.url");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(words), "{message}");
        }
    }
    assert!(fake.seen().is_empty());
    // Who takes addresses gets them.
    let hedge = Hedge::before(&fake, "").await;
    let reply = hedge.chat(&asked("http://127.0.0.1/a.png")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let seen = fake.seen().pop().unwrap().body;
    let part = &seen["messages"][0]["content"][1];
    assert_eq!(part["image_url"]["url"], "http://127.0.0.1/a.png");
}
