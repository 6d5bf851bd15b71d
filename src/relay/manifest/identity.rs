//! Who a relay is: a key that lives long, and signs manifests, and whom it let in.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The secret half. Wiped when it is dropped.
pub struct IdentityKey(SigningKey);

impl IdentityKey {
    pub fn generate<R: CryptoRng>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(&bytes)
    }

    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// For the file it is kept in, and for nothing else.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    pub fn pin(&self) -> IdentityPin {
        IdentityPin(self.0.verifying_key())
    }

    /// Signs what an edge is told when it is let in or renewed. No manifest's signature is of such bytes:
    /// those begin with a quotation mark.
    pub fn vouch(&self, said: &[u8]) -> [u8; 64] {
        self.sign(&vouched(said))
    }

    pub(super) fn sign(&self, said: &[u8]) -> [u8; 64] {
        self.0.sign(said).to_bytes()
    }
}

/// What begins everything that is signed of an admission.
const ADMISSION_LABEL: &[u8] = b"relay/1 admission\0";

fn vouched(said: &[u8]) -> Vec<u8> {
    [ADMISSION_LABEL, said].concat()
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({})", self.pin().key_id())
    }
}

/// The public half, as edges have it. Written as `ed25519:` and 32 bytes in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityPin(VerifyingKey);

/// No pin: not of that form, or a point that anybody could sign for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("identity is not `ed25519:` and 32 bytes in base64")]
pub struct NoPin;

impl IdentityPin {
    /// What a signature names the key by: the beginning of its digest.
    pub fn key_id(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The public key itself: RFC 8032, section 5.1.5.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether [`IdentityKey::vouch`] signed it.
    pub fn has_vouched(&self, said: &[u8], signature: &[u8]) -> bool {
        self.is_signed(&vouched(said), signature)
    }

    pub(crate) fn is_signed(&self, said: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(said, &signature).is_ok())
    }
}

impl FromStr for IdentityPin {
    type Err = NoPin;

    fn from_str(text: &str) -> Result<Self, NoPin> {
        let text = text.strip_prefix("ed25519:").ok_or(NoPin)?;
        let bytes = STANDARD.decode(text).map_err(|_| NoPin)?;
        let bytes = bytes.try_into().map_err(|_| NoPin)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NoPin)?;
        if key.is_weak() {
            Err(NoPin)
        } else {
            Ok(Self(key))
        }
    }
}

impl fmt::Display for IdentityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", STANDARD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for IdentityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityPin({})", self.key_id())
    }
}
