//! How a text is sealed: AES-256-GCM, under a key of each row's own.
//!
//! ```text
//! salt (32 random bytes) ─HMAC-SHA-256 under the operator's key─► key, nonce     once each
//! key, nonce, what the row says in the clear ─AES-256-GCM─► sealed text and tag
//! ```
//! With random nonces a key of AES-GCM seals 2^32 texts at most (NIST SP 800-38D, section 8.3). A key that is
//! derived for one row alone (NIST SP 800-108, in counter mode a single block; RFC 5869, section 2.3) seals one,
//! so the operator's key has no such bound, and nothing has to be counted over restarts. Two rows have a salt
//! in common once in 2^122 of them.
//!
//! What the row says in the clear is authenticated with it, so that none can be given another's text, team or
//! time.

use aes_gcm::aead::Aead as _;
use aes_gcm::aead::Payload;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use domain::Unopened;
use uuid::Uuid;

use super::key::TextKey;

/// Of what is authenticated: one of another form is another word.
const FORM: &[u8] = b"hedge: text 1";

const KEY: &[u8] = b"hedge: key of a text";
const NONCE: &[u8] = b"hedge: nonce of a text";
const ID: &[u8] = b"hedge: id of a request";

const NONCE_BYTES: usize = 12;
const ID_BYTES: usize = 16;

/// The operator's keys, newest first: the first seals, all of them open.
#[derive(Clone, Debug)]
pub struct TextKeys(Vec<(String, TextKey)>);

/// What a row says in the clear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clear<'a> {
    pub ended_us: i64,
    pub until_us: i64,
    pub team: &'a str,
    pub marks: Option<&'a str>,
}

/// A text that tells nothing without its key.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub key_id: String,
    /// Finds it by the id of its exchange.
    pub id: Vec<u8>,
    pub salt: Vec<u8>,
    pub body: Vec<u8>,
}

impl TextKeys {
    /// `None` without any.
    #[must_use]
    pub fn new(keys: Vec<TextKey>) -> Option<Self> {
        let named: Vec<_> = keys.into_iter().map(|key| (key.name(), key)).collect();
        (!named.is_empty()).then_some(Self(named))
    }

    /// What each is called, newest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Of the one that seals.
    #[must_use]
    pub fn newest(&self) -> &str {
        self.0.first().map_or("", |(name, _)| name)
    }

    pub(super) fn seal(&self, clear: &Clear<'_>, request_id: &str, text: &[u8]) -> Option<Sealed> {
        let (name, key) = self.0.first()?;
        let salt = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
        let id = id_under(key, request_id);
        let (cipher, nonce) = cipher(key, &salt);
        let aad = clear.authenticated(name, &id, &salt);
        let payload = Payload {
            msg: text,
            aad: &aad,
        };
        let body = cipher.encrypt(&nonce.into(), payload).ok()?;
        Some(Sealed {
            key_id: name.clone(),
            id,
            salt,
            body,
        })
    }

    pub(super) fn open(&self, clear: &Clear<'_>, sealed: &Sealed) -> Result<Vec<u8>, Unopened> {
        let mut keys = self.0.iter();
        let Some((name, key)) = keys.find(|(name, _)| *name == sealed.key_id) else {
            return Err(Unopened::KeyMissing {
                key_id: sealed.key_id.clone(),
            });
        };
        let (cipher, nonce) = cipher(key, &sealed.salt);
        let aad = clear.authenticated(name, &sealed.id, &sealed.salt);
        let payload = Payload {
            msg: &sealed.body,
            aad: &aad,
        };
        let opened = cipher.decrypt(&nonce.into(), payload);
        opened.map_err(|_| Unopened::Altered)
    }

    /// By which a text of this exchange is found, whichever key it was sealed under.
    pub(super) fn ids(&self, request_id: &str) -> Vec<Vec<u8>> {
        let keys = self.0.iter();
        keys.map(|(_, key)| id_under(key, request_id)).collect()
    }
}

fn id_under(key: &TextKey, request_id: &str) -> Vec<u8> {
    key.digest(ID, request_id.as_bytes())[..ID_BYTES].to_vec()
}

/// Of one salt's own: it seals one text.
pub(crate) fn cipher(key: &TextKey, salt: &[u8]) -> (Aes256Gcm, [u8; NONCE_BYTES]) {
    let cipher = Aes256Gcm::new(&key.digest(KEY, salt).into());
    let digest = key.digest(NONCE, salt);
    let mut nonce = [0; NONCE_BYTES];
    nonce.copy_from_slice(&digest[..NONCE_BYTES]);
    (cipher, nonce)
}

impl Clear<'_> {
    /// Each part with its length before it, so that none can be moved into another.
    fn authenticated(&self, key_id: &str, id: &[u8], salt: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut add = |part: &[u8]| {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        };
        add(FORM);
        add(key_id.as_bytes());
        add(&self.ended_us.to_le_bytes());
        add(&self.until_us.to_le_bytes());
        add(self.team.as_bytes());
        // Nobody's is not the same as of an empty word.
        match self.marks {
            Some(marks) => add(&[&[1], marks.as_bytes()].concat()),
            None => add(&[0]),
        }
        add(id);
        add(salt);
        all
    }
}
