//! Is it alive, can it answer, what has it done: for supervisors and for Prometheus.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{Fault, Reach};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::error::refusal_with_hint;
use crate::models::json;
use crate::server::Api;

/// What `/metrics` shows, in the Prometheus text format. The doors' own counters are appended.
pub trait Scrape: Send + Sync + 'static {
    /// Complete lines.
    fn text(&self) -> String;
}

#[derive(Serialize)]
struct Ready<'a> {
    status: &'static str,
    /// `offline` while no public upstream can be reached.
    link: &'static str,
    /// Where records are those of all replicas: `shared`, or `waiting` while their database is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<&'static str>,
    /// With whom limits are counted, where that is with other replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'static str>,
    /// Where keys that are made at run time are those of all replicas: `shared`, or `apart` while their
    /// database cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<&'static str>,
    backends: Vec<BackendState<'a>>,
}

#[derive(Serialize)]
struct BackendState<'a> {
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// 200 as long as the process can answer anything at all.
pub(crate) async fn healthz() -> Response<Body> {
    json(StatusCode::OK, &serde_json::json!({"status": "alive"}))
}

pub(crate) const METRICS_ELSEWHERE: &str = "metrics are on the admin listener";

/// 200 only when a chat can be answered.
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> Response<Body> {
    let readiness = api.pipeline.readiness();
    let backends = readiness
        .backends
        .iter()
        .map(|(name, health)| BackendState {
            name,
            state: health.state.as_label(),
            reason: health.reason,
        })
        .collect();
    let (code, status) = if readiness.is_ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let link = if readiness.is_offline {
        "offline"
    } else {
        "online"
    };
    let is_waiting = api.records.as_ref().and_then(|it| it.is_waiting());
    let is_apart = api.desk.as_ref().and_then(|it| it.is_apart());
    let limits = match readiness.reach {
        Reach::Alone => None,
        Reach::Shared | Reach::Apart => Some(readiness.reach.as_label()),
    };
    let ready = Ready {
        status,
        link,
        records: is_waiting.map(|is_waiting| if is_waiting { "waiting" } else { "shared" }),
        limits,
        keys: is_apart.map(|is_apart| if is_apart { "apart" } else { "shared" }),
        backends,
    };
    json(code, &ready)
}

/// On a callers' listener: for a node that this machine's user has to himself. Where callers are told
/// apart, one does not read there what others use.
pub(crate) async fn metrics_of_one(State(api): State<Arc<Api>>) -> Response<Body> {
    let is_told_apart = !api.tokens.load().is_empty() || api.sign_in().is_some();
    if api.pipeline.authenticate(None).is_err() || is_told_apart {
        return refusal_with_hint(&Fault::NotFound, Some(METRICS_ELSEWHERE));
    }
    metrics(State(api)).await
}

pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> Response<Body> {
    let mut text = api.scrape.text();
    api.tally.write(&mut text);
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
