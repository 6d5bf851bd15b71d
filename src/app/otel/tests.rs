use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use domain::{
    CacheOutcome, FinishReason, MicroUsd, Outcome, RouteTaken, SpanId, StageTimes, Tokens,
    TraceContext, TraceId, Traced, Usage,
};

use super::otlp::SpanKind;
use super::*;

fn record(model: &str) -> ExchangeRecord {
    let id = |byte| SpanId::new([byte; 8]).unwrap();
    ExchangeRecord {
        request_id: "r".into(),
        key: Some("web".into()),
        team: "shop".into(),
        ended_us: 0,
        marks: domain::Marks::default(),
        model_asked: "smart".into(),
        route: Some(RouteTaken {
            backend: "cloudy".into(),
            model: model.to_owned(),
            is_local: false,
        }),
        reason: "code".to_owned(),
        cache: CacheOutcome::Missed,
        outcome: Outcome::Answered,
        usage: Some(Usage {
            prompt_tokens: Tokens(7),
            completion_tokens: Tokens(3),
            cached_tokens: Tokens(5),
            ..Usage::default()
        }),
        is_usage_counted: false,
        cost: Some(MicroUsd(25)),
        saved: None,
        masked_count: 2,
        first_content_after: Some(Duration::from_millis(20)),
        took: Duration::from_millis(40),
        retries_count: 0,
        hedge: None,
        failed_candidates: vec![("first".into(), "unreachable")],
        rescued_by: Vec::new(),
        unrescued: None,
        shares: Vec::new(),
        counterfactual: None,
        shadow: None,
        trace: Some(Box::new(Traced {
            context: Arc::new(TraceContext {
                trace: TraceId::new([1; 16]).unwrap(),
                span: id(2),
                call: id(3),
                parent: Some(id(4)),
                is_sampled: true,
                state: Some("a=1".into()),
            }),
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
            is_streamed: true,
            output_tokens_max: Some(9),
            operation: "chat",
            is_chat: true,
            dimensions: None,
            times: StageTimes {
                admit: Duration::from_millis(1),
                scan: Duration::from_millis(2),
                look_up: Duration::ZERO,
                route: Duration::from_millis(1),
                open: Duration::from_millis(16),
            },
            finished: vec![FinishReason::Length],
        })),
    }
}

fn spans(record: &ExchangeRecord) -> Vec<Span> {
    let traced = record.trace.as_ref().unwrap();
    let made = spans::of(record, traced, Some("openai"));
    assert_eq!(made.len(), spans::count(record));
    made
}

/// As text, for comparing.
fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let all = attributes.iter();
    all.map(|it| {
        let value = match &it.value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(is_so) => is_so.to_string(),
            Value::DoubleValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        (it.key.as_str(), value)
    })
    .collect()
}

#[test]
fn an_exchange_is_a_span_of_its_callers_with_its_stages_and_its_call_below() {
    let record = record("m");
    let spans = spans(&record);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        ["chat smart", "admit", "scan", "route", "open", "chat m"]
    );
    let (exchange, call) = (&spans[0], &spans[5]);
    assert_eq!(exchange.parent_span_id, [4; 8]);
    assert_eq!(exchange.kind, SpanKind::Server);
    assert_eq!(call.span_id, [3; 8], "as the provider was told");
    assert_eq!(call.kind, SpanKind::Client);
    let mut ids: Vec<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len(), "each has an id of its own");
    for span in &spans {
        assert_eq!(span.trace_id, [1; 16]);
        assert_eq!(span.trace_state, "a=1");
        assert!(span.start_time_unix_nano >= exchange.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= exchange.end_time_unix_nano);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    for span in &spans[1..] {
        assert_eq!(span.parent_span_id, [2; 8], "{}", span.name);
    }
    let millisecond = 1_000_000;
    assert_eq!(
        call.start_time_unix_nano - exchange.start_time_unix_nano,
        4 * millisecond
    );

    let ours = attributes(&exchange.attributes);
    assert_eq!(ours["gen_ai.request.model"], "smart");
    assert_eq!(ours["hedge.reason"], "code");
    assert_eq!(ours["hedge.route"], "cloud");
    assert_eq!(ours["hedge.cost_microusd"], "25");
    assert!(
        !ours.contains_key("gen_ai.usage.input_tokens"),
        "that is the call's"
    );
    let theirs = attributes(&call.attributes);
    assert_eq!(theirs["gen_ai.provider.name"], "openai");
    assert_eq!(theirs["gen_ai.response.model"], "m");
    assert_eq!(theirs["gen_ai.usage.input_tokens"], "7");
    assert_eq!(theirs["gen_ai.usage.output_tokens"], "3");
    assert_eq!(theirs["gen_ai.usage.cache_read.input_tokens"], "5");
    assert_eq!(theirs["gen_ai.request.max_tokens"], "9");
    assert_eq!(theirs["gen_ai.response.time_to_first_chunk"], "0.016");
    assert!(theirs["gen_ai.response.finish_reasons"].contains("length"));
    let failed = attributes(&exchange.events[0].attributes);
    assert_eq!(
        (
            failed["hedge.backend"].as_str(),
            failed["error.type"].as_str()
        ),
        ("first", "unreachable")
    );
}

