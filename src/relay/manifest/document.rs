//! What a manifest says.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::key_config::KeyConfig;
use crate::limits::{CHUNK_BYTES_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use crate::ring::KeyRing;
use crate::suite::Kem;
use crate::time::UnixTime;

/// Of the form below.
pub const MANIFEST_VERSION: u32 = 1;

/// What is spoken inside the ciphertext.
pub const PROTOCOL: &str = "relay/1";

/// What a relay says of itself and its keys. Fields that a reader does not know are passed over;
/// those it knows it holds to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// Of two manifests the younger one has the higher.
    pub serial: u64,
    pub relay_id: String,
    /// What it speaks, best first.
    pub versions: Vec<String>,
    pub keys: Vec<ManifestKey>,
    /// SHA-256 of the list at `/.well-known/ohttp-gateway`, in base64, so that an operator can see
    /// whether somebody swapped it for readers that check no signature.
    pub ohttp_keys_sha256: String,
    pub limits: ManifestLimits,
    /// Shapes that may be asked for, as [`Shape`](crate::shape::Shape) writes them.
    pub shapes: Vec<String>,
    /// The least that requests may be sealed with: `x25519`, or `x-wing` where what is not safe from
    /// a quantum computer is refused.
    pub suites_min: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Evidence>,
}

/// A key of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestKey {
    pub id: u8,
    pub kem: String,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// A key configuration of RFC 9458, in base64.
    pub config: String,
}

impl ManifestKey {
    /// `None` where it is of algorithms nobody here knows.
    ///
    /// # Errors
    /// Where it is none, or not the key that the manifest says it is.
    pub(super) fn read(&self) -> Result<Option<KeyConfig>, ()> {
        let bytes = STANDARD.decode(&self.config).map_err(|_| ())?;
        let config = KeyConfig::read(&bytes).map_err(|_| ())?;
        // The same key and kind in both places; of kinds that nobody here knows, neither is one.
        let [id, kem @ ..] = *bytes.first_chunk::<3>().ok_or(())?;
        let kem = Kem::from_id(u16::from_be_bytes(kem));
        let is_named = id == self.id && kem == Kem::from_label(&self.kem);
        is_named.then_some(config).ok_or(())
    }
}

/// What a relay takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestLimits {
    pub request_bytes_max: u64,
    pub response_bytes_max: u64,
    pub chunk_bytes_max: u64,
}

impl Default for ManifestLimits {
    fn default() -> Self {
        Self {
            request_bytes_max: REQUEST_BYTES_MAX,
            response_bytes_max: RESPONSE_BYTES_MAX,
            chunk_bytes_max: CHUNK_BYTES_MAX as u64,
        }
    }
}

/// What vouches for the machine a relay runs on, for a verifier of its kind.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub kind: String,
    /// In base64.
    pub evidence: String,
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence({}, {} bytes)", self.kind, self.evidence.len())
    }
}

impl Manifest {
    /// Of the keys that `ring` has now. Everything else is the relay's to set.
    pub fn of(ring: &KeyRing, relay_id: &str, serial: u64, shapes: Vec<String>) -> Self {
        let mut suites_min = Kem::X25519;
        let keys: Vec<ManifestKey> = ring
            .published()
            .iter()
            .map(|key| {
                let mut config = Vec::new();
                key.config.write(&mut config);
                ManifestKey {
                    id: key.config.id(),
                    kem: key.config.kem().as_label().to_owned(),
                    not_before: key.not_before,
                    not_after: key.not_after,
                    config: STANDARD.encode(config),
                }
            })
            .collect();
        if keys.iter().all(|key| key.kem == Kem::XWing.as_label()) {
            suites_min = Kem::XWing;
        }
        Self {
            version: MANIFEST_VERSION,
            serial,
            relay_id: relay_id.to_owned(),
            versions: vec![PROTOCOL.to_owned()],
            keys,
            ohttp_keys_sha256: STANDARD.encode(Sha256::digest(ring.list())),
            limits: ManifestLimits::default(),
            shapes,
            suites_min: suites_min.as_label().to_owned(),
            attestation: None,
        }
    }

    /// A serial after `last`, and after every one of a relay that ran before with a right clock.
    pub fn next_serial(last: u64, now: UnixTime) -> u64 {
        last.saturating_add(1).max(now.0.saturating_mul(1_000))
    }
}
