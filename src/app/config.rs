//! Configuration: file, then `HEDGE_*`, then flags, judged once and trusted after.
//!
//! ```text
//! hedge.toml ─► Table ─┐
//! HEDGE_*    ──────────┼─ lay over ─► RawConfig ─ judge ─► Config
//! flags      ──────────┘                            └────► every fault, with its path
//! ```
//! Nothing here opens a socket or a model. Secrets are read here, and leave as types that do not
//! print.

mod adapters;
mod audit;
mod cache;
mod catalogue;
mod embeddings;
mod events;
mod failures;
mod faults;
mod gateway;
mod grants;
mod images;
mod models;
mod oidc;
mod overlay;
mod pools;
mod prices;
mod quotas;
mod raw;
mod raw_cache;
mod raw_kv;
mod raw_pools;
mod raw_providers;
mod raw_quotas;
mod raw_sealed;
mod read;
mod records;
mod redis;
mod relays;
mod retention;
mod savings;
mod secret;
mod sections;
mod shared;
mod shared_cache;
mod telemetry;
mod trouble;
mod upstreams;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::AdminToken;
use domain::BackendName;
use pipeline::{RescueRules, ShadowRules};
use policy::{BreakerRules, PriceBook, RetryRules};
use providers::{PoolConfig, UpstreamConfig};
use store::PostgresAddress;

use crate::events::WebhookRules;

pub use cache::{CacheSettings, ReuseSettings};
pub use catalogue::Catalogue;
pub use embeddings::EncoderSettings;
pub use faults::{ConfigFault, ConfigFaults, Findings};
pub use gateway::GatewaySettings;
pub use grants::{
    OwnGrants, TeamGrants, of_key as key_grants, of_team as team_grants, unknown_route,
};
pub use images::ImageSettings;
pub use models::{ModelFile, Stay, model_schema};
pub use oidc::OidcSettings;
pub use overlay::Override;
pub use quotas::QuotaSettings;
#[cfg(test)]
pub use raw::RawUpstream;
pub use raw::{ContextShift, Isolation, LogFormat, PrefixScope, RawConfig, RawLog, Speculation};
pub use read::read_whole;
pub use redis::RedisSettings;
pub use relays::{RelaySettings, member_folder};
pub use retention::{RetentionSettings, TextKeySource};
pub use savings::Reference;
pub use secret::Surroundings;
pub use sections::{
    AdminListen, IngressSettings, KeyGrant, LimitSettings, LocalSettings, ModelSource,
    PrivacySettings, ResponseSettings, RouteFile,
};
pub use shared::StoreSettings;
pub use shared_cache::SharedCacheSettings;
pub use telemetry::TelemetrySettings;
pub use trouble::OfflineSettings;
pub use upstreams::{is_loopback, upstream_fault_key};

