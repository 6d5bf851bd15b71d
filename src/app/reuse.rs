//! What the node has to reuse replies: the index they are found in, who learns of them, and the secret
//! under which both are named.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use depot::Sha256Digest;
use domain::ReplyIndex;
use pipeline::{CacheEncoder, Learner, Reuse, ReuseRules};
use policy::CacheSecret;
use policy::reuse::Scorer;
use providers::UpstreamConfig;
use store::{EmbeddedIndex, MemoryIndex, SharedIndex, SharedReuseRules};
use tracing::warn;

use crate::bundled;
use crate::config::{Config, ModelSource, ReuseSettings, SharedCacheSettings};
use crate::sealed::{Eyes, make_folder, put_new, read_if_there};

/// The folder's file with the secret: without it nothing in the folder is found again.
const SECRET_FILE: &str = "secret";

/// What a shared secret is for.
const KEYS: &str = "hedge: keys of shared replies";
const MARKS: &str = "hedge: marks on shared replies";
const ENTRIES: &str = "hedge: seals of shared entries";
const REALM: &str = "hedge: realm of shared entries";

/// What writes the index down.
pub type Writing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is run for as long as the node does, beside what the pipeline gets.
pub struct Reusing {
    pub reuse: Reuse,
    pub learner: Learner,
    /// `None` where nothing is written.
    pub writing: Option<Writing>,
}

/// An index for vectors of so many components, and what learns of its entries: with other replicas', where
/// they share. Where its folder cannot be had, entries are kept in memory alone, and that is said: a broken
/// cache is a miss.
pub async fn open(config: &Config, settings: &ReuseSettings, dimensions: usize) -> Reusing {
    let rules = store::ReuseRules {
        dimensions,
        entries_max: settings.entries_max,
        bytes_max: settings.bytes_max,
    };
    let clock: store::Clock = Arc::new(SystemTime::now);
    let mut writing: Option<Writing> = None;
    let mut index: Option<Arc<dyn ReplyIndex>> = None;
    let encoder = format!("{:?}/{dimensions}", settings.encoder.source);
    if let Some(shared) = shared_entries(config, &encoder, rules) {
        let (opened, driver) = SharedIndex::open(shared, Arc::clone(&clock)).await;
        index = Some(opened);
        writing = Some(Box::pin(driver));
    } else if let Some(dir) = &settings.dir {
        match EmbeddedIndex::open(dir, &encoder, rules, Arc::clone(&clock)).await {
            Ok((opened, driver)) => {
                index = Some(opened);
                writing = Some(Box::pin(driver));
            }
            Err(error) => warn!(%error, "kept replies do not outlive this process"),
        }
    }
    let index = index.unwrap_or_else(|| Arc::new(MemoryIndex::new(rules, clock)));
    let (reuse, learner) = Reuse::new(index, scorer(settings));
    Reusing {
        reuse,
        learner,
        writing,
    }
}

/// The scorer knows the vectors of the encoder it was trained with, and no others.
fn scorer(settings: &ReuseSettings) -> Scorer {
    let is_bundled = match &settings.encoder.source {
        ModelSource::Bundled => true,
        ModelSource::Path(path) => bundled::is_encoder_at(path),
        ModelSource::Depot(_) => false,
    };
    let scorer = Scorer::bundled();
    if is_bundled {
        scorer
    } else {
        scorer.without_encoder()
    }
}

/// The rules of a snapshot.
#[must_use]
pub fn rules(settings: &ReuseSettings, encoder: &Arc<CacheEncoder>) -> ReuseRules {
    ReuseRules {
        encoder: Arc::clone(encoder),
        acceptance: settings.acceptance,
        scope: settings.scope,
        writers_min: settings.writers_min,
        is_dry: settings.is_dry,
        ttl_by_class: settings.ttl_by_class.clone(),
        look_up_max: settings.look_up_max,
        hit_pad: settings.hit_pad,
    }
}

