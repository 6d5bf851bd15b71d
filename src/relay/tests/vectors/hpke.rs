//! RFC 9180 and draft-ietf-hpke-pq: the library does what we rely on.

use hpke::aead::{Aead, AesGcm128, AesGcm256, ChaCha20Poly1305, ExportOnlyAead};
use hpke::kdf::{HkdfSha256, Kdf, KdfShake256};
use hpke::kem::{MlKem768, X25519HkdfSha256, XWing};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, PskBundle, Serializable, setup_receiver,
    setup_sender_with_rng,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::tests::support::{Stated, field, number, shared};
use crate::xwing;

/// How the sender's side of a vector is made again.
enum Randomness {
    /// It is the library's input.
    Stated,
    /// The vector does not state what the library takes; only the receiver is checked.
    Unknown,
}

fn check<A: Aead, D: Kdf, K: Kem>(vector: &Value, randomness: Randomness) -> usize {
    let psk = vector
        .get("psk")
        .map(|_| (field(vector, "psk"), field(vector, "psk_id")));
    let bundle = psk
        .as_ref()
        .map(|(psk, id)| PskBundle::new(psk, id).unwrap());
    let info = field(vector, "info");
    let secret = K::PrivateKey::from_bytes(&field(vector, "skRm")).unwrap();
    let enc = K::EncappedKey::from_bytes(&field(vector, "enc")).unwrap();
    assert_eq!(
        K::sk_to_pk(&secret).to_bytes().to_vec(),
        field(vector, "pkRm")
    );
    let mode = bundle.map_or(OpModeR::Base, OpModeR::Psk);
    let mut receiver = setup_receiver::<A, D, K>(&mode, &secret, &enc, &info).unwrap();
    let mut sender = match randomness {
        Randomness::Unknown => None,
        Randomness::Stated => {
            let public = K::PublicKey::from_bytes(&field(vector, "pkRm")).unwrap();
            let mode = bundle.map_or(OpModeS::Base, OpModeS::Psk);
            let mut stated = Stated::new(field(vector, "ikmE"));
            let (made, sender) =
                setup_sender_with_rng::<A, D, K>(&mode, &public, &info, &mut stated).unwrap();
            assert_eq!(made.to_bytes().to_vec(), field(vector, "enc"));
            Some(sender)
        }
    };
    let mut checks = 0;
    let mut seq = 0;
    for (at, step) in vector["encryptions"].as_array().unwrap().iter().enumerate() {
        // Those between are left out of the file, and stepped through here.
        let wanted = step["seq"].as_u64().unwrap_or(at as u64);
        while seq < wanted {
            let sealed = sender
                .as_mut()
                .expect("only whole series")
                .seal(b"", b"")
                .unwrap();
            receiver.open(&sealed, b"").unwrap();
            seq += 1;
        }
        let (aad, plain, sealed) = (field(step, "aad"), field(step, "pt"), field(step, "ct"));
        assert_eq!(receiver.open(&sealed, &aad).unwrap(), plain);
        if let Some(sender) = &mut sender {
            assert_eq!(sender.seal(&plain, &aad).unwrap(), sealed);
        }
        seq += 1;
        checks += 1;
    }
    for export in vector["exports"].as_array().unwrap() {
        let context = field(export, "exporter_context");
        let mut out = vec![0; number(export, "L") as usize];
        receiver.export(&context, &mut out).unwrap();
        assert_eq!(out, field(export, "exported_value"));
        if let Some(sender) = &sender {
            out.fill(0);
            sender.export(&context, &mut out).unwrap();
            assert_eq!(out, field(export, "exported_value"));
        }
        checks += 1;
    }
    checks
}

#[test]
fn rfc_9180_is_kept_in_base_and_psk_mode() {
    let Some(vectors) = shared("rfc9180-x25519-hkdfsha256.json") else {
        return;
    };
    let vectors = vectors.as_array().unwrap();
    assert_eq!(vectors.len(), 8);
    type X = X25519HkdfSha256;
    for vector in vectors {
        let checks = match number(vector, "aead_id") {
            1 => check::<AesGcm128, HkdfSha256, X>(vector, Randomness::Stated),
            2 => check::<AesGcm256, HkdfSha256, X>(vector, Randomness::Stated),
            3 => check::<ChaCha20Poly1305, HkdfSha256, X>(vector, Randomness::Stated),
            0xffff => check::<ExportOnlyAead, HkdfSha256, X>(vector, Randomness::Stated),
            other => panic!("no such cipher: {other}"),
        };
        assert!(checks >= 3);
    }
}

