//! `POST /v1/messages/count_tokens`: how many tokens a message's prompt has.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use domain::RequestId;
use http::{HeaderName, HeaderValue, Request, Response};
use pipeline::{PromptCount, Refusal};
use wire::anthropic::{decode_count, encode_count};

use crate::asked::{Asked, aside, json};
use crate::chat::refused;
use crate::line::Signs;
use crate::server::Api;

/// `counted` by the model that is asked, or `estimated` by the text alone.
const X_HEDGE_TOKENS: HeaderName = HeaderName::from_static("x-hedge-tokens");

/// Answers, or says why not.
pub(crate) async fn answer<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
{
    let counted = count(api, id, signs, request).await;
    counted.unwrap_or_else(|refusal| refused(&refusal))
}

async fn count<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
) -> Result<Response<Body>, Refusal>
where
    B: http_body::Body<Data = Bytes>,
{
    let asked = Asked::read(api, signs, request).await?;
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
