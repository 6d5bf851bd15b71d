//! `/v1/models`: what the caller may ask for. OpenAI's and Anthropic's clients look for it at one
//! path; the latter are told by the header that they always send.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use domain::Fault;
use http::header::CONTENT_TYPE;
use http::{Extensions, HeaderMap, HeaderValue, Response, StatusCode};
use pipeline::ModelListing;
use serde::Serialize;

use crate::auth::principal;
use crate::doors::speaks_anthropic;
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

/// Anthropic's list (API reference, "List Models", read 2026-11). It is never long enough for pages.
#[derive(Serialize)]
struct AnthropicList<'a> {
    data: Vec<AnthropicModel<'a>>,
    has_more: bool,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicModel<'a> {
    r#type: &'static str,
    id: &'a str,
    display_name: &'a str,
    /// RFC 3339; the node's start, as above.
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_input_tokens: Option<u32>,
}

impl<'a> AnthropicModel<'a> {
    fn of(listing: &'a ModelListing, created: u64) -> Self {
        Self {
            r#type: "model",
            id: &listing.id,
            display_name: &listing.id,
            created_at: rfc3339(created),
            max_input_tokens: listing.context_tokens_max.map(|tokens| tokens.0),
        }
    }
}

/// Unix seconds as a date and time (RFC 3339, section 5.6), by Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    let principal = match principal(&api, &extensions, &headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    let listings = api.pipeline.models(&principal);
    if speaks_anthropic(&headers) {
        let data = listings
            .iter()
            .map(|listing| AnthropicModel::of(listing, api.started_at))
            .collect();
        let list = AnthropicList {
            data,
            has_more: false,
            first_id: listings.first().map(|listing| listing.id.as_str()),
            last_id: listings.last().map(|listing| listing.id.as_str()),
        };
        return json(StatusCode::OK, &list);
    }
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
    extensions: Extensions,
    headers: HeaderMap,
) -> Response<Body> {
    let principal = match principal(&api, &extensions, &headers) {
        Ok(principal) => principal,
        Err(fault) => return refusal(&fault),
    };
    let listings = api.pipeline.models(&principal);
    match listings.iter().find(|listing| listing.id == id) {
        Some(listing) if speaks_anthropic(&headers) => {
            json(StatusCode::OK, &AnthropicModel::of(listing, api.started_at))
        }
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

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn seconds_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }
}
