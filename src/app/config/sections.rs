//! Each section of the configuration, judged: from what is written to what the node works with.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{
    FindingClass, KeyDigest, KeyId, Limit, LimitRules, ModelAlias, Priority, TeamId, Tokens, Trust,
};

use api::{AdminToken, Role};
use engine::{EngineConfig, KvConfig};
use ipnet::IpNet;
use pipeline::QueueRules;

use super::adapters::{AdapterSettings, adapters};
use super::faults::Findings;
use super::grants;
use super::models::{Stay, memory_bytes_max, stay};
use super::quotas::{self, QuotaSettings};
use super::raw::{
    ContextShift, Isolation, PrefixScope, RawAdminToken, RawClasses, RawIngress, RawKey, RawLimits,
    RawLocal, RawLog, RawPrivacy, RawResponses, RawRole, RawRoutes, RawTrust, Speculation,
};
use super::raw_kv::kv;
use super::raw_quotas::RawLimit;
use super::secret::Surroundings;

/// Names that callers use for something else than an upstream.
pub const RESERVED_NAMES: &[&str] = &["auto", "local", "cloud", "cache"];
/// Beyond any model's context.
const TOKENS_MAX: u32 = 16 * 1024 * 1024;
/// Of connections and of requests.
const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;
/// Each is compared with what is sent.
const ADMIN_TOKENS_MAX: usize = 64;
/// A day; longer waits are mistakes.
const WAIT_MS_MAX: u64 = 24 * 3600 * 1000;

/// Where administration listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// As configured; the node does not start without it.
    Chosen(SocketAddr),
    /// Our own choice; the node starts without it, with a warning.
    Offered(SocketAddr),
}

#[derive(Clone, Debug)]
pub struct IngressSettings {
    pub hosts: Vec<String>,
    pub origins: Vec<String>,
    pub proxies: Vec<IpNet>,
    pub body_bytes_max: u64,
    pub connections_max: usize,
    pub connections_per_address_max: u32,
    pub header_timeout: Duration,
    pub body_idle: Duration,
    pub requests_per_second_max: NonZeroU32,
    pub requests_burst_max: NonZeroU32,
}

#[derive(Clone, Debug)]
pub struct KeyGrant {
    pub name: KeyId,
    pub team: TeamId,
    pub digest: KeyDigest,
    pub models: Option<Vec<ModelAlias>>,
    pub routes: Option<Arc<[String]>>,
    pub priority: Priority,
    /// Its own, its team's and everybody's.
    pub limits: Arc<[Limit]>,
    /// What depends on its requests.
    pub rules: Arc<LimitRules>,
    pub output_tokens_max: Option<Tokens>,
    pub networks: Option<Arc<[IpNet]>>,
    /// Its own limits, as they were written.
    pub written: Vec<RawLimit>,
}

#[derive(Clone, Debug)]
pub struct LocalSettings {
    pub source: ModelSource,
    pub projector: Option<PathBuf>,
    pub name: Option<String>,
    pub stay: Stay,
    /// For all models together. `None`: a part of what is free.
    pub memory_bytes_max: Option<u64>,
    pub load_wait: Duration,
    pub context_tokens_max: Option<u32>,
    pub context_shift: ContextShift,
    pub slots_max: u32,
    pub queue_max: usize,
    pub batch_tokens_max: u32,
    pub prompt_delay_max: Duration,
    pub threads: Option<u32>,
    pub threads_adapt: bool,
    pub gpu_layers: engine::GpuLayers,
    pub kv_tokens_max: Option<u32>,
    pub kv: KvConfig,
    pub temperature_default: Option<f32>,
    pub output_tokens_default: Option<u32>,
    pub events_max: usize,
    pub stall_max: Duration,
    pub hang_max: Duration,
    pub isolation: Isolation,
    pub prefix_scope: PrefixScope,
    pub prefix_bytes_max: Option<u64>,
    pub prefix_dir: Option<PathBuf>,
    pub speculation: Speculation,
    /// In the order of their ids.
    pub adapters: Vec<AdapterSettings>,
}

/// Which model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The one inside this binary.
    Bundled,
    Path(PathBuf),
    /// A name in the depot.
    Depot(String),
}