/// The secret of keys and compartments: that of all replicas where they share replies, that of the folder
/// where entries outlive the process, and a new one else.
#[must_use]
pub fn secret(config: &Config) -> CacheSecret {
    if let Some(shared) = &config.cache.shared {
        return CacheSecret::new(shared_secret(shared, KEYS)).of_epoch(epoch(config));
    }
    let dir = config.cache.reuse.as_ref().and_then(|it| it.dir.as_deref());
    let kept = dir.map(kept_secret);
    let secret = match kept {
        Some(Ok(secret)) => secret,
        Some(Err(error)) => {
            warn!(%error, "the cache's secret cannot be kept, so nothing from before is found");
            rand::random()
        }
        None => rand::random(),
    };
    CacheSecret::new(secret).of_epoch(epoch(config))
}

/// The same, once the configuration is another one: what was kept under the one before is not found. Where
/// replies are shared, the replicas with this configuration find each other's.
#[must_use]
pub fn renewed(secret: &CacheSecret, config: &Config) -> CacheSecret {
    let epoch = match &config.cache.shared {
        Some(_) => epoch(config),
        None => rand::random(),
    };
    secret.clone().of_epoch(epoch)
}

/// What marks users on replies that are shared; `None` where none are.
#[must_use]
pub fn shared_marks(config: &Config) -> Option<[u8; 32]> {
    let shared = config.cache.shared.as_ref();
    shared.map(|shared| shared_secret(shared, MARKS))
}

/// Where entries are shared: with a secret alone, for without one whoever reads Postgres could read them.
fn shared_entries(
    config: &Config,
    encoder: &str,
    index: store::ReuseRules,
) -> Option<SharedReuseRules> {
    let shared = config.cache.shared.as_ref()?;
    shared.secret.as_ref()?;
    let realm: String = shared_secret(shared, REALM)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(SharedReuseRules {
        postgres: config.store.postgres.clone()?,
        // Replicas with another secret could not read them.
        realm: format!("{}/{realm}", shared.prefix),
        encoder: encoder.to_owned(),
        secret: shared_secret(shared, ENTRIES),
        index,
    })
}

/// The same for all replicas, of what is configured for all of them.
fn shared_secret(shared: &SharedCacheSettings, of: &str) -> [u8; 32] {
    let secret = shared.secret.as_ref().map_or("", |secret| secret.expose());
    let words = format!("{of}\0{}\0{secret}", shared.prefix);
    *Sha256Digest::of(words.as_bytes()).bytes()
}

