//! A relay's folder, which `hedge relay init` makes.
//!
//! ```text
//! identity.key       who it is: signs manifests             ca.key, ca.pem  its authority
//! identity-next.key  who it is going to be, where set       server.pem      its TLS, with the key
//! edges/NAME.toml    what an edge may do                    tokens/DIGEST   who may join
//! edges/NAME.pub     what an edge proves itself with        server.key      the key of an operator's own
//! lock               held by the relay that answers
//! ```
//! Every file is written whole or not at all, and what is there is never made anew. What is renewed is one
//! file, so that no crash leaves a certificate with another's key.

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use rand::CryptoRng;
use relay::manifest::{IdentityKey, IdentityPin};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tracing::info;
use zeroize::Zeroizing;

use super::authority::{Authority, Facts, Issued, chain_of, server_names};
use super::edges::{key_path, policy_path};
use super::files::{self, Eyes};
use super::token::{Fingerprint, JoinSecret, JoinToken, TOKEN_LIFE, fingerprint, hex};
use super::{ed25519, edge_file};

/// Tokens that nobody has used. With more, some that were printed long ago have to end first.
const TOKENS_MAX: usize = 1_000;

/// Where a relay's keys and edges are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayFolder(PathBuf);

/// What it holds.
#[derive(Debug)]
pub struct RelayKeys {
    pub identity: IdentityKey,
    /// Who the relay is going to be.
    pub next: Option<IdentityPin>,
    pub authority: Authority,
    /// All that edges' certificates may be signed by: the authority, and those before it.
    pub authorities: Vec<CertificateDer<'static>>,
    pub authorities_pem: String,
    pub server: ServerFiles,
}

/// The certificate of the relay's TLS, and its key.
#[derive(Debug)]
pub struct ServerFiles {
    pub chain: Vec<CertificateDer<'static>>,
    /// In PEM; other things may stand beside it.
    pub key: Zeroizing<String>,
}

/// A token that was not used yet, as its file says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    edge: String,
    /// In seconds since 1970.
    expires: u64,
}

/// Why nobody may join with a secret.
#[derive(Debug, thiserror::Error)]
pub enum NotInvited {
    #[error("the token is not known, was used, or is too old")]
    Unknown,
    #[error("the edge of the token is known no more")]
    Revoked,
    #[error("the folder of tokens cannot be read")]
    Unreadable(#[source] io::Error),
}

impl RelayFolder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn edges(&self) -> PathBuf {
        self.0.join("edges")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self, name: &str) -> anyhow::Result<Zeroizing<String>> {
        let path = self.file(name);
        files::read(&path).with_context(|| {
            format!(
                "cannot read {}; `hedge relay init` makes a relay's folder",
                path.display()
            )
        })
    }

