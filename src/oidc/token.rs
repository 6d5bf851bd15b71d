//! An ID token, read and held against what was agreed (OpenID Connect Core, section 3.1.3.7). Pure: keys and
//! time are arguments.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::error::TokenFault;
use crate::keys::KeySet;

/// Signatures that are taken: none that the client could have made itself, and `none` least of all.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// How far two clocks may be apart.
const SKEW_S_MAX: u64 = 60;
/// Of a subject (OpenID Connect Core, section 2).
const SUBJECT_BYTES_MAX: usize = 255;

pub type Claims = Map<String, Value>;

/// What a token must be.
#[derive(Clone, Copy, Debug)]
pub struct Agreed<'a> {
    pub issuer: &'a str,
    pub client: &'a str,
    pub nonce: &'a str,
    /// Unix seconds.
    pub now: u64,
}

/// # Errors
/// It is not signed by one of the keys, or is not what was agreed. `UnknownKey` is one that newer keys may
/// know.
pub fn verify(token: &str, keys: &KeySet, agreed: &Agreed<'_>) -> Result<Claims, TokenFault> {
    let claims = signed(token, keys)?;
    if text(&claims, "iss") != Some(agreed.issuer) {
        return Err(TokenFault::Issuer);
    }
    if !is_for(&claims, agreed.client) {
        return Err(TokenFault::Audience);
    }
    let seconds = |name: &str| claims.get(name).map(|it| it.as_f64().map(|it| it as u64));
    // Both are required. A time may have fractions, and one that is too great for us is the greatest.
    let (Some(Some(expires)), Some(Some(issued))) = (seconds("exp"), seconds("iat")) else {
        return Err(TokenFault::Malformed);
    };
    if expires.saturating_add(SKEW_S_MAX) <= agreed.now {
        return Err(TokenFault::Expired);
    }
    let begins = match seconds("nbf") {
        None => issued,
        Some(begins) => begins.ok_or(TokenFault::Malformed)?.max(issued),
    };
    if begins > agreed.now.saturating_add(SKEW_S_MAX) {
        return Err(TokenFault::Early);
    }
    if text(&claims, "nonce") != Some(agreed.nonce) {
        return Err(TokenFault::Nonce);
    }
    let subject = text(&claims, "sub").unwrap_or_default();
    if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || subject.contains(char::is_control)
    {
        return Err(TokenFault::Subject);
    }
    Ok(claims)
}

fn signed(token: &str, keys: &KeySet) -> Result<Claims, TokenFault> {
    // A word that is no algorithm, as `none`, is no header.
    let header = decode_header(token).map_err(|error| match error.kind() {
        ErrorKind::Json(_) => TokenFault::Algorithm,
        _ => TokenFault::Malformed,
    })?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(TokenFault::Algorithm);
    }
    let mut rules = Validation::new(header.alg);
    // Checked above, with the time that we are told.
    rules.required_spec_claims.clear();
    (rules.validate_exp, rules.validate_aud) = (false, false);
    let mut fault = TokenFault::UnknownKey;
    for key in keys.of(header.kid.as_deref(), header.alg) {
        match decode::<Claims>(token, key, &rules) {
            Ok(read) => return Ok(read.claims),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                fault = TokenFault::Signature;
            }
            Err(_) => return Err(TokenFault::Malformed),
        }
    }
    Err(fault)
}

/// The client is among those that it is for; where others are too, it is the one that asked for it.
fn is_for(claims: &Claims, client: &str) -> bool {
    let asker = claims.get("azp");
    let is_askers = asker.is_none_or(|asker| asker.as_str() == Some(client));
    match claims.get("aud") {
        Some(Value::String(one)) => one == client && is_askers,
        Some(Value::Array(all)) => {
            let has_ours = all.iter().any(|one| one.as_str() == Some(client));
            let is_alone = all.len() == 1 || asker.is_some();
            has_ours && is_alone && is_askers
        }
        _ => false,
    }
}

pub fn text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
