//! The secret that keys are hashed with.

use std::fmt;
use std::io;
use std::path::Path;

use domain::KeyDigest;
use hashing::HmacKey;
use subtle::ConstantTimeEq;

use crate::secret_file::{self, SECRET_BYTES};

/// What a file of rows keeps to tell whether a secret is its own. No digest of a key: those are hashed
/// with nothing before them, and have another length.
const PROOF_TEXT: &[u8] = b"hedge: the secret of these keys";

/// A key's digest, hashed with the secret: all that is kept of a key that was made here.
#[derive(Clone, Copy)]
pub struct KeyTag(pub [u8; 32]);

impl KeyTag {
    /// How long it takes tells nothing.
    #[must_use]
    pub fn is(&self, other: &KeyTag) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Where it stands in a map: without the secret nobody can choose it.
    #[must_use]
    pub(super) fn place(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for KeyTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyTag")
    }
}

/// A secret that outlives the process, in a file that is this user's alone.
#[derive(Clone)]
pub struct TagSecret([u8; SECRET_BYTES]);

impl TagSecret {
    #[must_use]
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// The one in the file.
    ///
    /// # Errors
    /// It is not there, is none, or others than this user may read it.
    pub fn read(path: &Path) -> io::Result<Self> {
        secret_file::read(path).map(Self)
    }

    /// Writes it to a file that is not there yet; it is on the disk when this returns.
    ///
    /// # Errors
    /// There is one, or the disk's.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        secret_file::write_new(path, &self.0)
    }

    #[must_use]
    pub fn tag(&self, digest: &KeyDigest) -> KeyTag {
        self.hash(&digest.0)
    }

    /// Whether both are one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    pub(super) fn bytes(&self) -> [u8; SECRET_BYTES] {
        self.0
    }

    /// What tells this secret from another.
    pub(super) fn proof(&self) -> KeyTag {
        self.hash(PROOF_TEXT)
    }

    fn hash(&self, bytes: &[u8]) -> KeyTag {
        KeyTag(HmacKey::new(&self.0).sign(bytes))
    }
}

impl fmt::Debug for TagSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagSecret")
    }
}
