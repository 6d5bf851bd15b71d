//! Who may become an edge, and who stays one: what the relay answers to `POST /relay/v1/join` and
//! `POST /relay/v1/renew`.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use relay::manifest::IdentityPin;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::authority::EdgeRequest;
use super::edge_file::{PublicKey, policy};
use super::edges::{Edges, policy_path};
use super::files;
use super::folder::{NotInvited, RelayFolder};
use super::token::{JoinSecret, hex, unhex};

/// Where an edge joins.
pub const JOIN_PATH: &str = "/relay/v1/join";
/// Where it renews its certificate, over a connection that shows the present one.
pub const RENEW_PATH: &str = "/relay/v1/renew";

/// What an edge sends to join.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Of the token, as [`JoinSecret::expose`] writes it.
    pub secret: String,
    /// A certificate request, in PEM.
    pub request: String,
}

/// What an edge sends to renew.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    pub request: String,
}

/// What it is answered. Fields that an edge does not know are passed over.
#[derive(Debug, Deserialize, Serialize)]
pub struct Admission {
    pub relay_id: String,
    pub edge_id: String,
    /// What the relay calls the edge's key.
    pub key_id: String,
    /// The edge's, in PEM.
    pub certificate: String,
    /// All authorities of the relay, in PEM.
    pub authorities: String,
    /// Who signs manifests, and who is going to.
    pub identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_next: Option<String>,
    /// Models that the edge may ask for by name.
    #[serde(default)]
    pub models: Vec<String>,
    /// By `identity`, over all of the above but the models, in hexadecimal digits. TLS alone does not
    /// vouch for it: something on the way may end it.
    #[serde(default)]
    pub signature: String,
}

impl Admission {
    /// What is signed: each part after its length, in 4 bytes.
    fn said(&self) -> Vec<u8> {
        let next = self.identity_next.as_deref().unwrap_or_default();
        let parts = [
            &self.relay_id,
            &self.edge_id,
            &self.key_id,
            &self.certificate,
            &self.authorities,
            &self.identity,
            next,
        ];
        let mut said = Vec::new();
        for part in parts {
            // The whole answer has 64 KiB at most.
            said.extend_from_slice(&(part.len() as u32).to_be_bytes());
            said.extend_from_slice(part.as_bytes());
        }
        said
    }

    /// Whether the relay with this identity says so.
    pub fn is_signed_by(&self, identity: &IdentityPin) -> bool {
        let signature = unhex(&self.signature).unwrap_or_default();
        identity.has_vouched(&self.said(), &signature)
    }

    /// Whether relay, edge and key have names that may stand in paths.
    pub fn has_names(&self) -> bool {
        let names = [&self.relay_id, &self.edge_id, &self.key_id];
        names
            .into_iter()
            .all(|name| relay::is_name(name) && !name.starts_with('.'))
    }
}

/// Why nobody is let in.
#[derive(Debug, thiserror::Error)]
pub enum Turned {
    #[error("the request is not of the form it must have")]
    Malformed,
    #[error(
        "the token is not known, was used, or is older than 15 minutes; `hedge relay edges add` \
         prints another one"
    )]
    Uninvited,
    #[error("the edge is not known here, or joined with another key")]
    Stranger,
    #[error("the relay cannot do it now; its log says why")]
    Broken,
}

/// Signs edges.
#[derive(Debug)]
pub struct Registrar {
    relay_id: String,
    folder: RelayFolder,
    edges: Arc<Edges>,
}

impl Registrar {
    pub fn new(relay_id: &str, folder: RelayFolder, edges: Arc<Edges>) -> Self {
        Self {
            relay_id: relay_id.to_owned(),
            folder,
            edges,
        }
    }

    /// Lets in whoever has a token. Blocks while files are written.
    ///
    /// # Errors
    /// Nobody is let in; a request that is malformed leaves the token as it was.
    pub fn join(&self, body: &[u8], now: SystemTime) -> Result<Admission, Turned> {
        let asked: JoinRequest = serde_json::from_slice(body).map_err(|_| Turned::Malformed)?;
        let secret = JoinSecret::read(&asked.secret).ok_or(Turned::Malformed)?;
        let request = EdgeRequest::read(&asked.request).map_err(|_| Turned::Malformed)?;
        let edge_id = self.folder.invited(&secret.digest(), now).map_err(turned)?;
        let key = PublicKey::new(request.public);
        let admission = self
            .sign(&edge_id, &key, &request, now)
            .map_err(|error| broken(&error))?;
        self.folder
            .admit(&secret.digest(), &edge_id, &key)
            .map_err(turned)?;
        self.edges.look().map_err(|error| broken(&error.into()))?;
        info!(edge = %edge_id, "edge joined");
        Ok(admission)
    }

    /// Signs the key of an edge anew. `edge_id` is who its connection proved it to be.
    ///
    /// # Errors
    /// It is not known any more, or asks for another key.
    pub fn renew(&self, edge_id: &str, body: &[u8], now: SystemTime) -> Result<Admission, Turned> {
        let asked: RenewRequest = serde_json::from_slice(body).map_err(|_| Turned::Malformed)?;
        let request = EdgeRequest::read(&asked.request).map_err(|_| Turned::Malformed)?;
        let known = self
            .folder
            .edge_key(edge_id)
            .map_err(|_| Turned::Stranger)?;
        if known.key_bytes() != request.public {
            return Err(Turned::Stranger);
        }
        let admission = self
            .sign(edge_id, &known, &request, now)
            .map_err(|error| broken(&error))?;
        info!(edge = %edge_id, "edge's certificate renewed");
        Ok(admission)
    }

    fn sign(
        &self,
        edge_id: &str,
        key: &PublicKey,
        request: &EdgeRequest,
        now: SystemTime,
    ) -> anyhow::Result<Admission> {
        let keys = self.folder.open(&self.relay_id, now)?;
        let certificate = keys
            .authority
            .sign_edge(&self.relay_id, edge_id, request, now)?;
        let policy_path = policy_path(&self.folder.edges(), edge_id);
        let text = files::read(&policy_path).context("the edge's policy cannot be read")?;
        // A policy with a fault lets nothing through; that is said where it is read.
        let mut models = policy(&text).map(|it| it.models).unwrap_or_default();
        models.retain(|model| model != "*");
        let mut admission = Admission {
            relay_id: self.relay_id.clone(),
            edge_id: edge_id.to_owned(),
            key_id: key.id.clone(),
            certificate,
            authorities: keys.authorities_pem,
            identity: keys.identity.pin().to_string(),
            identity_next: keys.next.map(|pin| pin.to_string()),
            models,
            signature: String::new(),
        };
        admission.signature = hex(&keys.identity.vouch(&admission.said()));
        Ok(admission)
    }
}

fn turned(not: NotInvited) -> Turned {
    match not {
        NotInvited::Unknown | NotInvited::Revoked => Turned::Uninvited,
        NotInvited::Unreadable(error) => broken(&io::Error::into(error)),
    }
}

/// Said once, here: the edge is told no more than that.
pub fn broken(error: &anyhow::Error) -> Turned {
    warn!(error = format!("{error:#}"), "an edge could not be signed");
    Turned::Broken
}
