//! Everything a configuration comes to before anything is started: compiled rules, upstreams.
//! `hedge check` stops here; `hedge serve` and a reload go on.

use std::sync::Arc;

use domain::{AuditLog, Backend, BackendCard, Health};
use pipeline::{CacheRules, ImageRules, OfflineRules, Patience, Prices, Snapshot};
use policy::{
    CacheSecret, CustomRule, Roster, RosterEntry, RoutePolicy, RuleFault, ScanRuleFault, ScanRules,
    check_aliases, check_sealed_aliases,
};
use providers::{LinkState, Pool, PoolConfigError, SystemResolver, Transport, Upstream};

use crate::client;
use crate::config::{Config, ConfigFault, ConfigFaults, Findings, is_loopback, upstream_fault_key};
use crate::sealed::Uplink;

/// The replaceable part of a node. Made whole or not at all.
pub struct Assembly {
    routes: RoutePolicy,
    scan: ScanRules,
    upstreams: Vec<Arc<dyn Backend>>,
    pools: Vec<Arc<Pool>>,
    uplinks: Vec<Arc<Uplink>>,
    images: Option<ImageRules>,
    link: Arc<LinkState>,
    config: Config,
    warnings: Vec<ConfigFault>,
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembly")
            .field("upstreams", &self.upstreams.len())
            .field("pools", &self.pools.len())
            .field("uplinks", &self.uplinks.len())
            .finish_non_exhaustive()
    }
}

impl Assembly {
    /// Compiles and checks. `local` is what the models on this machine say of themselves.
    ///
    /// # Errors
    /// Every fault, with its path.
    pub fn build(
        config: &Config,
        local: &[BackendCard],
        transport: &Transport,
        audit: &Arc<dyn AuditLog>,
    ) -> Result<Self, ConfigFaults> {
        let mut findings = Findings::default();
        let upstreams = upstreams(config, transport, &mut findings);
        let pools = pools(config, transport, &mut findings);
        let uplinks = uplinks(config, transport, audit, &mut findings);
        let scan = scan_rules(config, &mut findings);
        let images = images(config, &mut findings);
        let requires_sealed = config.privacy.requires_sealed;
        let routes = match RoutePolicy::parse(&config.routes.name, &config.routes.text) {
            Ok(routes) if requires_sealed => Some(routes.requiring_sealed()),
            Ok(routes) => Some(routes),
            Err(faults) => {
                report(&faults, "routes", &mut findings);
                None
            }
        };
        let roster = roster(config, local, &pools, &uplinks, &upstreams);
        report(
            &check_aliases(&roster, "aliases", "aliases"),
            "",
            &mut findings,
        );
        if requires_sealed {
            judge_unsealed(config, &upstreams, &mut findings);
            let faults = check_sealed_aliases(&roster, "aliases", "aliases");
            report(&faults, "", &mut findings);
        }
        if let Some(routes) = &routes {
            report(&routes.check(&roster), "routes", &mut findings);
        }
        if let Some(routes) = routes.as_ref().filter(|_| !local.is_empty()) {
            routes.warm();
        }
        match (routes, scan) {
            (Some(routes), Some(scan)) if findings.faults.is_empty() => Ok(Self {
                routes,
                scan,
                upstreams,
                pools,
                uplinks,
                images,
                link: Arc::clone(transport.link()),
                config: config.clone(),
                warnings: findings.warnings,
            }),
            _ => Err(ConfigFaults(findings.faults)),
        }
    }

    /// No faults, but worth saying.
    #[must_use]
    pub fn warnings(&self) -> &[ConfigFault] {
        &self.warnings
    }

    /// What it was made from.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Pools that are configured as before stay the ones they were, with all they know of their
    /// endpoints.
    pub fn keep_pools(&mut self, before: &Assembly) {
        for pool in &mut self.pools {
            let is_same = |known: &&Arc<Pool>| known.config() == pool.config();
            if let Some(known) = before.pools.iter().find(is_same) {
                *pool = Arc::clone(known);
            }
        }
    }

