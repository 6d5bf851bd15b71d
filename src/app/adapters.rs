//! LoRA adapters of the models on this machine: which files they are, and that they fit it.

use std::path::Path;

use depot::Depot;
use depot::gguf::{GgufFault, Weights};
use engine::{AdapterConfig, EngineConfig, LoadError};

use crate::config::{Config, LocalSettings, ModelSource};
use crate::local::LocalFault;

/// Finds the adapters that `settings` name for the model of `engine`, and checks that they fit it.
///
/// # Errors
/// One is not usable.
pub fn locate(
    config: &Config,
    settings: &LocalSettings,
    engine: &EngineConfig,
) -> Result<Vec<AdapterConfig>, LocalFault> {
    if settings.adapters.is_empty() {
        return Ok(Vec::new());
    }
    let weights = Weights::read(&engine.path).map_err(|source| LocalFault::Gguf {
        path: engine.path.clone(),
        source,
    })?;
    let depot = Depot::open(&config.depot_dir);
    let mut found = Vec::new();
    for (at, adapter) in settings.adapters.iter().enumerate() {
        if adapter.name == engine.name {
            return Err(LocalFault::AdapterNamed {
                at,
                name: engine.name.clone(),
            });
        }
        let path = match &adapter.source {
            ModelSource::Path(path) => path.clone(),
            ModelSource::Depot(name) => depot
                .find(name)
                .map_err(|source| LocalFault::AdapterDepot { at, source })?,
            // Refused by the configuration.
            ModelSource::Bundled => continue,
        };
        let summary = match weights.inspect(&path) {
            Ok(summary) => summary,
            Err(source) => return Err(LocalFault::Adapter { at, path, source }),
        };
        found.push(AdapterConfig {
            path,
            name: adapter.name.clone(),
            scale: adapter.scale,
            bytes: summary.bytes,
        });
    }
    Ok(found)
}

/// Looks the files over once more, right before llama.cpp opens them.
///
/// # Errors
/// One is not sound, or made for another model.
pub fn check(config: &EngineConfig) -> Result<(), LoadError> {
    if config.adapters.is_empty() {
        return Ok(());
    }
    let unsound = |path: &Path, fault: GgufFault| LoadError::Unsound {
        path: path.to_owned(),
        fault: Box::new(fault),
    };
    let weights = Weights::read(&config.path).map_err(|fault| unsound(&config.path, fault))?;
    for adapter in &config.adapters {
        let inspected = weights.inspect(&adapter.path);
        inspected.map_err(|fault| unsound(&adapter.path, fault))?;
    }
    Ok(())
}
