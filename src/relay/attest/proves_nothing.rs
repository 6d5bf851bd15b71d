//! Evidence for tests: a key of anybody's signs the report data.
//!
//! It proves that whoever made it had that key, and nothing about any machine. No configuration makes
//! or takes it; the names say so wherever it is used.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::{Attestor, NoEvidence, ReportData, Unattested, Verifier};
use crate::manifest::Evidence;

/// Of evidence that proves nothing.
pub const TEST_KIND: &str = "test";

/// Signs whatever it is given.
pub struct ProvesNothingAttestor(SigningKey);

/// Takes what one key signed.
pub struct ProvesNothingVerifier(VerifyingKey);

impl ProvesNothingAttestor {
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    pub fn verifier(&self) -> ProvesNothingVerifier {
        ProvesNothingVerifier(self.0.verifying_key())
    }
}

impl Attestor for ProvesNothingAttestor {
    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, NoEvidence> {
        Ok(Evidence {
            kind: TEST_KIND.to_owned(),
            evidence: STANDARD.encode(self.0.sign(report_data).to_bytes()),
        })
    }
}

impl Verifier for ProvesNothingVerifier {
    fn verify(&self, evidence: &Evidence, report_data: &ReportData) -> Result<(), Unattested> {
        if evidence.kind != TEST_KIND {
            return Err(Unattested::Kind);
        }
        let bytes = STANDARD.decode(&evidence.evidence);
        let bytes = bytes.map_err(|_| Unattested::Malformed)?;
        let signature = Signature::from_slice(&bytes).map_err(|_| Unattested::Malformed)?;
        // A signature says not whether the data or the key is another.
        let checked = self.0.verify_strict(report_data, &signature);
        checked.map_err(|_| Unattested::OtherKeys)
    }
}

impl std::fmt::Debug for ProvesNothingAttestor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProvesNothingAttestor")
    }
}

impl std::fmt::Debug for ProvesNothingVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProvesNothingVerifier")
    }
}
