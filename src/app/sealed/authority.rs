//! The relay's own authority: it signs the relay's certificate and those of its edges, and nobody
//! else's.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::ed25519::{self, Seed};
use super::token::{Fingerprint, fingerprint, hex};

/// An edge's certificate; it is renewed long before.
pub const EDGE_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The relay's own.
pub const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
const AUTHORITY_LIFE: Duration = Duration::from_secs(3_650 * 24 * 60 * 60);
/// Certificates begin that long ago, for edges whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// What is signed with, and its certificate.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", hex(&self.fingerprint()[..8]))
    }
}

/// A key and what was signed for it, as files have them.
#[derive(Debug)]
pub struct Issued {
    pub key: Zeroizing<String>,
    /// With those above it.
    pub chain: String,
}

/// What an edge asked to be signed.
#[derive(Debug)]
pub struct EdgeRequest {
    request: CertificateSigningRequestParams,
    /// Its Ed25519 key.
    pub public: [u8; 32],
}

/// What may be told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// In hexadecimal digits.
    pub serial: String,
    /// The edge that it is of, by its name in the certificate.
    pub edge: Option<String>,
}

impl Facts {
    /// # Errors
    /// It is no certificate.
    pub fn read(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, read) = X509Certificate::from_der(certificate)
            .map_err(|_| anyhow!("the certificate cannot be read"))?;
        let time = |seconds: i64| {
            let seconds = u64::try_from(seconds).unwrap_or_default();
            UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let names = read.subject_alternative_name().ok().flatten();
        let mut names = names.iter().flat_map(|names| &names.value.general_names);
        let edge = names.find_map(|name| match name {
            GeneralName::URI(uri) => edge_of(uri),
            _ => None,
        });
        Ok(Self {
            not_before: time(read.validity().not_before.timestamp()),
            not_after: time(read.validity().not_after.timestamp()),
            serial: hex(read.raw_serial()),
            edge: edge.map(str::to_owned),
        })
    }

    /// When two thirds of its life are over.
    pub fn renewal(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before + life.unwrap_or_default() * 2 / 3
    }
}

/// The name in `spiffe://TRUST/edge/NAME`.
fn edge_of(uri: &str) -> Option<&str> {
    let (_trust, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    path.strip_prefix("edge/")
        .filter(|name| relay::is_name(name))
}

/// The hosts and addresses that a server's certificate is for.
///
/// # Errors
/// It cannot be read.
pub fn server_names(certificate: &CertificateDer<'_>) -> anyhow::Result<Vec<String>> {
    let (_, read) = X509Certificate::from_der(certificate)
        .map_err(|_| anyhow!("the certificate cannot be read"))?;
    let names = read.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    });
    Ok(names.collect())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The certificates of a PEM file, the first of them to begin with.
///
/// # Errors
/// It holds none, or one that is none.
pub fn chain_of(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|_| anyhow!("the certificates cannot be read"))?;
    if chain.is_empty() {
        bail!("it holds no certificate");
    }
    Ok(chain)
}

impl Authority {
    /// A new one for the relay called `relay_id`, and its files.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate(relay_id: &str, now: SystemTime) -> anyhow::Result<(Self, Issued)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&format!("{relay_id} authority"), AUTHORITY_LIFE, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let issued = Issued {
            key: Zeroizing::new(key.serialize_pem()),
            chain: certificate.pem(),
        };
        let authority = Self {
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        };
        Ok((authority, issued))
    }

    /// # Errors
    /// The files hold none.
    pub fn load(certificate: &str, key: &str) -> anyhow::Result<Self> {
        let certificate = chain_of(certificate)?.swap_remove(0);
        let key = KeyPair::from_pem(key).context("the authority's key cannot be read")?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .context("the authority's certificate cannot be read")?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.certificate)
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The relay's own, for `names`: hosts and addresses.
    ///
    /// # Errors
    /// A name is none.
    pub fn sign_server(
        &self,
        relay_id: &str,
        names: &[String],
        authority_pem: &str,
        now: SystemTime,
    ) -> anyhow::Result<Issued> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names = CertificateParams::new(names).context("a name of the server is none")?;
        let mut params = params(relay_id, SERVER_LIFE, now);
        params.subject_alt_names = names.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            key: Zeroizing::new(key.serialize_pem()),
            // With the authority, which an edge that joins knows by its fingerprint.
            chain: format!("{}{authority_pem}", signed.pem()),
        })
    }

    /// What an edge proves itself with in TLS. Of its request only the key counts.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn sign_edge(
        &self,
        relay_id: &str,
        edge_id: &str,
        request: &EdgeRequest,
        now: SystemTime,
    ) -> anyhow::Result<String> {
        let mut params = params(edge_id, EDGE_LIFE, now);
        let trust = relay_id.to_ascii_lowercase();
        let uri = format!("spiffe://{trust}/edge/{edge_id}").try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&request.request.public_key, &self.issuer)?;
        Ok(signed.pem())
    }
}

