//! The `embeddings` and `rerank` sections: the models on this machine that turn texts into vectors
//! and pairs of texts into scores.

use std::borrow::Cow;
use std::time::Duration;

use domain::ModelAlias;
use engine::EmbedderConfig;

use super::faults::Findings;
use super::raw::{Isolation, RawConfig, RawEmbeddings};
use super::sections::{ModelSource, RESERVED_NAMES, model_source, within};

/// A section's settings, judged.
#[derive(Clone, Debug)]
pub struct EncoderSettings {
    pub source: ModelSource,
    pub name: Option<String>,
    pub also: Vec<ModelAlias>,
    pub input_tokens_max: Option<u32>,
    pub queue_tokens_max: usize,
    pub threads: Option<u32>,
    pub gpu_layers: Option<u32>,
    /// As the chat model's.
    pub isolation: Isolation,
    pub hang_max: Duration,
}

/// A section as it stands in the file.
struct Section<'r> {
    name: &'static str,
    /// What its model is made for.
    purpose: &'static str,
    raw: Cow<'r, RawEmbeddings>,
}

pub fn embeddings(config: &RawConfig, findings: &mut Findings) -> Option<EncoderSettings> {
    let section = Section {
        name: "embeddings",
        purpose: "embeddings",
        raw: Cow::Borrowed(&config.embeddings),
    };
    settings(&section, config, findings)
}

pub fn rerank(config: &RawConfig, findings: &mut Findings) -> Option<EncoderSettings> {
    let raw = &config.rerank;
    let section = Section {
        name: "rerank",
        purpose: "ranking",
        raw: Cow::Owned(RawEmbeddings {
            model: raw.model.clone(),
            name: raw.name.clone(),
            also: raw.also.clone(),
            input_tokens_max: raw.input_tokens_max,
            queue_tokens_max: raw.queue_tokens_max,
            threads: raw.threads,
            gpu_layers: raw.gpu_layers,
        }),
    };
    settings(&section, config, findings)
}

fn settings(
    section: &Section<'_>,
    config: &RawConfig,
    findings: &mut Findings,
) -> Option<EncoderSettings> {
    let Section { name, purpose, raw } = section;
    let path = |field: &str| format!("{name}.{field}");
    let model = raw.model.as_deref().filter(|model| !model.is_empty());
    let Some(model) = model else {
        if raw.name.is_some() || !raw.also.is_empty() {
            findings.fault(
                path("model"),
                "is required where a name is given: a path to a GGUF file, or the name of a model \
                 that `hedge models list` shows",
            );
        }
        return None;
    };
    let source = model_source(Some(model));
    if source == ModelSource::Bundled {
        findings.fault(
            path("model"),
            format!("the model inside this binary chats; name one that is made for {purpose}"),
        );
    }
    let names = raw.name.iter().map(|name| (path("name"), name));
    let also = raw.also.iter().enumerate();
    let also = also.map(|(at, name)| (path(&format!("also[{at}]")), name));
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
        within(&path("input_tokens_max"), tokens, 1..=131_072, findings);
    }
    if let Some(threads) = raw.threads {
        within(&path("threads"), threads, 1..=1024, findings);
    }
    Some(EncoderSettings {
        source,
        name: raw.name.clone(),
        also: raw.also.iter().map(ModelAlias::new).collect(),
        input_tokens_max: raw.input_tokens_max,
        queue_tokens_max: within(
            &path("queue_tokens_max"),
            raw.queue_tokens_max,
            1..=1 << 30,
            findings,
        ) as usize,
        threads: raw.threads,
        gpu_layers: raw.gpu_layers,
        isolation: config.local.isolation,
        // Judged with the section it stands in.
        hang_max: Duration::from_millis(
            config.local.hang_ms_max.max(EmbedderConfig::HANG_MS_LEAST),
        ),
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
