//! A chat in any dialect: from the request's head to the answer's.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use domain::{BadRequest, ChatRequest, Classify, Delivery, Fault, Priority, RequestId, collect};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, PROXY_AUTHORIZATION,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pipeline::{Answer, CacheWish, Cost, Parsed, Refusal, RequestContext, Timings};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;
use wire::openai::Framing;
use wire::{Address, Decoded, ReplyEncoder, ServerDialect};

use crate::asked::Asked;
use crate::error::refusal;
use crate::line::Signs;
use crate::responses;
use crate::server::Api;
use crate::sse::SseBody;

pub(crate) const X_HEDGE_ROUTE: HeaderName = HeaderName::from_static("x-hedge-route");
pub(crate) const X_HEDGE_REASON: HeaderName = HeaderName::from_static("x-hedge-reason");
/// A request with `x-hedge-timing: 1` gets a `server-timing` header.
const X_HEDGE_TIMING: HeaderName = HeaderName::from_static("x-hedge-timing");
/// A request with `x-hedge-cost: 1` is told what it cost: in a header of a whole reply, in a comment at
/// the end of a stream.
const X_HEDGE_COST: HeaderName = HeaderName::from_static("x-hedge-cost");
pub(crate) const X_HEDGE_COST_MICROUSD: HeaderName =
    HeaderName::from_static("x-hedge-cost-microusd");
/// `interactive` (as without it) or `batch`.
const X_HEDGE_PRIORITY: HeaderName = HeaderName::from_static("x-hedge-priority");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Azure's, Anthropic's and Google's key headers: not shown to routing rules.
const OTHER_KEYS: [&str; 3] = ["api-key", "x-api-key", "x-goog-api-key"];

/// Bodies up to this are decoded in place: about 0.3 ms. Larger ones go to the blocking pool.
const DECODE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// What a caller is told to wait when too many requests are under way.
pub(crate) const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Where a chat came in.
pub(crate) struct Door {
    pub dialect: &'static dyn ServerDialect,
    pub address: Address,
}

/// Answers a chat, or says why not.
pub(crate) async fn answer<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
    door: Door,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
{
    attempt(api, id, signs, request, door)
        .await
        .unwrap_or_else(|refusal| refused(&refusal))
}

/// A refusal as it goes out: with the rule that decided, if one did.
pub(crate) fn refused(Refusal { fault, reason }: &Refusal) -> Response<Body> {
    let mut response = refusal(fault);
    if let Some(reason) = reason {
        let headers = response.headers_mut();
        headers.insert(X_HEDGE_REASON, header_text(reason));
    }
    response
}

async fn attempt<B>(
    api: &Arc<Api>,
    id: &RequestId,
    signs: &Arc<Signs>,
    request: Request<B>,
    door: Door,
) -> Result<Response<Body>, Refusal>
where
    B: http_body::Body<Data = Bytes>,
{
    let (asked, head, priority) = Asked::read_after(api, signs, request, priority).await?;
    let Asked {
        principal,
        bytes,
        seat,
    } = asked;
    let body_bytes = bytes.len();
    let decoded = decode(door, bytes).await.map_err(early)?;
    let Decoded {
        mut request,
        mut encoder,
    } = decoded;
    if let Some(encoder) = encoder.as_response() {
        responses::settle(api, &principal, &mut request, encoder).map_err(early)?;
    }
    let mut framing = framing(&request, encoder.id_prefix());
    let delivery = request.delivery;
    let shows_timing = head
        .headers
        .get(X_HEDGE_TIMING)
        .is_some_and(|value| value == "1");
    let shows_cost = head
        .headers
        .get(X_HEDGE_COST)
        .is_some_and(|value| value == "1");
    let context = RequestContext {
        request_id: id.clone(),
        body_bytes,
        cache: cache_wish(&head.headers),
        headers: plain_headers(&head.headers),
        priority,
    };
    let answer = api
        .pipeline
        .run(Parsed {
            request,
            principal,
            context,
        })
        .await?;
    if !answer.model.is_empty() {
        framing.model.clone_from(&answer.model);
    }
    let timings = answer.timings;
    let cost = shows_cost.then(|| answer.cost.clone());
    let mut response = match delivery {
        Delivery::Whole => whole(answer, encoder, &framing, cost).await?,
        Delivery::Streamed { .. } => streamed(api, answer, encoder, framing, cost, signs, seat),
    };
    if shows_timing {
        response
            .headers_mut()
            .insert(SERVER_TIMING, server_timing(&timings));
    }
    Ok(response)
}

/// A refusal from before any rule was looked at.
pub(crate) fn early(fault: Fault) -> Refusal {
    Refusal {
        fault,
        reason: None,
    }
}

async fn decode(door: Door, bytes: Bytes) -> Result<Decoded, Fault> {
    let body_bytes = bytes.len();
    let decode = move || door.dialect.decode_at(&door.address, &bytes);
    if body_bytes <= DECODE_INLINE_BYTES_MAX {
        return decode().map_err(Fault::BadRequest);
    }
    match tokio::task::spawn_blocking(decode).await {
        Ok(decoded) => decoded.map_err(Fault::BadRequest),
        Err(_) => Err(Fault::Internal),
    }
}

