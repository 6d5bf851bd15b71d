//! What a new edge is told beside the relay's address: who the relay is, and a secret to join with.
//!
//! The token carries the fingerprints of the relay's authority and of its identity, so an edge trusts
//! nothing that it sees for the first time. The relay keeps a digest of the secret alone, for 15
//! minutes and one use.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hashing::sha256;
use rand::CryptoRng;
use zeroize::Zeroizing;

/// How long a token may be used.
pub const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);

/// Says what it is, where somebody finds one.
const PREFIX: &str = "hedge-join-1.";

/// SHA-256.
pub type Fingerprint = [u8; 32];

pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    sha256(bytes)
}

/// In hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` for what are no pairs of hexadecimal digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// The secret of a token. 256 random bits, so that a plain digest keeps it.
pub struct JoinSecret(Zeroizing<[u8; 32]>);

impl JoinSecret {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// What the relay keeps of it.
    pub fn digest(&self) -> Fingerprint {
        fingerprint(&*self.0)
    }

    /// For the request that joins, over TLS that was checked, and for nothing else.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    /// As [`expose`](Self::expose) writes it.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        let bytes: &[u8; 32] = bytes.as_slice().try_into().ok()?;
        Some(Self(Zeroizing::new(*bytes)))
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret")
    }
}

/// A token, as `hedge relay init` and `hedge relay edges add` print it.
#[derive(Debug)]
pub struct JoinToken {
    pub secret: JoinSecret,
    /// Of the authority's certificate, in DER.
    pub authority: Fingerprint,
    /// Of the identity as it is written.
    pub identity: Fingerprint,
}

/// No token: not as one is printed, or cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join token; paste it whole as the relay printed it, it begins with hedge-join-1."
)]
pub struct NoToken;

impl JoinToken {
    /// For the terminal of who asked for it.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(96));
        bytes.extend_from_slice(&*self.secret.0);
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.identity);
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }
}

impl FromStr for JoinToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(NoToken)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_| NoToken)?);
        let bytes: &[u8; 96] = bytes.as_slice().try_into().map_err(|_| NoToken)?;
        let (secret, rest) = bytes.split_first_chunk::<32>().ok_or(NoToken)?;
        let (authority, rest) = rest.split_first_chunk::<32>().ok_or(NoToken)?;
        let identity = rest.first_chunk::<32>().ok_or(NoToken)?;
        Ok(Self {
            secret: JoinSecret(Zeroizing::new(*secret)),
            authority: *authority,
            identity: *identity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_printed_and_does_not_print_itself() {
        let token = JoinToken {
            secret: JoinSecret::generate(&mut rand::rng()),
            authority: [1; 32],
            identity: [2; 32],
        };
        let text = token.expose();
        let read: JoinToken = format!(" {}\n", *text).parse().unwrap();
        assert_eq!(read.secret.digest(), token.secret.digest());
        assert_eq!((read.authority, read.identity), ([1; 32], [2; 32]));
        let secret = token.secret.expose();
        assert!(!format!("{token:?}").contains(&*secret));
        assert_eq!(
            JoinSecret::read(&secret).unwrap().digest(),
            token.secret.digest()
        );
        for wrong in ["", "hedge-join-1.", &text[..text.len() - 2], &text[1..]] {
            assert!(wrong.parse::<JoinToken>().is_err(), "{wrong}");
        }
    }
}
