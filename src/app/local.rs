//! The model on this machine: which file it is, and what stands in for it while it loads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use depot::gguf::{self, GgufFault, GgufSummary};
use depot::{Depot, DepotError};
use domain::{
    Abilities, Ability, Backend, BackendCard, BackendError, BackendName, ChatStream, Health,
    HealthState, ModelCard, Outbound, Tokens, Trust,
};
use engine::EngineConfig;

use crate::bundled;
use crate::config::{Config, LocalSettings, ModelSource};

/// Temperature for models of the operator's own, where nobody says otherwise: varied, and to the
/// point. The bundled model knows facts, not style, and gets 0.
const TEMPERATURE_DEFAULT: f32 = 0.7;
/// What a caller is told to wait while the model loads.
const LOADING_WAIT: Duration = Duration::from_secs(1);

/// A model file, found and looked over, and how to load it.
#[derive(Clone, Debug)]
pub struct LocalModel {
    pub engine: EngineConfig,
    pub summary: GgufSummary,
    pub is_bundled: bool,
}

/// Why there is no local model, though one is configured.
#[derive(Debug, thiserror::Error)]
pub enum LocalFault {
    #[error("local.model: {0}")]
    Depot(#[source] DepotError),
    #[error("local.model: {}", path.display())]
    Gguf {
        path: PathBuf,
        #[source]
        source: GgufFault,
    },
    #[error("the bundled model can be put neither into a file nor into memory")]
    Bundled(#[source] std::io::Error),
    #[error("the model has no chat template, so it cannot chat: {}", .0.display())]
    NotChat(PathBuf),
}

/// Why a node runs without a local model, in words for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// `local.enabled = false`.
    Off,
    NotBundled,
    NoEngine,
}

impl Absent {
    #[must_use]
    pub fn as_words(self) -> &'static str {
        match self {
            Absent::Off => "local.enabled is false",
            Absent::NotBundled => {
                "this binary holds no model; set local.model, or build where models/hedge-tiny.gguf is"
            }
            Absent::NoEngine => "this binary was built without the local engine (feature `llama`)",
        }
    }
}

/// Finds the configured model and checks its file.
///
/// # Errors
/// It is configured and not usable.
pub fn locate(config: &Config) -> Result<Result<LocalModel, Absent>, LocalFault> {
    let Some(settings) = &config.local else {
        return Ok(Err(Absent::Off));
    };
    if !cfg!(feature = "llama") {
        return Ok(Err(Absent::NoEngine));
    }
    if settings.source == ModelSource::Bundled && !bundled::is_present() {
        return Ok(Err(Absent::NotBundled));
    }
    let (path, name) = match &settings.source {
        ModelSource::Bundled => (
            bundled::materialise(&config.data_dir).map_err(LocalFault::Bundled)?,
            bundled::NAME.to_owned(),
        ),
        ModelSource::Path(path) => (path.clone(), stem(path)),
        ModelSource::Depot(name) => (
            Depot::open(&config.depot_dir)
                .find(name)
                .map_err(LocalFault::Depot)?,
            name.clone(),
        ),
    };
    let summary = gguf::inspect(&path).map_err(|source| LocalFault::Gguf {
        path: path.clone(),
        source,
    })?;
    if summary.chat_template.is_none() {
        return Err(LocalFault::NotChat(path));
    }
    let is_bundled = settings.source == ModelSource::Bundled || bundled::is_at(&path);
    Ok(Ok(LocalModel {
        engine: engine_config(settings, path, name, is_bundled),
        summary,
        is_bundled,
    }))
}

/// The file's name without its ending, without slashes, which would make it an upstream's.
fn stem(path: &Path) -> String {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some(stem) if !stem.is_empty() => stem.to_owned(),
        Some(_) | None => "model".to_owned(),
    }
}

fn engine_config(
    settings: &LocalSettings,
    path: PathBuf,
    name: String,
    is_bundled: bool,
) -> EngineConfig {
    let temperature = if is_bundled { 0.0 } else { TEMPERATURE_DEFAULT };
    let mut engine = EngineConfig::new(path, settings.name.clone().unwrap_or(name));
    engine.context_tokens_max = settings.context_tokens_max;
    engine.kv_tokens_max = settings.kv_tokens_max;
    engine.slots_max = settings.slots_max;
    engine.queue_max = settings.queue_max;
    engine.threads = settings.threads;
    engine.batch_tokens_max = settings.batch_tokens_max;
    engine.gpu_layers = settings.gpu_layers.unwrap_or(u32::MAX);
    engine.events_max = settings.events_max;
    engine.stall_max = settings.stall_max;
    engine.output_tokens_default = settings.output_tokens_default;
    engine.temperature_default = settings.temperature_default.unwrap_or(temperature);
    engine.backends_dir = backends_dir();
    engine
}

/// Where the CPU back ends of a `dynamic-backends` build lie: `lib/` beside the binary.
fn backends_dir() -> Option<PathBuf> {
    if !cfg!(feature = "dynamic-backends") {
        return None;
    }
    let binary = std::env::current_exe().ok()?;
    Some(binary.parent()?.join("lib")).filter(|dir| dir.is_dir())
}

/// Stands in for the engine while it loads: its name is known already, so that rules and aliases
/// that lead to it hold, and a caller is told to come back rather than that nobody is there.
#[derive(Debug)]
pub struct Loading {
    card: BackendCard,
}

impl Loading {
    #[must_use]
    pub fn new(model: &LocalModel) -> Arc<Self> {
        Arc::new(Self { card: card(model) })
    }

    #[must_use]
    pub fn card(&self) -> &BackendCard {
        &self.card
    }
}

/// What the engine's own card is expected to say; the engine's replaces it once loaded.
fn card(model: &LocalModel) -> BackendCard {
    let trained = model.summary.context_tokens.unwrap_or(u32::MAX);
    let context = model
        .engine
        .context_tokens_max
        .unwrap_or(EngineConfig::CONTEXT_TOKENS_DEFAULT)
        .min(trained);
    BackendCard {
        name: BackendName::new("local"),
        trust: Trust::Device,
        models: vec![ModelCard {
            name: model.engine.name.clone(),
            context_tokens_max: Some(Tokens(context)),
            abilities: Abilities::NONE
                .with(Ability::Tools)
                .with(Ability::LogitBias),
        }],
    }
}

#[async_trait]
impl Backend for Loading {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        Health::of(HealthState::Starting, Some(LOADING_WAIT))
    }

    async fn chat(&self, _call: Outbound) -> Result<ChatStream, BackendError> {
        Err(BackendError::Overloaded {
            retry_after: LOADING_WAIT,
        })
    }
}
