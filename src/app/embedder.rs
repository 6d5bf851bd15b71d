//! The models on this machine that make vectors and scores: which files they are, and their way into
//! the node. They run where the chat model runs, each in a process of its own by default.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use async_trait::async_trait;
use depot::gguf::{self, GgufFault, Pooling};
use depot::{Depot, DepotError};
use domain::{
    BackendError, EmbedInput, Embedder, EmbedderCard, Embeddings, Health, HealthState, ModelAlias,
    Reranker, Scores,
};
use engine::{
    EmbedderConfig, EmbeddingDriver, LoadError, LocalEmbedder, LocalReranker, QUARANTINED,
    RemoteEmbedder, RemoteReranker,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use pipeline::{CacheEncoder, Snapshot};
use tracing::{error, info};

use crate::config::{Config, EncoderSettings, ModelSource};
use crate::local::{Home, LOADING_WAIT, LocalDriver, backends_dir, home, stem};
use crate::{bundled, reuse};

/// What a model makes of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Embed,
    Rank,
    /// Tells the cache how near two questions are; nobody else may ask it.
    Compare,
}

impl Purpose {
    fn as_label(self) -> &'static str {
        match self {
            Purpose::Embed => "embedding",
            Purpose::Rank => "ranking",
            Purpose::Compare => "cache's",
        }
    }

    /// Of the configuration.
    fn section(self) -> &'static str {
        match self {
            Purpose::Embed => "embeddings",
            Purpose::Rank => "rerank",
            Purpose::Compare => "cache",
        }
    }

    /// The setting that names the model.
    fn setting(self) -> &'static str {
        match self {
            Purpose::Embed => "embeddings.model",
            Purpose::Rank => "rerank.model",
            Purpose::Compare => "cache.encoder",
        }
    }

    fn settings(self, config: &Config) -> Option<&EncoderSettings> {
        match self {
            Purpose::Embed => config.embeddings.as_ref(),
            Purpose::Rank => config.rerank.as_ref(),
            Purpose::Compare => Some(&config.cache.reuse.as_ref()?.encoder),
        }
    }
}

