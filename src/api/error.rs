//! The single table from [`Fault`] to status, error type, code, headers and hint.
//!
//! A message says what is wrong and, where the caller can do something about it, what to do.

use std::time::Duration;

use axum::body::Body;
use domain::{BadRequest, Fault, KeyTrouble};
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use wire::openai::ErrorBody;

use crate::doors::Said;

const INVALID_REQUEST: &str = "invalid_request_error";
const AUTHENTICATION: &str = "authentication_error";
const PERMISSION: &str = "permission_error";
const RATE_LIMIT: &str = "rate_limit_error";
const QUOTA: &str = "insufficient_quota";
const SERVER: &str = "server_error";

/// Back ends come back within seconds or not at all; a client should neither spin nor give up.
const NO_CANDIDATE_WAIT: Duration = Duration::from_secs(5);

/// Read by OpenAI's SDKs, which else decide by status.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What HTTP says of a fault.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub status: StatusCode,
    pub body: ErrorBody,
    pub retry_after: Option<Duration>,
    /// The connection is of no further use: the rest of the request was not read.
    pub closes: bool,
    /// The SDKs would try a 429 again at once, where no second try can help.
    pub is_final: bool,
}

/// The table.
pub(crate) fn verdict(fault: &Fault) -> Verdict {
    match fault {
        Fault::BadRequest(BadRequest {
            param,
            code,
            message,
        }) => {
            let verdict = plain(
                StatusCode::BAD_REQUEST,
                INVALID_REQUEST,
                None,
                message.clone(),
            );
            let body = ErrorBody {
                param: param.clone(),
                code: code.clone(),
                ..verdict.body
            };
            Verdict { body, ..verdict }
        }
        Fault::Unauthenticated(trouble) => plain(
            StatusCode::UNAUTHORIZED,
            AUTHENTICATION,
            Some("invalid_api_key"),
            opens_nothing(*trouble),
        ),
        Fault::Forbidden { what } => {
            plain(StatusCode::FORBIDDEN, PERMISSION, Some("forbidden"), *what)
        }
        Fault::ModelNotFound { asked, nearest } => model_not_found(asked, nearest.as_deref()),
        Fault::NotFound => plain(
            StatusCode::NOT_FOUND,
            INVALID_REQUEST,
            Some("not_found"),
            "there is nothing at this path",
        ),
        Fault::MethodNotAllowed => plain(
            StatusCode::METHOD_NOT_ALLOWED,
            INVALID_REQUEST,
            Some("method_not_allowed"),
            "this path does not take this method; the `allow` header lists those it takes",
        ),
        Fault::TooLarge { bytes_max } => closing(plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            INVALID_REQUEST,
            Some("request_too_large"),
            format!("the request body is larger than {bytes_max} bytes; send less in one request"),
        )),
        Fault::RequestTimedOut => closing(plain(
            StatusCode::REQUEST_TIMEOUT,
            INVALID_REQUEST,
            Some("request_timeout"),
            "the request body came too slowly; send it again without pauses",
        )),
        Fault::UnsupportedMediaType => plain(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            INVALID_REQUEST,
            Some("unsupported_media_type"),
            "the body must be uncompressed JSON, sent with `content-type: application/json`",
        ),
        Fault::NotOffered { what } => plain(
            StatusCode::NOT_IMPLEMENTED,
            INVALID_REQUEST,
            Some("not_offered"),
            *what,
        ),
        Fault::RateLimited { retry_after } => waiting(
            *retry_after,
            plain(
                StatusCode::TOO_MANY_REQUESTS,
                RATE_LIMIT,
                Some("rate_limit_exceeded"),
                "too many requests; wait as long as the `retry-after` header says",
            ),
        ),
        Fault::BudgetSpent => Verdict {
            is_final: true,
            ..plain(
                StatusCode::TOO_MANY_REQUESTS,
                QUOTA,
                Some("insufficient_quota"),
                "this key's budget is spent; its owner can raise it",
            )
        },
        Fault::AccountsFull { retry_after } => waiting(
            *retry_after,
            plain(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                Some("accounts_full"),
                "each user has limits here, and this server keeps count of no more users at once; wait as \
                 long as the `retry-after` header says, or ask its operator to raise \
                 `limits.user_accounts_max`",
            ),
        ),
        Fault::Overloaded { retry_after } => waiting(
            *retry_after,
            plain(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                Some("overloaded"),
                "everything that could answer is busy or still loading; wait as long as the `retry-after` header \
                 says",
            ),
        ),
        Fault::UpstreamFailed => plain(
            StatusCode::BAD_GATEWAY,
            SERVER,
            Some("upstream_failed"),
            "the model's provider failed to answer; trying again may help",
        ),
        Fault::UpstreamTimedOut => plain(
            StatusCode::GATEWAY_TIMEOUT,
            SERVER,
            Some("upstream_timed_out"),
            "the model did not answer in time; trying again may help",
        ),
        Fault::Offline { retry_after } => waiting(
            *retry_after,
            plain(
                StatusCode::SERVICE_UNAVAILABLE,
                SERVER,
                Some("offline"),
                "the providers that could answer cannot be reached from here just now; wait as long as \
                 the `retry-after` header says",
            ),
        ),
        Fault::NoCandidate { reasons } => no_candidate(reasons),
        Fault::Internal => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            SERVER,
            Some("internal_error"),
            "something broke inside the server; its log has more under this request's id",
        ),
    }
}

