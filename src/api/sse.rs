//! A reply's stream as a body of server-sent events.
//!
//! - Events that are ready at once share a frame. hyper asks for the first frame before it flushes
//!   the head, so both leave in one write.
//! - A stream that breaks ends in an error event without `[DONE]`; then the connection is cut
//!   before the body's last chunk, so that nobody can take the reply for whole.
//! - A body may begin before anybody has answered. Then what the head could not say is noted in the
//!   stream, and a refusal is its error event.
//! - That another backend went on with a reply is said in a comment, which clients pass over.
//! - Dropping the body drops the stream, which cancels the work behind it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::{BackendError, ChatEvent, ChatStream, Classify, Fault};
use futures::StreamExt;
use http_body::{Body, Frame};
use pipeline::{Answer, Cost, Refusal, Rescues};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use wire::ReplyEncoder;

use crate::chat::{Desk, Shows, X_HEDGE_COST_MICROUSD, X_HEDGE_RESCUE, header_text};
use crate::error::verdict;
use crate::line::Signs;
use crate::opening::{Opening, Origin, Watch};
use crate::server::Api;

/// A frame is sent when it holds this much, though more events may be ready.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Comments more often than this would be a load of their own.
const SILENCE_MIN: Duration = Duration::from_millis(100);

/// How long a stream is silent at most, where it is to be `period`.
pub(crate) fn silence_max(period: Duration) -> Duration {
    period.max(SILENCE_MIN)
}

/// Breaks the connection off: the reply could not be finished.
#[derive(Debug, thiserror::Error)]
#[error("the reply was cut off")]
pub(crate) struct CutOff;

pub(crate) struct SseBody {
    state: State,
    encoder: Box<dyn ReplyEncoder>,
    out: BytesMut,
    shows: Shows,
    began: Instant,
    /// To be told at the end.
    cost: Option<Cost>,
    /// Of the reply under way; told as remarks.
    rescues: Option<Rescues>,
    silence: Silence,
    signs: Arc<Signs>,
    api: Arc<Api>,
    /// The request's place, held until the last byte is written.
    _seat: OwnedSemaphorePermit,
}

enum State {
    /// Nobody has answered yet.
    Opening(Opening),
    Flowing(ChatStream, Watch),
    /// The error event was handed over; the cut waits until it has left.
    Failed,
    Ended,
}

impl SseBody {
    /// For an answer that has come.
    pub fn answered(
        desk: Desk,
        answer: Answer,
        signs: Arc<Signs>,
        api: Arc<Api>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let watch = Watch::at_first_content(desk.began, &answer.timings);
        let cost = desk.shows.cost.then_some(answer.cost);
        let state = State::Flowing(answer.stream, watch);
        Self {
            cost,
            rescues: answer.rescues,
            ..Self::new(desk, state, answer.model, signs, api, seat)
        }
    }

    /// For one that has not: what can be said before it leaves with the head.
    pub fn unanswered(
        desk: Desk,
        opening: Opening,
        signs: Arc<Signs>,
        api: Arc<Api>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let state = State::Opening(opening);
        let mut body = Self::new(desk, state, String::new(), signs, api, seat);
        body.encoder.greet(&mut body.out);
        body.out.extend_from_slice(body.encoder.keep_alive());
        body
    }

    /// `model` is the one that answers; empty for the one that was asked for.
    fn new(
        desk: Desk,
        state: State,
        model: String,
        signs: Arc<Signs>,
        api: Arc<Api>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let Desk {
            mut encoder,
            mut framing,
            shows,
            began,
        } = desk;
        if !model.is_empty() {
            framing.model = model;
        }
        encoder.begin(framing);
        Self {
            state,
            encoder,
            out: BytesMut::with_capacity(1024),
            shows,
            began,
            cost: None,
            rescues: None,
            silence: Silence::new(api.ingress.keep_alive_every),
            signs,
            api,
            _seat: seat,
        }
    }

    fn fail(&mut self, fault: &Fault) {
        let verdict = verdict(fault);
        let status = verdict.status.as_u16();
        self.encoder.fail(status, &verdict.body, &mut self.out);
        self.api.tally.count_stream_broken();
        self.signs.await_flush();
        self.state = State::Failed;
    }

    fn note(&mut self, origin: &Origin) {
        origin.tell(self.encoder.as_mut(), &mut self.out);
    }

    fn open(&mut self, opened: Result<Answer, Refusal>) {
        match opened {
            Ok(answer) => {
                self.note(&Origin::of(&answer, self.shows));
                let watch = Watch::at_first_content(self.began, &answer.timings);
                self.cost = self.shows.cost.then_some(answer.cost);
                self.rescues = answer.rescues;
                self.state = State::Flowing(answer.stream, watch);
            }
            Err(refusal) => {
                self.note(&Origin::of_refusal(&refusal));
                self.fail(&refusal.fault);
            }
        }
    }

    fn tell_rescues(&mut self) {
        let news = self.rescues.iter().flat_map(Rescues::take);
        for rescued in news {
            // Names may be a caller's words: none of them begins a line.
            let text = header_text(&rescued.to_string());
            let text = text.to_str().unwrap_or_default();
            self.encoder
                .note(X_HEDGE_RESCUE.as_str(), &text, &mut self.out);
        }
    }

    fn poll_flowing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let polled = match &mut self.state {
                State::Opening(opening) => opening.as_mut().poll(cx).map(Came::Opened),
                State::Flowing(stream, _) => stream.poll_next_unpin(cx).map(Came::Event),
                State::Failed | State::Ended => return Poll::Ready(()),
            };
            match polled {
                Poll::Ready(Came::Opened(opened)) => self.open(opened),
                Poll::Ready(Came::Event(Some(Ok(event)))) => {
                    self.tell_rescues();
                    self.encoder.event(&event, &mut self.out);
                    if self.out.len() >= FRAME_BYTES_MAX {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(Came::Event(Some(Err(error)))) => self.fail(&error.fault()),
                Poll::Ready(Came::Event(None)) => self.finish(),
                Poll::Pending if self.out.is_empty() => {
                    ready!(self.silence.poll_broken(cx));
                    self.out.extend_from_slice(self.encoder.keep_alive());
                }
                Poll::Pending => return Poll::Ready(()),
            }
        }
    }

    fn finish(&mut self) {
        if let State::Flowing(_, watch) = &self.state {
            self.encoder.note_times(watch.times());
        }
        if let Some(cost) = self.cost.take().and_then(|cost| cost.known()) {
            let name = X_HEDGE_COST_MICROUSD;
            self.encoder.note(name.as_str(), &cost.0, &mut self.out);
        }
        self.encoder.finish(&mut self.out);
        self.state = State::Ended;
    }
}

enum Came {
    Opened(Result<Answer, Refusal>),
    Event(Option<Result<ChatEvent, BackendError>>),
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &self.state {
            State::Opening(_) | State::Flowing(..) => {}
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
            period: silence_max(period),
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
