//! Wycheproof: the libraries under HPKE, and that a point of low order yields no key.

use aes_gcm::aead::Payload;
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use serde_json::Value;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::tests::support::{field, number, shared};
use crate::{
    Aead, Ciphers, HeadReader, Kem, KeyConfig, RequestHead, RequestOpener, RequestSealer,
    SealFault, SecretKey, Suite, Unopened,
};

/// Every test with its group.
fn tests(file: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let groups = file["testGroups"].as_array().unwrap().iter();
    groups.flat_map(|group| {
        let tests = group["tests"].as_array().unwrap().iter();
        tests.map(move |test| (group, test))
    })
}

fn is_flagged(test: &Value, flag: &str) -> bool {
    test["flags"]
        .as_array()
        .unwrap()
        .iter()
        .any(|found| found == flag)
}

fn gcm<C: KeyInit + aes_gcm::aead::Aead<NonceSize = aes_gcm::aes::cipher::consts::U12>>(
    test: &Value,
) {
    let cipher = C::new_from_slice(&field(test, "key")).unwrap();
    let nonce = <[u8; 12]>::try_from(field(test, "iv")).unwrap().into();
    let (aad, msg) = (&field(test, "aad")[..], &field(test, "msg")[..]);
    let sealed = [field(test, "ct"), field(test, "tag")].concat();
    let opened = cipher.decrypt(&nonce, Payload { msg: &sealed, aad });
    if test["result"] == "valid" {
        assert_eq!(opened.unwrap(), msg);
        assert_eq!(
            cipher.encrypt(&nonce, Payload { msg, aad }).unwrap(),
            sealed
        );
    } else {
        assert!(opened.is_err(), "{}", test["tcId"]);
    }
}

/// Nonces of 12 bytes, as HPKE's are, and the two ciphers that are used here.
#[test]
fn aes_gcm_takes_the_valid_and_nothing_else() {
    let Some(file) = shared("wycheproof-aes_gcm_test.json") else {
        return;
    };
    let mut count = 0;
    for (group, test) in tests(&file) {
        match (number(group, "ivSize"), number(group, "keySize")) {
            (96, 128) => gcm::<Aes128Gcm>(test),
            (96, 256) => gcm::<Aes256Gcm>(test),
            _ => continue,
        }
        count += 1;
    }
    assert!(count > 100, "{count} tests were for us");
}

#[test]
fn hkdf_gives_what_it_must() {
    let Some(file) = shared("wycheproof-hkdf_sha256_test.json") else {
        return;
    };
    for (_, test) in tests(&file) {
        let hkdf = Hkdf::<Sha256>::new(Some(&field(test, "salt")), &field(test, "ikm"));
        let mut out = vec![0; number(test, "size") as usize];
        let expanded = hkdf.expand(&field(test, "info"), &mut out);
        assert_eq!(
            expanded.is_ok(),
            test["result"] == "valid",
            "{}",
            test["tcId"]
        );
        if expanded.is_ok() {
            assert_eq!(out, field(test, "okm"));
        }
    }
}

#[test]
fn x25519_agrees_and_points_of_low_order_yield_no_request() {
    let Some(file) = shared("wycheproof-x25519_test.json") else {
        return;
    };
    let mut low = 0;
    for (_, test) in tests(&file) {
        let [public, private] =
            ["public", "private"].map(|name| <[u8; 32]>::try_from(field(test, name)).unwrap());
        let shared = StaticSecret::from(private).diffie_hellman(&PublicKey::from(public));
        assert_eq!(
            shared.as_bytes().to_vec(),
            field(test, "shared"),
            "{}",
            test["tcId"]
        );
        let is_low = is_flagged(test, "ZeroSharedSecret");
        low += usize::from(is_low);
        assert_eq!(shared.was_contributory(), !is_low);

        // As `enc` of a request, at the relay.
        let suite = Suite {
            kem: Kem::X25519,
            aead: Aead::Aes256Gcm,
        };
        let bytes = [&RequestHead::ids(1, suite)[..], &public].concat();
        let head = HeadReader::new(Ciphers::Strict)
            .next(&mut &bytes[..])
            .unwrap()
            .unwrap();
        let secret_key = SecretKey::from_bytes(Kem::X25519, &private);
        let opener = RequestOpener::start(head, &secret_key);
        assert_eq!(opener.err(), is_low.then_some(Unopened));

        // As a key that is sealed to, at the edge.
        let config = [&[1, 0, 0x20][..], &public, &[0, 4, 0, 1, 0, 2]].concat();
        let sealed = match KeyConfig::read(&config) {
            Ok(config) => RequestSealer::start(
                &config.unwrap(),
                Aead::Aes256Gcm,
                &mut crate::tests::support::rng(1),
                &mut Vec::new(),
            )
            .err(),
            Err(_) => Some(SealFault::Key),
        };
        assert_eq!(sealed, is_low.then_some(SealFault::Key), "{}", test["tcId"]);
    }
    assert!(low > 20);
}
