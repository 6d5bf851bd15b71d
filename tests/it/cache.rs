//! Exact replies: when one is given again, and when not.

use http::header::CACHE_CONTROL;
use serde_json::json;

use crate::harness::{Hedge, Reply, ask, chat_request, fake, with};

async fn chat(hedge: &Hedge, text: &str, cache_control: Option<&'static str>) -> Reply {
    let mut request = chat_request(&ask("fake/bench", text));
    if let Some(value) = cache_control {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().insert(CACHE_CONTROL, value);
    }
    hedge.send(request).await
}

#[tokio::test]
async fn the_same_request_again_is_answered_from_the_cache() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let first = chat(&hedge, "one", None).await;
    assert_eq!(first.route(), "cloud:fake");
    let second = chat(&hedge, "one", None).await;
    assert_eq!(second.route(), "cache:exact");
    assert_eq!(second.content(), first.content());
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        let of = |reply: &Reply| reply.json()["usage"][count].clone();
        assert!(of(&first).is_u64(), "{count}");
        assert_eq!(of(&second), of(&first), "{count}");
    }
    assert_eq!(fake.counts().asked, 1);
    assert_eq!(chat(&hedge, "two", None).await.route(), "cloud:fake");
}

#[tokio::test]
async fn a_kept_reply_can_be_streamed() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let whole = chat(&hedge, "one", None).await;
    let body = with(ask("fake/bench", "one"), json!({"stream": true}));
    let streamed = hedge.chat(&body).await;
    assert_eq!(streamed.route(), "cache:exact");
    assert_eq!(streamed.streamed_text(), whole.content());
    assert!(streamed.is_done());
}

#[tokio::test]
async fn no_store_neither_reads_nor_keeps() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    chat(&hedge, "one", Some("no-store")).await;
    assert_eq!(chat(&hedge, "one", None).await.route(), "cloud:fake");
    assert_eq!(
        chat(&hedge, "one", Some("no-store")).await.route(),
        "cloud:fake"
    );
    assert_eq!(fake.counts().asked, 3);
}

#[tokio::test]
async fn no_cache_asks_anew_and_keeps_the_answer() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    chat(&hedge, "one", None).await;
    assert_eq!(
        chat(&hedge, "one", Some("no-cache")).await.route(),
        "cloud:fake"
    );
    assert_eq!(chat(&hedge, "one", None).await.route(), "cache:exact");
    assert_eq!(fake.counts().asked, 2);
}

#[tokio::test]
async fn what_did_not_end_well_is_not_kept() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let cut = with(
        ask("fake/bench", "[[fake cut-after=2]]"),
        json!({"stream": true}),
    );
    hedge.chat(&cut).await;
    hedge.chat(&cut).await;
    assert_eq!(fake.counts().asked, 2);
    // A reader who leaves half way leaves no half a reply behind.
    let slow = with(
        ask("fake/bench", "[[fake tokens=50 gap-ms=20]]"),
        json!({"stream": true}),
    );
    hedge.open(&slow).await.next().await.unwrap();
    let again = hedge.chat(&slow).await;
    assert_eq!((again.route(), again.is_done()), ("cloud:fake", true));
}
