//! Which edge a request is of.
//!
//! The proof is made over a secret that only the two ends of this one request have, and over both
//! names: it is worth nothing with other bytes, and at no other relay. It rides inside the
//! ciphertext, so nobody on the way learns a name.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519 as ED25519_VERIFIES, Ed25519KeyPair, ParsedPublicKey};
use ed25519_dalek::VerifyingKey;
use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::sealed::{PROOF_LABEL, ProofSecret};
use crate::session::{Session, SessionId};
use crate::structured::{self, Parameters};

/// The field that carries it.
pub const EDGE_FIELD: &str = "relay-edge";

/// A shared key, in bytes, at least.
pub const SHARED_KEY_BYTES_MIN: usize = 32;

/// The names of edges, keys and relays, in bytes. Letters, digits, `.`, `_` and `-`.
pub const NAME_BYTES_MAX: usize = 64;

/// Whether it can name an edge, a key of one, or a relay.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// No proof, or none that counts. It does not say why, and the caller learns no more than a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request proves no edge")]
pub struct Unproven;

/// What proofs are made with, at the edge.
pub enum EdgeSecret {
    /// None where the library had no memory for it.
    Ed25519(Option<Ed25519KeyPair>),
    /// Of at least [`SHARED_KEY_BYTES_MIN`].
    HmacSha256(Zeroizing<Vec<u8>>),
}

/// What proofs are checked with, at the relay.
#[derive(Clone)]
pub enum EdgeKey {
    Ed25519(Arc<Ed25519Key>),
    /// Of at least [`SHARED_KEY_BYTES_MIN`].
    HmacSha256(Zeroizing<Vec<u8>>),
}

/// An Ed25519 public key, ready to check with. Each request has a signature, which aws-lc makes twice as
/// fast as `ed25519-dalek` does, and checks a fifth faster.
pub struct Ed25519Key {
    bytes: [u8; 32],
    parsed: ParsedPublicKey,
}

impl Ed25519Key {
    /// RFC 8032, section 5.1.5.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl EdgeKey {
    /// Of the 32 bytes that an Ed25519 public key is.
    ///
    /// # Errors
    /// Where they are none, or one that anybody could sign for.
    pub fn ed25519(public: &[u8; 32]) -> Result<Self, Unproven> {
        let key = VerifyingKey::from_bytes(public).map_err(|_| Unproven)?;
        if key.is_weak() {
            return Err(Unproven);
        }
        let parsed = ParsedPublicKey::new(&ED25519_VERIFIES, public).map_err(|_| Unproven)?;
        let bytes = *public;
        Ok(Self::Ed25519(Arc::new(Ed25519Key { bytes, parsed })))
    }
}

const ED25519: &str = "ed25519";
const HMAC_SHA256: &str = "hmac-sha256";
const SESSION: &str = "session";

impl EdgeSecret {
    /// Of the 32 bytes that an Ed25519 key is made from (RFC 8032, section 5.1.5).
    pub fn ed25519(seed: &[u8; 32]) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(seed).ok())
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => ED25519,
            Self::HmacSha256(_) => HMAC_SHA256,
        }
    }

    /// The value of [`EDGE_FIELD`].
    ///
    /// # Errors
    /// Where a name is none, or a shared key too short.
    pub fn prove(
        &self,
        edge_id: &str,
        key_id: &str,
        relay_id: &str,
        secret: &ProofSecret,
    ) -> Result<String, Unproven> {
        if ![edge_id, key_id, relay_id].into_iter().all(is_name) {
            return Err(Unproven);
        }
        let said = said(edge_id, relay_id, secret);
        let proof = match self {
            Self::Ed25519(key) => {
                let signed = key.as_ref().and_then(|key| key.try_sign(&said).ok());
                signed.ok_or(Unproven)?.as_ref().to_vec()
            }
            Self::HmacSha256(key) => mac(key, &said)?.finalize().into_bytes().to_vec(),
        };
        let (alg, proof) = (self.alg(), structured::bytes(&proof));
        Ok(format!(
            "id=\"{edge_id}\";key=\"{key_id}\";alg=\"{alg}\";proof={proof}"
        ))
    }

    /// The same, by a session that was agreed under the key: without a signature.
    ///
    /// # Errors
    /// Where a name is none.
    pub fn prove_by(
        session: &Session,
        edge_id: &str,
        key_id: &str,
        relay_id: &str,
        secret: &ProofSecret,
    ) -> Result<String, Unproven> {
        if ![edge_id, key_id, relay_id].into_iter().all(is_name) {
            return Err(Unproven);
        }
        let proof = session.prove(edge_id, relay_id, secret).ok_or(Unproven)?;
        let id = structured::bytes(session.id().as_bytes());
        let proof = structured::bytes(&proof);
        Ok(format!(
            "id=\"{edge_id}\";key=\"{key_id}\";alg=\"{SESSION}\";session={id};proof={proof}"
        ))
    }
}

