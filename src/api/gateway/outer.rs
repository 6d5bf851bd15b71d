//! What is asked in the clear: keys, enrolment, probes, and sealed requests.

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use domain::{RequestId, SealedResult};
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use relay::bhttp::{Fields, write_known_response};
use relay::limits::REQUEST_BYTES_MAX;
use relay::shape::RequestPad;
use relay::slim::{FRAMES_FIELD, SLIM_FRAMES};
use relay::{Form, KEYS_MEDIA_TYPE, OuterRefusal, PROBLEM_MEDIA_TYPE, WholeResponseSealer};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, interval};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Gateway;
use super::enrolment::{EnrolRefused, PeerCertificate};
use super::flow::{Coming, Flow, SealedBody, Sealing, Stand, Stands};
use super::inner::{Inner, answer_fields, request};
use super::judging::principal;
use super::opening::{Answering, Opened, Paced};
use super::turnstile::Sender;
use super::visit::Visit;
use crate::error::seconds_up;
use crate::line::Signs;
use crate::seats::AddressKey;

const SEALED_PATH: &str = "/.well-known/ohttp-gateway";
const MANIFEST_PATH: &str = "/relay/v1/manifest";
const JOIN_PATH: &str = "/relay/v1/join";
const RENEW_PATH: &str = "/relay/v1/renew";

/// What a sender is told to wait when there is no seat, or when this relay is stopping.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Structured field that asks whoever is between to pass a message on as it comes.
const INCREMENTAL: HeaderName = HeaderName::from_static("incremental");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
const SIGNATURE: HeaderName = HeaderName::from_static("signature");

/// How often it is looked whether the edge that waits for an answer in one piece is known still. One
/// that comes in chunks its connection looks after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An answer in one piece, in bytes. A longer one cannot be had in one piece.
const WHOLE_BYTES_MAX: usize = 32 << 20;

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub address: IpAddr,
    pub certificate: Option<PeerCertificate>,
}

/// Why a request is answered in the clear, and how long to wait before another.
struct Refused {
    refusal: OuterRefusal,
    wait: Duration,
}

impl From<OuterRefusal> for Refused {
    fn from(refusal: OuterRefusal) -> Self {
        Self {
            refusal,
            wait: BUSY_WAIT,
        }
    }
}

type Decided = Result<Response<Body>, Refused>;

