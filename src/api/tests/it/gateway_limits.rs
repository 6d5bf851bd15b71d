//! What edges may, how slow they may be, and what happens while keys turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::SealedResult;
use relay::attest::{ProvesNothingAttestor, Verifier, report_data};
use relay::manifest::Manifest;
use relay::{EdgePolicy, RingTimes};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, HELLO, HELLO_STREAMED, ask, post};
use crate::gateway::{Answer, Ask, EDGE, RelayRecipe, open_policy, outer, relay};
use crate::gateway_service::{live_relay, streaming};
use crate::node::{Recipe, Script, end};

async fn check_denied(policy: EdgePolicy, asked: Ask, status: u16) {
    let relay = relay().await;
    relay.edges.add(EDGE, policy);
    let answer = relay.ask(&asked).await;
    let (refused, _, processed) = answer.refusal();
    assert_eq!(refused, status);
    // What the trunk refuses it was given.
    let is_trunks = asked.body != HELLO.as_bytes();
    assert_eq!(processed, if is_trunks { "yes" } else { "no" });
    assert_eq!(relay.calls_count(), 0);
    let entries = relay.audit.wait_for(1).await;
    assert_eq!(entries[0].status, Some(status));
}

#[tokio::test]
async fn an_edge_may_only_what_its_policy_says() {
    check_denied(EdgePolicy::default(), Ask::chat(HELLO), 403).await;
    let near = EdgePolicy {
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..open_policy()
    };
    check_denied(near, Ask::chat(HELLO), 403).await;
    let budget = EdgePolicy {
        budget_microusd: Some(0),
        ..open_policy()
    };
    check_denied(budget, Ask::chat(HELLO), 429).await;
    let idle = EdgePolicy {
        concurrent_max: Some(0),
        ..open_policy()
    };
    check_denied(idle, Ask::chat(HELLO), 429).await;
    let short = EdgePolicy {
        output_tokens_max: Some(10),
        ..open_policy()
    };
    let asks_for_more = HELLO.replace("\"model\"", "\"max_tokens\":11,\"model\"");
    check_denied(short, Ask::chat(asks_for_more), 403).await;
}

#[tokio::test]
async fn a_reply_without_a_bound_gets_its_edge_s() {
    let relay = relay().await;
    relay.edges.add(
        EDGE,
        EdgePolicy {
            output_tokens_max: Some(10),
            ..open_policy()
        },
    );
    assert_eq!(relay.ask(&Ask::chat(HELLO)).await.status, 200);
    let calls = relay.calls.lock().unwrap();
    let bound = calls[0].request().output_tokens_max;
    assert_eq!(bound, Some(domain::Tokens(10)));
}

