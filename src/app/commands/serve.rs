//! `hedge serve`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use providers::{Members, PoolConfig, UpstreamConfig};
use tracing::warn;

use crate::cli::ServeArgs;
use crate::config::{self, Config, ConfigFault, Isolation, LogFormat, Override};
use crate::local::Located;
use crate::node::Node;
use crate::reload::Watch;
use crate::signals::{Signals, Word};
use crate::{banner, client, embedder, local, resident, sealed, telemetry, terminal};

/// For blocking work that nobody waits for any more, such as a model still loading.
const LEAVE_MAX: Duration = Duration::from_millis(500);

/// Serves until told to stop.
///
/// # Errors
/// The configuration has faults, or the node could not start or keep going.
pub fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let environment = config::environment();
    let flags: Vec<Override> = args
        .listen
        .iter()
        .map(|listen| Override::flag("--listen", &["listen"], listen))
        .collect();
    let file = args.config.config.as_deref();
    serve_as(&environment, || {
        config::load(file, &environment, &flags).into_config()
    })
}

/// `hedge relay`: the same by a relay's file, in memory that nobody else looks into.
///
/// # Errors
/// As above, or the file is no relay's.
pub fn serve_relay(file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let environment = config::environment();
    let loaded = config::load_relay(file, &environment, &[]);
    if loaded.raw.gateway.is_none() && loaded.findings.faults.is_empty() {
        match loaded.file {
            Some(file) => bail!(
                "{} has no [gateway], so it is no relay's; `hedge relay init` makes one that is",
                file.display()
            ),
            None => bail!(
                "there is no relay.toml here; `hedge relay init` makes one, and what belongs to it"
            ),
        }
    }
    serve_as(&environment, || {
        config::load_relay(file, &environment, &[]).into_config()
    })
}

fn serve_as(
    environment: &BTreeMap<String, String>,
    load: impl Fn() -> Result<(Config, Vec<ConfigFault>), config::ConfigFaults>,
) -> anyhow::Result<ExitCode> {
    let (config, warnings) = load()?;
    let watch = Watch::of(&config.watched);
    if config
        .local
        .as_ref()
        .is_some_and(|local| local.isolation == Isolation::Thread)
    {
        quiet_aborts(environment);
    }
    telemetry::start(&config.log);
    if config.gateway.is_some() {
        sealed::keep_memory_private();
    }
    if config.gateway.is_some() || !config.relays.is_empty() {
        sealed::warn_without_aes();
    }
    // At most half of the cores: the engine needs the others, and an exchange whose tasks stay on
    // one thread wakes nobody.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.limits.network_threads_max.min(threads))
        .thread_name("network")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(run(&config, &warnings, watch, || {
        load().map(|(config, _)| config)
    }));
    runtime.shutdown_timeout(LEAVE_MAX);
    served.map(|()| ExitCode::SUCCESS)
}

/// llama.cpp starts a debugger on its way to an abort, which hangs where there is a terminal and
/// takes seconds where there is none, unless `GGML_NO_BACKTRACE` is set. A process cannot safely
/// change its own environment, so it becomes itself once more with the variable set.
fn quiet_aborts(environment: &BTreeMap<String, String>) {
    const NAME: &str = "GGML_NO_BACKTRACE";
    if !cfg!(feature = "llama") || environment.contains_key(NAME) {
        return;
    }
    let Ok(binary) = std::env::current_exe() else {
        return;
    };
    // Returns only where it failed, and then all goes on without.
    let error = Command::new(binary)
        .args(std::env::args_os().skip(1))
        .env(NAME, "1")
        .exec();
    terminal::note(format!("warning: {NAME} could not be set: {error}"));
}

async fn run(
    config: &Config,
    warnings: &[ConfigFault],
    mut watch: Watch,
    reload: impl Fn() -> Result<Config, config::ConfigFaults>,
) -> anyhow::Result<()> {
    for warning in warnings {
        warn!(%warning, "configuration");
    }
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let http = client::build().context("cannot set up the HTTP client")?;
    let wants_https = |upstream: &UpstreamConfig| upstream.base_url.starts_with("https");
    let has_https = |pool: &PoolConfig| match &pool.members {
        Members::Listed(urls) => urls.iter().any(|url| url.starts_with("https")),
        Members::Dns { .. } => false,
    };
    let is_https_wanted =
        config.upstreams.iter().any(wants_https) || config.pools.iter().any(has_https);
    if !http.has_certificates && is_https_wanted {
        warn!(
            reason = client::NO_CERTIFICATES,
            "upstreams cannot be reached"
        );
    }
    let located = located(config)?;
    let has_none = located.models().next().is_none();
    if let Err(absent) = located.default
        && absent != local::Absent::Off
    {
        warn!(
            reason = absent.as_words(),
            "there is no default local model"
        );
        let has_remote =
            !(config.upstreams.is_empty() && config.pools.is_empty() && config.relays.is_empty());
        if has_none && !has_remote {
            bail!(
                "nothing could answer: {}, and there are neither [[pools]], [[relays]] nor [[upstreams]]",
                absent.as_words()
            );
        }
    }
    let encoders = embedder::locate(config, &located.names())?;
    let node = Node::start(config, &located, encoders, http.transport()).await?;
    resident::forget_start();
    announce(config, &located, &node);
    let files = RefCell::new(config.watched.clone());
    let next = async || {
        tokio::select! {
            word = signals.next() => word,
            () = watch.changed(|| files.borrow().clone()) => Word::Reload,
        }
    };
    // What is looked at is what the configuration in force is made of.
    let reload = || {
        let reloaded = reload();
        if let Ok(config) = &reloaded {
            files.borrow_mut().clone_from(&config.watched);
        }
        reloaded
    };
    node.run(next, reload).await
}

/// Found, and those for the start with room for all of them.
fn located(config: &Config) -> anyhow::Result<Located> {
    let located = local::locate(config).map_err(|faults| {
        let mut faults = faults.into_iter().map(|fault| super::chain(&fault.into()));
        let first = faults.next().unwrap_or_default();
        anyhow!(faults.fold(first, |text, fault| format!("{text}\n       {fault}")))
    })?;
    if let Err(fault) = located.check_room() {
        bail!(
            "{fault}; set local.memory_bytes_max if there is more, less of context_tokens_max, \
             kv_tokens_max or slots_max, or load = \"demand\""
        );
    }
    Ok(located)
}

fn announce(config: &Config, located: &Located, node: &Node) {
    tracing::info!(
        address = node.addresses.clients.map(tracing::field::display),
        edges = node.addresses.edges.map(tracing::field::display),
        admin = node.addresses.admin.map(tracing::field::display),
        "listening"
    );
    if config.log.format == LogFormat::Human {
        terminal::say_part(banner::text(
            config,
            located,
            node.addresses,
            node.asks_for_keys(),
        ));
    }
}
