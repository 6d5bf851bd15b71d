//! What a collector of OpenTelemetry is sent, against a small one that reads it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use loadtest::FakeUpstream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::harness::{Hedge, Reply, ask, chat_request, eventually, fake, request, with};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// In a prompt, and so nowhere here.
const SECRET: &str = "the launch code is 4711";

/// What a span of the protocol's JSON says.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    state: String,
    name: String,
    kind: u64,
    attributes: BTreeMap<String, String>,
}

/// `SPAN_KIND_SERVER`: an exchange's.
const SERVER: u64 = 2;

impl Span {
    fn read(span: &Value) -> Self {
        let word = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
        let time = |key: &str| word(key).parse::<u64>().unwrap();
        assert!(
            time("startTimeUnixNano") <= time("endTimeUnixNano"),
            "{span}"
        );
        let [trace, id] = [word("traceId"), word("spanId")];
        assert_eq!((trace.len(), id.len()), (32, 16), "{span}");
        Self {
            trace,
            id,
            parent: word("parentSpanId"),
            state: word("traceState"),
            name: word("name"),
            kind: span["kind"].as_u64().unwrap(),
            attributes: words(&span["attributes"]),
        }
    }
}

/// What came, whole.
#[derive(Default)]
struct Taken {
    bodies: Vec<Bytes>,
    authorization: Vec<String>,
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    metrics: Vec<Value>,
    /// What is answered from now on; `None`: 200.
    refusal: Option<StatusCode>,
}

/// A collector. Dropping it closes it.
struct Collector {
    addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    _serving: JoinSet<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Taken::default()));
        let theirs = Arc::clone(&taken);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let taken = Arc::clone(&theirs);
                let answer = service_fn(move |request| answer(request, Arc::clone(&taken)));
                let io = TokioIo::new(stream);
                connections.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(io, answer).await);
                });
            }
        });
        Self {
            addr,
            taken,
            _serving: serving,
        }
    }

    fn with<T>(&self, read: impl FnOnce(&mut Taken) -> T) -> T {
        read(&mut self.taken.lock().unwrap())
    }

    /// A node before `fake` that sends here, soon.
    async fn node(&self, fake: &FakeUpstream, more: &str) -> Hedge {
        let config = format!(
            "[telemetry]\nendpoint = \"http://{}/\"\ntraces_every_ms = 100\nmetrics_every_ms = 200\n\
             headers = {{ authorization = \"env:FAKE_KEY\" }}\n\
             attributes = {{ \"deployment.environment.name\" = \"test\" }}\n{more}\n",
            self.addr
        );
        Hedge::before(fake, &config).await
    }

    /// Waits until there are spans whose names satisfy `holds`.
    async fn until(&self, what: &str, holds: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        eventually(what, async || self.with(|taken| holds(&taken.spans))).await;
        self.with(|taken| taken.spans.clone())
    }
}

