//! An edge's way to relays that answer alike: one `[[relays]]` at work.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use domain::{AuditLog, Backend, Carrier};
use futures::future::join_all;
use providers::{Transport, Upstream};
use rand::RngExt as _;
use relay::client::{Client, ClientRules, ManifestMemory};
use relay::manifest::{KeyPolicy, Pins, SeenManifest};
use relay::{Ciphers, EdgeSecret, Kem};
use tracing::{info, warn};

use super::authority::Facts;
use super::ed25519;
use super::join::answer;
use super::member::MemberFolder;
use super::registrar::{RENEW_PATH, RenewRequest};
use super::tls::Badge;
use crate::config::RelaySettings;

/// For one request to renew.
const RENEW_MAX: Duration = Duration::from_secs(30);
/// A machine may sleep, and its clock be set: so it is looked at again at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// After a renewal that failed; doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// Why it cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub struct UplinkFault {
    /// Of `members`; `None`: all of them together.
    pub member: Option<usize>,
    pub error: anyhow::Error,
}

/// One `[[relays]]`.
pub struct Uplink {
    settings: RelaySettings,
    client: Arc<Client>,
    upstream: Arc<Upstream>,
    memberships: Vec<Membership>,
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink")
            .field("name", &self.settings.asked.name)
            .finish_non_exhaustive()
    }
}

/// This machine as an edge of one relay.
struct Membership {
    folder: MemberFolder,
    relay_id: String,
    http: reqwest::Client,
    badge: Arc<Badge>,
    facts: ArcSwap<Facts>,
    /// A renewal may bring others, which hold from then on.
    pins: Arc<ArcSwap<Pins>>,
    /// No two edges renew at the same moment. A part of a twentieth of a certificate's life.
    jitter: f64,
    has_tls: bool,
}

impl Uplink {
    /// Reads the members' folders. Asks nobody.
    ///
    /// # Errors
    /// What is wrong, and with which member.
    pub fn new(
        settings: RelaySettings,
        transport: &Transport,
        audit: &Arc<dyn AuditLog>,
    ) -> Result<Self, UplinkFault> {
        let mut memberships = Vec::new();
        let mut members = Vec::new();
        for (at, path) in settings.members.iter().enumerate() {
            let (membership, member) = join_up(path.clone()).map_err(|error| UplinkFault {
                member: Some(at),
                error,
            })?;
            memberships.push(membership);
            members.push(member);
        }
        let whole = |error: anyhow::Error| UplinkFault {
            member: None,
            error,
        };
        let rules = ClientRules {
            keys: KeyPolicy {
                require_post_quantum: settings.suites_min == Kem::XWing,
                ciphers: Ciphers::Strict,
            },
            shape: settings.shape,
            request_pad: settings.request_pad,
            takes_slim: settings.takes_slim,
            attestation: settings.attestation,
            // No kind of evidence can be checked yet; the configuration says so.
            verifiers: Vec::new(),
            connect_timeout: settings.asked.connect_timeout,
            idle_timeout: settings.asked.idle_timeout,
        };
        let client =
            Client::new(members, rules, Arc::clone(audit)).map_err(|it| whole(it.into()))?;
        let client = Arc::new(client);
        let carrier = Arc::clone(&client) as Arc<dyn Carrier>;
        let upstream = Upstream::carried(settings.asked.clone(), transport.clone(), carrier)
            .map_err(|it| whole(it.into()))?;
        Ok(Self {
            settings,
            client,
            upstream: Arc::new(upstream),
            memberships,
        })
    }

    pub fn settings(&self) -> &RelaySettings {
        &self.settings
    }

    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.upstream) as _
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// When each member's certificate ends, by the relay's name.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, SystemTime)> {
        let all = self.memberships.iter();
        all.map(|it| (it.relay_id.as_str(), it.facts.load().not_after))
    }

    /// Whether the folders hold what they held: a machine that joined again is another edge.
    pub fn is_as_configured(&self, settings: &RelaySettings) -> bool {
        let is_same = |membership: &Membership| {
            let now = membership.folder.open();
            now.is_ok_and(|member| member.facts == **membership.facts.load())
        };
        self.settings == *settings && self.memberships.iter().all(is_same)
    }

    /// Keeps manifests and certificates fresh, for as long as it is polled. A driver.
    pub async fn tend(&self) {
        let keeping = self.memberships.iter().map(Membership::keep);
        futures::future::join(self.client.tend(), join_all(keeping)).await;
    }
}

