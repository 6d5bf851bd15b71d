//! The edge's end over real sockets, against a gateway in miniature whose faults are scripted.

mod cutting;
mod exchanges;
mod gateway;
mod hints;
mod manifests;
mod members;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use domain::{AuditLog, BackendError, Carrier, Delivered, Parcel, SealedEntry, SealedResult};
use futures::StreamExt;

use crate::EdgeSecret;
use crate::client::{Client, ClientRules, ManifestMemory, Member};
use crate::manifest::SeenManifest;
use gateway::{EDGE, Gateway, SEED};

#[derive(Debug, Default)]
struct Memory(Mutex<HashMap<String, SeenManifest>>);

impl ManifestMemory for Memory {
    fn seen(&self, relay_id: &str) -> Option<SeenManifest> {
        self.0.lock().unwrap().get(relay_id).copied()
    }

    fn keep(&self, relay_id: &str, seen: SeenManifest) -> io::Result<()> {
        self.0.lock().unwrap().insert(relay_id.to_owned(), seen);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<SealedEntry>>);

impl AuditLog for Log {
    fn append(&self, entry: SealedEntry) {
        self.0.lock().unwrap().push(entry);
    }
}

impl Log {
    fn entries(&self) -> Vec<SealedEntry> {
        self.0.lock().unwrap().clone()
    }

    fn results(&self) -> Vec<SealedResult> {
        self.entries().iter().map(|entry| entry.result).collect()
    }
}

fn http() -> reqwest::Client {
    // Failing means that another test was first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([])
        .build()
        .unwrap()
}

fn member(gateway: &Gateway, memory: &Arc<Memory>) -> Member {
    Member {
        url: gateway.url.clone(),
        http: http(),
        pins: gateway.pins(),
        edge_id: EDGE.to_owned(),
        key_id: "k1".to_owned(),
        secret: Arc::new(EdgeSecret::ed25519(&SEED)),
        memory: Arc::clone(memory) as Arc<dyn ManifestMemory>,
    }
}

/// An edge, with what it writes down.
struct Edge {
    client: Client,
    log: Arc<Log>,
    memory: Arc<Memory>,
}

fn edge_with(members: Vec<Member>, memory: Arc<Memory>, rules: ClientRules) -> Edge {
    let log = Arc::new(Log::default());
    let audit = Arc::clone(&log) as Arc<dyn AuditLog>;
    Edge {
        client: Client::new(members, rules, audit).unwrap(),
        log,
        memory,
    }
}

fn edge(gateways: &[&Gateway], rules: ClientRules) -> Edge {
    let memory = Arc::new(Memory::default());
    let members = gateways.iter().map(|it| member(it, &memory)).collect();
    edge_with(members, memory, rules)
}

const PROMPT: &str = r#"{"model":"secret-model","messages":[{"content":"the plan is to sell"}]}"#;

fn parcel(id: &str, is_streamed: bool) -> Parcel {
    let headers = [
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("openai-beta", "b=1"),
        ("x-request-id", id),
        ("authorization", "Bearer sk-very-secret"),
        ("cookie", "session=secret"),
        ("user-agent", "somebody/9"),
    ];
    Parcel {
        request_id: id.into(),
        path: "/v1/chat/completions?a=1".to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .into(),
        body: Bytes::from_static(PROMPT.as_bytes()),
        is_streamed,
        model: "secret-model".to_owned(),
    }
}

/// What was handed on before the end, and the error that it ended in.
async fn read(delivered: Delivered) -> (Vec<u8>, Option<BackendError>) {
    let mut body = delivered.body;
    let mut all = Vec::new();
    let mut error = None;
    while let Some(piece) = body.next().await {
        assert!(error.is_none(), "nothing comes after an error");
        match piece {
            Ok(piece) => {
                assert!(!piece.is_empty());
                all.extend_from_slice(&piece);
            }
            Err(failed) => error = Some(failed),
        }
    }
    (all, error)
}

async fn whole(edge: &Edge, id: &str) -> Result<(u16, String), BackendError> {
    let delivered = edge.client.carry(parcel(id, false)).await?;
    let status = delivered.status;
    let (body, error) = read(delivered).await;
    match error {
        Some(error) => Err(error),
        None => Ok((status, String::from_utf8(body).unwrap())),
    }
}

async fn streamed(edge: &Edge, id: &str) -> Result<String, BackendError> {
    let delivered = edge.client.carry(parcel(id, true)).await?;
    assert_eq!(delivered.status, 200);
    let (body, error) = read(delivered).await;
    match error {
        Some(error) => Err(error),
        None => Ok(String::from_utf8(body).unwrap()),
    }
}
