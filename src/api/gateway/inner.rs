//! What goes into the node and comes out of it, as the ciphertext has it.
//!
//! Of a request's fields those on a list go in: who asks was proven, and what is said of connections,
//! cookies and keys is no edge's to say. Of an answer's fields those about this node's own upstreams
//! stay here.

use axum::body::Body;
use bytes::Bytes;
use domain::{Fault, Principal, RequestId};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use relay::bhttp::{Fields, RequestLine};
use relay::shape::{SHAPE_FIELD, Shape};
use relay::{DATE_PROBLEM, PROBLEM_MEDIA_TYPE, UnixTime};
use wire::openai::ErrorBody;
use zeroize::Zeroizing;

use crate::auth::Known;
use crate::doors::{Said, refuser, restyle};
use crate::error::{refusal, refusal_with_hint};
use crate::request_id::X_REQUEST_ID;

/// Says whether anything was done for the request: only where it was not may it be sent again.
const PROCESSED_FIELD: &str = "relay-processed";

/// Fields of an inner request that mean something to the node.
const TAKEN: [HeaderName; 10] = [
    HeaderName::from_static("accept"),
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("anthropic-version"),
    HeaderName::from_static("cache-control"),
    HeaderName::from_static("content-encoding"),
    HeaderName::from_static("content-type"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("x-hedge-cost"),
    HeaderName::from_static("x-hedge-priority"),
    HeaderName::from_static("x-hedge-timing"),
];

/// Fields of an answer that stay here: they are of a connection, or of the operator's accounts.
const KEPT_BACK: [&str; 16] = [
    "alt-svc",
    "anthropic-organization-id",
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "openai-organization",
    "openai-project",
    "proxy-authenticate",
    "server",
    "set-cookie",
    "set-cookie2",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// An answer as it is before it is sealed.
pub(super) struct Inner {
    pub response: Response<Body>,
    /// Whether the node had it.
    pub is_processed: bool,
}

/// Refuses with what the node refuses with.
pub(super) fn refused(fault: &Fault, hint: Option<&str>) -> Inner {
    Inner {
        response: refusal_with_hint(fault, hint),
        is_processed: false,
    }
}

/// Refuses with what only a gateway has to say.
pub(super) fn said(status: StatusCode, kind: &'static str, code: &str, message: &str) -> Inner {
    let body = ErrorBody {
        message: message.to_owned(),
        kind,
        param: None,
        code: Some(code.to_owned()),
    };
    let mut response = Response::new(Body::from(body.to_json()));
    *response.status_mut() = status;
    response.extensions_mut().insert(Said(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Inner {
        response,
        is_processed: false,
    }
}

/// RFC 9458, section 6.5.1. The field `date`, which every answer has, says what to correct the clock by.
pub(super) fn off_time() -> Inner {
    let body = serde_json::json!({
        "type": DATE_PROBLEM,
        "status": 400,
        "title": "request is dated outside of the window around the relay's time",
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let kind = HeaderValue::from_static(PROBLEM_MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Inner {
        response,
        is_processed: false,
    }
}

impl Inner {
    /// As its reader reads refusals, with the exchange's id.
    pub fn finish(mut self, line: &RequestLine, fields: &Fields, id: &RequestId) -> Self {
        let path = line.path().split('?').next().unwrap_or_default();
        let headers = taken(fields);
        restyle(&mut self.response, refuser(path, &headers), id.as_str());
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            self.response.headers_mut().insert(X_REQUEST_ID, id);
        }
        self
    }
}

fn taken(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in TAKEN {
        for value in fields.all(name.as_str()) {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name.clone(), value);
            }
        }
    }
    headers
}

/// The request as the node gets it: at its own name, of a caller who is known.
///
/// # Errors
/// A method or a target that is none.
pub(super) fn request(
    line: &RequestLine,
    fields: &Fields,
    body: Zeroizing<Vec<u8>>,
    principal: Principal,
    id: &RequestId,
) -> Result<Request<Full<Bytes>>, Box<Inner>> {
    let method = Method::from_bytes(line.method().as_bytes());
    let method = method.map_err(|_| of_refusal(&Fault::MethodNotAllowed))?;
    let uri: Result<Uri, _> = line.path().parse();
    let uri = uri.map_err(|_| of_refusal(&Fault::NotFound))?;
    let length = body.len();
    let mut request = Request::new(Full::new(Bytes::from_owner(body)));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = taken(fields);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(X_REQUEST_ID, id);
    }
    request.extensions_mut().insert(Known(principal));
    Ok(request)
}

fn of_refusal(fault: &Fault) -> Box<Inner> {
    Box::new(Inner {
        response: refusal(fault),
        is_processed: false,
    })
}

/// The fields of an answer, those that fit into a section.
pub(super) fn answer_fields(
    headers: &HeaderMap,
    is_processed: bool,
    shape: Option<Shape>,
    now: UnixTime,
) -> Fields {
    let mut fields = Fields::default();
    let processed = if is_processed { "yes" } else { "no" };
    let own = [
        (PROCESSED_FIELD, processed.to_owned()),
        (DATE.as_str(), now.to_http_date()),
    ];
    let shape = shape.map(|shape| (SHAPE_FIELD, shape.to_string()));
    for (name, value) in own.into_iter().chain(shape) {
        // Far within the bounds of a section.
        let _ = fields.push(name, value.into_bytes());
    }
    for (name, value) in headers {
        let is_own = name.as_str().starts_with("relay-");
        if !is_own && !KEPT_BACK.contains(&name.as_str()) {
            // What does not fit is left out; none of it is needed to read the body but the type.
            let _ = fields.push(name.as_str(), value.as_bytes());
        }
    }
    fields
}

pub(super) fn is_events(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(b"text/event-stream"))
}
