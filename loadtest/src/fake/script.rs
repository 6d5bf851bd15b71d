//! Bodies as steps, and how a mishap cuts them.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::behaviour::{Behaviour, Mishap};
use super::record::OpenReply;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An error's answer, as the dialect writes it.
pub(super) type WriteError = fn(StatusCode, &str) -> Response<Body>;

/// Begins like JSON and ends amid it.
const GARBAGE_EVENT: &[u8] = b"data: {\"choices\": [{\"del\n\n";
const GARBAGE: &[u8] = b"<html>busy</html>";

/// What a body does next.
#[derive(Debug)]
pub(super) enum Step {
    Send(Bytes),
    /// Waits for the token gap: a token was sent.
    Pace,
    /// Breaks the connection.
    Break,
    Hang,
}

/// A stream in three parts, so that mishaps know where its tokens are.
#[derive(Debug)]
pub(super) struct Parts {
    /// Before the first token.
    pub head: Vec<Step>,
    /// Each token ends in [`Step::Pace`].
    pub tokens: Vec<Step>,
    /// What says that all is well.
    pub tail: Vec<Step>,
}

impl Parts {
    /// All steps, up to the mishap. `error` is the event by which the dialect breaks a stream off.
    pub(super) fn steps(self, mishap: Option<&Mishap>, error: Bytes) -> Vec<Step> {
        let Self {
            head: mut steps,
            mut tokens,
            tail,
        } = self;
        let (kept, last) = match mishap {
            Some(Mishap::CutAfter(count)) => (*count, Some(Step::Break)),
            Some(Mishap::HangAfter(count)) => (*count, Some(Step::Hang)),
            Some(Mishap::ErrorAfter(count)) => (*count, Some(Step::Send(error))),
            Some(Mishap::EndEarly(count)) => (*count, None),
            Some(Mishap::Garbage) => {
                steps.truncate(1);
                (0, Some(Step::Send(Bytes::from_static(GARBAGE_EVENT))))
            }
            Some(Mishap::CutAtByte(bytes)) => {
                steps.extend(tokens);
                steps.extend(tail);
                return cut_at(*bytes as usize, steps);
            }
            Some(Mishap::Status { .. } | Mishap::Hang | Mishap::Unreadable(_)) | None => {
                steps.extend(tokens);
                steps.extend(tail);
                return steps;
            }
        };
        tokens.truncate(end_of_token(&tokens, kept));
        steps.extend(tokens);
        steps.extend(last);
        steps
    }
}

/// Where that many tokens end; all of the steps where they are fewer.
fn end_of_token(steps: &[Step], count: u32) -> usize {
    let Some(last) = (count as usize).checked_sub(1) else {
        return 0;
    };
    let is_pace = |(_, step): &(usize, &Step)| matches!(step, Step::Pace);
    let mut ends = steps.iter().enumerate().filter(is_pace);
    ends.nth(last).map_or(steps.len(), |(at, _)| at + 1)
}

/// The steps of a whole body that goes wrong.
pub(super) fn whole_steps(body: &str, mishap: &Mishap) -> Vec<Step> {
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    match mishap {
        Mishap::CutAfter(_) | Mishap::CutAtByte(_) | Mishap::ErrorAfter(_) => {
            vec![Step::Send(half), Step::Break]
        }
        Mishap::HangAfter(_) => vec![Step::Send(half), Step::Hang],
        Mishap::EndEarly(_) => vec![Step::Send(half)],
        Mishap::Garbage => vec![Step::Send(Bytes::from_static(GARBAGE))],
        Mishap::Status { .. } | Mishap::Hang | Mishap::Unreadable(_) => Vec::new(),
    }
}

/// Waits as told, and answers the mishaps that come before any success.
pub(super) async fn refuse(behaviour: &Behaviour, error: WriteError) -> Option<Response<Body>> {
    if !behaviour.head_delay.is_zero() {
        tokio::time::sleep(behaviour.head_delay).await;
    }
    match behaviour.mishap.as_ref()? {
        Mishap::Status {
            status,
            retry_after_s,
        } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut refusal = error(status, "as the behaviour says");
            if let Some(seconds) = retry_after_s {
                refusal
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Some(refusal)
        }
        Mishap::Unreadable(why) => Some(error(StatusCode::BAD_REQUEST, why)),
        Mishap::Hang => std::future::pending().await,
        Mishap::CutAfter(_)
        | Mishap::CutAtByte(_)
        | Mishap::ErrorAfter(_)
        | Mishap::Garbage
        | Mishap::EndEarly(_)
        | Mishap::HangAfter(_) => None,
    }
}

/// Success, and a body that goes by `steps`.
pub(super) fn respond(
    content_type: &'static str,
    gap: Duration,
    steps: Vec<Step>,
    open: OpenReply,
) -> Response<Body> {
    let script = Script {
        steps: steps.into_iter(),
        gap,
        open,
    };
    let frames = stream::unfold(script, Script::next_frame);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The steps up to that many bytes, and a break; all of them where they are fewer.
fn cut_at(mut bytes: usize, steps: Vec<Step>) -> Vec<Step> {
    let mut kept = Vec::new();
    for step in steps {
        match step {
            Step::Send(sent) if sent.len() > bytes => {
                kept.extend([Step::Send(sent.slice(..bytes)), Step::Break]);
                return kept;
            }
            Step::Send(sent) => {
                bytes -= sent.len();
                kept.push(Step::Send(sent));
            }
            other => kept.push(other),
        }
    }
    kept
}

/// A body being sent. Dropped before its last step, it counts as abandoned.
#[derive(Debug)]
struct Script {
    steps: std::vec::IntoIter<Step>,
    gap: Duration,
    open: OpenReply,
}

impl Script {
    async fn next_frame(mut self) -> Option<(Result<Frame<Bytes>, io::Error>, Self)> {
        let frame = loop {
            let Some(step) = self.steps.next() else {
                self.open.complete();
                return None;
            };
            match step {
                Step::Send(bytes) => break Ok(Frame::data(bytes)),
                Step::Pace if self.gap.is_zero() => {}
                Step::Pace => tokio::time::sleep(self.gap).await,
                Step::Break => {
                    // What was sent so far must leave first: hyper drops its buffer with the error.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    self.open.complete();
                    break Err(io::ErrorKind::ConnectionReset.into());
                }
                Step::Hang => std::future::pending().await,
            }
        };
        Some((frame, self))
    }
}