impl Gateway {
    /// Answers one request of a connection.
    pub(super) async fn answer<B>(
        self: &Arc<Self>,
        peer: &Peer,
        stands: &Stands,
        signs: &Signs,
        request: Request<B>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes>,
    {
        signs.set_unread(!request.body().is_end_stream());
        let version = request.version();
        let answered = self.decide(peer, stands, signs, request).await;
        answered.unwrap_or_else(|Refused { refusal, wait }| {
            self.tally.count_refused(refusal);
            problem(refusal, wait, version)
        })
    }

    async fn decide<B>(
        self: &Arc<Self>,
        peer: &Peer,
        stands: &Stands,
        signs: &Signs,
        request: Request<B>,
    ) -> Decided
    where
        B: http_body::Body<Data = Bytes>,
    {
        let is_get = [Method::GET, Method::HEAD].contains(request.method());
        let is_post = request.method() == Method::POST;
        match request.uri().path() {
            SEALED_PATH if is_post => Box::pin(self.sealed(peer, stands, signs, request)).await,
            SEALED_PATH if is_get => Ok(self.key_list()),
            MANIFEST_PATH if is_get => Ok(self.manifest()),
            JOIN_PATH if is_post => Box::pin(self.join(peer, signs, request)).await,
            RENEW_PATH if is_post => Box::pin(self.renew(peer, signs, request)).await,
            "/healthz" if is_get => Ok(status(StatusCode::OK, "alive")),
            "/readyz" if is_get => Ok(self.readyz()),
            SEALED_PATH | MANIFEST_PATH | JOIN_PATH | RENEW_PATH | "/healthz" | "/readyz" => {
                Err(OuterRefusal::Method.into())
            }
            _ => Err(OuterRefusal::NotFound.into()),
        }
    }

    fn readyz(&self) -> Response<Body> {
        let is_stopping = self.is_stopping.load(Ordering::Relaxed);
        if is_stopping {
            status(StatusCode::SERVICE_UNAVAILABLE, "stopping")
        } else if self.front.api.pipeline.readiness().is_ready {
            status(StatusCode::OK, "ready")
        } else {
            status(StatusCode::SERVICE_UNAVAILABLE, "not ready")
        }
    }

    fn key_list(&self) -> Response<Body> {
        let list = self.keys.published().list.clone();
        unstored(Body::from(list), HeaderValue::from_static(KEYS_MEDIA_TYPE))
    }

    fn manifest(&self) -> Response<Body> {
        let published = self.keys.published();
        let signed = &published.manifest;
        let json = HeaderValue::from_static("application/json");
        let mut response = unstored(Body::from(signed.body.clone()), json);
        for (name, value) in [
            (CONTENT_DIGEST, &signed.content_digest),
            (SIGNATURE_INPUT, &signed.signature_input),
            (SIGNATURE, &signed.signature),
        ] {
            const TEXT: &str = "base64, digits and names are printable";
            let value = HeaderValue::from_str(value).expect(TEXT);
            response.headers_mut().insert(name, value);
        }
        response
    }

    /// Who sends, as the rate of what is opened is counted.
    fn sender(&self, peer: &Peer) -> Sender {
        match &peer.certificate {
            Some(shown) => Sender::Edge(shown.edge_id.clone()),
            None => Sender::Address(AddressKey::of(peer.address)),
        }
    }

    async fn join<B>(&self, peer: &Peer, signs: &Signs, request: Request<B>) -> Decided
    where
        B: http_body::Body<Data = Bytes>,
    {
        let enrolment = self.enrolment.as_ref().ok_or(OuterRefusal::NotFound)?;
        let (asked, _seat) = self.enrolling(peer, signs, request).await?;
        Ok(enrolled(enrolment.join(asked, peer.address).await))
    }

    async fn renew<B>(&self, peer: &Peer, signs: &Signs, request: Request<B>) -> Decided
    where
        B: http_body::Body<Data = Bytes>,
    {
        let enrolment = self.enrolment.as_ref().ok_or(OuterRefusal::NotFound)?;
        let shown = peer.certificate.as_ref().ok_or(OuterRefusal::Certificate)?;
        let (asked, _seat) = self.enrolling(peer, signs, request).await?;
        Ok(enrolled(enrolment.renew(asked, shown).await))
    }

    /// What is asked, and a seat to be kept until it is answered: whoever wants to join is nobody yet, so
    /// the rate of each alone would bound nothing.
    async fn enrolling<B>(
        &self,
        peer: &Peer,
        signs: &Signs,
        request: Request<B>,
    ) -> Result<(Bytes, SemaphorePermit<'_>), Refused>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let passed = self.enrolments.pass(self.sender(peer), Instant::now());
        passed.map_err(too_many)?;
        let seat = self.enrolling.try_acquire();
        let seat = seat.map_err(|_| OuterRefusal::Busy)?;
        let limits = self.rules.limits;
        let body = Paced::new(request.into_body(), limits.enrolment_bytes_max, limits)?;
        let asked = body.whole().await?;
        signs.set_unread(false);
        Ok((asked, seat))
    }

    async fn sealed<B>(
        self: &Arc<Self>,
        peer: &Peer,
        stands: &Stands,
        signs: &Signs,
        request: Request<B>,
    ) -> Decided
    where
        B: http_body::Body<Data = Bytes>,
    {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(OuterRefusal::Busy.into());
        }
        if self.rules.requires_certificate {
            let shown = peer.certificate.as_ref();
            let is_known = shown.is_some_and(|shown| {
                let edge = self.edges.find(&shown.edge_id);
                edge.is_some_and(|edge| edge.may_show(shown.ed25519.as_ref()))
            });
            if !is_known {
                return Err(OuterRefusal::Certificate.into());
            }
        }
        let passed = self.opens.pass(self.sender(peer), Instant::now());
        passed.map_err(too_many)?;
        let form = form(request.headers()).ok_or(OuterRefusal::MediaType)?;
        let reading = self.readings.take(self.sender(peer));
        let reading = reading.ok_or_else(|| too_many(BUSY_WAIT))?;
        let seat = Arc::clone(&self.requests).try_acquire_owned();
        let seat = seat.map_err(|_| OuterRefusal::Busy)?;
        let limits = self.rules.limits;
        let mut holding = self.held.none();
        let body = Paced::new(request.into_body(), limits.request_bytes_max, limits)?;
        let opened = self.open(form, body, &mut holding).await?;
        drop(reading);
        signs.set_unread(false);
        let mut buffer = Uuid::encode_buffer();
        let made: &str = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        let visit = Visit::new(self, RequestId::new(made), &opened, peer, seat, holding);
        Ok(self.answer_opened(opened, peer, stands, visit).await)
    }

