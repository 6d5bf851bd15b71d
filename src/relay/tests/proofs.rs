//! Proofs of edges: they hold for one request at one relay.

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::support::{keys, rng};
use crate::{
    Aead, EdgeClaim, EdgeKey, EdgeSecret, Kem, ProofSecret, RequestSealer, Unproven, is_name,
};

fn secret(seed: u64) -> ProofSecret {
    let (_, config) = keys(Kem::X25519, 1);
    let sealer =
        RequestSealer::start(&config, Aead::Aes256Gcm, &mut rng(seed), &mut Vec::new()).unwrap();
    sealer.proof_secret()
}

fn pairs() -> [(EdgeSecret, EdgeKey); 2] {
    let public = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    let shared = Zeroizing::new(vec![4; 32]);
    [
        (
            EdgeSecret::ed25519(&[3; 32]),
            EdgeKey::ed25519(&public).unwrap(),
        ),
        (
            EdgeSecret::HmacSha256(shared.clone()),
            EdgeKey::HmacSha256(shared),
        ),
    ]
}

fn verify(value: &str, key: &EdgeKey, relay: &str, secret: &ProofSecret) -> Result<(), Unproven> {
    EdgeClaim::read(value.as_bytes())?.verify(key, relay, secret)
}

#[test]
fn a_proof_counts_for_its_edge_its_relay_and_its_request() {
    let (own, other) = (secret(1), secret(2));
    for (prover, key) in pairs() {
        let proof = prover.prove("branch-7", "k3", "relay-1", &own).unwrap();
        let claim = EdgeClaim::read(proof.as_bytes()).unwrap();
        assert_eq!((claim.edge_id(), claim.key_id()), ("branch-7", "k3"));
        assert_eq!(verify(&proof, &key, "relay-1", &own), Ok(()));
        assert_eq!(
            verify(&proof, &key, "relay-1", &other),
            Err(Unproven),
            "another request"
        );
        assert_eq!(
            verify(&proof, &key, "relay-2", &own),
            Err(Unproven),
            "another relay"
        );
        let posing = proof.replace("branch-7", "branch-8");
        assert_eq!(
            verify(&posing, &key, "relay-1", &own),
            Err(Unproven),
            "another edge"
        );
    }
}

/// What is signed, byte by byte, so that others can make it.
#[test]
fn the_proof_is_made_over_both_names_with_their_lengths() {
    use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
    let own = secret(1);
    let [_, (prover, _)] = pairs();
    let proof = prover.prove("branch-7", "k3", "relay-1", &own).unwrap();
    let said = [b"relay/1 edge proof\0\0\x08branch-7\0\x07relay-1", &own[..]].concat();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&[4; 32]).unwrap();
    mac.update(&said);
    let expected = crate::structured::bytes(&mac.finalize().into_bytes());
    let written = format!("id=\"branch-7\";key=\"k3\";alg=\"hmac-sha256\";proof={expected}");
    assert_eq!(proof, written);
}

/// Ed25519 knows one signature of a key over some bytes (RFC 8032, section 5.1.6).
#[test]
fn signatures_are_what_another_library_makes_too() {
    let own = secret(1);
    let [(prover, _), _] = pairs();
    let proof = prover.prove("branch-7", "k3", "relay-1", &own).unwrap();
    let said = [b"relay/1 edge proof\0\0\x08branch-7\0\x07relay-1", &own[..]].concat();
    let signed = SigningKey::from_bytes(&[3; 32]).sign(&said).to_bytes();
    assert!(proof.ends_with(&format!("proof={}", crate::structured::bytes(&signed))));
}

/// The same signature with the group's order added to its scalar, which some libraries take
/// (RFC 8032, section 5.1.7 says not to).
#[test]
fn a_signature_has_one_form() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let own = secret(1);
    let [(_, key), _] = pairs();
    let said = [b"relay/1 edge proof\0\0\x01e\0\x01r", &own[..]].concat();
    let mut signed = SigningKey::from_bytes(&[3; 32]).sign(&said).to_bytes();
    let proof = |signed: &[u8]| {
        let signed = crate::structured::bytes(signed);
        format!("id=\"e\";key=\"k\";alg=\"ed25519\";proof={signed}")
    };
    assert_eq!(verify(&proof(&signed), &key, "r", &own), Ok(()));
    let mut carry = 0;
    for (byte, order) in signed[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(verify(&proof(&signed), &key, "r", &own), Err(Unproven));
    assert_eq!(
        verify(&proof(&signed[..63]), &key, "r", &own),
        Err(Unproven)
    );
}

