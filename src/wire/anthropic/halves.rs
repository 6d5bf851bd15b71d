//! The Messages dialect behind [`crate::halves`].

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, Dialect, Reply};

use super::decode_error::decode_error;
use super::decode_reply::decode_reply;
use super::decode_request::decode_request;
use super::decode_settings::Asked;
use super::decode_stream::Decoder;
use super::encode_reply::encode_reply;
use super::encode_request::encode_request;
use super::encode_stream::{PING, StreamEncoder};
use super::error_body::{error_body, status};
use crate::openai::{ErrorBody, ErrorReply, Framing};
use crate::{ClientDialect, Decoded, ReplyEncoder, ServerDialect, StreamDecoder};

/// What its SDKs name betas in (anthropic-sdk-typescript, `src/resources/beta/messages`).
const BETAS_HEADER: &str = "anthropic-beta";

/// Anthropic's messages, as a server and as a client.
#[derive(Clone, Copy, Debug)]
pub struct Messages;

impl ServerDialect for Messages {
    fn dialect(&self) -> Dialect {
        Dialect::Anthropic
    }

    fn betas_header(&self) -> Option<&'static str> {
        Some(BETAS_HEADER)
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        let (request, asked) = decode_request(body)?;
        let encoder = Box::new(Encoder {
            asked,
            stream: None,
        });
        Ok(Decoded { request, encoder })
    }

    fn status(&self, ours: u16) -> u16 {
        status(ours)
    }

    fn refusal(&self, status: u16, error: &ErrorBody, request_id: &str) -> Vec<u8> {
        error_body(status, error, Some(request_id))
    }
}

#[derive(Debug)]
struct Encoder {
    asked: Asked,
    /// `None` until it begins.
    stream: Option<StreamEncoder>,
}

impl ReplyEncoder for Encoder {
    fn id_prefix(&self) -> &'static str {
        "msg_"
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        match reply.written_in(Dialect::Anthropic) {
            Some(written) => written.to_vec(),
            None => encode_reply(framing, reply, self.asked),
        }
    }

    fn begin(&mut self, framing: Framing) {
        self.stream = Some(StreamEncoder::new(framing, self.asked));
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if let Some(stream) = &mut self.stream {
            stream.encode(event, out);
        }
    }

    fn fail(&mut self, status: u16, error: &ErrorBody, out: &mut BytesMut) {
        if let Some(stream) = &mut self.stream {
            stream.fail(status, error, out);
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if let Some(stream) = &mut self.stream {
            stream.finish(out);
        }
    }

    fn keep_alive(&self) -> &'static [u8] {
        PING
    }
}

impl ClientDialect for Messages {
    fn dialect(&self) -> Dialect {
        Dialect::Anthropic
    }

    fn target(&self, _model: &str, _delivery: Delivery) -> Cow<'static, str> {
        "/v1/messages".into()
    }

    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("anthropic-version", "2023-06-01")]
    }

    fn betas_header(&self) -> Option<&'static str> {
        Some(BETAS_HEADER)
    }

    fn encode_request(&self, model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
        encode_request(model, request)
    }

    fn decode_reply(&self, body: &[u8]) -> Result<Reply, BackendError> {
        decode_reply(body)
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(Decoder::default())
    }

    fn decode_error(&self, body: &[u8]) -> Option<ErrorReply> {
        decode_error(body)
    }
}