impl EdgeRequest {
    /// Checks that who asks has the key.
    ///
    /// # Errors
    /// It is no request, of another kind of key, or not signed with it.
    pub fn read(pem: &str) -> anyhow::Result<Self> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| anyhow!("the certificate request cannot be read"))?;
        let request = CertificateSigningRequestParams::from_der(&der)
            .context("the certificate request does not hold")?;
        let key = &request.public_key;
        let public: [u8; 32] = key.der_bytes().try_into().unwrap_or_default();
        let is_ed25519 = PublicKeyData::algorithm(key) == &PKCS_ED25519;
        if !is_ed25519 || relay::EdgeKey::ed25519(&public).is_err() {
            bail!("the certificate request is not of an Ed25519 key");
        }
        Ok(Self { request, public })
    }
}

/// The edge's side: asks for a certificate of its key.
///
/// # Errors
/// The key cannot sign.
pub fn request(edge_key: &Seed) -> anyhow::Result<String> {
    let der = ed25519::to_der(edge_key);
    let der = PrivatePkcs8KeyDer::from(der.as_slice());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(&key)?.pem()?)
}

fn params(name: &str, life: Duration, now: SystemTime) -> CertificateParams {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + since;
    // A positive number of 127 bits (RFC 5280, section 4.1.2.2).
    let serial = rand::random::<u128>() >> 1;
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATED;
    params.not_after = now + life;
    params.serial_number = Some(SerialNumber::from_slice(&serial.to_be_bytes()));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_900_000)
    }

    #[test]
    fn an_edge_is_signed_under_the_relays_name_for_it_and_no_other() {
        let (authority, files) = Authority::generate("Relay-HQ", now()).unwrap();
        let loaded = Authority::load(&files.chain, &files.key).unwrap();
        assert_eq!(loaded.fingerprint(), authority.fingerprint());
        let seed = ed25519::generate(&mut rand::rng());
        let asked = EdgeRequest::read(&request(&seed).unwrap()).unwrap();
        let signed = loaded.sign_edge("Relay-HQ", "branch-7", &asked, now());
        let chain = chain_of(&signed.unwrap()).unwrap();
        let facts = Facts::read(&chain[0]).unwrap();
        assert_eq!(facts.edge.as_deref(), Some("branch-7"));
        assert_eq!(facts.not_after, now() + EDGE_LIFE);
        let ahead = facts.renewal().duration_since(now()).unwrap();
        assert!((4 * DAY..5 * DAY).contains(&ahead), "{ahead:?}");
    }

    #[test]
    fn a_request_of_another_kind_of_key_or_one_that_was_changed_is_refused() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let other = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        assert!(EdgeRequest::read(&other.pem().unwrap()).is_err());
        let seed = ed25519::generate(&mut rand::rng());
        let asked = request(&seed).unwrap();
        let middle = asked.len() / 2;
        let was = asked.as_bytes()[middle];
        let changed = if was == b'A' { 'B' } else { 'A' };
        let mut text = asked.clone();
        text.replace_range(middle..=middle, &changed.to_string());
        assert!(EdgeRequest::read(&text).is_err());
        assert!(EdgeRequest::read("").is_err());
        assert!(EdgeRequest::read(&asked).is_ok());
    }

    #[test]
    fn names_in_certificates_are_read_strictly() {
        for (uri, name) in [
            ("spiffe://relay/edge/branch-7", Some("branch-7")),
            ("spiffe://relay/edge/", None),
            ("spiffe://relay/edge/a/b", None),
            ("spiffe://relay/relay/a", None),
            ("https://relay/edge/a", None),
        ] {
            assert_eq!(edge_of(uri), name, "{uri}");
        }
    }
}
