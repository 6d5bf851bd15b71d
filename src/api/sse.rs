//! A reply's stream as a body of server-sent events.
//!
//! - Events that are ready at once share a frame. hyper asks for the first frame before it flushes
//!   the head, so both leave in one write.
//! - A stream that breaks ends in an error event without `[DONE]`; then the connection is cut
//!   before the body's last chunk, so that nobody can take the reply for whole.
//! - Dropping the body drops the stream, which cancels the work behind it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, ChatStream, Classify};
use futures::StreamExt;
use http_body::{Body, Frame};
use pipeline::Cost;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use wire::ReplyEncoder;

use crate::error::verdict;
use crate::line::Signs;
use crate::server::Api;

/// A frame is sent when it holds this much, though more events may be ready.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Comments more often than this would be a load of their own.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// As the header of a whole reply.
const COST_NOTE: &str = "x-hedge-cost-microusd";

/// Breaks the connection off: the reply could not be finished.
#[derive(Debug, thiserror::Error)]
#[error("the reply was cut off")]
pub(crate) struct CutOff;

pub(crate) struct SseBody {
    state: State,
    encoder: Box<dyn ReplyEncoder>,
    /// To be told at the end.
    cost: Option<Cost>,
    out: BytesMut,
    silence: Silence,
    signs: Arc<Signs>,
    api: Arc<Api>,
    /// The request's place, held until the last byte is written.
    _seat: OwnedSemaphorePermit,
}

enum State {
    Flowing(ChatStream),
    /// The error event was handed over; the cut waits until it has left.
    Failed,
    Ended,
}

impl SseBody {
    /// `encoder` has begun its stream.
    pub fn new(
        stream: ChatStream,
        encoder: Box<dyn ReplyEncoder>,
        cost: Option<Cost>,
        signs: Arc<Signs>,
        api: Arc<Api>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            state: State::Flowing(stream),
            encoder,
            cost,
            out: BytesMut::with_capacity(2048),
            silence: Silence::new(api.ingress.keep_alive_every),
            signs,
            api,
            _seat: seat,
        }
    }

    fn fail(&mut self, error: &BackendError) {
        let verdict = verdict(&error.fault());
        let status = verdict.status.as_u16();
        self.encoder.fail(status, &verdict.body, &mut self.out);
        self.api.tally.count_stream_broken();
        self.signs.await_flush();
        self.state = State::Failed;
    }

    fn poll_flowing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let State::Flowing(stream) = &mut self.state {
            match stream.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(event))) => {
                    self.encoder.event(&event, &mut self.out);
                    if self.out.len() >= FRAME_BYTES_MAX {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(Some(Err(error))) => self.fail(&error),
                Poll::Ready(None) => {
                    if let Some(cost) = self.cost.take().and_then(|cost| cost.known()) {
                        self.encoder.note(COST_NOTE, &cost.0, &mut self.out);
                    }
                    self.encoder.finish(&mut self.out);
                    self.state = State::Ended;
                }
                Poll::Pending if self.out.is_empty() => {
                    ready!(self.silence.poll_broken(cx));
                    self.out.extend_from_slice(self.encoder.keep_alive());
                }
                Poll::Pending => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &self.state {
            State::Flowing(_) => {}
            State::Failed if self.signs.is_flushed() => {
                self.state = State::Ended;
                return Poll::Ready(Some(Err(CutOff)));
            }
            // The transport wakes the task when the error event has left.
            State::Failed => return Poll::Pending,
            State::Ended => return Poll::Ready(None),
        }
        ready!(self.poll_flowing(cx));
        self.silence.note_event();
        Poll::Ready(Some(Ok(Frame::data(self.out.split().freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

/// Notices long silences without touching a timer for every event.
struct Silence {
    period: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    has_spoken: bool,
}

impl Silence {
    fn new(period: Duration) -> Self {
        Self {
            period: period.max(SILENCE_MIN),
            timer: None,
            has_spoken: false,
        }
    }

    fn note_event(&mut self) {
        self.has_spoken = true;
    }

    /// Ready when nothing was said for one to two periods.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let period = self.period;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(period)));
        loop {
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + period);
            if !std::mem::take(&mut self.has_spoken) {
                return Poll::Ready(());
            }
        }
    }
}