fn kept_secret(dir: &Path) -> io::Result<[u8; 32]> {
    make_folder(dir)?;
    let path = dir.join(SECRET_FILE);
    for _ in 0..2 {
        if let Some(text) = read_if_there(&path)? {
            let digits: Vec<char> = text.trim().chars().collect();
            return unhex(&digits).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        let new: [u8; 32] = rand::random();
        let text: String = new.iter().map(|byte| format!("{byte:02x}")).collect();
        match put_new(&path, text.as_bytes(), Eyes::Own) {
            Ok(()) => return Ok(new),
            // Another node was quicker: its own is read.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn unhex(digits: &[char]) -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    if digits.len() != 2 * secret.len() {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks(2)) {
        let text: String = pair.iter().collect();
        *byte = u8::from_str_radix(&text, 16).ok()?;
    }
    Some(secret)
}

/// Another one wherever the configuration may make another answer of the same request.
fn epoch(config: &Config) -> u64 {
    let Config {
        upstreams,
        pools,
        relays,
        aliases,
        shares,
        routes,
        privacy,
        local,
        models,
        cache,
        ..
    } = config;
    let routes = (&routes.name, &routes.text);
    let asked = upstreams.iter();
    let asked = asked.chain(pools.iter().map(|pool| &pool.asked));
    let asked = asked.chain(relays.iter().map(|relay| &relay.asked));
    let asked: Vec<String> = asked.map(unshown).collect();
    let said = format!(
        "{:?}",
        (
            (asked, upstreams, pools, relays, aliases, shares),
            (routes, privacy, local, models, cache.epoch)
        )
    );
    let digest = Sha256Digest::of(said.as_bytes()).to_string();
    u64::from_str_radix(&digest[..16], 16).unwrap_or_default()
}

/// What an upstream's `Debug` leaves out and an answer may depend on: where it is, and what it is sent. For a
/// digest alone, since headers may be secrets.
fn unshown(upstream: &UpstreamConfig) -> String {
    let UpstreamConfig {
        base_url,
        quirks,
        query,
        models,
        headers,
        structured_outputs,
        image_urls,
        continues,
        // They are shown.
        name: _,
        dialect: _,
        auth: _,
        default_model: _,
        trust: _,
        // How long it is waited for, how often it is asked, and what is no chat.
        connect_retries_max: _,
        connect_timeout: _,
        first_event_timeout: _,
        whole_reply_timeout: _,
        idle_timeout: _,
        moderation_models: _,
        is_idempotent: _,
    } = upstream;
    format!(
        "{:?}",
        (
            (base_url, quirks, query, models, headers),
            (structured_outputs, image_urls, continues)
        )
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use providers::Secret;

    use super::*;
    use crate::config::{Findings, RawConfig, Surroundings};

    fn epoch_with(upstream: &str) -> u64 {
        let text = format!(
            "[[upstreams]]\nname = 'far'\ndefault_model = 'm'\ntrust = 'public'\n{upstream}"
        );
        let raw: RawConfig = toml::from_str(&text).unwrap();
        let environment = std::collections::BTreeMap::new();
        let around = Surroundings {
            environment: &environment,
            read_file: &|_| Err(io::ErrorKind::NotFound.into()),
        };
        let mut findings = Findings::default();
        let config = Config::judge(&raw, &around, &mut findings);
        assert!(findings.faults.is_empty(), "{:?}", findings.faults);
        epoch(&config.unwrap())
    }

    /// Seen: replicas whose upstream of one name was at two addresses answered with each other's replies, and
    /// one that was reloaded with another address went on with those of the first.
    #[test]
    fn what_an_upstream_is_and_is_sent_is_part_of_the_epoch() {
        let here = "base_url = 'https://a.example/v1'";
        assert_eq!(epoch_with(here), epoch_with(here));
        let mut all = vec![
            epoch_with(here),
            epoch_with("base_url = 'https://b.example/v1'"),
            epoch_with(&format!("{here}\nmodels = ['m', 'n']")),
            epoch_with(&format!("{here}\nheaders = {{ x-guard = 'on' }}")),
            epoch_with(&format!("{here}\nheaders = {{ x-guard = 'off' }}")),
            epoch_with(&format!("{here}\nquery = {{ api-version = '2' }}")),
        ];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn replicas_with_one_prefix_and_one_secret_have_one_secret_for_each_purpose() {
        let of = |prefix: &str, secret: Option<&str>| SharedCacheSettings {
            address: "redis://localhost".parse().unwrap(),
            prefix: prefix.to_owned(),
            bytes_max: 1,
            look_max: Duration::ZERO,
            secret: secret.map(Secret::new),
        };
        let mut all = vec![
            shared_secret(&of("a", None), KEYS),
            shared_secret(&of("a", None), MARKS),
            shared_secret(&of("b", None), KEYS),
            shared_secret(&of("a", Some("b")), KEYS),
            shared_secret(&of("a", Some("c")), KEYS),
        ];
        assert_eq!(all[0], shared_secret(&of("a", None), KEYS));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn the_secret_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("cache");
        let first = kept_secret(&dir).unwrap();
        assert_eq!(kept_secret(&dir).unwrap(), first);
        std::fs::write(dir.join(SECRET_FILE), "not hexadecimal").unwrap();
        assert!(kept_secret(&dir).is_err());
    }
}
