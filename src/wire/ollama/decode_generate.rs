//! Decodes `POST /api/generate`: one prompt, in a chat of its own or raw.

use bytes::Bytes;
use domain::{BadRequest, Dialect, Extra, Message, Part, Role};
use serde_json::Value;

use super::decode_shared::{Asked, finish, open, read_images, read_model};
use crate::fields::{Fields, Path};
use crate::request_fault as fault;

/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub(super) fn decode_generate(body: &Bytes) -> Result<Asked, BadRequest> {
    let mut fields = open(body)?;
    let model = read_model(&mut fields)?;
    refuse_unanswerable(&mut fields)?;
    let prompt = fields.string("prompt")?.unwrap_or_default();
    let system = fields.string("system")?.filter(|text| !text.is_empty());
    let images = read_images(&mut fields)?;
    let is_raw = fields.boolean("raw")?.unwrap_or(false);
    if is_raw && (system.is_some() || !images.is_empty()) {
        let name = if system.is_some() { "system" } else { "images" };
        return Err(fault::unsupported(
            &Path::Root.field(name),
            "Along with 'raw' the prompt is all there is.",
        ));
    }
    let mut messages = Vec::new();
    if !prompt.is_empty() {
        messages.extend(system.map(|text| Message::new(Role::System, text)));
        let mut message = Message::new(Role::User, prompt);
        message
            .content
            .splice(..0, images.into_iter().map(Part::Image));
        messages.push(message);
    }
    let mut asked = finish(fields, model, messages, Extra::new())?;
    if is_raw {
        asked.request.dialect = Dialect::Completions;
        // Of another dialect's words.
        asked.request.extra = Extra::new();
    }
    Ok(asked)
}

fn refuse_unanswerable(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    for (name, words) in [
        (
            "suffix",
            "Text is only added at the prompt's end; write what the model needs to know into the \
             prompt.",
        ),
        (
            "template",
            "The model's own template is used; send a prompt that needs none with 'raw'.",
        ),
    ] {
        if fields.string(name)?.is_some_and(|text| !text.is_empty()) {
            return Err(fault::unsupported(&Path::Root.field(name), words));
        }
    }
    match fields.take("context") {
        None => Ok(()),
        Some(Value::Array(tokens)) if tokens.is_empty() => Ok(()),
        Some(Value::Array(_)) => Err(fault::unsupported(
            &Path::Root.field("context"),
            "Send the conversation as messages, to /api/chat.",
        )),
        Some(other) => Err(fields.wrong_type("context", "an array", &other)),
    }
}