fn join_up(path: PathBuf) -> anyhow::Result<(Membership, relay::client::Member)> {
    let folder = MemberFolder::new(path);
    let member = folder.open()?;
    let badge = Arc::new(member.badge()?);
    let http = member.http(Arc::clone(&badge))?;
    let pins = Arc::new(ArcSwap::from_pointee(member.pins.clone()));
    let asked = relay::client::Member {
        url: member.file.url.trim_end_matches('/').to_owned(),
        http: http.clone(),
        pins: member.pins.clone(),
        edge_id: member.file.edge_id.clone(),
        key_id: member.file.key_id.clone(),
        secret: Arc::<EdgeSecret>::new(member.secret()),
        memory: Arc::new(Memory {
            folder: folder.clone(),
            writing: Mutex::default(),
            pins: Arc::clone(&pins),
        }),
    };
    let membership = Membership {
        relay_id: member.file.relay_id.clone(),
        has_tls: member.url.scheme() == "https",
        facts: ArcSwap::from_pointee(member.facts),
        pins,
        jitter: rand::rng().random_range(0.0..1.0),
        folder,
        http,
        badge,
    };
    Ok((membership, asked))
}

impl Membership {
    /// Renews the certificate when two thirds of its life are over. Never ends.
    async fn keep(&self) {
        // Who ends TLS in front of the relay takes no certificate along.
        if !self.has_tls {
            return std::future::pending().await;
        }
        let mut retry = RETRY_FIRST;
        loop {
            let due = due(&self.facts.load(), self.jitter);
            match due.duration_since(SystemTime::now()) {
                Ok(wait) if !wait.is_zero() => {
                    tokio::time::sleep(wait.min(LOOK_EVERY)).await;
                    continue;
                }
                Ok(_) | Err(_) => {}
            }
            match self.renew().await {
                Ok(()) => {
                    retry = RETRY_FIRST;
                    info!(relay = %self.relay_id, "the edge's certificate was renewed");
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    warn!(relay = %self.relay_id, error, "the edge's certificate was not renewed");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let member = self.folder.open()?;
        let asked = RenewRequest {
            request: member.request()?,
        };
        let response = self
            .http
            .post(member.url.join(RENEW_PATH)?)
            .timeout(RENEW_MAX)
            .json(&asked)
            .send()
            .await
            .map_err(reqwest::Error::without_url)?;
        let admission = answer(response).await?;
        let folder = self.folder.clone();
        let renewing = move || folder.renew(&admission, SystemTime::now());
        let renewed = tokio::task::spawn_blocking(renewing).await??;
        let key = ed25519::to_pem(renewed.key());
        self.badge.replace(renewed.chain, &key)?;
        self.pins.store(Arc::new(renewed.pins));
        self.facts.store(Arc::new(renewed.facts));
        Ok(())
    }
}

/// Two thirds of its life, and up to a twentieth more.
fn due(facts: &Facts, jitter: f64) -> SystemTime {
    let life = facts.not_after.duration_since(facts.not_before);
    facts.renewal() + (life.unwrap_or_default() / 20).mul_f64(jitter)
}

/// The youngest manifest, in the member's folder.
#[derive(Debug)]
struct Memory {
    folder: MemberFolder,
    /// One writer at a time.
    writing: Mutex<()>,
    pins: Arc<ArcSwap<Pins>>,
}

impl ManifestMemory for Memory {
    fn seen(&self, _relay_id: &str) -> Option<SeenManifest> {
        self.folder.seen()
    }

    fn pins(&self) -> Option<Pins> {
        Some(Pins::clone(&self.pins.load()))
    }

    fn keep(&self, _relay_id: &str, seen: SeenManifest) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.folder.remember(seen).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn certificates_are_renewed_between_two_thirds_and_three_quarters_of_their_life() {
        let day = Duration::from_secs(24 * 60 * 60);
        let facts = Facts {
            not_before: UNIX_EPOCH + day,
            not_after: UNIX_EPOCH + day * 8,
            serial: String::new(),
            edge: None,
        };
        let first = due(&facts, 0.0).duration_since(facts.not_before).unwrap();
        let last = due(&facts, 1.0).duration_since(facts.not_before).unwrap();
        assert_eq!(first, day * 7 * 2 / 3);
        assert!(last < day * 7 * 3 / 4, "{last:?}");
    }
}
