//! One connection, polled by whoever holds it.
//!
//! hyper splits a client's connection in two: a handle that takes requests, and the work, which it
//! expects in a task of its own. Both are held here and polled one after the other, the work with the
//! waker of the task, the rest with one that wakes nobody: whatever reaches the handle or a body was
//! put there by the work a moment before.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use domain::BackendError;
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use super::Idle;

type Work = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

pub(crate) struct Connection {
    handle: SendRequest<Full<Bytes>>,
    /// Boxed, for it is large and moves from hand to hand.
    work: Box<Work>,
}

/// Why a request got no answer, by what may be done with it.
pub(crate) enum Unanswered {
    /// Nothing of it was written.
    Unsent(Box<Request<Full<Bytes>>>),
    Broken,
}

impl Connection {
    pub async fn open(io: TokioIo<TcpStream>) -> hyper::Result<Self> {
        let (handle, work) = http1::handshake(io).await?;
        Ok(Self {
            handle,
            work: Box::new(work),
        })
    }

    /// False once the server has closed it, said something unasked, or may not be asked again.
    pub fn stands(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        Pin::new(&mut self.work).poll(&mut nobody).is_pending() && self.handle.is_ready()
    }

    /// Sends, and waits for the answer's head. Dropping the future closes the connection.
    pub async fn send(
        mut self,
        request: Request<Full<Bytes>>,
        idle: &Arc<Idle>,
    ) -> Result<Response, Unanswered> {
        // Its own budget for the runtime's fairness, for with the task's it might wait for a wake-up
        // that nobody gets.
        let answer = unconstrained(self.handle.try_send_request(request));
        let mut answer = pin!(answer);
        let mut work = Some(self.work);
        let answer = poll_fn(|cx| {
            let is_over = work
                .as_mut()
                .is_none_or(|work| Pin::new(work).poll(cx).is_ready());
            if is_over {
                // Whatever it has not answered is answered when it is dropped.
                work = None;
            }
            answer
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        });
        match answer.await {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                let connection = work.map(|work| Connection {
                    handle: self.handle,
                    work,
                });
                Ok(Response {
                    head,
                    body,
                    connection,
                    idle: Arc::clone(idle),
                })
            }
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Unanswered::Unsent(Box::new(request)),
                None => Unanswered::Broken,
            }),
        }
    }
}

/// An answer whose body is read as it is asked for. Dropped before its end, its connection closes.
pub(crate) struct Response {
    head: Parts,
    body: Incoming,
    /// `None` once it is kept for the next request, or over.
    connection: Option<Connection>,
    idle: Arc<Idle>,
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub fn forget_headers(&mut self) {
        drop(mem::take(&mut self.head.headers));
    }

    pub fn content_length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next stretch of the body, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BackendError>> {
        loop {
            let mut frame = self.poll_body();
            if frame.is_pending() {
                self.drive(cx);
                frame = self.poll_body();
            }
            match frame {
                Poll::Ready(Some(Ok(frame))) => {
                    // What is no data is trailers, which mean nothing to us.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
                Poll::Ready(None) => {
                    self.keep();
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending if self.connection.is_some() => return Poll::Pending,
                Poll::Ready(Some(Err(_))) | Poll::Pending => {
                    self.connection = None;
                    return Poll::Ready(Err(BackendError::Interrupted));
                }
            }
        }
    }

    fn poll_body(&mut self) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut nobody = Context::from_waker(Waker::noop());
        Pin::new(&mut self.body).poll_frame(&mut nobody)
    }

    /// Lets the connection read on, or ends it where it is over.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let is_over = self
            .connection
            .as_mut()
            .is_some_and(|connection| Pin::new(&mut connection.work).poll(cx).is_ready());
        if is_over {
            self.connection = None;
        }
    }

    /// For the next request, unless this answer was the connection's last.
    fn keep(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.handle.is_ready()
        {
            self.idle.put(connection);
        }
    }
}
