//! The upstreams, and the aliases that lead to them.

mod credentials;

use std::collections::{BTreeMap, BTreeSet};

use domain::{BackendName, is_this_machine};
use providers::{UpstreamConfig, UpstreamConfigError};
use wire::ClientDialect;
use wire::openai::Quirks;

use super::catalogue::Catalogue;
use super::faults::Findings;
use super::raw::{OneOrMany, RawConfig, RawUpstream, dialect_words};
use super::raw_providers::{RawProvider, RawQuirks};
use super::secret::Surroundings;
use super::sections::{RESERVED_NAMES, trust, wait_ms};
use super::trouble::continues;

pub fn upstreams(
    raw: &[RawUpstream],
    providers: &Catalogue,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<UpstreamConfig> {
    let mut seen = BTreeSet::new();
    raw.iter()
        .enumerate()
        .filter_map(|(at, upstream)| {
            let path = format!("upstreams[{at}]");
            if let Some(name) = upstream.called()
                && !seen.insert(name.to_owned())
            {
                findings.fault(
                    format!("{path}.name"),
                    format!("`{name}` is the name of another upstream"),
                );
            }
            let provider = match &upstream.provider {
                None => RawProvider::default(),
                Some(name) => match providers.get(name) {
                    Some(provider) => provider.clone(),
                    None => {
                        findings.fault(format!("{path}.provider"), providers.unknown(name));
                        return None;
                    }
                },
            };
            upstream_config(&path, upstream, provider, around, findings)
        })
        .collect()
}

/// As which provider of the price list each upstream charges.
pub fn price_providers(
    raw: &[RawUpstream],
    providers: &Catalogue,
) -> BTreeMap<BackendName, String> {
    let known = raw.iter().filter_map(|upstream| {
        let provider = providers.get(upstream.provider.as_ref()?)?;
        let charges = provider.prices.as_ref().unwrap_or(&provider.name);
        Some((BackendName::new(upstream.called()?), charges.clone()))
    });
    known.collect()
}

fn upstream_config(
    path: &str,
    raw: &RawUpstream,
    provider: RawProvider,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<UpstreamConfig> {
    let name = upstream_name(path, raw.called(), findings);
    let base_url = base_url(path, raw, &provider, around, findings);
    let word = raw.dialect.as_ref().or(provider.dialect.as_ref());
    let dialect = dialect(path, word.map_or("openai", String::as_str), findings);
    let default_model = default_model(
        path,
        raw.default_model.as_deref(),
        &raw.models,
        "gpt-5-mini",
        findings,
    );
    if let Some(dialect) = dialect {
        check_moderation(path, &raw.moderation_models, dialect, findings);
    }
    let auth = credentials::auth(path, raw, &provider, around, findings);
    let own = raw.headers.keys().map(|name| name.to_ascii_lowercase());
    let own: BTreeSet<String> = own.collect();
    let theirs = provider.headers.clone().into_iter();
    let mut headers: Vec<(String, String)> = theirs
        .filter(|(name, _)| !own.contains(&name.to_ascii_lowercase()))
        .collect();
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
    let mut wait = |key: &str, value| wait_ms(&format!("{path}.{key}"), value, findings);
    let connect_timeout = wait("connect_timeout_ms", raw.connect_timeout_ms);
    let first_event_timeout = wait("first_event_timeout_ms", raw.first_event_timeout_ms);
    let whole_reply_timeout = wait("whole_reply_timeout_ms", raw.whole_reply_timeout_ms);
    let idle_timeout = wait("idle_timeout_ms", raw.idle_timeout_ms);
    // A file speaks of its own address; whose another one is, it cannot know.
    let known_trust = provider.trust.filter(|_| raw.base_url.is_none());
    let mut query = provider.query;
    query.extend(raw.query.clone());
    Some(UpstreamConfig {
        name: BackendName::new(name?),
        base_url: base_url?,
        dialect: dialect?,
        quirks: quirks(raw.quirks.clone().over(provider.quirks)),
        query: query.into_iter().collect(),
        auth: auth?,
        default_model: default_model?,
        models: raw.models.clone(),
        trust: trust(raw.trust.or(known_trust).unwrap_or_default()),
        headers,
        connect_retries_max: UpstreamConfig::CONNECT_RETRIES_MAX_DEFAULT,
        connect_timeout,
        first_event_timeout,
        whole_reply_timeout,
        idle_timeout,
        structured_outputs: raw
            .structured_outputs
            .unwrap_or(provider.structured_outputs),
        image_urls: raw.image_urls.or(provider.image_urls),
        moderation_models: raw.moderation_models.clone(),
        is_idempotent: raw.idempotent,
        continues: continues(raw.continues.or(provider.continues).unwrap_or_default()),
    })
}

fn quirks(raw: RawQuirks) -> Quirks {
    let pairs = |names: Option<BTreeMap<String, String>>| {
        names
            .into_iter()
            .flatten()
            .collect::<Vec<(String, String)>>()
    };
    let phrases = raw.context_phrases.unwrap_or_default().into_iter();
    Quirks {
        renames: pairs(raw.rename),
        drops: raw.drop.unwrap_or_default(),
        refuses: raw.refuse.unwrap_or_default(),
        message_renames: pairs(raw.message_rename),
        message_drops: raw.message_drop.unwrap_or_default(),
        call_drops: raw.call_drop.unwrap_or_default(),
        system_role: raw.system_role,
        context_phrases: phrases.map(|phrase| phrase.to_lowercase()).collect(),
    }
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

fn base_url(
    path: &str,
    raw: &RawUpstream,
    provider: &RawProvider,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<String> {
    const REGION: &str = "{region}";
    let path = format!("{path}.base_url");
    let Some(text) = raw.base_url.as_ref().or(provider.base_url.as_ref()) else {
        let example = provider.base_url_example.as_deref();
        let example = example.unwrap_or("https://api.openai.com/v1");
        findings.fault(path, format!("is required, such as {example}"));
        return None;
    };
    let text = match credentials::region(raw, around) {
        Some(region) => text.replace(REGION, &region),
        None => text.clone(),
    };
    if text.contains(REGION) {
        findings.fault(path, "names a region; set `aws.region`, or AWS_REGION");
        return None;
    }
    let Ok(url) = reqwest::Url::parse(&text) else {
        findings.fault(path, "is not a URL such as https://api.openai.com/v1");
        return None;
    };
    if let Some(fault) = url_fault(&url, raw.allow_http) {
        findings.fault(path, fault);
        return None;
    }
    Some(text)
}

pub fn dialect(
    path: &str,
    word: &str,
    findings: &mut Findings,
) -> Option<&'static dyn ClientDialect> {
    let dialect = wire::client(word);
    if dialect.is_none() {
        findings.fault(
            format!("{path}.dialect"),
            format!("`{word}` is none of {}", dialect_words().join(", ")),
        );
    }
    dialect
}

fn check_moderation(
    path: &str,
    models: &[String],
    dialect: &dyn ClientDialect,
    findings: &mut Findings,
) {
    let path = format!("{path}.moderation_models");
    if models.iter().any(String::is_empty) {
        findings.fault(&path, "holds an empty name");
    }
    if !models.is_empty() && dialect.moderations().is_none() {
        findings.fault(path, "what is spoken there judges no texts");
    }
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
    url.host_str().is_some_and(is_this_machine)
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
        UpstreamConfigError::KeyUnsendable | UpstreamConfigError::KeyCarried => "key",
        UpstreamConfigError::TokenUrl => "entra.token_url",
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
