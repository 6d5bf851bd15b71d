//! TLS between edges and relays: version 1.3, X25519MLKEM768 first, and no data before the handshake
//! is over.

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::token::{Fingerprint, fingerprint};

/// Best first.
fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..default_provider()
    })
}

/// The relay's side. Certificates of edges are asked for and checked against `authorities`; whether a
/// connection may do without is decided by path, since one that joins has none yet.
///
/// Sessions are not resumed: each connection shows its certificate, so one that has expired counts no
/// longer than the connection it came on.
///
/// # Errors
/// The key is not the certificate's, or there is no authority.
pub fn server(
    chain: Vec<CertificateDer<'static>>,
    key_pem: &str,
    authorities: RootCertStore,
) -> anyhow::Result<ServerConfig> {
    let key = private_key(key_pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider())
        .allow_unauthenticated()
        .build()
        .context("the authority of the edges cannot be used")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the server's key is not that of its certificate")?;
    config.alpn_protocols = protocols();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The certificate an edge shows, which a renewal replaces: connections made after it show the new
/// one.
#[derive(Debug)]
pub struct Badge(ArcSwap<CertifiedKey>);

impl Badge {
    /// # Errors
    /// The key is not the certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key_pem: &str) -> anyhow::Result<Self> {
        Ok(Self(ArcSwap::from(certified(chain, key_pem)?)))
    }

    /// # Errors
    /// As above; then the one before stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key_pem: &str,
    ) -> anyhow::Result<()> {
        self.0.store(certified(chain, key_pem)?);
        Ok(())
    }
}

impl ResolvesClientCert for Badge {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let own = self.0.load_full();
        own.key.choose_scheme(schemes).map(|_| own)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key_pem: &str,
) -> anyhow::Result<Arc<CertifiedKey>> {
    let certified = CertifiedKey::from_der(chain, private_key(key_pem)?, &provider())
        .context("the key is not that of the certificate")?;
    Ok(Arc::new(certified))
}

fn private_key(pem: &str) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| anyhow::anyhow!("the key cannot be read"))
}

/// The edge's side, which trusts `authorities` alone.
///
/// # Errors
/// The system's TLS cannot be set up.
pub fn client(authorities: RootCertStore, badge: Arc<Badge>) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(authorities)
        .with_client_cert_resolver(badge);
    Ok(finished(config))
}

/// For the one request that joins: trusts the authority with this fingerprint, which the relay sends
/// along, and nothing else.
///
/// # Errors
/// As above.
pub fn joining(authority: Fingerprint) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = ByFingerprint {
        authority,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = protocols();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config
}

/// The certificates of `authorities`, as roots.
///
/// # Errors
/// One is none.
pub fn roots(authorities: &[CertificateDer<'static>]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add(authority.clone());
        added.context("the authority's certificate cannot be used")?;
    }
    Ok(roots)
}

/// Finds the authority among what the server sends, by its fingerprint, and then checks as ever: the
/// chain, the times and the name.
#[derive(Debug)]
struct ByFingerprint {
    authority: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_it = |sent: &&CertificateDer<'_>| fingerprint(sent) == self.authority;
        let stranger = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = intermediates.iter().find(is_it).ok_or(stranger)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests;
