//! A relay in this process, and an edge that is the codec alone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::gateway::{Enrolment, Gateway, GatewayBooks, GatewayLimits, GatewayRules};
use domain::{AuditLog, Outbound, SealedEntry};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use relay::bhttp::{Fields, MessageReader, Part, RequestLine, write_request};
use relay::manifest::{IdentityKey, IdentityPin, KeyPolicy, Pins, TrustedManifest};
use relay::{
    Aead, EDGE_FIELD, Edge, EdgeDirectory, EdgeKey, EdgePolicy, EdgeSecret, KeyConfig,
    RequestSealer, ResponseOpener, Session, UnixTime,
};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::client::{Client, Raw};
use crate::node::Recipe;

pub const EDGE: &str = "branch-7";
pub const RELAY: &str = "relay-1";
pub const TRUST: &str = "example.test";
pub const CHAT: &str = "/v1/chat/completions";
/// When the tests begin, in Unix seconds.
const BEGINNING: u64 = 1_795_000_000;

/// What was audited.
#[derive(Default)]
pub struct Kept(Mutex<Vec<SealedEntry>>);

impl AuditLog for Kept {
    fn append(&self, entry: SealedEntry) {
        self.0.lock().unwrap().push(entry);
    }
}

impl Kept {
    pub fn entries(&self) -> Vec<SealedEntry> {
        self.0.lock().unwrap().clone()
    }

    /// As many as these, once they are there: what is written goes through tasks.
    pub async fn wait_for(&self, count: usize) -> Vec<SealedEntry> {
        for _ in 0..10_000 {
            let entries = self.entries();
            if entries.len() >= count {
                return entries;
            }
            tokio::task::yield_now().await;
        }
        panic!("only {:?}", self.entries());
    }
}

/// Edges that can be let in and put out.
#[derive(Debug, Default)]
pub struct Edges(Mutex<HashMap<String, Arc<Edge>>>);

impl EdgeDirectory for Edges {
    fn find(&self, edge_id: &str) -> Option<Arc<Edge>> {
        self.0.lock().unwrap().get(edge_id).cloned()
    }
}

fn shared_key(edge: &str) -> Zeroizing<Vec<u8>> {
    let mut key = format!("the key of {edge}, which is long enough").into_bytes();
    key.resize(64, b'.');
    Zeroizing::new(key)
}

impl Edges {
    pub fn add(&self, id: &str, policy: EdgePolicy) {
        let edge = Edge {
            id: id.to_owned(),
            keys: vec![("k1".to_owned(), EdgeKey::HmacSha256(shared_key(id)))],
            policy,
            is_revoked: AtomicBool::new(false),
            sessions: relay::Sessions::default(),
        };
        self.0.lock().unwrap().insert(id.to_owned(), Arc::new(edge));
    }

    /// One that has a key of its own, and not one that it shares.
    pub fn add_ed25519(&self, id: &str, public: &[u8; 32]) {
        let edge = Edge {
            id: id.to_owned(),
            keys: vec![("k1".to_owned(), EdgeKey::ed25519(public).unwrap())],
            policy: open_policy(),
            is_revoked: AtomicBool::new(false),
            sessions: relay::Sessions::default(),
        };
        self.0.lock().unwrap().insert(id.to_owned(), Arc::new(edge));
    }

    pub fn revoke(&self, id: &str) {
        if let Some(edge) = self.0.lock().unwrap().remove(id) {
            edge.is_revoked.store(true, Ordering::Relaxed);
        }
    }
}

/// What may be asked for in most tests.
pub fn open_policy() -> EdgePolicy {
    EdgePolicy {
        paths: [CHAT, "/v1/models", "/v1/messages"]
            .map(str::to_owned)
            .to_vec(),
        models: vec!["*".to_owned()],
        ..EdgePolicy::default()
    }
}

/// How to build a relay.
pub struct RelayRecipe {
    pub node: Recipe,
    pub policy: EdgePolicy,
    pub tls: Option<Arc<ServerConfig>>,
    pub enrolment: Option<Arc<dyn Enrolment>>,
    /// Where it depends on the machine.
    pub connections_max: Option<usize>,
    pub change: fn(&mut GatewayRules),
}

impl Default for RelayRecipe {
    fn default() -> Self {
        Self {
            node: Recipe::default(),
            policy: open_policy(),
            tls: None,
            enrolment: None,
            connections_max: None,
            change: |_| {},
        }
    }
}

