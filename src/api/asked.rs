//! What all requests that are answered with one JSON body go through, and their work off the
//! network's threads.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use domain::{BadRequest, Fault, Principal};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use pipeline::{Refusal, TRACE_HEADERS};
use tokio::sync::OwnedSemaphorePermit;
use wire::{may_name_user, user_in};

use crate::chat::{
    BUSY_WAIT, X_HEDGE_REASON, X_HEDGE_ROUTE, check_media_type, early, header_text, refused, tags,
};
use crate::line::Signs;
use crate::server::Api;
use crate::{auth, body};

/// A request that was let in, with its whole body.
pub(crate) struct Asked {
    pub principal: Principal,
    pub bytes: Bytes,
    /// Of which trace it says to be.
    pub trace: Vec<(String, String)>,
    /// Held until the request is answered.
    pub seat: OwnedSemaphorePermit,
}

impl Asked {
    /// Who asks is known before the body is read.
    pub async fn read<B>(
        api: &Arc<Api>,
        signs: &Arc<Signs>,
        request: Request<B>,
    ) -> Result<Self, Refusal>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let (asked, _, ()) = Self::read_after(api, signs, request, check_media_type).await?;
        Ok(asked)
    }

    /// As [`Asked::read`], with the head, and what `check` makes of its fields before the body is read:
    /// that of `content-type` too.
    pub async fn read_after<B, T>(
        api: &Arc<Api>,
        signs: &Arc<Signs>,
        request: Request<B>,
        check: impl FnOnce(&HeaderMap) -> Result<T, Fault>,
    ) -> Result<(Self, Parts, T), Refusal>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let (head, body) = request.into_parts();
        let principal = auth::principal(api, &head.extensions, &head.headers).map_err(early)?;
        let seat = Arc::clone(&api.requests).try_acquire_owned().map_err(|_| {
            early(Fault::Overloaded {
                retry_after: BUSY_WAIT,
            })
        })?;
        let checked = check(&head.headers).map_err(early)?;
        let tags = tags(&head.headers).map_err(early)?;
        let principal = api.mark_tags(Principal { tags, ..principal });
        let bytes = body::read(body, &api.ingress.body).await.map_err(early)?;
        signs.set_unread(false);
        let asked = Self {
            principal,
            bytes,
            trace: trace_headers(&head.headers),
            seat,
        };
        Ok((asked, head, checked))
    }

    /// For whom it is, where it says so or that counts: of a body that is no chat's.
    pub async fn for_its_user(self, api: &Arc<Api>) -> Result<Self, Refusal> {
        let rules = &self.principal.rules;
        let counts = !rules.each_user.is_empty() || rules.is_user_required;
        let names_one = may_name_user(&self.bytes);
        if !counts && !names_one {
            return Ok(self);
        }
        let (principal, bytes, api) = (self.principal, self.bytes.clone(), Arc::clone(api));
        // A large body takes a while to look through.
        let work = aside(move || {
            let user = match user_in(&bytes) {
                // Whoever decodes it may have nothing against it.
                Err(_) if !counts => None,
                user => user?,
            };
            let principal = principal.asking_for(user.as_deref())?;
            Ok(api.mark_user(principal, user.as_deref()))
        });
        let principal = work.await?;
        Ok(Self { principal, ..self })
    }
}

fn trace_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let all = TRACE_HEADERS.iter().flat_map(|name| {
        let values = headers.get_all(*name).iter();
        values.filter_map(|value| Some(((*name).to_owned(), value.to_str().ok()?.to_owned())))
    });
    all.collect()
}

/// Answers a request with what `work` makes of it, or says why not. Who asks and what is known before
/// anything is done.
pub(crate) async fn answered<B, F>(
    api: &Arc<Api>,
    signs: &Arc<Signs>,
    request: Request<B>,
    work: impl FnOnce(Asked) -> F,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    F: Future<Output = Result<Response<Body>, Refusal>>,
{
    let answered = match Asked::read(api, signs, request).await {
        Ok(asked) => work(asked).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(|refusal| refused(&refusal))
}

/// Decodes or encodes on the blocking pool.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BadRequest> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|fault| early(Fault::BadRequest(fault))),
        Err(_) => Err(early(Fault::Internal)),
    }
}

pub(crate) fn json(bytes: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(bytes.into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// As [`json`], with where it comes from and why.
pub(crate) fn routed_json(bytes: impl Into<Body>, route: &str, reason: &str) -> Response<Body> {
    let mut response = json(bytes);
    let headers = response.headers_mut();
    headers.insert(X_HEDGE_ROUTE, header_text(route));
    headers.insert(X_HEDGE_REASON, header_text(reason));
    response
}
