//! What is known of an answer when its first content has come: where it is from, and when.

use std::fmt::Write;
use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use domain::Fault;
use http::{HeaderMap, HeaderName, HeaderValue};
use pipeline::{Allowance, Answer, CacheUse, Refusal, Timings};
use tokio::time::Instant;
use wire::{ReplyEncoder, ReplyTimes};

use crate::chat::{Shows, X_HEDGE_CACHE, X_HEDGE_REASON, X_HEDGE_ROUTE, header_text};
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
        if answer.cache != CacheUse::Bypassed {
            fields.push((X_HEDGE_CACHE, header_text(&answer.cache.to_string())));
        }
        fields.extend(allowance(&answer.allowance));
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

/// What is left of the caller's limits, in OpenAI's headers: counts, and until when all of it is there
/// again as `6m0s` or `120ms`.
fn allowance(allowance: &Allowance) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::new();
    let standings = [(allowance.requests, REQUESTS), (allowance.tokens, TOKENS)];
    for (standing, [limit, remaining, reset]) in standings {
        let Some(standing) = standing else { continue };
        fields.push((limit, HeaderValue::from(standing.limit)));
        fields.push((remaining, HeaderValue::from(standing.remaining)));
        if let Some(after) = standing.reset {
            fields.push((reset, header_text(&duration(after))));
        }
    }
    fields
}

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// Rounded up to a millisecond below a second, and to a second above.
fn duration(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let seconds = millis.div_ceil(1_000);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        (..) => format!("{hours}h{minutes}m{seconds}s"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them_and_never_too_short() {
        for (nanos, written) in [
            (0, "0ms"),
            (1, "1ms"),
            (120_000_000, "120ms"),
            (999_000_001, "1s"),
            (1_000_000_001, "2s"),
            (59_500_000_000, "1m0s"),
            (360_000_000_000, "6m0s"),
            (86_400_000_000_000, "24h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), written);
        }
    }
}