fn opens_nothing(trouble: KeyTrouble) -> &'static str {
    match trouble {
        KeyTrouble::Unknown => {
            "this server needs an API key it knows; send it as `Authorization: Bearer <key>` or \
             `x-api-key: <key>` (the SDKs' `api_key`)"
        }
        KeyTrouble::Mistyped => {
            "this is no whole API key: a character is wrong, missing or too many; copy it again"
        }
        KeyTrouble::Disabled => "this API key is disabled; its owner can enable it",
        KeyTrouble::Expired => "this API key has expired; its owner can make another",
        KeyTrouble::AdminToken => {
            "this is an operator's token, which opens the admin listener alone; send an API key"
        }
        KeyTrouble::CallersKey => {
            "this is a caller's API key, which opens nothing here; send an operator's token"
        }
        KeyTrouble::NoToken => {
            "this is the operator's listener; send one of its tokens as `Authorization: Bearer <token>`"
        }
        KeyTrouble::SignedOut => {
            "this is the operator's listener; sign in at /admin, or send one of its tokens as \
             `Authorization: Bearer <token>`"
        }
    }
}

/// The refusal as an answer. Only what every refusal needs; the service adds the request's id.
pub(crate) fn refusal(fault: &Fault) -> Response<Body> {
    refusal_with_hint(fault, None)
}

/// What a request names is not there, where the path is.
pub(crate) fn missing(param: &str, message: &str) -> Response<Body> {
    let fault = BadRequest::at(param, message).with_code("not_found");
    with_status(StatusCode::NOT_FOUND, &Fault::BadRequest(fault))
}

/// The refusal under a status that says more of what a place alone can know.
pub(crate) fn with_status(status: StatusCode, fault: &Fault) -> Response<Body> {
    let mut response = refusal(fault);
    *response.status_mut() = status;
    response
}

/// One that a single place knows, in its own words.
pub(crate) fn refusal_in_words(
    status: StatusCode,
    code: &str,
    words: &str,
    retry_after: Option<Duration>,
) -> Response<Body> {
    let kind = match status.as_u16() {
        500.. => SERVER,
        403 => PERMISSION,
        _ => INVALID_REQUEST,
    };
    write(Verdict {
        retry_after,
        ..plain(status, kind, Some(code), words)
    })
}

/// The same, with a hint that only the place of refusal can know.
pub(crate) fn refusal_with_hint(fault: &Fault, hint: Option<&str>) -> Response<Body> {
    let mut verdict = verdict(fault);
    if let Some(hint) = hint {
        verdict.body.message.push_str("; ");
        verdict.body.message.push_str(hint);
    }
    write(verdict)
}