pub struct Relay {
    pub gateway: Arc<Gateway>,
    pub audit: Arc<Kept>,
    pub edges: Arc<Edges>,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub serving: JoinSet<()>,
    pub calls: Arc<Mutex<Vec<Outbound>>>,
    began: Instant,
    pub pin: IdentityPin,
    _recording: JoinSet<()>,
}

impl RelayRecipe {
    pub async fn start(self) -> Relay {
        let began = Instant::now();
        let audit: Arc<Kept> = Arc::default();
        let clock =
            move || -> SystemTime { UNIX_EPOCH + Duration::from_secs(BEGINNING) + began.elapsed() };
        let log = Arc::clone(&audit) as Arc<dyn AuditLog>;
        let books = GatewayBooks::with_clock(log, Arc::new(clock));
        let mut node = self.node;
        node.sinks.push(Arc::clone(&books) as _);
        let built = node.build();
        let edges = Arc::new(Edges::default());
        edges.add(EDGE, self.policy);
        let identity = IdentityKey::from_bytes(&[7; 32]);
        let pin = identity.pin();
        let mut rules = GatewayRules::new(RELAY, identity, TRUST);
        rules.requires_certificate = false;
        rules.limits = GatewayLimits {
            connections_per_address_max: 1_000,
            ..GatewayLimits::default()
        };
        (self.change)(&mut rules);
        if let Some(max) = self.connections_max {
            rules.limits.connections_max = max;
        }
        let directory = Arc::clone(&edges) as Arc<dyn EdgeDirectory>;
        let (gateway, driver) =
            Gateway::new(built.api, rules, directory, books, self.enrolment).unwrap();
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = self.tls.map(|tls| watch::channel(tls).1);
        serving.spawn(Arc::clone(&gateway).serve(listener, tls, stop.clone()));
        let mut recording = built.recording;
        recording.spawn(driver);
        Relay {
            gateway,
            audit,
            edges,
            address,
            stop,
            serving,
            calls: built.calls,
            began,
            pin,
            _recording: recording,
        }
    }
}

pub async fn relay() -> Relay {
    RelayRecipe::default().start().await
}

/// What an edge seals.
#[derive(Clone)]
pub struct Ask {
    pub method: &'static str,
    pub authority: &'static str,
    pub path: String,
    pub edge: &'static str,
    pub relay: &'static str,
    /// `None` is now.
    pub date: Option<UnixTime>,
    pub key: Option<String>,
    pub shape: Option<&'static str>,
    pub fields: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub proof: Proof,
}

/// What an edge proves itself by.
#[derive(Clone)]
pub enum Proof {
    Shared,
    /// With the key that is made of these bytes.
    Signed([u8; 32]),
    By(Session),
}

impl Ask {
    pub fn chat(body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST",
            authority: "relay.invalid",
            path: CHAT.to_owned(),
            edge: EDGE,
            relay: RELAY,
            date: None,
            key: None,
            shape: None,
            fields: vec![("content-type", "application/json".to_owned())],
            body: body.into(),
            proof: Proof::Shared,
        }
    }
}

/// A request, and what opens its answer.
pub struct Sealed {
    pub bytes: Vec<u8>,
    pub opener: ResponseOpener,
    pub secret: relay::ProofSecret,
    pub digest: relay::EncDigest,
}

impl Relay {
    pub fn now(&self) -> UnixTime {
        UnixTime(BEGINNING).after(self.began.elapsed())
    }

    pub fn key(&self) -> (KeyConfig, Aead) {
        let pins = Pins {
            relay_id: RELAY.to_owned(),
            current: self.pin.clone(),
            next: None,
        };
        let signed = self.gateway.signed_manifest();
        let trusted = TrustedManifest::check(&signed, &pins, None, self.now()).unwrap();
        let (config, aead) = trusted.choose(KeyPolicy::default(), self.now()).unwrap();
        (config.clone(), aead)
    }

    pub fn seal(&self, ask: &Ask) -> Sealed {
        let (config, aead) = self.key();
        let mut rng = StdRng::seed_from_u64(rand::rng().random());
        let mut bytes = Vec::new();
        let mut sealer = RequestSealer::start(&config, aead, &mut rng, &mut bytes).unwrap();
        let (secret, digest) = (sealer.proof_secret(), sealer.digest());
        let plain = self.plain(ask, &secret);
        // Two chunks, so that there is one before the last.
        let (first, last) = plain.split_at(plain.len() / 2);
        sealer.push(first, &mut bytes).unwrap();
        let opener = sealer.finish(last, &mut bytes).unwrap();
        Sealed {
            bytes,
            opener,
            secret,
            digest,
        }
    }

