//! Encodes a request, as a client.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use domain::{
    BackendError, ChatRequest, Delivery, Dialect, Effort, Extra, Message, OutputFormat, Part, Role,
    SealKind, Tool, ToolChoice,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::opaque_seal::opaque;
use crate::foreign_seal;
use crate::numbers::shortest;
use crate::openai::{draws_as_told, effort_for, refuses_to_think};
use crate::splice::{Members, put_json, put_member};
use crate::unsayable::{refuse_bound, refuse_grammars, refuse_open_sampling};

/// Members that are written anew: what is kept is kept here.
const OWN: [&str; 5] = [
    "model",
    "stream",
    "store",
    "previous_response_id",
    "stream_options",
];

/// Of other dialects' uninterpreted fields, those that are called the same here.
pub(crate) const SHARED: [&str; 8] = [
    "metadata",
    "user",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "store",
    "verbosity",
];

/// The body to send to an upstream that knows the model as `model`.
///
/// # Errors
/// [`BackendError::Declined`] for what the dialect has no words for.
pub fn encode_request(model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
    refuse_bound(request, Dialect::Responses)?;
    refuse_unsayable(request)?;
    let source = request
        .source
        .as_ref()
        .filter(|source| source.dialect == Dialect::Responses)
        .filter(|_| !foreign_seal::are_in(request, Dialect::Responses));
    if let Some(spliced) = source.and_then(|it| splice(&it.bytes, model, request.delivery)) {
        return Ok(spliced);
    }
    let body = body(model, request);
    Ok(Bytes::from(
        serde_json::to_vec(&body).expect("a value tree always serializes"),
    ))
}

fn refuse_unsayable(request: &ChatRequest) -> Result<(), BackendError> {
    refuse_open_sampling(request)?;
    refuse_grammars(&request.format)?;
    refuse_unknown_parts(request)?;
    let sampling = &request.sampling;
    let is_set = |penalty: Option<f32>| penalty.is_some_and(|penalty| penalty != 0.0);
    let cases = [
        ("n", request.choices > 1),
        ("stop", !sampling.stop.is_empty()),
        ("top_k", sampling.top_k.is_some_and(|top_k| top_k > 0)),
        ("frequency_penalty", is_set(sampling.frequency_penalty)),
        ("presence_penalty", is_set(sampling.presence_penalty)),
        (
            "structured_outputs.choice",
            matches!(request.format, OutputFormat::Choice(_)),
        ),
    ];
    match cases.into_iter().find(|(_, is_asked)| *is_asked) {
        None => Ok(()),
        Some((name, _)) => Err(BackendError::declined(
            name,
            "the chosen model's provider has no such setting; leave it out or name another model",
        )),
    }
}

/// Parts that neither dialect of OpenAI's could have meant for this one.
fn refuse_unknown_parts(request: &ChatRequest) -> Result<(), BackendError> {
    for (at, message) in request.messages.iter().enumerate() {
        let unknown = message.content.iter().position(|it| match it {
            Part::Other(value) => held_file(value).is_none(),
            Part::Text(_)
            | Part::Image(_)
            | Part::Audio(_)
            | Part::File(_)
            | Part::Thought(_)
            | Part::Seal(_) => false,
        });
        if let Some(part) = unknown {
            return Err(BackendError::declined(
                format!("messages[{at}].content[{part}]"),
                "the chosen model's provider does not take content parts of this type",
            ));
        }
    }
    Ok(())
}

/// A chat's part for a file that OpenAI keeps, in this dialect's words.
fn held_file(part: &Value) -> Option<Value> {
    let id = part.pointer("/file/file_id")?.as_str()?;
    (part["type"] == "file").then(|| json!({"type": "input_file", "file_id": id}))
}

