//! From a response's body to a [`ChatStream`].
//!
//! The body is read only as the stream is polled, and dropped, which closes it, with the stream or
//! at its first error.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, ChatEvent, ChatStream, Reply, TimeoutPhase, replay};
use futures::{StreamExt, stream};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::time::{Instant, timeout, timeout_at};
use wire::{ClientDialect, StreamDecoder};

use crate::response::Response;

/// The largest whole reply read. 128 choices of 8,000 tokens come to about a quarter of it.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// How long a stream may keep its reader waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the first event.
    pub first_event_by: Instant,
    /// Between two reads after it.
    pub idle: Duration,
}

/// What a response's headers say of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyKind {
    Whole,
    Streamed,
}

/// The reply as events, whichever way the upstream chose to send it. `model` stands in where the
/// upstream names none.
pub(crate) async fn read_answer(
    mut response: Response,
    dialect: &dyn ClientDialect,
    model: &str,
    is_streamed: bool,
    patience: Patience,
) -> Result<ChatStream, BackendError> {
    let kind = body_kind(response.headers(), dialect.media_type(), is_streamed)?;
    response.forget_headers();
    match kind {
        BodyKind::Streamed => Ok(stream_of(
            response,
            dialect.decoder(),
            model.to_owned(),
            patience,
        )),
        BodyKind::Whole => {
            let whole = timeout_at(
                patience.first_event_by,
                read_whole(response, dialect, REPLY_BYTES_MAX),
            )
            .await;
            let mut reply =
                whole.map_err(|_| BackendError::TimedOut(TimeoutPhase::FirstEvent))??;
            name_model(&mut reply.started.model, model);
            Ok(replay(&reply))
        }
    }
}

fn body_kind(
    headers: &HeaderMap,
    stream_type: &str,
    is_streamed: bool,
) -> Result<BodyKind, BackendError> {
    let encoding = headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(BackendError::Garbled("the reply is compressed, unasked"));
    }
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return Ok(if is_streamed {
            BodyKind::Streamed
        } else {
            BodyKind::Whole
        });
    };
    let essence = kind.to_str().unwrap_or_default().split(';').next();
    let essence = essence.unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        essence if essence == stream_type => Ok(BodyKind::Streamed),
        "application/json" => Ok(BodyKind::Whole),
        _ => Err(BackendError::Garbled(
            "the reply is neither JSON nor an event stream",
        )),
    }
}

async fn read_whole(
    response: Response,
    dialect: &dyn ClientDialect,
    bytes_max: usize,
) -> Result<Reply, BackendError> {
    dialect.decode_reply(&read_body(response, bytes_max).await?)
}

/// A body that is JSON and no stream, up to `bytes_max`.
pub(crate) async fn read_json(response: Response, bytes_max: usize) -> Result<Bytes, BackendError> {
    match body_kind(response.headers(), "text/event-stream", false)? {
        BodyKind::Whole => read_body(response, bytes_max).await,
        BodyKind::Streamed => Err(BackendError::Garbled("the reply is a stream, unasked")),
    }
}

async fn read_body(mut response: Response, bytes_max: usize) -> Result<Bytes, BackendError> {
    const TOO_LARGE: BackendError = BackendError::Garbled("the reply is too large");
    let declared = response.content_length().unwrap_or(0);
    if usize::try_from(declared).unwrap_or(usize::MAX) > bytes_max {
        return Err(TOO_LARGE);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Err(TOO_LARGE);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn name_model(named: &mut String, model: &str) {
    if named.is_empty() {
        model.clone_into(named);
    }
}

fn stream_of(
    response: Response,
    decoder: Box<dyn StreamDecoder>,
    model: String,
    patience: Patience,
) -> ChatStream {
    let reading = Reading {
        response: Some(response),
        decoder,
        events: VecDeque::new(),
        has_begun: false,
        model,
        patience,
    };
    stream::unfold(reading, |mut reading| async move {
        let event = reading.next().await?;
        Some((event, reading))
    })
    .boxed()
}

struct Reading {
    /// `None` once nothing more is wanted of it.
    response: Option<Response>,
    decoder: Box<dyn StreamDecoder>,
    /// Decoded and not yet handed out: at most one read's worth.
    events: VecDeque<Result<ChatEvent, BackendError>>,
    has_begun: bool,
    model: String,
    patience: Patience,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<ChatEvent, BackendError>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(self.pass(event));
            }
            let response = self.response.as_mut()?;
            if self.decoder.is_over() {
                response.finish().await;
                self.response = None;
                return None;
            }
            match self.patience.read(response, self.has_begun).await {
                Ok(Some(bytes)) => self.decoder.push(&bytes, &mut self.events),
                Ok(None) => self.decoder.finish(&mut self.events),
                Err(error) => self.events.push_back(Err(error)),
            }
        }
    }

    fn pass(
        &mut self,
        mut event: Result<ChatEvent, BackendError>,
    ) -> Result<ChatEvent, BackendError> {
        match &mut event {
            Ok(ChatEvent::Started(started)) => {
                self.has_begun = true;
                name_model(&mut started.model, &self.model);
            }
            Ok(_) => {}
            Err(_) => self.response = None,
        }
        event
    }
}

impl Patience {
    async fn read(
        self,
        response: &mut Response,
        has_begun: bool,
    ) -> Result<Option<Bytes>, BackendError> {
        let (read, phase) = if has_begun {
            let read = timeout(self.idle, response.chunk()).await;
            (read, TimeoutPhase::BetweenEvents)
        } else {
            let read = timeout_at(self.first_event_by, response.chunk()).await;
            (read, TimeoutPhase::FirstEvent)
        };
        read.map_err(|_| BackendError::TimedOut(phase))?
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use reqwest::Body;
    use wire::openai::Chat;

    use super::*;

    const REPLY: &str = r#"{"choices":[{"message":{"content":"a"}}]}"#;

    /// `REPLY` in two chunks, with or without its length declared.
    fn response(is_declared: bool) -> Response {
        let body = if is_declared {
            Body::from(REPLY)
        } else {
            let (start, end) = REPLY.split_at(10);
            let chunks = [start, end].map(Ok::<_, std::convert::Infallible>);
            Body::wrap_stream(stream::iter(chunks))
        };
        Response::Client(http::Response::new(body).into())
    }

    #[test]
    fn a_whole_reply_is_bounded_whether_or_not_it_declares_its_length() {
        for is_declared in [true, false] {
            let length = response(is_declared).content_length();
            assert_eq!(length.is_some(), is_declared);
            let fits = block_on(read_whole(response(is_declared), &Chat, REPLY.len()));
            assert_eq!(fits.unwrap().choices[0].text(), "a");
            let over = block_on(read_whole(response(is_declared), &Chat, REPLY.len() - 1));
            assert!(matches!(
                over,
                Err(BackendError::Garbled("the reply is too large"))
            ));
        }
    }
}
