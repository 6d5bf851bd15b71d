//! Encodes a request, as a client.

use bytes::Bytes;
use domain::{BackendError, ChatRequest, Dialect};
use serde_json::Value;

use crate::openai::{request_body, splice};

/// The body to send for `request` to an upstream that knows the model as `model`: the received one
/// spliced, as in a chat, or one made anew.
///
/// # Errors
/// [`BackendError::Declined`] for a request that is a chat.
pub(super) fn encode_request(model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
    let prompt = match request.messages.as_slice() {
        [message] if request.is_raw() => message.text(),
        _ => {
            let words = "the upstream continues texts and knows no chats";
            return Err(BackendError::declined("messages", words));
        }
    };
    let source = request.source.as_ref();
    let source = source.filter(|source| source.dialect == Dialect::Completions);
    let output = request.output_tokens_max.map(|tokens| tokens.0.into());
    // The prompt is put before the reply here, and not every server has OpenAI's bound by default.
    let ours = [("echo", None), ("best_of", None), ("max_tokens", output)];
    let spliced = source.and_then(|source| splice(&source.bytes, model, request.delivery, &ours));
    if let Some(body) = spliced {
        return Ok(body);
    }
    // All but the prompt is said as in a chat, or is not in a request that came as a completion.
    let mut body = request_body(model, request);
    if let Some(fields) = body.as_object_mut() {
        fields.shift_remove("messages");
        fields.shift_remove("top_logprobs");
        fields.insert("prompt".into(), prompt.into());
        if let Some(best) = request.sampling.logprobs {
            fields.insert("logprobs".into(), best.into());
        }
    }
    for (name, value) in &request.extra {
        let (place, name) = match name.rsplit_once('/') {
            // Found inside a field that is written here as well.
            Some((place, name)) if place.starts_with('/') => (place, name),
            _ => ("", name.as_str()),
        };
        if let Some(Value::Object(fields)) = body.pointer_mut(place) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
    Ok(Bytes::from(body.to_string()))
}
