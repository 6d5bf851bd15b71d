//! Decodes a request, as a server.
//!
//! Strict where we interpret, silent where we do not, as the chat dialect is: unknown fields go to
//! `extra`, and with the received bytes to an upstream of this dialect.

use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Delivery, Dialect, Effort, Extra, Message, OutputFormat, Reasoning,
    Role, Sampling, SourceBody, TeamShelf, Tokens, Tool, ToolChoice,
};
use memchr::memmem;
use serde_json::{Map, Value, json};

use super::decode_items::{read_input, read_items};
use super::earlier::conversation;
use super::encode_reply::{Echo, Encoder};
use crate::fields::{Fields, Path, add_unknown, array};
use crate::openai::{NAME_PATTERN_HINT, OUTPUT_TOKENS_MAX, TOP_LOGPROBS_MAX, is_plain_name};
use crate::request_fault as fault;
use crate::strict_json;

const MODEL_BYTES_MAX: usize = 256;
/// OpenAI's bound on `tools`, and on a function's name.
const TOOLS_MAX: usize = 128;
const FUNCTION_NAME_BYTES_MAX: usize = 64;
/// An id of a response.
const ID_BYTES_MAX: usize = 128;
/// OpenAI's bounds on `metadata`.
const METADATA_MAX: usize = 16;
const METADATA_NAME_BYTES_MAX: usize = 64;
const METADATA_VALUE_BYTES_MAX: usize = 512;
/// Words of `include`; OpenAI has eight.
const INCLUDE_MAX: usize = 32;

/// Whether reading `body` may take more than its own length does, because it speaks of earlier
/// responses.
pub(super) fn speaks_of_earlier(body: &[u8]) -> bool {
    ["previous_response_id", "item_reference"]
        .iter()
        .any(|word| memmem::find(body, word.as_bytes()).is_some())
}

/// Reads a request for a response. What it goes on from is on `shelf`, where its response is kept too
/// if its caller wants that; without a word it does.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_request(
    body: &Bytes,
    shelf: Option<&TeamShelf>,
) -> Result<(ChatRequest, Encoder), BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model' and 'input'."
                .into(),
        });
    }
    let mut fields = Fields::open(Path::Root, value)?;
    refuse_unanswerable(&mut fields)?;
    let mut extra = Extra::new();
    let model = fields.required_name("model", MODEL_BYTES_MAX)?;
    let instructions = fields.string("instructions")?;
    let wants_kept = fields.boolean("store")?.unwrap_or(true);
    let keeper = shelf.filter(|_| wants_kept);
    let previous = match fields.has("previous_response_id") {
        true => Some(fields.required_name("previous_response_id", ID_BYTES_MAX)?),
        false => None,
    };
    check_hints(&fields)?;
    let mut echo = Echo::new(&fields, instructions.clone());
    echo.previous.clone_from(&previous);

    let mut messages = Vec::new();
    messages.extend(instructions.map(|text| Message::new(Role::Developer, text)));
    if let Some(previous) = &previous {
        // Instructions of earlier requests do not count any more.
        let said = conversation(shelf, previous)?;
        let path = Path::Root.field("previous_response_id");
        read_items(path, said, &mut messages, &mut extra)?;
    }
    let read = read_input(
        &mut fields,
        shelf,
        &mut messages,
        &mut extra,
        keeper.is_some(),
    )?;
    // The bytes do not hold what is kept here, and their provider does not keep it.
    let has_all = previous.is_none() && !read.has_references;

    let tools = read_tools(&mut fields, &mut extra)?;
    let tool_choice = read_tool_choice(&mut fields, &tools)?;
    let parallel_tool_calls = fields.boolean("parallel_tool_calls")?;
    let format = read_text(&mut fields, &mut extra)?;
    let reasoning = read_reasoning(&mut fields, &mut extra)?;
    let output_tokens_max = fields.count("max_output_tokens", 1..=OUTPUT_TOKENS_MAX)?;
    let sampling = Sampling {
        temperature: fields.decimal("temperature", 0.0..=2.0)?,
        top_p: read_top_p(&mut fields)?,
        logprobs: read_logprobs(&mut fields)?,
        ..Sampling::default()
    };
    let is_streamed = fields.boolean("stream")?.unwrap_or(false);
    // Only says whether events are padded, which they are not.
    fields.take("stream_options");
    add_unknown(fields, &mut extra)?;
    extra.retain(|_, value| !value.is_null());
    let keeper = keeper.cloned().map(|shelf| (shelf, read.kept));
    let encoder = Encoder::new(echo, &model, keeper);
    let request = ChatRequest {
        tools,
        tool_choice,
        parallel_tool_calls,
        sampling,
        format,
        output_tokens_max: output_tokens_max.map(Tokens),
        reasoning,
        delivery: match is_streamed {
            true => Delivery::Streamed {
                includes_usage: true,
            },
            false => Delivery::Whole,
        },
        extra,
        dialect: Dialect::Responses,
        source: has_all.then(|| SourceBody {
            dialect: Dialect::Responses,
            bytes: body.clone(),
        }),
        ..ChatRequest::new(model.as_str(), messages)
    };
    Ok((request, encoder))
}

