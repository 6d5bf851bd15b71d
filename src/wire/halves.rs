//! A dialect's halves as those see them who need not know which dialect it is.
//!
//! ```text
//! server   body ─ServerDialect─► ChatRequest ┐        ┌ ReplyEncoder ─► body or stream
//!                                            └ domain ┤
//! client   body ◄─ClientDialect─ ChatRequest ┘        └ StreamDecoder ◄─ stream
//! ```

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::{
    BackendError, BadRequest, ChatEvent, ChatRequest, Delivery, Dialect, Embeddings,
    ImageAddresses, Message, Moderation, Reply, TeamShelf,
};

use crate::openai::{ErrorBody, ErrorReply, Framing};

/// The halves of a server.
pub trait ServerDialect: fmt::Debug + Send + Sync + 'static {
    fn dialect(&self) -> Dialect;

    /// The header that betas are asked for in, a list: its name in lower case.
    fn betas_header(&self) -> Option<&'static str> {
        None
    }

    /// Reads a request's body.
    ///
    /// # Errors
    /// What is wrong with it, with the JSON path in `param`.
    fn decode(&self, body: &Bytes) -> Result<Decoded, BadRequest>;

    /// The same, for dialects whose addresses say a part of the request.
    ///
    /// # Errors
    /// As for [`ServerDialect::decode`].
    fn decode_at(&self, _address: &Address, body: &Bytes) -> Result<Decoded, BadRequest> {
        self.decode(body)
    }

    /// The same, for dialects whose requests go on from what was kept of earlier ones, and whose replies
    /// are kept: `shelf` is the caller's, `None` where nothing is kept.
    ///
    /// # Errors
    /// As for [`ServerDialect::decode`].
    fn decode_after(
        &self,
        address: &Address,
        _shelf: Option<&TeamShelf>,
        body: &Bytes,
    ) -> Result<Decoded, BadRequest> {
        self.decode_at(address, body)
    }

    /// Whether reading `body` may take longer than its length tells.
    fn reads_more_than(&self, _body: &[u8]) -> bool {
        false
    }

    /// The status that this dialect's clients know for what is `ours`.
    fn status(&self, ours: u16) -> u16 {
        ours
    }

    /// The body of a refusal with `status`, one of ours. OpenAI's, unless the dialect has one of its own.
    fn refusal(&self, _status: u16, error: &ErrorBody, _request_id: &str) -> Vec<u8> {
        error.to_json()
    }

    /// Whether a body is read as JSON whatever its `content-type` says, as clients of some servers
    /// have never had to say it.
    fn takes_any_media_type(&self) -> bool {
        false
    }
}

/// What of a request stands in its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Where the path names one, decoded.
    pub model: Option<String>,
    /// What follows the `?`.
    pub query: Option<String>,
}

/// A request as its server took it, and what is to write the reply.
pub struct Decoded {
    pub request: ChatRequest,
    pub encoder: Box<dyn ReplyEncoder>,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request.fmt(f)
    }
}

/// How long a reply took. What is not known is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyTimes {
    /// From the request's arrival to the reply's end.
    pub total: Duration,
    /// Of it, until the model that answers was there to read the prompt.
    pub load: Duration,
    /// From then to the first content.
    pub prompt: Duration,
    /// From then to the end; of a reply that came in one piece, from its request.
    pub reply: Duration,
}

/// Writes one reply: by `whole`, or by `begin`, any number of `event`, and then one of `finish` and
/// `fail`.
pub trait ReplyEncoder: Send + Sync + 'static {
    /// What a reply's id begins with.
    fn id_prefix(&self) -> &'static str;

    fn whole(&mut self, framing: &Framing, reply: &Reply) -> Vec<u8>;

    /// Called once, before the first event of a stream.
    fn begin(&mut self, framing: Framing);

    /// Appends what can be said before anybody answers: the role, where the stream's first event says
    /// it. Called at most once, right after `begin`.
    fn greet(&mut self, _out: &mut BytesMut) {}

    /// Takes when things happened; called right before `whole` and `finish`.
    fn note_times(&mut self, _times: ReplyTimes) {}

    /// True where no reply is asked for, but that the model be loaded: then nobody is asked, and `whole`
    /// gets a reply without choices once it is.
    fn only_loads(&self) -> bool {
        false
    }

    /// Appends what `event` says, which may be nothing yet.
    fn event(&mut self, event: &ChatEvent, out: &mut BytesMut);

    /// Appends an error in the dialect's own form. `status` is the one it would have had as a
    /// refusal.
    fn fail(&mut self, status: u16, error: &ErrorBody, out: &mut BytesMut);

    /// Appends what is not of the dialect, where its clients read over it: a comment, in a stream of
    /// server-sent events. `name` and `value` hold no line breaks. It says what the answer's head could
    /// not: where the head left before anybody had answered, before the first event or `fail` where the
    /// answer comes from; and before `finish` what it cost.
    fn note(&mut self, name: &str, value: &dyn fmt::Display, out: &mut BytesMut) {
        let note = format!(": {name}: {value}\n\n");
        out.extend_from_slice(note.as_bytes());
    }

    /// Appends whatever marks the end.
    fn finish(&mut self, out: &mut BytesMut);

    /// Sent in a silence, to show that the stream lives.
    fn keep_alive(&self) -> &'static [u8] {
        b": keep-alive\n\n"
    }

    /// Of a stream.
    fn media_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }
}

