//! TLS as a gateway speaks it: 1.3 alone, without early data, which could be replayed.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// Why a gateway's TLS cannot be.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    #[error("certificate or key cannot be used")]
    Own(#[from] rustls::Error),
    #[error("authority of the edges' certificates cannot be used")]
    Clients(#[from] VerifierBuilderError),
}

/// With a certificate, those that vouch for it, and its key. Edges are asked for certificates of
/// `clients`, and let in without: who joins has none yet.
///
/// # Errors
/// Where key and certificate are none, or not of one another.
pub fn gateway_tls(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<RootCertStore>,
) -> Result<Arc<ServerConfig>, TlsFault> {
    // Offers X25519MLKEM768 first.
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let mut config = builder.with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
