//! A request's contents, written from `domain`.

use std::collections::HashMap;

use domain::{
    Audio, BackendError, ChatRequest, Dialect, File, Image, Message, Part, Role, ToolCall,
};
use serde_json::{Map, Value, json};

use super::seals;
use crate::data_url;
use crate::unsayable::arguments;

/// Addresses' endings and what they stand for. Google fetches what it is given by address, and
/// wants to know.
const ENDINGS: [(&str, &str); 12] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("pdf", "application/pdf"),
    ("txt", "text/plain"),
    ("html", "text/html"),
    ("csv", "text/csv"),
    ("md", "text/md"),
];

/// The system prompt: every one there is, in order.
pub(super) fn system_body(request: &ChatRequest) -> Result<Option<Value>, BackendError> {
    let mut parts = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        if !is_system(message) {
            continue;
        }
        for (part_at, part) in message.content.iter().enumerate() {
            match part {
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => parts.push(json!({ "text": text })),
                Part::Other(part) => parts.push(part.clone()),
                Part::Thought(_) | Part::Seal(_) => {}
                Part::Image(_) | Part::Audio(_) | Part::File(_) => {
                    return Err(BackendError::declined(
                        format!("messages[{at}].content[{part_at}]"),
                        "the chosen model takes only text in system prompts",
                    ));
                }
            }
        }
    }
    Ok((!parts.is_empty()).then(|| json!({ "parts": parts })))
}

fn is_system(message: &Message) -> bool {
    match message.role {
        Role::System | Role::Developer => true,
        Role::User | Role::Assistant | Role::Tool => false,
    }
}

pub(super) fn contents_body(model: &str, request: &ChatRequest) -> Result<Value, BackendError> {
    let mut contents: Vec<Value> = Vec::new();
    // The latest call of each id.
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut was_tool = false;
    let is_own = request.dialect == Dialect::Gemini;
    for (at, message) in request.messages.iter().enumerate() {
        if is_system(message) {
            continue;
        }
        let is_tool = message.role == Role::Tool;
        let (role, parts) = match message.role {
            Role::Assistant => {
                let calls = message.tool_calls.iter();
                names.extend(calls.map(|call| (call.id.as_str(), call.name.as_str())));
                ("model", model_parts(model, at, message)?)
            }
            Role::Tool => ("user", vec![result_part(at, message, is_own, &names)?]),
            Role::System | Role::Developer | Role::User => ("user", user_parts(at, message)?),
        };
        // Google wants the results of one turn's calls together.
        let joined = contents.last_mut().filter(|_| is_tool && was_tool);
        if let Some(Value::Array(before)) = joined.and_then(|last| last.get_mut("parts")) {
            before.extend(parts);
        } else if !parts.is_empty() {
            contents.push(json!({"role": role, "parts": parts}));
        }
        was_tool = is_tool;
    }
    if contents.is_empty() {
        return Err(BackendError::declined(
            "messages",
            "the chosen model needs a message besides system prompts",
        ));
    }
    Ok(contents.into())
}

fn user_parts(at: usize, message: &Message) -> Result<Vec<Value>, BackendError> {
    let mut parts = Vec::with_capacity(message.content.len());
    for (part_at, part) in message.content.iter().enumerate() {
        match part {
            Part::Text(text) if text.is_empty() => {}
            Part::Text(text) => parts.push(json!({ "text": text })),
            Part::Thought(_) | Part::Seal(_) => {}
            Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
                parts.push(media_part(part).ok_or_else(|| unreadable(at, part_at))?);
            }
        }
    }
    Ok(parts)
}

fn unreadable(at: usize, part_at: usize) -> BackendError {
    BackendError::declined(
        format!("messages[{at}].content[{part_at}]"),
        "expected an address that begins with https:// or http://, or a data URL in base64, as \
         data:image/png;base64,…",
    )
}

/// `None` for what is neither at an address nor base64.
fn media_part(part: &Part) -> Option<Value> {
    match part {
        Part::Image(Image { url, detail: _ }) | Part::File(File { url, name: _ }) => {
            if let Some((media_type, data)) = data_url::split(url) {
                return Some(inline(media_type, data));
            }
            let is_address = ["https://", "http://"].iter().any(|it| url.starts_with(it));
            is_address.then(|| at_address(url))
        }
        Part::Audio(Audio { data, format }) => {
            let data = data_url::standard(data)?;
            Some(inline(&format!("audio/{format}"), &data))
        }
        Part::Other(value) => Some(value.clone()),
        Part::Text(_) | Part::Thought(_) | Part::Seal(_) => None,
    }
}

fn inline(media_type: &str, data: &str) -> Value {
    json!({"inlineData": {"mimeType": media_type, "data": data}})
}

