//! Sealed requests that are answered.

use std::sync::Mutex;
use std::time::Duration;

use api::IngressConfig;
use domain::{MicroUsd, SealedResult, SealedSide};
use relay::bhttp::{MessageReader, Part};
use relay::shape::FillStripper;
use relay::slim::SlimDecoder;
use relay::{KeyConfig, WholeRequestSealer};
use tokio::sync::{mpsc, oneshot};

use crate::client::{Client, HELLO, HELLO_STREAMED, Raw, ask, get, post};
use crate::gateway::{Answer, Ask, CHAT, EDGE, RELAY, Relay, RelayRecipe, outer, relay};
use crate::node::{Event, Recipe, Script, end, started, text};

fn stripped(content: &[u8]) -> String {
    let (mut stripper, mut out) = (FillStripper::default(), Vec::new());
    stripper.push(content, &mut out);
    stripper.finish(&mut out);
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn a_chat_is_answered_sealed_and_written_down() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO));
    let raw = relay.post(&sealed.bytes).await;
    let outside = [&sealed.bytes[..], &raw.body].concat();
    for secret in [CHAT, "local", "hello", EDGE, "application/json"] {
        let is_seen = outside
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!is_seen, "{secret}");
    }
    let answer = Answer::open(sealed.opener, &raw.body);
    assert!(answer.is_whole);
    assert!(
        answer.chunks.iter().all(|bytes| *bytes == 512),
        "{answer:?}"
    );
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("relay-processed"), Some("yes"));
    assert_eq!(answer.field("relay-shape"), Some("cells;size=512"));
    let reply = &answer.json()["choices"][0]["message"]["content"];
    assert_eq!(reply, "hello there");
    let entries = relay.audit.wait_for(1).await;
    let [entry] = &entries[..] else {
        panic!("{entries:?}");
    };
    assert_eq!(entry.side, SealedSide::Relay);
    assert_eq!(entry.edge.as_deref(), Some(EDGE));
    assert_eq!(entry.relay, RELAY);
    assert_eq!(entry.path.as_deref(), Some(CHAT));
    assert_eq!(entry.model.as_deref(), Some("local"));
    assert_eq!((entry.tokens_in, entry.tokens_out), (Some(3), Some(2)));
    assert_eq!(entry.cost, Some(MicroUsd(0)));
    assert_eq!(entry.status, Some(200));
    assert_eq!(entry.shape.as_deref(), Some("cells;size=512"));
    assert_eq!(entry.bytes_up, sealed.bytes.len() as u64);
    assert_eq!(entry.bytes_down, raw.body.len() as u64);
    assert_eq!(entry.result, SealedResult::Answered);
    let figures = relay.gateway.figures();
    assert_eq!(figures.results[0], (SealedResult::Answered, 1));
    assert_eq!(figures.requests, 0);
    assert_eq!(figures.cells, answer.chunks.len() as u64);
    assert_eq!(figures.plain_bytes, 512 * figures.cells);
    assert_eq!(figures.content_bytes, answer.content.len() as u64);
}

#[tokio::test]
async fn a_stream_is_answered_in_every_kind_of_shape() {
    for shape in ["off", "cells;size=1024", "constant;size=512;bucket=2"] {
        let relay = relay().await;
        let asked = Ask {
            shape: Some(shape),
            ..Ask::chat(HELLO_STREAMED)
        };
        let answer = relay.ask(&asked).await;
        assert!(answer.is_whole);
        assert_eq!(answer.field("relay-shape"), Some(shape));
        let kind = answer.field("content-type");
        assert_eq!(kind, Some("text/event-stream; charset=utf-8"));
        let said = stripped(&answer.content);
        assert!(said.contains("hello ") && said.contains("there"), "{said}");
        assert!(said.trim_end().ends_with("data: [DONE]"), "{said}");
    }
}

#[tokio::test]
async fn frames_are_sent_to_who_asks_for_them() {
    let relay = relay().await;
    let mut asked = Ask::chat(HELLO_STREAMED);
    asked.fields.push(("relay-frames", "slim/1".to_owned()));
    let answer = relay.ask(&asked).await;
    assert_eq!(answer.field("relay-frames"), Some("slim/1"));
    let (mut decoder, mut out) = (SlimDecoder::default(), Vec::new());
    decoder.push(&answer.content, &mut out).unwrap();
    decoder.finish().unwrap();
    let said = String::from_utf8(out).unwrap();
    assert!(said.contains("there"), "{said}");
    assert!(said.ends_with("data: [DONE]\n\n"), "{said}");
    // What is no stream comes as it is.
    let mut asked = Ask::chat(HELLO);
    asked.fields.push(("relay-frames", "slim/1".to_owned()));
    let answer = relay.ask(&asked).await;
    assert_eq!(answer.field("relay-frames"), None);
    assert_eq!(answer.json()["object"], "chat.completion");
}

