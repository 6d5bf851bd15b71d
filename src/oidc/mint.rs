//! For tests: a provider's keys, and tokens of all kinds, good and bad.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData};
use serde_json::{Value, json};

use crate::keys::{KeySet, RawKeySet};

/// A key that signs, and how it is shown.
pub struct Mint {
    pub id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Value,
}

impl Mint {
    pub fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::EdDSA => &PKCS_ED25519,
            Algorithm::RS256 | Algorithm::PS256 => &PKCS_RSA_SHA256,
            other => panic!("no key of {other:?} is made here"),
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let (der, raw) = (pair.serialize_der(), pair.der_bytes());
        let encoded = |bytes: &[u8]| BASE64.encode(bytes);
        let (key, public) = match algorithm {
            Algorithm::ES256 => {
                // 4, then both coordinates.
                let (x, y) = (encoded(&raw[1..33]), encoded(&raw[33..65]));
                let public = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y});
                (EncodingKey::from_ec_der(&der), public)
            }
            Algorithm::EdDSA => {
                let public = json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(raw)});
                (EncodingKey::from_ed_der(&der), public)
            }
            _ => {
                let (n, e) = rsa_parts(raw);
                let public = json!({"kty": "RSA", "n": encoded(n), "e": encoded(e)});
                (EncodingKey::from_rsa_der(rsa_key(&der)), public)
            }
        };
        Self {
            id,
            algorithm,
            key,
            public,
        }
    }

    /// As it stands in a set of keys, with further words.
    pub fn shown(&self, more: Value) -> Value {
        let mut shown = self.public.clone();
        shown["kid"] = json!(self.id);
        for (name, value) in more.as_object().unwrap() {
            shown[name] = value.clone();
        }
        shown
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(Some(self.id), claims)
    }

    pub fn sign_as(&self, id: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = id.map(str::to_owned);
        encode(&header, claims, &self.key).unwrap()
    }
}

pub fn key_set(keys: &[Value]) -> KeySet {
    let raw: RawKeySet = serde_json::from_value(json!({"keys": keys})).unwrap();
    raw.judge()
}

/// Three parts, whatever they say.
pub fn unsigned(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017, A.1.1).
fn rsa_parts(der: &[u8]) -> (&[u8], &[u8]) {
    let (sequence, _) = value(der);
    let (modulus, rest) = value(sequence);
    let (exponent, _) = value(rest);
    (modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent)
}

/// The RSAPrivateKey within PKCS #8: after a version and the algorithm.
fn rsa_key(der: &[u8]) -> &[u8] {
    let (sequence, _) = value(der);
    let (_, rest) = value(sequence);
    let (_, rest) = value(rest);
    value(rest).0
}

/// The first value of DER, and what stands behind it.
fn value(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, begin) = match der[1] {
        short if short < 0x80 => (usize::from(short), 2),
        long => {
            let end = 2 + usize::from(long & 0x7f);
            let add = |all: usize, byte: &u8| (all << 8) | usize::from(*byte);
            (der[2..end].iter().fold(0, add), end)
        }
    };
    der[begin..].split_at(length)
}
