//! A relay's keys: its manifest, fetched and believed, or refused with a reason in the log.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use rand::RngExt as _;
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::ClientRules;
use super::clock::Clock;
use super::figures::{Counts, count};
use super::member::{ManifestMemory, spread};
use crate::attest::{self, Unattested, Verdict, Verifier};
use crate::key_config::KeyConfig;
use crate::manifest::{
    MANIFEST_BYTES_MAX, ManifestRefused, Pins, SeenManifest, SignedManifest, TrustedManifest,
};
use crate::suite::Aead;
use crate::time::UnixTime;

/// For a manifest, from asking for a connection to its last byte. Beyond, it counts as not fetched.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two fetches by requests that find no key, at least.
const FETCH_EVERY: Duration = Duration::from_secs(1);

/// When a manifest is fetched anew, as a part of the life that it has left. Drawn, so that edges do not
/// come in step.
const REFRESH_AT: std::ops::Range<f64> = 0.5..0.8;

/// After a fetch that failed, the wait before the driver's next. Doubled each time, and spread.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why there is no manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchFailed {
    #[error("relay could not be asked for its manifest")]
    Unreached,
    #[error("relay answered with something else than a manifest")]
    NoManifest,
    #[error(transparent)]
    Refused(#[from] ManifestRefused),
    #[error("relay is not vouched for")]
    Unattested(#[source] Unattested),
}

impl FetchFailed {
    /// For whoever looks at its health.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unreached => "its manifest cannot be fetched",
            Self::NoManifest => "it answers with no manifest",
            Self::Refused(_) => "its manifest is not believed",
            Self::Unattested(_) => "nothing vouches for it",
        }
    }
}

#[derive(Debug)]
struct Held {
    manifest: Option<Arc<TrustedManifest>>,
    /// Of the last one that was believed, in this process or one before.
    seen: Option<SeenManifest>,
    due: Instant,
    /// Fetches that came to an end.
    attempts: u64,
    last: Result<(), FetchFailed>,
    last_at: Option<Instant>,
    /// In a row.
    failures: u32,
}

pub(super) struct Keys {
    page: Url,
    http: reqwest::Client,
    pins: Pins,
    memory: Arc<dyn ManifestMemory>,
    rules: Arc<ClientRules>,
    counts: Arc<Counts>,
    held: Mutex<Held>,
    /// Held while one fetches, so that others wait for what comes of it.
    fetching: tokio::sync::Mutex<()>,
}

impl Keys {
    pub(super) fn new(
        page: Url,
        http: reqwest::Client,
        pins: Pins,
        memory: Arc<dyn ManifestMemory>,
        rules: Arc<ClientRules>,
        counts: Arc<Counts>,
        now: Instant,
    ) -> Self {
        let held = Held {
            manifest: None,
            seen: memory.seen(&pins.relay_id),
            due: now,
            attempts: 0,
            last: Ok(()),
            last_at: None,
            failures: 0,
        };
        Self {
            page,
            http,
            pins,
            memory,
            rules,
            counts,
            held: Mutex::new(held),
            fetching: tokio::sync::Mutex::new(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn manifest(&self) -> Option<Arc<TrustedManifest>> {
        self.held().manifest.clone()
    }

    /// What can be sealed to now, and with what; with the number of fetches that it came of.
    pub(super) fn usable(&self, now: UnixTime) -> Option<Usable> {
        let held = self.held();
        let manifest = held.manifest.as_ref()?;
        let (config, aead) = manifest.choose(self.rules.keys, now)?;
        Some(Usable {
            config: config.clone(),
            aead,
            request_bytes_max: manifest.manifest().limits.request_bytes_max,
            attempts: held.attempts,
        })
    }

    pub(super) fn attempts(&self) -> u64 {
        self.held().attempts
    }

    /// When the driver fetches next.
    pub(super) fn due(&self) -> Instant {
        self.held().due
    }

    /// Why there is no key, where that is known.
    pub(super) fn trouble(&self) -> Option<&'static str> {
        let held = self.held();
        match (held.last, held.attempts) {
            (Err(failed), _) => Some(failed.reason()),
            (Ok(()), 0) => None,
            (Ok(()), _) => Some("its manifest has no key that may be used"),
        }
    }

    /// Whether the last fetch is so recent that another would bring nothing else.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let last_at = self.held().last_at;
        last_at.is_some_and(|last_at| now.saturating_duration_since(last_at) < FETCH_EVERY)
    }

    /// Fetches, unless a fetch came to its end since there had been `after` of them: then what came of
    /// that one counts.
    pub(super) async fn fetch(&self, after: u64, clock: &Clock) -> Result<(), FetchFailed> {
        let _turn = self.fetching.lock().await;
        {
            let held = self.held();
            if held.attempts > after {
                return held.last;
            }
        }
        let fetched = timeout(FETCH_TIMEOUT, self.received()).await;
        let received = fetched.unwrap_or(Err(FetchFailed::Unreached));
        let checked = received.and_then(|received| self.check(&received, clock.now()));
        let now = Instant::now();
        let outcome = match checked {
            Ok(trusted) => {
                self.keep(trusted.seen()).await;
                self.take(trusted, clock.now(), now);
                Ok(())
            }
            Err(failed) => {
                warn!(relay = self.pins.relay_id, error = %failed, "no manifest of the relay");
                let mut held = self.held();
                let doubled = RETRY_FIRST.saturating_mul(1 << held.failures.min(8));
                held.failures = held.failures.saturating_add(1);
                held.due = now + doubled.min(RETRY_MAX).mul_f64(spread());
                Err(failed)
            }
        };
        let mut held = self.held();
        held.attempts += 1;
        held.last = outcome;
        held.last_at = Some(now);
        outcome
    }

    async fn received(&self) -> Result<SignedManifest, FetchFailed> {
        let request = self
            .http
            .get(self.page.clone())
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, super::USER_AGENT);
        let mut response = request.send().await.map_err(|_| FetchFailed::Unreached)?;
        let headers = response.headers();
        let only = |name: &str| only(headers, name).ok_or(FetchFailed::NoManifest);
        let is_json = only(CONTENT_TYPE.as_str()).is_ok_and(|kind| kind == "application/json");
        let is_plain = !headers.contains_key(CONTENT_ENCODING);
        if response.status() != http::StatusCode::OK || !is_json || !is_plain {
            return Err(FetchFailed::NoManifest);
        }
        let mut received = SignedManifest {
            content_digest: only("content-digest")?,
            signature_input: only("signature-input")?,
            signature: only("signature")?,
            body: Vec::new(),
        };
        while let Some(more) = response.chunk().await.map_err(|_| FetchFailed::Unreached)? {
            if received.body.len() + more.len() > MANIFEST_BYTES_MAX {
                return Err(ManifestRefused::TooLong.into());
            }
            received.body.extend_from_slice(&more);
        }
        Ok(received)
    }