pub const ADMIN_PORT_DEFAULT: u16 = 8788;
/// Of a relay, so that it can be tried on the machine of an edge.
pub const RELAY_ADMIN_PORT_DEFAULT: u16 = 8789;
/// Largest configuration or rules file.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A configuration the node can work with.
#[derive(Clone, Debug)]
pub struct Config {
    /// `None` on a relay that has no callers of its own.
    pub listen: Option<SocketAddr>,
    pub admin: AdminListen,
    /// Of operators; without any and without sign-in the admin listener is open to this machine.
    pub admin_tokens: Vec<AdminToken>,
    /// `None` where nobody signs in.
    pub oidc: Option<OidcSettings>,
    pub ingress: IngressSettings,
    /// Whether a key is asked for where none is configured.
    pub requires_keys: bool,
    pub keys: Vec<KeyGrant>,
    pub quotas: QuotaSettings,
    pub local: Option<LocalSettings>,
    /// Further models on this machine, by name. Empty where `local` is off.
    pub models: Vec<ModelFile>,
    pub embeddings: Option<EncoderSettings>,
    pub rerank: Option<EncoderSettings>,
    pub upstreams: Vec<UpstreamConfig>,
    /// As which provider of the price list an upstream charges, where that is known.
    pub price_providers: BTreeMap<BackendName, String>,
    pub pools: Vec<PoolConfig>,
    pub relays: Vec<RelaySettings>,
    /// `None` where this node is no relay.
    pub gateway: Option<GatewaySettings>,
    pub prices: Arc<PriceBook>,
    /// By which savings are measured; `None` where none is named.
    pub reference: Option<Reference>,
    /// Which answers of this machine are asked for again; `None` where none is.
    pub shadow: Option<ShadowRules>,
    pub aliases: BTreeMap<String, Vec<String>>,
    /// Aliases whose models are equals: each one's weight.
    pub shares: BTreeMap<String, Vec<u32>>,
    pub retry: RetryRules,
    pub breaker: BreakerRules,
    pub routes: RouteFile,
    pub cache: CacheSettings,
    pub responses: Option<ResponseSettings>,
    pub privacy: PrivacySettings,
    /// Of the audit log; `None` where none is to be kept.
    pub audit: Option<store::AuditRules>,
    /// Of records of exchanges; `None` where none are to be kept.
    pub records: Option<store::RecordRules>,
    /// Of prompts and replies; `None` where none are to be kept.
    pub retention: Option<RetentionSettings>,
    /// Where they are, or were.
    pub texts_dir: PathBuf,
    /// `None` where no event is sent.
    pub webhook: Option<WebhookRules>,
    pub store: StoreSettings,
    pub limits: LimitSettings,
    pub rescue: RescueRules,
    pub offline: OfflineSettings,
    /// `None` where none is fetched.
    pub images: Option<ImageSettings>,
    pub shutdown_grace: Duration,
    /// Files that are read anew when they change. Empty where none are looked at.
    pub watched: Vec<PathBuf>,
    pub log: RawLog,
    /// `None` where nothing is sent to a collector.
    pub telemetry: Option<TelemetrySettings>,
    pub data_dir: PathBuf,
    pub depot_dir: PathBuf,
}

