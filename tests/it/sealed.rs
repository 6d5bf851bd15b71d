//! The sealed path between two processes: an edge, and its relay before a fake upstream.

#[cfg(target_os = "linux")]
mod capture;
mod relay;
mod tee;

use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};

use self::relay::{EDGE, Relay};
use self::tee::Tee;
use crate::harness::{ask, chat_request, eventually, fake, hedge, with};

/// What the edge's callers name the relay's model.
const MODEL: &str = "relay-hq/bench";

fn streamed(text: &str) -> Value {
    with(ask(MODEL, text), json!({"stream": true}))
}

#[tokio::test]
async fn chats_calls_and_embeddings_come_through_whole_and_streamed() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    let whole = edge.chat(&ask(MODEL, "[[fake tokens=3]]")).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    assert_eq!(whole.content(), "t0 t1 t2 ");
    assert_eq!(whole.json()["usage"]["completion_tokens"], 3);

    let options = json!({"stream_options": {"include_usage": true}});
    let reply = edge
        .chat(&with(streamed("[[fake tokens=4]]"), options))
        .await;
    assert_eq!(reply.streamed_text(), "t0 t1 t2 t3 ");
    assert_eq!(
        reply.chunks().last().unwrap()["usage"]["completion_tokens"],
        4
    );
    assert!(reply.is_done(), "{}", reply.text);

    let tools = json!({"tools": [{"type": "function", "function": {"name": "weather"}}]});
    let body = with(ask(MODEL, "[[fake call=weather]]"), tools);
    let called = edge.chat(&body).await.json();
    let call = &called["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "weather", "{called}");
    let reply = edge
        .chat(&with(body, json!({"stream": true, "seed": 1})))
        .await;
    assert!(
        reply.text.contains("weather") && reply.is_done(),
        "{}",
        reply.text
    );

    let body = json!({"model": MODEL, "input": ["a", "b"]});
    let mut asked = chat_request(&body);
    *asked.uri_mut() = http::Uri::from_static("/v1/embeddings");
    let embedded = edge.send(asked).await;
    assert_eq!(embedded.status, StatusCode::OK, "{}", embedded.text);
    assert_eq!(embedded.json()["data"].as_array().map(Vec::len), Some(2));

    // The provider's key is the relay's, and no name of an edge goes further than the relay.
    for seen in fake.seen() {
        assert_eq!(seen.headers["authorization"], "Bearer cloud-key");
        assert!(!format!("{:?}{}", seen.headers, seen.body).contains(EDGE));
    }
}

#[tokio::test]
async fn a_refusal_of_the_provider_comes_through_as_such() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    let reply = edge.chat(&ask(MODEL, "[[fake status=429]]")).await;
    assert_eq!(
        reply.status,
        StatusCode::TOO_MANY_REQUESTS,
        "{}",
        reply.text
    );
    let reply = edge.chat(&ask(MODEL, "[[fake status=400]]")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_upstreams_work() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    let mut reply = edge
        .open(&streamed("[[fake tokens=100000 gap-ms=5]]"))
        .await;
    reply.next().await.unwrap();
    assert_eq!(fake.counts().abandoned, 0);
    let left = Instant::now();
    drop(reply);
    eventually("the upstream sees it", async || {
        fake.counts().abandoned == 1
    })
    .await;
    // Said, and not judged: the machine is shared with other tests.
    let took = left.elapsed();
    eprintln!("the upstream was left {took:?} after the client was");
}

#[tokio::test]
async fn a_relay_that_is_killed_leaves_an_error_and_never_a_clean_end() {
    let fake = fake();
    let mut relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    let mut reply = edge
        .open(&streamed("[[fake tokens=100000 gap-ms=5]]"))
        .await;
    reply.next().await.unwrap();
    relay.kill();
    let rest = reply.read().await;
    let last = rest.chunks().pop().unwrap();
    assert!(last["error"]["message"].is_string(), "{last}");
    assert!(!rest.text.contains("[DONE]"));
    let refused = edge.chat(&ask(MODEL, "hi")).await;
    assert!(refused.status.is_server_error(), "{}", refused.text);
}

#[tokio::test]
async fn a_revoked_edge_is_cut_off_and_refused() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    let mut reply = edge
        .open(&streamed("[[fake tokens=100000 gap-ms=5]]"))
        .await;
    reply.next().await.unwrap();
    let said = relay.command(&["edges", "revoke", EDGE]);
    assert!(said.contains("revoked"), "{said}");
    let rest = reply.read().await;
    let last = rest.chunks().pop().unwrap();
    assert!(last["error"]["message"].is_string(), "{last}");
    assert!(!rest.text.contains("[DONE]"));
    eventually("the upstream is left", async || {
        fake.counts().abandoned == 1
    })
    .await;
    let asked_before = fake.seen().len();
    let refused = edge.chat(&ask(MODEL, "hi")).await;
    assert!(!refused.status.is_success(), "{}", refused.text);
    assert_eq!(fake.seen().len(), asked_before);
}