fn refuse_unanswerable(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    if fields.boolean("background")? == Some(true) {
        return Err(fault::unsupported(
            &"background",
            "Responses are not made in the background here; leave it out, or stream.",
        ));
    }
    let cases = [
        (
            "conversation",
            "Conversations are not kept here; use 'previous_response_id'.",
        ),
        (
            "prompt",
            "Prompts are not kept here; send 'instructions' and 'input'.",
        ),
    ];
    for (name, why) in cases {
        if fields.take(name).is_some() {
            return Err(fault::unsupported(&name, why));
        }
    }
    Ok(())
}

fn read_tools(fields: &mut Fields<'_>, extra: &mut Extra) -> Result<Vec<Tool>, BadRequest> {
    let path = Path::Root.field("tools");
    let Some(value) = fields.take("tools") else {
        return Ok(Vec::new());
    };
    let mut tools: Vec<Tool> = Vec::new();
    for (at, value) in array(&path, value, 0, TOOLS_MAX)?.into_iter().enumerate() {
        let path = path.index(at);
        let mut tool = Fields::open(path, value)?;
        match tool.string("type")?.as_deref() {
            Some("function") => {}
            None => return Err(fault::missing(&path.field("type"))),
            Some(other) => {
                return Err(fault::not_one_of(&path.field("type"), other, &["function"]));
            }
        }
        let name = tool.required_name("name", FUNCTION_NAME_BYTES_MAX)?;
        if !is_plain_name(&name) {
            return Err(fault::invalid(&path.field("name"), NAME_PATTERN_HINT));
        }
        if tools.iter().any(|known| known.name == name) {
            let said =
                format_args!("two tools have the name '{}'.", fault::shown(&name)).to_string();
            return Err(fault::invalid(&path.field("name"), said));
        }
        let description = tool.string("description")?;
        let parameters = match tool.take("parameters") {
            None => Value::Object(Map::new()),
            Some(Value::Object(schema)) => Value::Object(schema),
            Some(other) => return Err(tool.wrong_type("parameters", "an object", &other)),
        };
        let mut own = Extra::new();
        own.extend(
            tool.boolean("strict")?
                .map(|strict| ("strict".to_owned(), strict.into())),
        );
        tool.leave_to(extra);
        tools.push(Tool {
            name,
            description,
            parameters,
            extra: own,
        });
    }
    Ok(tools)
}

