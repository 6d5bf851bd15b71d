//! The key schedule of RFC 9180 a second time, by hand from X25519, HKDF and AES-GCM alone, for
//! examples that state an ephemeral secret instead of what it is derived from.

use aes_gcm::aead::Aead as _;
use aes_gcm::aead::Payload;
use aes_gcm::{Aes128Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

/// RFC 9180, section 4: `LabeledExtract`.
fn extract(suite: &[u8], salt: &[u8], label: &str, ikm: &[u8]) -> Vec<u8> {
    let ikm = [b"HPKE-v1", suite, label.as_bytes(), ikm].concat();
    Hkdf::<Sha256>::extract(Some(salt), &ikm).0.to_vec()
}

/// RFC 9180, section 4: `LabeledExpand`.
fn expand(suite: &[u8], prk: &[u8], label: &str, info: &[u8], length: usize) -> Vec<u8> {
    let length_bytes = (length as u16).to_be_bytes();
    let info = [&length_bytes[..], b"HPKE-v1", suite, label.as_bytes(), info].concat();
    let mut out = vec![0; length];
    let hkdf = Hkdf::<Sha256>::from_prk(prk).unwrap();
    hkdf.expand(&info, &mut out).unwrap();
    out
}

/// A sender in base mode with X25519, HKDF-SHA256 and AES-128-GCM.
pub(super) struct Sender {
    pub(super) enc: Vec<u8>,
    key: Vec<u8>,
    base_nonce: Vec<u8>,
    exporter: Vec<u8>,
    suite: Vec<u8>,
    seq: u8,
}

impl Sender {
    pub(super) fn new(ephemeral: [u8; 32], public_key: [u8; 32], info: &[u8]) -> Self {
        let ephemeral = StaticSecret::from(ephemeral);
        let enc = PublicKey::from(&ephemeral).to_bytes().to_vec();
        let shared = ephemeral.diffie_hellman(&PublicKey::from(public_key));
        // Section 4.1.
        let suite = [&b"KEM"[..], &[0, 0x20]].concat();
        let context = [&enc[..], &public_key].concat();
        let prk = extract(&suite, b"", "eae_prk", shared.as_bytes());
        let shared = expand(&suite, &prk, "shared_secret", &context, 32);
        // Section 5.1.
        let suite = [&b"HPKE"[..], &[0, 0x20, 0, 1, 0, 1]].concat();
        let psk_id_hash = extract(&suite, b"", "psk_id_hash", b"");
        let info_hash = extract(&suite, b"", "info_hash", info);
        let context = [&[0][..], &psk_id_hash, &info_hash].concat();
        let secret = extract(&suite, &shared, "secret", b"");
        Self {
            enc,
            key: expand(&suite, &secret, "key", &context, 16),
            base_nonce: expand(&suite, &secret, "base_nonce", &context, 12),
            exporter: expand(&suite, &secret, "exp", &context, 32),
            suite,
            seq: 0,
        }
    }

    pub(super) fn seal(&mut self, aad: &[u8], msg: &[u8]) -> Vec<u8> {
        let mut nonce = <[u8; 12]>::try_from(&*self.base_nonce).unwrap();
        nonce[11] ^= self.seq;
        self.seq += 1;
        let cipher = Aes128Gcm::new_from_slice(&self.key).unwrap();
        cipher.encrypt(&nonce.into(), Payload { msg, aad }).unwrap()
    }

    pub(super) fn export(&self, label: &[u8], length: usize) -> Vec<u8> {
        expand(&self.suite, &self.exporter, "sec", label, length)
    }
}
