//! Decodes a request, as a server.
//!
//! Strict where we interpret, silent where we do not, as the chat dialect is: unknown fields go to
//! `extra`, and with the received bytes to an upstream of this dialect.

use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Delivery, Dialect, Effort, Extra, Message, OutputFormat, Reasoning,
    Role, Sampling, SourceBody, Tokens, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::decode_items::read_input;
use super::encode_reply::{Echo, Encoder};
use crate::fields::{Fields, Path, array, few_unknown};
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

/// Reads a request for a response.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_request(body: &Bytes) -> Result<(ChatRequest, Encoder), BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model' and 'input'."
                .into(),
        });
    }
    let input = input_items(&value["input"]);
    let mut fields = Fields::open(Path::Root, value)?;
    refuse_unanswerable(&mut fields)?;
    let mut extra = Extra::new();
    let model = fields.required_name("model", MODEL_BYTES_MAX)?;
    let instructions = fields.string("instructions")?;
    let mut messages = Vec::new();
    messages.extend(
        instructions
            .iter()
            .map(|text| Message::new(Role::Developer, text)),
    );
    messages.extend(read_input(&mut fields, &mut extra)?);
    let mut echo = Echo::new(&fields, instructions);
    let tools = read_tools(&mut fields, &mut extra)?;
    let tool_choice = read_tool_choice(&mut fields, &tools)?;
    let parallel_tool_calls = fields.boolean("parallel_tool_calls")?;
    let format = read_text(&mut fields, &mut extra)?;
    let reasoning = read_reasoning(&mut fields, &mut extra)?;
    let output_tokens_max = fields.count("max_output_tokens", 1..=OUTPUT_TOKENS_MAX)?;
    let sampling = Sampling {
        temperature: fields.decimal("temperature", 0.0..=2.0)?,
        top_p: fields
            .decimal("top_p", 0.0..=1.0)?
            .filter(|top_p| *top_p > 0.0),
        logprobs: read_logprobs(&mut fields)?,
        ..Sampling::default()
    };
    let previous = match fields.has("previous_response_id") {
        true => Some(fields.required_name("previous_response_id", ID_BYTES_MAX)?),
        false => None,
    };
    let stores = fields.boolean("store")?.unwrap_or(true);
    check_metadata(&fields)?;
    let is_streamed = fields.boolean("stream")?.unwrap_or(false);
    // Only says whether events are padded, which they are not.
    fields.take("stream_options");
    for name in [
        "background",
        "conversation",
        "prompt",
        "previous_response_id",
    ] {
        fields.take(name);
    }
    add_unknown(fields, &mut extra)?;
    echo.stores = stores;
    echo.previous = previous;
    let encoder = Encoder::new(&model, input, echo);
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
        source: Some(SourceBody {
            dialect: Dialect::Responses,
            bytes: body.clone(),
        }),
        ..ChatRequest::new(model.as_str(), messages)
    };
    Ok((request, encoder))
}

/// What a list of input items shows: items as they came, a text as the message it stands for.
fn input_items(input: &Value) -> Vec<Value> {
    match input {
        Value::String(text) => vec![json!({
            "type": "message", "role": "user",
            "content": [{"type": "input_text", "text": text}],
        })],
        Value::Array(items) => items
            .iter()
            .map(|item| {
                let mut item = item.clone();
                if let Value::Object(fields) = &mut item {
                    fields.entry("type").or_insert_with(|| "message".into());
                    if let Some(Value::String(text)) = fields.get("content") {
                        let is_own = fields.get("role") == Some(&json!("assistant"));
                        let kind = if is_own { "output_text" } else { "input_text" };
                        let parts = json!([{"type": kind, "text": text}]);
                        fields.insert("content".into(), parts);
                    }
                }
                item
            })
            .collect(),
        _ => Vec::new(),
    }
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

fn read_reasoning(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Option<Reasoning>, BadRequest> {
    let Some(value) = fields.take("reasoning") else {
        return Ok(None);
    };
    let path = Path::Root.field("reasoning");
    let mut body = Fields::open(path, value)?;
    let effort = match body.string("effort")? {
        None => None,
        Some(word) => Some(Effort::named(&word).ok_or_else(|| {
            fault::not_one_of(
                &path.field("effort"),
                &word,
                &Effort::ALL.map(Effort::as_label),
            )
        })?),
    };
    let summary = body.string("summary")?.or(body.string("generate_summary")?);
    body.leave_to(extra);
    Ok(Some(Reasoning {
        effort,
        tokens_max: None,
        is_shown: summary.map(|_| true),
    }))
}

/// `top_logprobs`, or the word in `include` that asks for none but the drawn tokens'.
fn read_logprobs(fields: &mut Fields<'_>) -> Result<Option<u8>, BadRequest> {
    let best = fields.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    let path = Path::Root.field("include");
    let included = match fields.peek("include") {
        None | Some(Value::Null) => false,
        Some(value) => array(&path, value.clone(), 0, 32)?
            .iter()
            .any(|word| word == "message.output_text.logprobs"),
    };
    let best = best.and_then(|best| u8::try_from(best).ok());
    Ok(match best {
        Some(0) | None => included.then_some(0),
        Some(best) => Some(best),
    })
}

fn check_metadata(fields: &Fields<'_>) -> Result<(), BadRequest> {
    let path = Path::Root.field("metadata");
    match fields.peek("metadata") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(pairs)) if pairs.len() > METADATA_MAX => {
            Err(fault::too_many(&path, METADATA_MAX, pairs.len()))
        }
        Some(Value::Object(pairs)) => match pairs.iter().find(|(_, value)| !value.is_string()) {
            None => Ok(()),
            Some((name, value)) => Err(fault::wrong_type(&path.field(name), "a string", value)),
        },
        Some(other) => Err(fault::wrong_type(&path, "an object", other)),
    }
}

fn add_unknown(fields: Fields<'_>, extra: &mut Extra) -> Result<(), BadRequest> {
    let unknown = few_unknown(fields)?;
    extra.extend(unknown.into_iter().filter(|(_, value)| !value.is_null()));
    Ok(())
}

#[cfg(test)]
mod tests;
