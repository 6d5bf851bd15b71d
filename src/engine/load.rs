//! Why a model could not be loaded, and the way in where there is no llama.cpp.

use std::path::PathBuf;

use domain::TemplateError;

use crate::kv::KvFault;

/// Why [`crate::Engine::load`] gave no engine. For the operator; callers never see it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// This binary was built without the feature `llama`.
    #[error("this build has no local engine; build with the feature `llama`")]
    NotBuilt,
    /// A setting no engine could work with, by name.
    #[error("the engine's setting `{0}` is out of range")]
    Setting(&'static str),
    #[error("cannot read the model file {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is no GGUF file: it does not begin with `GGUF`", path.display())]
    NotGguf { path: PathBuf },
    /// The file was looked over and is none that llama.cpp survives, or none it can use.
    #[error("{} was not given to llama.cpp", path.display())]
    Unsound {
        path: PathBuf,
        #[source]
        fault: Box<dyn std::error::Error + Send + Sync>,
    },
    /// llama.cpp refused the file; the words are its own.
    #[error("llama.cpp cannot load {}: {reason}", path.display())]
    Refused { path: PathBuf, reason: String },
    /// mtmd refused the projector, or it works as this engine does not.
    #[error("the projector {} cannot be used: {reason}", path.display())]
    Projector { path: PathBuf, reason: String },
    #[error("{} is no chat model: it has no {what}", path.display())]
    NotChat { path: PathBuf, what: &'static str },
    #[error("{} is no embedding model: it states no pooling of mean, cls or last", path.display())]
    NotEmbedding { path: PathBuf },
    #[error(
        "{} is no model that ranks: it states no pooling of rank, or not how a query and a document \
         are kept apart",
        path.display()
    )]
    NotRanking { path: PathBuf },
    #[error("the model's chat template cannot be used")]
    Template(#[from] TemplateError),
    /// The cache cannot be as the settings say.
    #[error(transparent)]
    Kv(#[from] KvFault),
    /// llama.cpp could not make a context; the words are its own. Mostly memory.
    #[error("llama.cpp cannot make a context of {kv_tokens} tokens: {reason}")]
    Context { kv_tokens: u32, reason: String },
    #[error("the engine's thread could not be started")]
    Thread(#[source] std::io::Error),
    #[error("the engine's thread panicked while loading")]
    Panicked,
    /// The engine's process refused the model; the words are its whole chain of causes.
    #[error("{words}")]
    Elsewhere { words: String },
    /// The engine's process died each time it loaded the model.
    #[error("the engine's process died three times while loading, at last by {reason}")]
    Quarantined { reason: String },
}

impl LoadError {
    /// What memory there is was too little, as far as llama.cpp's words tell: back ends have their
    /// own, and no code.
    pub(crate) fn is_shortage(&self) -> bool {
        let (LoadError::Refused { reason, .. }
        | LoadError::Context { reason, .. }
        | LoadError::Projector { reason, .. }) = self
        else {
            return false;
        };
        let reason = reason.to_ascii_lowercase();
        ["alloc", "memory"].iter().any(|word| reason.contains(word))
    }
}

/// Without llama.cpp there is nothing that could compute on one.
#[cfg(not(feature = "llama"))]
#[must_use]
pub fn devices(_backends_dir: Option<&std::path::Path>) -> Vec<crate::Device> {
    Vec::new()
}

#[cfg(not(feature = "llama"))]
impl crate::Engine {
    /// Without llama.cpp there is nothing to load with.
    ///
    /// # Errors
    /// Always [`LoadError::NotBuilt`].
    pub fn load(
        _config: crate::EngineConfig,
        _templates: std::sync::Arc<dyn domain::TemplateCompiler>,
    ) -> Result<(crate::Engine, crate::EngineDriver), LoadError> {
        Err(LoadError::NotBuilt)
    }
}

#[cfg(not(feature = "llama"))]
impl crate::LocalEmbedder {
    /// Without llama.cpp there is nothing to load with.
    ///
    /// # Errors
    /// Always [`LoadError::NotBuilt`].
    pub fn load(
        _config: crate::EmbedderConfig,
    ) -> Result<(crate::LocalEmbedder, crate::EmbeddingDriver), LoadError> {
        Err(LoadError::NotBuilt)
    }
}

#[cfg(not(feature = "llama"))]
impl crate::LocalReranker {
    /// Without llama.cpp there is nothing to load with.
    ///
    /// # Errors
    /// Always [`LoadError::NotBuilt`].
    pub fn load(
        _config: crate::EmbedderConfig,
    ) -> Result<(crate::LocalReranker, crate::EmbeddingDriver), LoadError> {
        Err(LoadError::NotBuilt)
    }
}
