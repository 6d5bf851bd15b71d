//! Encodes a request.

use bytes::Bytes;
use domain::{
    Ability, BackendError, ChatRequest, Dialect, OutputFormat, Sampling, Tokens, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::messages_body::{messages_body, system_body};
use crate::anthropic::{Block, Drawing, MAX_TOKENS_DEFAULT, Thinking, drawing_for, thinking_for};
use crate::numbers::shortest;
use crate::unsayable::{refuse_foreign_parts, refuse_grammars, refuse_open_sampling};

/// Bedrock's bound on `temperature`.
const TEMPERATURE_MAX: f32 = 1.0;

/// # Errors
/// [`BackendError::Declined`] or [`BackendError::Unable`] for what the dialect cannot say.
pub(super) fn encode_request(model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
    refuse_foreign_parts(request, Dialect::Bedrock)?;
    refuse_unsayable(request)?;
    let mut body = Map::new();
    let messages = messages_body(request)?;
    let thinking = match is_anthropics(model) {
        true => thinking_for(model, request, &messages, kind),
        false => Thinking::default(),
    };
    body.insert("messages".into(), messages.into());
    if let Some(system) = system_body(request)? {
        body.insert("system".into(), system);
    }
    let config = inference_body(model, request, &thinking);
    if !config.is_empty() {
        body.insert("inferenceConfig".into(), config.into());
    }
    if let Some(tools) = tools_body(request)? {
        body.insert("toolConfig".into(), tools);
    }
    let own = model_body(model, request, thinking.thinking)?;
    if !own.is_empty() {
        body.insert("additionalModelRequestFields".into(), own.into());
    }
    let output = output_body(request, thinking.effort);
    if !output.is_empty() {
        body.insert("outputConfig".into(), output.into());
    }
    Ok(serde_json::to_vec(&body)
        .expect("a value tree always serializes")
        .into())
}

fn kind(block: &Value) -> Block {
    let has = |member: &str| block.get(member).is_some();
    match () {
        () if has("reasoningContent") => Block::Thought,
        () if has("toolUse") => Block::Call,
        () => Block::Other,
    }
}

fn refuse_unsayable(request: &ChatRequest) -> Result<(), BackendError> {
    refuse_open_sampling(request)?;
    refuse_grammars(&request.format)?;
    match &request.format {
        OutputFormat::JsonObject => return Err(BackendError::Unable(Ability::JsonObject)),
        OutputFormat::Choice(_) => return Err(BackendError::Unable(Ability::Constraints)),
        OutputFormat::Text
        | OutputFormat::JsonSchema(_)
        | OutputFormat::Regex(_)
        | OutputFormat::Grammar(_) => {}
    }
    if request.choices != 1 {
        return Err(BackendError::Unable(Ability::Choices));
    }
    let sampling = &request.sampling;
    if sampling.logprobs.is_some() {
        return Err(BackendError::Unable(Ability::Logprobs));
    }
    let is_zero = |penalty: Option<f32>| penalty.is_none_or(|penalty| penalty == 0.0);
    let set = [
        ("seed", sampling.seed.is_some()),
        ("presence_penalty", !is_zero(sampling.presence_penalty)),
        ("frequency_penalty", !is_zero(sampling.frequency_penalty)),
        (
            "temperature",
            sampling.temperature.is_some_and(|it| it > TEMPERATURE_MAX),
        ),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some(("temperature", _)) => Err(BackendError::declined(
            "temperature",
            "the chosen model's provider takes values from 0 to 1",
        )),
        Some((name, _)) => Err(BackendError::declined(
            name,
            "the chosen model's provider has no such setting; leave it out or name another model",
        )),
    }
}

fn inference_body(model: &str, request: &ChatRequest, thinking: &Thinking) -> Map<String, Value> {
    let mut config = Map::new();
    // Thoughts count, and their budget has to be less than the bound.
    let beside_thoughts =
        (thinking.budget > 0).then(|| Tokens(MAX_TOKENS_DEFAULT.0.saturating_add(thinking.budget)));
    let bound = request.output_tokens_max.or(beside_thoughts);
    config.extend(bound.map(|bound| ("maxTokens".into(), bound.0.into())));
    let sampling = &request.sampling;
    let drawing = drawing(model, sampling);
    let decimals = [
        ("temperature", drawing.temperature),
        ("topP", drawing.top_p),
    ];
    for (name, value) in decimals {
        config.extend(value.map(|value| (name.to_owned(), shortest(value))));
    }
    if !request.sampling.stop.is_empty() {
        let stop = request.sampling.stop.clone();
        config.insert("stopSequences".into(), stop.into());
    }
    config
}

fn tools_body(request: &ChatRequest) -> Result<Option<Value>, BackendError> {
    let has_calls = request.messages.iter().any(|it| !it.tool_calls.is_empty());
    if request.tools.is_empty() {
        if has_calls {
            return Err(BackendError::declined(
                "tools",
                "the chosen model's provider wants the tools that the messages call",
            ));
        }
        return Ok(None);
    }
    let choice = match &request.tool_choice {
        ToolChoice::Auto => None,
        // There is no word for it. Without tools none is called.
        ToolChoice::None if !has_calls => return Ok(None),
        ToolChoice::None => {
            return Err(BackendError::declined(
                "tool_choice",
                "the chosen model's provider has no 'none' once tools were called",
            ));
        }
        ToolChoice::Required => Some(json!({"any": {}})),
        ToolChoice::Named(name) => Some(json!({"tool": {"name": name}})),
    };
    let tools: Vec<Value> = request.tools.iter().map(tool_body).collect();
    let mut body = json!({ "tools": tools });
    if let Some(choice) = choice {
        body["toolChoice"] = choice;
    }
    Ok(Some(body))
}

fn tool_body(tool: &Tool) -> Value {
    let is_empty = tool.parameters.as_object().is_some_and(Map::is_empty);
    let schema = match is_empty {
        true => json!({"type": "object", "properties": {}}),
        false => tool.parameters.clone(),
    };
    let mut spec = json!({"name": tool.name, "inputSchema": {"json": schema}});
    if let Some(description) = tool.description.as_ref().filter(|it| !it.is_empty()) {
        spec["description"] = description.as_str().into();
    }
    json!({ "toolSpec": spec })
}

/// What stands in a model's own words.
fn model_body(
    model: &str,
    request: &ChatRequest,
    thinking: Option<Value>,
) -> Result<Map<String, Value>, BackendError> {
    let mut own = Map::new();
    if let Some(top_k) = drawing(model, &request.sampling).top_k {
        if is_anthropics(model) {
            own.insert("top_k".into(), top_k.into());
        } else if model.contains("amazon.nova") {
            own.insert("inferenceConfig".into(), json!({ "topK": top_k }));
        } else {
            return Err(BackendError::declined(
                "top_k",
                "the chosen model has no such setting; leave it out or name another model",
            ));
        }
    }
    own.extend(thinking.map(|thinking| ("thinking".into(), thinking)));
    Ok(own)
}

fn drawing(model: &str, sampling: &Sampling) -> Drawing {
    match is_anthropics(model) {
        true => drawing_for(model, sampling),
        false => Drawing::as_said(sampling),
    }
}

fn is_anthropics(model: &str) -> bool {
    model.contains("anthropic.")
}

fn output_body(request: &ChatRequest, effort: Option<&'static str>) -> Map<String, Value> {
    let mut output = Map::new();
    if let OutputFormat::JsonSchema(format) = &request.format {
        let schema = format.get("schema").cloned().unwrap_or_else(|| json!({}));
        // A schema is text here.
        let mut definition = json!({ "schema": schema.to_string() });
        for name in ["name", "description"] {
            if let Some(text) = format.get(name).filter(|text| text.is_string()) {
                definition[name] = text.clone();
            }
        }
        let format = json!({"type": "json_schema", "structure": {"jsonSchema": definition}});
        output.insert("textFormat".into(), format);
    }
    output.extend(effort.map(|effort| ("effort".into(), effort.into())));
    output
}
