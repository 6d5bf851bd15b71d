//! What chats and prompts have in common.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Delivery, Dialect, Effort, Extra, Image, Message, ModelAlias,
    OutputFormat, Reasoning, Sampling, Tokens,
};
use serde_json::{Value, json};

use crate::fields::{Fields, Path, add_unknown, array, bounded};
use crate::openai::{MODEL_BYTES_MAX, OUTPUT_TOKENS_MAX, read_logprobs, read_open_sampling};
use crate::request_fault as fault;
use crate::strict_json;

const STOP_BYTES_MAX: usize = 1024;
/// Images of one message.
const IMAGES_MAX: usize = 64;
/// Base64 letters that show which kind of image it is.
const MAGIC_LETTERS: usize = 16;

/// A request, and what only its answer needs.
#[derive(Debug)]
pub(super) struct Asked {
    pub request: ChatRequest,
    pub shows_thoughts: bool,
    /// No reply is asked for, but that the model be loaded. The request has a message all the same.
    pub only_loads: bool,
}

pub(super) fn open(body: &Bytes) -> Result<Fields<'static>, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model'.".into(),
        });
    }
    Fields::open(Path::Root, value)
}

pub(super) fn read_model(fields: &mut Fields<'_>) -> Result<ModelAlias, BadRequest> {
    let name = fields.required_name("model", MODEL_BYTES_MAX)?;
    Ok(ModelAlias::new(name))
}

/// Reads all that is left, around `messages`. Without any it is a request to load the model.
pub(super) fn finish(
    mut fields: Fields<'_>,
    model: ModelAlias,
    mut messages: Vec<Message>,
    mut extra: Extra,
) -> Result<Asked, BadRequest> {
    let only_loads = messages.is_empty();
    let unloads = read_keep_alive(&mut fields)?;
    if only_loads && unloads {
        return Err(fault::unsupported(
            &Path::Root.field("keep_alive"),
            "Models are unloaded once they are idle for as long as the operator of this server \
             says; a request cannot do it.",
        ));
    }
    if only_loads {
        messages.push(Message::new(domain::Role::User, ""));
    }
    let (reasoning, shows_thoughts) = read_think(&mut fields)?;
    let format = read_format(&mut fields)?;
    let is_streamed = fields.boolean("stream")?.unwrap_or(true);
    for name in ["truncate", "shift"] {
        fields.boolean(name)?;
    }
    if fields.boolean("_debug_render_only")? == Some(true) {
        return Err(fault::unsupported(
            &Path::Root.field("_debug_render_only"),
            "POST /apply-template shows what a chat becomes.",
        ));
    }
    let logprobs = read_logprobs(&mut fields)?;
    let (sampling, output_tokens_max) = read_options(&mut fields, &mut extra)?;
    add_unknown(fields, &mut extra)?;
    let mut request = ChatRequest::new(model, messages);
    request.sampling = Sampling {
        logprobs,
        ..sampling
    };
    request.format = format;
    request.output_tokens_max = output_tokens_max;
    request.reasoning = reasoning;
    request.delivery = if is_streamed {
        Delivery::Streamed {
            includes_usage: true,
        }
    } else {
        Delivery::Whole
    };
    request.extra = extra;
    request.dialect = Dialect::Ollama;
    Ok(Asked {
        request,
        shows_thoughts,
        only_loads,
    })
}

/// True where it says that the model is to go at once.
pub(super) fn read_keep_alive(fields: &mut Fields<'_>) -> Result<bool, BadRequest> {
    match fields.take("keep_alive") {
        None => Ok(false),
        Some(Value::Number(number)) => Ok(number.as_f64() == Some(0.0)),
        Some(Value::String(text)) => {
            let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
            let is_zero = !text.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
            if has_digits {
                Ok(is_zero)
            } else {
                Err(fault::invalid(
                    &Path::Root.field("keep_alive"),
                    "expected a duration, as \"5m\", or seconds.",
                ))
            }
        }
        Some(other) => Err(fields.wrong_type("keep_alive", "a string or a number", &other)),
    }
}

const THINK_WORDS: [&str; 4] = ["low", "medium", "high", "max"];

/// The reasoning asked for, and whether thoughts are told.
fn read_think(fields: &mut Fields<'_>) -> Result<(Option<Reasoning>, bool), BadRequest> {
    let reasoning = |effort, is_shown| {
        let reasoning = Reasoning {
            effort,
            tokens_max: None,
            is_shown: Some(is_shown),
        };
        Ok((Some(reasoning), is_shown))
    };
    match fields.take("think") {
        None => Ok((None, true)),
        Some(Value::Bool(true)) => reasoning(None, true),
        Some(Value::Bool(false)) => reasoning(Some(Effort::None), false),
        Some(Value::String(word)) => {
            let effort = match word.as_str() {
                "low" => Effort::Low,
                "medium" => Effort::Medium,
                "high" => Effort::High,
                "max" => Effort::XHigh,
                other => {
                    let path = Path::Root.field("think");
                    return Err(fault::not_one_of(&path, other, &THINK_WORDS));
                }
            };
            reasoning(Some(effort), true)
        }
        Some(other) => Err(fields.wrong_type("think", "a boolean or a string", &other)),
    }
}

