//! TLS in front of a gateway, and the certificates of edges.

use std::net::IpAddr;
use std::sync::Arc;

use api::gateway::{EnrolRefused, Enrolment, PeerCertificate, gateway_tls};
use async_trait::async_trait;
use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ED25519,
    SanType,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::HELLO;
use crate::gateway::{Answer, Ask, EDGE, Relay, RelayRecipe, TRUST, outer};

/// An authority, and what it vouches for.
struct Authority(CertifiedIssuer<'static, KeyPair>);

type Own = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn issue(&self, name: SanType) -> Own {
        self.issue_for(&KeyPair::generate().unwrap(), name)
    }

    fn issue_for(&self, key: &KeyPair, name: SanType) -> Own {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(name);
        let certificate = params.signed_by(key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (certificate.der().clone(), key)
    }

    fn edge(&self, trust: &str, id: &str) -> Own {
        let uri = format!("spiffe://{trust}/edge/{id}");
        self.issue(SanType::URI(uri.try_into().unwrap()))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

struct Site {
    servers: Authority,
    edges: Authority,
    relay: Relay,
}

async fn site(requires: bool) -> Site {
    let (servers, edges) = (Authority::new("servers"), Authority::new("edges"));
    let (certificate, key) = servers.issue(SanType::DnsName("localhost".try_into().unwrap()));
    let tls = gateway_tls(vec![certificate], key, Some(edges.roots())).unwrap();
    assert_eq!(tls.max_early_data_size, 0);
    let relay = RelayRecipe {
        tls: Some(tls),
        change: if requires {
            |rules| rules.requires_certificate = true
        } else {
            |_| {}
        },
        ..RelayRecipe::default()
    };
    Site {
        servers,
        edges,
        relay: relay.start().await,
    }
}

impl Site {
    async fn connect(
        &self,
        own: Option<Own>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(self.servers.roots());
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap(),
        };
        let stream = TcpStream::connect(self.relay.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// The whole answer, after `connection: close`.
    async fn say(&self, own: Option<Own>, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(own, &[&TLS13]).await.unwrap();
        let bytes = String::from_utf8_lossy(bytes).into_owned();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }

    /// The status in the clear, and what was sealed where it is 200.
    async fn ask(&self, own: Option<Own>, ask: &Ask) -> (u16, Option<Answer>) {
        let sealed = self.relay.seal(ask);
        let bytes = outer(&sealed.bytes);
        let mut stream = self.connect(own, &[&TLS13]).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let ends = seen.windows(5).any(|it| it == b"0\r\n\r\n") || is_refused(&seen);
            if ends || stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let status = std::str::from_utf8(&seen[9..12]).unwrap().parse().unwrap();
        let answer = (status == 200).then(|| {
            let at = seen.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
            Answer::open(sealed.opener, &unchunked(&seen[at + 4..]))
        });
        (status, answer)
    }
}

/// A refusal is whole with its JSON.
fn is_refused(seen: &[u8]) -> bool {
    seen.starts_with(b"HTTP/1.1 4") && seen.ends_with(b"}")
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let at = body.windows(2).position(|it| it == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..at]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[at + 2..at + 2 + size]);
        body = &body[at + 4 + size..];
    }
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken_and_its_keys_are_post_quantum() {
    let site = site(false).await;
    assert!(site.connect(None, &[&TLS12]).await.is_err());
    let stream = site.connect(None, &[&TLS13]).await.unwrap();
    let (_, connection) = stream.get_ref();
    assert_eq!(
        connection.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let group = connection.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

/// What is sent before the handshake ends could be sent again by somebody else.
#[tokio::test]
async fn no_early_data_is_taken_of_who_comes_back() {
    let site = site(false).await;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.with_root_certificates(site.servers.roots());
    let mut config = builder.with_no_client_auth();
    config.enable_early_data = true;
    let config = Arc::new(config);
    let connector = TlsConnector::from(Arc::clone(&config));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(site.relay.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let head = b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        let (_, connection) = stream.get_ref();
        kinds.push(connection.handshake_kind());
        let name = ServerName::try_from("localhost").unwrap();
        let mut next = ClientConnection::new(Arc::clone(&config), name).unwrap();
        assert!(
            next.early_data().is_none(),
            "the relay's tickets allow none"
        );
    }
    let expected = [HandshakeKind::Full, HandshakeKind::Resumed].map(Some);
    assert_eq!(kinds, expected, "the second could have sent some");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stops_is_not_waited_for() {
    let site = site(false).await;
    let began = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(site.relay.address).await.unwrap();
    stream.write_all(&[22, 3, 1]).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(6));
}

#[tokio::test]
async fn only_who_shows_a_certificate_has_anything_opened() {
    let site = site(true).await;
    let hello = Ask::chat(HELLO);
    let (status, answer) = site.ask(Some(site.edges.edge(TRUST, EDGE)), &hello).await;
    assert_eq!((status, answer.unwrap().status), (200, 200));
    assert_eq!(site.ask(None, &hello).await.0, 403);
    let elsewhere = site.edges.edge("other.test", EDGE);
    assert_eq!(site.ask(Some(elsewhere), &hello).await.0, 403);
    let unknown = site.edges.edge(TRUST, "branch-9");
    assert_eq!(site.ask(Some(unknown), &hello).await.0, 403);
    // Another edge's certificate with this edge's proof.
    site.relay
        .edges
        .add("branch-8", crate::gateway::open_policy());
    let other = site.edges.edge(TRUST, "branch-8");
    let (status, answer) = site.ask(Some(other), &hello).await;
    assert_eq!((status, answer.unwrap().status), (200, 401));
    assert_eq!(site.relay.calls_count(), 1);
    let entries = site.relay.audit.wait_for(2).await;
    assert!(entries.iter().all(|entry| entry.certificate.is_some()));
}

/// A certificate holds for a week, and an edge that was revoked may be added again meanwhile: what its
/// name's former key has is another's.
#[tokio::test]
async fn a_certificate_is_of_its_edge_s_key_and_not_of_its_name_alone() {
    let site = site(true).await;
    let (former, present) = [(); 2].map(|()| ed25519()).into();
    let own = |key: &KeyPair| {
        let uri = format!("spiffe://{TRUST}/edge/{EDGE}");
        site.edges
            .issue_for(key, SanType::URI(uri.try_into().unwrap()))
    };
    site.relay.edges.add_ed25519(EDGE, &present.1);
    let head = b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
    assert!(site.say(Some(own(&former.0)), head).await.is_empty());
    let figures = site.relay.gateway.figures();
    assert_eq!((figures.connections, figures.connections_refused), (0, 1));
    assert!(
        site.say(Some(own(&present.0)), head)
            .await
            .starts_with(b"HTTP/1.1 200")
    );
    // While it is connected its key becomes another.
    let stream = site.connect(Some(own(&present.0)), &[&TLS13]).await;
    let mut stream = stream.unwrap();
    let list = b"GET /.well-known/ohttp-gateway HTTP/1.1\r\nhost: relay\r\n\r\n";
    stream.write_all(list).await.unwrap();
    assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    site.relay.edges.add_ed25519(EDGE, &former.1);
    let sealed = site.relay.seal(&Ask::chat(HELLO)).bytes;
    stream.write_all(&outer(&sealed)).await.unwrap();
    let mut seen = [0; 4096];
    let count = stream.read(&mut seen).await.unwrap();
    assert!(seen[..count].starts_with(b"HTTP/1.1 403"));
    assert_eq!(site.relay.calls_count(), 0);
}

/// And its public half.
fn ed25519() -> (KeyPair, [u8; 32]) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let public = key.public_key_raw().try_into().unwrap();
    (key, public)
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_handshake() {
    let site = site(true).await;
    let stranger = Authority::new("strangers").edge(TRUST, EDGE);
    let head = b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
    // With TLS 1.3 a client learns of it at its first read.
    assert!(site.say(Some(stranger), head).await.is_empty());
    let known = site.edges.edge(TRUST, EDGE);
    assert!(
        site.say(Some(known), head)
            .await
            .starts_with(b"HTTP/1.1 200")
    );
}

#[tokio::test]
async fn one_edge_has_so_many_connections() {
    let site = site(true).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let own = site.edges.edge(TRUST, EDGE);
        let mut stream = site.connect(Some(own), &[&TLS13]).await.unwrap();
        let head = b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n";
        stream.write_all(head).await.unwrap();
        assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
        held.push(stream);
    }
    let head = b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
    let own = site.edges.edge(TRUST, EDGE);
    assert!(site.say(Some(own), head).await.is_empty());
    assert!(site.say(None, head).await.starts_with(b"HTTP/1.1 200"));
}

/// Enrolment that says what it was asked.
#[derive(Debug)]
pub struct Echo;

#[async_trait]
impl Enrolment for Echo {
    async fn join(&self, asked: Bytes, _from: IpAddr) -> Result<Bytes, EnrolRefused> {
        if asked == "bad" {
            return Err(EnrolRefused::Token);
        }
        Ok(asked)
    }

    async fn renew(&self, _asked: Bytes, shown: &PeerCertificate) -> Result<Bytes, EnrolRefused> {
        Ok(Bytes::from(format!(
            "{} {}",
            shown.edge_id,
            shown.serial.len()
        )))
    }
}

#[tokio::test]
async fn who_joins_needs_no_certificate_and_who_renews_does() {
    let (servers, edges) = (Authority::new("servers"), Authority::new("edges"));
    let (certificate, key) = servers.issue(SanType::DnsName("localhost".try_into().unwrap()));
    let tls = gateway_tls(vec![certificate], key, Some(edges.roots())).unwrap();
    let relay = RelayRecipe {
        tls: Some(tls),
        enrolment: Some(Arc::new(Echo)),
        ..RelayRecipe::default()
    };
    let relay = relay.start().await;
    let site = Site {
        servers,
        edges,
        relay,
    };
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    };
    let check = async |own, path: &str, body: &str, status: &str, said: &str| {
        let answer = site.say(own, post(path, body).as_bytes()).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(said), "{answer}");
    };
    check(None, "/relay/v1/join", "token", "200", "token").await;
    check(None, "/relay/v1/join", "bad", "401", "problem+json").await;
    check(None, "/relay/v1/renew", "csr", "403", "certificate").await;
    let own = site.edges.edge(TRUST, EDGE);
    check(Some(own), "/relay/v1/renew", "csr", "200", "branch-7 ").await;
    let long = "x".repeat(65 << 10);
    check(None, "/relay/v1/join", &long, "413", "too large").await;
}
