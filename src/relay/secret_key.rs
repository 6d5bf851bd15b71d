//! The secret half of a key that requests are sealed to.

use std::fmt;

use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem as _, Serializable};
use rand::CryptoRng;

use crate::suite::Kem;
use crate::xwing::XWing;

/// Wiped when it is dropped: the libraries' keys are (`zeroize`, and aws-lc's own way).
pub enum SecretKey {
    X25519(<X25519HkdfSha256 as hpke::Kem>::PrivateKey),
    XWing(<XWing as hpke::Kem>::PrivateKey),
}

impl SecretKey {
    pub fn generate<R: CryptoRng>(kem: Kem, rng: &mut R) -> Self {
        match kem {
            Kem::X25519 => Self::X25519(X25519HkdfSha256::gen_keypair_with_rng(rng).0),
            Kem::XWing => Self::XWing(XWing::gen_keypair_with_rng(rng).0),
        }
    }

    /// From its serialized form (RFC 9180, section 7.1.2): 32 bytes in both cases.
    pub fn from_bytes(kem: Kem, bytes: &[u8; 32]) -> Self {
        const LONG_ENOUGH: &str = "both keys are any 32 bytes";
        match kem {
            Kem::X25519 => Self::X25519(Deserializable::from_bytes(bytes).expect(LONG_ENOUGH)),
            Kem::XWing => Self::XWing(Deserializable::from_bytes(bytes).expect(LONG_ENOUGH)),
        }
    }

    pub fn kem(&self) -> Kem {
        match self {
            Self::X25519(_) => Kem::X25519,
            Self::XWing(_) => Kem::XWing,
        }
    }

    /// What may be told.
    pub fn public_key(&self) -> Vec<u8> {
        match self {
            Self::X25519(key) => X25519HkdfSha256::sk_to_pk(key).to_bytes().to_vec(),
            Self::XWing(key) => XWing::sk_to_pk(key).to_bytes().to_vec(),
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.kem().as_label())
    }
}
