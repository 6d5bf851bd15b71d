//! SHA-256 (FIPS 180-4) and HMAC-SHA256 (RFC 2104), over the aws-lc that TLS brings along.
//!
//! Not over `sha2`: the processors' SHA instructions have no AVX form, so that in a build for the machine
//! at hand (`-C target-cpu=native`) its compression mixes both, and on Intel's each then waits for the other:
//! 80 us for an HMAC of 600 bytes, where this takes one. aws-lc's is assembly of one kind.

use std::fmt;
use std::io;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac};

/// SHA-256's, and so HMAC-SHA256's.
pub const BYTES: usize = 32;

/// Of all bytes at once.
#[must_use]
pub fn sha256(bytes: impl AsRef<[u8]>) -> [u8; BYTES] {
    array(digest::digest(&digest::SHA256, bytes.as_ref()).as_ref())
}

/// SHA-256 of bytes that come one piece after the other.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    #[must_use]
    pub fn finish(self) -> [u8; BYTES] {
        array(self.0.finish().as_ref())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl io::Write for Sha256 {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A key of HMAC-SHA256, read once for all that it signs.
#[derive(Clone)]
pub struct HmacKey(hmac::Key);

impl HmacKey {
    /// Of a key of any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    #[must_use]
    pub fn begin(&self) -> Hmac {
        Hmac(hmac::Context::with_key(&self.0))
    }

    /// Of all bytes at once.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> [u8; BYTES] {
        array(hmac::sign(&self.0, bytes).as_ref())
    }
}

/// HMAC-SHA256 of bytes that come one piece after the other.
#[derive(Clone)]
pub struct Hmac(hmac::Context);

impl Hmac {
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    #[must_use]
    pub fn finish(self) -> [u8; BYTES] {
        array(self.0.sign().as_ref())
    }

    /// Whether `tag` is the one of these bytes, whole, in a time that does not tell where it is not.
    #[must_use]
    pub fn is(self, tag: &[u8]) -> bool {
        verify_slices_are_equal(&self.finish(), tag).is_ok()
    }
}

// What is digested may be a secret, and what is left of it in here too.
impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey")
    }
}

impl fmt::Debug for Hmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hmac")
    }
}

fn array(bytes: &[u8]) -> [u8; BYTES] {
    bytes.try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn hex(bytes: [u8; BYTES]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn it_is_sha_256() {
        // FIPS 180-4's examples.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(sha256("abc")), abc);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(Sha256::new().finish()), empty);
        let mut pieces = Sha256::default();
        pieces.update("a");
        pieces.write_all(b"bc").unwrap();
        assert_eq!(hex(pieces.clone().finish()), abc);
        pieces.update("d");
        assert_ne!(hex(pieces.finish()), abc);
    }

    #[test]
    fn it_is_hmac_sha_256() {
        // RFC 4231, test cases 1, 2 and 6: a short key, a shorter one, one longer than a block.
        let cases: [(&[u8], &[u8], &str); 3] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, said, expected) in cases {
            let key = HmacKey::new(key);
            assert_eq!(hex(key.sign(said)), expected);
            let mut pieces = key.begin();
            let (first, rest) = said.split_at(3);
            pieces.update(first);
            pieces.update(rest);
            assert_eq!(hex(pieces.clone().finish()), expected);
            assert!(pieces.clone().is(&key.sign(said)));
            assert!(!pieces.clone().is(&key.sign(first)));
            assert!(!pieces.clone().is(&key.sign(said)[..31]));
            assert!(!pieces.is(&[]));
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let key = HmacKey::new(b"secret");
        assert_eq!(
            format!("{key:?} {:?} {:?}", key.begin(), Sha256::new()),
            "HmacKey Hmac Sha256"
        );
    }
}