/// A configured model that is not usable.
#[derive(Debug, thiserror::Error)]
pub enum EncoderFault {
    #[error("{setting}")]
    Depot {
        setting: &'static str,
        #[source]
        source: DepotError,
    },
    #[error("{setting}: {}", path.display())]
    Gguf {
        setting: &'static str,
        path: PathBuf,
        #[source]
        source: GgufFault,
    },
    #[error(
        "{setting}: {} is not made for {purpose}: it states no pooling of {wanted}",
        path.display()
    )]
    OtherPurpose {
        setting: &'static str,
        path: PathBuf,
        purpose: &'static str,
        wanted: &'static str,
    },
    #[error("the bundled encoder cannot be written to a file")]
    Bundled(#[source] std::io::Error),
    #[error("{section}.name: `{name}` is the name of a chat model; choose another")]
    NameTaken { section: &'static str, name: String },
}

/// A model file, found and looked over, and how to load it.
#[derive(Clone, Debug)]
pub struct EncoderModel {
    purpose: Purpose,
    config: EmbedderConfig,
    home: Home,
    /// Components of a vector.
    dimensions: usize,
}

/// Finds the configured models and checks their files. `chats` is what the chat models are called.
///
/// # Errors
/// One is configured and not usable.
pub fn locate(config: &Config, chats: &[&str]) -> Result<Vec<EncoderModel>, EncoderFault> {
    look(config, chats).into_iter().collect()
}

/// As [`locate`], with what is wrong with each.
pub fn look(config: &Config, chats: &[&str]) -> Vec<Result<EncoderModel, EncoderFault>> {
    let purposes = [Purpose::Embed, Purpose::Rank, Purpose::Compare];
    let settings = purposes
        .into_iter()
        .filter_map(|purpose| Some((purpose, purpose.settings(config)?)));
    let found = settings.map(|(purpose, settings)| -> Result<_, EncoderFault> {
        let found = locate_one(purpose, settings, config)?;
        if let Some(model) = &found {
            model.check_names(&settings.also, chats)?;
        }
        Ok(found)
    });
    found.filter_map(Result::transpose).collect()
}

impl EncoderModel {
    /// Components of the vectors of the cache's encoder, where it is that.
    #[must_use]
    pub fn compares(&self) -> Option<usize> {
        (self.purpose == Purpose::Compare).then_some(self.dimensions)
    }

    /// `[embeddings]` or `[rerank]`, and the model's name.
    #[must_use]
    pub fn as_words(&self) -> String {
        let (section, path) = (self.purpose.section(), self.config.path.display());
        format!("[{section}] {} ({path})", self.config.name)
    }

    /// One name is one model: grants and `/v1/models` know no more than names.
    fn check_names(&self, also: &[ModelAlias], chats: &[&str]) -> Result<(), EncoderFault> {
        let also = also.iter().map(ModelAlias::as_str);
        let mut names = std::iter::once(self.config.name.as_str()).chain(also);
        if let Some(name) = names.find(|name| chats.contains(name)) {
            return Err(EncoderFault::NameTaken {
                section: self.purpose.section(),
                name: name.to_owned(),
            });
        }
        Ok(())
    }
}

fn locate_one(
    purpose: Purpose,
    settings: &EncoderSettings,
    config: &Config,
) -> Result<Option<EncoderModel>, EncoderFault> {
    let setting = purpose.setting();
    let (path, name) = match &settings.source {
        ModelSource::Path(path) => (path.clone(), stem(path)),
        ModelSource::Depot(name) => (
            Depot::open(&config.depot_dir)
                .find(name)
                .map_err(|source| EncoderFault::Depot { setting, source })?,
            name.clone(),
        ),
        ModelSource::Bundled if purpose == Purpose::Compare => (
            bundled::materialise_encoder(&config.data_dir).map_err(EncoderFault::Bundled)?,
            "hedge-encoder".to_owned(),
        ),
        // Refused by the configuration.
        ModelSource::Bundled => return Ok(None),
    };
    let summary = gguf::inspect(&path).map_err(|source| EncoderFault::Gguf {
        setting,
        path: path.clone(),
        source,
    })?;
    let (wanted, purpose_words, pooling_words) = match purpose {
        Purpose::Embed => (Pooling::Vector, "embeddings", "mean, cls or last"),
        Purpose::Rank => (Pooling::Rank, "ranking", "rank"),
        Purpose::Compare => (Pooling::Vector, "comparing", "mean, cls or last"),
    };
    if summary.pooling != Some(wanted) {
        return Err(EncoderFault::OtherPurpose {
            setting,
            path,
            purpose: purpose_words,
            wanted: pooling_words,
        });
    }
    let mut encoder = EmbedderConfig::new(path, settings.name.clone().unwrap_or(name));
    encoder.input_tokens_max = settings.input_tokens_max;
    encoder.queue_tokens_max = settings.queue_tokens_max;
    encoder.threads = settings.threads;
    encoder.gpu_layers = settings.gpu_layers.unwrap_or(encoder.gpu_layers);
    encoder.backends_dir = backends_dir();
    encoder.hang_max = settings.hang_max;
    Ok(Some(EncoderModel {
        purpose,
        config: encoder,
        dimensions: usize::try_from(summary.shape.embedding).unwrap_or(usize::MAX),
        home: home(config, settings.isolation),
    }))
}

/// A loaded model, wherever it runs.
#[derive(Clone, Debug)]
enum Encoder {
    EmbedHere(Arc<LocalEmbedder>),
    Embed(Arc<RemoteEmbedder>),
    RankHere(Arc<LocalReranker>),
    Rank(Arc<RemoteReranker>),
    /// Not yet loaded, or given up.
    Awaited(Arc<Awaited>),
}

type Loaded = (Encoder, LocalDriver);

async fn load(model: EncoderModel) -> Result<Loaded, LoadError> {
    let EncoderModel {
        purpose,
        config,
        home,
        dimensions: _,
    } = model;
    Ok(match (purpose, home) {
        (Purpose::Embed | Purpose::Compare, Home::Process(program)) => {
            let (embedder, driver) = RemoteEmbedder::start(config, program).await?;
            (Encoder::Embed(Arc::new(embedder)), Box::pin(driver.run()))
        }
        (Purpose::Rank, Home::Process(program)) => {
            let (reranker, driver) = RemoteReranker::start(config, program).await?;
            (Encoder::Rank(Arc::new(reranker)), Box::pin(driver.run()))
        }
        (Purpose::Embed | Purpose::Compare, Home::Thread) => {
            let (embedder, driver) = aside(move || load_embedder(config)).await?;
            (Encoder::EmbedHere(Arc::new(embedder)), watched(driver))
        }
        (Purpose::Rank, Home::Thread) => {
            let (reranker, driver) = aside(move || load_reranker(config)).await?;
            (Encoder::RankHere(Arc::new(reranker)), watched(driver))
        }
    })
}

/// Loads a model for embeddings into this process. Blocks.
///
/// # Errors
/// The file is not sound, or the engine's own.
pub fn load_embedder(
    config: EmbedderConfig,
) -> Result<(LocalEmbedder, EmbeddingDriver), LoadError> {
    check(&config)?;
    LocalEmbedder::load(config)
}

/// As [`load_embedder`], of a model that ranks.
///
/// # Errors
/// As there.
pub fn load_reranker(
    config: EmbedderConfig,
) -> Result<(LocalReranker, EmbeddingDriver), LoadError> {
    check(&config)?;
    LocalReranker::load(config)
}

/// Right before llama.cpp opens the file: since it was found it may have been replaced.
fn check(config: &EmbedderConfig) -> Result<(), LoadError> {
    match gguf::inspect(&config.path) {
        Ok(_) => Ok(()),
        Err(fault) => Err(LoadError::Unsound {
            path: config.path.clone(),
            fault: Box::new(fault),
        }),
    }
}

/// Loading blocks for as long as a disk takes to read the file.
async fn aside<T: Send + 'static>(
    load: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let loading = tokio::task::spawn_blocking(load);
    loading.await.unwrap_or(Err(LoadError::Panicked))
}

