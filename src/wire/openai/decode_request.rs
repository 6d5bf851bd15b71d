//! Decodes a request, as a server.
//!
//! Strict where we interpret, silent where we do not: every known field is checked for type and
//! range and named in the refusal; unknown ones go to `extra`, and with the received bytes to an
//! upstream. Unknown fields in places where `domain` has no room for any (content parts, tool
//! calls) also go to the request's `extra`, under their JSON Pointer (`/messages/0/content/1/x`),
//! so that nothing that leaves with the received bytes is hidden from scanning and cache keys.

use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Delivery, Dialect, Effort, Extra, ModelAlias, Prediction, Reasoning,
    Sampling, SourceBody, Tokens,
};
use serde_json::Value;

use super::decode_format::{Origin, read_format};
use super::decode_messages::{PARTS_MAX, read_messages};
use super::decode_open_sampling::read_open_sampling;
use super::decode_tools::{read_tool_choice, read_tools};
use super::reply_shape::TOP_LOGPROBS_MAX;
use super::request_body::NEWER_OUTPUT_BOUND;
use crate::fields::{Fields, Path, add_unknown, array, bounded, decimal};
use crate::request_fault as fault;
use crate::{own_tools, strict_json};

pub(crate) const MODEL_BYTES_MAX: usize = 256;
/// OpenAI's bound on `n`.
pub(crate) const CHOICES_MAX: u32 = 128;
/// Beyond every model's context.
pub(crate) const OUTPUT_TOKENS_MAX: u32 = 16 << 20;
/// Stop strings are held back from the stream while they may be forming, so they stay short.
const STOP_BYTES_MAX: usize = 1024;
/// OpenAI's bound on `stop`.
const STOPS_MAX: usize = 4;
const LOGIT_BIAS_MAX: usize = 1024;
/// Beyond every vocabulary.
pub(super) const TOKEN_ID_MAX: u32 = 16 << 20;

/// Reads a chat completions request.
///
/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub fn decode_request(body: &Bytes) -> Result<ChatRequest, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model' and \
                      'messages'."
                .into(),
        });
    }
    let fields = Fields::open(Path::Root, value)?;
    if !fields.has("model") {
        return Err(fault::missing(&Path::Root.field("model")));
    }
    read_chat(fields, body)
}

/// The model that is asked; without a word, the one on this machine.
pub(super) fn read_model(fields: &mut Fields<'_>) -> Result<ModelAlias, BadRequest> {
    if !fields.has("model") {
        return Ok(ModelAlias::new("local"));
    }
    let name = fields.required_name("model", MODEL_BYTES_MAX)?;
    Ok(ModelAlias::new(name))
}

/// Reads a chat, whose model may be left out.
pub(super) fn read_chat(mut fields: Fields<'_>, body: &Bytes) -> Result<ChatRequest, BadRequest> {
    let mut extra = Extra::new();
    refuse_unanswerable(&mut fields)?;
    let model = read_model(&mut fields)?;
    let messages = read_messages(&mut fields, &mut extra)?;
    let tools = read_tools(&mut fields, &mut extra)?;
    let tool_choice = read_tool_choice(&mut fields, &tools, &mut extra)?;
    let parallel_tool_calls = fields.boolean("parallel_tool_calls")?;
    let sampling = read_sampling(&mut fields)?;
    let (format, origin) = read_format(&mut fields, &mut extra)?;
    let output_tokens_max = read_output_tokens_max(&mut fields, &mut extra)?;
    let prediction = read_prediction(&mut fields, &mut extra)?;
    let reasoning = read_reasoning(&mut fields)?;
    let choices = fields.count("n", 1..=CHOICES_MAX)?.unwrap_or(1);
    let delivery = read_delivery(&mut fields, &mut extra)?;
    add_unknown(fields, &mut extra)?;
    Ok(ChatRequest {
        bound_by: own_tools::bound_by(&extra, &["web_search_options"]),
        betas: Vec::new(),
        model,
        messages,
        tools,
        tool_choice,
        parallel_tool_calls,
        sampling,
        format,
        output_tokens_max,
        prediction,
        reasoning,
        choices,
        delivery,
        extra,
        dialect: Dialect::OpenAi,
        // Another server's words for a format are not for every upstream, so they are written anew.
        source: (origin == Origin::OpenAi).then(|| SourceBody {
            dialect: Dialect::OpenAi,
            bytes: body.clone(),
        }),
    })
}