#[tokio::test]
async fn a_request_in_one_piece_is_answered_in_one_piece() {
    let relay = relay().await;
    let (config, aead) = relay.key();
    let sealer = WholeRequestSealer::start(&config, aead, &mut rand::rng()).unwrap();
    let plain = relay.plain(&Ask::chat(HELLO), &sealer.proof_secret());
    let (sealed, opener) = sealer.seal(&plain).unwrap();
    let chunked = outer(&sealed);
    let head = chunked.len() - sealed.len();
    let head = String::from_utf8(chunked[..head].to_vec()).unwrap();
    let head = head.replace("ohttp-chunked-req", "ohttp-req");
    let raw = ask(relay.address, [head.as_bytes(), &sealed].concat()).await;
    assert_eq!(raw.header("content-type"), Some("message/ohttp-res"));
    let plain = opener.open(&raw.body).unwrap();
    let mut reader = MessageReader::response();
    let (mut input, mut content) = (&plain[..], Vec::new());
    while let Some(part) = reader.next(&mut input).unwrap() {
        if let Part::Content(more) = part {
            content.extend_from_slice(more);
        }
    }
    assert!(String::from_utf8(content).unwrap().contains("hello there"));
    // The other form's bytes do not open as this one.
    let as_chunked = relay.post(&sealed).await;
    assert_eq!(as_chunked.status, 400);
    assert_eq!(relay.calls_count(), 1);
}

#[tokio::test]
async fn keys_and_probes_are_told_and_nothing_else() {
    let relay = relay().await;
    let list = get(relay.address, "/.well-known/ohttp-gateway").await;
    assert_eq!(list.header("content-type"), Some("application/ohttp-keys"));
    let kems: Vec<_> = KeyConfig::read_list(&list.body)
        .unwrap()
        .iter()
        .map(|config| config.kem().as_label())
        .collect();
    assert_eq!(kems, ["x25519", "x-wing"]);
    let manifest = get(relay.address, "/relay/v1/manifest").await;
    let signed = relay.gateway.signed_manifest();
    assert_eq!(manifest.body, signed.body);
    let fields = ["content-digest", "signature-input", "signature"];
    let fields = fields.map(|name| manifest.header(name).unwrap().to_owned());
    let expected = [
        signed.content_digest,
        signed.signature_input,
        signed.signature,
    ];
    assert_eq!(fields, expected);
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/", 404),
        ("/metrics", 404),
        ("/v1/models", 404),
        ("/relay/v1/join", 405),
    ] {
        let raw = get(relay.address, path).await;
        assert_eq!(raw.status, status, "{path}");
        if status >= 400 {
            let kind = raw.header("content-type");
            assert_eq!(kind, Some("application/problem+json"), "{path}");
        }
    }
    // Nobody joins a relay that lets nobody in.
    let join = ask(relay.address, post("/relay/v1/join", "", "{}")).await;
    assert_eq!(join.status, 404);
    let chat = ask(relay.address, post(CHAT, "", HELLO)).await;
    assert_eq!(chat.status, 404);
    assert_eq!(relay.calls_count(), 0);
}

#[tokio::test]
async fn an_edge_sees_the_models_that_it_may_ask_for() {
    let relay = relay().await;
    relay.edges.add(
        EDGE,
        relay::EdgePolicy {
            models: vec!["local".to_owned()],
            ..crate::gateway::open_policy()
        },
    );
    let listed = relay
        .ask(&Ask {
            method: "GET",
            path: "/v1/models".to_owned(),
            ..Ask::chat("")
        })
        .await;
    let listed = listed.json();
    let names: Vec<_> = listed["data"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0]["id"], "local");
    let denied = Ask::chat(HELLO.replace("local", "tiny"));
    assert_eq!(relay.ask(&denied).await.refusal().0, 403);
    assert_eq!(relay.calls_count(), 0);
}

/// A relay whose back end streams what the test sends.
pub struct LiveRelay {
    pub relay: Relay,
    pub events: mpsc::Sender<Event>,
    pub ended: oneshot::Receiver<()>,
}