fn watched(driver: EmbeddingDriver) -> LocalDriver {
    Box::pin(async move {
        if let Err(error) = driver.run().await {
            error!(%error, "embedder failed");
        }
    })
}

/// Stands in for a model that loads: its name is known, so that callers are told to come back.
#[derive(Debug)]
struct Awaited {
    card: EmbedderCard,
    is_given_up: AtomicBool,
}

impl Awaited {
    fn health(&self) -> Health {
        if self.is_given_up.load(Ordering::Relaxed) {
            return Health {
                reason: Some(QUARANTINED),
                ..Health::of(HealthState::Down, None)
            };
        }
        Health::of(HealthState::Starting, Some(LOADING_WAIT))
    }

    fn refusal(&self) -> BackendError {
        if self.is_given_up.load(Ordering::Relaxed) {
            return BackendError::Engine(QUARANTINED);
        }
        BackendError::Overloaded {
            retry_after: LOADING_WAIT,
        }
    }
}

#[async_trait]
impl Embedder for Awaited {
    fn card(&self) -> &EmbedderCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.health()
    }

    async fn embed(&self, _inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        Err(self.refusal())
    }
}

#[async_trait]
impl Reranker for Awaited {
    fn card(&self) -> &EmbedderCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.health()
    }

    async fn rank(&self, _query: String, _documents: Vec<String>) -> Result<Scores, BackendError> {
        Err(self.refusal())
    }
}

/// The node's models of this kind: those that load, and those that have.
pub struct Encoders {
    loading: FuturesUnordered<BoxFuture<'static, (Purpose, Result<Loaded, LoadError>)>>,
    /// One for each configured purpose.
    present: Vec<(Purpose, Encoder)>,
    /// The cache's, once it has loaded.
    comparing: Option<Arc<CacheEncoder>>,
}

impl Encoders {
    /// Nothing begins before [`Encoders::next`] is polled.
    #[must_use]
    pub fn new(models: Vec<EncoderModel>) -> Self {
        let present = models.iter().map(|model| {
            let config = &model.config;
            let awaited = Awaited {
                card: EmbedderCard {
                    name: config.name.clone(),
                    // Not known, so that none is too many yet.
                    dimensions: u32::MAX,
                    input_tokens_max: config
                        .input_tokens_max
                        .unwrap_or(EmbedderConfig::INPUT_TOKENS_DEFAULT),
                },
                is_given_up: AtomicBool::new(false),
            };
            (model.purpose, Encoder::Awaited(Arc::new(awaited)))
        });
        let present = present.collect();
        let loading = models.into_iter().map(|model| {
            let loading = async move { (model.purpose, load(model).await) };
            Box::pin(loading) as BoxFuture<'static, _>
        });
        Self {
            loading: loading.collect(),
            present,
            comparing: None,
        }
    }

    /// Waits for the next that has loaded, or could not; for ever when none is loading. What it
    /// returns is for [`Encoders::take`].
    pub async fn next(&mut self) -> Arrival {
        match self.loading.next().await {
            Some((purpose, loaded)) => Arrival(purpose, loaded),
            None => std::future::pending().await,
        }
    }

