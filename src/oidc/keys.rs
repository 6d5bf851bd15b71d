//! The keys that a provider signs with (RFC 7517). Those of a kind that is not known here are passed over.

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Further ones of a set are not looked at.
const KEYS_MAX: usize = 64;

/// As it is written.
#[derive(Debug, Deserialize)]
pub struct RawKeySet {
    keys: Vec<Value>,
}

#[derive(Debug)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The only one that it is for, where it says so.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

impl RawKeySet {
    pub fn judge(self) -> KeySet {
        let keys = self.keys.into_iter().take(KEYS_MAX);
        KeySet(keys.filter_map(judge).collect())
    }
}

fn judge(raw: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(raw).ok()?;
    if !matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    ) {
        return None;
    }
    let algorithm = match jwk.common.key_algorithm {
        None => None,
        Some(named) => Some(Algorithm::try_from(named).ok()?),
    };
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key {
        id: jwk.common.key_id,
        algorithm,
        key,
    })
}

impl KeySet {
    /// Those that may have signed: all of the kind where the token names none.
    pub fn of<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        let fits = move |key: &&Key| {
            key.key.family() == algorithm.family()
                && key.algorithm.is_none_or(|it| it == algorithm)
                && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.0.iter().filter(fits).map(|key| &key.key)
    }
}