/// `None` when the bytes are no JSON object, which decoding had checked.
fn splice(source: &[u8], model: &str, delivery: Delivery) -> Option<Bytes> {
    let Members(members) = serde_json::from_slice(source).ok()?;
    let mut out = BytesMut::with_capacity(source.len() + model.len() + 64);
    put_member(&mut out, "model", |out| put_json(out, model));
    for (name, value) in &members {
        if !OWN.contains(&name.as_ref()) {
            put_member(&mut out, name, |out| match name.as_ref() {
                "input" => put_input(out, value),
                _ => out.put_slice(value.get().as_bytes()),
            });
        }
    }
    put_member(&mut out, "store", |out| out.put_slice(b"false"));
    if matches!(delivery, Delivery::Streamed { .. }) {
        put_member(&mut out, "stream", |out| out.put_slice(b"true"));
    }
    out.put_u8(b'}');
    Some(out.freeze())
}

/// The items as they came, but for thoughts. Each is sealed together with the id that its maker gave it, which
/// callers do not know, since replies have ids of ours: it goes back without one. And one that is not sealed
/// goes nowhere: its maker, who keeps nothing, would look for it by its id.
fn put_input(out: &mut BytesMut, input: &RawValue) {
    // Escapes may spell anything.
    let may_have_thoughts = ["reasoning", "\\u"]
        .iter()
        .any(|it| input.get().contains(it));
    let items = may_have_thoughts
        .then(|| serde_json::from_str::<Vec<&RawValue>>(input.get()).ok())
        .flatten();
    let Some(items) = items else {
        return out.put_slice(input.get().as_bytes());
    };
    out.put_u8(b'[');
    let mut is_first = true;
    for item in items {
        let written = match thought(item) {
            None => Some(Bytes::copy_from_slice(item.get().as_bytes())),
            Some(members) => without_id(&members),
        };
        if let Some(written) = written {
            if !is_first {
                out.put_u8(b',');
            }
            is_first = false;
            out.put_slice(&written);
        }
    }
    out.put_u8(b']');
}

/// The members of an item that is a thought.
fn thought(item: &RawValue) -> Option<Members<'_>> {
    let members: Members<'_> = serde_json::from_str(item.get()).ok()?;
    let kind = member(&members, "type")?;
    (text(kind).as_deref() == Some("reasoning")).then_some(members)
}

/// `None` for a thought that is not sealed.
fn without_id(Members(members): &Members<'_>) -> Option<Bytes> {
    let is_sealed = |(name, value): &(Cow<'_, str>, &RawValue)| {
        name == "encrypted_content" && text(value).is_some_and(|seal| !seal.is_empty())
    };
    if !members.iter().any(is_sealed) {
        return None;
    }
    let mut out = BytesMut::new();
    for (name, value) in members.iter().filter(|(name, _)| name != "id") {
        put_member(&mut out, name, |out| out.put_slice(value.get().as_bytes()));
    }
    out.put_u8(b'}');
    Some(out.freeze())
}

fn member<'a>(Members(members): &Members<'a>, name: &str) -> Option<&'a RawValue> {
    let found = members.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| *value)
}

fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(value.get()).ok()
}

fn body(model: &str, request: &ChatRequest) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let input: Vec<Value> = request.messages.iter().flat_map(items).collect();
    body.insert("input".into(), input.into());
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|it| tool(it, request.dialect));
        body.insert("tools".into(), tools.collect::<Vec<_>>().into());
    }
    let choice = match &request.tool_choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some(json!("none")),
        ToolChoice::Required => Some(json!("required")),
        ToolChoice::Named(name) => Some(json!({"type": "function", "name": name})),
    };
    body.extend(choice.map(|choice| ("tool_choice".into(), choice)));
    let parallel = request.parallel_tool_calls;
    body.extend(parallel.map(|it| ("parallel_tool_calls".into(), it.into())));
    add_text(&mut body, request);
    add_reasoning(&mut body, model, request);
    let bound = request.output_tokens_max;
    // OpenAI takes no less.
    body.extend(bound.map(|it| {
        (
            "max_output_tokens".into(),
            it.0.max(OUTPUT_TOKENS_MIN).into(),
        )
    }));
    for (name, value) in [
        ("temperature", request.sampling.temperature),
        ("top_p", request.sampling.top_p),
    ]
    .into_iter()
    .filter(|_| draws_as_told(model, request))
    {
        body.extend(value.map(|value| (name.to_owned(), shortest(value))));
    }
    if let Some(best) = request.sampling.logprobs {
        body.insert("top_logprobs".into(), best.into());
        include(&mut body, "message.output_text.logprobs");
    }
    match request.dialect {
        Dialect::Responses => add_own_extra(&mut body, &request.extra),
        Dialect::OpenAi | Dialect::Completions => add_shared_extra(&mut body, &request.extra),
        Dialect::Anthropic | Dialect::Gemini | Dialect::Bedrock | Dialect::Ollama => {}
    }
    body.insert("store".into(), false.into());
    if let Delivery::Streamed { .. } = request.delivery {
        body.insert("stream".into(), true.into());
    }
    Value::Object(body)
}

