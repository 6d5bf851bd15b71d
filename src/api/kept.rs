//! `/admin/v1/cache`: what is kept for other requests, what came of looking, why a request got what it
//! got, and removing it; for the operator alone. Shows no text.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use domain::{AdminChange, BadRequest, CacheAway, Fault, Purge, RequestId, is_tag};
use http::{HeaderMap, Response, StatusCode};
use pipeline::Traced;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::error;

use crate::chat::check_media_type;
use crate::error::{missing, refusal};
use crate::keys::unkept;
use crate::models::json;
use crate::operators::Operator;
use crate::server::Api;

/// What is said where no such request is remembered.
const UNKNOWN: &str =
    "no such request is remembered: the latest 4,096 that the cache had a part in are";

/// While replies that others keep cannot be reached.
const AWAY_WAIT: Duration = Duration::from_secs(1);

/// What is kept, and what came of looking since the start. Fields are added over time, and none changes
/// its meaning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheView {
    /// Replies answer other requests than their own.
    pub semantic: bool,
    pub entries: u64,
    pub compartments: u64,
    pub bytes: u64,
    pub evicted: u64,
    pub faults: u64,
    /// What replicas share cannot be reached, so that nothing is found.
    #[serde(default)]
    pub apart: bool,
    /// Questions that another one's reply answered.
    pub served: u64,
    pub missed: u64,
    /// Answered afresh, and compared.
    pub shadowed: u64,
    /// Nothing was looked for.
    pub unasked: u64,
    /// The encoder or the index did not answer in time, or not soundly.
    pub failed: u64,
    pub shadows_right: u64,
    pub shadows_wrong: u64,
    pub shadows_dropped: u64,
    pub feedback_good: u64,
    pub feedback_bad: u64,
}

