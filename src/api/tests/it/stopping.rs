//! The end: what is under way is finished, and no more begun.

use std::time::Duration;

use api::IngressConfig;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{Client, HELLO, HELLO_STREAMED, chat};
use crate::node::{Live, end, live, node, started, text};

/// A live stream that has said "a".
async fn streaming(ingress: IngressConfig) -> (Live, Client) {
    let live = live(ingress).await;
    let mut client = Client::connect(live.node.client).await;
    client.send(chat("", HELLO_STREAMED)).await;
    live.events.send(started()).await.unwrap();
    live.events.send(text("a")).await.unwrap();
    client.until("\"a\"").await;
    (live, client)
}

#[tokio::test]
async fn a_stream_under_way_is_finished_and_nothing_else_begun() {
    let (
        Live {
            mut node,
            events,
            ended: _ended,
        },
        mut client,
    ) = streaming(IngressConfig::default()).await;
    node.stop.cancel();
    // The admin door had no connections, so it closes at once; the other waits for the stream.
    node.serving.join_next().await.unwrap().unwrap();
    assert!(node.serving.try_join_next().is_none());
    let is_refused = match TcpStream::connect(node.client).await {
        Err(_) => true,
        Ok(mut late) => !matches!(late.read(&mut [0; 8]).await, Ok(1..)),
    };
    assert!(is_refused);
    for event in end() {
        events.send(event).await.unwrap();
    }
    drop(events);
    client.until("[DONE]").await;
    node.serving.join_next().await.unwrap().unwrap();
    assert!(node.serving.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_outlasts_the_grace_is_dropped_without_a_clean_end() {
    let ingress = IngressConfig {
        shutdown_grace: Duration::from_secs(5),
        ..IngressConfig::default()
    };
    let (
        Live {
            mut node,
            events,
            ended,
        },
        mut client,
    ) = streaming(ingress).await;
    node.stop.cancel();
    while let Some(served) = node.serving.join_next().await {
        served.unwrap();
    }
    ended.await.unwrap_err();
    assert!(events.is_closed());
    let mut rest = Vec::new();
    let _ = client.socket.read_to_end(&mut rest).await;
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        !rest.contains("[DONE]") && !rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let mut node = node().await;
    let mut client = Client::connect(node.client).await;
    client.send(chat("", HELLO)).await;
    assert_eq!(client.answer().await.status, 200);
    node.stop.cancel();
    while let Some(served) = node.serving.join_next().await {
        served.unwrap();
    }
    assert!(client.ends().await);
}