/// `reasoning_effort`; a word that a newer model knows and we do not goes on to it as it came.
fn read_reasoning(fields: &mut Fields<'_>) -> Result<Option<Reasoning>, BadRequest> {
    let known = fields.peek("reasoning_effort").and_then(Value::as_str);
    let Some(effort) = known.and_then(Effort::named) else {
        return Ok(None);
    };
    fields.take("reasoning_effort");
    Ok(Some(Reasoning {
        effort: Some(effort),
        ..Reasoning::default()
    }))
}

/// Fields whose replies could not be passed on: better refused than answered in part.
fn refuse_unanswerable(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    for (name, newer) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.take(name).is_some() {
            return Err(fault::unsupported(
                &Path::Root.field(name),
                &format!("It is OpenAI's older form; use '{newer}' instead."),
            ));
        }
    }
    let path = Path::Root.field("modalities");
    if let Some(modalities) = fields.take("modalities") {
        for (at, modality) in array(&path, modalities, 0, 8)?.iter().enumerate() {
            match modality.as_str() {
                Some("text") => {}
                Some(other) => {
                    return Err(fault::not_one_of(&path.index(at), other, &["text"]));
                }
                None => return Err(fault::wrong_type(&path.index(at), "a string", modality)),
            }
        }
    }
    Ok(())
}

fn read_sampling(fields: &mut Fields<'_>) -> Result<Sampling, BadRequest> {
    Ok(Sampling {
        logprobs: read_logprobs(fields)?,
        ..read_drawing(fields)?
    })
}

/// How tokens are drawn, without the log probabilities, which other endpoints ask for otherwise.
pub(crate) fn read_drawing(fields: &mut Fields<'_>) -> Result<Sampling, BadRequest> {
    Ok(Sampling {
        temperature: fields.decimal("temperature", 0.0..=2.0)?,
        top_p: read_top_p(fields)?,
        top_k: read_top_k(fields)?,
        min_p: fields.decimal("min_p", 0.0..=1.0)?,
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?,
        stop: read_stop(fields)?,
        frequency_penalty: fields.decimal("frequency_penalty", -2.0..=2.0)?,
        presence_penalty: fields.decimal("presence_penalty", -2.0..=2.0)?,
        logit_bias: read_logit_bias(fields)?,
        logprobs: None,
        open: read_open_sampling(fields)?,
    })
}

fn read_top_p(fields: &mut Fields<'_>) -> Result<Option<f32>, BadRequest> {
    let top_p = fields.decimal("top_p", 0.0..=1.0)?;
    if top_p == Some(0.0) {
        return Err(fault::invalid(
            &Path::Root.field("top_p"),
            "expected a value above 0 and up to 1. For the likeliest token always, set \
             'temperature' to 0.",
        ));
    }
    Ok(top_p)
}

/// vLLM writes -1, llama.cpp 0 for "all tokens"; here 0 is.
fn read_top_k(fields: &mut Fields<'_>) -> Result<Option<u32>, BadRequest> {
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(top_k.map(|top_k| u32::try_from(top_k).unwrap_or(0)))
}

fn read_stop(fields: &mut Fields<'_>) -> Result<Vec<String>, BadRequest> {
    let path = Path::Root.field("stop");
    match fields.take("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![bounded(&path, stop, STOP_BYTES_MAX)?]),
        Some(Value::Array(items)) if items.len() > STOPS_MAX => {
            Err(fault::too_many(&path, STOPS_MAX, items.len()))
        }
        Some(Value::Array(items)) => items
            .into_iter()
            .enumerate()
            .map(|(at, item)| match item {
                Value::String(stop) => bounded(&path.index(at), stop, STOP_BYTES_MAX),
                other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
            })
            .collect(),
        Some(other) => Err(fault::wrong_type(
            &path,
            "a string or an array of strings",
            &other,
        )),
    }
}

fn read_logit_bias(fields: &mut Fields<'_>) -> Result<Vec<(u32, f32)>, BadRequest> {
    let path = Path::Root.field("logit_bias");
    let Some(value) = fields.take("logit_bias") else {
        return Ok(Vec::new());
    };
    let Value::Object(map) = value else {
        return Err(fault::wrong_type(&path, "an object", &value));
    };
    if map.len() > LOGIT_BIAS_MAX {
        return Err(fault::too_many(&path, LOGIT_BIAS_MAX, map.len()));
    }
    map.iter()
        .map(|(token, bias)| {
            let at = path.field(token);
            let id = token.parse().ok().filter(|id| *id <= TOKEN_ID_MAX);
            let Some(id) = id else {
                return Err(fault::invalid(
                    &at,
                    "names in this object must be token ids, as \"50256\".",
                ));
            };
            Ok((id, decimal(&at, bias, -100.0..=100.0)?))
        })
        .collect()
}

