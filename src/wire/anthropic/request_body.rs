//! A request's JSON, written from `domain` alone.

use domain::{
    Ability, BackendError, ChatRequest, Delivery, Dialect, OpenSampling, OutputFormat, Tokens,
    Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::encode_blocks::{Prompt, content};
use super::leftovers::put;
use super::thinking::{Block, Drawing, Thinking, drawing_for, thinking_for};

use crate::numbers::shortest;
use crate::own_tools;
use crate::unsayable::refuse_foreign_parts;

/// Asked for where the caller names no bound, beside what thoughts may take: this dialect needs one,
/// and refuses more than the model can say. Every Claude since 3.5 can say as much.
pub const MAX_TOKENS_DEFAULT: Tokens = Tokens(8192);

pub(super) fn request_body(model: &str, request: &ChatRequest) -> Result<Value, BackendError> {
    refuse_foreign_parts(request, Dialect::Anthropic)?;
    refuse_unsayable(request)?;
    let is_own = request.dialect == Dialect::Anthropic;
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let mut prompt = Prompt::of(request)?;
    let system = std::mem::take(&mut prompt.system);
    if !system.is_empty() {
        body.insert("system".into(), content(system));
    }
    let messages = prompt.messages();
    if messages.is_empty() && !is_own {
        return Err(BackendError::declined(
            "messages",
            "the chosen model needs a message that says something besides system prompts",
        ));
    }
    let thinking = match is_own {
        // A request of this dialect has it among its own fields.
        true => Thinking::default(),
        false => thinking_for(model, request, &messages, kind),
    };
    body.insert("messages".into(), messages.into());
    add_tools(&mut body, request);
    add_sampling(&mut body, model, request)?;
    let bound = request
        .output_tokens_max
        .unwrap_or(Tokens(MAX_TOKENS_DEFAULT.0.saturating_add(thinking.budget)));
    body.insert("max_tokens".into(), bound.0.into());
    add_output_config(&mut body, request, thinking.effort)?;
    body.extend(thinking.thinking.map(|it| ("thinking".into(), it)));
    if let Delivery::Streamed { .. } = request.delivery {
        body.insert("stream".into(), true.into());
    }
    let mut body = Value::Object(body);
    if is_own {
        add_extra(&mut body, request);
    }
    Ok(body)
}

fn kind(block: &Value) -> Block {
    match block["type"].as_str() {
        Some("thinking" | "redacted_thinking") => Block::Thought,
        Some("tool_use") => Block::Call,
        _ => Block::Other,
    }
}

/// What there is no word for, and no doing without.
fn refuse_unsayable(request: &ChatRequest) -> Result<(), BackendError> {
    let sampling = &request.sampling;
    let unable = [
        (Ability::Choices, request.choices > 1),
        (Ability::Logprobs, sampling.logprobs.is_some()),
        (Ability::LogitBias, !sampling.logit_bias.is_empty()),
        (
            Ability::JsonObject,
            request.format == OutputFormat::JsonObject,
        ),
        (Ability::Constraints, request.format.is_constraint()),
    ];
    if let Some((ability, _)) = unable.into_iter().find(|(_, is_asked)| *is_asked) {
        return Err(BackendError::Unable(ability));
    }
    if sampling.temperature.is_some_and(|heat| heat > 1.0) {
        let why = "this provider takes temperatures up to 1";
        return Err(BackendError::declined("temperature", why));
    }
    let asked = |number: Option<f32>| number.is_some_and(|number| number != 0.0);
    let unknown = [
        ("frequency_penalty", asked(sampling.frequency_penalty)),
        ("presence_penalty", asked(sampling.presence_penalty)),
    ];
    // Ollama's clients write these with every request: to others than its models they are hints.
    let is_ollamas = request.dialect == Dialect::Ollama;
    let open = [("min_p", asked(sampling.min_p))]
        .into_iter()
        .chain(open_fields(&sampling.open))
        .filter(|_| !is_ollamas);
    match unknown
        .into_iter()
        .chain(open)
        .find(|(_, is_asked)| *is_asked)
    {
        Some((field, _)) => Err(BackendError::declined(
            field,
            "this provider has nothing like it; leave it out or name another model",
        )),
        None => Ok(()),
    }
}

fn open_fields(open: &OpenSampling) -> [(&'static str, bool); 8] {
    [
        ("typical_p", open.typical_p.is_some()),
        ("top_n_sigma", open.top_n_sigma.is_some()),
        ("repetition_penalty", open.repeats.is_some()),
        ("dry_multiplier", open.dry.is_some()),
        ("xtc_probability", open.xtc.is_some()),
        ("mirostat", open.mirostat.is_some()),
        ("stop_token_ids", !open.stop_tokens.is_empty()),
        ("ignore_eos", open.ignores_end),
    ]
}

fn add_tools(body: &mut Map<String, Value>, request: &ChatRequest) {
    let mut tools: Vec<Value> = request.tools.iter().map(tool_body).collect();
    if request.dialect == Dialect::Anthropic {
        own_tools::put_back(&mut tools, &request.extra);
    }
    if tools.is_empty() {
        return;
    }
    body.insert("tools".into(), tools.into());
    let is_single = request.parallel_tool_calls == Some(false);
    let mut choice = match &request.tool_choice {
        ToolChoice::Auto if !is_single => return,
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::None => json!({"type": "none"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Named(name) => json!({"type": "tool", "name": name}),
    };
    if is_single && request.tool_choice != ToolChoice::None {
        choice["disable_parallel_tool_use"] = true.into();
    }
    body.insert("tool_choice".into(), choice);
}

fn tool_body(tool: &Tool) -> Value {
    let mut body = Map::new();
    body.insert("name".into(), tool.name.as_str().into());
    if let Some(description) = &tool.description {
        body.insert("description".into(), description.as_str().into());
    }
    let mut schema = tool.parameters.clone();
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key("type")
    {
        fields.insert("type".into(), "object".into());
    }
    body.insert("input_schema".into(), schema);
    Value::Object(body)
}

fn add_sampling(
    body: &mut Map<String, Value>,
    model: &str,
    request: &ChatRequest,
) -> Result<(), BackendError> {
    let is_own = request.dialect == Dialect::Anthropic;
    let sampling = &request.sampling;
    let drawing = match is_own {
        true => Drawing::as_said(sampling),
        false => drawing_for(model, sampling),
    };
    for (name, value) in [
        ("temperature", drawing.temperature),
        ("top_p", drawing.top_p),
    ] {
        body.extend(value.map(|value| (name.to_owned(), shortest(value))));
    }
    let top_k = drawing.top_k;
    body.extend(top_k.map(|top_k| ("top_k".into(), top_k.into())));
    let stop = &sampling.stop;
    let is_blank = |stop: &String| stop.chars().all(char::is_whitespace);
    if let Some(at) = stop.iter().position(is_blank).filter(|_| !is_own) {
        return Err(BackendError::declined(
            format!("stop[{at}]"),
            "this provider takes no stop of white space alone",
        ));
    }
    if !stop.is_empty() {
        body.insert("stop_sequences".into(), stop.clone().into());
    }
    Ok(())
}

fn add_output_config(
    body: &mut Map<String, Value>,
    request: &ChatRequest,
    effort: Option<&'static str>,
) -> Result<(), BackendError> {
    let mut config = Map::new();
    if let OutputFormat::JsonSchema(asked) = &request.format {
        let Some(schema) = asked.get("schema") else {
            return Err(BackendError::declined(
                "response_format.json_schema.schema",
                "this provider needs the schema itself",
            ));
        };
        let format = json!({"type": "json_schema", "schema": schema});
        config.insert("format".into(), format);
    }
    config.extend(effort.map(|effort| ("effort".into(), effort.into())));
    let is_own = request.dialect == Dialect::Anthropic;
    let has_more = is_own
        && request
            .extra
            .keys()
            .any(|name| name.starts_with("/output_config/"));
    if !config.is_empty() || has_more {
        body.insert("output_config".into(), config.into());
    }
    Ok(())
}

/// Puts uninterpreted fields back: plain names at the top, JSON Pointers where they stood.
fn add_extra(body: &mut Value, request: &ChatRequest) {
    for (name, value) in &request.extra {
        if name.starts_with('/') {
            put(body, name, value);
        } else if let Value::Object(fields) = body {
            fields.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests;