fn read_tool_choice(fields: &mut Fields<'_>, tools: &[Tool]) -> Result<ToolChoice, BadRequest> {
    let path = Path::Root.field("tool_choice");
    let choice = match fields.take("tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => return Ok(ToolChoice::Auto),
            "none" => return Ok(ToolChoice::None),
            "required" => ToolChoice::Required,
            other => {
                return Err(fault::not_one_of(
                    &path,
                    other,
                    &["none", "auto", "required"],
                ));
            }
        },
        Some(value @ Value::Object(_)) => {
            let mut choice = Fields::open(path, value)?;
            match choice.string("type")?.as_deref() {
                Some("function") => {}
                None => return Err(fault::missing(&path.field("type"))),
                Some(other) => {
                    return Err(fault::not_one_of(&path.field("type"), other, &["function"]));
                }
            }
            let name = choice.required_name("name", FUNCTION_NAME_BYTES_MAX)?;
            if !tools.is_empty() && tools.iter().all(|tool| tool.name != name) {
                let said = format!("'{}' is not in 'tools'.", fault::shown(&name));
                return Err(fault::invalid(&path.field("name"), said));
            }
            ToolChoice::Named(name)
        }
        Some(other) => return Err(fault::wrong_type(&path, "a string or an object", &other)),
    };
    if tools.is_empty() {
        return Err(fault::invalid(
            &path,
            "it may be set only when 'tools' are given.",
        ));
    }
    Ok(choice)
}

/// `text`: the format, and how much is said.
fn read_text(fields: &mut Fields<'_>, extra: &mut Extra) -> Result<OutputFormat, BadRequest> {
    let Some(value) = fields.take("text") else {
        return Ok(OutputFormat::Text);
    };
    let path = Path::Root.field("text");
    let mut text = Fields::open(path, value)?;
    extra.extend(
        text.string("verbosity")?
            .map(|word| ("verbosity".to_owned(), word.into())),
    );
    let format = match text.take("format") {
        None => OutputFormat::Text,
        Some(value) => read_format(path.field("format"), value)?,
    };
    text.leave_to(extra);
    Ok(format)
}

fn read_format(path: Path<'_>, value: Value) -> Result<OutputFormat, BadRequest> {
    let mut format = Fields::open(path, value)?;
    let kind = format.string("type")?;
    match kind.as_deref() {
        None => Err(fault::missing(&path.field("type"))),
        Some("text") => Ok(OutputFormat::Text),
        Some("json_object") => Ok(OutputFormat::JsonObject),
        Some("json_schema") => {
            let name = format.required_name("name", FUNCTION_NAME_BYTES_MAX)?;
            if !is_plain_name(&name) {
                return Err(fault::invalid(&path.field("name"), NAME_PATTERN_HINT));
            }
            let schema = format.required("schema")?;
            if !schema.is_object() {
                return Err(format.wrong_type("schema", "an object", &schema));
            }
            let mut body = json!({"name": name, "schema": schema});
            if let Some(strict) = format.boolean("strict")? {
                body["strict"] = strict.into();
            }
            if let Some(description) = format.string("description")? {
                body["description"] = description.into();
            }
            Ok(OutputFormat::JsonSchema(body))
        }
        Some(other) => Err(fault::not_one_of(
            &path.field("type"),
            other,
            &["text", "json_object", "json_schema"],
        )),
    }
}

/// OpenAI's words for how thoughts are to be summed up.
const SUMMARIES: [&str; 3] = ["auto", "concise", "detailed"];

