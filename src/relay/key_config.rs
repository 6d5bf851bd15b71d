//! Key configurations: RFC 9458, section 3, and their list, `application/ohttp-keys`.

use std::fmt;

use hpke::Deserializable;
use hpke::kem::X25519HkdfSha256;

use crate::limits::{KEY_CONFIGS_MAX, KEY_LIST_BYTES_MAX};
use crate::secret_key::SecretKey;
use crate::suite::{Aead, Ciphers, KDF_ID, Kem};

/// The media type of a list.
pub const KEYS_MEDIA_TYPE: &str = "application/ohttp-keys";

/// A public key, and what may be sealed to it. It has at least one cipher.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyConfig {
    id: u8,
    kem: Kem,
    public_key: Vec<u8>,
    aeads: Vec<Aead>,
}

/// The whole list is refused: RFC 9458, section 3.2, so that no two readers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyConfigFault {
    #[error("key list ends within configuration {index}")]
    CutShort { index: usize },
    #[error("key configuration {index} has bytes left over, or too few")]
    Malformed { index: usize },
    #[error("key configuration {index} holds no usable public key")]
    PublicKey { index: usize },
    #[error(
        "key list is longer than {KEY_LIST_BYTES_MAX} bytes or {KEY_CONFIGS_MAX} configurations"
    )]
    TooLong,
}

impl KeyConfig {
    pub fn of(id: u8, secret_key: &SecretKey, ciphers: Ciphers) -> Self {
        Self {
            id,
            kem: secret_key.kem(),
            public_key: secret_key.public_key(),
            aeads: ciphers.aeads().to_vec(),
        }
    }

    pub fn id(&self) -> u8 {
        self.id
    }

    pub fn kem(&self) -> Kem {
        self.kem
    }

    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Those of them we know, in the order they stand in.
    pub fn aeads(&self) -> &[Aead] {
        &self.aeads
    }

    /// The best of `ciphers` that it offers, whatever the order it offers them in.
    pub fn choose(&self, ciphers: Ciphers) -> Option<Aead> {
        let mut taken = ciphers.aeads().iter().copied();
        taken.find(|aead| self.aeads.contains(aead))
    }

    /// Without a length before it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(self.id);
        out.extend_from_slice(&self.kem.id().to_be_bytes());
        out.extend_from_slice(&self.public_key);
        // There are two ciphers at most.
        out.extend_from_slice(&(4 * self.aeads.len() as u16).to_be_bytes());
        for aead in &self.aeads {
            out.extend_from_slice(&KDF_ID.to_be_bytes());
            out.extend_from_slice(&aead.id().to_be_bytes());
        }
    }

    /// One configuration, without a length before it. `None` where it is well formed, but of
    /// algorithms we do not know: such a one is passed over.
    ///
    /// # Errors
    /// Where it is not well formed; `index` is 0.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, KeyConfigFault> {
        read_one(bytes, 0)
    }

    /// Those of a list that we can use, in its order. Unknown algorithms are passed over.
    ///
    /// # Errors
    /// Where any is not well formed: then none of the list may be used.
    pub fn read_list(mut bytes: &[u8]) -> Result<Vec<Self>, KeyConfigFault> {
        if bytes.len() > KEY_LIST_BYTES_MAX {
            return Err(KeyConfigFault::TooLong);
        }
        let mut configs = Vec::new();
        let mut index = 0;
        while !bytes.is_empty() {
            if index == KEY_CONFIGS_MAX {
                return Err(KeyConfigFault::TooLong);
            }
            let cut = KeyConfigFault::CutShort { index };
            let (length, rest) = bytes.split_first_chunk::<2>().ok_or(cut)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (one, rest) = rest.split_at_checked(length).ok_or(cut)?;
            configs.extend(read_one(one, index)?);
            bytes = rest;
            index += 1;
        }
        Ok(configs)
    }

    /// As `application/ohttp-keys`, in the order given.
    pub fn write_list<'a>(configs: impl IntoIterator<Item = &'a Self>) -> Vec<u8> {
        let mut out = Vec::new();
        for config in configs {
            let at = out.len();
            out.extend_from_slice(&[0, 0]);
            config.write(&mut out);
            // The longest is of X-Wing, some 1,230 bytes.
            let length = (out.len() - at - 2) as u16;
            out[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        out
    }
}

fn read_one(bytes: &[u8], index: usize) -> Result<Option<KeyConfig>, KeyConfigFault> {
    let malformed = KeyConfigFault::Malformed { index };
    let (head, rest) = bytes.split_first_chunk::<3>().ok_or(malformed)?;
    let Some(kem) = Kem::from_id(u16::from_be_bytes([head[1], head[2]])) else {
        // How long its public key is nobody here knows, so the rest cannot be looked at.
        return Ok(None);
    };
    let (public_key, rest) = rest
        .split_at_checked(kem.public_key_bytes())
        .ok_or(malformed)?;
    let (length, pairs) = rest.split_first_chunk::<2>().ok_or(malformed)?;
    let (pairs, odd) = pairs.as_chunks::<4>();
    let stated = usize::from(u16::from_be_bytes(*length));
    if stated != 4 * pairs.len() || !odd.is_empty() || pairs.is_empty() {
        return Err(malformed);
    }
    if !is_public_key(kem, public_key) {
        return Err(KeyConfigFault::PublicKey { index });
    }
    let known = pairs.iter().filter_map(|pair| {
        let kdf = u16::from_be_bytes([pair[0], pair[1]]);
        Aead::from_id(u16::from_be_bytes([pair[2], pair[3]])).filter(|_| kdf == KDF_ID)
    });
    let aeads: Vec<Aead> = known.collect();
    if aeads.is_empty() {
        return Ok(None);
    }
    Ok(Some(KeyConfig {
        id: head[0],
        kem,
        public_key: public_key.to_vec(),
        aeads,
    }))
}

fn is_public_key(kem: Kem, bytes: &[u8]) -> bool {
    match kem {
        Kem::X25519 => <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(bytes).is_ok(),
        Kem::XWing => <hpke::kem::XWing as hpke::Kem>::PublicKey::from_bytes(bytes).is_ok(),
    }
}

impl fmt::Debug for KeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyConfig")
            .field("id", &self.id)
            .field("kem", &self.kem)
            .field("aeads", &self.aeads)
            .finish_non_exhaustive()
    }
}