    /// The loaded model takes the place of its stand-in. Returns what is to be run for as long as
    /// it is, and where the ends of its process are counted.
    ///
    /// # Errors
    /// It could not be loaded, other than by bringing its process down.
    pub fn take(&mut self, arrival: Arrival) -> anyhow::Result<Option<Taken>> {
        let Arrival(purpose, loaded) = arrival;
        let mut present = self.present.iter_mut();
        let place = present.find(|(known, _)| *known == purpose);
        let Some((_, place)) = place else {
            return Ok(None);
        };
        if let (Err(error @ LoadError::Quarantined { .. }), Encoder::Awaited(awaited)) =
            (&loaded, &*place)
        {
            // A model that brings its process down is not to bring down the node.
            error!(%error, "there is no {} model", purpose.as_label());
            awaited.is_given_up.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        if let (Purpose::Compare, Err(error)) = (purpose, &loaded) {
            // A broken cache is a miss.
            error!(%error, "there is no {} model: replies answer their own requests alone", purpose.as_label());
            return Ok(None);
        }
        let (encoder, driver) = loaded
            .with_context(|| format!("the {} model could not be loaded", purpose.as_label()))?;
        let ends = encoder.ends();
        let card = encoder.card();
        info!(model = %card.name, dimensions = card.dimensions, "{} model is ready", purpose.as_label());
        if purpose == Purpose::Compare {
            let embedder = encoder.embedder();
            self.comparing = embedder.map(|it| Arc::new(CacheEncoder::new(it)));
        }
        *place = encoder;
        Ok(Some(Taken { driver, ends }))
    }

    /// The snapshot with these models in it.
    #[must_use]
    pub fn put_into(&self, snapshot: Snapshot, config: &Config) -> Snapshot {
        let also = |purpose: Purpose| {
            let settings = purpose.settings(config);
            settings.map_or_else(Vec::new, |settings| settings.also.clone())
        };
        let (mut embedders, mut rerankers) = (Vec::new(), Vec::new());
        for (purpose, encoder) in &self.present {
            match (purpose, encoder.clone()) {
                (Purpose::Compare, _) => {}
                (_, Encoder::EmbedHere(embedder)) => {
                    embedders.push((also(*purpose), embedder as Arc<dyn Embedder>));
                }
                (_, Encoder::Embed(embedder)) => {
                    embedders.push((also(*purpose), embedder as _));
                }
                (Purpose::Embed, Encoder::Awaited(embedder)) => {
                    embedders.push((also(*purpose), embedder as _));
                }
                (_, Encoder::RankHere(reranker)) => {
                    rerankers.push((also(*purpose), reranker as Arc<dyn Reranker>));
                }
                (_, Encoder::Rank(reranker)) => rerankers.push((also(*purpose), reranker as _)),
                (Purpose::Rank, Encoder::Awaited(reranker)) => {
                    rerankers.push((also(*purpose), reranker as _));
                }
            }
        }
        let reuse = config.cache.reuse.as_ref().zip(self.comparing.as_ref());
        snapshot
            .with_embedders(embedders)
            .with_rerankers(rerankers)
            .with_reuse(reuse.map(|(settings, encoder)| reuse::rules(settings, encoder)))
    }

    /// What waits ends with an error.
    pub fn stop(&self) {
        for (_, encoder) in &self.present {
            encoder.stop();
        }
    }
}

/// A model that has loaded, or could not.
pub struct Arrival(Purpose, Result<Loaded, LoadError>);

/// What a loaded model needs of the node.
pub struct Taken {
    pub driver: LocalDriver,
    pub ends: Option<Arc<AtomicU64>>,
}

impl Encoder {
    /// As one that makes vectors, where it has loaded and does.
    fn embedder(&self) -> Option<Arc<dyn Embedder>> {
        match self {
            Encoder::EmbedHere(embedder) => Some(Arc::clone(embedder) as _),
            Encoder::Embed(embedder) => Some(Arc::clone(embedder) as _),
            Encoder::RankHere(_) | Encoder::Rank(_) | Encoder::Awaited(_) => None,
        }
    }

    fn card(&self) -> &EmbedderCard {
        match self {
            Encoder::EmbedHere(embedder) => embedder.card(),
            Encoder::Embed(embedder) => embedder.card(),
            Encoder::RankHere(reranker) => reranker.card(),
            Encoder::Rank(reranker) => reranker.card(),
            Encoder::Awaited(awaited) => &awaited.card,
        }
    }

    fn ends(&self) -> Option<Arc<AtomicU64>> {
        match self {
            Encoder::Embed(embedder) => Some(embedder.ends()),
            Encoder::Rank(reranker) => Some(reranker.ends()),
            Encoder::EmbedHere(_) | Encoder::RankHere(_) | Encoder::Awaited(_) => None,
        }
    }

    fn stop(&self) {
        match self {
            Encoder::EmbedHere(embedder) => embedder.stop(),
            Encoder::Embed(embedder) => embedder.stop(),
            Encoder::RankHere(reranker) => reranker.stop(),
            Encoder::Rank(reranker) => reranker.stop(),
            Encoder::Awaited(_) => {}
        }
    }
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

// They hold futures.
opaque!(Encoders, Arrival, Taken);
