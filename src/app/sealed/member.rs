//! What an edge keeps of a relay that it joined: a folder of its own, which `hedge relay join` writes.
//!
//! ```text
//! member.toml  where the relay is, who it is, and what it calls this edge
//! edge.key     made here, and never leaves     edge.pem   signed by the relay, renewed by itself
//! ca.pem       whom its TLS is trusted by      seen.toml  the youngest manifest that was believed
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use relay::EdgeSecret;
use relay::manifest::{IdentityPin, Pins, SeenManifest};
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::authority::{Facts, chain_of, request};
use super::ed25519::{self, Seed};
use super::files::{self, Eyes};
use super::join::Joined;
use super::registrar::Admission;
use super::tls::{self, Badge, roots};
use super::token::{hex, unhex};
use crate::client;

/// `member.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFile {
    /// Where the relay answers.
    pub url: String,
    pub relay_id: String,
    pub edge_id: String,
    /// What the relay calls the edge's key.
    pub key_id: String,
    /// Who signs the relay's manifests, and who is going to.
    pub identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_next: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct SeenFile {
    serial: u64,
    digest: String,
}

/// One folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFolder(PathBuf);

/// What it holds.
pub struct Member {
    pub file: MemberFile,
    pub url: Url,
    pub pins: Pins,
    pub chain: Vec<CertificateDer<'static>>,
    pub facts: Facts,
    pub authorities: Vec<CertificateDer<'static>>,
    key: Seed,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// What its proofs are made with.
    pub fn secret(&self) -> EdgeSecret {
        EdgeSecret::ed25519(&self.key)
    }

    pub fn key(&self) -> &Seed {
        &self.key
    }

    /// What its connections show.
    ///
    /// # Errors
    /// The certificate is another key's.
    pub fn badge(&self) -> anyhow::Result<Badge> {
        Badge::new(self.chain.clone(), &ed25519::to_pem(&self.key))
    }

    /// Whom its connections trust.
    ///
    /// # Errors
    /// An authority's certificate cannot be used.
    pub fn roots(&self) -> anyhow::Result<rustls::RootCertStore> {
        roots(&self.authorities)
    }

    /// A client for this relay, which trusts its authority alone and shows `badge`.
    ///
    /// # Errors
    /// The files do not fit together.
    pub fn http(&self, badge: Arc<Badge>) -> anyhow::Result<reqwest::Client> {
        let tls = tls::client(self.roots()?, badge)?;
        client::relay_builder()
            .tls_backend_preconfigured(tls)
            .build()
            .context("cannot set up the HTTP client")
    }

    /// A request for another certificate of the same key.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn request(&self) -> anyhow::Result<String> {
        request(&self.key)
    }
}

