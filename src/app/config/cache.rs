//! The `cache` section.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use engine::EmbedderConfig;
use pipeline::Pace;
use policy::ReuseScope;
use policy::reuse::{AcceptanceRules, Class};

use super::embeddings::EncoderSettings;
use super::faults::Findings;
use super::raw::RawConfig;
use super::raw_cache::{RawCache, RawCompartment, RawPace};
use super::secret::Surroundings;
use super::sections::{ModelSource, model_source, within};
use super::shared::StoreSettings;
use super::shared_cache::{self, SharedCacheSettings};
use crate::bundled;

/// Tokens that may wait for the encoder: some thousand questions. Then a look-up is a miss.
const QUEUE_TOKENS: usize = 64 * 1024;

/// What the encoder is called in the log.
const NAME: &str = "hedge-encoder";

const MEBIBYTE: u64 = 1024 * 1024;

#[derive(Clone, Debug)]
pub struct CacheSettings {
    pub is_enabled: bool,
    pub bytes_max: u64,
    pub ttl: Duration,
    pub reply_bytes_max: usize,
    pub epoch: u64,
    pub pace: Pace,
    /// `None` where replies are this node's alone.
    pub shared: Option<SharedCacheSettings>,
    /// `None` where replies answer their own request alone.
    pub reuse: Option<ReuseSettings>,
}

#[derive(Clone, Debug)]
pub struct ReuseSettings {
    pub encoder: EncoderSettings,
    pub acceptance: AcceptanceRules,
    pub scope: ReuseScope,
    pub writers_min: usize,
    pub is_dry: bool,
    pub ttl_by_class: BTreeMap<String, Duration>,
    pub look_up_max: Duration,
    pub hit_pad: Duration,
    /// Where they outlive the process; `None`: nowhere.
    pub dir: Option<PathBuf>,
    pub entries_max: u64,
    pub bytes_max: u64,
}

pub fn cache(
    config: &RawConfig,
    store: &StoreSettings,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> CacheSettings {
    let raw = &config.cache;
    within("cache.ttl_s", raw.ttl_s, 1..=31_536_000, findings);
    within(
        "cache.bytes_max",
        raw.bytes_max,
        MEBIBYTE..=1024 * 1024 * MEBIBYTE,
        findings,
    );
    within(
        "cache.reply_bytes_max",
        raw.reply_bytes_max,
        1..=raw.bytes_max.max(1),
        findings,
    );
    CacheSettings {
        is_enabled: raw.enabled,
        bytes_max: raw.bytes_max,
        ttl: Duration::from_secs(raw.ttl_s),
        reply_bytes_max: usize::try_from(raw.reply_bytes_max).unwrap_or(usize::MAX),
        epoch: raw.epoch,
        pace: match raw.replay {
            RawPace::Instant => Pace::Instant,
            RawPace::Natural => Pace::Natural,
        },
        shared: shared_cache::shared(config, store, around, findings),
        reuse: reuse(config, findings),
    }
}

fn reuse(config: &RawConfig, findings: &mut Findings) -> Option<ReuseSettings> {
    let raw = &config.cache;
    let ttl_by_class = judge(raw, findings);
    let source = model_source(raw.encoder.as_deref());
    let has_encoder = source != ModelSource::Bundled || bundled::has_encoder();
    if raw.semantic == Some(true) && !raw.enabled {
        findings.fault("cache.semantic", "needs cache.enabled");
    }
    if raw.semantic == Some(true) && !has_encoder {
        findings.fault(
            "cache.semantic",
            "needs an encoder, and there is none inside this binary: set cache.encoder",
        );
    }
    // An encoder is a process of its own: nobody gets one who did not ask for it.
    let is_wanted = raw.semantic.unwrap_or(source != ModelSource::Bundled);
    if !raw.enabled || !is_wanted || !has_encoder {
        return None;
    }
    let encoder = EncoderSettings {
        source,
        name: Some(NAME.to_owned()),
        also: Vec::new(),
        input_tokens_max: None,
        queue_tokens_max: QUEUE_TOKENS,
        threads: Some(1),
        gpu_layers: Some(0),
        isolation: config.local.isolation,
        // Judged with the section it stands in.
        hang_max: Duration::from_millis(
            config.local.hang_ms_max.max(EmbedderConfig::HANG_MS_LEAST),
        ),
    };
    Some(ReuseSettings {
        encoder,
        acceptance: AcceptanceRules {
            max_wrong_rate: raw.max_wrong_rate,
            shadow_share: raw.shadow_rate,
        },
        scope: match raw.compartment {
            RawCompartment::Team => ReuseScope::Team,
            RawCompartment::Shared => ReuseScope::Shared,
        },
        writers_min: raw.shared_writers_min as usize,
        is_dry: raw.dry_run,
        ttl_by_class,
        look_up_max: Duration::from_millis(raw.look_up_ms_max),
        hit_pad: Duration::from_millis(raw.pad_hits_ms),
        dir: raw.dir.as_deref().map(PathBuf::from),
        entries_max: raw.entries_max,
        bytes_max: raw.entries_bytes_max,
    })
}

fn judge(raw: &RawCache, findings: &mut Findings) -> BTreeMap<String, Duration> {
    within(
        "cache.max_wrong_rate",
        raw.max_wrong_rate,
        0.0..=1.0,
        findings,
    );
    within("cache.shadow_rate", raw.shadow_rate, 0.0..=1.0, findings);
    let writers = 1..=domain::WRITERS_MAX as u32;
    within(
        "cache.shared_writers_min",
        raw.shared_writers_min,
        writers,
        findings,
    );
    within("cache.pad_hits_ms", raw.pad_hits_ms, 0..=10_000, findings);
    within(
        "cache.look_up_ms_max",
        raw.look_up_ms_max,
        1..=10_000,
        findings,
    );
    within(
        "cache.entries_max",
        raw.entries_max,
        1..=100_000_000,
        findings,
    );
    within(
        "cache.entries_bytes_max",
        raw.entries_bytes_max,
        MEBIBYTE..=1024 * 1024 * MEBIBYTE,
        findings,
    );
    let mut ttl_by_class = BTreeMap::new();
    for (class, ttl_s) in &raw.ttl_by_class_s {
        let path = format!("cache.ttl_by_class_s.{class}");
        if Class::of_label(class).is_none() {
            let known: Vec<&str> = Class::all().map(Class::as_label).collect();
            findings.fault(path, format!("is none of {}", known.join(", ")));
            continue;
        }
        within(&path, *ttl_s, 1..=31_536_000, findings);
        ttl_by_class.insert(class.clone(), Duration::from_secs(*ttl_s));
    }
    ttl_by_class
}