#[tokio::test(start_paused = true)]
async fn rates_and_tokens_are_of_each_edge() {
    let relay = relay().await;
    relay.edges.add(
        EDGE,
        EdgePolicy {
            requests_per_s_max: Some(1),
            ..open_policy()
        },
    );
    let ask = Ask::chat(HELLO);
    assert_eq!(relay.ask(&ask).await.status, 200);
    let refused = relay.ask(&ask).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.field("retry-after"), Some("1"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(relay.ask(&ask).await.status, 200);
    // Each reply is of five tokens, so it takes the rest of the minute's and more.
    relay.edges.add(
        EDGE,
        EdgePolicy {
            tokens_per_minute_max: Some(3),
            ..open_policy()
        },
    );
    assert_eq!(relay.ask(&ask).await.status, 200);
    relay.audit.wait_for(4).await;
    assert_eq!(relay.ask(&ask).await.status, 429);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(relay.ask(&ask).await.status, 200);
}

#[tokio::test]
async fn a_shape_that_is_not_allowed_is_refused_and_a_policy_s_is_kept_to() {
    let relay = RelayRecipe {
        change: |rules| rules.shapes = vec!["off".parse().unwrap()],
        ..RelayRecipe::default()
    }
    .start()
    .await;
    let asked = |shape| Ask {
        shape: Some(shape),
        ..Ask::chat(HELLO)
    };
    assert_eq!(relay.ask(&asked("off")).await.status, 200);
    assert_eq!(relay.ask(&asked("cells;size=512")).await.status, 200);
    for shape in ["cells;size=4096", "round"] {
        assert_eq!(relay.ask(&asked(shape)).await.status, 400, "{shape}");
    }
    relay.edges.add(
        EDGE,
        EdgePolicy {
            shape: Some("cells;size=1024".parse().unwrap()),
            ..open_policy()
        },
    );
    let answer = relay.ask(&asked("off")).await;
    assert_eq!(answer.field("relay-shape"), Some("cells;size=1024"));
}

#[tokio::test(start_paused = true)]
async fn who_is_too_slow_with_a_head_or_a_body_is_not_waited_for() {
    let relay = relay().await;
    let began = Instant::now();
    let mut silent = Client::connect(relay.address).await;
    let mut head = Client::connect(relay.address).await;
    head.send("POST /.well-known/ohttp-gateway HTTP/1.1\r\nhost")
        .await;
    assert!(silent.ends().await);
    assert!(began.elapsed() < Duration::from_secs(7));
    let _ = head.socket.read(&mut [0; 512]).await;
    assert!(began.elapsed() < Duration::from_secs(7));
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    let bytes = outer(&sealed);
    // A body that stops, and one that drips.
    let began = Instant::now();
    let mut stopping = Client::connect(relay.address).await;
    stopping.send(&bytes[..bytes.len() - 1]).await;
    assert_eq!(stopping.answer().await.status, 408);
    assert!(began.elapsed() < Duration::from_secs(12));
    let began = Instant::now();
    let mut dripping = Client::connect(relay.address).await;
    dripping.send(&bytes[..bytes.len() - sealed.len()]).await;
    for byte in &sealed {
        if tokio::io::AsyncWriteExt::write_all(&mut dripping.socket, &[*byte])
            .await
            .is_err()
        {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        if began.elapsed() > Duration::from_secs(15) {
            break;
        }
    }
    assert_eq!(dripping.answer().await.status, 408);
    assert_eq!(relay.calls_count(), 0);
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let relay = RelayRecipe {
        change: |rules| rules.limits.connections_per_address_max = 8,
        ..RelayRecipe::default()
    }
    .start()
    .await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(Client::connect(relay.address).await);
    }
    let mut one_more = Client::connect(relay.address).await;
    assert!(one_more.ends().await);
    let figures = relay.gateway.figures();
    assert_eq!((figures.connections, figures.connections_refused), (8, 1));
}

/// As many files as this process may have open, by its own limit.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    soft.unwrap_or(1_024)
}

/// In bytes; nothing where the system does not say.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|it| it.parse().ok());
    pages.unwrap_or(0) * 4_096
}