    async fn answer_opened(
        self: &Arc<Self>,
        opened: Opened,
        peer: &Peer,
        stands: &Stands,
        mut visit: Visit,
    ) -> Response<Body> {
        let signs = Arc::new(Signs::default());
        let takes_frames = opened.fields.only(FRAMES_FIELD) == Some(SLIM_FRAMES.as_bytes());
        let mut grant = None;
        let (coming, shape, result, answering) = match self.judge(&opened, peer) {
            Ok(judged) => {
                let principal = principal(&judged.edge);
                grant = judged.grant;
                visit.admit(judged.edge, judged.under_way);
                let answering = opened.answering;
                let asked = request(
                    &opened.line,
                    &opened.fields,
                    opened.body,
                    principal,
                    &visit.id,
                );
                let coming: Coming = match asked {
                    Err(inner) => ready(inner.finish(&opened.line, &opened.fields, &visit.id)),
                    Ok(asked) => {
                        let (gateway, signs) = (Arc::clone(self), Arc::clone(&signs));
                        Box::pin(async move {
                            Inner {
                                response: gateway.front.answer(&signs, asked).await,
                                is_processed: true,
                            }
                        })
                    }
                };
                (coming, judged.shape, SealedResult::Answered, answering)
            }
            Err(denied) => {
                let shape = self.shape_of_refusal(&opened, denied.edge.as_deref());
                visit.note_edge(denied.edge);
                let inner = denied.inner.finish(&opened.line, &opened.fields, &visit.id);
                (ready(inner), shape, denied.result, opened.answering)
            }
        };
        match answering {
            Answering::Chunked(sealer) => {
                let sealing = Sealing {
                    sealer,
                    shape,
                    takes_frames,
                    result,
                    grant,
                    signs,
                };
                chunked(coming, sealing, stands, visit).await
            }
            Answering::Whole(sealer) => whole(coming, sealer, result, visit).await,
        }
    }
}

async fn chunked(
    coming: Coming,
    sealing: Sealing,
    stands: &Stands,
    visit: Visit,
) -> Response<Body> {
    let stand = Stand::new(Flow::new(coming, sealing, visit));
    stands.add(&stand);
    let kind = HeaderValue::from_static(Form::Chunked.response_media_type());
    let body = SealedBody::begun(stand).await;
    let mut response = unstored(Body::new(body), kind);
    let headers = response.headers_mut();
    headers.insert(INCREMENTAL, HeaderValue::from_static("?1"));
    response
}

fn ready(inner: Inner) -> Coming {
    Box::pin(std::future::ready(inner))
}