    fn check(
        &self,
        received: &SignedManifest,
        now: UnixTime,
    ) -> Result<TrustedManifest, FetchFailed> {
        let seen = self.held().seen;
        let told = self.memory.pins();
        let pins = told.as_ref().unwrap_or(&self.pins);
        let checked = TrustedManifest::check(received, pins, seen.as_ref(), now);
        let judged = checked.map_err(FetchFailed::from).and_then(|trusted| {
            self.attested(&trusted)?;
            Ok(trusted)
        });
        judged.inspect_err(|refused| {
            count(&self.counts.manifests_refused);
            let digest = digits(&Sha256::digest(&received.body));
            let reason = refused as &dyn std::error::Error;
            warn!(relay = self.pins.relay_id, %digest, reason, "manifest refused");
        })
    }

    fn attested(&self, trusted: &TrustedManifest) -> Result<(), FetchFailed> {
        let verifiers: Vec<&dyn Verifier> = self.rules.verifiers.iter().map(|it| &**it).collect();
        match attest::judge(self.rules.attestation, trusted, &verifiers) {
            Verdict::Unasked | Verdict::Proven => Ok(()),
            Verdict::Doubted(why) => {
                warn!(relay = self.pins.relay_id, reason = %why, "nothing vouches for the relay");
                Ok(())
            }
            Verdict::Refused(why) => Err(FetchFailed::Unattested(why)),
        }
    }

    /// Writes down what was believed, so that nothing older is, after a restart.
    async fn keep(&self, seen: SeenManifest) {
        if self.held().seen == Some(seen) {
            return;
        }
        let (memory, relay_id) = (Arc::clone(&self.memory), self.pins.relay_id.clone());
        let kept = tokio::task::spawn_blocking(move || memory.keep(&relay_id, seen)).await;
        if !matches!(kept, Ok(Ok(()))) {
            warn!(
                relay = self.pins.relay_id,
                "the manifest's serial could not be written down"
            );
        }
    }

    fn take(&self, trusted: TrustedManifest, now: UnixTime, at: Instant) {
        count(&self.counts.manifests_taken);
        let left = trusted.expires().since(now);
        let part = rand::rng().random_range(REFRESH_AT);
        let seen = trusted.seen();
        let mut held = self.held();
        if held.seen != Some(seen) {
            let digest = digits(&seen.digest);
            info!(relay = self.pins.relay_id, serial = seen.serial, %digest, "manifest taken");
        }
        held.seen = Some(seen);
        held.manifest = Some(Arc::new(trusted));
        held.failures = 0;
        // Never at once again, whatever the life: what expires within a second is no use.
        held.due = at + left.mul_f64(part).max(RETRY_FIRST);
    }
}

/// What a request is sealed with.
#[derive(Debug, Clone)]
pub(super) struct Usable {
    pub(super) config: KeyConfig,
    pub(super) aead: Aead,
    pub(super) request_bytes_max: u64,
    /// Of fetches, when it was looked up.
    pub(super) attempts: u64,
}

/// The value of the only line of this name. Of two there is none: no two readers shall take different
/// ones.
fn only(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::to_owned)
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}
