//! Keys that texts are sealed under, as operators keep them.

use std::fmt;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hashing::HmacKey;

use crate::secret_file::{self, SECRET_BYTES};

/// Of a key's text: hexadecimal digits or base64 of 32 bytes, and white space around them.
pub const TEXT_KEY_BYTES_MAX: usize = 256;

/// Bytes of a key's name.
const NAME_BYTES: usize = 8;

/// 32 bytes from a generator that nobody can foretell.
#[derive(Clone, PartialEq, Eq)]
pub struct TextKey([u8; SECRET_BYTES]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum TextKeyFault {
    #[error("the key cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("it is no key: 32 bytes are wanted, as 64 hexadecimal digits or in base64")]
    Malformed,
    #[error("it is no key: all of its bytes are the same")]
    Uniform,
}

impl TextKey {
    /// Of a secret that was drawn or derived.
    pub(crate) fn of(secret: [u8; SECRET_BYTES]) -> Self {
        Self(secret)
    }

    /// # Errors
    /// It is not 32 bytes, or none that anybody drew.
    pub fn parse(text: &str) -> Result<Self, TextKeyFault> {
        let text = text.trim_ascii();
        let bytes = match text.len() {
            64 => of_hex(text),
            _ => BASE64_STANDARD.decode(text).ok(),
        };
        let bytes = bytes.and_then(|bytes| <[u8; SECRET_BYTES]>::try_from(bytes).ok());
        let bytes = bytes.ok_or(TextKeyFault::Malformed)?;
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(TextKeyFault::Uniform);
        }
        Ok(Self(bytes))
    }

    /// The one in a file that is its owner's alone.
    ///
    /// # Errors
    /// The file cannot be read, others than its owner may, or there is no key in it.
    pub fn read(path: &Path) -> Result<Self, TextKeyFault> {
        let text = secret_file::read_text(path, TEXT_KEY_BYTES_MAX);
        Self::parse(&text.map_err(TextKeyFault::Unreadable)?)
    }

    /// By which rows say under what they are sealed: a digest, which tells nothing of the key.
    #[must_use]
    pub fn name(&self) -> String {
        let digest = self.digest(b"hedge: name of a key", &[]);
        let digits = digest.iter().take(NAME_BYTES);
        digits.map(|byte| format!("{byte:02x}")).collect()
    }

    /// HMAC-SHA-256 under the key, of what it is for and of what is meant.
    pub(super) fn digest(&self, purpose: &[u8], part: &[u8]) -> [u8; 32] {
        let mut mac = HmacKey::new(&self.0).begin();
        for part in [purpose, part] {
            mac.update((part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finish()
    }
}

impl fmt::Debug for TextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TextKey")
    }
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = (0..text.len()).step_by(2).filter(|_| is_plain);
    let bytes: Option<Vec<u8>> = pairs
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect();
    bytes.filter(|_| is_plain)
}
