//! `POST /v1/rerank`, under all the names it goes by.

use std::sync::Arc;

use axum::body::Body;
use domain::RequestId;
use http::Response;
use pipeline::Refusal;
use wire::openai::{Ranked, decode_rerank, encode_ranking};

use crate::asked::{Asked, aside, routed_json};
use crate::server::Api;

/// Answers a request for a ranking, or says why not.
pub(crate) async fn answer(
    api: &Arc<Api>,
    id: &RequestId,
    asked: Asked,
) -> Result<Response<Body>, Refusal> {
    let Asked {
        principal,
        bytes,
        trace,
        seat: _seat,
    } = asked.for_its_user(api).await?;
    let request = aside(move || decode_rerank(&bytes)).await?;
    let ranking = api
        .pipeline
        .rerank(&principal, id.clone(), &trace, request)
        .await?;
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