#[derive(Clone, Debug)]
pub struct RouteFile {
    /// For messages: the path, or `default`.
    pub name: String,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct PrivacySettings {
    /// Whether upstreams beyond this machine are asked only where they are reached sealed.
    pub requires_sealed: bool,
    /// The least trusted destination that sees each class.
    pub classes: Vec<(FindingClass, Trust)>,
    pub custom: Vec<CustomClass>,
}

#[derive(Clone, Debug)]
pub struct CustomClass {
    pub name: String,
    pub pattern: String,
    pub trust: Trust,
}

#[derive(Clone, Debug)]
pub struct LimitSettings {
    pub exchanges_max: usize,
    pub first_content_local: Duration,
    pub first_content_remote: Duration,
    pub first_content_last: Duration,
    pub network_threads_max: usize,
    pub queueing: QueueRules,
    pub user_accounts_max: usize,
}

pub fn trust(raw: RawTrust) -> Trust {
    match raw {
        RawTrust::Public => Trust::Public,
        RawTrust::Tenant => Trust::Tenant,
        RawTrust::Device => Trust::Device,
    }
}

pub fn within<N: Copy + PartialOrd + std::fmt::Display>(
    path: &str,
    value: N,
    range: RangeInclusive<N>,
    findings: &mut Findings,
) -> N {
    if !range.contains(&value) {
        findings.fault(
            path,
            format!(
                "{value} is out of range; from {} to {}",
                range.start(),
                range.end()
            ),
        );
    }
    value
}

pub fn wait_ms(path: &str, value: u64, findings: &mut Findings) -> Duration {
    Duration::from_millis(within(path, value, 1..=WAIT_MS_MAX, findings))
}

fn rate(path: &str, value: u32, findings: &mut Findings) -> NonZeroU32 {
    let value = within(path, value, CONNECTIONS, findings);
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN)
}

/// `ADDR:PORT`, with `localhost` understood.
pub fn address(path: &str, text: &str, findings: &mut Findings) -> Option<SocketAddr> {
    let numeric = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    let parsed = numeric.as_deref().unwrap_or(text).parse().ok();
    if parsed.is_none() {
        findings.fault(
            path,
            format!("`{text}` is not ADDR:PORT, such as 127.0.0.1:8787 or [::1]:8787"),
        );
    }
    parsed
}

/// The admin address: as written, or one that cannot clash with the clients' one. Beyond this machine it
/// is for those who have a token.
pub fn admin(
    raw: Option<&str>,
    is_closed: bool,
    listen: Option<SocketAddr>,
    findings: &mut Findings,
) -> Option<AdminListen> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(text) = raw else {
        let port = match listen {
            None => super::RELAY_ADMIN_PORT_DEFAULT,
            Some(listen) if listen == super::listen_default() => super::ADMIN_PORT_DEFAULT,
            Some(_) => 0,
        };
        return Some(AdminListen::Offered(SocketAddr::new(loopback, port)));
    };
    let address = address("admin.listen", text, findings)?;
    if Some(address) == listen && address.port() != 0 {
        findings.fault(
            "admin.listen",
            "is the same address as `listen`; metrics have a listener of their own",
        );
    }
    if !address.ip().is_loopback() && !is_closed {
        findings.fault(
            "admin.listen",
            format!(
                "{address} can be reached from beyond this machine, and there are neither admin.tokens \
                 nor admin.oidc; add one, or listen on 127.0.0.1"
            ),
        );
    }
    Some(AdminListen::Chosen(address))
}

