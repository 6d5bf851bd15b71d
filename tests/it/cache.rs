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

#[tokio::test]
async fn requests_alike_at_once_are_one_call() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    let body = with(
        ask("fake/bench", "[[fake tokens=20 gap-ms=20]]"),
        json!({"stream": true}),
    );
    let replies = futures::future::join_all((0..20).map(|_| hedge.chat(&body))).await;
    let told = |cache: &str| {
        let told = replies.iter();
        told.filter(|it| it.header("x-hedge-cache") == cache).count()
    };
    assert_eq!((told("miss"), told("shared")), (1, 19));
    for reply in &replies {
        assert!(reply.is_done());
        assert_eq!(reply.streamed_text(), replies[0].streamed_text());
    }
    assert_eq!(fake.counts().asked, 1);
    let later = hedge.chat(&body).await;
    assert!(later.header("x-hedge-cache").starts_with("exact; age="));
}

#[tokio::test]
async fn a_tag_that_is_none_is_refused_with_its_place() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    for (tags, status) in [
        ("spring, 2026/a:b", 200),
        ("a,b,c,d,e,f,g,h,h", 200),
        ("a,b,c,d,e,f,g,h,i", 400),
        ("no spaces", 400),
        ("'", 400),
    ] {
        let mut request = chat_request(&ask("fake/bench", "one"));
        let value = http::HeaderValue::from_static(tags);
        request.headers_mut().insert("x-hedge-cache-tags", value);
        let reply = hedge.send(request).await;
        assert_eq!(reply.status.as_u16(), status, "{tags}");
        if status == 400 {
            assert_eq!(reply.json()["error"]["param"], "x-hedge-cache-tags");
        }
    }
}