impl Config {
    /// Whether anybody's use is limited, or that of shadows.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        let keys = self.keys.iter().map(|key| (&key.limits, &key.rules));
        let (limits, rules) = self.quotas.of_anyone();
        let mut all = keys.chain([(&limits, &rules)]);
        self.shadow.is_some() || all.any(|(limits, rules)| !limits.is_empty() || rules.has_limits())
    }

    /// Judges `raw`. Faults and warnings go to `findings`; `None` when there is a fault.
    #[must_use]
    pub fn judge(
        raw: &RawConfig,
        around: &Surroundings<'_>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let listen = listen(raw, findings);
        let is_closed = !raw.admin.tokens.is_empty() || raw.admin.oidc.is_some();
        let admin = sections::admin(raw.admin.listen.as_deref(), is_closed, listen, findings);
        let ingress = sections::ingress(&raw.ingress, findings);
        let quotas = quotas::quotas(raw, findings);
        let keys = sections::keys(&raw.keys, &quotas, around, findings);
        let admin_tokens = sections::tokens(&raw.admin.tokens, &keys, around, findings);
        let oidc = oidc::oidc(raw, around, findings);
        if let Some(listen) = listen {
            refuse_open(raw, listen, findings);
        }
        let local = sections::local(&raw.local, findings);
        if local.is_some() {
            models::check_adapters(raw, findings);
        }
        let embeddings = embeddings::embeddings(raw, findings);
        let rerank = embeddings::rerank(raw, findings);
        let providers = Catalogue::load(raw.providers_dir.as_deref(), findings);
        let upstreams = upstreams::upstreams(&raw.upstreams, &providers, around, findings);
        let pools = pools::pools(raw, around, findings);
        let relays = relays::relays(raw, around.environment, findings);
        let gateway = gateway::gateway(raw, findings);
        let names = raw.upstreams.iter().filter_map(|it| it.called());
        let names = names.chain(raw.relays.iter().filter_map(|it| it.name.as_deref()));
        let names: Vec<String> = names.map(str::to_owned).collect();
        let prices = prices::prices(&raw.prices, &names, findings);
        let price_providers = upstreams::price_providers(&raw.upstreams, &providers);
        let provider_of = |name: &str| price_providers.get(&BackendName::new(name)).cloned();
        let reference = savings::savings(&raw.savings, &prices, provider_of, findings);
        let price_of = |upstream: &str, model: &str| {
            let own = prices.find(upstream, model);
            let price = own.or_else(|| prices.find(&provider_of(upstream)?, model));
            price.copied()
        };
        let is_relay = raw.gateway.is_some();
        let shadow = savings::shadow(
            &raw.savings,
            &upstreams,
            &quotas,
            price_of,
            is_relay,
            findings,
        );
        let has_remote =
            !(raw.upstreams.is_empty() && raw.pools.is_empty() && raw.relays.is_empty());
        if local.is_none() && !has_remote {
            findings.fault(
                "local.enabled",
                "is false and there are neither pools nor upstreams nor relays, so nothing could \
                 answer",
            );
        }
        let mut aliases = upstreams::aliases(raw, findings);
        let shares = failures::balance(raw, &mut aliases, findings);
        let retry = failures::retry(&raw.retry, findings);
        let breaker = failures::breaker(&raw.breaker, findings);
        sections::log(&raw.log, findings);
        let routes = sections::routes(&raw.routes, around, findings);
        if let Some(routes) = &routes {
            sections::key_routes(&raw.keys, routes, findings);
        }
        let responses = sections::responses(&raw.responses, findings);
        let privacy = sections::privacy(&raw.privacy, findings);
        let limits = sections::limits(&raw.limits, findings);
        let rescue = trouble::rescue(&raw.rescue, findings);
        let offline = trouble::offline(&raw.offline, findings);
        let images = images::images(&raw.images, findings);
        pools::warn_of_patience(&pools, limits.first_content_last, findings);
        let data_dir = data_dir(around.environment);
        let audit = audit::audit(raw, &data_dir, findings);
        let records = records::records(raw, &data_dir, findings);
        let retention = retention::retention(raw, around, findings);
        let texts_dir = retention::dir(raw, &data_dir);
        let webhook = events::events(&raw.events, around, findings);
        let store = shared::store(raw, around, findings);
        let cache = cache::cache(raw, &store, around, findings);
        let redis = store.redis.iter().map(|it| &it.address);
        let redis = redis.chain(cache.shared.iter().map(|it| &it.address));
        redis::warn_of_idle_authorities(raw, redis, findings);
        let telemetry = telemetry::telemetry(raw, &price_providers, around, findings);
        let config = Self {
            listen,
            admin: admin?,
            admin_tokens,
            oidc,
            ingress,
            requires_keys: raw.ingress.require_keys,
            keys,
            quotas,
            local,
            models: Vec::new(),
            embeddings,
            rerank,
            price_providers,
            upstreams,
            pools,
            relays,
            gateway,
            prices,
            reference,
            shadow,
            aliases,
            shares,
            retry,
            breaker,
            routes: routes?,
            cache,
            responses,
            privacy,
            audit,
            records,
            retention,
            texts_dir,
            webhook,
            store,
            limits,
            rescue,
            offline,
            images,
            shutdown_grace: Duration::from_secs(raw.shutdown.grace_s),
            watched: watched(raw),
            log: raw.log.clone(),
            telemetry,
            depot_dir: depot_dir(raw, around.environment),
            data_dir,
        };
        findings.faults.is_empty().then_some(config)
    }
}

/// Where clients connect. A relay has clients only where its configuration says so.
fn listen(raw: &RawConfig, findings: &mut Findings) -> Option<SocketAddr> {
    match (&raw.listen, &raw.gateway) {
        (Some(text), _) => sections::address("listen", text, findings),
        (None, Some(_)) => None,
        (None, None) => Some(listen_default()),
    }
}

/// An address beyond this machine without keys spends the operator's money on anyone.
fn refuse_open(raw: &RawConfig, listen: SocketAddr, findings: &mut Findings) {
    if listen.ip().is_loopback() || !raw.keys.is_empty() || raw.ingress.require_keys {
        return;
    }
    if raw.ingress.allow_open {
        findings.warn(
            "ingress.allow_open",
            format!("{listen} answers anyone who reaches it, without a key"),
        );
    } else {
        findings.fault(
            "listen",
            format!(
                "{listen} can be reached from beyond this machine and there are no [[keys]]; add \
                 one, set ingress.require_keys = true and make some with `hedge keys create`, or set ingress.allow_open = true if something in front checks callers"
            ),
        );
    }
}

