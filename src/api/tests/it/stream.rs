//! Streamed chats: order, ends, breaks and leaving.

use std::time::Duration;

use api::IngressConfig;
use domain::BackendError;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::client::{Client, HELLO_STREAMED, ask, chat, post};
use crate::node::{Live, Recipe, Script, end, live, node, started, text};

/// The `data:` lines of a body.
fn data(body: &str) -> Vec<&str> {
    body.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect()
}

fn content(chunk: &str) -> String {
    let chunk: Value = serde_json::from_str(chunk).unwrap();
    chunk["choices"][0]["delta"]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn a_stream_has_its_chunks_in_order_and_a_marked_end() {
    let node = node().await;
    let raw = ask(node.client, chat("", HELLO_STREAMED)).await;
    assert_eq!(raw.status, 200);
    assert!(raw.is_complete);
    assert_eq!(
        raw.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert_eq!(raw.header("cache-control"), Some("no-cache"));
    assert_eq!(raw.header("x-accel-buffering"), Some("no"));
    assert_eq!(raw.header("x-hedge-route"), Some("local:tiny"));
    let data = data(raw.text());
    let (done, chunks) = data.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let said: String = chunks.iter().map(|chunk| content(chunk)).collect();
    assert_eq!(said, "hello there");
    let usage: Value = serde_json::from_str(chunks.last().unwrap()).unwrap();
    assert_eq!(usage["usage"]["total_tokens"], 5);
    assert_eq!(usage["choices"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn without_the_option_there_is_no_usage_chunk() {
    let node = node().await;
    let body = r#"{"model":"local","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let raw = ask(node.client, chat("", body)).await;
    assert!(!raw.text().contains("total_tokens"), "{}", raw.text());
    assert!(raw.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn the_head_and_the_first_content_leave_together() {
    let Live {
        node,
        events,
        ended: _ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    events.send(started()).await.unwrap();
    events.send(text("first")).await.unwrap();
    // The stream stays open; whatever one read brings was one write.
    client.socket.readable().await.unwrap();
    let mut bytes = vec![0; 64 * 1024];
    let count = client.socket.try_read(&mut bytes).unwrap();
    let seen = String::from_utf8_lossy(&bytes[..count]);
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    assert!(seen.contains("first"), "{seen}");
}

#[tokio::test]
async fn each_event_is_sent_when_it_comes() {
    let Live {
        node,
        events,
        ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    events.send(started()).await.unwrap();
    for word in ["one", "two", "three"] {
        events.send(text(word)).await.unwrap();
        client.until(&format!("\"{word}\"")).await;
    }
    for event in end() {
        events.send(event).await.unwrap();
    }
    drop(events);
    client.until("data: [DONE]\n\n").await;
    ended.await.unwrap_err();
}

#[tokio::test]
async fn a_broken_stream_ends_in_an_error_event_and_a_cut() {
    let Live {
        node,
        events,
        ended: _ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    for event in [started(), text("half"), Err(BackendError::Interrupted)] {
        events.send(event).await.unwrap();
    }
    let raw = client.answer().await;
    assert_eq!(raw.status, 200);
    assert!(!raw.is_complete, "the body must not look whole");
    let data = data(raw.text());
    assert!(!data.contains(&"[DONE]"));
    let last: Value = serde_json::from_str(data.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_failed");
    assert_eq!(last["error"]["type"], "server_error");
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_stream_that_just_stops_is_a_broken_one() {
    let script = Script::Says(vec![started(), text("half")]);
    let node = Recipe {
        script,
        ..Recipe::default()
    }
    .start()
    .await;
    let raw = ask(node.client, chat("", HELLO_STREAMED)).await;
    assert!(!raw.is_complete);
    assert!(raw.text().contains("\"error\""), "{}", raw.text());
    assert!(!raw.text().contains("[DONE]"));
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_work_with_it() {
    for read_first in [true, false] {
        let Live {
            node,
            events,
            ended,
        } = live(IngressConfig::default()).await;
        let mut client = Client::connect(node.client).await;
        client.send(chat("", HELLO_STREAMED)).await;
        events.send(started()).await.unwrap();
        if read_first {
            events.send(text("a")).await.unwrap();
            client.until("\"a\"").await;
        } else {
            // Not even the head was sent; the back end was asked all the same.
            events.reserve().await.unwrap();
        }
        drop(client);
        ended.await.unwrap_err();
        assert!(events.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive() {
    let Live {
        node,
        events,
        ended: _ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    events.send(started()).await.unwrap();
    events.send(text("a")).await.unwrap();
    client.until("\"a\"").await;
    client.until(": keep-alive\n\n").await;
    client.until(": keep-alive\n\n").await;
    events.send(text("b")).await.unwrap();
    client.until("\"b\"").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_dropped() {
    let ingress = IngressConfig {
        write_stall_max: Duration::from_secs(5),
        ..IngressConfig::default()
    };
    let Live {
        node,
        events,
        ended,
    } = live(ingress).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    events.send(started()).await.unwrap();
    let long = "x".repeat(256 * 1024);
    // More than sockets and buffers hold; then the channel is full, and at last closed.
    while events.send(text(&long)).await.is_ok() {}
    ended.await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_without_an_answer_when_none_comes() {
    let Live {
        node,
        events,
        ended: _ended,
    } = live(IngressConfig::default()).await;
    let began = Instant::now();
    let mut client = Client::connect(node.client).await;
    let lines = "x-hedge-timing: 1\r\n";
    client.send(chat(lines, HELLO_STREAMED)).await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    let period = IngressConfig::default().keep_alive_every;
    assert!(began.elapsed() >= period, "{:?}", began.elapsed());
    assert!(head.header("x-hedge-route").is_none());
    let processing = head.header("openai-processing-ms").unwrap();
    assert!(processing.parse::<u128>().unwrap() >= period.as_millis());
    // The role, and then signs of life.
    let begun = client.until(": keep-alive\n\n").await;
    assert!(begun.contains(r#""role":"assistant""#), "{begun}");
    client.until(": keep-alive\n\n").await;
    for event in [started(), text("late")] {
        events.send(event).await.unwrap();
    }
    let told = client.until("late").await;
    assert!(
        told.contains(": x-hedge-route: local:tiny\n\n: x-hedge-reason: "),
        "{told}"
    );
    assert!(told.contains(": server-timing: admit;dur="), "{told}");
    for event in end() {
        events.send(event).await.unwrap();
    }
    drop(events);
    let rest = client.until("data: [DONE]\n\n").await;
    let both = format!("{begun}{told}{rest}");
    assert_eq!(both.matches(r#""role":"assistant""#).count(), 1, "{both}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_the_beginning_is_an_error_event_and_a_cut() {
    let Live {
        node,
        events,
        ended: _ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    client.until(": keep-alive\n\n").await;
    let error = BackendError::RateLimited {
        retry_after: Some(Duration::from_secs(7)),
    };
    events.send(Err(error)).await.unwrap();
    let told = client.until(r#""code":"rate_limit_exceeded""#).await;
    assert!(told.contains(": retry-after: 7\n"), "{told}");
    assert!(told.contains(": x-hedge-reason: "), "{told}");
    let rest = client.until("\n\n").await;
    assert!(!rest.contains("[DONE]"));
}

#[tokio::test(start_paused = true)]
async fn before_the_beginning_failures_have_their_status() {
    for wait in [Duration::ZERO, Duration::from_secs(14)] {
        let Live {
            node,
            events,
            ended: _ended,
        } = live(IngressConfig::default()).await;
        let mut client = Client::connect(node.client).await;
        client.send(chat("", HELLO_STREAMED)).await;
        events.send(started()).await.unwrap();
        sleep(wait).await;
        events.send(Err(BackendError::Interrupted)).await.unwrap();
        let raw = client.answer().await;
        assert_eq!(raw.status, 502, "{wait:?}");
        assert!(raw.header("openai-processing-ms").is_some());
    }
}

/// In whichever dialect, and a client that leaves takes the work with it.
#[tokio::test(start_paused = true)]
async fn lines_begin_without_an_answer_too() {
    let Live {
        node,
        events,
        ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    let body = r#"{"model":"local","messages":[{"role":"user","content":"hi"}]}"#;
    client.send(post("/api/chat", "", body)).await;
    assert_eq!(client.head().await.status, 200);
    for event in [started(), text("late")] {
        events.send(event).await.unwrap();
    }
    client.until("late").await;
    for event in end() {
        events.send(event).await.unwrap();
    }
    drop(events);
    let last = client.until("\"done\":true").await + &client.until("\n").await;
    let last = last.lines().find(|line| line.contains("true")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["hedge"]["x-hedge-route"], "local:tiny");
    let waited = last["prompt_eval_duration"].as_u64().unwrap();
    assert!(waited >= 15_000_000_000, "{last}");
    ended.await.unwrap_err();

    let Live {
        node,
        events,
        ended,
    } = live(IngressConfig::default()).await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    client.until(": keep-alive\n\n").await;
    drop(client);
    ended.await.unwrap_err();
    assert!(events.is_closed());
}
