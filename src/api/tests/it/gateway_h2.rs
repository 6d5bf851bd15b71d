//! Sealed requests over HTTP/2, where one connection has many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::SealedResult;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{HELLO, HELLO_STREAMED};
use crate::gateway::{Answer, Ask, Relay, RelayRecipe, relay};
use crate::gateway_service::live_relay;
use crate::node::{Recipe, Script, started, text};

type Sending = SendRequest<Full<Bytes>>;

async fn connect(relay: &Relay, window: u32) -> (Sending, JoinSet<()>) {
    let stream = TcpStream::connect(relay.address).await.unwrap();
    // What is held back for an answer that waits for it would be late by the paused clock.
    stream.set_nodelay(true).unwrap();
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(window);
    let (sending, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let mut running = JoinSet::new();
    running.spawn(async move {
        let _ = connection.await;
    });
    (sending, running)
}

fn outer(bytes: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post("http://relay/.well-known/ohttp-gateway")
        .header("content-type", "message/ohttp-chunked-req")
        .body(Full::new(bytes.into()))
        .unwrap()
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let relay = relay().await;
    let (sending, _running) = connect(&relay, 65_535).await;
    let mut asking = JoinSet::new();
    for number in 0..50 {
        let body = HELLO.replace("hi", &format!("hi {number}"));
        let sealed = relay.seal(&Ask::chat(body));
        let mut sending = sending.clone();
        asking.spawn(async move {
            let response = sending.send_request(outer(sealed.bytes)).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Answer::open(sealed.opener, &body)
        });
    }
    for answer in asking.join_all().await {
        assert_eq!((answer.status, answer.is_whole), (200, true));
    }
    assert_eq!(relay.gateway.figures().connections, 1);
    assert_eq!(relay.calls_count(), 50);
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_the_work_behind() {
    let live = live_relay(RelayRecipe::default()).await;
    let (mut sending, _running) = connect(&live.relay, 65_535).await;
    let sealed = live.relay.seal(&Ask::chat(HELLO_STREAMED));
    let asked = sending.send_request(outer(sealed.bytes));
    let feeding = async {
        live.events.send(started()).await.unwrap();
        live.events.send(text("a")).await.unwrap();
    };
    let (response, ()) = tokio::join!(asked, feeding);
    let mut body = response.unwrap().into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    let left = std::time::Instant::now();
    drop(body);
    live.ended.await.unwrap_err();
    assert!(left.elapsed() < Duration::from_millis(100));
    let entries = live.relay.audit.wait_for(1).await;
    assert_eq!(entries[0].result, SealedResult::Abandoned);
}

/// HTTP/2 has no time-out for it: the connection stays, the answer does not.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_reader_takes_nothing_is_dropped_and_its_neighbours_are_not() {
    let asked: Arc<AtomicUsize> = Arc::default();
    let relay = RelayRecipe {
        node: Recipe {
            script: Script::Paced(50_000, Duration::ZERO, Arc::clone(&asked)),
            ..Recipe::default()
        },
        ..RelayRecipe::default()
    };
    let relay = relay.start().await;
    let (mut sending, _running) = connect(&relay, 1_024).await;
    let off = |body: &str| Ask {
        shape: Some("off"),
        ..Ask::chat(body)
    };
    let stuck = relay.seal(&off(HELLO_STREAMED));
    let response = sending.send_request(outer(stuck.bytes)).await.unwrap();
    let held = response.into_body();
    let entries = loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let entries = relay.audit.entries();
        if !entries.is_empty() {
            break entries;
        }
    };
    assert_eq!(entries[0].result, SealedResult::Broken);
    assert!(entries[0].took >= Duration::from_secs(30));
    assert!(entries[0].took < Duration::from_secs(60));
    assert!(asked.load(Ordering::Relaxed) < 50_000);
    assert_eq!(relay.gateway.figures().requests, 0);
    let sealed = relay.seal(&Ask {
        method: "GET",
        path: "/v1/models".to_owned(),
        ..off("")
    });
    let response = sending.send_request(outer(sealed.bytes)).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(Answer::open(sealed.opener, &body).is_whole);
    // Who reads on after all learns that it was cut.
    assert!(held.collect().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_closed() {
    let relay = relay().await;
    let (mut sending, mut running) = connect(&relay, 65_535).await;
    // It has shaken hands, and then says nothing.
    running.join_next().await.unwrap().unwrap();
    let sealed = relay.seal(&Ask::chat(HELLO));
    assert!(sending.send_request(outer(sealed.bytes)).await.is_err());
    assert_eq!(relay.gateway.figures().connections, 0);
}