#[test]
fn one_kind_of_key_does_not_pass_for_the_other() {
    let own = secret(1);
    let [(signer, public), (macer, shared)] = pairs();
    let signed = signer.prove("e", "k", "r", &own).unwrap();
    let maced = macer.prove("e", "k", "r", &own).unwrap();
    assert_eq!(verify(&signed, &shared, "r", &own), Err(Unproven));
    assert_eq!(verify(&maced, &public, "r", &own), Err(Unproven));
    // A public key is known to everybody: it is no key to a MAC.
    let relabelled = maced.replace("hmac-sha256", "ed25519");
    assert_eq!(verify(&relabelled, &public, "r", &own), Err(Unproven));
    let short = EdgeSecret::HmacSha256(Zeroizing::new(vec![4; 31]));
    assert!(short.prove("e", "k", "r", &own).is_err());
    let empty = EdgeKey::HmacSha256(Zeroizing::new(Vec::new()));
    assert_eq!(verify(&maced, &empty, "r", &own), Err(Unproven));
}

#[test]
fn what_is_no_claim_is_refused() {
    let own = secret(1);
    let [(prover, key), _] = pairs();
    let proof = prover.prove("e", "k", "r", &own).unwrap();
    for (from, to) in [
        ("id=\"e\"", "id=\"\""),
        ("id=\"e\"", "id=\"a b\""),
        ("id=\"e\"", "id=e"),
        ("id=\"e\";", ""),
        ("key=\"k\"", "key=\"k\";key=\"k\""),
        ("alg=\"ed25519\"", "alg=\"none\""),
        ("proof=:", "proof=\""),
        (";proof=", "; proof="),
        (";alg=", ",alg="),
    ] {
        let changed = proof.replace(from, to);
        assert_ne!(changed, proof);
        assert_eq!(
            verify(&changed, &key, "r", &own),
            Err(Unproven),
            "{changed}"
        );
    }
    for name in ["", "a b", "a\"b", "\u{e9}", &"x".repeat(65)] {
        assert!(!is_name(name));
        assert!(prover.prove(name, "k", "r", &own).is_err());
    }
    for (secret, key) in pairs() {
        let printed = format!("{secret:?} {key:?}");
        assert!(!printed.contains('3') && printed.len() < 60 || printed.contains("ed25519"));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_claim_or_none(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = EdgeClaim::read(&bytes);
    }

    #[test]
    fn no_changed_byte_of_a_proof_counts(at in 0usize..160, to in any::<u8>()) {
        let own = secret(1);
        let [(prover, key), _] = pairs();
        let proof = prover.prove("e", "k", "r", &own).unwrap();
        let mut bytes = proof.clone().into_bytes();
        let at = at % bytes.len();
        // The name of the key chooses the key, and is bound by it.
        let is_key_id = bytes[..at].ends_with(b"key=\"");
        prop_assume!(bytes[at] != to && !is_key_id);
        bytes[at] = to;
        let counts = EdgeClaim::read(&bytes).and_then(|claim| claim.verify(&key, "r", &own));
        prop_assert!(counts.is_err());
    }
}

#[test]
fn keys_are_made_of_their_bytes_and_weak_ones_are_none() {
    let own = secret(1);
    let seed = [3; 32];
    let public = SigningKey::from_bytes(&seed).verifying_key().to_bytes();
    let proof = EdgeSecret::ed25519(&seed).prove("e", "k", "r", &own);
    let key = EdgeKey::ed25519(&public).unwrap();
    assert_eq!(verify(&proof.unwrap(), &key, "r", &own), Ok(()));
    // The neutral element: every message is signed under it.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    assert!(EdgeKey::ed25519(&neutral).is_err());
}
