//! What somebody on the way, or an edge that means harm, can try.

use std::time::Duration;

use domain::SealedResult;
use relay::bhttp::{Fields, RequestLine, write_request};
use relay::manifest::IdentityKey;
use relay::{RequestSealer, SESSION_FIELD, Session, UnixTime};
use tokio::task::JoinSet;

use crate::client::{Client, HELLO, Raw, ask};
use crate::gateway::{Ask, CHAT, EDGE, Proof, Relay, RelayRecipe, outer, relay};

/// What an answer in the clear is, but for its date.
fn shown(raw: &Raw) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let headers = raw.headers.iter().filter(|(name, _)| name != "date");
    (raw.status, headers.cloned().collect(), raw.body.clone())
}

/// One answer for whatever does not open, and another for keys that are none.
async fn check_unopened(relay: &Relay, bytes: &[u8], key_bytes: bool) {
    let raw = relay.post(bytes).await;
    assert_eq!(raw.status, 400);
    let (key, unopened) = (relay::OuterRefusal::Key, relay::OuterRefusal::Unopened);
    let expected = if key_bytes { key } else { unopened };
    assert_eq!(raw.text(), expected.body());
}

#[tokio::test]
async fn no_request_with_another_bit_is_opened() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    // X-Wing's part is of bytes that are alike; the rest is looked at more closely.
    let (head, rest) = (0..7 + 1_120, 7 + 1_120..sealed.len());
    let sampled = head.step_by(61).chain(rest.step_by(7)).chain(0..7);
    for at in sampled {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1 << (at % 8);
        check_unopened(&relay, &flipped, at < 7).await;
    }
    assert_eq!(relay.calls_count(), 0);
    assert!(relay.audit.entries().is_empty(), "nothing was opened");
    assert_eq!(relay.post(&sealed).await.status, 200);
}

#[tokio::test]
async fn no_request_that_is_cut_is_opened() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    let ends = (0..1_127)
        .step_by(101)
        .chain((1_127..sealed.len()).step_by(11));
    for end in ends.chain([sealed.len() - 1]) {
        check_unopened(&relay, &sealed[..end], false).await;
    }
    assert_eq!(relay.calls_count(), 0);
}

#[tokio::test]
async fn chunks_of_two_requests_make_none() {
    let relay = relay().await;
    let ask = Ask::chat(HELLO);
    let (first, second) = (relay.seal(&ask).bytes, relay.seal(&ask).bytes);
    assert_eq!(first.len(), second.len());
    let middle = 1_127 + (first.len() - 1_127) / 2;
    let spliced = [&first[..middle], &second[middle..]].concat();
    check_unopened(&relay, &spliced, false).await;
    let longer = [&first[..], &[0]].concat();
    check_unopened(&relay, &longer, false).await;
    assert_eq!(relay.calls_count(), 0);
}

/// Whatever is wrong, and wherever: the same bytes.
#[tokio::test]
async fn all_that_does_not_open_is_answered_alike() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    let mut forged_enc = sealed.clone();
    forged_enc[100] ^= 1;
    let mut forged_tag = sealed.clone();
    *forged_tag.last_mut().unwrap() ^= 1;
    let mut long_chunk = sealed[..1_127].to_vec();
    long_chunk.extend([0xff; 8]);
    let cut = sealed[..sealed.len() - 20].to_vec();
    let no_message = seal_bytes(&relay, b"\x02GET");
    let mut seen = relay.post(&forged_enc).await;
    let first = shown(&seen);
    for bytes in [forged_tag, long_chunk, cut, no_message] {
        seen = relay.post(&bytes).await;
        assert_eq!(shown(&seen), first);
    }
    // Also what was taken before.
    assert_eq!(relay.post(&sealed).await.status, 200);
    assert_eq!(shown(&relay.post(&sealed).await), first);
}

