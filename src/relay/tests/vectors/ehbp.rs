//! EHBP derives a response's keys as we do with AES-256-GCM, under other labels and framing.

use crate::Aead;
use crate::contexts::Open;
use crate::sealed::{Cipher, Derived};
use crate::tests::support::{field, shared};

fn derived(value: &serde_json::Value) -> Derived {
    let [secret, enc, nonce] =
        ["exportedSecret", "requestEnc", "responseNonce"].map(|name| field(value, name));
    Derived::from(Aead::Aes256Gcm, &secret, &enc, &nonce)
}

#[test]
fn a_response_key_is_derived_as_ehbp_derives_it() {
    let Some(value) = shared("ehbp-derive.json") else {
        return;
    };
    let derived = derived(&value);
    assert_eq!(*derived.key, field(&value, "derivedKey"));
    assert_eq!(derived.nonce.to_vec(), field(&value, "derivedNonceBase"));
}

#[test]
fn a_response_that_ehbp_sealed_opens() {
    let Some(value) = shared("ehbp-response-decryption.json") else {
        return;
    };
    let sealed = field(&value, "encryptedResponse");
    let (length, chunk) = sealed.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, chunk.len());
    let (data, tag) = chunk.split_at(chunk.len() - 16);
    let mut data = data.to_vec();
    let mut cipher = Cipher::new(&derived(&value));
    cipher
        .open(b"", &mut data, tag.try_into().unwrap())
        .unwrap();
    assert_eq!(data, field(&value, "plaintext"));
}

/// The token that lets a session be taken up again is the two values that a key is derived from;
/// with them and any nonce a key comes out, and of another nonce another one.
#[test]
fn a_recovery_token_holds_what_a_key_is_derived_from() {
    let Some(value) = shared("ehbp-session-recovery-token.json") else {
        return;
    };
    let [secret, enc] = ["exportedSecret", "requestEnc"].map(|name| field(&value, name));
    let [a, b] =
        [[1; 32], [2; 32]].map(|nonce| Derived::from(Aead::Aes256Gcm, &secret, &enc, &nonce));
    assert_eq!(a.key.len(), 32);
    assert_ne!(*a.key, *b.key);
    assert_ne!(a.nonce, b.nonce);
}
