//! Decodes a request, as a server.
//!
//! Every known field is checked for type and range and named in the refusal. Unknown ones go to
//! `extra` under their JSON Pointer (`/generationConfig/speechConfig`), those of the top under their
//! names, and tools of Google's own as `own_tools.rs` has it.

use bytes::Bytes;
use domain::{BadRequest, ChatRequest, Delivery, Dialect, Extra, Message, ModelAlias, SourceBody};
use memchr::memmem;

use super::decode_config::read_config;
use super::decode_contents::{read_contents, read_system};
use super::decode_tools::{read_tool_config, read_tools};
use super::spelling;
use crate::fields::{Path, add_unknown, bounded};
use crate::{own_tools, strict_json};

const MODEL_BYTES_MAX: usize = 256;

const NAMES: [&str; 6] = [
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "model",
];

/// Reads a request for `model`, which the path names.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub(super) fn decode_request(
    model: &str,
    delivery: Delivery,
    body: &Bytes,
) -> Result<ChatRequest, BadRequest> {
    let model = bounded(
        &Path::Root.field("model"),
        model.to_owned(),
        MODEL_BYTES_MAX,
    )?;
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'contents'.".into(),
        });
    }
    let mut fields = spelling::open(Path::Root, value, &NAMES)?;
    let mut extra = Extra::new();
    // The path's word counts. A body that has one of its own is written anew, as is one with names of
    // pictures or sound, which are kept nowhere and may be personal.
    let has_model = fields.string("model")?.is_some();
    let may_name = |name: &str| memmem::find(body, name.as_bytes()).is_some();
    let is_plain = !has_model && !may_name("displayName") && !may_name("display_name");
    let mut messages: Vec<Message> = read_system(&mut fields, &mut extra)?.into_iter().collect();
    read_contents(&mut fields, &mut messages, &mut extra)?;
    let tools = read_tools(&mut fields, &mut extra)?;
    let (tool_choice, tools) = read_tool_config(&mut fields, tools, &mut extra)?;
    let config = read_config(&mut fields, &mut extra)?;
    add_unknown(fields, &mut extra)?;
    Ok(ChatRequest {
        bound_by: own_tools::bound_by(&extra, &["cachedContent", "cached_content"]),
        betas: Vec::new(),
        tools,
        tool_choice,
        sampling: config.sampling,
        format: config.format,
        output_tokens_max: config.output_tokens_max,
        reasoning: config.reasoning,
        choices: config.choices,
        delivery,
        extra,
        dialect: Dialect::Gemini,
        source: is_plain.then(|| SourceBody {
            dialect: Dialect::Gemini,
            bytes: body.clone(),
        }),
        ..ChatRequest::new(ModelAlias::new(model), messages)
    })
}