impl MemberFolder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether an edge joined from here.
    pub fn is_there(&self) -> bool {
        self.file("member.toml").exists()
    }

    /// Whether it can be written to; makes it where it is not there.
    ///
    /// # Errors
    /// It cannot.
    pub fn make(&self) -> anyhow::Result<()> {
        files::make_folder(&self.0)
            .with_context(|| format!("cannot make the folder {}", self.0.display()))
    }

    /// Writes what came of joining, over what the same relay gave before.
    ///
    /// # Errors
    /// It holds the membership of another relay, or a file cannot be written.
    pub fn found(&self, url: &Url, joined: &Joined) -> anyhow::Result<()> {
        self.make()?;
        let before = files::read_if_there(&self.file("member.toml"))?;
        let before = before.and_then(|text| toml::from_str::<MemberFile>(&text).ok());
        let asked = &joined.admission;
        // Relays may have one name, as the one that `hedge relay init` gives. Who they are, their
        // identities say.
        let is_same = |before: &MemberFile| {
            let told = [Some(&asked.identity), asked.identity_next.as_ref()];
            let pinned = [Some(&before.identity), before.identity_next.as_ref()];
            before.relay_id == asked.relay_id
                && told
                    .into_iter()
                    .flatten()
                    .any(|it| pinned.contains(&Some(it)))
        };
        if let Some(before) = before.filter(|before| !is_same(before)) {
            bail!(
                "{} holds the membership of another relay, `{}` at {}; remove the folder if that is \
                 gone, or choose another one with --dir, for which a new token is needed",
                self.0.display(),
                before.relay_id,
                before.url
            );
        }
        // Between here and the end nobody has joined, so that no two keys are mixed up.
        for name in ["member.toml", "seen.toml"] {
            files::remove(&self.file(name))?;
        }
        self.put("edge.key", &ed25519::to_pem(&joined.key))?;
        self.write(url, &joined.admission)?;
        self.open().map(drop)
    }

    fn read_key(&self) -> anyhow::Result<Seed> {
        let path = self.file("edge.key");
        let text = files::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ed25519::from_pem(&text).ok_or_else(|| anyhow!("{} holds no Ed25519 key", path.display()))
    }

    /// Writes what the relay answered. `member.toml` comes last: without it nobody has joined.
    ///
    /// # Errors
    /// A file cannot be written.
    fn write(&self, url: &Url, admission: &Admission) -> anyhow::Result<()> {
        let file = MemberFile {
            url: url.to_string(),
            relay_id: admission.relay_id.clone(),
            edge_id: admission.edge_id.clone(),
            key_id: admission.key_id.clone(),
            identity: admission.identity.clone(),
            identity_next: admission.identity_next.clone(),
        };
        self.put("ca.pem", &admission.authorities)?;
        self.put("edge.pem", &admission.certificate)?;
        let text = format!(
            "# Written by `hedge relay join`, and kept up to date by the running edge.\n{}",
            toml::to_string(&file)?
        );
        self.put("member.toml", &text)
    }

    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.file(name);
        files::put(&path, text.as_bytes(), Eyes::Own)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// # Errors
    /// A file is not there or at fault; the words name it.
    pub fn open(&self) -> anyhow::Result<Member> {
        let read = |name: &str| {
            let path = self.file(name);
            files::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        if !self.is_there() {
            bail!(
                "{} is no folder that `hedge relay join` wrote",
                self.0.display()
            );
        }
        let file: MemberFile = toml::from_str(&read("member.toml")?)
            .map_err(|error| anyhow!("member.toml: {}", error.message()))?;
        let url = relay_url(&file.url)?;
        for (key, name) in [
            ("relay_id", &file.relay_id),
            ("edge_id", &file.edge_id),
            ("key_id", &file.key_id),
        ] {
            if !relay::is_name(name) {
                bail!("member.toml: {key} is no name");
            }
        }
        let pin = |key: &str, text: &str| {
            let pin: Result<IdentityPin, _> = text.parse();
            pin.with_context(|| format!("member.toml: {key}"))
        };
        let pins = Pins {
            relay_id: file.relay_id.clone(),
            current: pin("identity", &file.identity)?,
            next: match &file.identity_next {
                Some(text) => Some(pin("identity_next", text)?),
                None => None,
            },
        };
        let chain = chain_of(&read("edge.pem")?).context("edge.pem")?;
        Ok(Member {
            facts: Facts::read(&chain[0]).context("edge.pem")?,
            authorities: chain_of(&read("ca.pem")?).context("ca.pem")?,
            key: self.read_key()?,
            chain,
            pins,
            url,
            file,
        })
    }

    /// The youngest manifest that was believed; `None` where none was, or what is there cannot be
    /// read.
    pub fn seen(&self) -> Option<SeenManifest> {
        let text = files::read_if_there(&self.file("seen.toml")).ok()??;
        let seen: SeenFile = toml::from_str(&text).ok()?;
        Some(SeenManifest {
            serial: seen.serial,
            digest: unhex(&seen.digest)?.try_into().ok()?,
        })
    }

    /// Remembers it across restarts.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn remember(&self, seen: SeenManifest) -> anyhow::Result<()> {
        let file = SeenFile {
            serial: seen.serial,
            digest: hex(&seen.digest),
        };
        self.put("seen.toml", &toml::to_string(&file)?)
    }

    /// Takes a renewal. The relay may tell who it is going to be; who it is has to be known here
    /// already.
    ///
    /// # Errors
    /// It is of another relay, edge or key, not signed by the relay, or cannot be written; then
    /// everything stays.
    pub fn renew(&self, admission: &Admission, now: SystemTime) -> anyhow::Result<Member> {
        let known = self.open()?;
        let is_same = admission.relay_id == known.file.relay_id
            && admission.edge_id == known.file.edge_id
            && admission.key_id == known.file.key_id;
        if !is_same {
            bail!("the renewal is of another relay, edge or key");
        }
        let told = admission.identity.as_str();
        let is_known =
            told == known.file.identity || known.file.identity_next.as_deref() == Some(told);
        if !is_known {
            bail!(
                "the relay has an identity that it never told of; join it again if that is right"
            );
        }
        // By one that was pinned before: what ends TLS on the way must not choose whom is believed.
        let next = known.pins.next.as_ref();
        let mut pinned = [&known.pins.current].into_iter().chain(next);
        if !pinned.any(|pin| pin.to_string() == told && admission.is_signed_by(pin)) {
            bail!("the renewal is not signed by the relay; something on the way may have made it");
        }
        let chain = chain_of(&admission.certificate)?;
        Badge::new(chain.clone(), &ed25519::to_pem(&known.key))?;
        if Facts::read(&chain[0])?.not_after <= now {
            bail!("the renewed certificate has expired already");
        }
        self.write(&known.url, admission)?;
        self.open()
    }
}

/// Where a relay is: a scheme, a host and a port.
///
/// # Errors
/// It is something else.
pub fn relay_url(text: &str) -> anyhow::Result<Url> {
    let url: Url = text
        .parse()
        .map_err(|_| anyhow!("`{text}` is no address such as https://relay.example:8443"))?;
    let is_bare = matches!(url.scheme(), "https" | "http")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.path() == "/";
    if !is_bare {
        bail!("`{text}` is no address such as https://relay.example:8443, with nothing after it");
    }
    Ok(url)
}

#[cfg(test)]
mod tests;