/// What the proof is made over: each name with its length before it, so that no two say the same.
fn said(edge_id: &str, relay_id: &str, secret: &ProofSecret) -> Zeroizing<Vec<u8>> {
    let mut said = Vec::with_capacity(PROOF_LABEL.len() + 1 + 4 + 2 * NAME_BYTES_MAX + 32);
    said.extend_from_slice(PROOF_LABEL);
    said.extend_from_slice(&names(edge_id, relay_id));
    said.extend_from_slice(&**secret);
    Zeroizing::new(said)
}

/// What follows a label: a zero, and both names, each after its length.
pub(crate) fn names(edge_id: &str, relay_id: &str) -> Vec<u8> {
    let mut names = Vec::with_capacity(1 + 4 + 2 * NAME_BYTES_MAX);
    names.push(0);
    for name in [edge_id, relay_id] {
        // A name is far below 64 KiB.
        names.extend_from_slice(&(name.len() as u16).to_be_bytes());
        names.extend_from_slice(name.as_bytes());
    }
    names
}

fn mac(key: &[u8], said: &[u8]) -> Result<Hmac<Sha256>, Unproven> {
    if key.len() < SHARED_KEY_BYTES_MIN {
        return Err(Unproven);
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Unproven)?;
    mac.update(said);
    Ok(mac)
}

/// What a request claims to be of, before it is checked.
#[derive(Clone, PartialEq, Eq)]
pub struct EdgeClaim {
    edge_id: String,
    key_id: String,
    alg: String,
    /// With [`SESSION`], and only then.
    session: Option<SessionId>,
    proof: Vec<u8>,
}

impl EdgeClaim {
    /// Of the value of [`EDGE_FIELD`].
    ///
    /// # Errors
    /// Where it is not exactly as [`EdgeSecret::prove`] writes it.
    pub fn read(value: &[u8]) -> Result<Self, Unproven> {
        let value = str::from_utf8(value).map_err(|_| Unproven)?;
        let read = Parameters::read(&format!(";{value}")).ok_or(Unproven)?;
        let text = |name| read.text(name).map(str::to_owned).ok_or(Unproven);
        let claim = Self {
            edge_id: text("id")?,
            key_id: text("key")?,
            alg: text("alg")?,
            session: match read.bytes("session") {
                None => None,
                Some(id) => Some(SessionId::read(id).ok_or(Unproven)?),
            },
            proof: read.bytes("proof").ok_or(Unproven)?.to_vec(),
        };
        let is_of_session = claim.alg == SESSION;
        if is_of_session == claim.session.is_some()
            && is_name(&claim.edge_id)
            && is_name(&claim.key_id)
        {
            Ok(claim)
        } else {
            Err(Unproven)
        }
    }

    /// Whose key to look up. It is a claim until [`verify`](Self::verify) says so.
    pub fn edge_id(&self) -> &str {
        &self.edge_id
    }

    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The session that it is to be checked with, and not with a key.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Whether it is a signature: only then may the request agree on a session.
    pub fn is_signed(&self) -> bool {
        self.alg == ED25519
    }

    /// With the session that [`session`](Self::session) names, for a request that `secret` is of.
    ///
    /// # Errors
    /// Where it is no proof.
    pub fn verify_by(
        &self,
        session: &Session,
        relay_id: &str,
        secret: &ProofSecret,
    ) -> Result<(), Unproven> {
        if self.session != Some(session.id()) {
            return Err(Unproven);
        }
        session.verify(&self.edge_id, relay_id, secret, &self.proof)
    }

    /// With the key that this edge has under this name, for a request that `secret` is of.
    ///
    /// # Errors
    /// Where it is no proof.
    pub fn verify(
        &self,
        key: &EdgeKey,
        relay_id: &str,
        secret: &ProofSecret,
    ) -> Result<(), Unproven> {
        let said = said(&self.edge_id, relay_id, secret);
        match (key, self.alg.as_str()) {
            (EdgeKey::Ed25519(key), ED25519) => {
                let verified = key.parsed.verify_sig(&said, &self.proof);
                verified.map_err(|_| Unproven)
            }
            (EdgeKey::HmacSha256(key), HMAC_SHA256) => mac(key, &said)?
                .verify_slice(&self.proof)
                .map_err(|_| Unproven),
            (EdgeKey::Ed25519(_) | EdgeKey::HmacSha256(_), _) => Err(Unproven),
        }
    }
}

impl fmt::Debug for EdgeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeSecret({})", self.alg())
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Key")
    }
}

impl fmt::Debug for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519(_) => "EdgeKey(ed25519)",
            Self::HmacSha256(_) => "EdgeKey(hmac-sha256)",
        })
    }
}

impl fmt::Debug for EdgeClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeClaim({} under {})", self.edge_id, self.key_id)
    }
}