#[tokio::test]
async fn an_edge_may_what_its_policy_allows() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let policy = relay.path("relay/edges/branch-7.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    assert!(text.contains("models = [\"bench\"]"), "{text}");
    let edge = relay.edge("").await;
    assert_eq!(edge.chat(&ask(MODEL, "hi")).await.status, StatusCode::OK);
    // Read anew by itself.
    let narrower = text.replace("\"/v1/chat/completions\", ", "");
    std::fs::write(&policy, narrower).unwrap();
    let mut count = 0;
    eventually("the policy counts", async || {
        // Another one each time: the edge keeps replies.
        count += 1;
        let refused = edge
            .chat(&ask(MODEL, &format!("again {count} [[fake tokens=1]]")))
            .await;
        !refused.status.is_success()
    })
    .await;
}

#[tokio::test]
async fn a_token_is_good_for_one_edge_and_one_use() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let token = relay.token.clone();
    relay.edge("").await;
    let (is_well, said) = relay.join(&token, "second");
    assert!(!is_well && said.contains("edges add"), "{said}");
    assert!(!relay.path("second/member.toml").exists());

    let said = relay.command(&["edges", "add", "branch-8", "--model", "bench"]);
    let token = relay::token_in(&said);
    let said = relay.command(&["edges", "list"]);
    assert!(
        said.contains("has not joined") && said.contains("joined, may ask for bench"),
        "{said}"
    );
    // A relay elsewhere that the token does not speak of gets no secret.
    let other = Relay::start(&fake, "").await;
    let (is_well, said) = other.join(&token, "third");
    assert!(!is_well && said.contains("certificate"), "{said}");
    let (_, said) = relay.join(&token, "third");
    assert!(said.contains("joined  relay-hq as branch-8"), "{said}");
    // Two memberships may answer alike or not: that is the operator's to say.
    assert!(said.contains("was left as it is"), "{said}");
    // What is there stays as it was.
    let before = std::fs::read_to_string(relay.path("relay/identity.key")).unwrap();
    let said = relay.init();
    assert!(said.contains("there already"), "{said}");
    assert_eq!(
        std::fs::read_to_string(relay.path("relay/identity.key")).unwrap(),
        before
    );
}

/// Everything between the two that a box on the way could see.
async fn captured(settings: &str, scheme: &str) {
    const PROMPT: &str = "zebra-crossing-4711";
    let fake = fake();
    let relay = Relay::start(&fake, settings).await;
    let mut tee = Tee::start(relay.address).await;
    let (is_well, said) = relay.joined();
    assert!(is_well, "{said}");
    relay.reach_by(&format!("{scheme}://localhost:{}", tee.address.port()));
    let edge = relay.joined_edge("").await;
    let reply = edge
        .chat(&streamed(&format!("{PROMPT} [[fake tokens=40]]")))
        .await;
    assert!(reply.is_done(), "{}", reply.text);
    let whole = edge.chat(&ask(MODEL, PROMPT)).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    drop(edge);
    let seen = tee.take().await;
    check_hidden(&seen, PROMPT, scheme);
}

/// Of an exchange about `prompt`, nothing is in what was seen.
fn check_hidden(seen: &[Vec<u8>], prompt: &str, scheme: &str) {
    let holds = |needle: &str| {
        let needle = needle.as_bytes();
        let mut ways = seen.iter();
        ways.any(|way| way.windows(needle.len()).any(|window| window == needle))
    };
    let bytes: usize = seen.iter().map(Vec::len).sum();
    assert!(bytes > 4_000, "{bytes} bytes");
    if scheme == "http" {
        assert!(holds("/.well-known/ohttp-gateway"), "it is the way");
    }
    for secret in [
        prompt,
        "zebra",
        "/v1/chat",
        "chat.completion",
        "bench",
        "fake",
        "cloud-key",
        EDGE,
        "t1 t2",
        "\"delta\"",
    ] {
        assert!(!holds(secret), "{secret} was seen on the way");
    }
}

