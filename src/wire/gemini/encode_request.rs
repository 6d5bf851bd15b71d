//! Encodes a request, as a client.
//!
//! A request that still has its received bytes goes out as it came: model and delivery stand in the
//! address. One of another dialect, or that was masked, is written from `domain`, with everything
//! uninterpreted put back where it stood.

use bytes::Bytes;
use domain::{BackendError, ChatRequest, Dialect, Extra, SourceBody, Tool, ToolChoice};
use serde_json::{Map, Value, json};

use super::config_body::config_body;
use super::contents_body::{contents_body, system_body};
use crate::foreign_seal;
use crate::own_tools;
use crate::unsayable::{refuse_foreign_parts, refuse_grammars, refuse_open_sampling};

/// # Errors
/// [`BackendError::Declined`] or [`BackendError::Unable`] for what the dialect cannot say.
pub(super) fn encode_request(model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
    let source = request.source.as_ref();
    let is_own = |source: &&SourceBody| source.dialect == Dialect::Gemini;
    if let Some(source) = source.filter(is_own)
        && !foreign_seal::are_in(request, Dialect::Gemini)
    {
        return Ok(source.bytes.clone());
    }
    let body = request_body(model, request)?;
    Ok(serde_json::to_vec(&body)
        .expect("a value tree always serializes")
        .into())
}

fn request_body(model: &str, request: &ChatRequest) -> Result<Value, BackendError> {
    refuse_foreign_parts(request, Dialect::Gemini)?;
    refuse_open_sampling(request)?;
    refuse_grammars(&request.format)?;
    let is_own = request.dialect == Dialect::Gemini;
    let mut body = Map::new();
    body.insert("contents".into(), contents_body(model, request)?);
    if let Some(system) = system_body(request)? {
        body.insert("systemInstruction".into(), system);
    }
    let mut tools = Vec::new();
    if !request.tools.is_empty() {
        let functions = request.tools.iter().map(|tool| function_body(tool, is_own));
        let functions: Vec<Value> = functions.collect();
        tools.push(json!({ "functionDeclarations": functions }));
    }
    if is_own {
        own_tools::put_back(&mut tools, &request.extra);
    }
    if !tools.is_empty() {
        body.insert("tools".into(), tools.into());
    }
    // Without functions there is no word on calling them (400 "Function calling config is set without
    // function_declarations").
    let may_choose = is_own || !request.tools.is_empty();
    if let Some(calling) = calling_body(&request.tool_choice).filter(|_| may_choose) {
        let config = json!({ "functionCallingConfig": calling });
        body.insert("toolConfig".into(), config);
    }
    let config = config_body(model, request)?;
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    if is_own {
        add_extra(&mut body, &request.extra);
    }
    Ok(body.into())
}

fn function_body(tool: &Tool, is_own: bool) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.as_str().into());
    if let Some(description) = &tool.description {
        function.insert("description".into(), description.as_str().into());
    }
    let has_parameters = tool
        .parameters
        .as_object()
        .is_none_or(|schema| !schema.is_empty());
    if has_parameters {
        function.insert("parametersJsonSchema".into(), tool.parameters.clone());
    }
    if is_own {
        let extra = tool.extra.iter();
        function.extend(extra.map(|(name, value)| (name.clone(), value.clone())));
    }
    Value::Object(function)
}

fn calling_body(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some(json!({"mode": "NONE"})),
        ToolChoice::Required => Some(json!({"mode": "ANY"})),
        ToolChoice::Named(name) => Some(json!({"mode": "ANY", "allowedFunctionNames": [name]})),
    }
}

/// Puts uninterpreted fields back: plain names at the top, JSON Pointers where they stood. Those of
/// contents have no place any more, as contents may be cut otherwise now.
fn add_extra(body: &mut Map<String, Value>, extra: &Extra) {
    for (name, value) in extra {
        let Some(pointer) = name.strip_prefix('/') else {
            body.insert(name.clone(), value.clone());
            continue;
        };
        if pointer.starts_with("generationConfig/") || pointer.starts_with("toolConfig/") {
            put_at(body, pointer, value);
        }
    }
}

/// Objects on the way are made where there are none yet. What is in the way stays.
fn put_at(fields: &mut Map<String, Value>, pointer: &str, value: &Value) {
    let Some((step, rest)) = pointer.split_once('/') else {
        fields.insert(unescaped(pointer), value.clone());
        return;
    };
    let next = fields.entry(unescaped(step)).or_insert_with(|| json!({}));
    if let Value::Object(next) = next {
        put_at(next, rest, value);
    }
}

fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}