    /// The same for relays, with their manifests, and answers under way.
    pub fn keep_uplinks(&mut self, before: &Assembly) {
        for uplink in &mut self.uplinks {
            let is_same = |known: &&Arc<Uplink>| known.is_as_configured(uplink.settings());
            if let Some(known) = before.uplinks.iter().find(is_same) {
                *uplink = Arc::clone(known);
            }
        }
    }

    #[must_use]
    pub fn uplinks(&self) -> &[Arc<Uplink>] {
        &self.uplinks
    }

    #[must_use]
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The snapshot for the pipeline. Local models come first among equals, then pools, then relays.
    #[must_use]
    pub fn snapshot(&self, local: Vec<Arc<dyn Backend>>, secret: &CacheSecret) -> Snapshot {
        let backends = local
            .into_iter()
            .chain(self.pools.iter().map(|pool| Arc::clone(pool) as _))
            .chain(self.uplinks.iter().map(|uplink| uplink.backend()))
            .chain(self.upstreams.iter().cloned())
            .collect();
        let limits = &self.config.limits;
        Snapshot::new(
            self.routes.clone(),
            self.scan.clone(),
            backends,
            self.config.aliases.clone(),
            CacheRules {
                is_enabled: self.config.cache.is_enabled,
                secret: secret.clone(),
                ttl: self.config.cache.ttl,
                reply_bytes_max: self.config.cache.reply_bytes_max,
            },
            Patience {
                local: limits.first_content_local,
                remote: limits.first_content_remote,
                last: limits.first_content_last,
            },
        )
        .with_prices(Prices {
            book: Arc::clone(&self.config.prices),
            providers: self.config.price_providers.clone(),
            reference: self.config.reference.as_ref().map(|it| it.price),
        })
        .with_shares(self.config.shares.clone())
        .with_retry(self.config.retry)
        .with_breaker(self.config.breaker)
        .with_rescue(self.config.rescue)
        .with_offline(self.offline())
        .with_images(self.images.clone())
        .with_shadow(self.config.shadow.clone())
        .with_pace(self.config.cache.pace)
    }

    fn offline(&self) -> OfflineRules {
        let settings = &self.config.offline;
        if !settings.is_enabled {
            return OfflineRules::default();
        }
        OfflineRules::new(
            Arc::clone(&self.link) as _,
            settings.queue_wait,
            settings.queue_max,
            settings.rules.retry_every,
        )
    }
}

fn upstreams(
    config: &Config,
    transport: &Transport,
    findings: &mut Findings,
) -> Vec<Arc<dyn Backend>> {
    let mut upstreams: Vec<Arc<dyn Backend>> = Vec::new();
    for (at, upstream) in config.upstreams.iter().enumerate() {
        match Upstream::new(upstream.clone(), transport.clone()) {
            Ok(upstream) => upstreams.push(Arc::new(upstream)),
            Err(error) => {
                let key = upstream_fault_key(&error);
                findings.fault(format!("upstreams[{at}].{key}"), error.to_string());
            }
        }
    }
    upstreams
}

fn pools(config: &Config, transport: &Transport, findings: &mut Findings) -> Vec<Arc<Pool>> {
    let mut pools = Vec::new();
    for (at, pool) in config.pools.iter().enumerate() {
        match Pool::new(pool.clone(), transport.clone(), Arc::new(SystemResolver)) {
            Ok(pool) => pools.push(Arc::new(pool)),
            Err(error) => {
                let key = match &error {
                    PoolConfigError::Empty => "endpoints".to_owned(),
                    PoolConfigError::Endpoint { index, source } => {
                        match upstream_fault_key(source) {
                            "base_url" => format!("endpoints[{index}]"),
                            key => key.to_owned(),
                        }
                    }
                };
                findings.fault(format!("pools[{at}].{key}"), error.to_string());
            }
        }
    }
    pools
}

