//! A request body that tells when a connection took it.
//!
//! The HTTP client is shared and hides when it has a connection, yet two rules hang on that: the
//! connect timeout is the upstream's own, and a request that may have been sent is not sent again.
//! A connection polls the body only once it exists, so the first poll is the mark.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(crate) struct MarkedBody {
    bytes: Option<Bytes>,
    mark: Option<oneshot::Sender<()>>,
}

impl MarkedBody {
    /// The body, and a receiver that resolves once a connection asked for it.
    pub fn new(bytes: Bytes) -> (Self, oneshot::Receiver<()>) {
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
            // Nobody waits any more when the client gave up meanwhile.
            let _ = mark.send(());
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    /// Exact, so that the request has a `content-length` and is not chunked.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
