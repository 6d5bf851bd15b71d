//! Whether a relay runs what it should, on a machine that says so.
//!
//! A relay's manifest may carry *evidence*: what a machine's hardware states of what it runs, over 64
//! bytes of the relay's choosing. Those are [`report_data`], a digest of the relay's identity and of
//! every key of the manifest; so evidence is of one manifest's keys and no others, and a copy of it in
//! another's is worth nothing. What evidence is made of, and how it is checked, is of each kind of
//! hardware: that is behind [`Attestor`] and [`Verifier`], and none is built in.
//!
//! What this does not do: say what software is meant to run. That is the verifier's to know.

mod proves_nothing;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::manifest::{Evidence, IdentityPin, Manifest, TrustedManifest};

pub use proves_nothing::{ProvesNothingAttestor, ProvesNothingVerifier, TEST_KIND};

/// Binds report data to this use and this version. No zero follows it.
const LABEL: &[u8] = b"relay/1 attest";

/// In base64. SEV-SNP's reports are 1,184 bytes, TDX' quotes some 5 KB, Nitro's documents some 5 KB, and
/// each may bring its certificates. Longer evidence is refused unread.
pub const EVIDENCE_BYTES_MAX: usize = 64 << 10;

/// What a relay has its hardware vouch for.
pub type ReportData = [u8; 64];

/// Makes evidence on the machine that it is of.
pub trait Attestor: fmt::Debug + Send + Sync {
    /// Evidence over `report_data`, at once where it can be had: it is asked for when keys turn.
    ///
    /// # Errors
    /// The machine states nothing. Then nothing is to be made up.
    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, NoEvidence>;
}

/// Checks evidence of one kind.
pub trait Verifier: fmt::Debug + Send + Sync {
    /// # Errors
    /// [`Unattested::Kind`] where the evidence is of another kind than is checked here; else why it does
    /// not vouch for `report_data` on a machine and for software that are as they should be.
    fn verify(&self, evidence: &Evidence, report_data: &ReportData) -> Result<(), Unattested>;
}

/// Why there is no evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEvidence {
    #[error("this machine states nothing of what it runs: {0}")]
    Machine(&'static str),
    #[error("the manifest has a key that is none")]
    Keys,
}

/// Why a relay is not vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unattested {
    #[error("the manifest has no evidence")]
    Absent,
    #[error("nobody here checks evidence of this kind")]
    Kind,
    #[error("the evidence is longer than {EVIDENCE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the evidence is not of its kind's form")]
    Malformed,
    #[error("the evidence is signed by nobody that is trusted")]
    Untrusted,
    #[error("the evidence is of other keys, or of another relay")]
    OtherKeys,
    #[error("the evidence is of other software, or of a machine set up otherwise")]
    OtherSoftware,
}

/// What an edge makes of a relay that is not vouched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attestation {
    /// Nothing: evidence is not looked at.
    #[default]
    Off,
    /// It is said, and the relay is used.
    Warn,
    /// The manifest is not taken.
    Require,
}

impl Attestation {
    pub const ALL: [Self; 3] = [Self::Off, Self::Warn, Self::Require];

    pub fn as_label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Require => "require",
        }
    }

    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_label() == label)
    }
}

/// What an edge does with a manifest that it believes otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Used. Nobody asked for evidence.
    Unasked,
    /// Used. Its evidence holds.
    Proven,
    /// Used, and said.
    Doubted(Unattested),
    /// Not used: the manifest is as good as none.
    Refused(Unattested),
}

impl Verdict {
    pub fn is_usable(self) -> bool {
        match self {
            Self::Unasked | Self::Proven | Self::Doubted(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// Judges `manifest`, which was believed already, each time that one is taken: its keys are others.
/// Whichever of `verifiers` knows the evidence's kind checks it.
pub fn judge(
    policy: Attestation,
    manifest: &TrustedManifest,
    verifiers: &[&dyn Verifier],
) -> Verdict {
    let doubt = match policy {
        Attestation::Off => return Verdict::Unasked,
        Attestation::Warn => Verdict::Doubted,
        Attestation::Require => Verdict::Refused,
    };
    match check(manifest, verifiers) {
        Ok(()) => Verdict::Proven,
        Err(why) => doubt(why),
    }
}

fn check(manifest: &TrustedManifest, verifiers: &[&dyn Verifier]) -> Result<(), Unattested> {
    let body = manifest.manifest();
    let evidence = body.attestation.as_ref().ok_or(Unattested::Absent)?;
    if evidence.evidence.len() > EVIDENCE_BYTES_MAX {
        return Err(Unattested::TooLong);
    }
    let data = report_data(manifest.signer(), body).map_err(|NoKeys| Unattested::OtherKeys)?;
    for verifier in verifiers {
        match verifier.verify(evidence, &data) {
            Err(Unattested::Kind) => {}
            checked => return checked,
        }
    }
    Err(Unattested::Kind)
}

/// A key of a manifest is no base64, or longer than a key configuration can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the manifest has a key that is none")]
pub struct NoKeys;

/// `SHA-512("relay/1 attest" ‖ identity ‖ SHA-256(keys))`: `identity` is the 32 bytes of the public key
/// that signs the manifest, `keys` all of the manifest's key configurations, in its order, each with its
/// length before it in two bytes, big end first, as in a list of RFC 9458, section 3.2. Those of
/// algorithms that a reader does not know are among them.
///
/// # Errors
/// Where a configuration cannot be read as bytes, or written with its length.
pub fn report_data(identity: &IdentityPin, manifest: &Manifest) -> Result<ReportData, NoKeys> {
    let mut keys = Sha256::new();
    for key in &manifest.keys {
        let config = STANDARD.decode(&key.config).map_err(|_| NoKeys)?;
        let length = u16::try_from(config.len()).map_err(|_| NoKeys)?;
        keys.update(length.to_be_bytes());
        keys.update(&config);
    }
    let digest = Sha512::new()
        .chain_update(LABEL)
        .chain_update(identity.as_bytes())
        .chain_update(keys.finalize());
    Ok(digest.finalize().into())
}

impl Manifest {
    /// The same with evidence for its keys, to be signed by `identity`. To be called for every manifest
    /// anew: evidence of other keys is none.
    ///
    /// # Errors
    /// Where there is none. Whether the manifest is published all the same is the relay's to decide; an
    /// edge that requires evidence then refuses it.
    pub fn attested(
        mut self,
        identity: &IdentityPin,
        attestor: &dyn Attestor,
    ) -> Result<Self, NoEvidence> {
        let data = report_data(identity, &self).map_err(|NoKeys| NoEvidence::Keys)?;
        self.attestation = Some(attestor.evidence(&data)?);
        Ok(self)
    }
}