fn uplinks(
    config: &Config,
    transport: &Transport,
    audit: &Arc<dyn AuditLog>,
    findings: &mut Findings,
) -> Vec<Arc<Uplink>> {
    let mut uplinks = Vec::new();
    for (at, relay) in config.relays.iter().enumerate() {
        match Uplink::new(relay.clone(), transport, audit) {
            Ok(uplink) => uplinks.push(Arc::new(uplink)),
            Err(fault) => {
                let key = match fault.member {
                    Some(index) => format!("members[{index}]"),
                    None => "members".to_owned(),
                };
                findings.fault(format!("relays[{at}].{key}"), fault.to_string());
            }
        }
    }
    uplinks
}

fn images(config: &Config, findings: &mut Findings) -> Option<ImageRules> {
    let settings = config.images.as_ref()?;
    match client::fetcher(&settings.rules) {
        Ok(fetcher) => Some(ImageRules::new(Arc::new(fetcher), settings.limits)),
        Err(error) => {
            findings.fault("images.fetch", format!("no client can be made: {error}"));
            None
        }
    }
}

fn scan_rules(config: &Config, findings: &mut Findings) -> Option<ScanRules> {
    let custom: Vec<CustomRule> = config
        .privacy
        .custom
        .iter()
        .map(|class| CustomRule {
            name: class.name.clone(),
            pattern: class.pattern.clone(),
            trust_min: class.trust,
        })
        .collect();
    match ScanRules::compile(&config.privacy.classes, &custom) {
        Ok(rules) => Some(rules),
        Err(faults) => {
            for fault in faults {
                let path = match &fault {
                    ScanRuleFault::NoDetector(_) => "privacy.classes".to_owned(),
                    ScanRuleFault::Malformed { index, .. }
                    | ScanRuleFault::TooLarge { index, .. }
                    | ScanRuleFault::MatchesNothing { index, .. } => {
                        format!("privacy.custom[{index}].pattern")
                    }
                };
                findings.fault(path, fault.to_string());
            }
            None
        }
    }
}

/// Upstreams that nobody will ask, and those that only say that they are this machine.
fn judge_unsealed(config: &Config, upstreams: &[Arc<dyn Backend>], findings: &mut Findings) {
    for (at, upstream) in config.upstreams.iter().enumerate() {
        let mut cards = upstreams.iter().map(|it| it.card());
        let card = cards.find(|card| card.name == upstream.name);
        let Some(card) = card.filter(|card| !card.is_sealed) else {
            continue;
        };
        let url = reqwest::Url::parse(&upstream.base_url);
        if !card.is_own_or_sealed() {
            findings.warn(
                format!("upstreams[{at}]"),
                format!(
                    "`{}` is never asked: it is not sealed, and privacy.require_sealed is set",
                    card.name
                ),
            );
        } else if !url.is_ok_and(|url| is_loopback(&url)) {
            findings.fault(
                format!("upstreams[{at}].trust"),
                "says that it is this machine, and its address is another's; with \
                 privacy.require_sealed that would let everything through",
            );
        }
    }
}

fn roster(
    config: &Config,
    local: &[BackendCard],
    pools: &[Arc<Pool>],
    uplinks: &[Arc<Uplink>],
    upstreams: &[Arc<dyn Backend>],
) -> Roster {
    let cards = local
        .iter()
        .cloned()
        .chain(pools.iter().map(|pool| pool.card().clone()))
        .chain(uplinks.iter().map(|uplink| uplink.backend().card().clone()))
        .chain(upstreams.iter().map(|upstream| upstream.card().clone()));
    Roster {
        backends: cards
            .map(|card| RosterEntry {
                card: Arc::new(card),
                health: Health::READY,
            })
            .collect(),
        aliases: Arc::new(config.aliases.clone()),
        shares: Arc::new(config.shares.clone()),
        ..Roster::default()
    }
}

/// Rule faults carry their own file; ours is named only where the file is another.
fn report(faults: &[RuleFault], prefix: &str, findings: &mut Findings) {
    for fault in faults {
        let path = match (prefix, fault.path.as_str()) {
            ("", path) => path.to_owned(),
            (_, "") => fault.file.clone(),
            (_, path) => format!("{}: {path}", fault.file),
        };
        findings.fault(path, fault.message.clone());
    }
}