async fn answer(
    request: Request<Incoming>,
    taken: Arc<Mutex<Taken>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut taken = taken.lock().unwrap();
    assert_eq!(head.method, "POST");
    assert_eq!(head.headers["content-type"], "application/json");
    let authorization = head.headers["authorization"].to_str().unwrap();
    taken.authorization.push(authorization.to_owned());
    if let Some(status) = taken.refusal {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = status;
        return Ok(refusal);
    }
    let read: Value = serde_json::from_slice(&body).unwrap();
    match head.uri.path() {
        "/v1/traces" => {
            for of_resource in list(&read["resourceSpans"]) {
                taken.resource = words(&of_resource["resource"]["attributes"]);
                for of_scope in list(&of_resource["scopeSpans"]) {
                    assert_eq!(of_scope["scope"]["name"], "hedge");
                    taken
                        .spans
                        .extend(list(&of_scope["spans"]).iter().map(Span::read));
                }
            }
        }
        "/v1/metrics" => {
            let scopes = list(&read["resourceMetrics"]).iter();
            let scopes = scopes.flat_map(|of_resource| list(&of_resource["scopeMetrics"]));
            let metrics = scopes.flat_map(|of_scope| list(&of_scope["metrics"]));
            taken.metrics = metrics.cloned().collect();
        }
        other => panic!("asked for {other}"),
    }
    taken.bodies.push(body);
    Ok(Response::new(Full::default()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Attributes as text, for comparing.
fn words(attributes: &Value) -> BTreeMap<String, String> {
    let all = list(attributes).iter();
    all.map(|it| {
        let value = &it["value"];
        let text = value["stringValue"].as_str().or(value["intValue"].as_str());
        let text = text.map_or_else(|| value.to_string(), str::to_owned);
        (it["key"].as_str().unwrap().to_owned(), text)
    })
    .collect()
}

async fn traced(
    hedge: &Hedge,
    text: &str,
    is_streamed: bool,
    parent: Option<&'static str>,
) -> Reply {
    let body = with(
        ask("fake/bench", text),
        json!({"stream": is_streamed, "max_tokens": 9}),
    );
    let mut request = chat_request(&body);
    if let Some(parent) = parent {
        let headers = request.headers_mut();
        headers.insert("traceparent", HeaderValue::from_static(parent));
        headers.insert("tracestate", HeaderValue::from_static("vendor=1"));
    }
    hedge.send(request).await
}

#[tokio::test]
async fn an_exchange_is_told_by_its_callers_trace_and_the_provider_goes_on_with_it() {
    let (fake, collector) = (fake(), Collector::start().await);
    let hedge = collector.node(&fake, "").await;
    let reply = traced(&hedge, SECRET, true, Some(PARENT)).await;
    assert!(reply.is_done(), "{}", reply.text);
    let spans = collector
        .until("the call is told", |spans| {
            spans.iter().any(|span| span.name == "chat bench")
        })
        .await;

    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (exchange, call) = (find("chat fake/bench"), find("chat bench"));
    for span in &spans {
        assert_eq!(span.trace, TRACE, "{}", span.name);
        assert_eq!(span.state, "vendor=1");
    }
    assert_eq!(exchange.parent, "00f067aa0ba902b7");
    let stages = spans.iter().filter(|span| span.name != "chat fake/bench");
    for span in stages.clone() {
        assert_eq!(span.parent, exchange.id, "{}", span.name);
    }
    for stage in ["admit", "scan", "route", "open"] {
        assert!(stages.clone().any(|span| span.name == stage), "{stage}");
    }
    // The provider was told of the call.
    let seen = &fake.seen()[0].headers;
    assert_eq!(seen["traceparent"], format!("00-{TRACE}-{}-01", call.id));
    assert_eq!(seen["tracestate"], "vendor=1");

    let theirs = &call.attributes;
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "fake"),
        ("gen_ai.request.model", "bench"),
        ("gen_ai.response.model", "bench"),
        ("gen_ai.request.stream", r#"{"boolValue":true}"#),
        ("gen_ai.request.max_tokens", "9"),
    ] {
        assert_eq!(theirs[key], value, "{key}");
    }
    let usage: u64 = theirs["gen_ai.usage.input_tokens"].parse().unwrap();
    assert!(usage > 0);
    assert!(theirs.contains_key("gen_ai.usage.output_tokens"));
    assert!(theirs.contains_key("gen_ai.response.time_to_first_chunk"));
    assert!(
        theirs["gen_ai.response.finish_reasons"].contains("length"),
        "{theirs:?}"
    );
    let ours = &exchange.attributes;
    assert_eq!(ours["hedge.request_id"], reply.header("x-request-id"));
    assert_eq!(ours["hedge.outcome"], "answered");
    assert_eq!(ours["hedge.cache"], "missed");

    let resource = collector.with(|taken| taken.resource.clone());
    assert_eq!(resource["service.name"], "hedge");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert!(resource.contains_key("service.instance.id"));
    assert_eq!(
        collector.with(|taken| taken.authorization[0].clone()),
        "cloud-key"
    );
}

#[tokio::test]
async fn embeddings_are_told_as_chats_are() {
    let (fake, collector) = (fake(), Collector::start().await);
    let hedge = collector.node(&fake, "").await;
    let body = json!({"model": "fake/bench", "input": [SECRET, "more"], "dimensions": 4});
    let mut embed = request(Method::POST, "/v1/embeddings", body.to_string().into());
    for (name, value) in [
        ("traceparent", PARENT),
        ("content-type", "application/json"),
    ] {
        let value = HeaderValue::from_static(value);
        embed.headers_mut().insert(name, value);
    }
    let reply = hedge.send(embed).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let spans = collector
        .until("the call is told", |spans| {
            spans.iter().any(|span| span.name == "embeddings bench")
        })
        .await;
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (exchange, call) = (find("embeddings fake/bench"), find("embeddings bench"));
    assert_eq!((exchange.trace.as_str(), exchange.kind), (TRACE, SERVER));
    assert_eq!(exchange.parent, "00f067aa0ba902b7");
    assert_eq!(call.parent, exchange.id);
    let theirs = &call.attributes;
    assert_eq!(theirs["gen_ai.operation.name"], "embeddings");
    assert_eq!(theirs["gen_ai.embeddings.dimension.count"], "4");
    assert!(
        theirs.contains_key("gen_ai.usage.input_tokens"),
        "{theirs:?}"
    );
    for body in collector.with(|taken| taken.bodies.clone()) {
        assert!(!String::from_utf8_lossy(&body).contains("launch code"));
    }
}

#[tokio::test]
async fn nothing_that_was_said_is_told() {
    let (fake, collector) = (fake(), Collector::start().await);
    let hedge = collector.node(&fake, "").await;
    let said = traced(&hedge, SECRET, false, None).await.content();
    assert!(!said.is_empty());
    traced(&hedge, SECRET, true, None).await;
    // A name of a model that there is not may be anything, and so may a team's prompt in it.
    let unknown = hedge.chat(&ask("fake/the launch code", SECRET)).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let cached = traced(&hedge, SECRET, false, None).await;
    assert_eq!(cached.route(), "cache:exact");
    collector
        .until("all four are told", |spans| {
            spans.iter().filter(|span| span.kind == SERVER).count() == 4
        })
        .await;
    eventually("measures are told", async || {
        collector.with(|taken| !taken.metrics.is_empty())
    })
    .await;
    let bodies = collector.with(|taken| taken.bodies.clone());
    for body in bodies {
        let text = String::from_utf8_lossy(&body);
        for word in [SECRET, "launch code", "cloud-key", said.as_str()] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

#[tokio::test]
async fn measures_of_the_conventions_are_told() {
    let (fake, collector) = (fake(), Collector::start().await);
    let hedge = collector.node(&fake, "traces = false").await;
    traced(&hedge, "one", true, None).await;
    traced(&hedge, "two", false, None).await;
    let counted = |metrics: &[Value], name: &str| -> u64 {
        let found = metrics.iter().filter(|metric| metric["name"] == name);
        let points = found.flat_map(|metric| {
            assert_eq!(
                metric["histogram"]["aggregationTemporality"], 2,
                "cumulative"
            );
            list(&metric["histogram"]["dataPoints"])
        });
        let counts = points.map(|point| point["count"].as_str().unwrap().parse::<u64>().unwrap());
        counts.sum()
    };
    eventually("both are measured", async || {
        collector.with(|taken| {
            counted(&taken.metrics, "gen_ai.client.operation.duration") == 2
                && counted(&taken.metrics, "gen_ai.client.token.usage") == 4
                && counted(
                    &taken.metrics,
                    "gen_ai.client.operation.time_to_first_chunk",
                ) == 1
        })
    })
    .await;
    let metrics = collector.with(|taken| taken.metrics.clone());
    for metric in &metrics {
        let point = &list(&metric["histogram"]["dataPoints"])[0];
        let buckets = list(&point["bucketCounts"]).len();
        assert_eq!(buckets, list(&point["explicitBounds"]).len() + 1, "{point}");
        let point = words(&point["attributes"]);
        assert_eq!(point["gen_ai.operation.name"], "chat");
        assert_eq!(point["gen_ai.provider.name"], "fake");
        assert_eq!(point["gen_ai.request.model"], "bench");
    }
    assert!(collector.with(|taken| taken.spans.is_empty()));
}

#[tokio::test]
async fn a_caller_that_samples_nothing_is_not_told_of_and_the_provider_hears_so() {
    let (fake, collector) = (fake(), Collector::start().await);
    let hedge = collector.node(&fake, "sample = 0.0").await;
    const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    traced(&hedge, "unsampled", false, Some(UNSAMPLED)).await;
    traced(&hedge, "of its own", false, None).await;
    traced(&hedge, "sampled", false, Some(PARENT)).await;
    let spans = collector
        .until("the sampled one is told", |spans| !spans.is_empty())
        .await;
    let exchanges = spans.iter().filter(|span| span.kind == SERVER);
    assert_eq!(exchanges.count(), 1);
    let seen: Vec<String> = fake
        .seen()
        .into_iter()
        .map(|seen| seen.headers["traceparent"].clone())
        .collect();
    assert!(
        seen[0].starts_with(&format!("00-{TRACE}-")) && seen[0].ends_with("-00"),
        "{seen:?}"
    );
    assert!(
        !seen[1].contains(TRACE) && seen[1].ends_with("-00"),
        "{seen:?}"
    );
    assert!(seen[2].ends_with("-01"), "{seen:?}");
}

#[tokio::test]
async fn a_collector_that_refuses_harms_nobody_and_what_is_lost_is_counted() {
    let (fake, collector) = (fake(), Collector::start().await);
    collector.with(|taken| taken.refusal = Some(StatusCode::BAD_REQUEST));
    let hedge = collector.node(&fake, "queue_max = 1").await;
    for text in ["one", "two", "three"] {
        assert_eq!(
            traced(&hedge, text, false, None).await.status,
            StatusCode::OK
        );
    }
    eventually("what was not taken is counted", async || {
        let shown = hedge.metrics().await;
        let lost = shown.lines().filter_map(|line| {
            let (name, count) = line.rsplit_once(' ')?;
            let is_lost = name.contains("dropped") || name.contains("refused");
            let is_ours = name.starts_with("hedge_telemetry_spans_total");
            (is_ours && is_lost).then(|| count.parse::<u64>().unwrap())
        });
        // Each has one of its own, one of its call, and some of its stages.
        lost.sum::<u64>() >= 6
    })
    .await;
    assert!(hedge.log().contains("telemetry is not taken"));
    assert!(!hedge.log().contains("cloud-key"));
    collector.with(|taken| taken.refusal = None);
    eventually("it is taken again", async || {
        traced(&hedge, "again", false, None).await;
        collector.with(|taken| !taken.spans.is_empty())
    })
    .await;
}

#[tokio::test]
async fn what_is_left_at_the_end_is_sent() {
    let (fake, collector) = (fake(), Collector::start().await);
    let hedge = collector.node(&fake, "").await;
    traced(&hedge, "the last", false, None).await;
    hedge.terminate();
    assert!(hedge.ended_well().await);
    let told = collector.with(|taken| {
        taken
            .spans
            .iter()
            .filter(|span| span.kind == SERVER)
            .count()
    });
    assert_eq!(told, 1);
    assert!(collector.with(|taken| !taken.metrics.is_empty()));
}

#[tokio::test]
async fn without_a_collector_the_callers_trace_is_not_touched() {
    let fake = fake();
    let hedge = Hedge::before(&fake, "").await;
    traced(&hedge, "hi", false, Some(PARENT)).await;
    assert!(!fake.seen()[0].headers.contains_key("traceparent"));
    assert!(!hedge.metrics().await.contains("telemetry_spans"));
}
