//! The upstreams, and the aliases that lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use domain::BackendName;
use providers::{UpstreamConfig, UpstreamConfigError};
use wire::ClientDialect;

use super::faults::Findings;
use super::raw::{OneOrMany, RawConfig, RawUpstream, dialect_words};
use super::secret::Surroundings;
use super::sections::{RESERVED_NAMES, trust, wait_ms};
use super::trouble::continues;

pub fn upstreams(
    raw: &[RawUpstream],
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<UpstreamConfig> {
    let mut seen = BTreeSet::new();
    raw.iter()
        .enumerate()
        .filter_map(|(at, upstream)| {
            let path = format!("upstreams[{at}]");
            if let Some(name) = &upstream.name
                && !seen.insert(name.clone())
            {
                findings.fault(
                    format!("{path}.name"),
                    format!("`{name}` is the name of another upstream"),
                );
            }
            upstream_config(&path, upstream, around, findings)
        })
        .collect()
}

fn upstream_config(
    path: &str,
    raw: &RawUpstream,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<UpstreamConfig> {
    let name = upstream_name(path, raw.name.as_deref(), findings);
    let base_url = base_url(path, raw, findings);
    let dialect = dialect(path, &raw.dialect, findings);
    let default_model = default_model(
        path,
        raw.default_model.as_deref(),
        &raw.models,
        "gpt-5-mini",
        findings,
    );
    let secret_path = format!("{path}.key");
    let key = raw
        .key
        .as_ref()
        .and_then(|key| around.secret(&secret_path, key, findings));
    let mut headers = Vec::new();
    for (header, text) in &raw.headers {
        let is_reference = text.0.starts_with("env:") || text.0.starts_with("file:");
        let value = if is_reference {
            let header_path = format!("{path}.headers.{header}");
            around
                .secret(&header_path, text, findings)
                .map(|secret| secret.expose().to_owned())
        } else {
            Some(text.0.clone())
        };
        headers.extend(value.map(|value| (header.clone(), value)));
    }
    let connect_timeout = wait_ms(
        &format!("{path}.connect_timeout_ms"),
        raw.connect_timeout_ms,
        findings,
    );
    let first_event_timeout = wait_ms(
        &format!("{path}.first_event_timeout_ms"),
        raw.first_event_timeout_ms,
        findings,
    );
    let whole_reply_timeout = wait_ms(
        &format!("{path}.whole_reply_timeout_ms"),
        raw.whole_reply_timeout_ms,
        findings,
    );
    let idle_timeout = wait_ms(
        &format!("{path}.idle_timeout_ms"),
        raw.idle_timeout_ms,
        findings,
    );
    Some(UpstreamConfig {
        name: BackendName::new(name?),
        base_url: base_url?,
        dialect: dialect?,
        key,
        default_model: default_model?,
        models: raw.models.clone(),
        trust: trust(raw.trust),
        headers,
        connect_retries_max: UpstreamConfig::CONNECT_RETRIES_MAX_DEFAULT,
        connect_timeout,
        first_event_timeout,
        whole_reply_timeout,
        idle_timeout,
        structured_outputs: raw.structured_outputs,
        is_idempotent: raw.idempotent,
        continues: continues(raw.continues),
    })
}

pub fn upstream_name(path: &str, name: Option<&str>, findings: &mut Findings) -> Option<String> {
    let path = format!("{path}.name");
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        findings.fault(path, "is required");
        return None;
    };
    let is_plain = name
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'));
    if !is_plain {
        findings.fault(path, "takes letters, digits, `-`, `_` and `.`");
        return None;
    }
    if RESERVED_NAMES.contains(&name) {
        findings.fault(path, format!("`{name}` means something else to callers"));
        return None;
    }
    Some(name.to_owned())
}

fn base_url(path: &str, raw: &RawUpstream, findings: &mut Findings) -> Option<String> {
    let path = format!("{path}.base_url");
    let Some(text) = &raw.base_url else {
        findings.fault(path, "is required, such as https://api.openai.com/v1");
        return None;
    };
    let Ok(url) = reqwest::Url::parse(text) else {
        findings.fault(path, "is not a URL such as https://api.openai.com/v1");
        return None;
    };
    if let Some(fault) = url_fault(&url, raw.allow_http) {
        findings.fault(path, fault);
        return None;
    }
    Some(text.clone())
}

fn dialect(path: &str, word: &str, findings: &mut Findings) -> Option<&'static dyn ClientDialect> {
    let dialect = wire::client(word);
    if dialect.is_none() {
        findings.fault(
            format!("{path}.dialect"),
            format!("`{word}` is none of {}", dialect_words().join(", ")),
        );
    }
    dialect
}

/// What keeps a URL from being where requests are sent.
pub fn url_fault(url: &reqwest::Url, allow_http: bool) -> Option<&'static str> {
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        Some("begins with https://")
    } else if !url.username().is_empty() || url.password().is_some() {
        Some("must not hold a user name or password; use `key`")
    } else if url.query().is_some() || url.fragment().is_some() {
        Some("must not have a query or a fragment")
    } else if url.scheme() == "http" && !is_loopback(url) && !allow_http {
        Some("is plain HTTP to another machine; use https, or set allow_http = true beside it")
    } else {
        None
    }
}

/// True for addresses of this machine.
pub fn is_loopback(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

pub fn default_model(
    path: &str,
    named: Option<&str>,
    models: &[String],
    example: &str,
    findings: &mut Findings,
) -> Option<String> {
    let named = named.filter(|name| !name.is_empty());
    let Some(model) = named.or(models.first().map(String::as_str)) else {
        findings.fault(
            format!("{path}.models"),
            format!("name at least one model, such as models = [\"{example}\"]"),
        );
        return None;
    };
    if !models.is_empty() && !models.iter().any(|known| known == model) {
        findings.fault(
            format!("{path}.default_model"),
            format!("`{model}` is not among `models`"),
        );
    }
    Some(model.to_owned())
}

/// Which key an upstream's own complaint is about.
pub fn upstream_fault_key(error: &UpstreamConfigError) -> &'static str {
    match error {
        UpstreamConfigError::UrlMalformed
        | UpstreamConfigError::UrlScheme
        | UpstreamConfigError::UrlCredentials
        | UpstreamConfigError::UrlQuery => "base_url",
        UpstreamConfigError::KeyUnsendable => "key",
        UpstreamConfigError::HeaderMalformed { .. }
        | UpstreamConfigError::HeaderReserved { .. } => "headers",
        UpstreamConfigError::NoDefaultModel => "default_model",
    }
}

/// The aliases as lists. Where they lead is judged once the backends are known.
pub fn aliases(raw: &RawConfig, findings: &mut Findings) -> BTreeMap<String, Vec<String>> {
    if raw.aliases.keys().any(String::is_empty) {
        findings.fault("aliases", "holds an alias without a name");
    }
    raw.aliases
        .iter()
        .map(|(alias, targets)| (alias.clone(), OneOrMany::into_vec(targets.clone())))
        .collect()
}