pub async fn live_relay(recipe: RelayRecipe) -> LiveRelay {
    // As a node does at its start: else the first count of tokens would be in what is timed.
    policy::warm_up();
    let (events, inbox) = mpsc::channel(8);
    let (ending, ended) = oneshot::channel();
    let node = Recipe {
        script: Script::Live(Mutex::new(Some((inbox, ending)))),
        ingress: IngressConfig::default(),
        ..Recipe::default()
    };
    LiveRelay {
        relay: RelayRecipe { node, ..recipe }.start().await,
        events,
        ended,
    }
}

/// A stream of which the edge has "a".
pub async fn streaming(live: &LiveRelay, ask: &Ask) -> (Client, Raw, relay::ResponseOpener) {
    let sealed = live.relay.seal(ask);
    let mut client = Client::connect(live.relay.address).await;
    client.send(outer(&sealed.bytes)).await;
    live.events.send(started()).await.unwrap();
    live.events.send(text("a")).await.unwrap();
    let mut raw = client.head().await;
    assert_eq!(raw.status, 200);
    // The first chunk of HTTP/1.1 holds the nonce and a cell.
    assert!(client.chunk(&mut raw).await);
    (client, raw, sealed.opener)
}

#[tokio::test]
async fn an_edge_that_leaves_ends_the_work_behind() {
    let live = live_relay(RelayRecipe::default()).await;
    let (client, ..) = streaming(&live, &Ask::chat(HELLO_STREAMED)).await;
    let left = std::time::Instant::now();
    drop(client);
    live.ended.await.unwrap_err();
    assert!(left.elapsed() < Duration::from_millis(100));
    let entries = live.relay.audit.wait_for(1).await;
    assert_eq!(entries[0].result, SealedResult::Abandoned);
    assert!(entries[0].tokens_out.is_none() || entries[0].model.is_some());
}

#[tokio::test]
async fn a_failure_in_the_stream_is_said_in_it_and_ended_properly() {
    let live = live_relay(RelayRecipe::default()).await;
    let sealed = live.relay.seal(&Ask::chat(HELLO_STREAMED));
    let mut client = Client::connect(live.relay.address).await;
    client.send(outer(&sealed.bytes)).await;
    live.events.send(started()).await.unwrap();
    live.events.send(text("a")).await.unwrap();
    let broken = domain::BackendError::Interrupted;
    live.events.send(Err(broken)).await.unwrap();
    let raw = client.answer().await;
    assert!(raw.is_complete);
    let answer = Answer::open(sealed.opener, &raw.body);
    assert!(answer.is_whole, "the end is proven");
    let said = stripped(&answer.content);
    assert!(
        said.contains("\"error\"") && !said.contains("[DONE]"),
        "{said}"
    );
    let entries = live.relay.audit.wait_for(1).await;
    assert_eq!(entries[0].result, SealedResult::Broken);
}

#[tokio::test]
async fn a_revoked_edge_s_stream_is_cut_and_its_next_request_refused() {
    let live = live_relay(RelayRecipe::default()).await;
    let (mut client, mut raw, opener) = streaming(&live, &Ask::chat(HELLO_STREAMED)).await;
    live.relay.edges.revoke(EDGE);
    // It says nothing more: the connection's own look at it ends it.
    live.ended.await.unwrap_err();
    while client.chunk(&mut raw).await {}
    assert!(!raw.is_complete);
    assert!(!Answer::open(opener, &raw.body).is_whole);
    let refused = live.relay.ask(&Ask::chat(HELLO)).await;
    assert_eq!(refused.refusal(), (401, "unproven_edge".to_owned(), "no"));
    let entries = live.relay.audit.wait_for(2).await;
    let results: Vec<_> = entries.iter().map(|entry| entry.result).collect();
    assert!(results.contains(&SealedResult::Broken), "{results:?}");
    assert!(results.contains(&SealedResult::Unproven), "{results:?}");
}

/// It waited for its reply to be whole, however long its edge had been gone.
#[tokio::test(start_paused = true)]
async fn a_request_in_one_piece_ends_with_its_edge() {
    let live = live_relay(RelayRecipe::default()).await;
    let (config, aead) = live.relay.key();
    let sealer = WholeRequestSealer::start(&config, aead, &mut rand::rng()).unwrap();
    let plain = live.relay.plain(&Ask::chat(HELLO), &sealer.proof_secret());
    let (sealed, _opener) = sealer.seal(&plain).unwrap();
    let chunked = outer(&sealed);
    let head = String::from_utf8(chunked[..chunked.len() - sealed.len()].to_vec()).unwrap();
    let mut client = Client::connect(live.relay.address).await;
    client.send(head.replace("chunked-req", "req")).await;
    client.send(&sealed).await;
    while live.relay.calls_count() == 0 {
        tokio::task::yield_now().await;
    }
    live.events.send(started()).await.unwrap();
    live.events.send(text("a")).await.unwrap();
    live.relay.edges.revoke(EDGE);
    live.ended.await.unwrap_err();
    assert_eq!(client.answer().await.status, 503);
    let entries = live.relay.audit.wait_for(1).await;
    assert_eq!(entries[0].result, SealedResult::Broken);
    assert_eq!(live.relay.gateway.figures().requests, 0);
}