fn seal_bytes(relay: &Relay, plain: &[u8]) -> Vec<u8> {
    let (config, aead) = relay.key();
    let mut bytes = Vec::new();
    let sealer = RequestSealer::start(&config, aead, &mut rand::rng(), &mut bytes).unwrap();
    sealer.finish(plain, &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_hundred_of_the_same_bytes_are_one_request() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO));
    let mut sending = JoinSet::new();
    for _ in 0..100 {
        let (address, bytes) = (relay.address, outer(&sealed.bytes));
        sending.spawn(async move { ask(address, bytes).await });
    }
    let mut answers = sending.join_all().await;
    assert_eq!(relay.calls_count(), 1);
    // Those that were being read when the first was taken learn of it sealed; the others not at all.
    answers.retain(|raw| raw.status == 200);
    assert!(!answers.is_empty());
    let entries = relay.audit.wait_for(answers.len()).await;
    let answered = entries
        .iter()
        .filter(|entry| entry.result == SealedResult::Answered);
    assert_eq!(answered.count(), 1);
    let replayed = entries
        .iter()
        .filter(|entry| entry.result == SealedResult::Replayed);
    assert_eq!(replayed.count(), answers.len() - 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_not_taken_again_later_or_elsewhere() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    assert_eq!(relay.post(&sealed).await.status, 200);
    let unopened = relay::OuterRefusal::Unopened.body();
    for later in [119, 2] {
        tokio::time::sleep(Duration::from_secs(later)).await;
        assert_eq!(relay.post(&sealed).await.text(), unopened);
    }
    // Others come and go, until this one is remembered no more: then it is dated too far away.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(240)).await;
        assert_eq!(relay.ask(&Ask::chat(HELLO)).await.status, 200);
    }
    let calls = relay.calls_count();
    assert_eq!(relay.post(&sealed).await.status, 200);
    let entries = relay.audit.wait_for(5).await;
    let off_time = entries
        .iter()
        .filter(|it| it.result == SealedResult::OffTime);
    assert_eq!(off_time.count(), 1);
    // And in the end its key is gone.
    tokio::time::sleep(Duration::from_secs(2 * 60 * 60)).await;
    let key = relay::OuterRefusal::Key.body();
    assert_eq!(relay.post(&sealed).await.text(), key);
    assert_eq!(relay.calls_count(), calls);
    // After a restart there are other keys; at another relay as well.
    let again = crate::gateway::relay().await;
    let raw = again.post(&sealed).await;
    assert_eq!(raw.status, 400);
    assert_eq!(again.calls_count(), 0);
}

/// Both are of one name and one identity, the request is of this minute, and its own relay has its key.
#[tokio::test]
async fn a_request_is_worth_nothing_at_a_second_relay() {
    let (own, other) = (relay().await, relay().await);
    let sealed = own.seal(&Ask::chat(HELLO)).bytes;
    let refusals = [relay::OuterRefusal::Key, relay::OuterRefusal::Unopened].map(|it| it.body());
    for expected in [200, 400] {
        let raw = other.post(&sealed).await;
        assert_eq!(raw.status, 400);
        // By chance it has a key of the same id.
        assert!(refusals.contains(&raw.text()), "{}", raw.text());
        assert_eq!(own.post(&sealed).await.status, expected);
    }
    assert_eq!((own.calls_count(), other.calls_count()), (1, 0));
    assert!(other.audit.entries().is_empty(), "nothing was opened");
}

#[tokio::test]
async fn a_request_that_is_sealed_anew_under_its_old_key_is_not_done_twice() {
    let relay = relay().await;
    let asked = Ask {
        key: Some("0190b7f5-0000-7000-8000-000000000000".to_owned()),
        ..Ask::chat(HELLO)
    };
    assert_eq!(relay.ask(&asked).await.status, 200);
    let second = relay.ask(&asked).await;
    assert_eq!(second.refusal(), (409, "already_taken".to_owned(), "no"));
    assert_eq!(relay.calls_count(), 1);
    let entries = relay.audit.wait_for(2).await;
    assert!(entries.iter().any(|it| it.result == SealedResult::Repeated));
    // Another edge has keys of its own.
    relay.edges.add("branch-8", crate::gateway::open_policy());
    let other = Ask {
        edge: "branch-8",
        ..asked
    };
    assert_eq!(relay.ask(&other).await.status, 200);
}

