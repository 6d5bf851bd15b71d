//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::body::Body;
use domain::RequestId;
use http::Response;
use pipeline::Refusal;
use wire::openai::{decode_embed_request, encode_embeddings};

use crate::asked::{Asked, aside, routed_json};
use crate::server::Api;

/// Answers a request for embeddings, or says why not.
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
    let request = aside(move || decode_embed_request(&bytes)).await?;
    let format = request.format;
    let embedded = api
        .pipeline
        .embed(&principal, id.clone(), &trace, request)
        .await?;
    // A thousand vectors take milliseconds to write out.
    let (route, reason) = (embedded.route.to_string(), embedded.reason);
    let work = aside(move || {
        Ok(encode_embeddings(
            &embedded.model,
            &embedded.embeddings,
            format,
        ))
    });
    Ok(routed_json(work.await?, &route, reason))
}
