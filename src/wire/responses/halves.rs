//! The responses dialect behind [`crate::halves`].

use std::borrow::Cow;

use bytes::Bytes;
use domain::{BackendError, BadRequest, ChatRequest, Delivery, Dialect, Reply, TeamShelf};

use super::decode_reply::decode_reply;
use super::decode_request::{decode_request, speaks_of_earlier};
use super::decode_stream::Decoder;
use super::encode_request::encode_request;
use crate::openai::{BETAS_HEADER, ErrorReply, decode_error};
use crate::{Address, ClientDialect, Decoded, ServerDialect, StreamDecoder};

/// OpenAI's responses, as a server and as a client.
#[derive(Clone, Copy, Debug)]
pub struct Responses;

impl ServerDialect for Responses {
    fn dialect(&self) -> Dialect {
        Dialect::Responses
    }

    fn betas_header(&self) -> Option<&'static str> {
        Some(BETAS_HEADER)
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        self.decode_after(&Address::default(), None, body)
    }

    fn decode_after(
        &self,
        _address: &Address,
        shelf: Option<&TeamShelf>,
        body: &Bytes,
    ) -> Result<Decoded, BadRequest> {
        let (request, encoder) = decode_request(body, shelf)?;
        Ok(Decoded {
            request,
            encoder: Box::new(encoder),
        })
    }

    fn reads_more_than(&self, body: &[u8]) -> bool {
        speaks_of_earlier(body)
    }
}

impl ClientDialect for Responses {
    fn dialect(&self) -> Dialect {
        Dialect::Responses
    }

    fn betas_header(&self) -> Option<&'static str> {
        Some(BETAS_HEADER)
    }

    fn target(&self, _model: &str, _delivery: Delivery) -> Cow<'static, str> {
        "/responses".into()
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