#[tokio::test]
async fn a_proof_counts_for_its_own_request_edge_and_relay() {
    let relay = relay().await;
    relay.edges.add("branch-8", crate::gateway::open_policy());
    let unproven = (401, "unproven_edge".to_owned(), "no");
    let elsewhere = Ask {
        relay: "relay-2",
        ..Ask::chat(HELLO)
    };
    assert_eq!(relay.ask(&elsewhere).await.refusal(), unproven);
    let unknown = Ask {
        edge: "branch-9",
        ..Ask::chat(HELLO)
    };
    assert_eq!(relay.ask(&unknown).await.refusal(), unproven);
    // A proof that was made for another request, in this one.
    let (config, aead) = relay.key();
    let other = RequestSealer::start(&config, aead, &mut rand::rng(), &mut Vec::new()).unwrap();
    let plain = relay.plain(&Ask::chat(HELLO), &other.proof_secret());
    let raw = relay.post(&seal_bytes(&relay, &plain)).await;
    assert_eq!(raw.status, 200, "said sealed");
    let entries = relay.audit.wait_for(3).await;
    assert!(entries.iter().all(|it| it.result == SealedResult::Unproven));
    assert!(entries.iter().all(|it| it.edge.is_none()));
    assert_eq!(relay.calls_count(), 0);
}