/// What the cache did for one request, of each team that used its id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExplainView {
    pub request_id: String,
    pub requests: Vec<ExplainedView>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExplainedView {
    pub team: String,
    /// `missed`, `hit_exact`, `hit_semantic` or `shared`.
    pub outcome: String,
    /// Why it was compared with no other.
    pub why_not: Option<String>,
    /// The beginning of its digest.
    pub compartment: Option<String>,
    pub class: Option<String>,
    pub neighbour: Option<NeighbourView>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NeighbourView {
    pub entry: String,
    pub similarity: f32,
    pub probability_same: f32,
    /// Others near the question whose replies say the same, and whose do not.
    pub alike: u8,
    pub other: u8,
    /// What refused it, whatever its similarity.
    pub guard: Option<String>,
    /// `serve`, `shadow` or `miss`.
    pub verdict: String,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedView {
    /// Replies kept for the same request.
    pub exact: u64,
    /// Replies kept for others.
    pub entries: u64,
}

pub(crate) async fn stats(State(api): State<Arc<Api>>) -> Response<Body> {
    let Some((stats, counts)) = api.pipeline.reuse_stats() else {
        return json(StatusCode::OK, &CacheView::default());
    };
    let view = CacheView {
        semantic: true,
        entries: stats.entries,
        compartments: stats.compartments,
        bytes: stats.bytes,
        evicted: stats.evicted,
        faults: stats.faults,
        apart: stats.is_apart,
        served: counts.served,
        missed: counts.missed,
        shadowed: counts.shadowed,
        unasked: counts.unasked,
        failed: counts.failed,
        shadows_right: counts.shadows_right,
        shadows_wrong: counts.shadows_wrong,
        shadows_dropped: counts.shadows_dropped,
        feedback_good: counts.feedback_good,
        feedback_bad: counts.feedback_bad,
    };
    json(StatusCode::OK, &view)
}

pub(crate) async fn explain(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Response<Body> {
    let traced = api.pipeline.traced(&RequestId::new(&id));
    if traced.is_empty() {
        return missing("id", UNKNOWN);
    }
    let view = ExplainView {
        request_id: id,
        requests: traced.into_iter().map(explained).collect(),
    };
    json(StatusCode::OK, &view)
}

fn explained(traced: Traced) -> ExplainedView {
    ExplainedView {
        team: traced.team.as_str().to_owned(),
        outcome: traced.outcome.to_owned(),
        why_not: traced.why_not.map(str::to_owned),
        compartment: traced.compartment,
        class: traced.class.map(str::to_owned),
        neighbour: traced.neighbour.map(|near| NeighbourView {
            entry: near.entry,
            similarity: near.similarity,
            probability_same: near.probability_same,
            alike: near.alike,
            other: near.other,
            guard: near.guard.map(str::to_owned),
            verdict: near.verdict.to_owned(),
        }),
    }
}

pub(crate) async fn purge(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    if let Err(fault) = check_media_type(&headers) {
        return refusal(&fault);
    }
    match meant(&body) {
        Ok(what) => {
            let log = api.changes.as_deref();
            if let Some(log) = log
                && log.ready().await.is_err()
            {
                return unkept();
            }
            // What was removed before the rest could not be reached is written down too.
            let purged = api.pipeline.purge(&what).await;
            if let Some(log) = log {
                let (id, at) = (told(&what), SystemTime::now());
                let who = operator.name.to_string();
                let what = "cache.purge";
                log.note(AdminChange { at, who, what, id }).await;
            }
            match purged {
                Ok((exact, entries)) => json(StatusCode::OK, &PurgedView { exact, entries }),
                Err(away) => refusal(&cache_away(&away)),
            }
        }
        Err(fault) => refusal(&Fault::BadRequest(fault)),
    }
}

/// Replies that others keep can be neither found nor removed for now.
pub(crate) fn cache_away(away: &CacheAway) -> Fault {
    let cause = away.0.to_string();
    error!(cause, "kept replies cannot be looked up or removed");
    Fault::Overloaded {
        retry_after: AWAY_WAIT,
    }
}

/// What is meant, as it is asked for.
fn told(what: &Purge) -> String {
    match what {
        Purge::Tag(tag) => format!("tag {tag}"),
        Purge::Model(model) => format!("model {}", model.as_str()),
        Purge::Team(team) => format!("team {}", team.as_str()),
        Purge::All => "all".to_owned(),
        Purge::Expired => "expired".to_owned(),
        Purge::Compartment(_) => "compartment".to_owned(),
        Purge::Entry(_) => "entry".to_owned(),
        // Who it is stands nowhere.
        Purge::Subject(..) => "somebody".to_owned(),
    }
}

/// One of `{"tag": "…"}`, `{"model": "…"}`, `{"team": "…"}` and `{"all": true}`.
fn meant(bytes: &[u8]) -> Result<Purge, BadRequest> {
    let one = || BadRequest {
        param: None,
        code: None,
        message: "the body is an object with one of `tag`, `model`, `team` and `all`".to_owned(),
    };
    let body: Value = serde_json::from_slice(bytes).map_err(|_| one())?;
    let body = body
        .as_object()
        .filter(|body| body.len() == 1)
        .ok_or_else(one)?;
    let (name, value) = body.iter().next().ok_or_else(one)?;
    let text = || {
        let text = value.as_str().filter(|text| !text.is_empty());
        text.ok_or_else(|| BadRequest::at(name.as_str(), "is a text that is not empty"))
    };
    match name.as_str() {
        "tag" if value.as_str().is_some_and(|tag| !is_tag(tag)) => {
            Err(BadRequest::at("tag", "is no tag that a reply could have"))
        }
        "tag" => Ok(Purge::Tag(text()?.to_owned())),
        "model" => Ok(Purge::Model(text()?.into())),
        "team" => Ok(Purge::Team(text()?.into())),
        "all" if *value == Value::Bool(true) => Ok(Purge::All),
        "all" => Err(BadRequest::at("all", "is true, or left out")),
        other => Err(BadRequest::at(
            other,
            "is none of `tag`, `model`, `team` and `all`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_meant_or_nothing() {
        for (body, purge) in [
            (r#"{"tag": "spring"}"#, Purge::Tag("spring".into())),
            (r#"{"model": "auto"}"#, Purge::Model("auto".into())),
            (r#"{"team": "red"}"#, Purge::Team("red".into())),
            (r#"{"all": true}"#, Purge::All),
        ] {
            assert_eq!(meant(body.as_bytes()).unwrap(), purge);
        }
        for (body, place) in [
            ("", None),
            ("{}", None),
            (r#"{"tag": "a", "all": true}"#, None),
            (r#"{"tag": ""}"#, Some("tag")),
            (r#"{"tag": 1}"#, Some("tag")),
            (r#"{"tag": "no spaces"}"#, Some("tag")),
            (r#"{"all": false}"#, Some("all")),
            (r#"{"everything": true}"#, Some("everything")),
        ] {
            let fault = meant(body.as_bytes()).unwrap_err();
            assert_eq!(fault.param.as_deref(), place, "{body}");
        }
    }
}
