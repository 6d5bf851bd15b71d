//! What stands before the chunks of a request, in the clear: RFC 9458, section 4.3.

use std::fmt;

use sha2::{Digest, Sha256};

use super::Form;
use crate::suite::{Aead, Ciphers, KDF_ID, Kem, Suite};

/// Key id and the three algorithms.
const IDS_BYTES: usize = 7;

/// Which key a request is sealed to, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub key_id: u8,
    pub suite: Suite,
    pub(crate) enc: Vec<u8>,
}

impl RequestHead {
    pub(crate) fn ids(key_id: u8, suite: Suite) -> [u8; IDS_BYTES] {
        let mut ids = [key_id; IDS_BYTES];
        ids[1..3].copy_from_slice(&suite.kem.id().to_be_bytes());
        ids[3..5].copy_from_slice(&KDF_ID.to_be_bytes());
        ids[5..7].copy_from_slice(&suite.aead.id().to_be_bytes());
        ids
    }

    /// What HPKE binds the key to: the form, the key id and the algorithms.
    pub(crate) fn info(form: Form, key_id: u8, suite: Suite) -> Vec<u8> {
        [form.request_label(), &[0], &Self::ids(key_id, suite)].concat()
    }

    /// What the replay cache and the audit know the request by.
    pub fn digest(&self) -> EncDigest {
        EncDigest::of(&self.enc)
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("key_id", &self.key_id)
            .field("suite", &self.suite)
            .field("digest", &self.digest())
            .finish()
    }
}

/// The first 16 bytes of SHA-256 over `enc`. No two requests have one in common, but the same bytes
/// sent twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EncDigest([u8; 16]);

impl EncDigest {
    pub(crate) fn of(enc: &[u8]) -> Self {
        let mut first = [0; 16];
        first.copy_from_slice(&Sha256::digest(enc)[..16]);
        Self(first)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// As audit lines of both sides write it: 8 bytes in hexadecimal digits.
    pub fn short(&self) -> String {
        self.0[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Debug for EncDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncDigest({})", self.short())
    }
}

/// The request names a key or a suite that is not taken here; the sender may fetch the keys anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request is sealed to no key of ours")]
pub struct HeadRefused;

/// Reads a head, however its bytes are cut.
#[derive(Debug)]
pub struct HeadReader {
    ciphers: Ciphers,
    ids: [u8; IDS_BYTES],
    ids_read: usize,
    named: Option<(u8, Suite)>,
    enc: Vec<u8>,
}

impl HeadReader {
    pub fn new(ciphers: Ciphers) -> Self {
        Self {
            ciphers,
            ids: [0; IDS_BYTES],
            ids_read: 0,
            named: None,
            enc: Vec::new(),
        }
    }

    /// Takes what it needs from `input`; the head, once it is whole. Then it has nothing more.
    ///
    /// # Errors
    /// As soon as the algorithms are read, where they are not among those taken.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<RequestHead>, HeadRefused> {
        while self.ids_read < IDS_BYTES {
            let Some((byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            self.ids[self.ids_read] = *byte;
            self.ids_read += 1;
            *input = rest;
        }
        let (key_id, suite) = match self.named {
            Some(named) => named,
            None => *self.named.insert(self.read_ids()?),
        };
        let wanted = suite.kem.encapsulated_bytes();
        let (taken, rest) = input.split_at((wanted - self.enc.len()).min(input.len()));
        self.enc.extend_from_slice(taken);
        *input = rest;
        if self.enc.len() < wanted {
            return Ok(None);
        }
        Ok(Some(RequestHead {
            key_id,
            suite,
            enc: self.enc.clone(),
        }))
    }

    fn read_ids(&self) -> Result<(u8, Suite), HeadRefused> {
        let [key_id, kem @ .., k0, k1, a0, a1] = self.ids;
        let kem = Kem::from_id(u16::from_be_bytes(kem)).ok_or(HeadRefused)?;
        let aead = Aead::from_id(u16::from_be_bytes([a0, a1])).ok_or(HeadRefused)?;
        let is_taken =
            u16::from_be_bytes([k0, k1]) == KDF_ID && self.ciphers.aeads().contains(&aead);
        if !is_taken {
            return Err(HeadRefused);
        }
        Ok((key_id, Suite { kem, aead }))
    }
}