fn write(verdict: Verdict) -> Response<Body> {
    let Verdict {
        status,
        body,
        retry_after,
        closes,
        is_final,
    } = verdict;
    let mut response = Response::new(Body::from(body.to_json()));
    *response.status_mut() = status;
    response.extensions_mut().insert(Said(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(wait) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds_up(wait)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_final {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response
}

fn plain(
    status: StatusCode,
    kind: &'static str,
    code: Option<&str>,
    message: impl Into<String>,
) -> Verdict {
    let body = ErrorBody {
        message: message.into(),
        kind,
        param: None,
        code: code.map(str::to_owned),
    };
    Verdict {
        status,
        body,
        retry_after: None,
        closes: false,
        is_final: false,
    }
}

fn waiting(wait: Duration, verdict: Verdict) -> Verdict {
    Verdict {
        retry_after: Some(wait),
        ..verdict
    }
}

fn closing(verdict: Verdict) -> Verdict {
    Verdict {
        closes: true,
        ..verdict
    }
}

fn model_not_found(asked: &str, nearest: Option<&str>) -> Verdict {
    let asked = shortened(asked);
    let meant = nearest.map_or_else(String::new, |name| format!(" did you mean `{name}`?"));
    let message = format!("the model `{asked}` does not exist;{meant} GET /v1/models lists them");
    let verdict = plain(
        StatusCode::NOT_FOUND,
        INVALID_REQUEST,
        Some("model_not_found"),
        message,
    );
    let body = ErrorBody {
        param: Some("model".to_owned()),
        ..verdict.body
    };
    Verdict { body, ..verdict }
}

fn no_candidate(reasons: &[String]) -> Verdict {
    let mut message = "no model may or can answer this request now".to_owned();
    for (at, reason) in reasons.iter().enumerate() {
        message.push_str(if at == 0 { ": " } else { ", " });
        message.push_str(reason);
    }
    let verdict = plain(
        StatusCode::SERVICE_UNAVAILABLE,
        SERVER,
        Some("no_candidate"),
        message,
    );
    waiting(NO_CANDIDATE_WAIT, verdict)
}

/// Whole seconds, rounded up, at least one: a client told to wait zero seconds would spin.
pub(crate) fn seconds_up(wait: Duration) -> u64 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    seconds.max(1)
}

/// A name that a caller sent, cut to a length worth quoting back.
fn shortened(name: &str) -> String {
    const QUOTED_CHARS_MAX: usize = 100;
    match name.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_fault() -> Vec<(Fault, u16, &'static str, Option<&'static str>)> {
        let wait = Duration::from_millis(1500);
        vec![
            (
                Fault::BadRequest(BadRequest::at("n", "must be 1").with_code("c")),
                400,
                INVALID_REQUEST,
                Some("c"),
            ),
            (
                Fault::Unauthenticated(KeyTrouble::Unknown),
                401,
                AUTHENTICATION,
                Some("invalid_api_key"),
            ),
            (
                Fault::Forbidden { what: "no" },
                403,
                PERMISSION,
                Some("forbidden"),
            ),
            (
                Fault::ModelNotFound {
                    asked: "gtp".into(),
                    nearest: Some("gpt".into()),
                },
                404,
                INVALID_REQUEST,
                Some("model_not_found"),
            ),
            (Fault::NotFound, 404, INVALID_REQUEST, Some("not_found")),
            (
                Fault::MethodNotAllowed,
                405,
                INVALID_REQUEST,
                Some("method_not_allowed"),
            ),
            (
                Fault::TooLarge { bytes_max: 7 },
                413,
                INVALID_REQUEST,
                Some("request_too_large"),
            ),
            (
                Fault::RequestTimedOut,
                408,
                INVALID_REQUEST,
                Some("request_timeout"),
            ),
            (
                Fault::UnsupportedMediaType,
                415,
                INVALID_REQUEST,
                Some("unsupported_media_type"),
            ),
            (
                Fault::NotOffered { what: "no" },
                501,
                INVALID_REQUEST,
                Some("not_offered"),
            ),
            (
                Fault::RateLimited { retry_after: wait },
                429,
                RATE_LIMIT,
                Some("rate_limit_exceeded"),
            ),
            (Fault::BudgetSpent, 429, QUOTA, Some("insufficient_quota")),
            (
                Fault::AccountsFull { retry_after: wait },
                503,
                SERVER,
                Some("accounts_full"),
            ),
            (
                Fault::Overloaded { retry_after: wait },
                503,
                SERVER,
                Some("overloaded"),
            ),
            (Fault::UpstreamFailed, 502, SERVER, Some("upstream_failed")),
            (
                Fault::UpstreamTimedOut,
                504,
                SERVER,
                Some("upstream_timed_out"),
            ),
            (
                Fault::NoCandidate {
                    reasons: vec!["local is down".into()],
                },
                503,
                SERVER,
                Some("no_candidate"),
            ),
            (Fault::Internal, 500, SERVER, Some("internal_error")),
        ]
    }

    #[test]
    fn every_fault_has_its_row() {
        for (fault, status, kind, code) in every_fault() {
            let verdict = verdict(&fault);
            assert_eq!(verdict.status.as_u16(), status, "{fault:?}");
            assert_eq!(verdict.body.kind, kind, "{fault:?}");
            assert_eq!(verdict.body.code.as_deref(), code, "{fault:?}");
            assert!(!verdict.body.message.is_empty(), "{fault:?}");
        }
    }

    #[test]
    fn waits_are_whole_seconds_and_never_none() {
        for (wait_ms, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (90_000, "90")] {
            let retry_after = Duration::from_millis(wait_ms);
            for fault in [
                Fault::RateLimited { retry_after },
                Fault::Overloaded { retry_after },
            ] {
                assert_eq!(refusal(&fault).headers()[RETRY_AFTER], seconds, "{wait_ms}");
            }
        }
    }

    #[test]
    fn unread_requests_close_and_spent_budgets_are_final() {
        for (fault, ..) in every_fault() {
            let headers = refusal(&fault).headers().clone();
            let closes = matches!(fault, Fault::TooLarge { .. } | Fault::RequestTimedOut);
            assert_eq!(headers.contains_key(CONNECTION), closes, "{fault:?}");
            let is_final = fault == Fault::BudgetSpent;
            assert_eq!(headers.contains_key(X_SHOULD_RETRY), is_final, "{fault:?}");
            let challenges = matches!(fault, Fault::Unauthenticated(_));
            assert_eq!(
                headers.contains_key(WWW_AUTHENTICATE),
                challenges,
                "{fault:?}"
            );
        }
    }

    #[test]
    fn a_model_asked_for_is_quoted_only_so_far() {
        let asked = "é".repeat(5000);
        let verdict = verdict(&Fault::ModelNotFound {
            asked,
            nearest: None,
        });
        assert!(verdict.body.message.len() < 400);
        assert!(verdict.body.message.contains('…'));
    }
}
