//! `/admin/health`: how each model of each backend does, as learnt from its exchanges, for the operator
//! alone.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use pipeline::{ModelHealth, Percentiles};
use serde::Serialize;

use crate::models::json;
use crate::server::Api;

/// What is answered. Fields are added over time, and none changes its meaning.
#[derive(Serialize)]
struct HealthView {
    backends: Vec<BackendView>,
}

#[derive(Serialize)]
struct BackendView {
    name: String,
    /// `ready`, `starting` or `down`.
    state: &'static str,
    /// Why it is not ready.
    reason: Option<&'static str>,
    /// Until it is asked again, where that is known.
    wait_s: Option<f64>,
    /// Those that were asked for since the start.
    models: Vec<ModelView>,
}

#[derive(Serialize)]
struct ModelView {
    name: String,
    /// Of its circuit breaker: `closed`, `open` or `half_open`.
    state: &'static str,
    /// How long it has been in that state.
    state_for_s: f64,
    failures_in_row: u32,
    chats: u64,
    failures: u64,
    in_flight: u32,
    /// From asking to the first event, of streamed replies.
    first_event_ms: Option<PercentilesView>,
    /// From asking to the end, of replies asked for whole.
    whole_reply_ms: Option<PercentilesView>,
}

#[derive(Serialize)]
struct PercentilesView {
    p50: f64,
    p95: f64,
}

pub(crate) async fn health(State(api): State<Arc<Api>>) -> Response<Body> {
    let models = api.pipeline.health();
    let backends = api.pipeline.readiness().backends;
    let backends = backends.into_iter().map(|(name, health)| {
        let models = models.iter().filter(|it| it.backend.as_str() == name);
        BackendView {
            state: health.state.as_label(),
            reason: health.reason,
            wait_s: health.wait.map(|wait| wait.as_secs_f64()),
            models: models.map(model).collect(),
            name,
        }
    });
    let view = HealthView {
        backends: backends.collect(),
    };
    json(StatusCode::OK, &view)
}

fn model(health: &ModelHealth) -> ModelView {
    ModelView {
        name: health.model.clone(),
        state: health.state.as_label(),
        state_for_s: health.state_for.as_secs_f64(),
        failures_in_row: health.failures_in_row,
        chats: health.chats,
        failures: health.failures,
        in_flight: health.in_flight,
        first_event_ms: health.first_event.map(percentiles),
        whole_reply_ms: health.whole_reply.map(percentiles),
    }
}

fn percentiles(of: Percentiles) -> PercentilesView {
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    PercentilesView {
        p50: ms(of.p50),
        p95: ms(of.p95),
    }
}