fn at_address(url: &str) -> Value {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let ending = path
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_ascii_lowercase());
    let known = ending.and_then(|ending| ENDINGS.iter().find(|(known, _)| *known == ending));
    match known {
        Some((_, media_type)) => json!({"fileData": {"mimeType": media_type, "fileUri": url}}),
        None => json!({"fileData": {"fileUri": url}}),
    }
}

fn model_parts(model: &str, at: usize, message: &Message) -> Result<Vec<Value>, BackendError> {
    let mut parts: Vec<Map<String, Value>> = Vec::new();
    for (part_at, part) in message.content.iter().enumerate() {
        match part {
            Part::Text(text) | Part::Thought(text) if text.is_empty() => {}
            Part::Text(text) => parts.push(fields(json!({ "text": text }))),
            Part::Thought(text) => parts.push(fields(json!({"text": text, "thought": true}))),
            Part::Seal(seal) => add_signature(&mut parts, seals::own_of(seal)),
            Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
                let part = media_part(part).ok_or_else(|| unreadable(at, part_at))?;
                parts.push(fields(part));
            }
        }
    }
    let has_own = |call: &ToolCall| call.seal.as_ref().and_then(seals::own_of).is_some();
    // Google signs the first call of a turn, and checks it.
    let needs_placeholder = checks_signatures(model) && !message.tool_calls.iter().any(has_own);
    for (call_at, call) in message.tool_calls.iter().enumerate() {
        let Some(arguments) = arguments(&call.arguments) else {
            return Err(BackendError::declined(
                format!("messages[{at}].tool_calls[{call_at}].function.arguments"),
                "the chosen model takes only JSON objects as arguments",
            ));
        };
        let mut part = fields(json!({
            "functionCall": {"id": call.id, "name": call.name, "args": arguments},
        }));
        let own = call.seal.as_ref().and_then(seals::own_of);
        let placeholder = (call_at == 0 && needs_placeholder).then_some(seals::PLACEHOLDER);
        if let Some(signature) = own.or(placeholder) {
            part.insert("thoughtSignature".into(), signature.into());
        }
        parts.push(part);
    }
    Ok(parts.into_iter().map(Value::Object).collect())
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([("text".to_owned(), other)]),
    }
}

/// To the part it came with, or to one without text.
fn add_signature(parts: &mut Vec<Map<String, Value>>, signature: Option<&str>) {
    let Some(signature) = signature else {
        return;
    };
    let last = parts.last_mut();
    if let Some(part) = last.filter(|part| !part.contains_key("thoughtSignature")) {
        part.insert("thoughtSignature".into(), signature.into());
    } else {
        let part = json!({"text": "", "thoughtSignature": signature});
        parts.push(fields(part));
    }
}

/// True for models that refuse a call without a signature: all since Gemini 3.
fn checks_signatures(model: &str) -> bool {
    let name = model.strip_prefix("models/").unwrap_or(model);
    !["gemini-1", "gemini-2", "gemma"]
        .iter()
        .any(|older| name.starts_with(older))
}

fn result_part(
    at: usize,
    message: &Message,
    is_own: bool,
    names: &HashMap<&str, &str>,
) -> Result<Value, BackendError> {
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    let Some(name) = names.get(id) else {
        return Err(BackendError::declined(
            format!("messages[{at}].tool_call_id"),
            "no message before it calls a tool under this id",
        ));
    };
    let mut media = Vec::new();
    for (part_at, part) in message.content.iter().enumerate() {
        match part {
            Part::Text(_) | Part::Thought(_) | Part::Seal(_) => {}
            Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
                let part = media_part(part).filter(|part| part.get("fileData").is_none());
                media.push(part.ok_or_else(|| {
                    BackendError::declined(
                        format!("messages[{at}].content[{part_at}]"),
                        "the chosen model takes what is no text in a tool's result only as a data \
                         URL in base64",
                    )
                })?);
            }
        }
    }
    let mut response = fields(json!({
        "id": id, "name": name, "response": result_body(&message.text(), message.is_failure),
    }));
    if !media.is_empty() {
        response.insert("parts".into(), media.into());
    }
    // Another dialect's fields stay behind.
    let extra = is_own.then_some(&message.extra);
    for (field, value) in extra.into_iter().flatten() {
        response
            .entry(field.clone())
            .or_insert_with(|| value.clone());
    }
    Ok(json!({ "functionResponse": response }))
}

/// `output` or `error`; what is an object already, and has neither, is an output itself.
fn result_body(text: &str, is_failure: bool) -> Value {
    if is_failure {
        return json!({ "error": text });
    }
    let object: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    match object {
        Some(object)
            if !["output", "error"]
                .iter()
                .any(|it| object.contains_key(*it)) =>
        {
            Value::Object(object)
        }
        Some(object) => json!({ "output": object }),
        None => json!({ "output": text }),
    }
}
