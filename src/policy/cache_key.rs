//! Exact cache keys.
//!
//! A key is HMAC-SHA256, under a secret of the node, over the canonical form of the masked request
//! inside its compartment. Keyed, so that whoever sees the keys cannot test guesses at prompts.
//!
//! Canonical form: JSON with sorted keys. What only says how the reply is delivered (`stream`,
//! `stream_options`) or who asks for the caller's own books (`user`, `metadata`, `store`, ...) is
//! left out. Every other field takes part as given: an absent `temperature` is not 1, since models
//! have defaults of their own.

use std::fmt;

use domain::{
    CacheKey, ChatRequest, Message, OutputFormat, Part, Sampling, TeamId, Tool, ToolChoice,
};
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

/// Begins every keyed text. Change it when the canonical form changes, so that old replies are
/// never found under new meanings.
const FORM: &str = "hedge exact 1";

/// Uninterpreted fields that cannot change a reply's content.
const BOOKKEEPING_FIELDS: [&str; 8] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "user",
];

/// The secret that cache keys are made under; drawn anew at each start or read from configuration.
#[derive(Clone)]
pub struct CacheSecret([u8; 32]);

impl CacheSecret {
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for CacheSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheSecret")
    }
}

/// The key of `masked`, or `None` when its reply must not be cached: several choices are asked for,
/// so as to differ; images are named by address, behind which they may change; or there are parts
/// that nobody here interprets.
#[must_use]
pub fn cache_key(secret: &CacheSecret, team: &TeamId, masked: &ChatRequest) -> Option<CacheKey> {
    if masked.choices > 1 || masked.has_other_parts() || has_remote_image(masked) {
        return None;
    }
    let mut text = canonical(team, masked);
    text.sort_all_objects();
    let bytes = serde_json::to_vec(&text).ok()?;
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
    mac.update(&bytes);
    Some(CacheKey(mac.finalize().into_bytes().into()))
}

fn has_remote_image(request: &ChatRequest) -> bool {
    request
        .messages
        .iter()
        .flat_map(|message| &message.content)
        .any(|part| matches!(part, Part::Image(image) if !image.url.starts_with("data:")))
}

fn canonical(team: &TeamId, request: &ChatRequest) -> Value {
    let messages: Vec<Value> = request.messages.iter().map(message).collect();
    let tools: Vec<Value> = request.tools.iter().map(tool).collect();
    json!({
        "form": FORM,
        "team": team.as_str(),
        "model": request.model.as_str(),
        "messages": messages,
        "tools": tools,
        "tool_choice": tool_choice(&request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "sampling": sampling(&request.sampling),
        "format": format(&request.format),
        "output_tokens_max": request.output_tokens_max.map(|tokens| tokens.0),
        "extra": extra(&request.extra),
    })
}

fn message(message: &Message) -> Value {
    let calls: Vec<Value> = message
        .tool_calls
        .iter()
        .map(|call| json!([call.id, call.name, call.arguments]))
        .collect();
    json!({
        "role": message.role.as_label(),
        "content": content(&message.content),
        "name": message.name,
        "tool_calls": calls,
        "tool_call_id": message.tool_call_id,
        "extra": message.extra,
    })
}

/// One text part and a plain string mean the same; several parts stay apart.
fn content(parts: &[Part]) -> Value {
    let parts: Vec<Value> = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => json!(text),
            Part::Image(image) => json!({ "image": image.url, "detail": image.detail }),
            Part::Other(value) => json!({ "other": value }),
        })
        .collect();
    Value::Array(parts)
}

fn tool(tool: &Tool) -> Value {
    json!([tool.name, tool.description, tool.parameters, tool.extra])
}

fn tool_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "named": name }),
    }
}

/// Numbers by their bits: no rounding makes two settings one.
fn sampling(sampling: &Sampling) -> Value {
    let bits = |value: Option<f32>| value.map(f32::to_bits);
    let bias: Vec<(u32, u32)> = sampling
        .logit_bias
        .iter()
        .map(|(token, bias)| (*token, bias.to_bits()))
        .collect();
    json!({
        "temperature": bits(sampling.temperature),
        "top_p": bits(sampling.top_p),
        "top_k": sampling.top_k,
        "min_p": bits(sampling.min_p),
        "seed": sampling.seed,
        "stop": sampling.stop,
        "frequency_penalty": bits(sampling.frequency_penalty),
        "presence_penalty": bits(sampling.presence_penalty),
        "logit_bias": bias,
        "logprobs": sampling.logprobs,
    })
}

fn format(format: &OutputFormat) -> Value {
    match format {
        OutputFormat::Text => json!("text"),
        OutputFormat::JsonObject => json!("json_object"),
        OutputFormat::JsonSchema(schema) => json!({ "json_schema": schema }),
    }
}

fn extra(fields: &Map<String, Value>) -> Value {
    let kept = fields
        .iter()
        .filter(|(name, _)| !BOOKKEEPING_FIELDS.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()));
    Value::Object(kept.collect())
}
