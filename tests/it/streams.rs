//! Many local streams at once: all finish, and nobody waits for a reader who does not read.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Hedge, ask, eventually, with};

/// Capitals that the bundled model knows.
const CAPITALS: [(&str, &str); 8] = [
    ("Portugal", "Lisbon"),
    ("France", "Paris"),
    ("Japan", "Tokyo"),
    ("Italy", "Rome"),
    ("Norway", "Oslo"),
    ("Egypt", "Cairo"),
    ("Peru", "Lima"),
    ("Kenya", "Nairobi"),
];

fn stream_of(text: &str, more: Value) -> Value {
    with(with(ask("local", text), json!({"stream": true})), more)
}

/// A reply that only its bound ends: hot enough to wander, and long.
fn endless(seed: u64) -> Value {
    let more = json!({"temperature": 2, "seed": seed, "max_tokens": 3000});
    stream_of("Tell me about everything you know, at length.", more)
}

fn rss_bytes(hedge: &Hedge) -> u64 {
    let processes = [Some(hedge.pid()), hedge.engine_pid()];
    let rss = |pid| loadtest::Usage::of(pid).unwrap().rss_bytes;
    processes.into_iter().flatten().map(rss).sum()
}

#[tokio::test]
async fn thirty_two_streams_at_once_all_finish_and_are_right() {
    let hedge = Hedge::start("").await;
    // One round first, so that what the model itself needs is not taken for growth.
    hedge.chat(&ask("local", "hi")).await;
    let before = rss_bytes(&hedge);
    let asked: Vec<_> = CAPITALS.iter().cycle().take(32).collect();
    let replies = join_all(asked.iter().enumerate().map(|(index, (country, _))| {
        // The seed keeps the cache from answering for the model; greedy replies do not depend on it.
        let text = format!("What is the capital of {country}?");
        let body = stream_of(&text, json!({"seed": index}));
        let hedge = &hedge;
        async move { hedge.chat(&body).await }
    }))
    .await;
    for (reply, (country, capital)) in replies.iter().zip(asked) {
        assert!(reply.is_done(), "{country}: {}", reply.text);
        assert!(
            reply.streamed_text().contains(capital),
            "{country}: {}",
            reply.streamed_text()
        );
        assert!(
            reply.route().starts_with("local:"),
            "{country}: {}",
            reply.route()
        );
    }
    let grown = rss_bytes(&hedge).saturating_sub(before);
    assert!(grown < 64 << 20, "32 streams took {grown} bytes");
}

#[tokio::test]
async fn clients_that_leave_free_their_slots() {
    let hedge = Hedge::start("[local]\nslots_max = 2\nqueue_max = 1\n").await;
    for round in 0..4 {
        let mut leaving = Vec::new();
        for seed in 0..2 {
            let mut reply = hedge.open(&endless(round * 2 + seed)).await;
            assert!(reply.next().await.is_some());
            leaving.push(reply);
        }
        drop(leaving);
        // Both slots were taken; with them still held this would find neither a slot nor a place.
        eventually("a slot is free", async || {
            hedge
                .chat(&stream_of("hi", json!({"seed": round})))
                .await
                .is_done()
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_reader_delays_nobody() {
    let hedge = Hedge::start("[local]\nslots_max = 2\nevents_max = 4\n").await;
    let mut slow = hedge.open(&endless(1)).await;
    assert!(slow.next().await.is_some());
    // Never read again while others are answered by the slot that is left.
    for (country, capital) in CAPITALS {
        let reply = hedge
            .chat(&stream_of(
                &format!("What is the capital of {country}?"),
                json!({}),
            ))
            .await;
        assert!(reply.is_done(), "{country}: {}", reply.text);
        assert!(
            reply.streamed_text().contains(capital),
            "{country}: {}",
            reply.streamed_text()
        );
    }
    drop(slow);
}
