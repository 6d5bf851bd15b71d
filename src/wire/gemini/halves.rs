//! Google's dialect behind [`crate::halves`].

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use domain::{
    BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, Dialect, ImageAddresses, Reply,
};

use super::decode_error::{decode_error, refusal};
use super::decode_reply::decode_reply;
use super::decode_request::decode_request;
use super::decode_stream::Decoder;
use super::encode_reply::encode_reply;
use super::encode_request::encode_request;
use super::encode_stream::{StreamEncoder, Wrapping};
use super::error_body::error_body;
use crate::fields::Path;
use crate::openai::{ErrorBody, ErrorReply, Framing};
use crate::request_fault as fault;
use crate::{Address, ClientDialect, Decoded, ReplyEncoder, ServerDialect, StreamDecoder, percent};

/// `generateContent`, as a server.
#[derive(Clone, Copy, Debug)]
pub struct GenerateContent;

/// `streamGenerateContent`, as a server.
#[derive(Clone, Copy, Debug)]
pub struct StreamGenerateContent;

/// Both, as a client.
#[derive(Clone, Copy, Debug)]
pub struct Gemini;

const STREAMED: Delivery = Delivery::Streamed {
    includes_usage: true,
};

impl ServerDialect for GenerateContent {
    fn dialect(&self) -> Dialect {
        Dialect::Gemini
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        self.decode_at(&Address::default(), body)
    }

    fn decode_at(&self, address: &Address, body: &Bytes) -> Result<Decoded, BadRequest> {
        decode(address, Delivery::Whole, body)
    }

    fn refusal(&self, status: u16, error: &ErrorBody, request_id: &str) -> Vec<u8> {
        written_refusal(status, error, request_id)
    }
}

impl ServerDialect for StreamGenerateContent {
    fn dialect(&self) -> Dialect {
        Dialect::Gemini
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        self.decode_at(&Address::default(), body)
    }

    fn decode_at(&self, address: &Address, body: &Bytes) -> Result<Decoded, BadRequest> {
        decode(address, STREAMED, body)
    }

    fn refusal(&self, status: u16, error: &ErrorBody, request_id: &str) -> Vec<u8> {
        written_refusal(status, error, request_id)
    }
}

fn decode(address: &Address, delivery: Delivery, body: &Bytes) -> Result<Decoded, BadRequest> {
    let Some(model) = &address.model else {
        return Err(fault::missing(&Path::Root.field("model")));
    };
    let request = decode_request(model, delivery, body)?;
    let query = address.query.as_deref().unwrap_or_default();
    let is_sse = query.split('&').any(|pair| pair == "alt=sse");
    let encoder = Encoder {
        shows_thoughts: request.reasoning.and_then(|it| it.is_shown) == Some(true),
        wrapping: if is_sse {
            Wrapping::Events
        } else {
            Wrapping::Array
        },
        stream: None,
    };
    Ok(Decoded {
        request,
        encoder: Box::new(encoder),
    })
}

fn written_refusal(status: u16, error: &ErrorBody, request_id: &str) -> Vec<u8> {
    let body = error_body(status, error, Some(request_id));
    serde_json::to_vec(&body).expect("a value tree always serializes")
}

#[derive(Debug)]
struct Encoder {
    shows_thoughts: bool,
    wrapping: Wrapping,
    /// `None` until the stream begins.
    stream: Option<StreamEncoder>,
}

impl ReplyEncoder for Encoder {
    fn id_prefix(&self) -> &'static str {
        ""
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        match reply.written_in(Dialect::Gemini) {
            Some(written) => written.to_vec(),
            None => encode_reply(framing, reply, self.shows_thoughts),
        }
    }

    fn begin(&mut self, framing: Framing) {
        let stream = StreamEncoder::new(framing, self.wrapping, self.shows_thoughts);
        self.stream = Some(stream);
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if let Some(stream) = &mut self.stream {
            stream.event(event, out);
        }
    }

    fn fail(&mut self, status: u16, error: &ErrorBody, out: &mut BytesMut) {
        if let Some(stream) = &mut self.stream {
            stream.fail(status, error, out);
        }
    }

    fn note(&mut self, name: &str, value: &dyn std::fmt::Display, out: &mut BytesMut) {
        match self.wrapping {
            Wrapping::Events => {
                let note = format!(": {name}: {value}\n\n");
                out.extend_from_slice(note.as_bytes());
            }
            // JSON has no comments.
            Wrapping::Array => {}
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if let Some(stream) = &mut self.stream {
            stream.finish(out);
        }
    }

    fn keep_alive(&self) -> &'static [u8] {
        match self.wrapping {
            Wrapping::Events => b": keep-alive\n\n",
            Wrapping::Array => b"\n",
        }
    }

    fn media_type(&self) -> &'static str {
        match self.wrapping {
            Wrapping::Events => "text/event-stream; charset=utf-8",
            Wrapping::Array => "application/json; charset=utf-8",
        }
    }
}

impl ClientDialect for Gemini {
    fn dialect(&self) -> Dialect {
        Dialect::Gemini
    }

    fn target(&self, model: &str, delivery: Delivery) -> Cow<'static, str> {
        let name = model.strip_prefix("models/").unwrap_or(model);
        let name = percent::encoded(name);
        match delivery {
            Delivery::Whole => format!("/models/{name}:generateContent").into(),
            Delivery::Streamed { .. } => {
                format!("/models/{name}:streamGenerateContent?alt=sse").into()
            }
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

    fn image_addresses(&self) -> ImageAddresses {
        ImageAddresses::Doubtful
    }

    fn decode_error(&self, body: &[u8]) -> Option<ErrorReply> {
        decode_error(body)
    }

    fn refusal(&self, status: u16, body: &[u8]) -> Option<BackendError> {
        refusal(status, body)
    }
}
