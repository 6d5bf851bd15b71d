//! `/v1/models`: what the caller may ask for.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use domain::Fault;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use pipeline::ModelListing;
use serde::Serialize;

use crate::auth::principal;
use crate::error::refusal;
use crate::server::Api;

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

/// OpenAI's model object. `context_length` is our addition, in the spelling of other gateways.
#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    /// Unix seconds. Models have no date here; it is when the node started.
    created: u64,
    owned_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u32>,
}

impl<'a> Model<'a> {
    fn of(listing: &'a ModelListing, created: u64) -> Self {
        Self {
            id: &listing.id,
            object: "model",
            created,
            owned_by: &listing.owned_by,
            context_length: listing.context_tokens_max.map(|tokens| tokens.0),
        }
    }
}

pub(crate) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response<Body> {
    let principal = match principal(&api.pipeline, &headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    let listings = api.pipeline.models(&principal);
    let data = listings
        .iter()
        .map(|listing| Model::of(listing, api.started_at))
        .collect();
    json(
        StatusCode::OK,
        &List {
            object: "list",
            data,
        },
    )
}

pub(crate) async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let principal = match principal(&api.pipeline, &headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    let listings = api.pipeline.models(&principal);
    match listings.iter().find(|listing| listing.id == id) {
        Some(listing) => json(StatusCode::OK, &Model::of(listing, api.started_at)),
        None => {
            let nearest = nearest(&id, &listings);
            refusal(&Fault::ModelNotFound { asked: id, nearest })
        }
    }
}

/// The listed name most like `asked`, if any is like it at all.
fn nearest(asked: &str, listings: &[ModelListing]) -> Option<String> {
    /// Below it, the nearest of few names is usually an unrelated one.
    const LIKENESS_MIN: f64 = 0.5;
    let asked: String = asked.chars().take(128).collect();
    listings
        .iter()
        .map(|listing| {
            (
                strsim::normalized_damerau_levenshtein(&asked, &listing.id),
                listing,
            )
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, listing)| listing.id.clone())
}

/// A JSON answer.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    let bytes = match serde_json::to_vec(value) {
        Ok(bytes) => bytes,
        Err(_) => return refusal(&Fault::Internal),
    };
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
