//! A request's JSON, written from `domain` alone.

use domain::{
    ChatRequest, Delivery, Dialect, Extra, Message, OutputFormat, Part, Prediction, Role, Sampling,
    Tool, ToolCall, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::effort::{draws_as_told, effort_for};
use super::failures;
use super::seals::{self, ExtraContent};
use crate::numbers::shortest;
use crate::responses::SHARED;

/// A field of `extra` that says only under which name the caller set the output bound. Providers
/// know one of the two names, and the caller knows its provider.
pub(crate) const NEWER_OUTPUT_BOUND: &str = "max_completion_tokens";

pub(crate) fn request_body(model: &str, request: &ChatRequest) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    // Fields found inside content parts need the parts to stand where they stood.
    let has_nested = request.dialect == Dialect::OpenAi
        && request.extra.keys().any(|name| name.starts_with('/'));
    let messages = message_bodies(request, has_nested);
    body.insert("messages".into(), messages.into());
    add_tools(&mut body, request);
    add_sampling(&mut body, &request.sampling, draws_as_told(model, request));
    match &request.format {
        OutputFormat::Text => {}
        OutputFormat::JsonObject => {
            body.insert("response_format".into(), json!({"type": "json_object"}));
        }
        OutputFormat::JsonSchema(schema) => {
            let format = json!({"type": "json_schema", "json_schema": schema});
            body.insert("response_format".into(), format);
        }
        OutputFormat::Regex(regex) => {
            body.insert("structured_outputs".into(), json!({ "regex": regex }));
        }
        OutputFormat::Choice(texts) => {
            body.insert("structured_outputs".into(), json!({ "choice": texts }));
        }
        OutputFormat::Grammar(grammar) => {
            body.insert("structured_outputs".into(), json!({ "grammar": grammar }));
        }
    }
    if let Some(bound) = request.output_tokens_max {
        let is_newer = request.extra.contains_key(NEWER_OUTPUT_BOUND);
        let name = if is_newer {
            NEWER_OUTPUT_BOUND
        } else {
            "max_tokens"
        };
        body.insert(name.into(), bound.0.into());
    }
    if let Some(prediction) = &request.prediction {
        body.insert("prediction".into(), prediction_body(prediction, has_nested));
    }
    if let Some(effort) = effort_for(model, request) {
        body.insert("reasoning_effort".into(), effort.as_label().into());
    }
    if request.choices != 1 {
        body.insert("n".into(), request.choices.into());
    }
    if let Delivery::Streamed { .. } = request.delivery {
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    let mut body = Value::Object(body);
    match request.dialect {
        Dialect::OpenAi => add_extra(&mut body, &request.extra),
        Dialect::Responses => add_shared(&mut body, &request.extra),
        Dialect::Completions
        | Dialect::Anthropic
        | Dialect::Gemini
        | Dialect::Bedrock
        | Dialect::Ollama => {}
    }
    body
}

/// OpenAI lets no result of a tool hold anything but text ("Image URLs are only allowed for messages with role
/// 'user'"). What else other dialects have there goes into a message after the results, which must follow
/// the calls without a gap.
fn message_bodies(request: &ChatRequest, has_nested: bool) -> Vec<Value> {
    let is_own = request.dialect == Dialect::OpenAi;
    let mut bodies = Vec::with_capacity(request.messages.len());
    let mut moved = Vec::new();
    for message in &request.messages {
        let is_result = message.role == Role::Tool;
        if !is_result {
            bodies.extend(shown(&mut moved));
        }
        let media = match is_result && !is_own {
            true => media_of(message),
            false => Vec::new(),
        };
        if media.is_empty() {
            bodies.push(message_body(message, has_nested, request.dialect));
            continue;
        }
        bodies.push(message_body(
            &without_media(message),
            false,
            request.dialect,
        ));
        let id = message.tool_call_id.as_deref().unwrap_or_default();
        moved.push(json!({"type": "text", "text": format!("Returned by the tool call {id}:")}));
        moved.extend(media);
    }
    bodies.extend(shown(&mut moved));
    bodies
}

fn media_of(message: &Message) -> Vec<Value> {
    let media = message.content.iter().filter(|part| is_media(part));
    media.filter_map(part_body).collect()
}

fn is_media(part: &Part) -> bool {
    match part {
        Part::Image(_) | Part::Audio(_) | Part::File(_) => true,
        Part::Text(_) | Part::Other(_) | Part::Thought(_) | Part::Seal(_) => false,
    }
}

/// The result of a tool, in words alone.
fn without_media(message: &Message) -> Message {
    let words = message.content.iter().filter(|part| !is_media(part));
    let mut content: Vec<Part> = words.cloned().collect();
    if content.is_empty() {
        content.push(Part::Text("It is in the next message.".to_owned()));
    }
    Message {
        content,
        name: message.name.clone(),
        tool_call_id: message.tool_call_id.clone(),
        is_failure: message.is_failure,
        ..Message::new(message.role, "")
    }
}

/// The message that shows what was moved, where something was.
fn shown(moved: &mut Vec<Value>) -> Option<Value> {
    let parts = std::mem::take(moved);
    (!parts.is_empty()).then(|| json!({"role": "user", "content": parts}))
}

fn message_body(message: &Message, has_nested: bool, dialect: Dialect) -> Value {
    let mut body = Map::new();
    body.insert("role".into(), message.role.as_label().into());
    let mut thoughts = String::new();
    let mut parts: Vec<&Part> = Vec::with_capacity(message.content.len());
    let marked = failures::marked(message);
    for part in marked.iter() {
        match part {
            Part::Thought(thought) => thoughts.push_str(thought),
            Part::Seal(_) => {}
            Part::Text(_) | Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
                parts.push(part);
            }
        }
    }
    let content = match parts.as_slice() {
        [] if message.role == Role::Assistant => Value::Null,
        // A list has one part at least.
        [] => "".into(),
        [Part::Text(text)] if !has_nested => text.as_str().into(),
        parts => parts
            .iter()
            .filter_map(|part| part_body(part))
            .collect::<Vec<_>>()
            .into(),
    };
    if !thoughts.is_empty() {
        body.insert("reasoning_content".into(), thoughts.into());
    }
    body.insert("content".into(), content);
    if let Some(name) = &message.name {
        body.insert("name".into(), name.as_str().into());
    }
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message.tool_calls.iter().map(call_body).collect();
        body.insert("tool_calls".into(), calls.into());
    }
    if let Some(id) = &message.tool_call_id {
        body.insert("tool_call_id".into(), id.as_str().into());
    }
    let extra = (dialect == Dialect::OpenAi).then_some(&message.extra);
    for (name, value) in extra.into_iter().flatten() {
        body.insert(name.clone(), value.clone());
    }
    Value::Object(body)
}