/// What the configuration names and is made of. A key of an upstream is none: it is read anew where it is used.
fn watched(raw: &RawConfig) -> Vec<PathBuf> {
    if !raw.reload.watch {
        return Vec::new();
    }
    let keys = raw.keys.iter().filter_map(|key| key.secret.as_ref());
    let keys = keys.filter_map(|secret| secret.0.strip_prefix("file:"));
    let rules = Some(raw.routes.file.as_str()).filter(|name| builtin_routes(name).is_none());
    rules.into_iter().chain(keys).map(PathBuf::from).collect()
}

/// The rules that come with the binary.
fn builtin_routes(name: &str) -> Option<&'static str> {
    match name {
        "default" => Some(policy::DEFAULT_ROUTES),
        "local-only" => Some(policy::LOCAL_ONLY_ROUTES),
        _ => None,
    }
}

fn listen_default() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787)
}

/// `$XDG_DATA_HOME/hedge`, else `~/.local/share/hedge`, else a folder in the temporary one.
fn data_dir(environment: &BTreeMap<String, String>) -> PathBuf {
    let filled = |name: &str| environment.get(name).filter(|text| !text.is_empty());
    if let Some(home) = filled("XDG_DATA_HOME") {
        return Path::new(home).join("hedge");
    }
    match filled("HOME") {
        Some(home) => Path::new(home).join(".local/share/hedge"),
        None => std::env::temp_dir().join("hedge"),
    }
}

/// Where model files live.
fn depot_dir(raw: &RawConfig, environment: &BTreeMap<String, String>) -> PathBuf {
    match &raw.depot.dir {
        Some(dir) => PathBuf::from(dir),
        None => data_dir(environment).join("models"),
    }
}

/// What was read, judged or not: for `hedge config show` and `hedge check`.
#[derive(Debug)]
pub struct Loaded {
    /// The file, when there is one.
    pub file: Option<PathBuf>,
    pub raw: RawConfig,
    pub config: Option<Config>,
    pub findings: Findings,
}

impl Loaded {
    /// Where model files live, also where something else in the configuration is at fault, such as
    /// a secret that only the server is given.
    ///
    /// # Errors
    /// The faults, where the file could not be read or the folder itself is at fault.
    pub fn depot_dir(
        self,
        environment: &BTreeMap<String, String>,
    ) -> Result<PathBuf, ConfigFaults> {
        let is_in_doubt =
            |fault: &ConfigFault| fault.path.is_empty() || fault.path.starts_with("depot");
        if self.findings.faults.iter().any(is_in_doubt) {
            return Err(ConfigFaults(self.findings.faults));
        }
        Ok(depot_dir(&self.raw, environment))
    }

    /// Where the audit log is, also where something else in the configuration is at fault.
    ///
    /// # Errors
    /// The faults, where the file could not be read or the folder itself is at fault.
    pub fn audit_dir(
        self,
        environment: &BTreeMap<String, String>,
    ) -> Result<PathBuf, ConfigFaults> {
        let is_in_doubt =
            |fault: &ConfigFault| fault.path.is_empty() || fault.path.starts_with("audit.dir");
        if self.findings.faults.iter().any(is_in_doubt) {
            return Err(ConfigFaults(self.findings.faults));
        }
        Ok(audit::dir(&self.raw, &data_dir(environment)))
    }

    /// Where records of exchanges are, and what they are read with, also where something else in the
    /// configuration is at fault.
    ///
    /// # Errors
    /// The faults, where the file could not be read or one of these is at fault.
    pub fn record_place(
        self,
        environment: &BTreeMap<String, String>,
    ) -> Result<RecordPlace, ConfigFaults> {
        let sections = ["records.dir", "organisation.time_zone", "store.postgres"];
        let is_in_doubt = |fault: &ConfigFault| {
            let mut sections = sections.iter();
            fault.path.is_empty() || sections.any(|it| fault.path.starts_with(it))
        };
        let zone = store::Calendar::named(&self.raw.organisation.time_zone);
        match zone {
            Ok(calendar) if !self.findings.faults.iter().any(is_in_doubt) => Ok(RecordPlace {
                dir: records::dir(&self.raw, &data_dir(environment)),
                data_dir: data_dir(environment),
                postgres: self.postgres(environment),
                calendar,
                reference: self.raw.savings.reference_model,
            }),
            Ok(_) | Err(_) => Err(ConfigFaults(self.findings.faults)),
        }
    }