/// The same of packets, as the kernel shows them.
#[cfg(target_os = "linux")]
async fn captured_packets(settings: &str, scheme: &str) {
    const PROMPT: &str = "zebra-crossing-4712";
    let fake = fake();
    let relay = Relay::start(&fake, settings).await;
    let port = relay.address.port();
    let (is_well, said) = relay.joined();
    assert!(is_well, "{said}");
    relay.reach_by(&format!("{scheme}://localhost:{port}"));
    let Some(capture) = self::capture::Capture::start(port) else {
        eprintln!("skipped: this process may not see packets; a tee on the way shows the same");
        return;
    };
    let edge = relay.joined_edge("").await;
    let reply = edge
        .chat(&streamed(&format!("{PROMPT} [[fake tokens=40]]")))
        .await;
    assert!(reply.is_done(), "{}", reply.text);
    let whole = edge.chat(&ask(MODEL, PROMPT)).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text);
    drop(edge);
    check_hidden(&capture.take(), PROMPT, scheme);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_packet_of_an_exchange_shows_anything_of_it() {
    captured_packets("", "https").await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_packet_of_an_exchange_shows_anything_of_it_even_where_tls_ends_before() {
    captured_packets("tls = false\nclient_certificates = false", "http").await;
}

#[tokio::test]
async fn nothing_of_an_exchange_is_seen_on_the_way_even_where_tls_ends_before() {
    captured("tls = false\nclient_certificates = false", "http").await;
}

#[tokio::test]
async fn nothing_of_an_exchange_is_seen_on_the_way() {
    captured("", "https").await;
}

#[tokio::test]
async fn both_sides_show_what_they_count() {
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    assert!(edge.chat(&streamed("[[fake tokens=4]]")).await.is_done());
    let shown = edge.metrics().await;
    for line in [
        r#"hedge_sealed_requests_total{backend="relay-hq"} 1"#,
        r#"hedge_sealed_relay_ready{backend="relay-hq",relay="relay-hq"} 1"#,
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    let shown = relay.metrics().await;
    for line in [
        r#"hedge_relay_requests_total{result="answered"} 1"#,
        "hedge_relay_edges 1",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    let (is_well, said) = relay.doctor();
    assert!(is_well, "{said}");
    assert!(said.contains("manifest ends in"), "{said}");
}

/// The way of docs/relay.md, as it stands there, with the model in the binary.
#[cfg(feature = "llama")]
#[tokio::test]
async fn three_commands_lead_to_a_sealed_answer() {
    use self::relay::hedge_in;
    use crate::harness::{Hedge, PATIENCE, request};

    let folder = tempfile::tempdir().unwrap();
    let said = hedge_in(folder.path())
        .args(["relay", "init", "--url", "https://localhost:0"])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let relay = Relay::run(folder, &said, "").await;
    let joined = hedge_in(relay.folder())
        .args(["relay", "join", &relay.url(), &relay.token])
        .output()
        .unwrap();
    assert!(joined.status.success(), "{joined:?}");
    let said = String::from_utf8(joined.stdout).unwrap();
    assert!(said.contains("hedge chat --model relay/auto"), "{said}");
    let text = std::fs::read_to_string(relay.path("hedge.toml")).unwrap();
    // The node under test has a data folder of its own.
    let member = relay.path("hedge/relays/relay");
    let members = format!("members = [\"{}\"]", member.display());
    let text = text.replace("members = [\"relay\"]", &members);
    let edge = Hedge::start(&format!("{text}\n[local]\nenabled = false\n")).await;
    let asking = async {
        let reply = edge
            .chat(&ask("relay/auto", "What is the capital of Portugal?"))
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
        assert!(!reply.content().is_empty());
        assert_eq!(reply.route(), "cloud:relay");
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap();
    let ready = edge
        .send(request(http::Method::GET, "/readyz", bytes::Bytes::new()))
        .await;
    assert_eq!(ready.status, StatusCode::OK);
}

/// Both chains hold, tell the same of every exchange, and nothing of what was said.
#[tokio::test]
async fn both_ends_write_down_the_same_exchanges_and_nothing_that_was_said() {
    const FILE: &str = "audit/audit-00000001.jsonl";
    let fake = fake();
    let relay = Relay::start(&fake, "").await;
    let edge = relay.edge("").await;
    let canary = "canary-7f3a";
    let asked = [
        (ask(MODEL, &format!("{canary} [[fake tokens=3]]")), 200),
        (streamed(&format!("{canary} [[fake tokens=4]]")), 200),
        (ask(MODEL, &format!("{canary} [[fake status=400]]")), 400),
    ];
    for (body, status) in &asked {
        let reply = edge.chat(body).await;
        assert_eq!(reply.status.as_u16(), *status, "{}", reply.text);
    }
    let (at_edge, at_relay) = (edge.data_path(FILE), relay.path("relay").join(FILE));
    let reconciled = || {
        let output = hedge()
            .args(["audit", "reconcile", "--json", "--edge"])
            .arg(&at_edge)
            .arg("--relay")
            .arg(&at_relay)
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.success(), report)
    };
    // Written behind the exchanges.
    eventually("both logs have them all", async || {
        let (holds, report) = reconciled();
        holds && report["matched"] == asked.len()
    })
    .await;
    for path in [&at_edge, &at_relay] {
        let log = std::fs::read_to_string(path).unwrap();
        for secret in [canary, "cloud-key", "t0 t1"] {
            assert!(!log.contains(secret), "{secret} in {}", path.display());
        }
        assert!(
            log.contains(EDGE) && log.contains("/v1/chat/completions"),
            "{log}"
        );
    }
    for log in [edge.log(), relay.log()] {
        assert!(log.contains("exchange"), "{log}");
        for secret in [canary, "cloud-key", "t0 t1"] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
    }
    // A line that is changed afterwards is found.
    let log = std::fs::read_to_string(&at_relay).unwrap();
    std::fs::write(
        &at_relay,
        log.replacen("\"status\":200", "\"status\":201", 1),
    )
    .unwrap();
    assert!(!reconciled().0);
}
