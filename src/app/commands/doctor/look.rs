//! The looking itself: each function sees one thing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;
use domain::HealthState;
use providers::Transport;
use reqwest::Client;
use serde::Deserialize;

use super::gpu::Gpus;
use super::upstreams::{self, LOOK_MAX};
use super::{Line, pools, relays, shared};
use crate::assembly::Assembly;
use crate::cli::ConfigArgs;
use crate::config::{self, AdminListen, Catalogue, Config, Findings, Loaded};
use crate::embedder::{EncoderFault, EncoderModel};
use crate::fleet::mebibytes;
use crate::local::{self, Absent, LocalFault, LocalModel, Located};
use crate::sealed::unaudited;
use crate::{bundled, client, embedder};

/// Longest answer read of a hedge that runs.
const READY_BYTES_MAX: usize = 64 * 1024;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

pub fn all(args: &ConfigArgs) -> anyhow::Result<Vec<Line>> {
    let environment = config::environment();
    let loaded = config::load(args.config.as_deref(), &environment, &[]);
    let gpus = Gpus::look();
    let mut lines = vec![cpu(), memory()];
    lines.extend(gpus.lines());
    lines.extend(configuration(&loaded));
    lines.push(provider_keys(&loaded, &environment));
    let Some(config) = &loaded.config else {
        return Ok(lines);
    };
    let (models, located) = models(config);
    lines.extend(models);
    if let Some(located) = &located {
        lines.extend(gpus.models(located));
    }
    lines.extend(encoders(config, located.as_ref()));
    lines.push(data_dir(config));
    lines.extend(ports(config));
    let http = client::build().context("cannot set up the HTTP client")?;
    if !http.has_certificates {
        let (found, next) = client::NO_CERTIFICATES.split_once("; ").unwrap_or_default();
        lines.push(Line::fail("tls", found, next));
    }
    lines.push(rules(config, located.as_ref(), &http.transport()));
    let runtime = crate::commands::runtime()?;
    lines.extend(runtime.block_on(retention(config)));
    lines.extend(runtime.block_on(running(config, &http.client)));
    lines.extend(runtime.block_on(shared::look(config)));
    lines.extend(runtime.block_on(pools::look(config, &http.transport())));
    lines.extend(runtime.block_on(relays::look(config)));
    lines.extend(runtime.block_on(upstreams::look(config, &http.client)));
    Ok(lines)
}

/// Whether each key can be had that prompts and replies are sealed under.
async fn retention(config: &Config) -> Vec<Line> {
    let mut lines = Vec::new();
    let settings = config.retention.iter();
    for (at, source) in settings.flat_map(|it| it.keys.iter().enumerate()) {
        lines.push(match crate::retention::fetch(source).await {
            Ok(key) => Line::ok("retention", format!("key {}", key.name())),
            Err(fault) => Line::fail(
                "retention",
                format!("retention.keys[{at}]: {fault}"),
                "mend it, or set retention.enabled = false: without all keys the node does not start",
            ),
        });
    }
    lines
}