/// When each cell of a constant answer comes, after the first.
async fn cell_times(cells: usize) -> Vec<Duration> {
    let live = live_relay(RelayRecipe::default()).await;
    let sealed = live.relay.seal(&Ask {
        shape: Some("constant;size=512;bucket=2"),
        ..Ask::chat(HELLO_STREAMED)
    });
    let mut client = Client::connect(live.relay.address).await;
    client.send(outer(&sealed.bytes)).await;
    let mut raw = client.head().await;
    let mut times = Vec::new();
    // Words come in between, at no time of their own.
    let saying = async {
        live.events.send(started()).await.unwrap();
        for _ in 0..cells {
            live.events.send(text("word ")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(17)).await;
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        for _ in 0..cells {
            assert!(client.chunk(&mut raw).await);
            times.push(tokio::time::Instant::now());
        }
    };
    tokio::select! {
        () = saying => {}
        () = reading => {}
    }
    times.iter().map(|time| *time - times[0]).collect()
}

/// How far from its tick each cell was, at most but for one in a hundred.
fn jitter(times: &[Duration]) -> Duration {
    let ticks = (0u32..).map(|tick| relay::shape::TICK * tick);
    let mut off: Vec<Duration> = times
        .iter()
        .zip(ticks)
        .map(|(time, tick)| time.abs_diff(tick))
        .collect();
    off.sort_unstable();
    off[off.len() * 99 / 100]
}

#[tokio::test(start_paused = true)]
async fn a_constant_answer_keeps_its_ticks() {
    let times = cell_times(200).await;
    assert!(jitter(&times) < Duration::from_millis(5), "{times:?}");
}

#[tokio::test]
#[ignore = "a measurement by the machine's own clock: cargo test -p api own_clock -- --ignored"]
async fn a_constant_answer_keeps_its_ticks_by_the_machine_s_own_clock() {
    let off = jitter(&cell_times(200).await);
    println!("99 of 100 cells are within {off:?} of their tick");
    assert!(off < Duration::from_millis(5), "{off:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_when_a_constant_answer_begins() {
    let live = live_relay(RelayRecipe::default()).await;
    let sealed = live.relay.seal(&Ask {
        shape: Some("constant;size=512;bucket=2"),
        ..Ask::chat(HELLO_STREAMED)
    });
    let mut client = Client::connect(live.relay.address).await;
    client.send(outer(&sealed.bytes)).await;
    // Half a second of nothing, in virtual time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    live.events.send(started()).await.unwrap();
    live.events.send(text("a")).await.unwrap();
    for event in end() {
        live.events.send(event).await.unwrap();
    }
    drop(live.events);
    let raw = client.answer().await;
    let answer = Answer::open(sealed.opener, &raw.body);
    assert!(answer.interims >= 8, "{}", answer.interims);
    assert!(answer.chunks.iter().all(|bytes| *bytes == 512));
    assert_eq!(answer.chunks.len(), 20, "a length among few");
    assert!(stripped(&answer.content).contains("[DONE]"));
}

#[tokio::test]
async fn a_relay_that_stops_lets_streams_end_and_takes_no_more() {
    let mut live = live_relay(RelayRecipe::default()).await;
    let (mut client, mut raw, opener) = streaming(&live, &Ask::chat(HELLO_STREAMED)).await;
    live.relay.stop.cancel();
    let refused = loop {
        let sealed = live.relay.seal(&Ask::chat(HELLO));
        let raw = live.relay.post(&sealed.bytes).await;
        if raw.status == 503 {
            break raw;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(get(live.relay.address, "/readyz").await.status, 503);
    for event in end() {
        live.events.send(event).await.unwrap();
    }
    drop(live.events);
    while client.chunk(&mut raw).await {}
    assert!(Answer::open(opener, &raw.body).is_whole);
    live.relay.serving.join_next().await.unwrap().unwrap();
}
