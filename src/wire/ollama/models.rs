//! `/api/tags`, `/api/show`, `/api/ps` and `/api/version`: the models, and what is known of them.

use bytes::Bytes;
use domain::{BadRequest, ModelAlias};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::decode_shared::{open, read_model};
use super::moment::moment;
use crate::openai::MODEL_BYTES_MAX;

/// `details`. Empty is unknown, as Ollama has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ModelDetails {
    /// Always empty: no model here is made of another.
    pub parent_model: String,
    /// `gguf`.
    pub format: String,
    /// GGUF's architecture.
    pub family: String,
    pub families: Vec<String>,
    /// `494.03M`.
    pub parameter_size: String,
    /// `Q4_K_M`.
    pub quantization_level: String,
}

/// One of `/api/tags`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelTag {
    pub name: String,
    /// Bytes of its file; 0 where it is not on this machine.
    pub size: u64,
    /// Hexadecimal. Ollama's own client shows the first twelve letters and ends without them.
    pub digest: String,
    pub details: ModelDetails,
    /// Unix seconds.
    pub modified_at: u64,
    /// Whether somebody else's machine runs it.
    pub is_remote: bool,
}

#[must_use]
pub fn encode_tags(tags: &[ModelTag]) -> Vec<u8> {
    let tags = tags.iter().map(|tag| {
        let mut body = json!({
            "name": tag.name,
            "model": tag.name,
            "modified_at": moment(tag.modified_at),
            "size": tag.size,
            "digest": tag.digest,
            "details": tag.details,
        });
        if tag.is_remote {
            body["remote_model"] = tag.name.as_str().into();
        }
        body
    });
    let tags: Vec<Value> = tags.collect();
    json!({ "models": tags }).to_string().into_bytes()
}

/// Reads which model `/api/show` is asked about.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_show(body: &Bytes) -> Result<ModelAlias, BadRequest> {
    let mut fields = open(body)?;
    // The older name of the field.
    if fields.has("name") && !fields.has("model") {
        let name = fields.required_name("name", MODEL_BYTES_MAX)?;
        return Ok(ModelAlias::new(name));
    }
    read_model(&mut fields)
}

/// What is told of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub licence: Option<String>,
    /// The chat template, in Jinja.
    pub template: Option<String>,
    pub details: ModelDetails,
    /// `completion`, `tools`, `vision`, `embedding`, …
    pub capabilities: Vec<&'static str>,
    pub parameter_count: Option<u64>,
    pub context_tokens: Option<u32>,
    /// Numbers of a vector, of a model for embeddings.
    pub embedding_length: Option<u32>,
    /// Unix seconds.
    pub modified_at: u64,
    pub is_remote: bool,
}

#[must_use]
pub fn encode_shown(shown: &Shown) -> Vec<u8> {
    // Keys of GGUF, where the architecture is the namespace; a family that nobody knows has none.
    let family = match shown.details.family.as_str() {
        "" => "general",
        family => family,
    };
    let mut info = Map::new();
    info.insert("general.architecture".into(), family.into());
    if let Some(count) = shown.parameter_count {
        info.insert("general.parameter_count".into(), count.into());
    }
    if let Some(tokens) = shown.context_tokens {
        info.insert(format!("{family}.context_length"), tokens.into());
    }
    if let Some(length) = shown.embedding_length {
        info.insert(format!("{family}.embedding_length"), length.into());
    }
    let mut body = json!({
        "modelfile": format!("FROM {}\n", shown.name),
        "details": shown.details,
        "model_info": info,
        "capabilities": shown.capabilities,
        "modified_at": moment(shown.modified_at),
    });
    if let Some(licence) = &shown.licence {
        body["license"] = licence.as_str().into();
    }
    if let Some(template) = &shown.template {
        body["template"] = template.as_str().into();
    }
    if shown.is_remote {
        body["remote_model"] = shown.name.as_str().into();
    }
    body.to_string().into_bytes()
}

/// One of `/api/ps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningModel {
    pub name: String,
    /// Bytes of memory.
    pub size: u64,
    pub digest: String,
    pub details: ModelDetails,
    /// Unix seconds; of a model that stays, a year from now.
    pub expires_at: u64,
    pub context_tokens: Option<u32>,
}

#[must_use]
pub fn encode_running(models: &[RunningModel]) -> Vec<u8> {
    let models = models.iter().map(|model| {
        let mut body = json!({
            "name": model.name,
            "model": model.name,
            "size": model.size,
            "digest": model.digest,
            "details": model.details,
            "expires_at": moment(model.expires_at),
        });
        if let Some(tokens) = model.context_tokens {
            body["context_length"] = tokens.into();
        }
        body
    });
    let models: Vec<Value> = models.collect();
    json!({ "models": models }).to_string().into_bytes()
}

/// The version of Ollama whose API this is: clients ask for a least one. Logarithms of probabilities,
/// the last thing that is spoken of here, came with it.
const VERSION: &str = "0.12.11";

/// `hedge` is ours.
#[must_use]
pub fn encode_version(hedge: &str) -> Vec<u8> {
    json!({ "version": VERSION, "hedge": hedge })
        .to_string()
        .into_bytes()
}
