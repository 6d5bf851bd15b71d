//! Sessions: what stands in for a signature, and for how long.

use std::time::{Duration, Instant};

use super::support::{keys, rng};
use crate::{
    Aead, EdgeClaim, EdgeKey, EdgeSecret, EncDigest, Kem, ProofSecret, RequestSealer, SESSION_KEEP,
    SESSIONS_MAX, Session, Sessions, Unproven,
};

fn request(seed: u64) -> (ProofSecret, EncDigest) {
    let (_, config) = keys(Kem::X25519, 1);
    let sealer =
        RequestSealer::start(&config, Aead::Aes256Gcm, &mut rng(seed), &mut Vec::new()).unwrap();
    (sealer.proof_secret(), sealer.digest())
}

fn session(seed: u64, edge: &str, relay: &str) -> Session {
    let (secret, digest) = request(seed);
    Session::agreed(edge, relay, &secret, digest).unwrap()
}

fn proof(session: &Session, edge: &str, relay: &str, secret: &ProofSecret) -> String {
    EdgeSecret::prove_by(session, edge, "k3", relay, secret).unwrap()
}

fn verify(
    proof: &str,
    session: &Session,
    relay: &str,
    secret: &ProofSecret,
) -> Result<(), Unproven> {
    EdgeClaim::read(proof.as_bytes())?.verify_by(session, relay, secret)
}

#[test]
fn a_session_proves_its_edge_at_its_relay_for_each_request() {
    let session = session(1, "branch-7", "relay-1");
    let (own, _) = request(2);
    let (other, _) = request(3);
    let proof = proof(&session, "branch-7", "relay-1", &own);
    let claim = EdgeClaim::read(proof.as_bytes()).unwrap();
    assert_eq!((claim.edge_id(), claim.key_id()), ("branch-7", "k3"));
    assert_eq!(claim.session(), Some(session.id()));
    assert!(!claim.is_signed());
    assert_eq!(verify(&proof, &session, "relay-1", &own), Ok(()));
    let fails = |proof: &str, session: &Session, relay: &str, secret: &ProofSecret, why: &str| {
        assert_eq!(
            verify(proof, session, relay, secret),
            Err(Unproven),
            "{why}"
        );
    };
    fails(&proof, &session, "relay-1", &other, "another request");
    fails(&proof, &session, "relay-2", &own, "another relay");
    let posing = proof.replace("branch-7", "branch-8");
    fails(&posing, &session, "relay-1", &own, "another edge");
    let strange = super::sessions::session(4, "branch-7", "relay-1");
    fails(&proof, &strange, "relay-1", &own, "another session");
    let nameless = proof.replace("session=:", "session=:AAAA");
    assert!(EdgeClaim::read(nameless.as_bytes()).is_err());
}

/// The names are in the key, too: who was let in as one edge has nothing for another.
#[test]
fn sessions_of_one_request_differ_by_their_names() {
    let (own, _) = request(2);
    let agreed = session(1, "branch-7", "relay-1");
    for (edge, relay) in [("branch-8", "relay-1"), ("branch-7", "relay-2")] {
        let other = session(1, edge, relay);
        assert_eq!(other.id(), agreed.id());
        let proof = proof(&other, "branch-7", "relay-1", &own);
        assert_eq!(verify(&proof, &agreed, "relay-1", &own), Err(Unproven));
    }
}

/// What is computed, step by step, so that others can.
#[test]
fn the_key_and_the_proof_are_made_over_both_names() {
    use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
    let mac = |key: &[u8], said: &[u8]| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
        mac.update(said);
        mac.finalize().into_bytes()
    };
    let (secret, digest) = request(1);
    let names = b"\0\0\x08branch-7\0\x07relay-1";
    let key = mac(&*secret, &[&b"relay/1 edge session"[..], names].concat());
    let (own, _) = request(2);
    let said = [&b"relay/1 edge session proof"[..], names, &own[..]].concat();
    let expected = format!(
        "id=\"branch-7\";key=\"k3\";alg=\"session\";session={};proof={}",
        crate::structured::bytes(digest.as_bytes()),
        crate::structured::bytes(&mac(&key, &said)),
    );
    let session = session(1, "branch-7", "relay-1");
    assert_eq!(proof(&session, "branch-7", "relay-1", &own), expected);
}

/// Neither stands in for a key, nor a key for it.
#[test]
fn a_session_and_a_key_do_not_pass_for_each_other() {
    let (own, _) = request(2);
    let session = session(1, "e", "r");
    let signer = EdgeSecret::ed25519(&[3; 32]);
    let public = ed25519_dalek::SigningKey::from_bytes(&[3; 32]).verifying_key();
    let key = EdgeKey::ed25519(public.as_bytes()).unwrap();
    let signed = signer.prove("e", "k3", "r", &own).unwrap();
    let by_session = proof(&session, "e", "r", &own);
    assert_eq!(verify(&signed, &session, "r", &own), Err(Unproven));
    let claim = EdgeClaim::read(by_session.as_bytes()).unwrap();
    assert_eq!(claim.verify(&key, "r", &own), Err(Unproven));
    for (from, to) in [
        ("\"session\"", "\"ed25519\""),
        ("\"session\"", "\"hmac-sha256\""),
    ] {
        let relabelled = by_session.replacen(from, to, 1);
        assert_eq!(
            EdgeClaim::read(relabelled.as_bytes()),
            Err(Unproven),
            "{to}"
        );
    }
    let without = signed.replace("\"ed25519\"", "\"session\"");
    assert_eq!(EdgeClaim::read(without.as_bytes()), Err(Unproven));
}

#[test]
fn a_session_ends_with_its_time_and_counts_under_its_key() {
    let sessions = Sessions::default();
    let start = Instant::now();
    let kept = session(1, "e", "r");
    sessions.keep(kept.clone(), "k3", start);
    let almost = start + SESSION_KEEP.checked_sub(Duration::from_millis(1)).unwrap();
    assert!(sessions.find(kept.id(), "k3", almost).is_some());
    assert!(
        sessions.find(kept.id(), "k4", almost).is_none(),
        "another key"
    );
    assert!(
        sessions
            .find(session(2, "e", "r").id(), "k3", almost)
            .is_none()
    );
    assert!(
        sessions
            .find(kept.id(), "k3", start + SESSION_KEEP)
            .is_none()
    );
    assert!(sessions.is_empty(), "and is not kept longer");
}

#[test]
fn the_oldest_session_makes_room() {
    let sessions = Sessions::default();
    let now = Instant::now();
    let all: Vec<Session> = (0..=SESSIONS_MAX as u64)
        .map(|seed| session(seed, "e", "r"))
        .collect();
    for session in &all {
        sessions.keep(session.clone(), "k3", now);
    }
    assert_eq!(sessions.len(), SESSIONS_MAX);
    assert!(sessions.find(all[0].id(), "k3", now).is_none());
    for session in &all[1..] {
        assert!(sessions.find(session.id(), "k3", now).is_some());
    }
}

#[test]
fn keys_are_not_shown() {
    let session = session(1, "e", "r");
    let shown = format!("{session:?}");
    assert!(shown.len() < 48, "{shown}");
    let (own, _) = request(2);
    assert!(!shown.contains(&format!("{:02x?}", session.prove("e", "r", &own).unwrap())));
}
