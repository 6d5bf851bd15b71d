//! Whether an edge may believe a manifest, and which key it then seals to.

use sha2::{Digest, Sha256};

use super::document::{MANIFEST_VERSION, Manifest, PROTOCOL};
use super::identity::IdentityPin;
use super::signature::SignedManifest;
use super::{MANIFEST_LIFE_MAX, MANIFEST_SKEW_MAX};
use crate::key_config::KeyConfig;
use crate::suite::{Aead, Ciphers, Kem};
use crate::time::UnixTime;

/// Which relay an edge believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    pub relay_id: String,
    pub current: IdentityPin,
    /// What the relay is going to be, so that it can change without a gap.
    pub next: Option<IdentityPin>,
}

/// Why a manifest is not believed. The edge goes on with the one it has, while that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestRefused {
    #[error("manifest is longer than a manifest is")]
    TooLong,
    #[error("manifest has no signature, or none of the form and for the purpose it must have")]
    Unsigned,
    #[error("manifest is signed by a key that is not pinned")]
    Stranger,
    #[error("manifest is not what was signed")]
    Forged,
    #[error("manifest has expired")]
    Expired,
    #[error("manifest is of the future, or for longer than one may be")]
    Times,
    #[error("manifest is not of a form that is understood here")]
    Form,
    #[error("manifest speaks no version of the protocol that is spoken here")]
    Versions,
    #[error("manifest is of another relay")]
    Relay,
    #[error("manifest is older than one that was seen, or another of the same serial")]
    RolledBack,
    #[error("manifest names a key that is none")]
    Keys,
}

/// What an edge remembers of the last manifest that it believed, across restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenManifest {
    pub serial: u64,
    /// SHA-256 of its body.
    pub digest: [u8; 32],
}

/// A manifest that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedManifest {
    manifest: Manifest,
    signer: IdentityPin,
    keys: Vec<TrustedKey>,
    seen: SeenManifest,
    created: UnixTime,
    expires: UnixTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TrustedKey {
    config: KeyConfig,
    not_before: UnixTime,
    not_after: UnixTime,
}

/// What an edge may seal with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Nothing that a quantum computer to come could open.
    pub require_post_quantum: bool,
    pub ciphers: Ciphers,
}

impl TrustedManifest {
    /// Checks what a relay answered. `seen` is of the last one that was believed.
    ///
    /// # Errors
    /// Then nothing of it may be used.
    pub fn check(
        received: &SignedManifest,
        pins: &Pins,
        seen: Option<&SeenManifest>,
        now: UnixTime,
    ) -> Result<Self, ManifestRefused> {
        let claim = received.claim()?;
        let mut pinned = [Some(&pins.current), pins.next.as_ref()]
            .into_iter()
            .flatten();
        let pin = pinned.find(|pin| pin.key_id() == claim.key_id);
        let signer = pin.ok_or(ManifestRefused::Stranger)?;
        received.check(signer)?;
        if claim.expires <= now {
            return Err(ManifestRefused::Expired);
        }
        let is_timely = claim.created < claim.expires
            && claim.expires.since(claim.created) <= MANIFEST_LIFE_MAX
            && claim.created.since(now) <= MANIFEST_SKEW_MAX;
        if !is_timely {
            return Err(ManifestRefused::Times);
        }
        let manifest: Manifest =
            serde_json::from_slice(&received.body).map_err(|_| ManifestRefused::Form)?;
        let digest = Sha256::digest(&received.body).into();
        Self::judge(&manifest, pins, seen, digest)?;
        let mut keys = Vec::new();
        for key in &manifest.keys {
            let config = key.read().map_err(|()| ManifestRefused::Keys)?;
            keys.extend(config.map(|config| TrustedKey {
                config,
                not_before: key.not_before,
                not_after: key.not_after,
            }));
        }
        Ok(Self {
            seen: SeenManifest {
                serial: manifest.serial,
                digest,
            },
            manifest,
            signer: signer.clone(),
            keys,
            created: claim.created,
            expires: claim.expires,
        })
    }

    fn judge(
        manifest: &Manifest,
        pins: &Pins,
        seen: Option<&SeenManifest>,
        digest: [u8; 32],
    ) -> Result<(), ManifestRefused> {
        if manifest.version != MANIFEST_VERSION {
            return Err(ManifestRefused::Form);
        }
        if !manifest.versions.iter().any(|version| version == PROTOCOL) {
            return Err(ManifestRefused::Versions);
        }
        if manifest.relay_id != pins.relay_id {
            return Err(ManifestRefused::Relay);
        }
        if Kem::from_label(&manifest.suites_min).is_none() {
            return Err(ManifestRefused::Form);
        }
        match seen {
            Some(seen) if manifest.serial < seen.serial => Err(ManifestRefused::RolledBack),
            Some(seen) if manifest.serial == seen.serial && digest != seen.digest => {
                Err(ManifestRefused::RolledBack)
            }
            Some(_) | None => Ok(()),
        }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Which of the pinned keys signed it.
    pub fn signer(&self) -> &IdentityPin {
        &self.signer
    }

    /// To be remembered, and given to the next check.
    pub fn seen(&self) -> SeenManifest {
        self.seen
    }

    pub fn created(&self) -> UnixTime {
        self.created
    }

    /// After it, nothing is sealed by this manifest any more.
    pub fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The key to seal to now, and the cipher: of the best kind that both sides have, the youngest.
    /// `None` where there is none, or the manifest has expired: then nothing is sent.
    pub fn choose(&self, policy: KeyPolicy, now: UnixTime) -> Option<(&KeyConfig, Aead)> {
        // An edge whose clock is behind knows by the manifest that it is at least as late.
        let now = now.max(self.created);
        if self.expires <= now {
            return None;
        }
        let least = Kem::from_label(&self.manifest.suites_min)?;
        let must_hold = policy.require_post_quantum || least.is_post_quantum();
        let usable = self.keys.iter().filter(|key| {
            key.not_before <= now
                && now < key.not_after
                && (key.config.kem().is_post_quantum() || !must_hold)
        });
        let sealable = usable.filter_map(|key| Some((key, key.config.choose(policy.ciphers)?)));
        let best =
            sealable.min_by_key(|(key, _)| (key.config.kem(), std::cmp::Reverse(key.not_before)));
        best.map(|(key, aead)| (&key.config, aead))
    }
}
