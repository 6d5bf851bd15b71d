//! Encodes a request, as a client.

use bytes::BufMut;
use bytes::{Bytes, BytesMut};
use domain::{
    BackendError, ChatRequest, Delivery, Dialect, Message, OutputFormat, Part, Role, SealKind,
    ToolChoice,
};
use serde_json::{Map, Value, json};

use super::decode_items::opaque;
use crate::splice::{Members, put_json, put_member};

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
    refuse_unsayable(request)?;
    let source = request
        .source
        .as_ref()
        .filter(|source| source.dialect == Dialect::Responses);
    if let Some(spliced) = source.and_then(|it| splice(&it.bytes, model, request.delivery)) {
        return Ok(spliced);
    }
    let body = body(model, request);
    Ok(Bytes::from(
        serde_json::to_vec(&body).expect("a value tree always serializes"),
    ))
}

fn refuse_unsayable(request: &ChatRequest) -> Result<(), BackendError> {
    let sampling = &request.sampling;
    let cases = [
        ("n", request.choices > 1),
        ("stop", !sampling.stop.is_empty()),
        ("logit_bias", !sampling.logit_bias.is_empty()),
        (
            "frequency_penalty",
            sampling.frequency_penalty.is_some_and(|it| it != 0.0),
        ),
        (
            "presence_penalty",
            sampling.presence_penalty.is_some_and(|it| it != 0.0),
        ),
    ];
    match cases.into_iter().find(|(_, is_asked)| *is_asked) {
        None => Ok(()),
        Some((name, _)) => {
            let words = format!(
                "'{name}' cannot be asked of this model's provider by responses; leave it out"
            );
            Err(BackendError::declined(name, words))
        }
    }
}

/// `None` when the bytes are no JSON object, which decoding had checked.
fn splice(source: &[u8], model: &str, delivery: Delivery) -> Option<Bytes> {
    let Members(members) = serde_json::from_slice(source).ok()?;
    let mut out = BytesMut::with_capacity(source.len() + model.len() + 64);
    put_member(&mut out, "model", |out| put_json(out, model));
    for (name, value) in &members {
        if !OWN.contains(&name.as_ref()) {
            put_member(&mut out, name, |out| out.put_slice(value.get().as_bytes()));
        }
    }
    put_member(&mut out, "store", |out| out.put_slice(b"false"));
    if matches!(delivery, Delivery::Streamed { .. }) {
        put_member(&mut out, "stream", |out| out.put_slice(b"true"));
    }
    out.put_u8(b'}');
    Some(out.freeze())
}

fn body(model: &str, request: &ChatRequest) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let input: Vec<Value> = request.messages.iter().flat_map(items).collect();
    body.insert("input".into(), input.into());
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            let strict = tool.extra.get("strict").cloned().unwrap_or(json!(false));
            let mut written = json!({
                "type": "function", "name": tool.name, "parameters": tool.parameters,
                "strict": strict,
            });
            if let Some(description) = &tool.description {
                written["description"] = description.as_str().into();
            }
            written
        });
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
    add_reasoning(&mut body, request);
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
    ] {
        let wide = value.and_then(|value| value.to_string().parse::<f64>().ok());
        body.extend(wide.map(|value| (name.to_owned(), value.into())));
    }
    if let Some(best) = request.sampling.logprobs {
        body.insert("top_logprobs".into(), best.into());
        include(&mut body, "message.output_text.logprobs");
    }
    if request.dialect == Dialect::Responses {
        for (name, value) in request
            .extra
            .iter()
            .filter(|(name, _)| !name.starts_with('/'))
        {
            body.entry(name.clone()).or_insert_with(|| value.clone());
        }
    } else if request.dialect == Dialect::OpenAi {
        for name in SHARED.iter().filter(|name| **name != "verbosity") {
            body.extend(
                request
                    .extra
                    .get(*name)
                    .map(|it| ((*name).to_owned(), it.clone())),
            );
        }
    }
    body.remove("verbosity");
    body.insert("store".into(), false.into());
    if let Delivery::Streamed { .. } = request.delivery {
        body.insert("stream".into(), true.into());
    }
    Value::Object(body)
}

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
        // The last three are passed over by who needs them: the card has no such ability.
        OutputFormat::Text
        | OutputFormat::Regex(_)
        | OutputFormat::Choice(_)
        | OutputFormat::Grammar(_) => {}
    }
    let is_ours = matches!(request.dialect, Dialect::OpenAi | Dialect::Responses);
    if let Some(word) = request.extra.get("verbosity").filter(|_| is_ours) {
        text.insert("verbosity".into(), word.clone());
    }
    if !text.is_empty() {
        body.insert("text".into(), text.into());
    }
}

/// Thoughts come sealed, so that they can go back though nothing is kept there.
fn add_reasoning(body: &mut Map<String, Value>, request: &ChatRequest) {
    let Some(reasoning) = request.reasoning else {
        return;
    };
    let mut written = Map::new();
    if let Some(effort) = crate::openai::effort(reasoning) {
        written.insert("effort".into(), effort.as_label().into());
    }
    if reasoning.is_shown == Some(true) {
        written.insert("summary".into(), "auto".into());
    }
    if !written.is_empty() {
        body.insert("reasoning".into(), written.into());
        include(body, "reasoning.encrypted_content");
    }
}

fn items(message: &Message) -> Vec<Value> {
    match message.role {
        Role::Tool => vec![json!({
            "type": "function_call_output",
            "call_id": message.tool_call_id,
            "output": output(message),
        })],
        Role::Assistant => turn(message),
        Role::System | Role::Developer | Role::User => vec![json!({
            "type": "message",
            "role": message.role.as_label(),
            "content": parts(message),
        })],
    }
}

/// A text where it is one; a failure says so, since the dialect has no field for it.
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
        Part::Other(value) => value.clone(),
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
