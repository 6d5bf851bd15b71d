//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use domain::RequestId;
use http::{Request, Response};
use pipeline::Refusal;
use wire::openai::{decode_embed_request, encode_embeddings};

use crate::asked::{Asked, aside, routed_json};
use crate::chat::refused;
use crate::line::Signs;
use crate::server::Api;

/// Answers a request for embeddings, or says why not.
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
    let request = aside(move || decode_embed_request(&bytes)).await?;
    let format = request.format;
    let embedded = api.pipeline.embed(&principal, id.clone(), request).await?;
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