#[test]
fn work_that_is_no_chat_is_an_exchange_and_its_call() {
    let mut record = record("vectors");
    record.failed_candidates.clear();
    let traced = record.trace.as_mut().unwrap();
    (traced.operation, traced.is_chat) = ("embeddings", false);
    (traced.is_streamed, traced.output_tokens_max) = (false, None);
    traced.dimensions = Some(64);
    (traced.times, traced.finished) = (StageTimes::default(), Vec::new());
    let spans = spans(&record);
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["embeddings smart", "embeddings vectors"]);
    let theirs = attributes(&spans[1].attributes);
    assert_eq!(theirs["gen_ai.operation.name"], "embeddings");
    assert_eq!(theirs["gen_ai.embeddings.dimension.count"], "64");
    assert_eq!(theirs["gen_ai.usage.input_tokens"], "7");
    for of_a_reply in [
        "gen_ai.usage.output_tokens",
        "gen_ai.request.stream",
        "gen_ai.response.finish_reasons",
        "gen_ai.response.time_to_first_chunk",
    ] {
        assert!(!theirs.contains_key(of_a_reply), "{of_a_reply}");
    }
    let meters = Meters::default();
    meters.measure(&record, record.trace.as_ref().unwrap(), Some("openai"));
    let read = meters.read(SystemTime::now());
    let counts: Vec<_> = read
        .iter()
        .map(|it| (it.name, it.histogram.data_points.len()))
        .collect();
    assert_eq!(
        counts,
        [
            ("gen_ai.client.operation.duration", 1),
            ("gen_ai.client.token.usage", 1),
        ]
    );
}

#[test]
fn what_was_refused_or_kept_has_no_call() {
    let mut refused = record("m");
    refused.route = None;
    refused.outcome = Outcome::Refused("model_not_found");
    refused.model_asked = "secret words".into();
    let spans_of_it = spans(&refused);
    let exchange = &spans_of_it[0];
    assert_eq!(
        exchange.name, "chat",
        "a name that was not found may be anything"
    );
    assert_eq!(
        attributes(&exchange.attributes)["error.type"],
        "model_not_found"
    );
    assert_eq!(exchange.status.as_ref().unwrap().code, 2);
    assert!(!format!("{spans_of_it:?}").contains("secret words"));

    let mut kept = record("m");
    kept.cache = CacheOutcome::HitExact;
    let names: Vec<_> = spans(&kept).into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["chat smart", "admit", "scan", "route", "open"]);
}

#[test]
fn measures_add_up_and_are_bounded() {
    let meters = Meters::default();
    assert!(meters.read(SystemTime::now()).is_empty());
    for number in 0..1_200 {
        let record = record(&format!("m{number}"));
        meters.measure(&record, record.trace.as_ref().unwrap(), Some("openai"));
    }
    let read = meters.read(SystemTime::now());
    let names: Vec<&str> = read.iter().map(|metric| metric.name).collect();
    assert_eq!(
        names,
        [
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.time_to_first_chunk"
        ]
    );
    for (metric, total) in read.iter().zip([1_200, 2_400, 1_200]) {
        let points = &metric.histogram.data_points;
        assert_eq!(
            points.iter().map(|point| point.count).sum::<u64>(),
            total,
            "{}",
            metric.name
        );
        assert_eq!(points.len(), 1_001, "a thousand, and the rest");
        let rest = points
            .iter()
            .find(|point| attributes(&point.attributes).contains_key("otel.metric.overflow"));
        assert_eq!(rest.unwrap().count, total - 1_000);
        for point in points {
            assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
            assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        }
    }
}

fn settings(queue_max: usize) -> TelemetrySettings {
    let url = |path: &str| format!("http://127.0.0.1:9/v1/{path}").parse().ok();
    TelemetrySettings {
        traces: url("traces"),
        metrics: url("metrics"),
        headers: Vec::new(),
        sample: 1.0,
        service_name: "hedge".to_owned(),
        attributes: BTreeMap::new(),
        queue_max,
        traces_every: Duration::from_secs(5),
        metrics_every: Duration::from_secs(60),
        providers: BTreeMap::new(),
    }
}

#[tokio::test]
async fn what_finds_no_room_is_counted_and_nobody_waits() {
    let client = crate::client::build().unwrap().client;
    let (otel, exporter) = Otel::new(&settings(2), client);
    for _ in 0..5 {
        otel.append(&record("m"));
    }
    let mut unsampled = record("m");
    let traced = unsampled.trace.as_mut().unwrap();
    Arc::make_mut(&mut traced.context).is_sampled = false;
    otel.append(&unsampled);
    let dropped = |otel: &Otel| otel.counts().by_result()[1];
    assert_eq!(dropped(&otel), ("dropped", 3 * 6));
    // The driver is dropped before it could send: nothing is lost silently.
    drop(exporter);
    otel.append(&record("m"));
    assert_eq!(dropped(&otel), ("dropped", 4 * 6));
}
