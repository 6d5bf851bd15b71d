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

/// Starts logging in an engine's process: level and message, which the parent puts into its own log.
pub fn start_in_child(level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(std::io::stderr)
        .try_init();
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
            model = model(record),
            route = route(record),
            reason = record.reason,
            outcome = outcome(record.outcome),
            cache = record.cache.as_label(),
            prompt_tokens,
            completion_tokens,
            cost_microusd = record.cost.map(|cost| cost.0),
            saved_microusd = record.saved.map(|saved| saved.0),
            first_content_ms = record.first_content_after.map(milliseconds),
            took_ms = milliseconds(record.took),
            rescues = (!record.rescued_by.is_empty()).then_some(record.rescued_by.len()),
            unrescued = record.unrescued,
            beside = record.shadow.as_ref().map(|it| it.beside.as_str()),
            agreement = record.shadow.as_ref().map(|it| it.agreement.as_label()),
            "exchange"
        );
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// The model that answered. What the caller asked for is the caller's text: it is not for the log,
/// where a line break in it would begin a line of its own.
fn model(record: &ExchangeRecord) -> &str {
    let route = record.route.as_ref();
    route.map_or("none", |route| route.model.as_str())
}

fn route(record: &ExchangeRecord) -> String {
    match (&record.route, record.cache) {
        (_, CacheOutcome::HitExact) => "cache:exact".to_owned(),
        (_, CacheOutcome::HitSemantic) => "cache:semantic".to_owned(),
        (_, CacheOutcome::Shared) => "cache:shared".to_owned(),
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Mutex;

    use domain::RouteTaken;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(route: Option<RouteTaken>) -> String {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let record = ExchangeRecord {
            request_id: "r".into(),
            key: None,
            team: "t".into(),
            ended_us: 0,
            marks: domain::Marks::default(),
            model_asked: "secret\nINFO exchange forged".into(),
            route,
            reason: String::new(),
            cache: CacheOutcome::Missed,
            outcome: Outcome::Answered,
            usage: None,
            is_usage_counted: false,
            cost: None,
            saved: None,
            masked_count: 0,
            first_content_after: None,
            took: Duration::from_millis(40),
            retries_count: 0,
            hedge: None,
            failed_candidates: Vec::new(),
            rescued_by: Vec::new(),
            unrescued: None,
            shares: Vec::new(),
            counterfactual: None,
            shadow: None,
            trace: None,
        };
        tracing::subscriber::with_default(subscriber, || LogSink.append(&record));
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Seen: a line break in the model's name began a line that looked like one of ours.
    #[test]
    fn a_callers_words_are_not_logged_and_forge_no_line() {
        let unknown = logged(None);
        assert!(unknown.contains("model=\"none\""), "{unknown}");
        // An upstream that takes any model is asked for the name as it came.
        let passed_on = logged(Some(RouteTaken {
            backend: "cloudy".into(),
            model: "m\nINFO exchange forged".into(),
            is_local: false,
        }));
        for line in [unknown, passed_on] {
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }
}
