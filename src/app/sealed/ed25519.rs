//! The file of an Ed25519 key: PKCS #8 (RFC 5958, RFC 8410) in PEM (RFC 7468), as `openssl genpkey
//! -algorithm ed25519` writes it too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::CryptoRng;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

/// What stands before the 32 bytes of the key (RFC 8410, section 7).
const PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The 32 bytes that a key is made from.
pub type Seed = Zeroizing<[u8; 32]>;

/// A new one.
pub fn generate(rng: &mut impl CryptoRng) -> Seed {
    let mut seed = Seed::default();
    rng.fill_bytes(&mut *seed);
    seed
}

/// As PKCS #8, for what signs with it.
pub fn to_der(seed: &Seed) -> Zeroizing<Vec<u8>> {
    let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + seed.len()));
    der.extend_from_slice(&PREFIX);
    der.extend_from_slice(&**seed);
    der
}

/// As its file has it.
pub fn to_pem(seed: &Seed) -> Zeroizing<String> {
    // 48 bytes are one line of 64 characters.
    let line = Zeroizing::new(STANDARD.encode(&*to_der(seed)));
    Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        *line
    ))
}

/// From a file's text; `None` where it holds no such key.
pub fn from_pem(text: &str) -> Option<Seed> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
    let der = der.secret_pkcs8_der().strip_prefix(&PREFIX)?;
    // A public key may follow in other forms of PKCS #8; this one ends here.
    let seed: &[u8; 32] = der.try_into().ok()?;
    Some(Zeroizing::new(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let seed = generate(&mut rand::rng());
        assert_eq!(from_pem(&to_pem(&seed)), Some(seed));
        // RFC 8410, section 10.3.
        let text = "-----BEGIN PRIVATE KEY-----\n\
                    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                    -----END PRIVATE KEY-----\n";
        let seed = from_pem(text).unwrap();
        assert_eq!(seed[..4], [0xd4, 0xee, 0x72, 0xdb]);
        assert_eq!(*to_pem(&seed), text);
        assert!(from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").is_none());
        assert!(from_pem("").is_none());
    }
}
