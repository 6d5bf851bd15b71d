//! Decodes a request, as a server.
//!
//! As for OpenAI's: every known field is checked for type and range and named in the refusal, and
//! what is not known is kept, so that nothing that leaves with the received bytes is hidden from
//! scanning and cache keys. What stands in messages is kept as `leftovers.rs` says, what stands
//! elsewhere in the request's `extra` under its JSON Pointer.

use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Delivery, Dialect, Extra, Message, ModelAlias, Sampling, SourceBody,
    Tokens,
};
use serde_json::Value;

use super::decode_messages::{read_messages, read_system};
use super::decode_settings::{Asked, read_format, read_reasoning};
use super::decode_tools::{read_tool_choice, read_tools};
use super::error_body::THREAD_UNSUPPORTED;
use crate::fields::{Fields, Path, add_unknown, array, bounded};
use crate::request_fault as fault;
use crate::{own_tools, strict_json};

const MODEL_BYTES_MAX: usize = 256;
/// Beyond every model's context.
const OUTPUT_TOKENS_MAX: u32 = 16 << 20;
/// Stop strings are held back from the stream while they may be forming, so they stay short.
const STOP_BYTES_MAX: usize = 1024;

/// Fields by which Anthropic calls on what it keeps or reaches itself.
const PROVIDERS_OWN: [&str; 2] = ["mcp_servers", "container"];

/// What a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Answer,
    /// Its tokens are to be counted, so no bound on the reply is asked for.
    Count,
}

/// Reads a request for a message, and whether its thoughts are to be shown.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub(super) fn decode_request(body: &Bytes) -> Result<(ChatRequest, Asked), BadRequest> {
    read(body, Purpose::Answer)
}

/// Reads a request to count the tokens of a message's prompt.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_count(body: &Bytes) -> Result<ChatRequest, BadRequest> {
    let (request, _) = read(body, Purpose::Count)?;
    match &request.bound_by {
        None => Ok(request),
        // Whoever counts here would count them as nothing.
        Some(place) => Err(fault::unsupported(
            place,
            "Only Anthropic knows how many tokens it comes to.",
        )),
    }
}

fn read(body: &Bytes, purpose: Purpose) -> Result<(ChatRequest, Asked), BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model', 'messages' \
                      and 'max_tokens'."
                .into(),
        });
    }
    let mut fields = Fields::open(Path::Root, value)?;
    let mut extra = Extra::new();
    refuse_thread(&mut fields)?;
    let model = ModelAlias::new(fields.required_name("model", MODEL_BYTES_MAX)?);
    let mut messages: Vec<Message> = read_system(&mut fields)?.into_iter().collect();
    read_messages(&mut fields, &mut messages)?;
    let tools = read_tools(&mut fields, &mut extra)?;
    let (tool_choice, parallel_tool_calls) = read_tool_choice(&mut fields, &tools, &mut extra)?;
    let output_tokens_max = read_output_tokens_max(&mut fields, purpose)?;
    let sampling = read_sampling(&mut fields)?;
    let (format, effort) = read_format(&mut fields, &mut extra)?;
    let (reasoning, asked) = read_reasoning(&mut fields, effort, &mut extra)?;
    let delivery = read_delivery(&mut fields)?;
    if let Some(other) = fields.peek("metadata")
        && !(other.is_object() || other.is_null())
    {
        return Err(fields.wrong_type("metadata", "an object", other));
    }
    add_unknown(fields, &mut extra)?;
    let request = ChatRequest {
        bound_by: own_tools::bound_by(&extra, &PROVIDERS_OWN),
        betas: Vec::new(),
        tools,
        tool_choice,
        parallel_tool_calls,
        sampling,
        format,
        output_tokens_max,
        reasoning,
        delivery,
        extra,
        dialect: Dialect::Anthropic,
        source: Some(SourceBody {
            dialect: Dialect::Anthropic,
            bytes: body.clone(),
        }),
        ..ChatRequest::new(model.as_str(), messages)
    };
    Ok((request, asked))
}

/// The beta "Threads", where the server holds the conversation and later requests bring what is new
/// alone. None is held here, and the first turn must say so: after it the SDK's tool runner sends results
/// without their calls. It goes on without threads when it reads this code (type
/// `ThreadUnsupportedRequestError` of anthropic-sdk-python 2.10.0, read 2026-11).
fn refuse_thread(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    if fields.take("thread").is_none() {
        return Ok(());
    }
    let words = "Unsupported parameter: 'thread'. No conversation is kept here; send all of it, without \
                 'thread'.";
    Err(BadRequest::at("thread", words).with_code(THREAD_UNSUPPORTED))
}

fn read_output_tokens_max(
    fields: &mut Fields<'_>,
    purpose: Purpose,
) -> Result<Option<Tokens>, BadRequest> {
    let bound = fields.count("max_tokens", 1..=OUTPUT_TOKENS_MAX)?;
    if bound.is_none() && purpose == Purpose::Answer {
        return Err(fault::missing(&Path::Root.field("max_tokens")));
    }
    Ok(bound.map(Tokens))
}

fn read_sampling(fields: &mut Fields<'_>) -> Result<Sampling, BadRequest> {
    let temperature = fields.decimal("temperature", 0.0..=1.0)?;
    let top_p = fields.decimal("top_p", 0.0..=1.0)?;
    let top_k = fields.count("top_k", 0..=u32::MAX)?;
    // A nucleus of nothing is the likeliest token alone.
    let is_greedy = top_p == Some(0.0);
    Ok(Sampling {
        temperature,
        top_p: top_p.filter(|_| !is_greedy),
        top_k: if is_greedy { Some(1) } else { top_k },
        stop: read_stops(fields)?,
        ..Sampling::default()
    })
}

fn read_stops(fields: &mut Fields<'_>) -> Result<Vec<String>, BadRequest> {
    let path = Path::Root.field("stop_sequences");
    let Some(value) = fields.take("stop_sequences") else {
        return Ok(Vec::new());
    };
    let stops = array(&path, value, 0, Sampling::STOPS_MAX)?.into_iter();
    let stops = stops.enumerate().map(|(at, stop)| match stop {
        Value::String(stop) => bounded(&path.index(at), stop, STOP_BYTES_MAX),
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    stops.collect()
}

fn read_delivery(fields: &mut Fields<'_>) -> Result<Delivery, BadRequest> {
    let is_streamed = fields.boolean("stream")?.unwrap_or(false);
    Ok(if is_streamed {
        Delivery::Streamed {
            includes_usage: true,
        }
    } else {
        Delivery::Whole
    })
}

#[cfg(test)]
mod tests;