pub(crate) fn read_logprobs(fields: &mut Fields<'_>) -> Result<Option<u8>, BadRequest> {
    let is_asked = fields.boolean("logprobs")?.unwrap_or(false);
    let best = fields.count("top_logprobs", 0..=TOP_LOGPROBS_MAX)?;
    match best {
        Some(_) if !is_asked => Err(fault::invalid(
            &Path::Root.field("top_logprobs"),
            "it may be set only when 'logprobs' is true.",
        )),
        _ if !is_asked => Ok(None),
        best => Ok(Some(
            best.and_then(|best| u8::try_from(best).ok()).unwrap_or(0),
        )),
    }
}

pub(crate) const NAME_PATTERN_HINT: &str =
    "expected a string that matches the pattern '^[a-zA-Z0-9_-]{1,64}$'.";

/// The characters that OpenAI takes in the names of functions and schemas.
pub(crate) fn is_plain_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn read_output_tokens_max(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Option<Tokens>, BadRequest> {
    let older = fields.count("max_tokens", 1..=OUTPUT_TOKENS_MAX)?;
    let newer = fields.count("max_completion_tokens", 1..=OUTPUT_TOKENS_MAX)?;
    if let (Some(older), Some(newer)) = (older, newer)
        && older != newer
    {
        return Err(fault::invalid(
            &Path::Root.field("max_tokens"),
            "it differs from 'max_completion_tokens'. Set only 'max_completion_tokens'.",
        ));
    }
    extra.extend(newer.map(|newer| (NEWER_OUTPUT_BOUND.to_owned(), newer.into())));
    Ok(newer.or(older).map(Tokens))
}

/// OpenAI's predicted output: `{"type": "content", "content": …}`, a text or text parts.
fn read_prediction(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Option<Prediction>, BadRequest> {
    let Some(value) = fields.take("prediction") else {
        return Ok(None);
    };
    let path = Path::Root.field("prediction");
    let mut body = Fields::open(path, value)?;
    read_kind(&mut body, "content")?;
    let content_path = path.field("content");
    let content = match body.required("content")? {
        Value::String(text) => vec![text],
        Value::Array(parts) => array(&content_path, Value::Array(parts), 1, PARTS_MAX)?
            .into_iter()
            .enumerate()
            .map(|(at, part)| read_predicted_part(content_path.index(at), part, extra))
            .collect::<Result<_, _>>()?,
        other => {
            return Err(body.wrong_type("content", "a string or an array of text parts", &other));
        }
    };
    body.leave_to(extra);
    Ok(Some(Prediction { content }))
}

fn read_predicted_part(
    path: Path<'_>,
    value: Value,
    extra: &mut Extra,
) -> Result<String, BadRequest> {
    let mut part = Fields::open(path, value)?;
    read_kind(&mut part, "text")?;
    let text = part
        .string("text")?
        .ok_or_else(|| fault::missing(&path.field("text")))?;
    part.leave_to(extra);
    Ok(text)
}

/// Takes `type`, which must be there and say `kind`.
fn read_kind(fields: &mut Fields<'_>, kind: &str) -> Result<(), BadRequest> {
    let path = fields.path;
    let path = path.field("type");
    match fields.string("type")? {
        None => Err(fault::missing(&path)),
        Some(said) if said == kind => Ok(()),
        Some(other) => Err(fault::not_one_of(&path, &other, &[kind])),
    }
}

pub(crate) fn read_delivery(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Delivery, BadRequest> {
    let is_streamed = fields.boolean("stream")?.unwrap_or(false);
    let path = Path::Root.field("stream_options");
    let Some(value) = fields.take("stream_options") else {
        return Ok(if is_streamed {
            Delivery::Streamed {
                includes_usage: false,
            }
        } else {
            Delivery::Whole
        });
    };
    if !is_streamed {
        return Err(fault::invalid(
            &path,
            "it may be set only when 'stream' is true.",
        ));
    }
    let mut options = Fields::open(path, value)?;
    let includes_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.leave_to(extra);
    Ok(Delivery::Streamed { includes_usage })
}

#[cfg(test)]
mod tests;
