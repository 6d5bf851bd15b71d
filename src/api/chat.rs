//! A chat in any dialect: from the request's head to the answer's.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use domain::{
    BadRequest, ChatRequest, Classify, Delivery, Dialect, Fault, Principal, Priority, Reply,
    RequestId, Started, TAG_BYTES_MAX, TAGS_MAX, Tag, TeamShelf, collect, is_tag,
};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, PROXY_AUTHORIZATION,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pipeline::{Answer, CacheWish, Parsed, Refusal, RequestContext, Rescues};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use uuid::Uuid;
use wire::openai::Framing;
use wire::{Address, Decoded, ReplyEncoder, ServerDialect, user_of};

use crate::asked::{Asked, json};
use crate::error::refusal;
use crate::line::Signs;
use crate::ollama::settle_name;
use crate::opening::{Opening, Origin, Watch};
use crate::responses::team_shelf;
use crate::server::Api;
use crate::sse::{SseBody, silence_max};

pub(crate) const X_HEDGE_ROUTE: HeaderName = HeaderName::from_static("x-hedge-route");
/// Who went on with the reply where it broke off. Of a stream it is a comment at the place.
pub(crate) const X_HEDGE_RESCUE: HeaderName = HeaderName::from_static("x-hedge-rescue");
/// What the cache had to do with it: `exact`, `semantic`, `shared` or `miss`, and of a kept reply its
/// age in seconds.
pub(crate) const X_HEDGE_CACHE: HeaderName = HeaderName::from_static("x-hedge-cache");
/// Words with commas between, by which the kept reply can be removed again, and which may have limits.
const X_HEDGE_CACHE_TAGS: HeaderName = HeaderName::from_static("x-hedge-cache-tags");
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
/// Of OpenAI's: from the request's head to the answer's.
const OPENAI_PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Azure's, Anthropic's and Google's key headers: not shown to routing rules.
const OTHER_KEYS: [&str; 3] = ["api-key", "x-api-key", "x-goog-api-key"];

/// Bodies up to this are decoded in place: about 0.3 ms. Larger ones go to the blocking pool.
const DECODE_INLINE_BYTES_MAX: usize = 64 * 1024;

/// Betas of one request, and the bytes of one's name. Known ones have up to 40; one more is refused.
const BETAS_MAX: usize = 32;
const BETA_BYTES_MAX: usize = 96;

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
    let began = Instant::now();
    let mut response = attempt(api, id, signs, request, door, began)
        .await
        .unwrap_or_else(|refusal| refused(&refusal));
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let headers = response.headers_mut();
    headers.insert(OPENAI_PROCESSING_MS, HeaderValue::from(took_ms));
    response
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
    began: Instant,
) -> Result<Response<Body>, Refusal>
where
    B: http_body::Body<Data = Bytes>,
{
    let dialect = door.dialect;
    let check = |headers: &HeaderMap| {
        if dialect.takes_any_media_type() {
            check_encoding(headers)?;
        } else {
            check_media_type(headers)?;
        }
        Ok((priority(headers)?, betas(dialect, headers)?))
    };
    let (asked, head, (priority, betas)) = Asked::read_after(api, signs, request, check).await?;
    let Asked {
        principal,
        bytes,
        trace: _,
        seat,
    } = asked;
    let body_bytes = bytes.len();
    let shelf = team_shelf(api, &principal);
    let decoded = decode(door, shelf, bytes).await.map_err(early)?;
    let Decoded {
        mut request,
        encoder,
    } = decoded;
    request.betas = betas;
    if dialect.dialect() == Dialect::Ollama {
        settle_name(&api.pipeline, &mut request.model);
    }
    let framing = framing(&request, encoder.id_prefix());
    if encoder.only_loads() {
        return Box::pin(load(api, id, &principal, &request, encoder, framing)).await;
    }
    let user = user_of(&request);
    let principal = user.and_then(|user| {
        let principal = principal.asking_for(user)?;
        Ok(api.mark_user(principal, user))
    });
    let principal = principal.map_err(|fault| early(Fault::BadRequest(fault)))?;
    let delivery = request.delivery;
    let context = RequestContext {
        request_id: id.clone(),
        body_bytes,
        cache: cache_wish(&head.headers),
        headers: plain_headers(&head.headers),
        priority,
    };
    let parsed = Parsed {
        request,
        principal,
        context,
    };
    let asks = |name: HeaderName| head.headers.get(name).is_some_and(|value| value == "1");
    let shows = Shows {
        timing: asks(X_HEDGE_TIMING),
        cost: asks(X_HEDGE_COST),
    };
    // It lies in the buffer that the connection goes on to read into.
    drop(head);
    let desk = Desk {
        encoder,
        framing,
        shows,
        began,
    };
    match delivery {
        Delivery::Whole => whole(desk, Box::pin(api.pipeline.run(parsed)).await?).await,
        Delivery::Streamed { .. } => {
            let opening = Box::pin(Arc::clone(&api.pipeline).begin(parsed));
            streamed(desk, opening, Arc::clone(api), signs, seat).await
        }
    }
}

