//! Decodes `POST /api/chat`.

use bytes::Bytes;
use domain::{BadRequest, Extra};

use super::decode_messages::read_messages;
use super::decode_shared::{Asked, finish, open, read_model};
use crate::openai::read_tools;

/// # Errors
/// What is wrong with the body, with the JSON path in `param`.
pub(super) fn decode_chat(body: &Bytes) -> Result<Asked, BadRequest> {
    let mut fields = open(body)?;
    let model = read_model(&mut fields)?;
    let mut extra = Extra::new();
    let messages = read_messages(&mut fields, &mut extra)?;
    // The form is OpenAI's.
    let tools = read_tools(&mut fields, &mut extra)?;
    let mut asked = finish(fields, model, messages, extra)?;
    asked.request.tools = tools;
    Ok(asked)
}
