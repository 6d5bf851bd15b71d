//! What is known of an answer when its first content has come: where it is from, and when.

use std::fmt::Write;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use domain::Fault;
use http::{HeaderMap, HeaderName, HeaderValue};
use pipeline::{Answer, Refusal, Timings};
use tokio::time::Instant;
use wire::{ReplyEncoder, ReplyTimes};

use crate::chat::{Shows, X_HEDGE_REASON, X_HEDGE_ROUTE, header_text};
use crate::error::verdict;

/// An exchange until its first content.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What the head of an answer says of where it comes from; what a stream's notes say where its head left
/// before that was known.
#[derive(Debug)]
pub(crate) struct Origin(Vec<(HeaderName, HeaderValue)>);

impl Origin {
    pub fn of(answer: &Answer, shows: Shows) -> Self {
        let mut fields = vec![
            (X_HEDGE_ROUTE, header_text(&answer.route.to_string())),
            (X_HEDGE_REASON, header_text(&answer.reason)),
        ];
        if shows.timing {
            fields.push((SERVER_TIMING, server_timing(&answer.timings)));
        }
        Self(fields)
    }

    /// Of an exchange that ends without an answer.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        let reason = refusal.reason.as_deref();
        let mut fields = Vec::from_iter(reason.map(|it| (X_HEDGE_REASON, header_text(it))));
        if let Some(wait) = retry_after(&refusal.fault) {
            fields.push((http::header::RETRY_AFTER, wait.into()));
        }
        Self(fields)
    }

    pub fn put_into(self, headers: &mut HeaderMap) {
        headers.extend(self.0);
    }

    /// Notes in a stream what a header would have said.
    pub fn tell(&self, encoder: &mut dyn ReplyEncoder, out: &mut BytesMut) {
        for (name, text) in &self.0 {
            encoder.note(name.as_str(), &text.to_str().unwrap_or_default(), out);
        }
    }
}

fn retry_after(fault: &Fault) -> Option<u64> {
    let wait = verdict(fault).retry_after?;
    Some(crate::error::seconds_up(wait))
}

/// When things happened to a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    began: Instant,
    load: Duration,
    prompt: Duration,
    first_content_at: Instant,
}

impl Watch {
    /// To be called when the first content has come.
    pub fn at_first_content(began: Instant, timings: &Timings) -> Self {
        let now = Instant::now();
        let until_now = now.saturating_duration_since(began);
        Self {
            began,
            load: until_now.saturating_sub(timings.open),
            prompt: timings.open,
            first_content_at: now,
        }
    }

    /// Counts what was before the first content as the reply's own.
    pub fn forget_prompt(&mut self) {
        let prompt = std::mem::take(&mut self.prompt);
        let from = self.first_content_at.checked_sub(prompt);
        self.first_content_at = from.unwrap_or(self.began);
    }

    /// Until now, when the reply ends.
    pub fn times(&self) -> ReplyTimes {
        let now = Instant::now();
        ReplyTimes {
            total: now.saturating_duration_since(self.began),
            load: self.load,
            prompt: self.prompt,
            reply: now.saturating_duration_since(self.first_content_at),
        }
    }
}

/// W3C Server Timing: durations in milliseconds.
fn server_timing(timings: &Timings) -> HeaderValue {
    let stages = [
        ("admit", timings.admit),
        ("scan", timings.scan),
        ("lookup", timings.look_up),
        ("route", timings.route),
        ("open", timings.open),
    ];
    let mut text = String::with_capacity(96);
    for (at, (name, took)) in stages.into_iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let took_ms = took.as_secs_f64() * 1e3;
        write!(text, "{comma}{name};dur={took_ms:.3}").expect("writing to a string does not fail");
    }
    header_text(&text)
}
