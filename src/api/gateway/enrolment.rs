//! How a machine becomes an edge: what it sends is passed on, as bytes, to who decides.

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use bytes::Bytes;
use relay::is_name;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Decides who becomes an edge, and stays one.
///
/// Contract: neither waits for the network. Dropping a future leaves the machine either enrolled or
/// not, and a token that was used stays used.
#[async_trait]
pub trait Enrolment: fmt::Debug + Send + Sync + 'static {
    /// With a token that was handed over by other means. What comes back is JSON.
    async fn join(&self, asked: Bytes, from: IpAddr) -> Result<Bytes, EnrolRefused>;

    /// By the edge that `shown` is of, whose TLS handshake proved that it has the key.
    async fn renew(&self, asked: Bytes, shown: &PeerCertificate) -> Result<Bytes, EnrolRefused>;
}

/// Why a machine does not become an edge, or does not stay one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefused {
    #[error("request to join is none")]
    Malformed,
    /// Unknown, used or too old: it is not said which.
    #[error("token is none that counts")]
    Token,
    #[error("edge is not known any more")]
    Unknown,
    #[error("certificate cannot be made now")]
    Failed,
}

impl EnrolRefused {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Token => 401,
            Self::Unknown => 403,
            Self::Failed => 503,
        }
    }
}

/// What the other end of a TLS connection showed, which the handshake verified.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// By its one name `spiffe://<trust domain>/edge/<id>`.
    pub edge_id: String,
    /// In hexadecimal digits.
    pub serial: String,
    /// `None` for one of a key of another kind.
    pub ed25519: Option<[u8; 32]>,
    pub der: Bytes,
}

impl PeerCertificate {
    /// `None` for one that is not of an edge of this trust domain.
    pub(super) fn read(der: &[u8], trust_domain: &str) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut edges = names.value.general_names.iter().filter_map(|name| {
            let GeneralName::URI(uri) = name else {
                return None;
            };
            let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
            path.strip_prefix("/edge/").filter(|id| is_name(id))
        });
        // Of two names nobody says which counts.
        let edge_id = edges.next().filter(|_| edges.next().is_none())?.to_owned();
        let serial = certificate.raw_serial();
        let key = certificate.public_key();
        let is_ed25519 = key.algorithm.algorithm == OID_SIG_ED25519;
        let ed25519 = is_ed25519.then(|| key.subject_public_key.data.as_ref().try_into().ok());
        Some(Self {
            edge_id,
            ed25519: ed25519.flatten(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            der: Bytes::copy_from_slice(der),
        })
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerCertificate({}, {})", self.edge_id, self.serial)
    }
}
