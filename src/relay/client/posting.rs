//! Sends one sealed request, and knows whether any of it was sent.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use domain::{BackendError, TimeoutPhase};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::member::Relay;
use crate::sealed::Form;

/// How sending ended without an answer.
#[derive(Debug)]
pub(super) enum PostFailed {
    /// No byte of it was sent.
    Unsent(BackendError),
    /// A connection took it; what became of it nobody knows.
    Broken,
}

/// Fields that are the same for every request, and nothing else but its length.
pub(super) async fn post(
    relay: &Relay,
    sealed: Bytes,
    connect_timeout: Duration,
) -> Result<reqwest::Response, PostFailed> {
    let (body, mut taken) = MarkedBody::new(sealed);
    let request = relay
        .http
        .post(relay.gateway.clone())
        .header(CONTENT_TYPE, Form::Chunked.request_media_type())
        .header(ACCEPT, Form::Chunked.response_media_type())
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, super::USER_AGENT)
        .header("incremental", "?1")
        .body(reqwest::Body::wrap(body));
    let mut answer = pin!(request.send());
    let answer = tokio::select! {
        answer = &mut answer => answer,
        connected = timeout(connect_timeout, &mut taken) => match connected {
            Ok(Ok(())) => return answer.await.map_err(|_| PostFailed::Broken),
            // The body was dropped unasked for, and the answer says why.
            Ok(Err(_)) => answer.await,
            Err(_) => {
                let error = BackendError::TimedOut(TimeoutPhase::Connect);
                return Err(PostFailed::Unsent(error));
            }
        },
    };
    answer.map_err(|_| match taken.try_recv() {
        Ok(()) => PostFailed::Broken,
        Err(_) => {
            let error = BackendError::Unreachable("no connection to the relay could be made");
            PostFailed::Unsent(error)
        }
    })
}

/// A request's body that tells when a connection asks for it: before that, nothing was sent.
struct MarkedBody {
    bytes: Option<Bytes>,
    mark: Option<oneshot::Sender<()>>,
}

impl MarkedBody {
    fn new(bytes: Bytes) -> (Self, oneshot::Receiver<()>) {
        let (mark, taken) = oneshot::channel();
        let body = Self {
            bytes: Some(bytes),
            mark: Some(mark),
        };
        (body, taken)
    }
}

impl Body for MarkedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(mark) = self.mark.take() {
            // Nobody waits any more where the caller gave up meanwhile.
            let _ = mark.send(());
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    /// Exact, so that the request states its length and is not chunked.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
