//! `/openapi.json`: everything that is answered, for people's tools.
//!
//! The document is a file, written by hand: requests are read field by field and not into types, so
//! there is nothing that a schema could be derived from. `tests/it/openapi.rs` holds it to the paths
//! that there are, and `tests/schema/run.sh` asks every operation what its schema allows.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};

const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> Response<Body> {
    let mut response = Response::new(Body::from(DOCUMENT));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