    fn put(&self, name: &str, text: &str, eyes: Eyes) -> anyhow::Result<()> {
        let path = self.file(name);
        files::put(&path, text.as_bytes(), eyes)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Makes what is not there, and leaves what is. `names` are the hosts and addresses that edges
    /// reach it by.
    ///
    /// # Errors
    /// A file cannot be written, or one that is there is at fault.
    pub fn make(
        &self,
        relay_id: &str,
        names: &[String],
        now: SystemTime,
        rng: &mut impl CryptoRng,
    ) -> anyhow::Result<()> {
        for folder in [self.0.clone(), self.edges(), self.file("tokens")] {
            files::make_folder(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        if !self.file("identity.key").exists() {
            let seed = ed25519::generate(rng);
            self.put("identity.key", &ed25519::to_pem(&seed), Eyes::Own)?;
        }
        // The key last: without it, what was begun is begun anew.
        if !self.file("ca.key").exists() {
            let (_, Issued { key, chain }) = Authority::generate(relay_id, now)?;
            self.put("ca.pem", &chain, Eyes::All)?;
            self.put("ca.key", &key, Eyes::Own)?;
        }
        if !self.has_server()? {
            self.sign_server(relay_id, names, now)?;
        }
        Ok(())
    }

    /// Whether there is a certificate of its TLS, and a key.
    fn has_server(&self) -> anyhow::Result<bool> {
        let path = self.file("server.pem");
        let text = files::read_if_there(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.is_some_and(|text| has_key(&text) || self.file("server.key").exists()))
    }

    fn sign_server(&self, relay_id: &str, names: &[String], now: SystemTime) -> anyhow::Result<()> {
        let authorities = self.read("ca.pem")?;
        let authority = Authority::load(&authorities, &self.read("ca.key")?)?;
        let Issued { key, chain } = authority.sign_server(relay_id, names, &authorities, now)?;
        let both = Zeroizing::new(format!("{}{chain}", *key));
        self.put("server.pem", &both, Eyes::Own)?;
        // Of the one before, where it had a file of its own. It counts no more.
        let path = self.file("server.key");
        files::remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(())
    }

    /// Reads it. A server's certificate that the relay's own authority signed, and of which two thirds
    /// of its life are over, is made anew first; another's is its operator's.
    ///
    /// # Errors
    /// A file is not there or at fault.
    pub fn open(&self, relay_id: &str, now: SystemTime) -> anyhow::Result<RelayKeys> {
        let authorities_pem = self.read("ca.pem")?;
        let authority = Authority::load(&authorities_pem, &self.read("ca.key")?)
            .with_context(|| format!("in {}", self.0.display()))?;
        let mut server = self.server()?;
        let facts = Facts::read(&server.chain[0])?;
        let is_own = server.chain.get(1) == Some(authority.certificate());
        if is_own && facts.renewal() <= now {
            self.sign_server(relay_id, &server_names(&server.chain[0])?, now)?;
            server = self.server()?;
            info!("the relay's own certificate was renewed");
        }
        let next = match files::read_if_there(&self.file("identity-next.key"))? {
            Some(text) => Some(identity(&text).context("identity-next.key")?.pin()),
            None => None,
        };
        Ok(RelayKeys {
            identity: identity(&self.read("identity.key")?).context("identity.key")?,
            next,
            authorities: chain_of(&authorities_pem)?,
            authorities_pem: authorities_pem.to_string(),
            authority,
            server,
        })
    }

    /// Held for as long as a relay answers from it: two of one identity would each take what the other took
    /// before, and write over what the other counted.
    ///
    /// # Errors
    /// Another process holds it, or the file cannot be made.
    pub fn lock(&self) -> anyhow::Result<std::fs::File> {
        let path = self.file("lock");
        let file = std::fs::File::create(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "another relay answers from {} already; each has a folder of its own, which `hedge relay \
                 init --dir` makes",
                self.0.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    fn server(&self) -> anyhow::Result<ServerFiles> {
        let text = self.read("server.pem")?;
        Ok(ServerFiles {
            chain: chain_of(&text).context("server.pem")?,
            key: if has_key(&text) {
                text
            } else {
                self.read("server.key")?
            },
        })
    }

    /// Makes the identity that edges are told of as the next one. Whether it made one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn prepare_identity(&self, rng: &mut impl CryptoRng) -> anyhow::Result<bool> {
        if self.file("identity-next.key").exists() {
            return Ok(false);
        }
        let seed = ed25519::generate(rng);
        self.put("identity-next.key", &ed25519::to_pem(&seed), Eyes::Own)?;
        Ok(true)
    }

    /// Becomes who was prepared.
    ///
    /// # Errors
    /// Nobody was prepared.
    pub fn turn_identity(&self) -> anyhow::Result<()> {
        let next = self.file("identity-next.key");
        std::fs::rename(&next, self.file("identity.key")).context(
            "there is no next identity; `hedge relay identity prepare` makes one, and edges know it \
             once they have renewed their certificates",
        )
    }

    /// Lets an edge join: writes its policy where it has none, and a token for it.
    ///
    /// # Errors
    /// The name is none, or a file cannot be written.
    pub fn invite(
        &self,
        edge_id: &str,
        models: &[String],
        now: SystemTime,
        rng: &mut impl CryptoRng,
    ) -> anyhow::Result<Invited> {
        if !relay::is_name(edge_id) || edge_id.starts_with('.') {
            bail!(
                "`{edge_id}` cannot name an edge; letters, digits, `-`, `_` and `.`, at most {}",
                relay::NAME_BYTES_MAX
            );
        }
        let identity = identity(&self.read("identity.key")?)?.pin();
        let authority = chain_of(&self.read("ca.pem")?)?;
        self.sweep(now)?;
        let policy = policy_path(&self.edges(), edge_id);
        let text = edge_file::first_policy(edge_id, models);
        let is_new = match files::put_new(&policy, text.as_bytes(), Eyes::Own) {
            Ok(()) => {
                // Of an edge that was there before and is new now, no key holds: it has to join.
                files::remove(&key_path(&self.edges(), edge_id))
                    .with_context(|| format!("cannot remove the old key of `{edge_id}`"))?;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", policy.display()));
            }
        };
        let token = JoinToken {
            secret: JoinSecret::generate(rng),
            authority: fingerprint(&authority[0]),
            identity: fingerprint(identity.to_string().as_bytes()),
        };
        let invitation = Invitation {
            edge: edge_id.to_owned(),
            expires: seconds(now + TOKEN_LIFE),
        };
        let name = format!("tokens/{}", hex(&token.secret.digest()));
        self.put(&name, &toml::to_string(&invitation)?, Eyes::Own)?;
        Ok(Invited { token, is_new })
    }

    /// Removes tokens that are over.
    fn sweep(&self, now: SystemTime) -> anyhow::Result<()> {
        let folder = self.file("tokens");
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?;
        let mut count = 0;
        for entry in entries {
            let path = entry?.path();
            let text = files::read_if_there(&path)?.unwrap_or_default();
            let holds = toml::from_str::<Invitation>(&text)
                .is_ok_and(|invitation| invitation.expires > seconds(now));
            if holds {
                count += 1;
            } else {
                files::remove(&path)?;
            }
        }
        if count >= TOKENS_MAX {
            bail!("there are {count} tokens that nobody has used; wait until they end");
        }
        Ok(())
    }

    /// Whom a secret invites. It still does afterwards.
    ///
    /// # Errors
    /// Nobody.
    pub fn invited(&self, secret: &Fingerprint, now: SystemTime) -> Result<String, NotInvited> {
        let text = files::read_if_there(&self.token_path(secret));
        let text = text.map_err(NotInvited::Unreadable)?;
        let text = text.ok_or(NotInvited::Unknown)?;
        let invitation: Invitation = toml::from_str(&text).map_err(|_| NotInvited::Unknown)?;
        if invitation.expires <= seconds(now) || !relay::is_name(&invitation.edge) {
            return Err(NotInvited::Unknown);
        }
        if !policy_path(&self.edges(), &invitation.edge).exists() {
            return Err(NotInvited::Revoked);
        }
        Ok(invitation.edge)
    }

    /// Uses a secret up. Of two who come with it at once, one is let in.
    ///
    /// # Errors
    /// It was used before.
    pub fn admit(
        &self,
        secret: &Fingerprint,
        edge_id: &str,
        key: &edge_file::PublicKey,
    ) -> Result<(), NotInvited> {
        let was_there = files::remove(&self.token_path(secret)).map_err(NotInvited::Unreadable)?;
        if !was_there {
            return Err(NotInvited::Unknown);
        }
        let path = key_path(&self.edges(), edge_id);
        files::put(&path, key.to_line().as_bytes(), Eyes::Own).map_err(NotInvited::Unreadable)?;
        // Revoked meanwhile: then its key must not lie there for another edge of the name.
        if !policy_path(&self.edges(), edge_id).exists() {
            files::remove(&path).map_err(NotInvited::Unreadable)?;
            return Err(NotInvited::Revoked);
        }
        Ok(())
    }

    /// The key that an edge joined with.
    ///
    /// # Errors
    /// It did not, or was revoked.
    pub fn edge_key(&self, edge_id: &str) -> anyhow::Result<edge_file::PublicKey> {
        if !policy_path(&self.edges(), edge_id).exists() {
            bail!("the edge is not known");
        }
        let line = files::read(&key_path(&self.edges(), edge_id))
            .map_err(|_| anyhow!("the edge has not joined"))?;
        edge_file::PublicKey::read(&line)
    }

    /// Takes everything from an edge: its policy, its key and its tokens. Whether there was one.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn revoke(&self, edge_id: &str) -> anyhow::Result<bool> {
        if !relay::is_name(edge_id) {
            return Ok(false);
        }
        let policy = files::remove(&policy_path(&self.edges(), edge_id))?;
        let key = files::remove(&key_path(&self.edges(), edge_id))?;
        for entry in std::fs::read_dir(self.file("tokens"))? {
            let path = entry?.path();
            let text = files::read_if_there(&path)?.unwrap_or_default();
            let is_its = toml::from_str::<Invitation>(&text).is_ok_and(|it| it.edge == edge_id);
            if is_its {
                files::remove(&path)?;
            }
        }
        Ok(policy || key)
    }

    fn token_path(&self, secret: &Fingerprint) -> PathBuf {
        self.file("tokens").join(hex(secret))
    }
}

/// A token, and whether its edge was unknown before.
#[derive(Debug)]
pub struct Invited {
    pub token: JoinToken,
    pub is_new: bool,
}

/// Whether a private key stands in a PEM file, among certificates or not.
fn has_key(pem: &str) -> bool {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_ok()
}

fn identity(pem: &str) -> anyhow::Result<IdentityKey> {
    let seed = ed25519::from_pem(pem).ok_or_else(|| anyhow!("it holds no Ed25519 key"))?;
    Ok(IdentityKey::from_bytes(&seed))
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests;
