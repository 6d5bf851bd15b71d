//! `hedge serve`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tracing::warn;

use crate::cli::ServeArgs;
use crate::config::{self, Config, ConfigFault, LogFormat, Override};
use crate::node::Node;
use crate::signals::Signals;
use crate::{banner, client, local, telemetry, terminal};

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
    let load = || config::load(args.config.config.as_deref(), &environment, &flags).into_config();
    let (config, warnings) = load()?;
    telemetry::start(&config.log);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.limits.network_threads_max.min(threads))
        .thread_name("network")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(run(&config, &warnings, || load().map(|(config, _)| config)));
    runtime.shutdown_timeout(LEAVE_MAX);
    served.map(|()| ExitCode::SUCCESS)
}

async fn run(
    config: &Config,
    warnings: &[ConfigFault],
    reload: impl Fn() -> Result<Config, config::ConfigFaults>,
) -> anyhow::Result<()> {
    for warning in warnings {
        warn!(%warning, "configuration");
    }
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let client = client::build().context("cannot set up the HTTP client")?;
    let model = local::locate(config)?;
    if let Err(absent) = model
        && absent != local::Absent::Off
    {
        warn!(reason = absent.as_words(), "there is no local model");
        if config.upstreams.is_empty() {
            bail!(
                "nothing could answer: {}, and there are no [[upstreams]]",
                absent.as_words()
            );
        }
    }
    let node = Node::start(config, model.as_ref().ok().cloned(), client).await?;
    announce(config, &model, &node);
    node.run(&mut signals, reload).await
}

fn announce(config: &Config, model: &Result<local::LocalModel, local::Absent>, node: &Node) {
    tracing::info!(
        address = %node.addresses.clients,
        admin = node.addresses.admin.map(tracing::field::display),
        "listening"
    );
    if config.log.format == LogFormat::Human {
        terminal::say_part(banner::text(config, model, node.addresses));
    }
}