/// 10,000, where a process may have 20,000 files: both ends are in this one, beside those of other tests.
/// Where it may have fewer, as many as go in.
#[tokio::test]
async fn ten_thousand_idle_connections_are_bounded() {
    const COUNT: usize = 10_000;
    const OTHER_TESTS_FILES: usize = 512;
    /// Of one connection that says nothing, in bytes.
    const EACH_BYTES_MAX: u64 = 64 << 10;
    const OTHER_TESTS_BYTES: u64 = 256 << 20;

    let count = COUNT.min(files_max().saturating_sub(OTHER_TESTS_FILES) * 7 / 10);
    if count < COUNT {
        println!(
            "with {count} connections only: {} files may be open",
            files_max()
        );
    }
    // Two ends of those that stay, and one of those that do not.
    let kept = count * 2 / 5;
    let mut relay = RelayRecipe {
        change: |rules| {
            rules.limits.connections_per_address_max = 20_000;
            rules.limits.header_max = Duration::from_secs(600);
        },
        ..RelayRecipe::default()
    };
    relay.connections_max = Some(kept);
    let relay = relay.start().await;
    let before = resident();
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(Client::connect(relay.address).await);
    }
    let (refused, kept) = ((count - kept) as u64, kept as u64);
    let seen = || {
        let figures = relay.gateway.figures();
        (figures.connections, figures.connections_refused)
    };
    for _ in 0..1_000_000 {
        if seen() == (kept, refused) {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(seen(), (kept, refused));
    let grown = resident().saturating_sub(before);
    let bound = kept * EACH_BYTES_MAX + OTHER_TESTS_BYTES;
    assert!(grown < bound, "{grown} bytes");
    // One that leaves makes room for one that asks.
    assert!(Client::connect(relay.address).await.ends().await);
    drop(held.swap_remove(0));
    for _ in 0..1_000_000 {
        if relay.gateway.figures().connections < kept {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(relay.ask(&Ask::chat(HELLO)).await.status, 200);
    // And who never asks is not kept.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(601)).await;
    for connection in &mut held {
        assert!(connection.ends().await);
    }
    assert_eq!(relay.gateway.figures().connections, 0);
}

/// In pieces, and without saying beforehand how much it is.
#[tokio::test]
async fn a_request_without_a_length_is_bounded_as_it_comes() {
    let relay = RelayRecipe {
        change: |rules| rules.limits.request_bytes_max = 64 << 10,
        ..RelayRecipe::default()
    };
    let relay = relay.start().await;
    for (bytes, status) in [(60 << 10, 200), (128 << 10, 413)] {
        let long = HELLO.replace("hi", &"x".repeat(bytes));
        let sealed = relay.seal(&Ask::chat(long)).bytes;
        let mut client = Client::connect(relay.address).await;
        client
            .send(
                "POST /.well-known/ohttp-gateway HTTP/1.1\r\nhost: relay\r\n\
                 content-type: message/ohttp-chunked-req\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await;
        for piece in sealed.chunks(8 << 10) {
            let head = format!("{:x}\r\n", piece.len());
            let chunk = [head.as_bytes(), piece, b"\r\n"].concat();
            // Who is refused meanwhile is not listened to any more.
            if tokio::io::AsyncWriteExt::write_all(&mut client.socket, &chunk)
                .await
                .is_err()
            {
                break;
            }
        }
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.socket, b"0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, status, "{bytes} bytes");
    }
    assert_eq!(relay.calls_count(), 1);
}

/// Who joins is nobody yet, and may come from many addresses.
#[tokio::test]
async fn only_so_many_are_listened_to_who_want_to_join() {
    let relay = RelayRecipe {
        enrolment: Some(Arc::new(crate::gateway_tls::Echo)),
        change: |rules| {
            rules.limits.enrolments_max = 1;
            rules.limits.enrolments_per_minute = 100_000;
        },
        ..RelayRecipe::default()
    };
    let relay = relay.start().await;
    let asked = post("/relay/v1/join", "", "token");
    let (begun, rest) = asked.split_at(asked.len() - 1);
    let mut slow = Client::connect(relay.address).await;
    slow.send(begun).await;
    let mut refused = ask(relay.address, &asked).await;
    while refused.status == 200 {
        // The slow one has not come yet.
        refused = ask(relay.address, &asked).await;
    }
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    slow.send(rest).await;
    assert_eq!(slow.answer().await.text(), "token");
    assert_eq!(ask(relay.address, &asked).await.status, 200);
}

/// What an edge does not read is not asked for either; and where it takes nothing for too long, its
/// answer is dropped.
#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_holds_up_its_own_upstream_alone() {
    let asked: Arc<AtomicUsize> = Arc::default();
    let words = 100_000;
    let relay = RelayRecipe {
        node: Recipe {
            script: Script::Paced(words, Duration::ZERO, Arc::clone(&asked)),
            ..Recipe::default()
        },
        ..RelayRecipe::default()
    }
    .start()
    .await;
    let sealed = relay.seal(&Ask {
        shape: Some("off"),
        ..Ask::chat(HELLO_STREAMED)
    });
    let mut client = Client::connect(relay.address).await;
    client.send(outer(&sealed.bytes)).await;
    client.head().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = asked.load(Ordering::Relaxed);
    assert!(held < words / 2, "{held} words wait for nobody");
    let entries = loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let entries = relay.audit.entries();
        if !entries.is_empty() {
            break entries;
        }
    };
    assert_eq!(entries[0].result, SealedResult::Abandoned);
    assert_eq!(relay.gateway.figures().requests, 0);
}

#[tokio::test]
async fn a_hundred_thousand_events_come_through_whole() {
    let words = 100_000;
    let relay = RelayRecipe {
        node: Recipe {
            script: Script::Paced(words, Duration::ZERO, Arc::default()),
            ..Recipe::default()
        },
        ..RelayRecipe::default()
    }
    .start()
    .await;
    let answer = relay
        .ask(&Ask {
            shape: Some("off"),
            ..Ask::chat(HELLO_STREAMED)
        })
        .await;
    assert!(answer.is_whole);
    assert_eq!(answer.text().matches("word ").count(), words);
}

#[tokio::test]
async fn one_sender_s_opening_is_bounded_before_anything_is_opened() {
    let relay = RelayRecipe {
        change: |rules| rules.limits.opens_per_s = 4,
        ..RelayRecipe::default()
    }
    .start()
    .await;
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    assert_eq!(relay.post(&sealed).await.status, 200);
    let refused = relay.post(b"nothing of ours").await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn requests_and_their_bytes_are_bounded_in_all() {
    let live = live_relay(RelayRecipe {
        change: |rules| rules.limits.requests_max = 1,
        ..RelayRecipe::default()
    })
    .await;
    let (mut client, mut raw, _opener) = streaming(&live, &Ask::chat(HELLO_STREAMED)).await;
    let sealed = live.relay.seal(&Ask::chat(HELLO)).bytes;
    assert_eq!(live.relay.post(&sealed).await.status, 503);
    for event in end() {
        live.events.send(event).await.unwrap();
    }
    drop(live.events);
    while client.chunk(&mut raw).await {}
    let small = RelayRecipe {
        change: |rules| rules.limits.held_bytes_max = 100,
        ..RelayRecipe::default()
    };
    let small = small.start().await;
    let sealed = small.seal(&Ask::chat(HELLO)).bytes;
    assert_eq!(small.post(&sealed).await.status, 503);
}

/// 200 streams of ten seconds each, begun over ten seconds, while keys are born every two.
#[tokio::test(start_paused = true)]
async fn keys_turn_under_streams_and_none_is_lost() {
    let node = Recipe {
        script: Script::Paced(10, Duration::from_secs(1), Arc::default()),
        ..Recipe::default()
    };
    let recipe = RelayRecipe {
        node,
        change: |rules| {
            rules.times = RingTimes {
                every: Duration::from_secs(2),
                lead: Duration::from_secs(1),
                life: Duration::from_secs(6),
                id_rest: Duration::from_secs(60),
            };
        },
        ..RelayRecipe::default()
    };
    let relay = recipe.start().await;
    let mut streams = JoinSet::new();
    let mut serials = vec![];
    let mut ids = vec![];
    for number in 0..200 {
        // No two have one reply from the cache.
        let sealed = relay.seal(&Ask::chat(
            HELLO_STREAMED.replace("hi", &format!("hi {number}")),
        ));
        ids.push(sealed.bytes[0]);
        let manifest = relay.gateway.signed_manifest().body;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        serials.push(manifest["serial"].as_u64().unwrap());
        let address = relay.address;
        streams.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send(outer(&sealed.bytes)).await;
            let raw = client.answer().await;
            assert_eq!(raw.status, 200);
            Answer::open(sealed.opener, &raw.body)
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for answer in streams.join_all().await {
        assert!(answer.is_whole);
        assert_eq!(answer.text().matches("word ").count(), 10);
    }
    ids.dedup();
    assert!(ids.len() >= 4, "{ids:?}");
    assert!(serials.is_sorted());
    serials.dedup();
    assert!(serials.len() >= 4, "{serials:?}");
}

/// What vouches for the machine does so for the keys of the manifest it stands in, whichever they are.
#[tokio::test(start_paused = true)]
async fn every_manifest_brings_evidence_of_its_own_keys() {
    let relay = RelayRecipe {
        change: |rules| {
            rules.attestor = Some(Arc::new(ProvesNothingAttestor::from_bytes(&[3; 32])));
        },
        ..RelayRecipe::default()
    };
    let relay = relay.start().await;
    let verifier = ProvesNothingAttestor::from_bytes(&[3; 32]).verifier();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let manifest: Manifest =
            serde_json::from_slice(&relay.gateway.signed_manifest().body).unwrap();
        let data = report_data(&relay.pin, &manifest).unwrap();
        let evidence = manifest.attestation.unwrap();
        verifier.verify(&evidence, &data).unwrap();
        seen.push(evidence.evidence);
        // A little more than keys are apart.
        tokio::time::sleep(Duration::from_secs(61 * 60)).await;
    }
    seen.dedup();
    assert_eq!(seen.len(), 4);
}

/// A manifest is made anew long before it ends, though no key is born.
#[tokio::test(start_paused = true)]
async fn a_manifest_never_ends_unrenewed() {
    let relay = relay().await;
    let mut last = relay.gateway.signed_manifest();
    for _ in 0..36 {
        tokio::time::sleep(Duration::from_secs(10 * 60)).await;
        // Checks its times, and that there is a key to seal to.
        relay.key();
        let now = relay.gateway.signed_manifest();
        let serial = |body: &[u8]| {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            body["serial"].as_u64().unwrap()
        };
        assert!(now == last || serial(&now.body) > serial(&last.body));
        last = now;
    }
    assert_eq!(relay.ask(&Ask::chat(HELLO)).await.status, 200);
}