/// Operators' tokens, none of which is a caller's key.
pub fn tokens(
    raw: &[RawAdminToken],
    keys: &[KeyGrant],
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<AdminToken> {
    if raw.len() > ADMIN_TOKENS_MAX {
        let words = format!("has more than {ADMIN_TOKENS_MAX} tokens");
        findings.fault("admin.tokens", words);
    }
    let mut tokens: Vec<AdminToken> = Vec::new();
    for (at, token) in raw.iter().enumerate() {
        let path = format!("admin.tokens[{at}]");
        let name = token.name.as_deref().unwrap_or_default();
        if name.is_empty() || name.len() > 64 || name.contains(char::is_control) {
            let words = "is required: who holds the token, in at most 64 bytes";
            findings.fault(format!("{path}.name"), words);
        } else if name.starts_with("oidc:") {
            let words =
                "begins as the names of people who signed in do; call the token something else";
            findings.fault(format!("{path}.name"), words);
        } else if tokens.iter().any(|known| *known.name == *name) {
            let words = format!("`{name}` is the name of another token");
            findings.fault(format!("{path}.name"), words);
        }
        let Some(secret) = &token.secret else {
            let words = "is required: env:NAME, file:/path or sha256:HEX";
            findings.fault(format!("{path}.secret"), words);
            continue;
        };
        let path = format!("{path}.secret");
        let Some(digest) = around.key_digest(&path, secret, findings) else {
            continue;
        };
        if keys.iter().any(|key| key.digest == digest) {
            findings.fault(
                &path,
                "is the secret of a key; callers and operators share none",
            );
        }
        if tokens.iter().any(|known| known.digest == digest) {
            findings.fault(&path, "is the secret of another token");
        }
        tokens.push(AdminToken {
            name: name.into(),
            role: role(token.role),
            digest,
        });
    }
    tokens
}

pub fn role(raw: RawRole) -> Role {
    match raw {
        RawRole::Viewer => Role::Viewer,
        RawRole::Operator => Role::Operator,
        RawRole::Owner => Role::Owner,
    }
}

pub fn ingress(raw: &RawIngress, findings: &mut Findings) -> IngressSettings {
    for (at, origin) in raw.origins.iter().enumerate() {
        let is_origin = reqwest::Url::parse(origin)
            .is_ok_and(|url| url.origin().ascii_serialization() == *origin);
        if !is_origin {
            findings.fault(
                format!("ingress.origins[{at}]"),
                "is not an origin such as https://app.example, without a path",
            );
        }
    }
    for (at, host) in raw.hosts.iter().enumerate() {
        if host.is_empty() || host.contains(['/', ' ', '*']) {
            findings.fault(
                format!("ingress.hosts[{at}]"),
                "is not a host name such as hedge.example or hedge.example:8787",
            );
        }
    }
    let proxies = (!raw.proxies.is_empty()).then_some(raw.proxies.as_slice());
    let proxies = grants::networks("ingress.proxies", proxies, findings);
    IngressSettings {
        proxies: proxies.map(|it| it.to_vec()).unwrap_or_default(),
        hosts: raw.hosts.clone(),
        origins: raw.origins.clone(),
        body_bytes_max: within(
            "ingress.body_bytes_max",
            raw.body_bytes_max,
            1024..=256 * 1024 * 1024,
            findings,
        ),
        connections_max: within(
            "ingress.connections_max",
            raw.connections_max,
            CONNECTIONS,
            findings,
        ) as usize,
        connections_per_address_max: within(
            "ingress.connections_per_address_max",
            raw.connections_per_address_max,
            CONNECTIONS,
            findings,
        ),
        header_timeout: wait_ms("ingress.header_timeout_ms", raw.header_timeout_ms, findings),
        body_idle: wait_ms("ingress.body_idle_ms", raw.body_idle_ms, findings),
        requests_per_second_max: rate(
            "ingress.requests_per_second_max",
            raw.requests_per_second_max,
            findings,
        ),
        requests_burst_max: rate(
            "ingress.requests_burst_max",
            raw.requests_burst_max,
            findings,
        ),
    }
}

pub fn keys(
    raw: &[RawKey],
    quotas: &QuotaSettings,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Vec<KeyGrant> {
    let mut seen = BTreeSet::new();
    let mut grants = Vec::new();
    for (at, key) in raw.iter().enumerate() {
        let path = format!("keys[{at}]");
        let name = key.name.as_deref().filter(|name| !name.is_empty());
        match name {
            None => findings.fault(format!("{path}.name"), "is required"),
            Some(name) if !seen.insert(name) => findings.fault(
                format!("{path}.name"),
                format!("`{name}` is the name of another key"),
            ),
            Some(_) => {}
        }
        let digest = match &key.secret {
            Some(text) => around.key_digest(&format!("{path}.secret"), text, findings),
            None => {
                findings.fault(
                    format!("{path}.secret"),
                    "is required: env:NAME, file:/path or sha256:HEX",
                );
                None
            }
        };
        if let (Some(name), Some(digest)) = (name, digest) {
            let (name, team) = (KeyId::new(name), key.team.as_deref());
            let team = TeamId::new(team.unwrap_or("default"));
            let own = quotas::of_key(&path, &key.limits, &name, findings);
            grants.push(KeyGrant {
                limits: quotas.limits(&team, own),
                rules: quotas.rules(&team),
                output_tokens_max: key.output_tokens_max.map(Tokens),
                networks: grants::networks(
                    &format!("{path}.networks"),
                    key.networks.as_deref(),
                    findings,
                ),
                written: key.limits.clone(),
                name,
                team,
                digest,
                models: grants::models(&format!("{path}.models"), key.models.as_deref(), findings),
                routes: grants::routes(&format!("{path}.routes"), key.routes.as_deref(), findings),
                priority: grants::priority(key.priority),
            });
        }
    }
    grants
}

pub fn local(raw: &RawLocal, findings: &mut Findings) -> Option<LocalSettings> {
    if !raw.enabled {
        return None;
    }
    for (path, tokens) in [
        ("local.context_tokens_max", raw.context_tokens_max),
        ("local.kv_tokens_max", raw.kv_tokens_max),
        ("local.output_tokens_default", raw.output_tokens_default),
    ] {
        if let Some(tokens) = tokens {
            within(path, tokens, 2..=TOKENS_MAX, findings);
        }
    }
    if let Some(threads) = raw.threads {
        within("local.threads", threads, 1..=1024, findings);
    }
    if let Some(temperature) = raw.temperature_default {
        within(
            "local.temperature_default",
            temperature,
            0.0..=2.0,
            findings,
        );
    }
    if let Some(name) = &raw.name
        && (RESERVED_NAMES.contains(&name.as_str()) || name.is_empty() || name.contains('/'))
    {
        findings.fault(
            "local.name",
            format!("`{name}` cannot name a model: not empty, no slash, none of auto, local, cloud, cache"),
        );
    }
    Some(LocalSettings {
        source: model_source(raw.model.as_deref()),
        projector: projector(raw, findings),
        name: raw.name.clone(),
        stay: stay(raw, findings),
        memory_bytes_max: memory_bytes_max(raw, findings),
        load_wait: wait_ms("local.load_wait_ms_max", raw.load_wait_ms_max, findings),
        context_tokens_max: raw.context_tokens_max,
        context_shift: raw.context_shift,
        slots_max: within(
            "local.slots_max",
            raw.slots_max,
            1..=EngineConfig::SLOTS_LIMIT,
            findings,
        ),
        queue_max: within("local.queue_max", raw.queue_max, 1..=100_000, findings) as usize,
        batch_tokens_max: within(
            "local.batch_tokens_max",
            raw.batch_tokens_max,
            (raw.slots_max.saturating_add(EngineConfig::SPARE_SLOTS)).max(16)..=65_536,
            findings,
        ),
        prompt_delay_max: Duration::from_millis(within(
            "local.prompt_delay_ms_max",
            raw.prompt_delay_ms_max,
            EngineConfig::PROMPT_DELAY_MS,
            findings,
        )),
        threads: raw.threads,
        threads_adapt: raw.threads_adapt,
        gpu_layers: raw.gpu_layers.into(),
        temperature_default: raw.temperature_default,
        kv_tokens_max: raw.kv_tokens_max,
        kv: kv(raw, findings),
        output_tokens_default: raw.output_tokens_default,
        events_max: within("local.events_max", raw.events_max, 1..=65_536, findings) as usize,
        stall_max: wait_ms("local.stall_ms_max", raw.stall_ms_max, findings),
        hang_max: Duration::from_millis(within(
            "local.hang_ms_max",
            raw.hang_ms_max,
            EngineConfig::HANG_MS_LEAST..=WAIT_MS_MAX,
            findings,
        )),
        isolation: raw.isolation,
        prefix_scope: raw.prefix_scope,
        prefix_bytes_max: raw.prefix_cache_bytes_max,
        prefix_dir: prefix_dir(raw, findings),
        speculation: raw.speculation,
        adapters: adapters(raw, findings),
    })
}

fn projector(raw: &RawLocal, findings: &mut Findings) -> Option<PathBuf> {
    let path = raw.projector.as_deref()?;
    if path.is_empty() {
        findings.fault("local.projector", "is empty; leave it out instead");
    }
    Some(PathBuf::from(path))
}

fn prefix_dir(raw: &RawLocal, findings: &mut Findings) -> Option<PathBuf> {
    let dir = raw.prefix_cache_dir.as_deref()?;
    if dir.is_empty() {
        findings.fault("local.prefix_cache_dir", "is empty; leave it out instead");
    }
    if raw.prefix_cache_bytes_max == Some(0) {
        findings.fault(
            "local.prefix_cache_dir",
            "is set, and local.prefix_cache_bytes_max = 0 lets nothing be kept there",
        );
    }
    Some(PathBuf::from(dir))
}

pub fn model_source(text: Option<&str>) -> ModelSource {
    let is_path = |text: &str| text.contains(['/', '\\']) || text.ends_with(".gguf");
    match text {
        None | Some("" | "bundled") => ModelSource::Bundled,
        Some(text) if is_path(text) => ModelSource::Path(PathBuf::from(text)),
        Some(name) => ModelSource::Depot(name.to_owned()),
    }
}

pub fn routes(
    raw: &RawRoutes,
    around: &Surroundings<'_>,
    findings: &mut Findings,
) -> Option<RouteFile> {
    if let Some(text) = super::builtin_routes(&raw.file) {
        return Some(RouteFile {
            name: raw.file.clone(),
            text: text.to_owned(),
        });
    }
    match (around.read_file)(Path::new(&raw.file)) {
        Ok(text) => Some(RouteFile {
            name: raw.file.clone(),
            text,
        }),
        Err(error) => {
            findings.fault(
                "routes.file",
                format!(
                    "`{}` is neither `default` nor `local-only`, and as a file: {}",
                    raw.file,
                    error.kind()
                ),
            );
            None
        }
    }
}

/// Routes that keys name and the rules do not have. What is wrong with the rules themselves is said where
/// they are compiled.
pub fn key_routes(keys: &[RawKey], routes: &RouteFile, findings: &mut Findings) {
    let Some(known) = policy::route_names(&routes.text) else {
        return;
    };
    for (at, key) in keys.iter().enumerate() {
        if let Some((place, words)) = grants::unknown_route(key.routes.as_deref(), &known) {
            findings.fault(format!("keys[{at}].routes[{place}]"), words);
        }
    }
}

/// Where responses are kept; `None`: nowhere.
pub fn responses(raw: &RawResponses, findings: &mut Findings) -> Option<ResponseSettings> {
    within("responses.ttl_s", raw.ttl_s, 1..=31_536_000, findings);
    raw.store.then(|| ResponseSettings {
        bytes_max: raw.store_bytes_max,
        ttl: Duration::from_secs(raw.ttl_s),
    })
}

/// How responses are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseSettings {
    pub bytes_max: u64,
    pub ttl: Duration,
}

pub fn privacy(raw: &RawPrivacy, findings: &mut Findings) -> PrivacySettings {
    let RawClasses {
        email,
        phone,
        card,
        iban,
        secret,
    } = raw.classes;
    let classes = [
        (FindingClass::Email, email),
        (FindingClass::Phone, phone),
        (FindingClass::Card, card),
        (FindingClass::Iban, iban),
        (FindingClass::Secret, secret),
    ];
    let mut custom = Vec::new();
    for (at, class) in raw.custom.iter().enumerate() {
        match (&class.name, &class.pattern) {
            (Some(name), Some(pattern)) => custom.push(CustomClass {
                name: name.clone(),
                pattern: pattern.clone(),
                trust: trust(class.trust),
            }),
            (None, _) => findings.fault(format!("privacy.custom[{at}].name"), "is required"),
            (_, None) => findings.fault(format!("privacy.custom[{at}].pattern"), "is required"),
        }
    }
    PrivacySettings {
        requires_sealed: raw.require_sealed,
        classes: classes
            .into_iter()
            .map(|(class, min)| (class, trust(min)))
            .collect(),
        custom,
    }
}

pub fn limits(raw: &RawLimits, findings: &mut Findings) -> LimitSettings {
    LimitSettings {
        exchanges_max: within(
            "limits.exchanges_max",
            raw.exchanges_max,
            1..=100_000,
            findings,
        ) as usize,
        first_content_local: wait_ms(
            "limits.first_content_local_ms_max",
            raw.first_content_local_ms_max,
            findings,
        ),
        first_content_remote: wait_ms(
            "limits.first_content_remote_ms_max",
            raw.first_content_remote_ms_max,
            findings,
        ),
        first_content_last: wait_ms(
            "limits.first_content_last_ms_max",
            raw.first_content_last_ms_max,
            findings,
        ),
        network_threads_max: within(
            "limits.network_threads_max",
            raw.network_threads_max,
            1..=256,
            findings,
        ) as usize,
        queueing: QueueRules {
            wait_max: wait_ms("limits.queue_ms_max", raw.queue_ms_max, findings),
            waiting_max: within("limits.queue_max", raw.queue_max, 1..=100_000, findings) as usize,
        },
        user_accounts_max: within(
            "limits.user_accounts_max",
            raw.user_accounts_max,
            1..=200_000,
            findings,
        ) as usize,
    }
}

pub fn log(raw: &RawLog, findings: &mut Findings) {
    let filter = tracing_subscriber::EnvFilter::builder().parse(&raw.level);
    if raw.level.is_empty() || filter.is_err() {
        findings.fault(
            "log.level",
            format!(
                "`{}` is not a level such as info, or a filter such as info,engine=debug",
                raw.level
            ),
        );
    }
}
