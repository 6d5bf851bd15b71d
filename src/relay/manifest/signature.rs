//! A manifest as an HTTP response that is signed: RFC 9421, over a digest by RFC 9530.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::document::Manifest;
use super::identity::{IdentityKey, IdentityPin};
use super::trust::ManifestRefused;
use super::{MANIFEST_BYTES_MAX, MANIFEST_LIFE_MAX};
use crate::structured::{self, Parameters};
use crate::time::UnixTime;

/// The signature's name in its two fields.
const LABEL: &str = "relay";

/// What it is for. One made for something else does not count.
const TAG: &str = "relay-manifest";

/// What is signed, as RFC 9421 lists it: that it is an answer, of which kind, and all its bytes.
const COVERED: &str = "(\"@status\" \"content-type\" \"content-digest\")";

/// The media type of a manifest.
pub(crate) const MANIFEST_MEDIA_TYPE: &str = "application/json";

/// A manifest's response: a body and three fields, beside the status 200 and the media type
/// `application/json`.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedManifest {
    pub body: Vec<u8>,
    pub content_digest: String,
    pub signature_input: String,
    pub signature: String,
}

/// The value of `content-digest`.
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

/// RFC 9421, section 2.5: each component in a line, the parameters last, and no line end after them.
pub(crate) fn signature_base(components: &[(&str, &str)], parameters: &str) -> String {
    let lines = components
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}\n"));
    let parameters = format!("\"@signature-params\": {parameters}");
    lines.chain([parameters]).collect()
}

fn base_of(content_digest: &str, parameters: &str) -> String {
    let components = [
        ("@status", "200"),
        ("content-type", MANIFEST_MEDIA_TYPE),
        ("content-digest", content_digest),
    ];
    signature_base(&components, parameters)
}

impl SignedManifest {
    /// From `now` on for `life`, at most [`MANIFEST_LIFE_MAX`].
    pub fn sign(manifest: &Manifest, key: &IdentityKey, now: UnixTime, life: Duration) -> Self {
        const PLAIN: &str = "a manifest is strings and numbers";
        let body = serde_json::to_vec(manifest).expect(PLAIN);
        Self::sign_bytes(body, key, now, life)
    }

    /// Whatever the bytes say.
    pub(crate) fn sign_bytes(
        body: Vec<u8>,
        key: &IdentityKey,
        now: UnixTime,
        life: Duration,
    ) -> Self {
        let content_digest = content_digest(&body);
        let (created, expires) = (now.0, now.after(life.min(MANIFEST_LIFE_MAX)).0);
        let key_id = key.pin().key_id();
        let parameters = format!(
            "{COVERED};created={created};expires={expires};keyid=\"{key_id}\";alg=\"ed25519\";\
             tag=\"{TAG}\""
        );
        let signature = key.sign(base_of(&content_digest, &parameters).as_bytes());
        Self {
            signature: format!("{LABEL}={}", structured::bytes(&signature)),
            signature_input: format!("{LABEL}={parameters}"),
            content_digest,
            body,
        }
    }

    /// The key that it names, and from when to when it holds. It is a claim until
    /// [`check`](Self::check).
    pub(super) fn claim(&self) -> Result<Claim, ManifestRefused> {
        if self.body.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestRefused::TooLong);
        }
        let parameters = self.parameters().ok_or(ManifestRefused::Unsigned)?;
        let read = parameters.strip_prefix(COVERED).and_then(Parameters::read);
        let read = read.ok_or(ManifestRefused::Unsigned)?;
        let is_ours = read.text("alg") == Some("ed25519") && read.text("tag") == Some(TAG);
        match (
            read.text("keyid"),
            read.integer("created"),
            read.integer("expires"),
        ) {
            (Some(key_id), Some(created), Some(expires)) if is_ours => Ok(Claim {
                key_id: key_id.to_owned(),
                created: UnixTime(created),
                expires: UnixTime(expires),
            }),
            _ => Err(ManifestRefused::Unsigned),
        }
    }

    /// Whether `pin` signed these very bytes.
    pub(super) fn check(&self, pin: &IdentityPin) -> Result<(), ManifestRefused> {
        let signature = structured::labelled_bytes(&self.signature, LABEL);
        let signature = signature.ok_or(ManifestRefused::Unsigned)?;
        let parameters = self.parameters().ok_or(ManifestRefused::Unsigned)?;
        let digest = content_digest(&self.body);
        if digest != self.content_digest {
            return Err(ManifestRefused::Forged);
        }
        if pin.is_signed(base_of(&digest, parameters).as_bytes(), &signature) {
            Ok(())
        } else {
            Err(ManifestRefused::Forged)
        }
    }

    fn parameters(&self) -> Option<&str> {
        self.signature_input.strip_prefix(LABEL)?.strip_prefix('=')
    }
}

pub(super) struct Claim {
    pub(super) key_id: String,
    pub(super) created: UnixTime,
    pub(super) expires: UnixTime,
}

impl fmt::Debug for SignedManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SignedManifest({} bytes, {})",
            self.body.len(),
            self.signature_input
        )
    }
}
