//! Handshakes in memory: what is agreed on, and who is turned away.

use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::version::TLS12;
use rustls::{ClientConnection, NamedGroup, ProtocolVersion, ServerConnection};

use super::*;
use crate::sealed::authority::{Authority, EdgeRequest, Facts, Issued, chain_of, request};
use crate::sealed::ed25519;

struct Ends {
    authority: Authority,
    pem: String,
    server: Arc<ServerConfig>,
}

fn ends() -> Ends {
    let now = SystemTime::now();
    let (authority, files) = Authority::generate("relay-hq", now).unwrap();
    let names = ["localhost".to_owned()];
    let Issued { key, chain } = authority
        .sign_server("relay-hq", &names, &files.chain, now)
        .unwrap();
    let roots = roots(&chain_of(&files.chain).unwrap()).unwrap();
    let server = super::server(chain_of(&chain).unwrap(), &key, roots).unwrap();
    Ends {
        authority,
        pem: files.chain,
        server: Arc::new(server),
    }
}

impl Ends {
    /// An edge that this relay signed, or another one.
    fn edge(&self, signer: &Authority) -> ClientConfig {
        let seed = ed25519::generate(&mut rand::rng());
        let asked = EdgeRequest::read(&request(&seed).unwrap()).unwrap();
        let signed = signer.sign_edge("relay-hq", "edge-1", &asked, SystemTime::now());
        let chain = chain_of(&signed.unwrap()).unwrap();
        let badge = Badge::new(chain, &ed25519::to_pem(&seed)).unwrap();
        let authorities = roots(&chain_of(&self.pem).unwrap()).unwrap();
        client(authorities, Arc::new(badge)).unwrap()
    }
}

/// Both ends after their handshake, or what the first of them to refuse said.
pub fn shake(
    client: ClientConfig,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut read = bytes.as_slice();
        while !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut read = bytes.as_slice();
        while !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

#[test]
fn both_ends_agree_on_tls_1_3_with_a_key_that_holds_against_quantum_computers() {
    let ends = ends();
    let edge = ends.edge(&ends.authority);
    let (client, server) = shake(edge, &ends.server, "localhost").unwrap();
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = server.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    let shown = server.peer_certificates().unwrap();
    let facts = Facts::read(&shown[0]).unwrap();
    assert_eq!(facts.edge.as_deref(), Some("edge-1"));
}

#[test]
fn no_data_goes_before_the_handshake_is_over() {
    let ends = ends();
    assert_eq!(ends.server.max_early_data_size, 0);
    assert!(!ends.edge(&ends.authority).enable_early_data);
    assert_eq!(ends.server.send_tls13_tickets, 0);
}

#[test]
fn version_1_2_is_refused() {
    let ends = ends();
    let authorities = roots(&chain_of(&ends.pem).unwrap()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let refused = shake(old, &ends.server, "localhost");
    assert!(matches!(refused, Err(Error::PeerIncompatible(_))));
}

#[test]
fn an_edge_of_another_authority_is_turned_away() {
    let ends = ends();
    let (other, _) = Authority::generate("relay-hq", SystemTime::now()).unwrap();
    let refused = shake(ends.edge(&other), &ends.server, "localhost");
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))));
}

#[test]
fn a_relay_of_another_authority_or_name_is_turned_away_from() {
    let (own, other) = (ends(), ends());
    let edge = own.edge(&own.authority);
    let refused = shake(edge.clone(), &other.server, "localhost");
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))));
    let refused = shake(edge, &own.server, "elsewhere");
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))));
}

#[test]
fn who_joins_trusts_the_authority_of_the_token_alone() {
    let (own, other) = (ends(), ends());
    let asked = joining(own.authority.fingerprint()).unwrap();
    assert!(shake(asked.clone(), &own.server, "localhost").is_ok());
    for (server, name) in [(&other.server, "localhost"), (&own.server, "elsewhere")] {
        let refused = shake(asked.clone(), server, name);
        assert!(
            matches!(refused, Err(Error::InvalidCertificate(_))),
            "{name}"
        );
    }
    // The right authority sent along with a certificate that it did not sign.
    let names = ["localhost".to_owned()];
    let now = SystemTime::now();
    let forged = other
        .authority
        .sign_server("relay-hq", &names, &own.pem, now);
    let Issued { key, chain } = forged.unwrap();
    let roots = super::roots(&chain_of(&own.pem).unwrap()).unwrap();
    let server = super::server(chain_of(&chain).unwrap(), &key, roots).unwrap();
    assert!(shake(asked, &Arc::new(server), "localhost").is_err());
}

#[test]
fn a_renewed_certificate_is_shown_from_the_next_connection_on() {
    let ends = ends();
    let seed = ed25519::generate(&mut rand::rng());
    let asked = EdgeRequest::read(&request(&seed).unwrap()).unwrap();
    let signed = || {
        let signed = ends
            .authority
            .sign_edge("relay-hq", "edge-1", &asked, SystemTime::now());
        chain_of(&signed.unwrap()).unwrap()
    };
    let badge = Arc::new(Badge::new(signed(), &ed25519::to_pem(&seed)).unwrap());
    let authorities = roots(&chain_of(&ends.pem).unwrap()).unwrap();
    let edge = client(authorities, Arc::clone(&badge)).unwrap();
    let shown = || {
        let (_, server) = shake(edge.clone(), &ends.server, "localhost").unwrap();
        server.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let before = shown();
    let next = signed();
    badge
        .replace(next.clone(), &ed25519::to_pem(&seed))
        .unwrap();
    let after = shown();
    assert!(before != after && after == next[0]);
    let other = ed25519::generate(&mut rand::rng());
    assert!(badge.replace(next, &ed25519::to_pem(&other)).is_err());
}
