//! Logs: to standard error, for people or for machines.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use domain::{CacheOutcome, ExchangeRecord, Outcome, RecordSink};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, RawLog};

/// Starts logging. The first call wins.
pub fn start(log: &RawLog) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Failing means that logging was started already.
    let _ = match log.format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// One line per exchange.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogSink;

impl RecordSink for LogSink {
    fn append(&self, record: &ExchangeRecord) {
        let (prompt_tokens, completion_tokens) = record.usage.map_or((0, 0), |usage| {
            (usage.prompt_tokens.0, usage.completion_tokens.0)
        });
        info!(
            request_id = %record.request_id,
            key = record.key.as_ref().map(tracing::field::display),
            team = %record.team,
            model = %record.model_asked,
            route = route(record),
            reason = record.reason,
            outcome = outcome(record.outcome),
            cache = record.cache.as_label(),
            prompt_tokens,
            completion_tokens,
            first_content_ms = record.first_content_after.map(milliseconds),
            took_ms = milliseconds(record.took),
            "exchange"
        );
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

fn route(record: &ExchangeRecord) -> String {
    match (&record.route, record.cache) {
        (_, CacheOutcome::HitExact) => "cache:exact".to_owned(),
        (Some(route), _) if route.is_local => format!("local:{}", route.model),
        (Some(route), _) => format!("cloud:{}", route.backend),
        (None, _) => "none".to_owned(),
    }
}

/// The outcome, and which refusal or failure it was.
fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered | Outcome::Abandoned => outcome.as_label(),
        Outcome::Refused(label) | Outcome::BrokenOff(label) => label,
    }
}

/// Arc'd, as the pipeline takes its sinks.
#[must_use]
pub fn log_sink() -> Arc<dyn RecordSink> {
    Arc::new(LogSink)
}
