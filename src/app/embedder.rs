//! The embedding model on this machine: which file it is, and its way into the node.

use std::sync::Arc;

use depot::{Depot, gguf};
use domain::Embedder;
use engine::{EmbedderConfig, LoadError, LocalEmbedder};
use tracing::error;

use crate::config::{Config, EmbeddingSettings, ModelSource};
use crate::local::{LocalDriver, LocalFault, backends_dir, stem};

/// Finds the configured embedding model and checks its file. `None` where there is none.
///
/// # Errors
/// It is configured and not usable.
pub fn locate(config: &Config) -> Result<Option<EmbedderConfig>, LocalFault> {
    let Some(settings) = &config.embeddings else {
        return Ok(None);
    };
    let (path, name) = match &settings.source {
        ModelSource::Path(path) => (path.clone(), stem(path)),
        ModelSource::Depot(name) => (
            Depot::open(&config.depot_dir)
                .find(name)
                .map_err(LocalFault::Depot)?,
            name.clone(),
        ),
        // Refused by the configuration.
        ModelSource::Bundled => return Ok(None),
    };
    gguf::inspect(&path).map_err(|source| LocalFault::Gguf {
        path: path.clone(),
        source,
    })?;
    let EmbeddingSettings {
        input_tokens_max,
        queue_tokens_max,
        threads,
        gpu_layers,
        ..
    } = *settings;
    let mut embedder = EmbedderConfig::new(path, settings.name.clone().unwrap_or(name));
    embedder.input_tokens_max = input_tokens_max;
    embedder.queue_tokens_max = queue_tokens_max;
    embedder.threads = threads;
    embedder.gpu_layers = gpu_layers.unwrap_or(embedder.gpu_layers);
    embedder.backends_dir = backends_dir();
    Ok(Some(embedder))
}

/// The loaded model, and what is to be run for as long as it is.
pub type LoadedEmbedder = (Arc<LocalEmbedder>, LocalDriver);

/// Loads it.
///
/// # Errors
/// The engine's own.
pub async fn load(config: EmbedderConfig) -> Result<LoadedEmbedder, LoadError> {
    let loading = tokio::task::spawn_blocking(move || LocalEmbedder::load(config));
    let (embedder, driver) = loading.await.unwrap_or(Err(LoadError::Panicked))?;
    let driver = async move {
        if let Err(error) = driver.run().await {
            error!(%error, "embedder failed");
        }
    };
    Ok((Arc::new(embedder), Box::pin(driver)))
}

/// What a snapshot wants of it.
#[must_use]
pub fn named(embedder: &Arc<LocalEmbedder>, config: &Config) -> Vec<pipeline::NamedEmbedder> {
    let also = config
        .embeddings
        .as_ref()
        .map(|settings| settings.also.clone());
    let embedder = Arc::clone(embedder) as Arc<dyn Embedder>;
    vec![(also.unwrap_or_default(), embedder)]
}
