//! The pools, judged.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::{BackendName, Trust};
use providers::{
    Auth, Balance, Continues, EngineKind, HealthRules, Members, PoolConfig, UpstreamConfig,
};
use reqwest::Url;

use super::ModelSource;
use super::faults::Findings;
use super::raw::{RawConfig, RawTrust};
use super::raw_pools::{RawEngineKind, RawPool, RawPoolHealth};
use super::secret::Surroundings;
use super::sections::{model_source, trust, wait_ms, within};
use super::upstreams::{default_model, upstream_name, url_fault};

/// More pools than this are a mistake; it bounds the metrics' labels, too.
const POOLS_MAX: usize = 16;
const URL_EXAMPLE: &str = "http://10.0.0.5:8000/v1";

pub fn pools(
    raw: &RawConfig,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<PoolConfig> {
    if raw.pools.len() > POOLS_MAX {
        findings.fault("pools", format!("there are more than {POOLS_MAX}"));
    }
    warn_of_bundled(raw, findings);
    let upstreams = raw.upstreams.iter().filter_map(|it| it.called());
    let mut seen: BTreeSet<&str> = upstreams.collect();
    let mut judged = Vec::new();
    for (at, pool) in raw.pools.iter().enumerate() {
        let path = format!("pools[{at}]");
        if let Some(name) = &pool.name
            && !seen.insert(name)
        {
            findings.fault(
                format!("{path}.name"),
                format!("`{name}` is the name of another pool or upstream"),
            );
        }
        judged.extend(pool_config(&path, pool, around, findings));
    }
    judged
}

/// The model inside the binary keeps the name `local`, which nobody wants who has engines.
fn warn_of_bundled(raw: &RawConfig, findings: &mut Findings) {
    let is_bundled = model_source(raw.local.model.as_deref()) == ModelSource::Bundled;
    if raw.local.enabled
        && is_bundled
        && let Some(name) = raw.pools.first().and_then(|pool| pool.name.as_deref())
    {
        findings.warn(
            "local.enabled",
            format!(
                "`local` means the small model inside this binary; set it to false so that `local` \
                 means the pool `{name}`"
            ),
        );
    }
}

/// A pool cut short in its attempts neither tries its other endpoints nor learns which one hangs.
pub fn warn_of_patience(pools: &[PoolConfig], last: Duration, findings: &mut Findings) {
    for (at, pool) in pools.iter().enumerate() {
        let needed = pool.asked.first_event_timeout * pool.attempts_max;
        if needed > last {
            findings.warn(
                format!("pools[{at}].first_event_timeout_ms"),
                format!(
                    "attempts_max = {} of these take {} ms, more than \
                     limits.first_content_last_ms_max = {}: not all of them are made",
                    pool.attempts_max,
                    needed.as_millis(),
                    last.as_millis()
                ),
            );
        }
    }
}

fn pool_config(
    path: &str,
    raw: &RawPool,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<PoolConfig> {
    let at = |key: &str| format!("{path}.{key}");
    let name = upstream_name(path, raw.name.as_deref(), findings);
    if raw.kind.is_none() {
        let kinds = EngineKind::ALL.map(EngineKind::as_label).join(", ");
        findings.fault(at("kind"), format!("is required: one of {kinds}"));
    }
    let endpoints_max = within(&at("endpoints_max"), raw.endpoints_max, 1..=256, findings);
    let members = members(path, raw, findings);
    let default_model = default_model(
        path,
        raw.default_model.as_deref(),
        &raw.models,
        "llama-3.3-70b",
        findings,
    );
    let key = raw.key.as_ref();
    let key = key.and_then(|key| around.key(&at("key"), key, findings));
    let balance = Balance {
        affinity_bytes: within(
            &at("affinity_bytes"),
            raw.affinity_bytes,
            0..=65_536,
            findings,
        ) as usize,
        spill_factor: within(&at("spill_factor"), raw.spill_factor, 1.0..=100.0, findings),
    };
    let attempts_max = within(&at("attempts_max"), raw.attempts_max, 1..=16, findings);
    let in_flight_max = within(
        &at("in_flight_max"),
        raw.in_flight_max,
        1..=100_000,
        findings,
    );
    let trust = pool_trust(&at("trust"), raw.trust, findings);
    let health = health(&at("health"), &raw.health, findings);
    let mut wait = |key: &str, value| wait_ms(&at(key), value, findings);
    let asked = UpstreamConfig {
        connect_timeout: wait("connect_timeout_ms", raw.connect_timeout_ms),
        first_event_timeout: wait("first_event_timeout_ms", raw.first_event_timeout_ms),
        whole_reply_timeout: wait("whole_reply_timeout_ms", raw.whole_reply_timeout_ms),
        idle_timeout: wait("idle_timeout_ms", raw.idle_timeout_ms),
        auth: key.map_or(Auth::None, Auth::Bearer),
        models: raw.models.clone(),
        // vLLM's own words. The others have words of their own for it, or none.
        structured_outputs: raw
            .structured_outputs
            .unwrap_or(raw.kind == Some(RawEngineKind::Vllm)),
        continues: raw.kind.map_or(Continues::Never, continues),
        // Another endpoint is the better second try.
        connect_retries_max: 0,
        ..UpstreamConfig::new(
            BackendName::new(name?),
            String::new(),
            default_model?,
            trust,
        )
    };
    Some(PoolConfig {
        asked,
        kind: kind(raw.kind?),
        members: members?,
        endpoints_max: endpoints_max as usize,
        attempts_max,
        in_flight_max,
        balance,
        health,
    })
}

/// How each engine goes on with an answer that was begun. Whether Ollama's do depends on the model's
/// template.
fn continues(kind: RawEngineKind) -> Continues {
    match kind {
        RawEngineKind::Vllm | RawEngineKind::Sglang => Continues::FinalMessage,
        RawEngineKind::LlamaServer => Continues::Message,
        RawEngineKind::Ollama => Continues::Never,
    }
}

fn kind(raw: RawEngineKind) -> EngineKind {
    match raw {
        RawEngineKind::Vllm => EngineKind::Vllm,
        RawEngineKind::LlamaServer => EngineKind::LlamaServer,
        RawEngineKind::Ollama => EngineKind::Ollama,
        RawEngineKind::Sglang => EngineKind::Sglang,
    }
}

fn pool_trust(path: &str, raw: RawTrust, findings: &mut Findings) -> Trust {
    if raw == RawTrust::Public {
        findings.fault(
            path,
            "a pool is machines of your own: tenant or device; anyone else's are [[upstreams]]",
        );
    }
    trust(raw)
}

fn members(path: &str, raw: &RawPool, findings: &mut Findings) -> Option<Members> {
    match (&raw.dns, raw.endpoints.is_empty()) {
        (None, true) => {
            findings.fault(
                format!("{path}.endpoints"),
                format!("name at least one, such as {URL_EXAMPLE}, or a `dns` name"),
            );
            None
        }
        (Some(_), false) => {
            findings.fault(
                format!("{path}.dns"),
                "stands beside `endpoints`; a pool has one or the other",
            );
            None
        }
        (Some(dns), true) => by_name(path, dns, raw, findings),
        (None, false) => Some(Members::Listed(listed(path, raw, findings))),
    }
}

fn listed(path: &str, raw: &RawPool, findings: &mut Findings) -> Vec<String> {
    if raw.endpoints.len() > raw.endpoints_max as usize {
        findings.fault(
            format!("{path}.endpoints"),
            format!("there are more than endpoints_max = {}", raw.endpoints_max),
        );
    }
    let mut seen = BTreeSet::new();
    let mut urls = Vec::new();
    for (at, text) in raw.endpoints.iter().enumerate() {
        let path = format!("{path}.endpoints[{at}]");
        let Some(url) = engine_url(&path, text, raw.allow_http, findings) else {
            continue;
        };
        if seen.insert(url.clone()) {
            urls.push(url.to_string());
        } else {
            findings.fault(path, "is listed twice");
        }
    }
    urls
}

fn by_name(path: &str, text: &str, raw: &RawPool, findings: &mut Findings) -> Option<Members> {
    let refresh_path = format!("{path}.dns_refresh_s");
    let refresh = within(&refresh_path, raw.dns_refresh_s, 1..=86_400, findings);
    let path = format!("{path}.dns");
    let url = engine_url(&path, text, raw.allow_http, findings)?;
    let fault = if url.scheme() == "https" {
        "must begin with http://: addresses have no certificates; list https endpoints by name in \
         `endpoints`"
    } else if url.domain().is_none() {
        "is an address; list it in `endpoints`"
    } else {
        return Some(Members::Dns {
            base_url: url.to_string(),
            refresh: Duration::from_secs(refresh),
        });
    };
    findings.fault(path, fault);
    None
}

/// A URL with nothing after `/v1`.
fn engine_url(path: &str, text: &str, allow_http: bool, findings: &mut Findings) -> Option<Url> {
    let Ok(mut url) = Url::parse(text) else {
        findings.fault(path, format!("is not a URL such as {URL_EXAMPLE}"));
        return None;
    };
    let base = url.path().trim_end_matches('/').to_owned();
    let fault = url_fault(&url, allow_http).or_else(|| {
        let ends_well = base.ends_with("/v1");
        (!ends_well).then_some("must end in /v1, where all of these engines serve")
    });
    if let Some(fault) = fault {
        findings.fault(path, fault);
        return None;
    }
    url.set_path(&base);
    Some(url)
}

fn health(path: &str, raw: &RawPoolHealth, findings: &mut Findings) -> HealthRules {
    if raw.eject_ms > raw.eject_ms_max {
        findings.fault(
            format!("{path}.eject_ms"),
            format!("is more than eject_ms_max = {}", raw.eject_ms_max),
        );
    }
    let failures_path = format!("{path}.failures_max");
    let failures_max = within(&failures_path, raw.failures_max, 1..=1_000, findings);
    let mut wait = |key: &str, value| wait_ms(&format!("{path}.{key}"), value, findings);
    HealthRules {
        interval: wait("interval_ms", raw.interval_ms),
        timeout: wait("timeout_ms", raw.timeout_ms),
        failures_max,
        eject: wait("eject_ms", raw.eject_ms),
        eject_max: wait("eject_ms_max", raw.eject_ms_max),
    }
}