fn framing(request: &ChatRequest, id_prefix: &str) -> Framing {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut buffer = Uuid::encode_buffer();
    let unique: &str = Uuid::now_v7().simple().encode_lower(&mut buffer);
    Framing {
        id: format!("{id_prefix}{unique}"),
        created: now.as_secs(),
        model: request.model.as_str().to_owned(),
        includes_usage: matches!(
            request.delivery,
            Delivery::Streamed {
                includes_usage: true
            }
        ),
    }
}

async fn whole(
    answer: Answer,
    mut encoder: Box<dyn ReplyEncoder>,
    framing: &Framing,
    cost: Option<Cost>,
) -> Result<Response<Body>, Refusal> {
    let Answer {
        route,
        reason,
        stream,
        ..
    } = answer;
    let reply = match collect(stream).await {
        Ok(reply) => reply,
        Err(error) => {
            return Err(Refusal {
                fault: error.fault(),
                reason: Some(reason),
            });
        }
    };
    let mut response = Response::new(Body::from(encoder.whole(framing, &reply)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_HEDGE_ROUTE, header_text(&route.to_string()));
    headers.insert(X_HEDGE_REASON, header_text(&reason));
    if let Some(cost) = cost.and_then(|cost| cost.known()) {
        headers.insert(X_HEDGE_COST_MICROUSD, HeaderValue::from(cost.0));
    }
    Ok(response)
}

fn streamed(
    api: &Arc<Api>,
    answer: Answer,
    mut encoder: Box<dyn ReplyEncoder>,
    framing: Framing,
    cost: Option<Cost>,
    signs: &Arc<Signs>,
    seat: OwnedSemaphorePermit,
) -> Response<Body> {
    let Answer {
        route,
        reason,
        stream,
        ..
    } = answer;
    let media_type = encoder.media_type();
    encoder.begin(framing);
    let body = SseBody::new(
        stream,
        encoder,
        cost,
        Arc::clone(signs),
        Arc::clone(api),
        seat,
    );
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(X_HEDGE_ROUTE, header_text(&route.to_string()));
    headers.insert(X_HEDGE_REASON, header_text(&reason));
    response
}

pub(crate) fn check_media_type(headers: &HeaderMap) -> Result<(), Fault> {
    let is_json = headers.get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value
            .as_bytes()
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/json")
    });
    let is_plain = headers
        .get(CONTENT_ENCODING)
        .is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_json && is_plain {
        Ok(())
    } else {
        Err(Fault::UnsupportedMediaType)
    }
}

/// `Cache-Control` of the request (RFC 9111, section 5.2.1). `no-store` outweighs `no-cache`.
fn cache_wish(headers: &HeaderMap) -> CacheWish {
    let mut wish = CacheWish::Use;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.as_bytes().split(|byte| *byte == b',') {
            let directive = directive.trim_ascii();
            if directive.eq_ignore_ascii_case(b"no-store") {
                return CacheWish::Bypass;
            }
            if directive.eq_ignore_ascii_case(b"no-cache") {
                wish = CacheWish::Refresh;
            }
        }
    }
    wish
}

fn priority(headers: &HeaderMap) -> Result<Priority, Fault> {
    let Some(value) = headers.get(X_HEDGE_PRIORITY) else {
        return Ok(Priority::default());
    };
    let named = value.to_str().ok().and_then(Priority::named);
    named.ok_or_else(|| {
        Fault::BadRequest(BadRequest::at(
            X_HEDGE_PRIORITY.as_str(),
            "the header's value is `interactive`, as without it, or `batch`",
        ))
    })
}

/// What routing rules may look at: text headers without credentials. `http` keeps names in lower
/// case.
fn plain_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_secret = |name: &HeaderName| {
        *name == AUTHORIZATION
            || *name == COOKIE
            || *name == PROXY_AUTHORIZATION
            || OTHER_KEYS.contains(&name.as_str())
    };
    headers
        .iter()
        .filter(|(name, _)| !is_secret(name))
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect()
}

/// Text as a header value: what a header cannot hold becomes `?`, and long text is cut.
pub(crate) fn header_text(text: &str) -> HeaderValue {
    const CHARS_MAX: usize = 512;
    let is_fit = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if text.len() <= CHARS_MAX && text.bytes().all(is_fit) {
        return HeaderValue::from_str(text).expect("every byte is printable ASCII");
    }
    let fitted: String = text
        .chars()
        .take(CHARS_MAX)
        .map(|c| {
            if u8::try_from(c).is_ok_and(is_fit) {
                c
            } else {
                '?'
            }
        })
        .collect();
    HeaderValue::from_str(&fitted).expect("every other character was replaced")
}

/// W3C Server Timing: durations in milliseconds.
fn server_timing(timings: &Timings) -> HeaderValue {
    let stages = [
        ("admit", timings.admit),
        ("scan", timings.scan),
        ("lookup", timings.look_up),
        ("route", timings.route),
        ("open", timings.open),
    ];
    let mut text = String::with_capacity(96);
    for (at, (name, took)) in stages.into_iter().enumerate() {
        let comma = if at == 0 { "" } else { ", " };
        let took_ms = took.as_secs_f64() * 1e3;
        write!(text, "{comma}{name};dur={took_ms:.3}").expect("writing to a string does not fail");
    }
    header_text(&text)
}