#[tokio::test]
async fn no_request_says_where_it_goes() {
    let relay = relay().await;
    let wide = relay::EdgePolicy {
        paths: [
            "/../admin/v1/models",
            "//evil.example/",
            "/v1/%2e%2e/x",
            "*",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..crate::gateway::open_policy()
    };
    relay.edges.add(EDGE, wide);
    for path in [
        "/../admin/v1/models",
        "//evil.example/",
        "/v1/%2e%2e/x",
        "*",
    ] {
        let asked = Ask {
            path: path.to_owned(),
            ..Ask::chat(HELLO)
        };
        assert_eq!(relay.ask(&asked).await.status, 400, "{path}");
    }
    for authority in ["127.0.0.1", "169.254.169.254:80", "api.openai.com"] {
        let asked = Ask {
            authority,
            ..Ask::chat(HELLO)
        };
        assert_eq!(relay.ask(&asked).await.status, 400, "{authority}");
    }
    // What an edge says of hosts, keys and who asks is not passed on.
    relay.edges.add(EDGE, crate::gateway::open_policy());
    let mut asked = Ask::chat(HELLO);
    for (name, value) in [
        ("host", "evil.example"),
        ("authorization", "Bearer sk-1"),
        ("x-api-key", "sk-1"),
        ("cookie", "a=b"),
        ("origin", "https://evil.example"),
        ("x-request-id", "mine"),
        ("connection", "upgrade"),
    ] {
        asked.fields.push((name, value.to_owned()));
    }
    let answer = relay.ask(&asked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.field("x-request-id"), Some("mine"));
    assert_eq!(relay.calls_count(), 1);
}

#[tokio::test]
async fn no_line_end_gets_into_a_head() {
    let relay = relay().await;
    // The codec writes none, so the bytes are changed before they are sealed.
    let mut plain = Vec::new();
    let line = RequestLine::new("POST", "https", "relay.invalid", "/v1/chat?x=yz").unwrap();
    let mut fields = Fields::default();
    fields.push("date", relay.now().to_http_date()).unwrap();
    fields.push("x-note", "onetwo").unwrap();
    write_request(&line, &fields, &mut plain).finish(&Fields::default(), &mut plain);
    for (from, to) in [("yz", "\r\n"), ("etw", "e\r\n"), ("x-n", "x\rn")] {
        let at = plain
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        let mut changed = plain.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        check_unopened(&relay, &seal_bytes(&relay, &changed), false).await;
    }
}

#[tokio::test]
async fn no_head_or_body_grows_beyond_its_bounds() {
    let relay = relay().await;
    let mut plain = Vec::new();
    let line = RequestLine::new("POST", "https", "relay.invalid", CHAT).unwrap();
    write_request(&line, &Fields::default(), &mut plain).finish(&Fields::default(), &mut plain);
    // The header section begins where the line ends: its end there is a zero.
    let at = plain.len() - 3;
    let one = b"\x01a\x01b".repeat(129);
    let many = [&plain[..at], &one, &plain[at..]].concat();
    check_unopened(&relay, &seal_bytes(&relay, &many), false).await;
    let long = [
        &plain[..at],
        b"\x01a\x80\x01\x00\x00",
        &[b'b'; 65_536],
        &plain[at..],
    ]
    .concat();
    check_unopened(&relay, &seal_bytes(&relay, &long), false).await;
    // Compressed bodies are taken neither outside nor inside.
    let sealed = relay.seal(&Ask::chat(HELLO));
    let text = outer(&sealed.bytes);
    let head = b"POST /.well-known/ohttp-gateway HTTP/1.1\r\n";
    let coded = [
        &head[..],
        b"content-encoding: gzip\r\n",
        &text[head.len()..],
    ]
    .concat();
    assert_eq!(ask(relay.address, coded).await.status, 415);
    let mut asked = Ask::chat(HELLO);
    asked.fields.push(("content-encoding", "zstd".to_owned()));
    assert_eq!(relay.ask(&asked).await.status, 415);
    assert_eq!(relay.calls_count(), 0);
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_the_time_and_may_ask_again() {
    for off_s in [-600_i64, 600] {
        let relay = relay().await;
        let date = relay.now().0.checked_add_signed(off_s).map(UnixTime);
        let off = Ask {
            date,
            key: Some("once".to_owned()),
            ..Ask::chat(HELLO)
        };
        let refused = relay.ask(&off).await;
        assert_eq!(refused.status, 400);
        assert_eq!(refused.json()["type"], relay::DATE_PROBLEM);
        assert_eq!(refused.field("relay-processed"), Some("no"));
        let told = UnixTime::from_http_date(refused.field("date").unwrap());
        let corrected = Ask { date: told, ..off };
        assert_eq!(relay.ask(&corrected).await.status, 200);
        assert_eq!(relay.calls_count(), 1);
        let entries = relay.audit.wait_for(2).await;
        assert_eq!(entries[0].result, SealedResult::OffTime);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_cache_at_its_cap_refuses_and_forgets_nothing() {
    let relay = RelayRecipe {
        change: |rules| rules.limits.replay_entries_max = 2,
        ..RelayRecipe::default()
    }
    .start()
    .await;
    let ask = Ask::chat(HELLO);
    let first = relay.seal(&ask).bytes;
    assert_eq!(relay.post(&first).await.status, 200);
    assert_eq!(relay.ask(&ask).await.status, 200);
    let refused = relay.ask(&ask).await;
    assert_eq!(refused.refusal(), (503, "overloaded".to_owned(), "no"));
    assert!(refused.field("retry-after").is_some());
    assert_eq!(relay.post(&first).await.status, 400, "it is remembered");
    let calls = relay.calls_count();
    tokio::time::sleep(Duration::from_secs(481)).await;
    assert_eq!(relay.ask(&ask).await.status, 200);
    assert!(relay.calls_count() <= calls + 1);
    let entries = relay.audit.wait_for(4).await;
    assert!(entries.iter().any(|it| it.result == SealedResult::Capped));
}

#[tokio::test]
async fn bytes_that_are_no_request_of_ours_are_refused_by_name() {
    let relay = relay().await;
    let sealed = relay.seal(&Ask::chat(HELLO)).bytes;
    let text = outer(&sealed);
    let text = |from: &str, to: &str| {
        let at = text
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        [&text[..at], to.as_bytes(), &text[at + from.len()..]].concat()
    };
    let plain = text("message/ohttp-chunked-req", "application/json");
    assert_eq!(ask(relay.address, plain).await.status, 415);
    let put = text("POST", "PUT");
    assert_eq!(ask(relay.address, put).await.status, 405);
    let mut client = Client::connect(relay.address).await;
    let head = "POST /.well-known/ohttp-gateway HTTP/1.1\r\nhost: relay\r\n\
                content-type: message/ohttp-chunked-req\r\ncontent-length: 40000000\r\n\r\n";
    client.send(head).await;
    assert_eq!(client.answer().await.status, 413);
    let figures = relay.gateway.figures();
    let refused: u64 = figures.refused.iter().map(|(_, count)| count).sum();
    assert_eq!(refused, 3);
}

/// The public half of the key that is made of these bytes.
fn public(seed: &[u8; 32]) -> [u8; 32] {
    *IdentityKey::from_bytes(seed).pin().as_bytes()
}

fn signed(edge: &'static str, seed: [u8; 32]) -> Ask {
    let mut ask = Ask::chat(HELLO);
    ask.edge = edge;
    ask.proof = Proof::Signed(seed);
    ask.fields.push((SESSION_FIELD, "?1".to_owned()));
    ask
}

fn by(edge: &'static str, session: &Session) -> Ask {
    let mut ask = Ask::chat(HELLO);
    ask.edge = edge;
    ask.proof = Proof::By(session.clone());
    ask
}

/// Asks for a session, and what both ends then have of it.
async fn agreed(relay: &Relay, ask: &Ask) -> (u16, bool, Session) {
    let sealed = relay.seal(ask);
    let session = Session::agreed(ask.edge, ask.relay, &sealed.secret, sealed.digest).unwrap();
    let answer = relay.ask_sealed(sealed).await;
    (
        answer.status,
        answer.field(SESSION_FIELD) == Some("?1"),
        session,
    )
}

#[tokio::test]
async fn a_session_proves_an_edge_until_it_is_revoked() {
    const SEED: [u8; 32] = [21; 32];
    let relay = relay().await;
    relay.edges.add_ed25519("branch-9", &public(&SEED));
    let (status, is_granted, session) = agreed(&relay, &signed("branch-9", SEED)).await;
    assert_eq!((status, is_granted), (200, true));
    for _ in 0..3 {
        let answer = relay.ask(&by("branch-9", &session)).await;
        assert_eq!((answer.status, answer.field(SESSION_FIELD)), (200, None));
    }
    // The same bytes again are a replay, as ever.
    let sealed = relay.seal(&by("branch-9", &session)).bytes;
    let status = async |bytes: Vec<u8>| relay.post(&bytes).await.status;
    assert_eq!(status(sealed.clone()).await, 200);
    assert_eq!(status(sealed).await, 400);
    // Another edge's name over it, and a session that nobody agreed.
    relay.edges.add_ed25519("branch-8", &public(&[22; 32]));
    let (status, _, strange) = agreed(&relay, &signed("branch-8", SEED)).await;
    assert_eq!(status, 401, "it is not the key of that edge");
    let unproven = (401, "unproven_edge".to_owned(), "no");
    for ask in [
        by("branch-8", &session),
        by("branch-8", &strange),
        by("branch-9", &strange),
        by(EDGE, &session),
    ] {
        assert_eq!(relay.ask(&ask).await.refusal(), unproven);
    }
    // The edge is let in anew, under the same key: it signs again.
    relay.edges.add_ed25519("branch-9", &public(&SEED));
    assert_eq!(
        relay.ask(&by("branch-9", &session)).await.refusal(),
        unproven
    );
    let (status, is_granted, session) = agreed(&relay, &signed("branch-9", SEED)).await;
    assert_eq!((status, is_granted), (200, true));
    relay.edges.revoke("branch-9");
    assert_eq!(
        relay.ask(&by("branch-9", &session)).await.refusal(),
        unproven
    );
}

/// A session comes of a signature alone, and of a request that was taken.
#[tokio::test]
async fn no_other_request_agrees_on_a_session() {
    const SEED: [u8; 32] = [21; 32];
    let relay = relay().await;
    relay.edges.add_ed25519("branch-9", &public(&SEED));
    let mut shared = Ask::chat(HELLO);
    shared.fields.push((SESSION_FIELD, "?1".to_owned()));
    let (status, is_granted, session) = agreed(&relay, &shared).await;
    assert_eq!((status, is_granted), (200, false));
    assert_eq!(relay.ask(&by(EDGE, &session)).await.status, 401);
    // A session does not renew itself.
    let (_, _, session) = agreed(&relay, &signed("branch-9", SEED)).await;
    let mut renewing = by("branch-9", &session);
    renewing.fields.push((SESSION_FIELD, "?1".to_owned()));
    let (status, is_granted, renewed) = agreed(&relay, &renewing).await;
    assert_eq!((status, is_granted), (200, false));
    assert_eq!(relay.ask(&by("branch-9", &renewed)).await.status, 401);
    // Asked for where it may not ask.
    let mut denied = signed("branch-9", SEED);
    denied.path = "/v1/embeddings".to_owned();
    let (status, is_granted, session) = agreed(&relay, &denied).await;
    assert_eq!((status, is_granted), (403, false));
    assert_eq!(relay.ask(&by("branch-9", &session)).await.status, 401);
    // Or in other words than the field has.
    let mut other = signed("branch-9", SEED);
    other.fields.last_mut().unwrap().1 = "?0".to_owned();
    assert!(!agreed(&relay, &other).await.1);
}
