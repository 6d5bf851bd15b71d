use serde_json::json;

use super::*;
use crate::mint::{Mint, key_set, unsigned};

const NOW: u64 = 1_800_000_000;

const AGREED: Agreed<'_> = Agreed {
    issuer: "https://login.example",
    client: "hedge",
    nonce: "n-1",
    now: NOW,
};

fn good() -> Value {
    json!({
        "iss": "https://login.example", "aud": "hedge", "sub": "anna", "nonce": "n-1",
        "iat": NOW - 5, "exp": NOW + 300,
    })
}

/// The claims with others in their place; `null` takes one away.
fn with(change: Value) -> Value {
    let mut claims = good();
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => {
                claims.as_object_mut().unwrap().remove(name);
            }
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn check(token: &str, keys: &KeySet) -> Result<Claims, TokenFault> {
    verify(token, keys, &AGREED)
}

#[test]
fn tokens_of_every_kind_of_key_are_good() {
    for algorithm in [
        Algorithm::ES256,
        Algorithm::EdDSA,
        Algorithm::RS256,
        Algorithm::PS256,
    ] {
        let mint = Mint::new("k", algorithm);
        let keys = key_set(&[mint.shown(json!({"use": "sig"}))]);
        let claims = check(&mint.sign(&good()), &keys);
        assert_eq!(claims.unwrap()["sub"], "anna", "{algorithm:?}");
    }
}

#[test]
fn what_is_not_agreed_is_refused_by_its_name() {
    let mint = Mint::new("k", Algorithm::ES256);
    let keys = key_set(&[mint.shown(json!({}))]);
    let check = |change: Value| check(&mint.sign(&with(change)), &keys).map(|_| ());
    for (change, verdict) in [
        (json!({}), Ok(())),
        (
            json!({"iss": "https://login.example/"}),
            Err(TokenFault::Issuer),
        ),
        (json!({"iss": null}), Err(TokenFault::Issuer)),
        (json!({"aud": "other"}), Err(TokenFault::Audience)),
        (json!({"aud": null}), Err(TokenFault::Audience)),
        (json!({"aud": []}), Err(TokenFault::Audience)),
        (json!({"aud": ["hedge"]}), Ok(())),
        (json!({"aud": ["other"]}), Err(TokenFault::Audience)),
        // For several, and nobody says who asked.
        (
            json!({"aud": ["hedge", "other"]}),
            Err(TokenFault::Audience),
        ),
        (
            json!({"aud": ["hedge", "other"], "azp": "other"}),
            Err(TokenFault::Audience),
        ),
        (json!({"aud": ["hedge", "other"], "azp": "hedge"}), Ok(())),
        (json!({"azp": "other"}), Err(TokenFault::Audience)),
        (json!({"azp": 7}), Err(TokenFault::Audience)),
        (json!({"nonce": "n-2"}), Err(TokenFault::Nonce)),
        (json!({"nonce": null}), Err(TokenFault::Nonce)),
        (json!({"exp": NOW - 60}), Err(TokenFault::Expired)),
        // Clocks may be a minute apart.
        (json!({"exp": NOW - 59}), Ok(())),
        (
            json!({"exp": (NOW - 100) as f64 + 0.5}),
            Err(TokenFault::Expired),
        ),
        (json!({"exp": null}), Err(TokenFault::Malformed)),
        (json!({"exp": "soon"}), Err(TokenFault::Malformed)),
        (json!({"exp": -1}), Err(TokenFault::Expired)),
        (json!({"exp": 1e300}), Ok(())),
        (json!({"iat": null}), Err(TokenFault::Malformed)),
        (json!({"iat": NOW + 61}), Err(TokenFault::Early)),
        (json!({"iat": NOW + 60}), Ok(())),
        (json!({"nbf": NOW + 61}), Err(TokenFault::Early)),
        (json!({"nbf": "now"}), Err(TokenFault::Malformed)),
        (json!({"sub": ""}), Err(TokenFault::Subject)),
        (json!({"sub": null}), Err(TokenFault::Subject)),
        (json!({"sub": "a\nb"}), Err(TokenFault::Subject)),
        (json!({"sub": "a".repeat(256)}), Err(TokenFault::Subject)),
    ] {
        assert_eq!(check(change.clone()), verdict, "{change}");
    }
}

#[test]
fn no_signature_but_one_of_the_provider_s_is_taken() {
    let mint = Mint::new("k", Algorithm::ES256);
    let stranger = Mint::new("k", Algorithm::ES256);
    let shown = mint.shown(json!({}));
    let keys = key_set(std::slice::from_ref(&shown));
    let good = good();
    let signed = mint.sign(&good);
    let (said, signature) = signed.rsplit_once('.').unwrap();
    let other = unsigned(
        &json!({"alg": "ES256", "kid": "k"}),
        &with(json!({"sub": "otto"})),
        signature,
    );
    for (token, fault) in [
        (stranger.sign(&good), TokenFault::Signature),
        (other, TokenFault::Signature),
        (format!("{said}."), TokenFault::Signature),
        (
            unsigned(&json!({"alg": "none"}), &good, ""),
            TokenFault::Algorithm,
        ),
        (
            unsigned(&json!({"alg": "none", "kid": "k"}), &good, ""),
            TokenFault::Algorithm,
        ),
        (
            unsigned(&json!({"alg": "NONE"}), &good, signature),
            TokenFault::Algorithm,
        ),
        (
            unsigned(&json!({"kid": "k"}), &good, signature),
            TokenFault::Algorithm,
        ),
        // With what is public as the secret.
        (by_secret(&shown, &good), TokenFault::Algorithm),
        (
            unsigned(&json!({"alg": "RS256", "kid": "k"}), &good, signature),
            TokenFault::UnknownKey,
        ),
        (mint.sign_as(Some("new"), &good), TokenFault::UnknownKey),
        (said.to_owned(), TokenFault::Malformed),
        (String::new(), TokenFault::Malformed),
        ("a.b.c.d.e".to_owned(), TokenFault::Malformed),
        (
            unsigned(
                &json!({"alg": "ES256", "kid": "k", "crit": ["b64"], "b64": false}),
                &good,
                signature,
            ),
            TokenFault::Malformed,
        ),
    ] {
        assert_eq!(check(&token, &keys), Err(fault), "{token}");
    }
}

fn by_secret(shown: &Value, claims: &Value) -> String {
    let secret = jsonwebtoken::EncodingKey::from_secret(shown["x"].as_str().unwrap().as_bytes());
    let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
    header.kid = Some("k".into());
    jsonwebtoken::encode(&header, claims, &secret.unwrap()).unwrap()
}

#[test]
fn a_key_signs_what_it_is_for_and_one_without_a_name_is_looked_for() {
    let mint = Mint::new("k", Algorithm::ES256);
    let other = Mint::new("o", Algorithm::ES256);
    let token = mint.sign(&good());
    for (more, is_known) in [
        (json!({"use": "enc"}), false),
        (json!({"alg": "ES384"}), false),
        (json!({"alg": "ECDH-ES"}), false),
        (json!({"alg": "ES256"}), true),
        (json!({"kty": "unheard-of"}), false),
    ] {
        let checked = check(&token, &key_set(&[mint.shown(more.clone())]));
        let verdict = is_known.then_some(()).ok_or(TokenFault::UnknownKey);
        assert_eq!(checked.map(|_| ()), verdict, "{more}");
    }
    // The token names no key, or the set does not.
    let nameless = mint.sign_as(None, &good());
    let both = key_set(&[other.shown(json!({})), mint.shown(json!({}))]);
    assert!(check(&nameless, &both).is_ok());
    let without = key_set(&[mint.shown(json!({"kid": null}))]);
    assert!(check(&nameless, &without).is_ok());
    assert_eq!(check(&token, &without), Err(TokenFault::UnknownKey));
}
