//! The chat completions dialect behind [`crate::halves`].

use std::borrow::Cow;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, Dialect, Reply};

use super::embed_client::Embed;
use super::moderations::Moderations;
use super::{
    ChunkDecoder, ChunkEncoder, ErrorBody, ErrorReply, Framing, decode_error, decode_reply,
    decode_request, encode_reply, encode_request,
};
use crate::unsayable::refuse_foreign_parts;
use crate::{
    ClientDialect, Decoded, EmbedDialect, ModerationDialect, ReplyEncoder, ServerDialect,
    StreamDecoder,
};

/// What OpenAI's SDKs name betas in (openai-python, `src/openai/resources/beta`).
pub(crate) const BETAS_HEADER: &str = "openai-beta";

/// OpenAI's chat completions, as a server and as a client.
#[derive(Clone, Copy, Debug)]
pub struct Chat;

impl ServerDialect for Chat {
    fn dialect(&self) -> Dialect {
        Dialect::OpenAi
    }

    fn betas_header(&self) -> Option<&'static str> {
        Some(BETAS_HEADER)
    }

    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest> {
        Ok(Decoded {
            request: decode_request(body)?,
            encoder: Box::new(Encoder(None)),
        })
    }
}

/// `None` until the stream begins.
#[derive(Debug)]
struct Encoder(Option<ChunkEncoder>);

impl ReplyEncoder for Encoder {
    fn id_prefix(&self) -> &'static str {
        "chatcmpl-"
    }

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8> {
        encode_reply(framing, reply)
    }

    fn begin(&mut self, framing: Framing) {
        self.0 = Some(ChunkEncoder::new(framing));
    }

    fn greet(&mut self, out: &mut BytesMut) {
        if let Some(chunks) = &mut self.0 {
            chunks.greet(out);
        }
    }

    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut) {
        if let Some(chunks) = &mut self.0 {
            chunks.encode(event, out);
        }
    }

    fn fail(&mut self, _status: u16, error: &ErrorBody, out: &mut BytesMut) {
        if let Some(chunks) = &mut self.0 {
            chunks.fail(error, out);
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if let Some(chunks) = &mut self.0 {
            chunks.finish(out);
        }
    }
}

impl ClientDialect for Chat {
    fn dialect(&self) -> Dialect {
        Dialect::OpenAi
    }

    fn betas_header(&self) -> Option<&'static str> {
        Some(BETAS_HEADER)
    }

    fn target(&self, _model: &str, _delivery: Delivery) -> Cow<'static, str> {
        "/chat/completions".into()
    }

    fn encode_request(&self, model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
        refuse_foreign_parts(request, Dialect::OpenAi)?;
        Ok(encode_request(model, request))
    }

    fn decode_reply(&self, body: &[u8]) -> Result<Reply, BackendError> {
        decode_reply(body)
    }

    fn decoder(&self) -> Box<dyn StreamDecoder> {
        Box::new(ChunkDecoder::new())
    }

    fn embeddings(&self) -> Option<&'static dyn EmbedDialect> {
        Some(&Embed)
    }

    fn moderations(&self) -> Option<&'static dyn ModerationDialect> {
        Some(&Moderations)
    }

    fn decode_error(&self, body: &[u8]) -> Option<ErrorReply> {
        decode_error(body)
    }
}

impl StreamDecoder for ChunkDecoder {
    fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        ChunkDecoder::push(self, bytes, out);
    }

    fn finish(&mut self, out: &mut VecDeque<Result<ChatEvent, BackendError>>) {
        ChunkDecoder::finish(self, out);
    }

    fn is_over(&self) -> bool {
        ChunkDecoder::is_over(self)
    }
}