    /// Judged already: its faults are among the findings.
    fn postgres(&self, environment: &BTreeMap<String, String>) -> Option<PostgresAddress> {
        let around = Surroundings {
            environment,
            read_file: &read_file,
        };
        shared::postgres(&self.raw, &around, &mut Findings::default())
    }

    /// The configuration and its warnings.
    ///
    /// # Errors
    /// Every fault.
    pub fn into_config(self) -> Result<(Config, Vec<ConfigFault>), ConfigFaults> {
        match self.config {
            Some(config) => Ok((config, self.findings.warnings)),
            None => Err(ConfigFaults(self.findings.faults)),
        }
    }
}

/// What records are read with.
#[derive(Debug)]
pub struct RecordPlace {
    pub dir: PathBuf,
    /// Where else this node keeps things.
    pub data_dir: PathBuf,
    /// Where they go instead, when replicas share them.
    pub postgres: Option<PostgresAddress>,
    pub calendar: store::Calendar,
    /// As it is written.
    pub reference: Option<String>,
}

/// The environment, once. Values that are not UTF-8 are left out.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Finds, reads and judges: `chosen` (from `--config`), else `HEDGE_CONFIG`, else `./hedge.toml`,
/// else `$XDG_CONFIG_HOME/hedge/hedge.toml`.
#[must_use]
pub fn load(
    chosen: Option<&Path>,
    environment: &BTreeMap<String, String>,
    flags: &[Override],
) -> Loaded {
    load_file(find_file(chosen, environment), environment, flags)
}

/// The same for a relay: `chosen`, else `HEDGE_CONFIG`, else `./relay.toml`, else
/// `$XDG_CONFIG_HOME/hedge/relay.toml`.
#[must_use]
pub fn load_relay(
    chosen: Option<&Path>,
    environment: &BTreeMap<String, String>,
    flags: &[Override],
) -> Loaded {
    load_file(find(RELAY_FILE, chosen, environment), environment, flags)
}

fn load_file(
    file: Option<PathBuf>,
    environment: &BTreeMap<String, String>,
    flags: &[Override],
) -> Loaded {
    let mut findings = Findings::default();
    let text = match &file {
        None => String::new(),
        Some(path) => read_file(path).unwrap_or_else(|error| {
            findings.fault("", format!("cannot read {}: {error}", path.display()));
            String::new()
        }),
    };
    let table = read::parse(&text, &mut findings);
    let mut changes = overlay::from_environment(environment, &table);
    changes.extend_from_slice(flags);
    let raw = read::read(table, &changes, &mut findings);
    let around = Surroundings {
        environment,
        read_file: &read_file,
    };
    let config = Config::judge(&raw, &around, &mut findings);
    let models = models::load(&raw, &depot_dir(&raw, environment), &mut findings);
    let config = config.filter(|_| findings.faults.is_empty());
    let config = config.map(|mut config| {
        if raw.reload.watch {
            config.watched.extend(file.clone());
        }
        Config { models, ..config }
    });
    Loaded {
        file,
        raw,
        config,
        findings,
    }
}

/// What is wrong with a file of this text, as far as its text alone tells.
#[must_use]
pub fn faults_of(text: &str) -> Vec<ConfigFault> {
    let environment = environment();
    let mut findings = Findings::default();
    let table = read::parse(text, &mut findings);
    let raw = read::read(table, &[], &mut findings);
    let around = Surroundings {
        environment: &environment,
        read_file: &read_file,
    };
    let _ = Config::judge(&raw, &around, &mut findings);
    findings.faults
}

/// The file that is read, where there is one.
#[must_use]
pub fn find_file(chosen: Option<&Path>, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    find("hedge.toml", chosen, environment)
}

/// A relay's file.
pub const RELAY_FILE: &str = "relay.toml";

fn find(
    name: &str,
    chosen: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Option<PathBuf> {
    let filled = |variable: &str| environment.get(variable).filter(|text| !text.is_empty());
    if let Some(path) = chosen {
        return Some(path.to_owned());
    }
    if let Some(path) = filled("HEDGE_CONFIG") {
        return Some(PathBuf::from(path));
    }
    let here = PathBuf::from(name);
    if here.is_file() {
        return Some(here);
    }
    let home = filled("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| filled("HOME").map(|home| Path::new(home).join(".config")))?;
    Some(home.join("hedge").join(name)).filter(|path| path.is_file())
}

fn read_file(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
pub(crate) mod tests;