/// The halves of a client.
pub trait ClientDialect: fmt::Debug + Send + Sync + 'static {
    fn dialect(&self) -> Dialect;

    /// What follows the base URL's path, with its query: `/chat/completions`.
    fn target(&self, model: &str, delivery: Delivery) -> Cow<'static, str>;

    /// What every request has beside its credentials: names in lower case.
    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The header that betas are asked for in, a list: its name in lower case.
    fn betas_header(&self) -> Option<&'static str> {
        None
    }

    /// The body for an upstream that knows the model as `model`.
    ///
    /// # Errors
    /// [`BackendError::Declined`] or [`BackendError::Unable`] for what the dialect cannot say.
    fn encode_request(&self, model: &str, request: &ChatRequest) -> Result<Bytes, BackendError>;

    /// Reads a whole reply.
    ///
    /// # Errors
    /// [`BackendError::Garbled`] for bytes that are none, or the error they hold.
    fn decode_reply(&self, body: &[u8]) -> Result<Reply, BackendError>;

    /// For one stream.
    fn decoder(&self) -> Box<dyn StreamDecoder>;

    /// Of a stream, as `content-type` names it without parameters.
    fn media_type(&self) -> &'static str {
        "text/event-stream"
    }

    /// Whether it names images by address to servers that then fetch them.
    fn image_addresses(&self) -> ImageAddresses {
        ImageAddresses::Taken
    }

    /// How embeddings are asked for, where the dialect has them.
    fn embeddings(&self) -> Option<&'static dyn EmbedDialect> {
        None
    }

    /// How texts are had judged, where the dialect has that.
    fn moderations(&self) -> Option<&'static dyn ModerationDialect> {
        None
    }

    /// Reads the body of a refusal; `None` when it is no error object of such a provider.
    fn decode_error(&self, body: &[u8]) -> Option<ErrorReply>;

    /// What a refusal's body says where its status alone would mislead, or that it says more of:
    /// how long to wait. `None` leaves it to the status and [`ClientDialect::decode_error`].
    fn refusal(&self, _status: u16, _body: &[u8]) -> Option<BackendError> {
        None
    }
}

/// The client's halves for embeddings.
pub trait EmbedDialect: fmt::Debug + Send + Sync + 'static {
    /// What follows the base URL's path: `/embeddings`.
    fn target(&self, model: &str) -> Cow<'static, str>;

    /// The body that asks for one vector for each of `texts`.
    fn encode(&self, model: &str, texts: &[String], dimensions: Option<u32>) -> Bytes;

    /// Reads the answer for `count` texts: so many vectors of one length, in the texts' order.
    ///
    /// # Errors
    /// [`BackendError::Garbled`] for anything else.
    fn decode(&self, body: &[u8], count: usize) -> Result<Embeddings, BackendError>;
}

/// The client's halves for moderation.
pub trait ModerationDialect: fmt::Debug + Send + Sync + 'static {
    /// What follows the base URL's path: `/moderations`.
    fn target(&self) -> Cow<'static, str>;

    /// The body that has each of `inputs` judged: texts alone, or one with texts and images.
    fn encode(&self, model: &str, inputs: &[Message]) -> Bytes;

    /// Looks whether the answer holds `count` results, and leaves it as it is.
    ///
    /// # Errors
    /// [`BackendError::Garbled`] where it does not.
    fn decode(&self, body: Bytes, count: usize) -> Result<Moderation, BackendError>;
}

/// Turns a stream's bytes, cut anywhere, into events that obey [`domain::Grammar`].
pub trait StreamDecoder: Send + 'static {
    /// Takes the next bytes. Everything after an `Err` or the stream's own end is ignored.
    fn push(&mut self, bytes: &[u8], out: &mut VecDeque<Result<ChatEvent, BackendError>>);

    /// Says that the body ended.
    fn finish(&mut self, out: &mut VecDeque<Result<ChatEvent, BackendError>>);

    /// True once the last event was put out.
    fn is_over(&self) -> bool;
}
