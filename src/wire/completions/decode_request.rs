//! Decodes a request, as a server.

use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Dialect, Extra, Message, ModelAlias, Role, Sampling, SourceBody,
    Tokens,
};
use serde_json::Value;

use crate::fields::{Fields, Path, add_unknown};
use crate::openai::{
    CHOICES_MAX, MODEL_BYTES_MAX, NEWER_OUTPUT_BOUND, OUTPUT_TOKENS_MAX, Origin, read_delivery,
    read_drawing, read_format,
};
use crate::request_fault as fault;
use crate::strict_json;

/// OpenAI's own default, which is short.
const OUTPUT_TOKENS_DEFAULT: u32 = 16;
/// OpenAI's bound on `logprobs`.
pub(super) const LOGPROBS_MAX: u32 = 5;

/// A request, and what only its answer needs.
#[derive(Debug)]
pub(super) struct Asked {
    pub request: ChatRequest,
    /// The reply begins with the prompt.
    pub echoes: bool,
}

/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub(super) fn decode_request(body: &Bytes) -> Result<Asked, BadRequest> {
    let value = strict_json::parse(body)?;
    if !value.is_object() {
        return Err(BadRequest {
            param: None,
            code: Some("invalid_type".into()),
            message: "Invalid type for the body: expected a JSON object with 'model' and 'prompt'."
                .into(),
        });
    }
    let mut fields = Fields::open(Path::Root, value)?;
    let model = ModelAlias::new(fields.required_name("model", MODEL_BYTES_MAX)?);
    let prompt = read_prompt(fields.required("prompt")?)?;
    refuse_unanswerable(&mut fields)?;
    let echoes = fields.boolean("echo")?.unwrap_or(false);
    let choices = fields.count("n", 1..=CHOICES_MAX)?.unwrap_or(1);
    let best_of = fields.count("best_of", 1..=CHOICES_MAX)?;
    if best_of.is_some_and(|best_of| best_of != choices) {
        return Err(fault::unsupported(
            &Path::Root.field("best_of"),
            "No choices are made in vain here; leave it out, or set it to what 'n' is.",
        ));
    }
    let logprobs = fields.count("logprobs", 0..=LOGPROBS_MAX)?;
    if echoes && logprobs.is_some() {
        return Err(fault::unsupported(
            &Path::Root.field("logprobs"),
            "Along with 'echo' it asks for those of the prompt, which are not computed here.",
        ));
    }
    let sampling = Sampling {
        logprobs: logprobs.and_then(|best| u8::try_from(best).ok()),
        ..read_drawing(&mut fields)?
    };
    let output = fields.count("max_tokens", 1..=OUTPUT_TOKENS_MAX)?;
    let mut extra = Extra::new();
    let (format, origin) = read_format(&mut fields, &mut extra)?;
    let delivery = read_delivery(&mut fields, &mut extra)?;
    add_unknown(fields, &mut extra)?;
    let mut request = ChatRequest::new(model, vec![Message::new(Role::User, prompt)]);
    request.sampling = sampling;
    request.format = format;
    request.output_tokens_max = Some(Tokens(output.unwrap_or(OUTPUT_TOKENS_DEFAULT)));
    request.choices = choices;
    request.delivery = delivery;
    request.extra = extra;
    request.dialect = Dialect::Completions;
    // Another server's words for a format are not for every upstream, so they are written anew.
    request.source = (origin == Origin::OpenAi).then(|| SourceBody {
        dialect: Dialect::Completions,
        bytes: body.clone(),
    });
    Ok(Asked { request, echoes })
}

/// One text, bare or as the only one of a list, which is how some clients write it always.
fn read_prompt(value: Value) -> Result<String, BadRequest> {
    let path = Path::Root.field("prompt");
    let text = match value {
        Value::String(text) => text,
        Value::Array(mut items) => match (items.pop(), items.is_empty()) {
            (None, _) => return Err(fault::empty_array(&path)),
            (Some(Value::String(text)), true) => text,
            (Some(Value::Number(_) | Value::Array(_)), _) => {
                return Err(fault::unsupported(
                    &path,
                    "Prompts of tokens are not taken; send the text. POST /detokenize gives the \
                     text of a local model's tokens.",
                ));
            }
            (Some(Value::String(_)), false) => {
                return Err(fault::unsupported(
                    &path,
                    "One prompt is taken at a time; ask once for each.",
                ));
            }
            (Some(other), _) => {
                let at = path.index(items.len());
                return Err(fault::wrong_type(&at, "a string", &other));
            }
        },
        other => return Err(fault::wrong_type(&path, "a string", &other)),
    };
    if text.is_empty() {
        return Err(fault::empty_string(&path));
    }
    Ok(text)
}

fn refuse_unanswerable(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    let suffix = fields.string("suffix")?;
    if suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(fault::unsupported(
            &Path::Root.field("suffix"),
            "Text is only added at the prompt's end; write what the model needs to know into the \
             prompt.",
        ));
    }
    if fields.take(NEWER_OUTPUT_BOUND).is_some() {
        return Err(fault::unsupported(
            &Path::Root.field(NEWER_OUTPUT_BOUND),
            "Here it is called 'max_tokens'.",
        ));
    }
    Ok(())
}
