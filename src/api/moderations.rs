//! `POST /v1/moderations`.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use domain::{Fault, RequestId};
use http::{Request, Response};
use pipeline::{MODERATION_NOT_OFFERED, Refusal};
use wire::openai::decode_moderation_request;

use crate::asked::{Asked, answered, aside, routed_json};
use crate::error::refusal;
use crate::line::Signs;
use crate::server::Api;

/// Has texts and images judged, or says why not. Without anybody to judge, nothing is read.
pub(crate) async fn answer<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
{
    if !api.pipeline.moderates() {
        let what = MODERATION_NOT_OFFERED;
        return refusal(&Fault::NotOffered { what });
    }
    answered(api, signs, request, |asked| moderate(api, id, asked)).await
}

async fn moderate(api: &Arc<Api>, id: &RequestId, asked: Asked) -> Result<Response<Body>, Refusal> {
    let Asked {
        principal,
        bytes,
        trace,
        seat: _seat,
    } = asked.for_its_user(api).await?;
    let request = aside(move || decode_moderation_request(&bytes)).await?;
    let moderated = api
        .pipeline
        .moderate(&principal, id.clone(), &trace, request);
    let moderated = moderated.await?;
    let route = moderated.route.to_string();
    let body = moderated.moderation.body;
    Ok(routed_json(body, &route, moderated.reason))
}
