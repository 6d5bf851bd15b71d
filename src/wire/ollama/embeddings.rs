//! `POST /api/embed`, and its older form `POST /api/embeddings`.

use std::time::Duration;

use bytes::Bytes;
use domain::{BadRequest, EmbedInput, EmbedRequest, Embeddings, VectorFormat};
use serde::Serialize;
use serde_json::Value;

use super::decode_shared::{open, read_keep_alive, read_model};
use super::encode_line::nanoseconds;
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

/// As many as OpenAI takes.
const INPUTS_MAX: usize = 2_048;
/// Beyond every model's.
const DIMENSIONS_MAX: u32 = 65_536;

/// # Errors
/// What is wrong with the body, with the JSON path in `param`. No inputs are none: such a request asks
/// for the model to be loaded.
pub fn decode_embed(body: &Bytes) -> Result<EmbedRequest, BadRequest> {
    let mut fields = open(body)?;
    let model = read_model(&mut fields)?;
    let path = Path::Root.field("input");
    let inputs = match fields.take("input") {
        None => Vec::new(),
        Some(Value::String(text)) => Vec::from_iter(filled(text)),
        Some(items @ Value::Array(_)) => array(&path, items, 0, INPUTS_MAX)?
            .into_iter()
            .enumerate()
            .map(|(at, item)| match item {
                Value::String(text) if text.is_empty() => Err(fault::empty_string(&path.index(at))),
                Value::String(text) => Ok(text),
                other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => {
            return Err(fault::wrong_type(
                &path,
                "a string or an array of strings",
                &other,
            ));
        }
    };
    fields.boolean("truncate")?;
    let dimensions = fields.count("dimensions", 0..=DIMENSIONS_MAX)?;
    read_rest(&mut fields)?;
    Ok(EmbedRequest {
        model,
        inputs: inputs.into_iter().map(EmbedInput::Text).collect(),
        // 0 is how Ollama's own client says that all are wanted.
        dimensions: dimensions.filter(|dimensions| *dimensions > 0),
        format: VectorFormat::Float,
    })
}

/// # Errors
/// As for [`decode_embed`].
pub fn decode_embeddings(body: &Bytes) -> Result<EmbedRequest, BadRequest> {
    let mut fields = open(body)?;
    let model = read_model(&mut fields)?;
    let prompt = fields.string("prompt")?.and_then(filled);
    read_rest(&mut fields)?;
    Ok(EmbedRequest {
        model,
        inputs: prompt.into_iter().map(EmbedInput::Text).collect(),
        dimensions: None,
        format: VectorFormat::Float,
    })
}

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn read_rest(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    read_keep_alive(fields)?;
    match fields.take("options") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(other) => Err(fields.wrong_type("options", "an object", &other)),
    }
}

#[derive(Serialize)]
struct EmbedBody<'a> {
    model: &'a str,
    embeddings: &'a [Vec<f32>],
    total_duration: u64,
    prompt_eval_count: u32,
}

#[derive(Serialize)]
struct EmbeddingsBody<'a> {
    embedding: &'a [f32],
}

/// The answer to [`decode_embed`], after `total`.
#[must_use]
pub fn encode_embed(model: &str, embeddings: &Embeddings, total: Duration) -> Vec<u8> {
    let body = EmbedBody {
        model,
        embeddings: &embeddings.vectors,
        total_duration: nanoseconds(total),
        prompt_eval_count: embeddings.prompt_tokens,
    };
    serde_json::to_vec(&body).expect("strings and numbers always serialize")
}

/// The answer to [`decode_embeddings`]; empty where nothing was to be embedded.
#[must_use]
pub fn encode_embeddings(embeddings: &Embeddings) -> Vec<u8> {
    let embedding = embeddings.vectors.first();
    let body = EmbeddingsBody {
        embedding: embedding.map_or(&[], Vec::as_slice),
    };
    serde_json::to_vec(&body).expect("numbers always serialize")
}