    pub fn plain(&self, ask: &Ask, secret: &relay::ProofSecret) -> Vec<u8> {
        let proof = match &ask.proof {
            Proof::Shared => EdgeSecret::HmacSha256(shared_key(ask.edge))
                .prove(ask.edge, "k1", ask.relay, secret),
            Proof::Signed(seed) => {
                EdgeSecret::ed25519(seed).prove(ask.edge, "k1", ask.relay, secret)
            }
            Proof::By(session) => EdgeSecret::prove_by(session, ask.edge, "k1", ask.relay, secret),
        };
        let proof = proof.unwrap();
        let date = ask.date.unwrap_or(self.now()).to_http_date();
        let mut fields = Fields::default();
        fields.push(EDGE_FIELD, proof).unwrap();
        fields.push("date", date).unwrap();
        if let Some(key) = &ask.key {
            fields.push("idempotency-key", key.as_bytes()).unwrap();
        }
        if let Some(shape) = ask.shape {
            fields.push("relay-shape", shape.as_bytes()).unwrap();
        }
        for (name, value) in &ask.fields {
            fields.push(name, value.as_bytes()).unwrap();
        }
        let line = RequestLine::new(ask.method, "https", ask.authority, &ask.path).unwrap();
        let mut plain = Vec::new();
        let content = write_request(&line, &fields, &mut plain);
        content.push(&ask.body, &mut plain);
        content.finish(&Fields::default(), &mut plain);
        plain
    }

    /// What comes of it in the clear.
    pub async fn post(&self, bytes: &[u8]) -> Raw {
        let mut client = Client::connect(self.address).await;
        client.send(outer(bytes)).await;
        client.answer().await
    }

    pub async fn ask(&self, ask: &Ask) -> Answer {
        self.ask_sealed(self.seal(ask)).await
    }

    pub async fn ask_sealed(&self, sealed: Sealed) -> Answer {
        let raw = self.post(&sealed.bytes).await;
        assert_eq!(raw.status, 200, "{}", String::from_utf8_lossy(&raw.body));
        assert!(raw.is_complete);
        let kind = raw.header("content-type");
        assert_eq!(kind, Some("message/ohttp-chunked-res"));
        assert_eq!(raw.header("cache-control"), Some("no-store"));
        Answer::open(sealed.opener, &raw.body)
    }

    pub fn calls_count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

/// A sealed request over HTTP/1.1.
pub fn outer(bytes: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /.well-known/ohttp-gateway HTTP/1.1\r\nhost: relay\r\ncontent-length: {}\r\n\
         content-type: message/ohttp-chunked-req\r\n\r\n",
        bytes.len()
    );
    [head.as_bytes(), bytes].concat()
}

/// What was sealed.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub fields: Fields,
    pub content: Vec<u8>,
    pub interims: usize,
    /// Lengths of its chunks.
    pub chunks: Vec<usize>,
    /// Whether its last chunk came.
    pub is_whole: bool,
}

impl Answer {
    pub fn open(mut opener: ResponseOpener, mut sealed: &[u8]) -> Self {
        let mut answer = Self::default();
        let mut reader = MessageReader::response();
        while let Some(chunk) = opener.next(&mut sealed).unwrap() {
            answer.chunks.push(chunk.len());
            answer.read(&mut reader, chunk);
        }
        if let Ok(last) = opener.finish() {
            answer.chunks.push(last.len());
            answer.read(&mut reader, &last);
            assert_eq!(reader.finish(), Ok(None));
            answer.is_whole = true;
        }
        answer
    }

    fn read(&mut self, reader: &mut MessageReader, mut input: &[u8]) {
        while let Some(part) = reader.next(&mut input).unwrap() {
            match part {
                Part::Informational(..) => self.interims += 1,
                Part::Response(status, fields) => {
                    self.status = status;
                    self.fields = fields;
                }
                Part::Content(content) => self.content.extend_from_slice(content),
                Part::Trailer(_) => {}
                Part::Request(..) => unreachable!("this is an answer"),
            }
        }
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let (_, value) = fields.find(|(known, _)| *known == name)?;
        std::str::from_utf8(value).ok()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.content).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.content).unwrap()
    }

    /// Status, code of the error, and whether it was processed.
    pub fn refusal(&self) -> (u16, String, &str) {
        let code = self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (self.status, code, self.field("relay-processed").unwrap())
    }
}
