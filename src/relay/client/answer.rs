//! A sealed answer as it is read: opened as it comes, handed on, and read out to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::{BackendError, Enough, SealedResult, TimeoutPhase};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::time::timeout;
use tracing::debug;

use super::figures::{Counts, add, count};
use super::journal::{Journal, verdict};
use super::member::Seat;
use super::opening::{Head, Opening};
use super::tails::TailDesk;

/// The connection's end of an answer, and what opens it. Dropping it resets the exchange.
pub(super) struct Incoming {
    response: reqwest::Response,
    opening: Opening,
    journal: Journal,
    counts: Arc<Counts>,
    /// What the end will say, where it comes.
    verdict: SealedResult,
}

/// How far an answer is.
pub(super) enum Came {
    Some,
    /// The sealed message ended, and is whole.
    End,
}

impl Incoming {
    pub(super) fn new(
        response: reqwest::Response,
        opening: Opening,
        journal: Journal,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            response,
            opening,
            journal,
            counts,
            verdict: SealedResult::Answered,
        }
    }

    /// Reads once more, and opens what came.
    ///
    /// # Errors
    /// [`BackendError::Interrupted`] where it is cut or does not open.
    async fn more(&mut self) -> Result<Came, BackendError> {
        let read = self.response.chunk().await;
        let opened = match read {
            Ok(Some(sealed)) => {
                add(&self.counts.sealed_down_bytes, sealed.len());
                self.journal.came(sealed.len());
                self.opening.push(&sealed).map(|()| Came::Some)
            }
            Ok(None) => self.opening.finish().map(|()| Came::End),
            Err(_) => Err(super::opening::Broken),
        };
        match opened {
            Ok(Came::Some) => Ok(Came::Some),
            Ok(Came::End) => {
                self.journal.ended(self.verdict);
                Ok(Came::End)
            }
            Err(broken) => {
                count(&self.counts.broken);
                self.journal.broken();
                debug!(error = %broken, "sealed answer broke off");
                Err(BackendError::Interrupted)
            }
        }
    }

    /// What was opened of the body, and is handed on.
    fn content(&mut self) -> Option<Bytes> {
        let content = self.opening.content()?;
        add(&self.counts.content_down_bytes, content.len());
        Some(content)
    }

    /// The head within, however much comes before it. Whether the message ended with it.
    pub(super) async fn head(&mut self) -> Result<(Head, bool), BackendError> {
        loop {
            let came = self.more().await?;
            if let Some(head) = self.opening.head() {
                self.journal.head(&head);
                self.verdict = verdict(&head);
                if let Came::End = came {
                    self.journal.ended(self.verdict);
                }
                return Ok((head, matches!(came, Came::End)));
            }
            if let Came::End = came {
                // An answer that ends has a head: the opening saw to it.
                return Err(BackendError::Interrupted);
            }
        }
    }

    /// The whole body, of an answer that is for the edge alone.
    pub(super) async fn whole(
        &mut self,
        mut has_ended: bool,
        bytes_max: usize,
    ) -> Result<Vec<u8>, BackendError> {
        let mut body = Vec::new();
        loop {
            while let Some(content) = self.opening.content() {
                if body.len() + content.len() > bytes_max {
                    return Err(BackendError::Garbled("the relay's own answer is too long"));
                }
                body.extend_from_slice(&content);
            }
            if has_ended || self.opening.is_over() {
                return Ok(body);
            }
            has_ended = matches!(self.more().await?, Came::End);
        }
    }

    /// Reads on to the end of the sealed message, whose body is read already or wanted by nobody.
    pub(super) async fn read_out(mut self, idle: Duration) {
        loop {
            let _ = self.opening.content();
            match timeout(idle, self.more()).await {
                Ok(Ok(Came::Some)) => {}
                Ok(Ok(Came::End) | Err(_)) => return,
                Err(_) => {
                    self.journal.broken();
                    return;
                }
            }
        }
    }
}

/// The body of an answer, as its reader has it.
struct Answer {
    flow: Flow,
    enough: Enough,
    tails: TailDesk,
    /// Between two reads.
    idle: Option<Duration>,
    /// A request counts as under way until its reader has what it wanted.
    _seat: Seat,
}

enum Flow {
    Reading(Box<Incoming>),
    /// The sealed message came to its end, and something of it may still be to be handed on.
    Ended(Box<Incoming>),
    /// What came before the error was handed on first.
    Failing(BackendError),
    Over,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<Bytes, BackendError>> {
        loop {
            let incoming = match &mut self.flow {
                Flow::Over => return None,
                Flow::Failing(_) => {
                    return match std::mem::replace(&mut self.flow, Flow::Over) {
                        Flow::Failing(error) => Some(Err(error)),
                        Flow::Reading(_) | Flow::Ended(_) | Flow::Over => None,
                    };
                }
                Flow::Ended(incoming) => {
                    let content = incoming.content();
                    if content.is_none() {
                        self.flow = Flow::Over;
                    }
                    return content.map(Ok);
                }
                Flow::Reading(incoming) => incoming,
            };
            if let Some(content) = incoming.content() {
                return Some(Ok(content));
            }
            if incoming.opening.is_over() {
                self.leave_tail();
                return None;
            }
            let more = incoming.more();
            let more = match self.idle {
                Some(idle) => timeout(idle, more)
                    .await
                    .unwrap_or(Err(BackendError::TimedOut(TimeoutPhase::BetweenEvents))),
                None => more.await,
            };
            match more {
                Ok(Came::Some) => {}
                Ok(Came::End) => {
                    if let Flow::Reading(incoming) = std::mem::replace(&mut self.flow, Flow::Over) {
                        self.flow = Flow::Ended(incoming);
                    }
                }
                Err(error) => {
                    incoming.journal.broken();
                    let content = incoming.content();
                    self.flow = Flow::Failing(error);
                    if let Some(content) = content {
                        return Some(Ok(content));
                    }
                }
            }
        }
    }

    /// Has what is left read out by somebody else.
    fn leave_tail(&mut self) {
        if let Flow::Reading(incoming) = std::mem::replace(&mut self.flow, Flow::Over) {
            self.tails.leave(incoming);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.enough.is_told() {
            self.leave_tail();
        }
    }
}

/// Where an answer's body goes.
pub(super) struct Reader {
    pub(super) enough: Enough,
    pub(super) tails: TailDesk,
    pub(super) idle: Option<Duration>,
    pub(super) seat: Seat,
}

/// The rest of an answer whose head was read.
pub(super) fn body(
    incoming: Incoming,
    has_ended: bool,
    reader: Reader,
) -> BoxStream<'static, Result<Bytes, BackendError>> {
    let incoming = Box::new(incoming);
    let answer = Answer {
        flow: if has_ended {
            Flow::Ended(incoming)
        } else {
            Flow::Reading(incoming)
        },
        enough: reader.enough,
        tails: reader.tails,
        idle: reader.idle,
        _seat: reader.seat,
    };
    stream::unfold(answer, |mut answer| async move {
        let piece = answer.next().await?;
        Some((piece, answer))
    })
    .boxed()
}