fn read_reasoning(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Option<Reasoning>, BadRequest> {
    let Some(value) = fields.take("reasoning") else {
        return Ok(None);
    };
    let path = Path::Root.field("reasoning");
    let mut body = Fields::open(path, value)?;
    // A word that a newer model knows and we do not goes on to it as it came.
    let known = body.peek("effort").and_then(Value::as_str);
    let effort = known.and_then(Effort::named);
    match effort {
        Some(_) => drop(body.take("effort")),
        None => match body.peek("effort") {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => return Err(body.wrong_type("effort", "a string", other)),
        },
    }
    let mut is_shown = None;
    for name in ["summary", "generate_summary"] {
        let Some(word) = body.string(name)? else {
            continue;
        };
        if !SUMMARIES.contains(&word.as_str()) {
            return Err(fault::not_one_of(&path.field(name), &word, &SUMMARIES));
        }
        is_shown = Some(true);
        // Which of them was asked for.
        extra.insert(path.field(name).pointer(), word.into());
    }
    body.leave_to(extra);
    Ok(Some(Reasoning {
        effort,
        tokens_max: None,
        is_shown,
    }))
}

/// As chats have it.
fn read_top_p(fields: &mut Fields<'_>) -> Result<Option<f32>, BadRequest> {
    let top_p = fields.decimal("top_p", 0.0..=1.0)?;
    if top_p == Some(0.0) {
        return Err(fault::invalid(
            &"top_p",
            "expected a value above 0 and up to 1. For the likeliest token always, set \
             'temperature' to 0.",
        ));
    }
    Ok(top_p)
}

/// `top_logprobs`, or the word in `include` that asks for none but the drawn tokens'.
fn read_logprobs(fields: &mut Fields<'_>) -> Result<Option<u8>, BadRequest> {
    let best = fields.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    let words = fields.peek("include").and_then(Value::as_array);
    let included = words
        .into_iter()
        .flatten()
        .any(|word| word == "message.output_text.logprobs");
    let best = best.and_then(|best| u8::try_from(best).ok());
    Ok(match best {
        Some(0) | None => included.then_some(0),
        Some(best) => Some(best),
    })
}

/// What goes on as it came, and is repeated in the response.
fn check_hints(fields: &Fields<'_>) -> Result<(), BadRequest> {
    let words = [
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "user",
    ];
    for name in words {
        match fields.peek(name) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => return Err(fields.wrong_type(name, "a string", other)),
        }
    }
    match fields.peek("truncation") {
        None | Some(Value::Null) => {}
        Some(Value::String(word)) if word == "auto" || word == "disabled" => {}
        Some(Value::String(word)) => {
            return Err(fault::not_one_of(
                &"truncation",
                word,
                &["auto", "disabled"],
            ));
        }
        Some(other) => return Err(fields.wrong_type("truncation", "a string", other)),
    }
    match fields.peek("max_tool_calls") {
        None | Some(Value::Null) => {}
        Some(value) if value.is_u64() => {}
        Some(other) => return Err(fields.wrong_type("max_tool_calls", "an integer", other)),
    }
    if let Some(value) = fields.peek("include").filter(|value| !value.is_null()) {
        let path = Path::Root.field("include");
        let words = array(&path, value.clone(), 0, INCLUDE_MAX)?;
        let mut wrong = words.iter().enumerate();
        if let Some((at, word)) = wrong.find(|(_, word)| !word.is_string()) {
            return Err(fault::wrong_type(&path.index(at), "a string", word));
        }
    }
    check_metadata(fields)
}

fn check_metadata(fields: &Fields<'_>) -> Result<(), BadRequest> {
    let path = Path::Root.field("metadata");
    let pairs = match fields.peek("metadata") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(pairs)) => pairs,
        Some(other) => return Err(fault::wrong_type(&path, "an object", other)),
    };
    if pairs.len() > METADATA_MAX {
        return Err(fault::too_many(&path, METADATA_MAX, pairs.len()));
    }
    for (name, value) in pairs {
        let path = path.field(name);
        let Value::String(text) = value else {
            return Err(fault::wrong_type(&path, "a string", value));
        };
        if name.len() > METADATA_NAME_BYTES_MAX {
            return Err(fault::too_long(&path, METADATA_NAME_BYTES_MAX, name.len()));
        }
        if text.len() > METADATA_VALUE_BYTES_MAX {
            return Err(fault::too_long(&path, METADATA_VALUE_BYTES_MAX, text.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
