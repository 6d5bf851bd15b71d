//! The older completions behind [`crate::halves`].

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, Dialect, Reply};

use super::decode_request::{Asked, decode_request};
use super::encode_chunk::ChunkEncoder;
use super::encode_reply::encode_reply;
use super::encode_request::encode_request;
use crate::openai::{ChunkDecoder, ErrorBody, ErrorReply, Framing, decode_error, decode_reply};
use crate::{ClientDialect, Decoded, ReplyEncoder, ServerDialect, StreamDecoder};

/// OpenAI's older completions, as a server and as a client.
#[derive(Clone, Copy, Debug)]
pub struct Completions;

impl ServerDialect for Completions {
    fn dialect(&self) -> Dialect {
        Dialect::Completions
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        let Asked { request, echoes } = decode_request(body)?;
        let prompt = request.messages.first().filter(|_| echoes);
        let echo = prompt.map(domain::Message::text);
        Ok(Decoded {
            encoder: Box::new(Encoder { echo, chunks: None }),
            request,
        })
    }

    fn refusal(&self, _status: u16, error: &ErrorBody, _request_id: &str) -> Vec<u8> {
        of_prompt(error).to_json()
    }
}

/// What is said of a chat's messages is meant of the prompt.
fn of_prompt(error: &ErrorBody) -> ErrorBody {
    let mut error = error.clone();
    if error
        .param
        .as_deref()
        .is_some_and(|param| param.starts_with("messages"))
    {
        error.param = Some("prompt".to_owned());
    }
    error
}

#[derive(Debug)]
struct Encoder {
    /// The prompt, where the reply begins with it.
    echo: Option<String>,
    /// `None` until the stream begins.
    chunks: Option<ChunkEncoder>,
}

impl ReplyEncoder for Encoder {
    fn id_prefix(&self) -> &'static str {
        "cmpl-"
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        encode_reply(framing, self.echo.as_deref(), reply)
    }

    fn begin(&mut self, framing: Framing) {
        self.chunks = Some(ChunkEncoder::new(&framing, self.echo.take()));
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if let Some(chunks) = &mut self.chunks {
            chunks.encode(event, out);
        }
    }

    fn fail(&mut self, _status: u16, error: &ErrorBody, out: &mut BytesMut) {
        if let Some(chunks) = &self.chunks {
            chunks.fail(&of_prompt(error), out);
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if let Some(chunks) = &self.chunks {
            chunks.finish(out);
        }
    }
}

impl ClientDialect for Completions {
    fn dialect(&self) -> Dialect {
        Dialect::Completions
    }

    fn target(&self, _model: &str, _delivery: Delivery) -> Cow<'static, str> {
        "/completions".into()
    }

    fn encode_request(&self, model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
        encode_request(model, request)
    }

    fn decode_reply(&self, body: &[u8]) -> Result<Reply, BackendError> {
        decode_reply(body)
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(ChunkDecoder::new())
    }

    fn decode_error(&self, body: &[u8]) -> Option<ErrorReply> {
        decode_error(body)
    }
}
