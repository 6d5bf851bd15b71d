//! `hedge check` and `hedge config`.

use std::process::ExitCode;

use anyhow::Context;

use crate::assembly::Assembly;
use crate::cli::{ConfigArgs, ConfigCommand};
use crate::config::{self, ConfigFault, Loaded, RawConfig};
use crate::local::{self, Located};
use crate::sealed::unaudited;
use crate::{client, embedder, retention, terminal};

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
    let mut warnings = loaded.findings.warnings.clone();
    if let Some(config) = &loaded.config {
        let located = match local::locate(config) {
            Ok(located) => Some(located),
            Err(found) => {
                faults.extend(found.into_iter().map(named));
                None
            }
        };
        let names = located.as_ref().map(Located::names).unwrap_or_default();
        let encoders = embedder::look(config, &names).into_iter();
        faults.extend(encoders.filter_map(Result::err).map(named));
        // A budget of the operator's own is a promise; what is free now is not what will be then.
        if let Some(Err(fault)) = located.as_ref().map(Located::check_room) {
            let has_budget = config
                .local
                .as_ref()
                .is_some_and(|local| local.memory_bytes_max.is_some());
            if has_budget {
                faults.push(named(fault));
            } else {
                warnings.push(named(fault));
            }
        }
        let retention = config.retention.iter();
        faults.extend(retention.flat_map(retention::unreadable));
        let http = client::build().context("cannot set up the HTTP client")?;
        let cards = located.as_ref().map(Located::cards).unwrap_or_default();
        match Assembly::build(config, &cards, &http.transport(), &unaudited()) {
            Ok(assembly) => warnings.extend_from_slice(assembly.warnings()),
            Err(found) => faults.extend(found.0),
        }
    }
    for warning in &warnings {
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
        ConfigCommand::Schema { model } => {
            let schema = if *model {
                config::model_schema()
            } else {
                schemars::schema_for!(RawConfig).to_value()
            };
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

/// Of a model; its words name the file.
fn named(fault: impl Into<anyhow::Error>) -> ConfigFault {
    ConfigFault {
        path: String::new(),
        message: super::chain(&fault.into()),
    }
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
