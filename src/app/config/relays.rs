//! The relays an edge seals to, judged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use domain::{BackendName, Dialect};
use providers::UpstreamConfig;
use relay::Kem;
use relay::attest::Attestation;
use relay::shape::{RequestPad, Shape};

use super::faults::Findings;
use super::gateway::{kem, shape};
use super::raw::RawConfig;
use super::raw_sealed::{RawAttestation, RawRelay, RawRequestPad};
use super::sections::{trust, wait_ms};
use super::upstreams::{default_model, dialect, upstream_name};

/// More are a mistake; it bounds the metrics' labels, too.
const RELAYS_MAX: usize = 16;
/// Relays of one entry.
const MEMBERS_MAX: usize = 16;
/// No request goes to this address (RFC 2606, section 2): who answers is in the members' folders.
const BASE_URL: &str = "https://relay.invalid";

/// Relays that answer alike, as one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct RelaySettings {
    pub asked: UpstreamConfig,
    /// Their folders.
    pub members: Vec<PathBuf>,
    pub shape: Shape,
    pub request_pad: RequestPad,
    pub suites_min: Kem,
    pub attestation: Attestation,
    pub takes_slim: bool,
}

pub fn relays(
    raw: &RawConfig,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Vec<RelaySettings> {
    if raw.relays.len() > RELAYS_MAX {
        findings.fault("relays", format!("there are more than {RELAYS_MAX}"));
    }
    let upstreams = raw.upstreams.iter().filter_map(|it| it.called());
    let pools = raw.pools.iter().filter_map(|pool| pool.name.as_deref());
    let mut seen: BTreeSet<&str> = upstreams.chain(pools).collect();
    let mut judged = Vec::new();
    for (at, relay) in raw.relays.iter().enumerate() {
        let path = format!("relays[{at}]");
        if let Some(name) = &relay.name
            && !seen.insert(name)
        {
            findings.fault(
                format!("{path}.name"),
                format!("`{name}` is the name of another relay, pool or upstream"),
            );
        }
        judged.extend(settings(&path, relay, environment, findings));
    }
    judged
}

fn settings(
    path: &str,
    raw: &RawRelay,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Option<RelaySettings> {
    let at = |key: &str| format!("{path}.{key}");
    let name = upstream_name(path, raw.name.as_deref(), findings);
    let dialect = dialect(path, &raw.dialect, findings);
    let default_model = default_model(
        path,
        raw.default_model.as_deref(),
        &raw.models,
        "local",
        findings,
    );
    let members = members(path, raw, environment, findings);
    let shape = shape(&at("shape"), &raw.shape, findings);
    let mut wait = |key: &str, value| wait_ms(&at(key), value, findings);
    let connect_timeout = wait("connect_timeout_ms", raw.connect_timeout_ms);
    let first_event_timeout = wait("first_event_timeout_ms", raw.first_event_timeout_ms);
    let whole_reply_timeout = wait("whole_reply_timeout_ms", raw.whole_reply_timeout_ms);
    let idle_timeout = wait("idle_timeout_ms", raw.idle_timeout_ms);
    let dialect = dialect?;
    let base_path = base_path(dialect.dialect());
    if base_path.is_none() {
        findings.fault(
            at("dialect"),
            format!(
                "relays do not speak `{}`; openai is what all of them do",
                raw.dialect
            ),
        );
    }
    Some(RelaySettings {
        asked: UpstreamConfig {
            dialect,
            models: raw.models.clone(),
            // The next relay is the better second try, and the client takes it.
            connect_retries_max: 0,
            connect_timeout,
            first_event_timeout,
            whole_reply_timeout,
            idle_timeout,
            ..UpstreamConfig::new(
                BackendName::new(name?),
                format!("{BASE_URL}{}", base_path?),
                default_model?,
                trust(raw.trust),
            )
        },
        members,
        shape: shape?,
        request_pad: match raw.request_pad {
            RawRequestPad::Padme => RequestPad::Padme,
            RawRequestPad::Pow2 => RequestPad::Pow2,
        },
        suites_min: kem(raw.suites_min),
        attestation: attestation(&at("attestation"), raw.attestation, findings),
        takes_slim: raw.slim,
    })
}

/// No kind of evidence can be checked yet, which is better said than found out.
fn attestation(path: &str, raw: RawAttestation, findings: &mut Findings) -> Attestation {
    match raw {
        RawAttestation::Off => Attestation::Off,
        RawAttestation::Warn => {
            findings.warn(
                path,
                "this build checks no kind of evidence, so it will say so each time",
            );
            Attestation::Warn
        }
        RawAttestation::Require => {
            findings.fault(
                path,
                "this build checks no kind of evidence, so no relay would ever be asked; \
                 docs/attestation.md says what is missing",
            );
            Attestation::Require
        }
    }
}

/// What comes before a dialect's own paths at a node of ours; `None` where it answers in no such
/// dialect.
fn base_path(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::OpenAi | Dialect::Responses | Dialect::Completions => Some("/v1"),
        Dialect::Anthropic => Some(""),
        Dialect::Gemini | Dialect::Bedrock | Dialect::Ollama => None,
    }
}

fn members(
    path: &str,
    raw: &RawRelay,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Vec<PathBuf> {
    let path = format!("{path}.members");
    if raw.members.is_empty() {
        findings.fault(
            &path,
            "name at least one folder that `hedge relay join` wrote",
        );
    }
    if raw.members.len() > MEMBERS_MAX {
        findings.fault(&path, format!("there are more than {MEMBERS_MAX}"));
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    for (at, text) in raw.members.iter().enumerate() {
        let folder = member_folder(text, environment);
        if text.is_empty() {
            findings.fault(format!("{path}[{at}]"), "is empty");
        } else if folders.contains(&folder) {
            findings.fault(format!("{path}[{at}]"), "is listed twice");
        }
        folders.push(folder);
    }
    folders
}

/// A bare name is a folder in the usual place.
pub fn member_folder(text: &str, environment: &BTreeMap<String, String>) -> PathBuf {
    if text.contains('/') {
        return PathBuf::from(text);
    }
    super::data_dir(environment).join("relays").join(text)
}