/// The answer in one piece, for strangers that do not stream; its length is rounded up.
async fn whole(
    coming: Coming,
    sealer: WholeResponseSealer,
    result: SealedResult,
    mut visit: Visit,
) -> Response<Body> {
    let working = async {
        let inner = coming.await;
        let (head, body) = inner.response.into_parts();
        (head, collect(body).await, inner.is_processed)
    };
    let Some((head, collected, is_processed)) = while_known(&visit, working).await else {
        // As one that could not be sealed: there is nobody left to be told more.
        visit.end(SealedResult::Broken);
        return problem(OuterRefusal::Busy, BUSY_WAIT, Version::HTTP_2);
    };
    let is_whole = collected.is_some();
    let status = if is_whole {
        head.status
    } else {
        StatusCode::BAD_GATEWAY
    };
    let content = collected.unwrap_or_default();
    let now = visit.now();
    let fields = answer_fields(&head.headers, is_processed, None, now);
    let mut plain = Zeroizing::new(Vec::with_capacity(content.len() + 4_096));
    let status = status.as_u16();
    let nothing = Fields::default();
    let written = write_known_response(status, &fields, &content, &nothing, &mut plain);
    let padded = RequestPad::Padme.padded(plain.len(), REQUEST_BYTES_MAX as usize);
    let padded = padded.max(plain.len());
    plain.resize(padded, 0);
    let sealed = sealer.seal(&plain, &mut rand::rng());
    visit.note_status(status);
    let (Ok(()), Ok(sealed)) = (written, sealed) else {
        visit.end(SealedResult::Broken);
        return problem(OuterRefusal::Busy, BUSY_WAIT, Version::HTTP_2);
    };
    visit.note_sealed(sealed.len());
    visit.end(if is_whole {
        result
    } else {
        SealedResult::Broken
    });
    let kind = HeaderValue::from_static(Form::Whole.response_media_type());
    unstored(Body::from(sealed), kind)
}

/// `None`, and the work is dropped, once the visit's edge is known no more.
async fn while_known<T>(visit: &Visit, working: impl Future<Output = T>) -> Option<T> {
    let mut working = pin!(working);
    let mut look = interval(LOOK_EVERY);
    loop {
        tokio::select! {
            done = &mut working => return (!visit.is_revoked()).then_some(done),
            _ = look.tick() => if visit.is_revoked() {
                return None;
            },
        }
    }
}

/// `None` for one that broke off, or is too long.
async fn collect(mut body: Body) -> Option<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if content.len() + data.len() > WHOLE_BYTES_MAX {
                return None;
            }
            content.extend_from_slice(&data);
        }
    }
    Some(content)
}

fn too_many(wait: Duration) -> Refused {
    Refused {
        refusal: OuterRefusal::TooMany,
        wait,
    }
}

/// Of a sealed request; a content coding has none.
fn form(headers: &HeaderMap) -> Option<Form> {
    let coding = headers.get(CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return None;
    }
    let kind = headers.get(CONTENT_TYPE)?.as_bytes();
    let forms = [Form::Chunked, Form::Whole];
    forms.into_iter().find(|form| {
        form.request_media_type()
            .as_bytes()
            .eq_ignore_ascii_case(kind)
    })
}

fn enrolled(made: Result<Bytes, EnrolRefused>) -> Response<Body> {
    let json = HeaderValue::from_static("application/json");
    match made {
        Ok(made) => unstored(Body::from(made), json),
        Err(refused) => {
            let body = serde_json::json!({
                "type": "about:blank",
                "status": refused.status(),
                "title": refused.to_string(),
            });
            let kind = HeaderValue::from_static(PROBLEM_MEDIA_TYPE);
            let mut response = unstored(Body::from(body.to_string()), kind);
            let status = StatusCode::from_u16(refused.status());
            *response.status_mut() = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            response
        }
    }
}

fn unstored(body: Body, kind: HeaderValue) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn status(code: StatusCode, said: &'static str) -> Response<Body> {
    let body = serde_json::json!({ "status": said });
    let json = HeaderValue::from_static("application/json");
    let mut response = unstored(Body::from(body.to_string()), json);
    *response.status_mut() = code;
    response
}

/// The same bytes for the same refusal, whatever led to it.
fn problem(refusal: OuterRefusal, wait: Duration, version: Version) -> Response<Body> {
    let kind = HeaderValue::from_static(PROBLEM_MEDIA_TYPE);
    let mut response = unstored(Body::from(refusal.body()), kind);
    let status = StatusCode::from_u16(refusal.status());
    *response.status_mut() = status.unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(refusal.body().len()));
    if refusal.has_wait() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds_up(wait)));
    }
    if refusal == OuterRefusal::Method {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    let closes = matches!(refusal, OuterRefusal::TooLarge | OuterRefusal::TooSlow);
    if closes && version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What a connection waits for.
pub(super) type Answered =
    Pin<Box<dyn Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send>>;
