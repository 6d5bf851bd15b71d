//! Sends one sealed request, and knows whether any of it was sent.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
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
    let (body, mut taken, claim) = MarkedBody::new(sealed);
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
            Err(_) if claim.withdraw() => {
                let error = BackendError::TimedOut(TimeoutPhase::Connect);
                return Err(PostFailed::Unsent(error));
            }
            // A connection took it at the last moment.
            Err(_) => return answer.await.map_err(|_| PostFailed::Broken),
        },
    };
    answer.map_err(|_| {
        if claim.withdraw() {
            let error = BackendError::Unreachable("no connection to the relay could be made");
            PostFailed::Unsent(error)
        } else {
            PostFailed::Broken
        }
    })
}

/// Who has a body: a connection, which runs on a thread of its own, or whoever gave up on it. One of
/// them, once and for all.
#[derive(Clone, Debug, Default)]
struct Claim(Arc<AtomicU8>);

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
    /// Whether no connection has the body, and none ever will.
    fn withdraw(&self) -> bool {
        self.settle(WITHDRAWN)
    }

    fn take(&self) -> bool {
        self.settle(TAKEN)
    }

    fn settle(&self, as_what: u8) -> bool {
        let order = Ordering::AcqRel;
        let settled = self
            .0
            .compare_exchange(OPEN, as_what, order, Ordering::Acquire);
        settled.is_ok() || settled == Err(as_what)
    }
}

/// A connection asked for a body that nobody wants sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request was withdrawn before it was sent")]
struct Withdrawn;

/// A request's body that tells when a connection asks for it: before that, nothing was sent.
struct MarkedBody {
    bytes: Option<Bytes>,
    mark: Option<oneshot::Sender<()>>,
    claim: Claim,
}

impl MarkedBody {
    fn new(bytes: Bytes) -> (Self, oneshot::Receiver<()>, Claim) {
        let (mark, taken) = oneshot::channel();
        let claim = Claim::default();
        let body = Self {
            bytes: Some(bytes),
            mark: Some(mark),
            claim: claim.clone(),
        };
        (body, taken, claim)
    }
}

impl Body for MarkedBody {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        if !self.claim.take() {
            return Poll::Ready(Some(Err(Withdrawn)));
        }
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

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    fn polled(body: &mut MarkedBody) -> Option<Result<Bytes, Withdrawn>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(frame) = Pin::new(body).poll_frame(&mut cx) else {
            panic!("it waits for nothing");
        };
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    /// Between the end of the patience and the connection's first write there was a moment in which both
    /// had the request: it was sent, and sealed to another relay as if it had not been.
    #[test]
    fn a_request_is_either_sent_or_withdrawn() {
        let (mut body, mut taken, claim) = MarkedBody::new(Bytes::from_static(b"sealed"));
        assert!(claim.withdraw(), "nobody had it");
        assert_eq!(polled(&mut body), Some(Err(Withdrawn)));
        assert!(taken.try_recv().is_err() && claim.withdraw());

        let (mut body, mut taken, claim) = MarkedBody::new(Bytes::from_static(b"sealed"));
        assert_eq!(polled(&mut body), Some(Ok(Bytes::from_static(b"sealed"))));
        assert!(!claim.withdraw(), "it was sent");
        assert!(taken.try_recv().is_ok());
        assert_eq!(polled(&mut body), None, "and has an end");
    }

    #[test]
    fn of_two_who_claim_a_request_at_once_one_has_it() {
        for _ in 0..1_000 {
            let (mut body, _taken, claim) = MarkedBody::new(Bytes::from_static(b"sealed"));
            let (sent, withdrawn) = std::thread::scope(|scope| {
                let sending = scope.spawn(move || polled(&mut body).is_some_and(|it| it.is_ok()));
                let withdrawn = claim.withdraw();
                (sending.join().unwrap(), withdrawn)
            });
            assert_ne!(sent, withdrawn);
        }
    }
}
