//! RFC 9180 and draft-ietf-hpke-pq: the library does what we rely on.

use hpke::aead::{Aead, AesGcm128, AesGcm256, ChaCha20Poly1305, ExportOnlyAead};
use hpke::kdf::{HkdfSha256, Kdf, KdfShake256};
use hpke::kem::{MlKem768, X25519HkdfSha256, XWing};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, PskBundle, Serializable, setup_receiver,
    setup_sender_with_rng,
};
use serde_json::Value;

use crate::tests::support::{Stated, field, number, shared};

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
                check::<ChaCha20Poly1305, HkdfSha256, XWing>(vector, Randomness::Stated)
            }
            [0x647a, 0x0011, 3] => {
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
