//! `POST /v1/feedback`: what an answer was worth, said by the team that got it.

use std::sync::Arc;

use axum::body::Body;
use domain::{BadRequest, RequestId};
use http::{Response, StatusCode};
use pipeline::{Rating, Refusal};
use serde::Serialize;
use serde_json::Value;

use crate::asked::{Asked, aside};
use crate::error::missing;
use crate::models::json;
use crate::server::Api;

/// What is said where no such request is remembered.
const UNKNOWN: &str = "no such request of this key's team is remembered: `request_id` is the answer's \
                       `x-request-id`, and the latest 4,096 requests that the cache had a part in \
                       are";

/// What is answered. Fields are added over time, and none changes its meaning.
#[derive(Serialize)]
struct FeedbackView<'a> {
    object: &'static str,
    request_id: &'a str,
    /// What counts: the first word on a request.
    rating: &'static str,
    /// False where the request was rated before; then nothing came of this.
    is_new: bool,
    /// What the cache had to do with the answer: `missed`, `hit_exact`, `hit_semantic` or `shared`.
    cache: &'static str,
    /// The reply answers nobody any more.
    removed: bool,
}

/// Takes a caller's word.
pub(crate) async fn answer(api: &Arc<Api>, asked: Asked) -> Result<Response<Body>, Refusal> {
    let Asked {
        principal,
        bytes,
        trace: _,
        seat: _seat,
    } = asked;
    let (id, rating) = aside(move || decode(&bytes)).await?;
    let taken = api.pipeline.rate(&principal.team, &id, rating).await;
    let Some(taken) = taken else {
        return Ok(missing("request_id", UNKNOWN));
    };
    let view = FeedbackView {
        object: "feedback",
        request_id: id.as_str(),
        rating: rating.as_label(),
        is_new: taken.is_new,
        cache: taken.outcome.as_label(),
        removed: taken.is_removed,
    };
    Ok(json(StatusCode::OK, &view))
}

fn decode(bytes: &[u8]) -> Result<(RequestId, Rating), BadRequest> {
    const FIELDS: [&str; 2] = ["request_id", "rating"];
    let body: Value = serde_json::from_slice(bytes).map_err(|_| whole("the body is not JSON"))?;
    let Value::Object(body) = body else {
        return Err(whole("the body is not an object"));
    };
    if let Some(other) = body.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(BadRequest::at(
            other.as_str(),
            "is none of the fields `request_id` and `rating`",
        ));
    }
    let text = |field: &str| body.get(field).and_then(Value::as_str);
    let id = text("request_id").filter(|id| !id.is_empty());
    let id =
        id.ok_or_else(|| BadRequest::at("request_id", "is required: the answer's `x-request-id`"))?;
    let rating = text("rating").and_then(Rating::named).ok_or_else(|| {
        BadRequest::at(
            "rating",
            "is required, and `good` or `bad`; `up`, `thumbs_up`, `down` and `thumbs_down` are \
             understood too",
        )
    })?;
    Ok((RequestId::new(id), rating))
}

fn whole(message: &str) -> BadRequest {
    BadRequest {
        param: None,
        code: None,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let taken = decode(br#"{"request_id": "r", "rating": "thumbs_down"}"#).unwrap();
        assert_eq!((taken.0.as_str(), taken.1), ("r", Rating::Bad));
        for (body, place) in [
            ("", None),
            ("[]", None),
            ("{}", Some("request_id")),
            (r#"{"request_id": 1, "rating": "good"}"#, Some("request_id")),
            (
                r#"{"request_id": "", "rating": "good"}"#,
                Some("request_id"),
            ),
            (r#"{"request_id": "r"}"#, Some("rating")),
            (r#"{"request_id": "r", "rating": "fine"}"#, Some("rating")),
            (
                r#"{"request_id": "r", "rating": "good", "why": ""}"#,
                Some("why"),
            ),
        ] {
            let fault = decode(body.as_bytes()).unwrap_err();
            assert_eq!(fault.param.as_deref(), place, "{body}");
        }
    }
}