fn read_format(fields: &mut Fields<'_>) -> Result<OutputFormat, BadRequest> {
    match fields.take("format") {
        None => Ok(OutputFormat::Text),
        Some(Value::String(word)) => match word.as_str() {
            "" => Ok(OutputFormat::Text),
            "json" => Ok(OutputFormat::JsonObject),
            other => {
                let path = Path::Root.field("format");
                Err(fault::not_one_of(&path, other, &["json"]))
            }
        },
        // Not `strict`: providers that have the word take few schemas with it.
        Some(schema @ Value::Object(_)) => Ok(OutputFormat::JsonSchema(json!({
            "name": "format", "schema": schema,
        }))),
        Some(other) => Err(fields.wrong_type("format", "\"json\" or a JSON schema", &other)),
    }
}

/// `options`, and the bound on the reply, which is one of them.
fn read_options(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<(Sampling, Option<Tokens>), BadRequest> {
    let Some(value) = fields.take("options") else {
        return Ok((Sampling::default(), None));
    };
    let mut options = Fields::open(Path::Root.field("options"), value)?;
    let open = read_open_sampling(&options)?;
    let temperature = options.decimal("temperature", 0.0..=2.0)?;
    let top_p = options.decimal("top_p", 0.0..=1.0)?;
    if top_p == Some(0.0) {
        return Err(fault::invalid(
            &options.path.field("top_p"),
            "expected a value above 0 and up to 1. For the likeliest token always, set \
             'temperature' to 0.",
        ));
    }
    let top_k = options.integer("top_k", -1..=i64::from(u32::MAX))?;
    let min_p = options.decimal("min_p", 0.0..=1.0)?;
    let seed = options.integer("seed", i64::MIN..=i64::MAX)?;
    let frequency_penalty = options.decimal("frequency_penalty", -2.0..=2.0)?;
    let presence_penalty = options.decimal("presence_penalty", -2.0..=2.0)?;
    let stop = read_stop(&mut options)?;
    let output = options.integer("num_predict", -2..=i64::from(OUTPUT_TOKENS_MAX))?;
    options.leave_to(extra);
    let sampling = Sampling {
        temperature,
        top_p,
        top_k: top_k.map(|top_k| u32::try_from(top_k).unwrap_or(0)),
        min_p,
        seed: seed.filter(|seed| *seed >= 0),
        stop,
        frequency_penalty,
        presence_penalty,
        logit_bias: Vec::new(),
        logprobs: None,
        open,
    };
    let output = output.and_then(|tokens| u32::try_from(tokens).ok());
    Ok((sampling, output.filter(|tokens| *tokens > 0).map(Tokens)))
}

fn read_stop(options: &mut Fields<'_>) -> Result<Vec<String>, BadRequest> {
    let Some(value) = options.take("stop") else {
        return Ok(Vec::new());
    };
    let path = options.path;
    let path = path.field("stop");
    let items = match value {
        Value::String(stop) => vec![Value::String(stop)],
        other => array(&path, other, 0, Sampling::STOPS_MAX)?,
    };
    let read = items.into_iter().enumerate().map(|(at, item)| match item {
        Value::String(stop) => bounded(&path.index(at), stop, STOP_BYTES_MAX),
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    read.collect()
}

/// `images`, each a file in base64 without a word of what it is.
pub(super) fn read_images(fields: &mut Fields<'_>) -> Result<Vec<Image>, BadRequest> {
    let Some(value) = fields.take("images") else {
        return Ok(Vec::new());
    };
    let path = fields.path;
    let path = path.field("images");
    let items = array(&path, value, 0, IMAGES_MAX)?.into_iter().enumerate();
    let read = items.map(|(at, item)| match item {
        Value::String(data) => read_image(&path.index(at), &data),
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    read.collect()
}

fn read_image(path: &Path<'_>, data: &str) -> Result<Image, BadRequest> {
    if STANDARD.decode(data).is_err() {
        return Err(fault::invalid(
            path,
            "expected an image file in base64, padded, and without a `data:` prefix.",
        ));
    }
    let kind = data
        .get(..MAGIC_LETTERS)
        .and_then(kind_of)
        .ok_or_else(|| fault::invalid(path, "the file is none of PNG, JPEG, GIF, WebP and BMP."))?;
    Ok(Image {
        url: format!("data:image/{kind};base64,{data}"),
        detail: None,
    })
}

/// By the first bytes: PNG's section 5.2, JPEG's SOI, GIF's header, RIFF with WEBP, and BM.
fn kind_of(letters: &str) -> Option<&'static str> {
    let begin = STANDARD.decode(letters).ok()?;
    let is_webp = begin.starts_with(b"RIFF") && begin.get(8..12) == Some(b"WEBP");
    match begin.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [0xff, 0xd8, 0xff, ..] => Some("jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("gif"),
        [b'B', b'M', ..] => Some("bmp"),
        _ if is_webp => Some("webp"),
        _ => None,
    }
}
