//! `hedge check` and `hedge config`.

use std::process::ExitCode;

use anyhow::Context;

use crate::assembly::Assembly;
use crate::cli::{ConfigArgs, ConfigCommand};
use crate::config::{self, ConfigFault, Loaded, RawConfig};
use crate::{client, embedder, local, terminal};

/// Says everything that is wrong, without listening, loading or asking anybody.
///
/// # Errors
/// The HTTP client cannot be set up.
pub fn check(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let loaded = load(args);
    let origin = loaded.file.as_ref().map_or_else(
        || "no file, only defaults and HEDGE_*".to_owned(),
        |file| file.display().to_string(),
    );
    let mut faults = loaded.findings.faults.clone();
    if let Some(config) = &loaded.config {
        let model = match local::locate(config) {
            Ok(model) => model.ok(),
            Err(fault) => {
                faults.push(ConfigFault {
                    path: String::new(),
                    message: super::chain(&fault.into()),
                });
                None
            }
        };
        let chat = model.as_ref().map(|model| model.engine.name.as_str());
        let encoders = embedder::look(config, chat).into_iter();
        faults.extend(encoders.filter_map(Result::err).map(|fault| ConfigFault {
            path: String::new(),
            message: super::chain(&fault.into()),
        }));
        let http = client::build().context("cannot set up the HTTP client")?;
        let standing_in = model.as_ref().map(local::Loading::new);
        let card = standing_in.as_ref().map(|loading| loading.card());
        if let Err(found) = Assembly::build(config, card, &http.transport()) {
            faults.extend(found.0);
        }
    }
    for warning in &loaded.findings.warnings {
        terminal::say(format!("warn  {warning}"));
    }
    for fault in &faults {
        terminal::say(format!("fail  {fault}"));
    }
    if faults.is_empty() {
        terminal::say(format!("ok    {origin}"));
        return Ok(ExitCode::SUCCESS);
    }
    terminal::say(format!("{} ({origin})", count(faults.len())));
    Ok(ExitCode::FAILURE)
}

/// Prints the schema, or what is in force.
///
/// # Errors
/// The configuration cannot be read.
pub fn config(what: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match what {
        ConfigCommand::Schema => {
            let schema = schemars::schema_for!(RawConfig);
            terminal::say(serde_json::to_string_pretty(&schema)?);
        }
        ConfigCommand::Show(args) => {
            let loaded = load(args);
            terminal::say(toml::to_string_pretty(&loaded.raw)?);
            loaded.into_config()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(args: &ConfigArgs) -> Loaded {
    config::load(args.config.as_deref(), &config::environment(), &[])
}

fn count(faults: usize) -> String {
    match faults {
        1 => "1 fault".to_owned(),
        more => format!("{more} faults"),
    }
}
