//! Bedrock's dialect behind [`crate::ClientDialect`].

use std::borrow::Cow;

use bytes::Bytes;
use domain::{BackendError, ChatRequest, Delivery, Dialect, ImageAddresses, Reply};

use super::decode_error::decode_error;
use super::decode_reply::decode_reply;
use super::decode_stream::Decoder;
use super::encode_request::encode_request;
use crate::openai::ErrorReply;
use crate::{ClientDialect, StreamDecoder, percent};

/// Converse and ConverseStream, as a client.
#[derive(Clone, Copy, Debug)]
pub struct Converse;

impl ClientDialect for Converse {
    fn dialect(&self) -> Dialect {
        Dialect::Bedrock
    }

    fn target(&self, model: &str, delivery: Delivery) -> Cow<'static, str> {
        let model = percent::encoded(model);
        match delivery {
            Delivery::Whole => format!("/model/{model}/converse").into(),
            Delivery::Streamed { .. } => format!("/model/{model}/converse-stream").into(),
        }
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

    fn media_type(&self) -> &'static str {
        "application/vnd.amazon.eventstream"
    }

    fn image_addresses(&self) -> ImageAddresses {
        ImageAddresses::Refused
    }

    fn decode_error(&self, body: &[u8]) -> Option<ErrorReply> {
        decode_error(body)
    }
}
