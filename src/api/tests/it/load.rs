//! Many at once: drips, crowds and floods.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::{FloodConfig, IngressConfig, LoadLimits};
use tokio::io::AsyncWriteExt;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, HELLO, HELLO_STREAMED, ask, chat, get};
use crate::node::{Recipe, live, node, started, text};

const DRIPPING: usize = 200;

#[tokio::test(start_paused = true)]
async fn two_hundred_dripping_connections_delay_nobody() {
    let node = node().await;
    let mut dripping = JoinSet::new();
    let barrier = Arc::new(Barrier::new(DRIPPING + 1));
    let dripped = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    for at in 0..DRIPPING {
        let (address, barrier) = (node.client, barrier.clone());
        let dripped = Arc::clone(&dripped[at % 2]);
        dripping.spawn(async move {
            let mut client = Client::connect(address).await;
            // Half of them drip their head, the others their body.
            let request = chat("", HELLO);
            let sent = if at % 2 == 0 {
                10
            } else {
                request.len() - HELLO.len() + 1
            };
            client.send(&request[..sent]).await;
            barrier.wait().await;
            for byte in request.as_bytes()[sent..].iter().take(40) {
                sleep(Duration::from_millis(900)).await;
                if client.socket.write_all(&[*byte]).await.is_err() {
                    break;
                }
                dripped.fetch_add(1, Ordering::Relaxed);
            }
            while !client.ends().await {
                client.answer().await;
            }
        });
    }
    barrier.wait().await;
    let good = async || {
        let before = Instant::now();
        let good = ask(node.client, chat("", HELLO)).await;
        assert_eq!(good.status, 200);
        assert_eq!(before.elapsed(), Duration::ZERO, "no timer had to fire");
    };
    good().await;
    assert!(
        dripping.try_join_next().is_none(),
        "all were still dripping"
    );
    // And again with bytes of heads and of bodies under way, more than one a connection on average.
    let is_dripped = |bytes: &Arc<AtomicUsize>| bytes.load(Ordering::Relaxed) > DRIPPING / 2;
    while !dripped.iter().all(is_dripped) {
        sleep(Duration::from_millis(100)).await;
    }
    good().await;
    // And each of them comes to an end.
    let all_ended = timeout(Duration::from_secs(600), dripping.join_all()).await;
    assert_eq!(all_ended.expect("every drip has its end").len(), DRIPPING);
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away_and_the_seat_comes_back() {
    let load = LoadLimits {
        connections_max: 2,
        ..LoadLimits::default()
    };
    let ingress = IngressConfig {
        load,
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(node.client).await;
        client
            .send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        assert_eq!(client.answer().await.status, 200);
        held.push(client);
    }
    let mut extra = Client::connect(node.client).await;
    let turned_away = extra.answer().await;
    assert_eq!(turned_away.status, 503);
    assert!(turned_away.is_complete);
    assert_eq!(turned_away.error("code"), "overloaded");
    assert_eq!(turned_away.header("retry-after"), Some("1"));
    assert!(extra.ends().await);
    held.pop();
    // The server learns of the end in its own time.
    loop {
        let mut client = Client::connect(node.client).await;
        client
            .send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        if client.answer().await.status == 200 {
            break;
        }
    }
}

#[tokio::test]
async fn an_address_has_its_share_of_connections() {
    let ingress = IngressConfig {
        load: LoadLimits {
            connections_per_address_max: 1,
            ..LoadLimits::default()
        },
        flood: FloodConfig {
            guards_loopback: true,
            ..FloodConfig::default()
        },
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let mut first = Client::connect(node.client).await;
    first
        .send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(
        Client::connect(node.client).await.answer().await.status,
        503
    );
}

#[tokio::test]
async fn one_chat_too_many_is_told_when_to_come_back() {
    let load = LoadLimits {
        requests_max: 1,
        ..LoadLimits::default()
    };
    let live = live(IngressConfig {
        load,
        ..IngressConfig::default()
    })
    .await;
    let mut first = Client::connect(live.node.client).await;
    first.send(chat("", HELLO_STREAMED)).await;
    live.events.send(started()).await.unwrap();
    live.events.send(text("a")).await.unwrap();
    first.until("\"a\"").await;
    let refused = ask(live.node.client, chat("", HELLO)).await;
    assert_eq!(
        (refused.status, refused.error("code").as_str()),
        (503, "overloaded")
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(
        get(live.node.client, "/readyz").await.status,
        200,
        "probes need no seat"
    );
}

#[tokio::test]
async fn a_flood_is_429_in_openais_words() {
    let one = NonZeroU32::new(1).unwrap();
    let flood = FloodConfig {
        per_second: one,
        burst: one,
        guards_loopback: true,
    };
    let ingress = IngressConfig {
        flood,
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let mut refused = None;
    // One a second passes, however slow this machine is; of so many, some do not.
    for _ in 0..100 {
        let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-request-id: f-1\r\n\r\n";
        let raw = ask(node.client, request).await;
        if raw.status != 200 {
            refused = Some(raw);
            break;
        }
    }
    let refused = refused.expect("a hundred requests in a row are a flood");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.error("type"), "rate_limit_error");
    assert_eq!(refused.header("x-request-id"), Some("f-1"));
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
}

#[tokio::test]
async fn behind_a_proxy_each_is_counted_as_whom_it_speaks_for() {
    let one = NonZeroU32::new(1).unwrap();
    let flood = FloodConfig {
        per_second: one,
        burst: one,
        // This machine's own are not counted, but for the proxy's.
        guards_loopback: false,
    };
    let ingress = IngressConfig {
        flood,
        proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..IngressConfig::default()
    };
    let node = Recipe {
        ingress,
        ..Recipe::default()
    }
    .start()
    .await;
    let ask_for = async |forwarded: &str| {
        let request = format!(
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {forwarded}\r\n\r\n"
        );
        ask(node.client, &request).await.status
    };
    let mut flooding = 0;
    for at in 0..100 {
        // Whoever comes for the first time is not refused for what another did, and what he writes
        // himself does not make him another.
        let forged = format!("198.51.100.{at}, 192.0.2.1");
        flooding += u32::from(ask_for(&forged).await == 429);
        assert_eq!(ask_for(&format!("203.0.113.{at}")).await, 200, "{at}");
        if flooding > 0 && at > 3 {
            break;
        }
    }
    assert!(
        flooding > 0,
        "a hundred in a row of one address are a flood"
    );
}
