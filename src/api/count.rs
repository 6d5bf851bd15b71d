//! `POST /v1/messages/count_tokens`: how many tokens a message's prompt has.

use std::sync::Arc;

use axum::body::Body;
use domain::RequestId;
use http::{HeaderName, HeaderValue, Response};
use pipeline::{PromptCount, Refusal};
use wire::anthropic::{decode_count, encode_count};

use crate::asked::{Asked, aside, json};
use crate::server::Api;

/// `counted` by the model that is asked, or `estimated` by the text alone.
const X_HEDGE_TOKENS: HeaderName = HeaderName::from_static("x-hedge-tokens");

/// Answers, or says why not.
pub(crate) async fn answer(
    api: &Arc<Api>,
    id: &RequestId,
    asked: Asked,
) -> Result<Response<Body>, Refusal> {
    let (principal, bytes, pipeline) = (asked.principal, asked.bytes, &api.pipeline);
    let chat = aside(move || decode_count(&bytes)).await?;
    let counted = pipeline.count_prompt(&principal, id.clone(), chat).await?;
    let (tokens, how) = match counted {
        PromptCount::Counted(tokens) => (tokens, "counted"),
        PromptCount::Estimated(tokens) => (tokens, "estimated"),
    };
    let mut response = json(encode_count(tokens));
    let how = HeaderValue::from_static(how);
    response.headers_mut().insert(X_HEDGE_TOKENS, how);
    Ok(response)
}
