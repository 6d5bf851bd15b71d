//! What a key or team may, judged: of the configuration file, and of those made while the node runs, which
//! are written in the same words.

use std::sync::Arc;

use domain::{KeyId, Limit, ModelAlias, Priority, Scope, TeamId, Tokens};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::faults::{ConfigFault, Findings};
use super::quotas;
use super::raw::RawPriority;
use super::raw_quotas::RawLimit;

/// Of one key; a longer list is a group of models, which an alias names.
const MODELS_MAX: usize = 256;
/// Of one key.
const NETWORKS_MAX: usize = 64;
/// Of one key.
const ROUTES_MAX: usize = 64;
/// Of a model's name, and of a rule's.
const MODEL_BYTES_MAX: usize = 256;

/// What a key that is made while the node runs may: `[[keys]]` without what names it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RawGrants {
    models: Option<Vec<String>>,
    routes: Option<Vec<String>>,
    networks: Option<Vec<String>>,
    priority: RawPriority,
    limits: Vec<RawLimit>,
    output_tokens_max: Option<u32>,
}

/// The same of a team.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RawTeamGrants {
    limits: Vec<RawLimit>,
    user_limits: Vec<RawLimit>,
    user_required: Option<bool>,
}

/// What a team that is made while the node runs may.
#[derive(Clone, Debug)]
pub struct TeamGrants {
    pub limits: Vec<Limit>,
    /// Of each of its users, but for what is said of everybody's.
    pub user_limits: Vec<Limit>,
    pub user_required: Option<bool>,
}

/// What a key may, but for what its team and everybody may.
#[derive(Clone, Debug)]
pub struct OwnGrants {
    pub models: Option<Vec<ModelAlias>>,
    /// Whether there are such is known to whoever knows the rules.
    pub routes: Option<Arc<[String]>>,
    pub networks: Option<Arc<[IpNet]>>,
    pub priority: Priority,
    pub output_tokens_max: Option<Tokens>,
    pub limits: Vec<Limit>,
}

/// # Errors
/// Every fault, with its path from `words` on.
pub fn of_key(name: &str, words: &Map<String, Value>) -> Result<OwnGrants, Vec<ConfigFault>> {
    let raw: RawGrants = read(words)?;
    let mut findings = Findings::default();
    let name = KeyId::new(name);
    let own = OwnGrants {
        models: models("models", raw.models.as_deref(), &mut findings),
        routes: routes("routes", raw.routes.as_deref(), &mut findings),
        networks: networks("networks", raw.networks.as_deref(), &mut findings),
        priority: priority(raw.priority),
        output_tokens_max: output_tokens_max(
            "output_tokens_max",
            raw.output_tokens_max,
            &mut findings,
        ),
        limits: quotas::judge("limits", &raw.limits, &Scope::Key(name), &mut findings),
    };
    if findings.faults.is_empty() {
        Ok(own)
    } else {
        Err(findings.faults)
    }
}

/// # Errors
/// As of [`of_key`].
pub fn of_team(name: &str, words: &Map<String, Value>) -> Result<TeamGrants, Vec<ConfigFault>> {
    let raw: RawTeamGrants = read(words)?;
    let mut findings = Findings::default();
    let scope = Scope::Team(TeamId::new(name));
    let grants = TeamGrants {
        limits: quotas::judge("limits", &raw.limits, &scope, &mut findings),
        user_limits: quotas::of_users("user_limits", &raw.user_limits, &mut findings),
        user_required: raw.user_required,
    };
    if findings.faults.is_empty() {
        Ok(grants)
    } else {
        Err(findings.faults)
    }
}

fn read<T: DeserializeOwned>(words: &Map<String, Value>) -> Result<T, Vec<ConfigFault>> {
    let value = Value::Object(words.clone());
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        // The whole of it is `.`.
        let path = if path == "." { String::new() } else { path };
        vec![ConfigFault { path, message }]
    })
}

pub fn models(
    path: &str,
    raw: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Vec<ModelAlias>> {
    let raw = raw?;
    if raw.len() > MODELS_MAX {
        findings.fault(path, format!("has more than {MODELS_MAX} models"));
    }
    for (at, model) in raw.iter().enumerate() {
        if model.is_empty() || model.len() > MODEL_BYTES_MAX || model.contains(char::is_control) {
            let words = format!(
                "is no model's name: it is not empty, has at most {MODEL_BYTES_MAX} bytes and no \
                 control characters"
            );
            findings.fault(format!("{path}[{at}]"), words);
        }
    }
    Some(raw.iter().map(ModelAlias::new).collect())
}

pub fn routes(
    path: &str,
    raw: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Arc<[String]>> {
    let raw = raw?;
    if raw.len() > ROUTES_MAX {
        findings.fault(path, format!("has more than {ROUTES_MAX} routes"));
    }
    if raw.is_empty() {
        findings.fault(path, "names no route; leave it out for all");
    }
    for (at, route) in raw.iter().enumerate() {
        if route.is_empty() || route.len() > MODEL_BYTES_MAX || route.contains(char::is_control) {
            let words = format!(
                "is no route's name: it is not empty, has at most {MODEL_BYTES_MAX} bytes and no \
                 control characters"
            );
            findings.fault(format!("{path}[{at}]"), words);
        }
    }
    Some(raw.into())
}

/// The first of these that is none of the `known`, with its place, and what to do about it.
pub fn unknown_route(routes: Option<&[String]>, known: &[String]) -> Option<(usize, String)> {
    let mut unknown = routes?.iter().enumerate();
    let (at, name) = unknown.find(|(_, name)| !known.contains(name))?;
    let mut list = known.join("`, `");
    list.truncate(list.floor_char_boundary(KNOWN_BYTES_MAX));
    let words = format!("`{name}` is the name of no rule in `routes.file`; there are `{list}`");
    Some((at, words))
}

/// Of what is said of the routes that there are.
const KNOWN_BYTES_MAX: usize = 512;

pub fn networks(
    path: &str,
    raw: Option<&[String]>,
    findings: &mut Findings,
) -> Option<Arc<[IpNet]>> {
    let raw = raw?;
    if raw.len() > NETWORKS_MAX {
        findings.fault(path, format!("has more than {NETWORKS_MAX} networks"));
    }
    if raw.is_empty() {
        findings.fault(path, "names no network; leave it out for any");
    }
    let networks = raw.iter().enumerate().filter_map(|(at, text)| {
        let read = domain::network(text);
        read.map_err(|error| findings.fault(format!("{path}[{at}]"), error.to_string()))
            .ok()
    });
    Some(networks.collect())
}

pub fn priority(raw: RawPriority) -> Priority {
    match raw {
        RawPriority::Interactive => Priority::Interactive,
        RawPriority::Batch => Priority::Batch,
    }
}

pub fn output_tokens_max(path: &str, raw: Option<u32>, findings: &mut Findings) -> Option<Tokens> {
    if raw == Some(0) {
        findings.fault(path, "is at least 1");
    }
    raw.map(Tokens)
}
