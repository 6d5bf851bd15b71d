//! `POST /v1/rerank`, under all the names it goes by.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use domain::RequestId;
use http::{Request, Response};
use pipeline::Refusal;
use wire::openai::{Ranked, decode_rerank, encode_ranking};

use crate::asked::{Asked, aside, routed_json};
use crate::chat::refused;
use crate::line::Signs;
use crate::server::Api;

/// Answers a request for a ranking, or says why not.
pub(crate) async fn answer<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
{
    attempt(api, id, signs, request)
        .await
        .unwrap_or_else(|refusal| refused(&refusal))
}

async fn attempt<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
) -> Result<Response<Body>, Refusal>
where
    B: http_body::Body<Data = Bytes>,
{
    let Asked {
        principal,
        bytes,
        seat: _seat,
    } = Asked::read(api, signs, request).await?;
    let request = aside(move || decode_rerank(&bytes)).await?;
    let ranking = api.pipeline.rerank(&principal, id.clone(), request).await?;
    let (route, reason) = (ranking.route.to_string(), ranking.reason);
    let ranked: Vec<Ranked> = ranking
        .places
        .into_iter()
        .map(|place| Ranked {
            index: place.index,
            score: place.score,
            document: place.document,
        })
        .collect();
    let (model, tokens) = (ranking.model, ranking.prompt_tokens);
    let bytes = aside(move || Ok(encode_ranking(&model, &ranked, tokens))).await?;
    Ok(routed_json(bytes, &route, reason))
}
