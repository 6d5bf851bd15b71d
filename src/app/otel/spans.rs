//! The spans of an exchange: one for it, one for each stage, and one for the call to whoever answered.
//!
//! Names and attributes are those of docs/gen-ai/gen-ai-spans.md, *Inference* and *Embeddings*, in
//! open-telemetry/semantic-conventions-genai (status: development), read 2026-11-29. What it has no word for is
//! called `hedge.…`. What the call used stands with the call alone, so that whoever adds up counts it once.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::otlp::{Event, KeyValue, Span, SpanKind, Status, Value};
use super::{attribute, number, text};
use domain::{ExchangeRecord, Outcome, SpanId, Traced};

/// Of a word that came with the request: names of models are the caller's where an upstream takes any.
const WORD_BYTES_MAX: usize = 256;
/// W3C's flag, and that the parent is of another program as far as is known (`SpanFlags` of the protocol).
const FLAGS: u32 = 0x001;
const HAS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// How many [`of`] would make.
pub fn count(record: &ExchangeRecord) -> usize {
    let stages = record
        .trace
        .as_ref()
        .map_or(0, |traced| stages(traced).count());
    1 + stages + usize::from(calls(record))
}

/// The exchange's first.
pub fn of(record: &ExchangeRecord, traced: &Traced, provider: Option<&str>) -> Vec<Span> {
    let mut spans = Vec::with_capacity(count(record));
    spans.push(exchange(record, traced));
    let mut at = traced.began;
    for (number, (name, took)) in stages(traced).enumerate() {
        let ends = at + took;
        spans.push(Span {
            name: name.to_owned(),
            span_id: stage_id(traced, number).to_vec(),
            parent_span_id: traced.context.span.bytes().to_vec(),
            kind: SpanKind::Internal,
            flags: FLAGS | HAS_REMOTE,
            ..span(traced, at, ends)
        });
        at = ends;
    }
    if calls(record) {
        spans.push(call(record, traced, provider));
    }
    spans
}

/// Those that took any time, in their order. What follows `open` is the call's.
fn stages(traced: &Traced) -> impl Iterator<Item = (&'static str, Duration)> + use<> {
    let times = traced.times;
    let all = [
        ("admit", times.admit),
        ("scan", times.scan),
        ("look_up", times.look_up),
        ("route", times.route),
        ("open", times.open),
    ];
    all.into_iter().filter(|(_, took)| !took.is_zero())
}

/// Nobody is told of a stage's id, so it is made of the exchange's: another for each, and never the call's but by
/// a chance of one in 2^60.
fn stage_id(traced: &Traced, number: usize) -> [u8; 8] {
    let own = u64::from_be_bytes(traced.context.span.bytes());
    own.wrapping_add(1 + number as u64).max(1).to_be_bytes()
}

/// Whether a backend was asked, and answered.
fn calls(record: &ExchangeRecord) -> bool {
    record.route.is_some() && !record.cache.is_reuse()
}

fn exchange(record: &ExchangeRecord, traced: &Traced) -> Span {
    let context = &traced.context;
    let mut attributes = vec![
        text("gen_ai.operation.name", traced.operation),
        text("hedge.request_id", record.request_id.as_str()),
        text("hedge.team", record.team.as_str()),
        text("hedge.outcome", record.outcome.as_label()),
        text("hedge.cache", record.cache.as_label()),
        text("hedge.route", place(record)),
    ];
    if !record.reason.is_empty() {
        attributes.push(text("hedge.reason", word(&record.reason)));
    }
    if let Some(key) = &record.key {
        attributes.push(text("hedge.key", key.as_str()));
    }
    let asked = asked(record);
    if let Some(asked) = &asked {
        attributes.push(text("gen_ai.request.model", asked.as_str()));
    }
    let money = [
        ("hedge.cost_microusd", record.cost),
        ("hedge.saved_microusd", record.saved),
    ];
    for (name, amount) in money {
        attributes.extend(amount.map(|amount| number(name, amount.0)));
    }
    let counts = [
        ("hedge.masked_count", record.masked_count),
        ("hedge.retries_count", record.retries_count),
        (
            "hedge.rescues_count",
            u32::try_from(record.rescued_by.len()).unwrap_or(u32::MAX),
        ),
    ];
    for (name, count) in counts {
        if count > 0 {
            attributes.push(number(name, count));
        }
    }
    attributes.extend(error_type(record));
    let failed = record.failed_candidates.iter();
    let remote = if context.parent.is_some() {
        IS_REMOTE
    } else {
        0
    };
    Span {
        name: named(traced, asked.as_deref()),
        span_id: context.span.bytes().to_vec(),
        parent_span_id: context
            .parent
            .map(SpanId::bytes)
            .map(Vec::from)
            .unwrap_or_default(),
        kind: SpanKind::Server,
        flags: FLAGS | HAS_REMOTE | remote,
        attributes,
        events: failed
            .map(|(backend, error)| Event {
                time_unix_nano: nanos(traced.began + before_call(traced) + traced.times.open),
                name: "hedge.candidate_failed".to_owned(),
                attributes: vec![
                    text("hedge.backend", backend.as_str()),
                    text("error.type", *error),
                ],
            })
            .collect(),
        status: status(record),
        ..span(traced, traced.began, traced.began + record.took)
    }
}