/// What this CPU can do, against what this build uses.
fn cpu() -> Line {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let found = format!("{cores} threads, {}", instruction_sets());
    if cfg!(feature = "dynamic-backends") || !has_unused_avx512() {
        return Line::ok("cpu", found);
    }
    Line::warn(
        "cpu",
        format!("{found}; this build does not use its AVX-512"),
        "build here with no RUSTFLAGS set (.cargo/config.toml is for the CPU at hand), or use a release with \
         dynamic back ends",
    )
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> String {
    let all = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
    ];
    let there: Vec<&str> = all
        .into_iter()
        .filter_map(|(name, is_there)| is_there.then_some(name))
        .collect();
    if there.is_empty() {
        "no vector instructions".to_owned()
    } else {
        there.join(" ")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> String {
    std::env::consts::ARCH.to_owned()
}

/// AVX-512 is worth 20 to 35 % of prompt speed to llama.cpp.
#[cfg(target_arch = "x86_64")]
fn has_unused_avx512() -> bool {
    std::is_x86_feature_detected!("avx512f") && !cfg!(target_feature = "avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_unused_avx512() -> bool {
    false
}

fn memory() -> Line {
    let unknown = || {
        Line::warn(
            "memory",
            "the system does not say",
            "look at it by other means",
        )
    };
    let Ok(mut system) = sysinfo::System::new() else {
        return unknown();
    };
    system.refresh_memory();
    // Inside a container the group's limit counts, not the machine's.
    let (total, free) = match system.cgroup_limits() {
        Some(limits) => (limits.total_memory, limits.free_memory),
        None => (system.total_memory(), system.available_memory()),
    };
    let found = format!(
        "{:.1} GiB free of {:.1}",
        free as f64 / GIB,
        total as f64 / GIB
    );
    if (free as f64) < GIB / 2.0 {
        return Line::warn(
            "memory",
            found,
            "the bundled model needs little, larger ones about their file's size",
        );
    }
    Line::ok("memory", found)
}

fn configuration(loaded: &Loaded) -> Vec<Line> {
    let origin = loaded.file.as_ref().map_or_else(
        || "no file; defaults and HEDGE_*".to_owned(),
        |file| file.display().to_string(),
    );
    let warnings = &loaded.findings.warnings;
    let mut lines: Vec<Line> = loaded
        .findings
        .faults
        .iter()
        .map(|fault| Line::fail("config", fault.to_string(), format!("correct {origin}")))
        .collect();
    lines.extend(
        warnings
            .iter()
            .map(|warning| Line::warn("config", warning.to_string(), format!("look at {origin}"))),
    );
    if lines.is_empty() {
        lines.push(Line::ok("config", origin));
    }
    lines
}

fn models(config: &Config) -> (Vec<Line>, Option<Located>) {
    match local::locate(config) {
        Ok(located) => {
            let mut lines = vec![match &located.default {
                Ok(model) => default_model(model),
                Err(absent) => no_model(*absent, config),
            }];
            let further = located.further.iter();
            lines.extend(further.map(|model| Line::ok("model", described(model))));
            if located.models().next().is_some() {
                lines.push(room(&located));
            }
            (lines, Some(located))
        }
        Err(faults) => {
            let next = "look at `hedge models list`, local.model and local.models_dir";
            let line = |fault: LocalFault| {
                Line::fail("model", crate::commands::chain(&fault.into()), next)
            };
            (faults.into_iter().map(line).collect(), None)
        }
    }
}

fn described(model: &LocalModel) -> String {
    format!(
        "{} ({}, {:.1} M parameters, {} of memory), {}",
        model.engine.name,
        model.summary.architecture,
        model.summary.parameter_count as f64 / 1e6,
        mebibytes(model.need.total()),
        model.engine.path.display()
    )
}

fn default_model(model: &LocalModel) -> Line {
    let found = described(model);
    if !model.is_bundled {
        return Line::ok("model", found);
    }
    Line::warn(
        "model",
        found,
        "it knows little; `hedge models pull Qwen/Qwen2.5-1.5B-Instruct-GGUF` for a real one",
    )
}

fn no_model(absent: Absent, config: &Config) -> Line {
    let next = match absent {
        Absent::Off => return Line::ok("model", "off (local.enabled = false)"),
        Absent::NoEngine => "build with the feature `llama`",
        Absent::NotBundled => "hedge models pull, then set local.model",
    };
    if config.upstreams.is_empty()
        && config.pools.is_empty()
        && config.relays.is_empty()
        && config.models.is_empty()
    {
        Line::fail("model", absent.as_words(), next)
    } else {
        Line::warn("model", absent.as_words(), next)
    }
}

/// Whether those that are loaded at the start fit.
fn room(located: &Located) -> Line {
    match located.check_room() {
        Ok(()) => {
            let at_start = located
                .models()
                .filter(|model| model.stay.is_loaded_at_start);
            let needs = at_start.map(|model| model.need.total()).sum();
            let found = format!(
                "models for the start need {} of {}",
                mebibytes(needs),
                mebibytes(located.budget)
            );
            Line::ok("room", found)
        }
        Err(fault) => Line::fail(
            "room",
            crate::commands::chain(&fault.into()),
            "load = \"demand\", less of context_tokens_max or slots_max, or more of \
             local.memory_bytes_max; fine if a hedge that runs has that memory",
        ),
    }
}

fn encoders(config: &Config, located: Option<&Located>) -> Vec<Line> {
    let names = located.map(Located::names).unwrap_or_default();
    let looks = embedder::look(config, &names).into_iter();
    let line = |look: Result<EncoderModel, EncoderFault>| match look {
        Ok(model) => Line::ok("model", model.as_words()),
        Err(fault) => Line::fail(
            "model",
            crate::commands::chain(&anyhow::Error::from(fault)),
            "look at `hedge models list`, [embeddings] and [rerank]",
        ),
    };
    looks.map(line).collect()
}

fn data_dir(config: &Config) -> Line {
    let dir = &config.depot_dir;
    let found = dir.display().to_string();
    // The nearest folder that exists says whether more can be made in it.
    let existing = dir.ancestors().find(|dir| dir.exists());
    let is_writable = existing.is_some_and(can_write);
    if is_writable {
        return Line::ok("depot", found);
    }
    let line = "a pull will not work; set depot.dir to a folder that can be written to";
    if bundled::is_present() {
        Line::warn("depot", format!("{found} cannot be written to"), line)
    } else {
        Line::fail("depot", format!("{found} cannot be written to"), line)
    }
}

/// Tries it: permissions alone do not tell a read-only disk, nor what root may do.
fn can_write(dir: &Path) -> bool {
    let probe = dir.join(format!(".hedge-doctor-{}", std::process::id()));
    let is_written = std::fs::write(&probe, b"").is_ok();
    is_written && std::fs::remove_file(&probe).is_ok()
}

fn ports(config: &Config) -> Vec<Line> {
    let admin = match config.admin {
        AdminListen::Chosen(address) | AdminListen::Offered(address) => address,
    };
    let clients = config.listen.map(|listen| ("port", listen));
    let edges = config.gateway.as_ref();
    let edges = edges.map(|gateway| ("edge port", gateway.listen));
    let all = clients
        .into_iter()
        .chain(edges)
        .chain([("admin port", admin)]);
    all.map(|(what, address)| port(what, address)).collect()
}

fn port(what: &'static str, address: SocketAddr) -> Line {
    match TcpListener::bind(address) {
        Ok(_) => Line::ok(what, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Line::warn(
            what,
            format!("{address} is taken"),
            "fine if that is hedge already; else choose another with --listen or admin.listen",
        ),
        Err(error) => Line::fail(
            what,
            format!("{address}: {}", error.kind()),
            "choose an address of this machine",
        ),
    }
}

/// What `/readyz` says, of which this reads a part.
#[derive(Default, Deserialize)]
struct Ready {
    #[serde(default)]
    link: Option<String>,
    backends: Vec<BackendState>,
}

#[derive(Deserialize)]
struct BackendState {
    name: String,
    state: String,
    reason: Option<String>,
}

/// Asks a hedge that runs already how its backends are; nothing where none does.
async fn running(config: &Config, client: &Client) -> Vec<Line> {
    let admin = match config.admin {
        AdminListen::Chosen(address) | AdminListen::Offered(address) => address,
    };
    let address = crate::banner::reachable(config.listen.unwrap_or(admin));
    let request = client.get(format!("http://{address}/readyz"));
    let Ok(mut response) = request.timeout(LOOK_MAX).send().await else {
        return Vec::new();
    };
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > READY_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let ready: Ready = serde_json::from_slice(&body).unwrap_or_default();
    running_lines(&ready)
}

fn running_lines(ready: &Ready) -> Vec<Line> {
    let link = ready.link.as_deref().map(upstreams::running_link);
    ready.backends.iter().map(backend).chain(link).collect()
}

fn backend(backend: &BackendState) -> Line {
    let mut found = format!("{} is {}", backend.name, backend.state);
    if let Some(reason) = &backend.reason {
        found = format!("{found}: {reason}");
    }
    if backend.state == HealthState::Ready.as_label() {
        return Line::ok("running", found);
    }
    Line::warn("running", found, "look at the log of the hedge that runs")
}

fn rules(config: &Config, located: Option<&Located>, transport: &Transport) -> Line {
    let cards = located.map(Located::cards).unwrap_or_default();
    match Assembly::build(config, &cards, transport, &unaudited()) {
        Ok(_) => Line::ok("routes", config.routes.name.clone()),
        Err(faults) => Line::fail("routes", faults.to_string(), "hedge check"),
    }
}

/// Which providers' keys the environment has, and which of them nobody uses. Never a key.
fn provider_keys(loaded: &Loaded, environment: &BTreeMap<String, String>) -> Line {
    let mut unheard = Findings::default();
    let catalogue = Catalogue::load(loaded.raw.providers_dir.as_deref(), &mut unheard);
    let is_set = |name: &&str| {
        environment
            .get(*name)
            .is_some_and(|value| !value.trim().is_empty())
    };
    let used = |provider: &str| {
        let mut upstreams = loaded.raw.upstreams.iter();
        upstreams.any(|upstream| upstream.provider.as_deref() == Some(provider))
    };
    let found: Vec<String> = catalogue
        .iter()
        .filter_map(|provider| {
            let variable = provider.key_env.as_deref().filter(is_set)?;
            let unused = if used(&provider.name) { "" } else { ", unused" };
            Some(format!("{} ({variable}{unused})", provider.name))
        })
        .collect();
    if found.is_empty() {
        return Line::ok("keys", "none of a known provider is set in the environment");
    }
    Line::ok("keys", format!("set: {}", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::State;
    use crate::config::{RawConfig, RawUpstream};

    #[test]
    fn keys_that_are_set_are_named_and_never_shown() {
        let raw = RawConfig {
            upstreams: vec![RawUpstream {
                provider: Some("groq".into()),
                ..RawUpstream::default()
            }],
            ..RawConfig::default()
        };
        let loaded = Loaded {
            file: None,
            raw,
            config: None,
            findings: Findings::default(),
        };
        let set = [
            ("GROQ_API_KEY", "sk-1"),
            ("XAI_API_KEY", "sk-2"),
            ("MISTRAL_API_KEY", " "),
        ];
        let environment = set
            .map(|(name, key)| (name.to_owned(), key.to_owned()))
            .into();
        let line = provider_keys(&loaded, &environment);
        assert_eq!(
            line.found,
            "set: groq (GROQ_API_KEY), xai (XAI_API_KEY, unused)"
        );
        let line = provider_keys(&loaded, &BTreeMap::new());
        assert!(line.found.starts_with("none"), "{}", line.found);
    }

    #[test]
    fn a_backend_that_is_down_is_shown_with_its_reason() {
        let body = r#"{"status":"not ready","link":"offline","backends":[
            {"name":"local","state":"down","reason":"quarantined"},{"name":"far","state":"ready"}]}"#;
        let ready: Ready = serde_json::from_str(body).unwrap();
        let lines = running_lines(&ready);
        assert_eq!(lines[0].state, State::Warn);
        assert_eq!(lines[0].found, "local is down: quarantined");
        assert_eq!(lines[1], Line::ok("running", "far is ready"));
        assert_eq!(lines[2].state, State::Warn);
        assert_eq!(lines[2].found, "the hedge that runs is offline");
    }
}