/// What answers one chat.
pub(crate) struct Desk {
    pub encoder: Box<dyn ReplyEncoder>,
    pub framing: Framing,
    pub shows: Shows,
    /// When the request's head had come.
    pub began: Instant,
}

/// What a caller wants to be told beside the reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shows {
    pub timing: bool,
    pub cost: bool,
}

/// Answers a request that asks for no reply.
async fn load(
    api: &Arc<Api>,
    id: &RequestId,
    principal: &Principal,
    request: &ChatRequest,
    mut encoder: Box<dyn ReplyEncoder>,
    framing: Framing,
) -> Result<Response<Body>, Refusal> {
    let model = &request.model;
    let model = api.pipeline.load(principal, id.clone(), model).await?;
    let nothing = Reply {
        started: Started {
            model,
            reply_id: None,
            fingerprint: None,
        },
        choices: Vec::new(),
        usage: None,
        written: None,
    };
    Ok(json(encoder.whole(&framing, &nothing)))
}

/// A refusal from before any rule was looked at.
pub(crate) fn early(fault: Fault) -> Refusal {
    Refusal {
        fault,
        reason: None,
    }
}

async fn decode(door: Door, shelf: Option<TeamShelf>, bytes: Bytes) -> Result<Decoded, Fault> {
    let Door { dialect, address } = door;
    let is_short = bytes.len() <= DECODE_INLINE_BYTES_MAX && !dialect.reads_more_than(&bytes);
    let decode = move || dialect.decode_after(&address, shelf.as_ref(), &bytes);
    if is_short {
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

async fn whole(desk: Desk, answer: Answer) -> Result<Response<Body>, Refusal> {
    let Desk {
        mut encoder,
        mut framing,
        shows,
        began,
    } = desk;
    let origin = Origin::of(&answer, shows);
    let cost = shows.cost.then_some(answer.cost);
    let rescues = answer.rescues;
    if !answer.model.is_empty() {
        framing.model = answer.model;
    }
    let mut watch = Watch::at_first_content(began, &answer.timings);
    let mut collected = pin!(collect(answer.stream));
    // Whoever sends all at once does not say when it began to write.
    let at_once = poll_once(collected.as_mut()).await;
    let collected = match at_once {
        Some(collected) => {
            watch.forget_prompt();
            collected
        }
        None => collected.await,
    };
    let reply = collected.map_err(|error| Refusal {
        fault: error.fault(),
        reason: Some(answer.reason),
    })?;
    encoder.note_times(watch.times());
    let mut response = json(encoder.whole(&framing, &reply));
    let headers = response.headers_mut();
    origin.put_into(headers);
    let rescues = rescues.iter().flat_map(Rescues::take);
    let rescues: Vec<String> = rescues.map(|rescued| rescued.to_string()).collect();
    if !rescues.is_empty() {
        headers.insert(X_HEDGE_RESCUE, header_text(&rescues.join(", ")));
    }
    if let Some(cost) = cost.and_then(|cost| cost.known()) {
        headers.insert(X_HEDGE_COST_MICROUSD, HeaderValue::from(cost.0));
    }
    Ok(response)
}

/// What the future is ready with at its first poll.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// The head waits for the first content, so that a failure before it has its status; but not for longer
/// than a silence may be.
async fn streamed(
    desk: Desk,
    mut opening: Opening,
    api: Arc<Api>,
    signs: &Arc<Signs>,
    seat: OwnedSemaphorePermit,
) -> Result<Response<Body>, Refusal> {
    let patience = silence_max(api.ingress.keep_alive_every);
    let answer = match timeout(patience, &mut opening).await {
        Ok(answer) => Some(answer?),
        Err(_) => None,
    };
    let origin = answer.as_ref().map(|answer| Origin::of(answer, desk.shows));
    let media_type = desk.encoder.media_type();
    let signs = Arc::clone(signs);
    let body = match answer {
        Some(answer) => SseBody::answered(desk, answer, signs, api, seat),
        None => SseBody::unanswered(desk, opening, signs, api, seat),
    };
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if let Some(origin) = origin {
        origin.put_into(headers);
    }
    Ok(response)
}

/// The body is JSON, and as it is.
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
    if is_json {
        check_encoding(headers)
    } else {
        Err(Fault::UnsupportedMediaType)
    }
}

/// The body is as it is, whatever it may be.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), Fault> {
    let is_plain = headers
        .get(CONTENT_ENCODING)
        .is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_plain {
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

/// Tags of the request, and of its reply where that is kept; each once.
pub(crate) fn tags(headers: &HeaderMap) -> Result<Vec<Tag>, Fault> {
    let refused = || {
        Fault::BadRequest(BadRequest::at(
            X_HEDGE_CACHE_TAGS.as_str(),
            format!(
                "the header is a list of at most {TAGS_MAX} tags of at most {TAG_BYTES_MAX} \
                 letters, digits, `-`, `_`, `.`, `:` and `/`, with commas between"
            ),
        ))
    };
    let mut tags: Vec<Tag> = Vec::new();
    for value in headers.get_all(X_HEDGE_CACHE_TAGS) {
        let named = value.to_str().map_err(|_| refused())?.split(',');
        for tag in named.map(str::trim).filter(|tag| !tag.is_empty()) {
            if !is_tag(tag) {
                return Err(refused());
            }
            if tags.iter().any(|known| known.as_str() == tag) {
                continue;
            }
            if tags.len() == TAGS_MAX {
                return Err(refused());
            }
            tags.push(Tag::new(tag));
        }
    }
    Ok(tags)
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

/// What the caller asks its provider for that is not for everybody yet, each name once.
fn betas(dialect: &dyn ServerDialect, headers: &HeaderMap) -> Result<Vec<String>, Fault> {
    let mut betas: Vec<String> = Vec::new();
    let Some(header) = dialect.betas_header() else {
        return Ok(betas);
    };
    let refused = || {
        Fault::BadRequest(BadRequest::at(
            header,
            format!(
                "the header is a list of at most {BETAS_MAX} names of at most {BETA_BYTES_MAX} \
                 letters, digits, `-`, `_`, `.` and `=`, with commas between"
            ),
        ))
    };
    for value in headers.get_all(header) {
        let names = value.to_str().map_err(|_| refused())?.split(',');
        for name in names.map(str::trim).filter(|name| !name.is_empty()) {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
            if name.len() > BETA_BYTES_MAX || !name.bytes().all(is_plain) {
                return Err(refused());
            }
            if betas.iter().any(|known| known == name) {
                continue;
            }
            if betas.len() == BETAS_MAX {
                return Err(refused());
            }
            betas.push(name.to_owned());
        }
    }
    Ok(betas)
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
