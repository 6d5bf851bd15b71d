//! The page that names a relay's keys, signed.
//!
//! An edge takes keys from nowhere else, so whoever opens the TLS in between can keep the page back
//! and nothing more. It is signed by an identity key that edges have pinned, as an HTTP message
//! (RFC 9421) whose body is bound by its digest (RFC 9530). Its serial never goes back.

mod document;
mod identity;
mod signature;
mod trust;

pub use document::{Evidence, MANIFEST_VERSION, Manifest, ManifestKey, ManifestLimits, PROTOCOL};
pub use identity::{IdentityKey, IdentityPin};
#[cfg(test)]
pub(crate) use signature::signature_base;
pub use signature::{SignedManifest, content_digest};
pub use trust::{KeyPolicy, ManifestRefused, Pins, SeenManifest, TrustedManifest};

/// A manifest, in bytes. A longer one is refused unread.
pub const MANIFEST_BYTES_MAX: usize = 256 << 10;

/// From a manifest's making to its end, at most.
pub const MANIFEST_LIFE_MAX: std::time::Duration = std::time::Duration::from_secs(2 * 60 * 60);

/// How far an edge's clock may be behind the relay's, for its manifest to be taken. Beyond what a
/// request's date may be off: that is how an edge learns that its clock is wrong.
pub const MANIFEST_SKEW_MAX: std::time::Duration = std::time::Duration::from_secs(15 * 60);