fn tool(tool: &Tool, dialect: Dialect) -> Value {
    let mut written = json!({"type": "function", "name": tool.name});
    // A function that takes nothing.
    let is_empty = tool.parameters.as_object().is_some_and(Map::is_empty);
    written["parameters"] = match is_empty {
        true => Value::Null,
        false => tool.parameters.clone(),
    };
    match tool
        .extra
        .get("strict")
        .filter(|strict| strict.is_boolean())
    {
        Some(strict) => written["strict"] = strict.clone(),
        // Without a word it is strict here, as it is not in chats.
        None if dialect == Dialect::Responses => {}
        None => written["strict"] = false.into(),
    }
    if let Some(description) = &tool.description {
        written["description"] = description.as_str().into();
    }
    written
}

/// Puts uninterpreted fields back: plain names at the top, JSON Pointers where they stood, but for
/// those inside of items, which stand elsewhere now.
fn add_own_extra(body: &mut Map<String, Value>, extra: &Extra) {
    for (name, value) in extra.iter().filter(|(name, _)| *name != VERBOSITY) {
        let Some(pointer) = name.strip_prefix('/') else {
            if name == "include" {
                let words = value.as_array().into_iter().flatten();
                words
                    .filter_map(Value::as_str)
                    .for_each(|word| include(body, word));
            } else {
                body.entry(name.clone()).or_insert_with(|| value.clone());
            }
            continue;
        };
        let Some((place, name)) = pointer.rsplit_once('/') else {
            continue;
        };
        let (first, rest) = place.split_once('/').unwrap_or((place, ""));
        if !["reasoning", "text", "tools"].contains(&first) {
            continue;
        }
        if first != "tools" {
            body.entry(first).or_insert_with(|| json!({}));
        }
        let root = body.get_mut(first);
        let found = root.and_then(|root| match rest {
            "" => Some(root),
            rest => root.pointer_mut(&format!("/{rest}")),
        });
        if let Some(Value::Object(fields)) = found {
            let name = name.replace("~1", "/").replace("~0", "~");
            fields.insert(name, value.clone());
        }
    }
}

fn add_shared_extra(body: &mut Map<String, Value>, extra: &Extra) {
    for name in SHARED.iter().filter(|name| **name != VERBOSITY) {
        let value = extra.get(*name);
        body.extend(value.map(|value| ((*name).to_owned(), value.clone())));
    }
}

/// Stands in `text` here, and at the top in chats.
const VERBOSITY: &str = "verbosity";

/// OpenAI's least.
const OUTPUT_TOKENS_MIN: u32 = 16;

fn include(body: &mut Map<String, Value>, word: &str) {
    let list = body.entry("include").or_insert_with(|| json!([]));
    if let Value::Array(words) = list
        && !words.iter().any(|known| known == word)
    {
        words.push(word.into());
    }
}

fn add_text(body: &mut Map<String, Value>, request: &ChatRequest) {
    let mut text = Map::new();
    match &request.format {
        OutputFormat::JsonObject => {
            text.insert("format".into(), json!({"type": "json_object"}));
        }
        OutputFormat::JsonSchema(schema) => {
            let mut format = json!({"type": "json_schema"});
            if let (Value::Object(format), Value::Object(schema)) = (&mut format, schema) {
                format.extend(schema.clone());
            }
            text.insert("format".into(), format);
        }
        // The last three were declined.
        OutputFormat::Text
        | OutputFormat::Regex(_)
        | OutputFormat::Choice(_)
        | OutputFormat::Grammar(_) => {}
    }
    let is_ours = matches!(request.dialect, Dialect::OpenAi | Dialect::Responses);
    if let Some(word) = request.extra.get(VERBOSITY).filter(|_| is_ours) {
        text.insert("verbosity".into(), word.clone());
    }
    if !text.is_empty() {
        body.insert("text".into(), text.into());
    }
}