fn part_body(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) => json!({"type": "text", "text": text}),
        Part::Image(image) => {
            let mut body = json!({"type": "image_url", "image_url": {"url": image.url}});
            if let Some(detail) = &image.detail {
                body["image_url"]["detail"] = detail.as_str().into();
            }
            body
        }
        Part::Audio(audio) => json!({
            "type": "input_audio",
            "input_audio": {"data": audio.data, "format": audio.format},
        }),
        Part::File(file) => {
            let mut body = json!({"type": "file", "file": {"file_data": file.url}});
            if let Some(name) = &file.name {
                body["file"]["filename"] = name.as_str().into();
            }
            body
        }
        Part::Other(value) => value.clone(),
        Part::Thought(_) | Part::Seal(_) => return None,
    })
}

fn prediction_body(prediction: &Prediction, has_nested: bool) -> Value {
    let content: Value = match prediction.content.as_slice() {
        [text] if !has_nested => text.as_str().into(),
        texts => texts
            .iter()
            .map(|text| json!({"type": "text", "text": text}))
            .collect::<Vec<_>>()
            .into(),
    };
    json!({"type": "content", "content": content})
}

fn call_body(call: &ToolCall) -> Value {
    let mut body = json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    });
    if let Some(seal) = call.seal.as_ref().filter(|seal| seals::is_googles(seal)) {
        body["extra_content"] = json!(ExtraContent::from(seal));
    }
    body
}

fn add_tools(body: &mut Map<String, Value>, request: &ChatRequest) {
    if !request.tools.is_empty() {
        let tools = request.tools.iter();
        let tools: Vec<Value> = tools.map(|tool| tool_body(tool, request.dialect)).collect();
        body.insert("tools".into(), tools.into());
    }
    let choice = match &request.tool_choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => Some(json!({"type": "function", "function": {"name": name}})),
    };
    body.extend(choice.map(|choice| ("tool_choice".into(), choice)));
    let parallel = request.parallel_tool_calls;
    body.extend(parallel.map(|parallel| ("parallel_tool_calls".into(), parallel.into())));
}

fn tool_body(tool: &Tool, dialect: Dialect) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.as_str().into());
    if let Some(description) = &tool.description {
        function.insert("description".into(), description.as_str().into());
    }
    if tool
        .parameters
        .as_object()
        .is_none_or(|schema| !schema.is_empty())
    {
        function.insert("parameters".into(), tool.parameters.clone());
    }
    let is_ours = matches!(dialect, Dialect::OpenAi | Dialect::Responses);
    let extra = is_ours.then_some(&tool.extra);
    for (name, value) in extra.into_iter().flatten() {
        function.insert(name.clone(), value.clone());
    }
    json!({"type": "function", "function": function})
}

fn add_sampling(body: &mut Map<String, Value>, sampling: &Sampling, draws_as_told: bool) {
    let decimals = [
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("frequency_penalty", sampling.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty),
    ];
    for (name, value) in decimals.into_iter().filter(|_| draws_as_told) {
        body.extend(value.map(|value| (name.to_owned(), shortest(value))));
    }
    body.extend(sampling.top_k.map(|top_k| ("top_k".into(), top_k.into())));
    body.extend(sampling.seed.map(|seed| ("seed".into(), seed.into())));
    if !sampling.stop.is_empty() {
        body.insert("stop".into(), sampling.stop.clone().into());
    }
    if !sampling.logit_bias.is_empty() {
        let bias = sampling.logit_bias.iter();
        let bias: Map<String, Value> = bias
            .map(|(token, bias)| (token.to_string(), shortest(*bias)))
            .collect();
        body.insert("logit_bias".into(), bias.into());
    }
    if let Some(best) = sampling.logprobs {
        body.insert("logprobs".into(), true.into());
        body.insert("top_logprobs".into(), best.into());
    }
}

/// The fields that OpenAI's two dialects call the same.
fn add_shared(body: &mut Value, extra: &Extra) {
    for name in SHARED {
        if let (Some(value), Value::Object(fields)) = (extra.get(name), &mut *body) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
}

/// Puts uninterpreted fields back: plain names at the top, JSON Pointers where they stood.
fn add_extra(body: &mut Value, extra: &Extra) {
    for (name, value) in extra {
        if name == NEWER_OUTPUT_BOUND {
            continue;
        }
        let (place, name) = match name.rsplit_once('/') {
            Some((place, name)) if place.is_empty() || place.starts_with('/') => (place, name),
            _ => ("", name.as_str()),
        };
        let name = name.replace("~1", "/").replace("~0", "~");
        if let Some(Value::Object(fields)) = body.pointer_mut(place) {
            fields.insert(name, value.clone());
        }
    }
}
