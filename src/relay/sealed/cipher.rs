//! What a response is sealed with: RFC 9458, section 4.4; its chunks: the draft, section 6.2.

use std::fmt;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use super::{SealFault, Unopened};
use crate::contexts::{Export, Open, Seal, Tag};
use crate::suite::Aead;

/// Nn of both ciphers.
pub(crate) const NONCE_BYTES: usize = 12;

/// What both sides know once the request is under way.
pub(crate) struct ResponseSecret {
    aead: Aead,
    secret: Zeroizing<Vec<u8>>,
    enc: Vec<u8>,
}

impl ResponseSecret {
    pub(crate) fn of(context: &dyn Export, label: &[u8], aead: Aead, enc: Vec<u8>) -> Self {
        let mut secret = Zeroizing::new(vec![0; aead.entropy_bytes()]);
        context.export(label, &mut secret);
        Self { aead, secret, enc }
    }

    pub(crate) fn nonce_bytes(&self) -> usize {
        self.aead.entropy_bytes()
    }

    /// `nonce` is of [`nonce_bytes`](Self::nonce_bytes), random, and never used twice.
    pub(crate) fn cipher(&self, nonce: &[u8]) -> Cipher {
        Cipher::new(&Derived::from(self.aead, &self.secret, &self.enc, nonce))
    }
}

/// A response's key and its first nonce, derived.
pub(crate) struct Derived {
    aead: Aead,
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) nonce: [u8; NONCE_BYTES],
}

impl Derived {
    pub(crate) fn from(aead: Aead, secret: &[u8], enc: &[u8], nonce: &[u8]) -> Self {
        const SHORT: &str = "a key and a nonce are shorter than 255 digests";
        let salt = [enc, nonce].concat();
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(&salt), secret);
        prk.zeroize();
        let mut key = Zeroizing::new(vec![0; aead.key_bytes()]);
        let mut first = [0; NONCE_BYTES];
        hkdf.expand(b"key", &mut key).expect(SHORT);
        hkdf.expand(b"nonce", &mut first).expect(SHORT);
        Self {
            aead,
            key,
            nonce: first,
        }
    }
}

enum Block {
    Aes256(Box<Aes256Gcm>),
    Aes128(Box<Aes128Gcm>),
}

/// AES-GCM under one key, with a nonce that counts.
pub(crate) struct Cipher {
    block: Block,
    base: [u8; NONCE_BYTES],
    count: u64,
}

impl Cipher {
    pub(crate) fn new(derived: &Derived) -> Self {
        const KEY: &str = "the key was derived in its cipher's length";
        let block = match derived.aead {
            Aead::Aes256Gcm => Block::Aes256(Box::new(
                Aes256Gcm::new_from_slice(&derived.key).expect(KEY),
            )),
            Aead::Aes128Gcm => Block::Aes128(Box::new(
                Aes128Gcm::new_from_slice(&derived.key).expect(KEY),
            )),
        };
        Self {
            block,
            base: derived.nonce,
            count: 0,
        }
    }

    /// The next nonce, once. Messages end long before a count of 64 bits does.
    pub(crate) fn nonce(&mut self) -> [u8; NONCE_BYTES] {
        let mut nonce = self.base;
        for (byte, count) in nonce[4..].iter_mut().zip(self.count.to_be_bytes()) {
            *byte ^= count;
        }
        self.count += 1;
        nonce
    }
}

impl Seal for Cipher {
    fn seal(&mut self, aad: &[u8], data: &mut [u8]) -> Result<Tag, SealFault> {
        let nonce = self.nonce().into();
        let data = InOutBuf::from(data);
        let tag = match &self.block {
            Block::Aes256(block) => block.encrypt_inout_detached(&nonce, aad, data),
            Block::Aes128(block) => block.encrypt_inout_detached(&nonce, aad, data),
        };
        Ok(tag.map_err(|_| SealFault::TooLong)?.into())
    }
}

impl Open for Cipher {
    fn open(&mut self, aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), Unopened> {
        let nonce = self.nonce().into();
        let data = InOutBuf::from(data);
        let opened = match &self.block {
            Block::Aes256(block) => block.decrypt_inout_detached(&nonce, aad, data, tag.into()),
            Block::Aes128(block) => block.decrypt_inout_detached(&nonce, aad, data, tag.into()),
        };
        opened.map_err(|_| Unopened)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cipher(after {} chunks)", self.count)
    }
}

impl fmt::Debug for ResponseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseSecret({:?})", self.aead)
    }
}