/// Thoughts come sealed, so that they can go back though nothing is kept there. A model that is not to think
/// has none, and one that cannot does not know the word.
fn add_reasoning(body: &mut Map<String, Value>, model: &str, request: &ChatRequest) {
    let Some(reasoning) = request.reasoning else {
        return;
    };
    if refuses_to_think(model, request) {
        return;
    }
    let effort = effort_for(model, request);
    let mut written = Map::new();
    if let Some(effort) = effort {
        written.insert("effort".into(), effort.as_label().into());
    }
    if reasoning.is_shown == Some(true) {
        written.insert("summary".into(), "auto".into());
    }
    if !written.is_empty() {
        body.insert("reasoning".into(), written.into());
        if effort != Some(Effort::None) {
            include(body, "reasoning.encrypted_content");
        }
    }
}

fn items(message: &Message) -> Vec<Value> {
    match message.role {
        Role::Tool => {
            let mut item = json!({
                "type": "function_call_output",
                "call_id": message.tool_call_id,
                "output": output(message),
            });
            if message.is_failure {
                item["status"] = "incomplete".into();
            }
            vec![item]
        }
        Role::Assistant => turn(message),
        Role::System | Role::Developer | Role::User => vec![json!({
            "type": "message",
            "role": message.role.as_label(),
            "content": parts(message),
        })],
    }
}

/// A text where it is one.
fn output(message: &Message) -> Value {
    let is_text = message
        .content
        .iter()
        .all(|part| matches!(part, Part::Text(_)));
    if is_text {
        return message.text().into();
    }
    parts(message).into()
}

fn parts(message: &Message) -> Vec<Value> {
    message.content.iter().filter_map(part).collect()
}

fn part(part: &Part) -> Option<Value> {
    Some(match part {
        Part::Text(text) => json!({"type": "input_text", "text": text}),
        Part::Image(image) => {
            let detail = image.detail.as_deref().unwrap_or("auto");
            json!({"type": "input_image", "image_url": image.url, "detail": detail})
        }
        Part::Audio(audio) => json!({
            "type": "input_audio",
            "input_audio": {"data": audio.data, "format": audio.format},
        }),
        Part::File(file) => {
            let place = if file.is_inline() {
                "file_data"
            } else {
                "file_url"
            };
            let mut body = json!({"type": "input_file"});
            body[place] = file.url.as_str().into();
            if let Some(name) = &file.name {
                body["filename"] = name.as_str().into();
            }
            body
        }
        Part::Other(value) => return held_file(value),
        Part::Thought(_) | Part::Seal(_) => return None,
    })
}

/// Sealed thoughts, then text, then calls. A thought without a seal of this dialect goes nowhere:
/// the provider would not take it for the model's.
fn turn(message: &Message) -> Vec<Value> {
    let mut items = Vec::new();
    let mut thought = String::new();
    let mut texts = Vec::new();
    for part in &message.content {
        match part {
            Part::Thought(text) => thought.push_str(text),
            Part::Seal(seal) if seal.of == Dialect::Responses && seal.kind == SealKind::Hidden => {
                let summary: Vec<Value> = Some(std::mem::take(&mut thought))
                    .filter(|text| !text.is_empty())
                    .map(|text| json!({"type": "summary_text", "text": text}))
                    .into_iter()
                    .collect();
                items.push(json!({
                    "type": "reasoning", "summary": summary, "encrypted_content": opaque(seal),
                }));
            }
            Part::Text(text) => texts.push(json!({
                "type": "output_text", "text": text, "annotations": [],
            })),
            Part::Seal(_) | Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {}
        }
    }
    if !texts.is_empty() {
        items.push(json!({"type": "message", "role": "assistant", "content": texts}));
    }
    items.extend(message.tool_calls.iter().map(|call| {
        json!({
            "type": "function_call", "call_id": call.id, "name": call.name,
            "arguments": call.arguments,
        })
    }));
    items
}

#[cfg(test)]
mod tests;