#[test]
fn the_post_quantum_vectors_are_kept() {
    let Some(vectors) = shared("hpke-pq-mlkem768-x25519.json") else {
        return;
    };
    let mut seen = Vec::new();
    for vector in vectors.as_array().unwrap() {
        let ids = ["kem_id", "kdf_id", "aead_id"].map(|id| number(vector, id));
        let checks = match ids {
            [0x647a, 0x0001, 3] => {
                check::<ChaCha20Poly1305, HkdfSha256, xwing::XWing>(vector, Randomness::Unknown);
                check::<ChaCha20Poly1305, HkdfSha256, XWing>(vector, Randomness::Stated)
            }
            [0x647a, 0x0011, 3] => {
                check::<ChaCha20Poly1305, KdfShake256, xwing::XWing>(vector, Randomness::Unknown);
                check::<ChaCha20Poly1305, KdfShake256, XWing>(vector, Randomness::Stated)
            }
            // Its sender is no part of what we use.
            [0x0041, 0x0001, 1] => {
                check::<AesGcm128, HkdfSha256, MlKem768>(vector, Randomness::Unknown)
            }
            other => panic!("no such suite: {other:x?}"),
        };
        assert!(checks >= 10);
        seen.push(ids);
    }
    assert_eq!(seen.len(), 3);
}

/// Seals to `public` as `S`, opens with `secret` as `R`.
fn crosses<S: Kem, R: Kem>(secret: &[u8], public: &[u8]) -> bool {
    let public = S::PublicKey::from_bytes(public).unwrap();
    let secret = R::PrivateKey::from_bytes(secret).unwrap();
    let mut rng = StdRng::seed_from_u64(5);
    let (enc, mut sender) =
        setup_sender_with_rng::<AesGcm256, HkdfSha256, S>(&OpModeS::Base, &public, b"i", &mut rng)
            .unwrap();
    let enc = R::EncappedKey::from_bytes(&enc.to_bytes()).unwrap();
    let mut receiver =
        setup_receiver::<AesGcm256, HkdfSha256, R>(&OpModeR::Base, &secret, &enc, b"i").unwrap();
    receiver
        .open(&sender.seal(b"text", b"").unwrap(), b"")
        .is_ok_and(|it| it == b"text")
}

#[test]
fn both_implementations_of_x_wing_agree() {
    for seed in 0..8 {
        let (theirs, public) = XWing::gen_keypair_with_rng(&mut StdRng::seed_from_u64(seed));
        let (secret, public) = (theirs.to_bytes(), public.to_bytes());
        let ours = <xwing::XWing as Kem>::PrivateKey::from_bytes(&secret).unwrap();
        assert_eq!(xwing::XWing::sk_to_pk(&ours).to_bytes(), public);
        let (derived, _) = xwing::XWing::gen_keypair_with_rng(&mut StdRng::seed_from_u64(seed));
        assert_eq!(derived.to_bytes(), secret, "of the same randomness");
        assert!(crosses::<xwing::XWing, XWing>(&secret, &public));
        assert!(crosses::<XWing, xwing::XWing>(&secret, &public));
        assert!(crosses::<xwing::XWing, xwing::XWing>(&secret, &public));
    }
}

#[test]
fn x_wing_takes_no_point_that_yields_no_secret_and_no_key_that_is_none() {
    let (secret, public) = xwing::XWing::gen_keypair_with_rng(&mut StdRng::seed_from_u64(1));
    let mut rng = StdRng::seed_from_u64(2);
    let (_, enc) = xwing::XWing::encap_with_rng(&public, None, &mut rng).unwrap();
    let mut low = enc.to_bytes();
    low[1_088..].fill(0);
    let low = <xwing::XWing as Kem>::EncappedKey::from_bytes(&low).unwrap();
    assert!(xwing::XWing::decap(&secret, None, &low).is_err());

    let public = public.to_bytes();
    for (range, fill) in [(1_184..1_216, 0), (0..1_184, 0xff)] {
        let mut bad = public;
        bad[range].fill(fill);
        let bad = <xwing::XWing as Kem>::PublicKey::from_bytes(&bad).unwrap();
        assert!(xwing::XWing::encap_with_rng(&bad, None, &mut rng).is_err());
    }
    for length in [0, 1_215, 1_217] {
        let bytes = vec![1; length];
        assert!(<xwing::XWing as Kem>::PublicKey::from_bytes(&bytes).is_err());
    }
}