fn call(record: &ExchangeRecord, traced: &Traced, provider: Option<&str>) -> Span {
    let context = &traced.context;
    let mut attributes = vec![text("gen_ai.operation.name", traced.operation)];
    if traced.is_chat {
        let is_streamed = Value::BoolValue(traced.is_streamed);
        attributes.push(attribute("gen_ai.request.stream", is_streamed));
    }
    if let Some(dimensions) = traced.dimensions {
        attributes.push(number("gen_ai.embeddings.dimension.count", dimensions));
    }
    if let Some(provider) = provider {
        attributes.push(text("gen_ai.provider.name", provider));
    }
    let route = record.route.as_ref();
    let model = route.map(|route| word(&route.model));
    if let (Some(route), Some(model)) = (route, &model) {
        attributes.push(text("gen_ai.request.model", model.as_str()));
        attributes.push(text("gen_ai.response.model", model.as_str()));
        attributes.push(text("hedge.backend", route.backend.as_str()));
    }
    if let Some(most) = traced.output_tokens_max {
        attributes.push(number("gen_ai.request.max_tokens", most));
    }
    if let Some(usage) = &record.usage {
        attributes.push(number("gen_ai.usage.input_tokens", usage.prompt_tokens.0));
        if traced.is_chat {
            attributes.push(number(
                "gen_ai.usage.output_tokens",
                usage.completion_tokens.0,
            ));
        }
        for (name, tokens) in [
            ("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
            (
                "gen_ai.usage.cache_creation.input_tokens",
                usage.cache_write_tokens,
            ),
            (
                "gen_ai.usage.reasoning.output_tokens",
                usage.reasoning_tokens,
            ),
        ] {
            if tokens.0 > 0 {
                attributes.push(number(name, tokens.0));
            }
        }
    }
    if !traced.finished.is_empty() {
        let reasons = traced.finished.iter();
        let reasons = reasons.map(|reason| Value::StringValue(reason.as_label().to_owned()));
        let reasons = Value::ArrayValue {
            values: reasons.collect(),
        };
        attributes.push(attribute("gen_ai.response.finish_reasons", reasons));
    }
    let began = before_call(traced);
    if let (Some(after), true) = (record.first_content_after, traced.is_streamed) {
        let after = after.saturating_sub(began).as_secs_f64();
        attributes.push(attribute(
            "gen_ai.response.time_to_first_chunk",
            Value::DoubleValue(after),
        ));
    }
    attributes.extend(error_type(record));
    let kind = match route {
        Some(route) if route.is_local => SpanKind::Internal,
        Some(_) | None => SpanKind::Client,
    };
    Span {
        name: named(traced, model.as_deref()),
        span_id: context.call.bytes().to_vec(),
        parent_span_id: context.span.bytes().to_vec(),
        kind,
        flags: FLAGS | HAS_REMOTE,
        attributes,
        status: status(record),
        ..span(
            traced,
            traced.began + began.min(record.took),
            traced.began + record.took,
        )
    }
}

fn span(traced: &Traced, began: SystemTime, ended: SystemTime) -> Span {
    let context = &traced.context;
    Span {
        trace_id: context.trace.bytes().to_vec(),
        trace_state: context.state.as_deref().unwrap_or_default().to_owned(),
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(ended),
        ..Span::default()
    }
}

/// What had passed when the first candidate was asked.
fn before_call(traced: &Traced) -> Duration {
    let times = traced.times;
    times.admit + times.scan + times.look_up + times.route
}

/// Who answered, as `/metrics` has it.
fn place(record: &ExchangeRecord) -> &'static str {
    crate::metrics::route(record)
}

/// The model asked for, where it was found: another name may be anything.
fn asked(record: &ExchangeRecord) -> Option<String> {
    let is_found = record.route.is_some() || record.cache.is_reuse();
    is_found.then(|| word(record.model_asked.as_str()))
}

/// `{operation} {model}`, as the conventions want it.
fn named(traced: &Traced, model: Option<&str>) -> String {
    match model {
        Some(model) => format!("{} {model}", traced.operation),
        None => traced.operation.to_owned(),
    }
}

fn word(text: &str) -> String {
    let end = text.floor_char_boundary(WORD_BYTES_MAX);
    text[..end].to_owned()
}

fn error_type(record: &ExchangeRecord) -> Option<KeyValue> {
    match record.outcome {
        Outcome::Answered | Outcome::Abandoned => None,
        Outcome::Refused(label) | Outcome::BrokenOff(label) => Some(text("error.type", label)),
    }
}

/// Unset unless it failed: conventions leave `Ok` to people.
fn status(record: &ExchangeRecord) -> Option<Status> {
    match record.outcome {
        Outcome::Answered | Outcome::Abandoned => None,
        Outcome::Refused(_) | Outcome::BrokenOff(_) => Some(Status::ERROR),
    }
}

pub fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
