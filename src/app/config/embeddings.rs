//! The `embeddings` section: the model on this machine that turns texts into vectors.

use domain::ModelAlias;
use engine::EmbedderConfig;

use super::faults::Findings;
use super::raw::{RawConfig, RawEmbeddings};
use super::sections::{ModelSource, RESERVED_NAMES, model_source, within};

#[derive(Clone, Debug)]
pub struct EmbeddingSettings {
    pub source: ModelSource,
    pub name: Option<String>,
    pub also: Vec<ModelAlias>,
    pub input_tokens_max: Option<u32>,
    pub queue_tokens_max: usize,
    pub threads: Option<u32>,
    pub gpu_layers: Option<u32>,
}

pub fn embeddings(config: &RawConfig, findings: &mut Findings) -> Option<EmbeddingSettings> {
    let raw: &RawEmbeddings = &config.embeddings;
    let model = raw.model.as_deref().filter(|model| !model.is_empty());
    let Some(model) = model else {
        if raw.name.is_some() || !raw.also.is_empty() {
            findings.fault(
                "embeddings.model",
                "is required where a name is given: a path to a GGUF file, or the name of a model \
                 that `hedge models list` shows",
            );
        }
        return None;
    };
    let source = model_source(Some(model));
    if source == ModelSource::Bundled {
        findings.fault(
            "embeddings.model",
            "the model inside this binary chats; name one that is made for embeddings",
        );
    }
    let names = raw
        .name
        .iter()
        .map(|name| ("embeddings.name".to_owned(), name));
    let also = raw.also.iter().enumerate();
    let also = also.map(|(at, name)| (format!("embeddings.also[{at}]"), name));
    for (path, name) in names.chain(also) {
        if RESERVED_NAMES.contains(&name.as_str()) || name.is_empty() || name.contains('/') {
            findings.fault(
                path,
                format!("`{name}` cannot name a model: not empty, no slash, none of auto, local, cloud, cache"),
            );
        } else if config.aliases.contains_key(name) {
            findings.fault(path, format!("`{name}` is the name of an alias"));
        }
    }
    if let Some(tokens) = raw.input_tokens_max {
        within("embeddings.input_tokens_max", tokens, 1..=131_072, findings);
    }
    if let Some(threads) = raw.threads {
        within("embeddings.threads", threads, 1..=1024, findings);
    }
    Some(EmbeddingSettings {
        source,
        name: raw.name.clone(),
        also: raw.also.iter().map(ModelAlias::new).collect(),
        input_tokens_max: raw.input_tokens_max,
        queue_tokens_max: within(
            "embeddings.queue_tokens_max",
            raw.queue_tokens_max,
            1..=1 << 30,
            findings,
        ) as usize,
        threads: raw.threads,
        gpu_layers: raw.gpu_layers,
    })
}

/// For the raw section's default.
pub const QUEUE_TOKENS_DEFAULT: u32 = {
    assert!(
        EmbedderConfig::QUEUE_TOKENS_DEFAULT == 1 << 20,
        "the two defaults are one"
    );
    1 << 20
};
