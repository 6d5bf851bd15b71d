//! Ollama's chats and prompts behind [`crate::halves`].

use bytes::Bytes;
use domain::{BadRequest, Dialect};
use serde_json::json;

use super::decode_chat::decode_chat;
use super::decode_generate::decode_generate;
use super::decode_shared::Asked;
use super::encode_line::Form;
use super::encode_reply::Encoder;
use crate::openai::ErrorBody;
use crate::{Decoded, ServerDialect};

/// `POST /api/chat`.
#[derive(Clone, Copy, Debug)]
pub struct Chat;

/// `POST /api/generate`.
#[derive(Clone, Copy, Debug)]
pub struct Generate;

impl ServerDialect for Chat {
    fn dialect(&self) -> Dialect {
        Dialect::Ollama
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        Ok(decoded(Form::Chat, decode_chat(body)?))
    }

    fn refusal(&self, _status: u16, error: &ErrorBody, _request_id: &str) -> Vec<u8> {
        encode_error(error)
    }

    fn takes_any_media_type(&self) -> bool {
        true
    }
}

impl ServerDialect for Generate {
    fn dialect(&self) -> Dialect {
        Dialect::Ollama
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        Ok(decoded(Form::Generate, decode_generate(body)?))
    }

    fn refusal(&self, _status: u16, error: &ErrorBody, _request_id: &str) -> Vec<u8> {
        encode_error(error)
    }

    fn takes_any_media_type(&self) -> bool {
        true
    }
}

fn decoded(form: Form, asked: Asked) -> Decoded {
    Decoded {
        encoder: Box::new(Encoder::new(form, asked.shows_thoughts, asked.only_loads)),
        request: asked.request,
    }
}

/// `{"error": "…"}`, with the place at fault before the words, unless they say it.
#[must_use]
pub fn encode_error(error: &ErrorBody) -> Vec<u8> {
    let words = match &error.param {
        Some(param) if !error.message.contains(param.as_str()) => {
            format!("{param}: {}", error.message)
        }
        _ => error.message.clone(),
    };
    json!({ "error": words }).to_string().into_bytes()
}
