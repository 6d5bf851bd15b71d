//! `hedge models`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use depot::{Depot, Entry, Hub, Progress, PullRequest, Step, Token};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{ConfigArgs, ModelsCommand};
use crate::{client, config, terminal};

/// Fetches, lists, removes or adds model files.
///
/// # Errors
/// The depot's or the pull's own.
pub fn models(what: ModelsCommand, args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let environment = config::environment();
    let loaded = config::load(args.config.as_deref(), &environment, &[]);
    let depot = Depot::open(loaded.depot_dir(&environment)?);
    match what {
        ModelsCommand::Pull {
            source,
            name,
            sha256,
        } => {
            let request = PullRequest {
                source: source.parse().with_context(|| format!("`{source}`"))?,
                name,
                sha256: sha256
                    .map(|hex| hex.parse())
                    .transpose()
                    .context("--sha256")?,
                hub: hub(&environment)?,
            };
            let entry = pull(&depot, request)?;
            terminal::say(format!(
                "{} is in {}",
                entry.name,
                depot.dir().join(&entry.file).display()
            ));
            next_step(&entry);
        }
        ModelsCommand::List => list(&depot)?,
        ModelsCommand::Rm { name } => {
            let entry = depot.remove(&name)?;
            terminal::say(format!("removed {} ({})", entry.name, size(entry.bytes)));
        }
        ModelsCommand::Import { file, name } => {
            let entry = depot.import(&file, name.as_deref())?;
            terminal::say(format!(
                "{} is in the depot ({})",
                entry.name,
                size(entry.bytes)
            ));
            next_step(&entry);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn hub(environment: &std::collections::BTreeMap<String, String>) -> anyhow::Result<Hub> {
    let filled = |name: &str| environment.get(name).filter(|text| !text.is_empty());
    let base = filled("HF_ENDPOINT").map_or(Hub::BASE_DEFAULT, String::as_str);
    let base = reqwest::Url::parse(base).context("HF_ENDPOINT")?;
    if base.scheme() != "https" && !config::is_loopback(&base) {
        bail!("HF_ENDPOINT does not begin with https://");
    }
    Ok(Hub {
        base,
        token: filled("HF_TOKEN").map(Token::new),
    })
}

fn pull(depot: &Depot, request: PullRequest) -> anyhow::Result<Entry> {
    let http = client::build().context("cannot set up the HTTP client")?;
    if !http.has_certificates {
        terminal::note(format!("warning: {}", client::NO_CERTIFICATES));
    }
    let bar = Bar::new()?;
    let pulled = super::runtime()?.block_on(async {
        tokio::select! {
            pulled = depot.pull(&http.client, request, &bar) => pulled.map_err(anyhow::Error::from),
            _ = tokio::signal::ctrl_c() => {
                Err(anyhow::anyhow!("interrupted; run the same command to go on"))
            }
        }
    });
    bar.0.finish_and_clear();
    pulled
}

/// The progress bar; hidden where standard error is no terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> anyhow::Result<Self> {
        let style = ProgressStyle::with_template(
            "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        )?;
        let bar = ProgressBar::new(0).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self(bar))
    }
}

impl Progress for Bar {
    fn step(&self, step: Step) {
        match step {
            Step::Begun {
                name,
                received,
                total,
            } => {
                self.0.set_length(total.unwrap_or(0));
                self.0.set_position(received);
                // The speed shown is this transfer's, not that of what was here already.
                self.0.reset_eta();
                self.0.set_message(name);
            }
            Step::Received(received) => self.0.set_position(received),
            Step::Resuming => self.0.set_message("the connection broke; going on"),
            Step::Checking => self.0.set_message("checking"),
        }
    }
}

fn next_step(entry: &Entry) {
    if let Some(licence) = &entry.licence {
        terminal::say(format!("its licence: {licence}"));
    }
    terminal::say(format!(
        "next: HEDGE_LOCAL__MODEL={0} hedge serve   (or model = \"{0}\" under [local] in hedge.toml)",
        entry.name
    ));
}

fn list(depot: &Depot) -> anyhow::Result<()> {
    let entries = depot.list()?;
    if entries.is_empty() {
        terminal::say(format!(
            "no models in {}; fetch one with `hedge models pull ORG/REPO`",
            depot.dir().display()
        ));
        return Ok(());
    }
    let width = entries
        .iter()
        .map(|entry| entry.name.len())
        .max()
        .unwrap_or(0);
    for entry in entries {
        let state = match depot.find(&entry.name) {
            Ok(_) => "",
            Err(_) => "  (its file is gone)",
        };
        terminal::say(format!(
            "{:width$}  {:>9}  {:>12}  {}{state}",
            entry.name,
            size(entry.bytes),
            age(entry.pulled_at_s),
            entry.source,
        ));
    }
    Ok(())
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "?".to_owned(),
        Some(bytes) if bytes >= 1_000_000_000 => format!("{:.1} GB", bytes as f64 / 1e9),
        Some(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn age(pulled_at_s: Option<u64>) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let Some(pulled_at_s) = pulled_at_s else {
        return String::new();
    };
    match now.as_secs().saturating_sub(pulled_at_s) / 86_400 {
        0 => "today".to_owned(),
        1 => "yesterday".to_owned(),
        days => format!("{days} days ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(Some(3_300_000)), "3.3 MB");
        assert_eq!(size(Some(1_900_000_000)), "1.9 GB");
        assert_eq!(size(None), "?");
    }
}
