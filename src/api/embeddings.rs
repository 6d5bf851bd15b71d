//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use domain::{EmbedRequest, Fault, RequestId};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use pipeline::Refusal;
use wire::openai::{decode_embed_request, encode_embeddings};

use crate::chat::{
    BUSY_WAIT, X_HEDGE_REASON, X_HEDGE_ROUTE, check_media_type, early, header_text, refused,
};
use crate::line::Signs;
use crate::server::Api;
use crate::{auth, body};

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
    let (head, body) = request.into_parts();
    let principal = auth::principal(&api.pipeline, &head.headers).map_err(early)?;
    let _seat = Arc::clone(&api.requests).try_acquire_owned().map_err(|_| {
        early(Fault::Overloaded {
            retry_after: BUSY_WAIT,
        })
    })?;
    check_media_type(&head.headers).map_err(early)?;
    let bytes = body::read(body, &api.ingress.body).await.map_err(early)?;
    signs.set_unread(false);
    let request = decode(bytes).await.map_err(early)?;
    let format = request.format;
    let embedded = api.pipeline.embed(&principal, id.clone(), request).await?;
    // A thousand vectors take milliseconds to write out.
    let (route, reason) = (embedded.route.to_string(), embedded.reason);
    let work = tokio::task::spawn_blocking(move || {
        encode_embeddings(&embedded.model, &embedded.embeddings, format)
    });
    let bytes = work.await.map_err(|_| early(Fault::Internal))?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_HEDGE_ROUTE, header_text(&route));
    headers.insert(X_HEDGE_REASON, header_text(reason));
    Ok(response)
}

async fn decode(bytes: Bytes) -> Result<EmbedRequest, Fault> {
    let decoded = tokio::task::spawn_blocking(move || decode_embed_request(&bytes));
    match decoded.await {
        Ok(decoded) => decoded.map_err(Fault::BadRequest),
        Err(_) => Err(Fault::Internal),
    }
}
