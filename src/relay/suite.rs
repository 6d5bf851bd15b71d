//! Which algorithms there are, and which of them are taken.
//!
//! The key derivation is HKDF-SHA256 always (RFC 9180, section 7.2). The numbers are of the
//! registry "Hybrid Public Key Encryption" at IANA.

/// HKDF-SHA256.
pub(crate) const KDF_ID: u16 = 0x0001;

/// How a key is agreed on. Best first, which is the order we prefer them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kem {
    /// MLKEM768-X25519, also called X-Wing: holds as long as one of its halves does.
    XWing,
    /// DHKEM(X25519, HKDF-SHA256): not against a quantum computer.
    X25519,
}

impl Kem {
    /// All, best first.
    pub const ALL: [Self; 2] = [Self::XWing, Self::X25519];

    pub fn id(self) -> u16 {
        match self {
            Self::XWing => 0x647a,
            Self::X25519 => 0x0020,
        }
    }

    pub(crate) fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kem| kem.id() == id)
    }

    /// As the manifest writes it.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::XWing => "x-wing",
            Self::X25519 => "x25519",
        }
    }

    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kem| kem.as_label() == label)
    }

    /// Npk of RFC 9180.
    pub fn public_key_bytes(self) -> usize {
        match self {
            Self::XWing => 1_216,
            Self::X25519 => 32,
        }
    }

    /// Nenc of RFC 9180.
    pub fn encapsulated_bytes(self) -> usize {
        match self {
            Self::XWing => 1_120,
            Self::X25519 => 32,
        }
    }

    /// Whether what is sealed today stays sealed from a quantum computer to come.
    pub fn is_post_quantum(self) -> bool {
        match self {
            Self::XWing => true,
            Self::X25519 => false,
        }
    }
}

/// What chunks are sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aead {
    Aes256Gcm,
    /// For strangers in tests only.
    Aes128Gcm,
}

impl Aead {
    pub fn id(self) -> u16 {
        match self {
            Self::Aes256Gcm => 0x0002,
            Self::Aes128Gcm => 0x0001,
        }
    }

    pub(crate) fn from_id(id: u16) -> Option<Self> {
        [Self::Aes256Gcm, Self::Aes128Gcm]
            .into_iter()
            .find(|aead| aead.id() == id)
    }

    /// Nk of RFC 9180.
    pub(crate) fn key_bytes(self) -> usize {
        match self {
            Self::Aes256Gcm => 32,
            Self::Aes128Gcm => 16,
        }
    }

    /// Of a response's nonce, and of the secret it is derived from: max(Nn, Nk), and Nn is 12.
    pub(crate) fn entropy_bytes(self) -> usize {
        self.key_bytes().max(super::sealed::NONCE_BYTES)
    }
}

/// What one message is sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suite {
    pub kem: Kem,
    pub aead: Aead,
}

/// Which ciphers are offered and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ciphers {
    /// AES-256-GCM alone.
    #[default]
    Strict,
    /// `interop_suites`: AES-128-GCM too, so that peers that know no other can be tested with.
    Interop,
}

impl Ciphers {
    /// Best first.
    pub fn aeads(self) -> &'static [Aead] {
        match self {
            Self::Strict => &[Aead::Aes256Gcm],
            Self::Interop => &[Aead::Aes256Gcm, Aead::Aes128Gcm],
        }
    }
}
