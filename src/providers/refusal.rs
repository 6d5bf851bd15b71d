//! From an upstream's status, headers and error body to what the pipeline can decide on.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use domain::{BackendError, BadRequest, TimeoutPhase};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use wire::ClientDialect;
use wire::openai::ErrorReply;

use crate::Secret;
use crate::response::Response;

/// Read of an error body; whatever is longer is no provider's error object.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// The longest wait believed. A provider that names days is out of money, not out of breath.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Codes of a provider's content filter: Azure's and OpenAI's (Azure OpenAI, "Content filtering",
/// and OpenAI's error codes for images and moderation, read 2026-11).
const FILTER_CODES: [&str; 2] = ["content_filter", "content_policy_violation"];
/// What stands in a message where the upstream repeated our key.
const KEY_PLACEHOLDER: &str = "[key]";

/// Reads what is needed of a response that is no success.
pub(crate) async fn read_refusal(
    response: Response,
    dialect: &dyn ClientDialect,
    model: &str,
    key: Option<&Secret>,
) -> BackendError {
    let status = response.status();
    let retry_after = retry_after(response.headers(), SystemTime::now());
    let reply = match status.as_u16() {
        code @ (400..=499 | 503) => {
            let body = read_start(response).await;
            if let Some(error) = dialect.refusal(code, &body) {
                return error;
            }
            dialect.decode_error(&body)
        }
        _ => None,
    };
    classify(
        status,
        retry_after,
        reply.map(|reply| without_key(reply, key)),
        model,
    )
}

/// The table from status to decision.
fn classify(
    status: StatusCode,
    retry_after: Option<Duration>,
    reply: Option<ErrorReply>,
    model: &str,
) -> BackendError {
    let code = status.as_u16();
    match code {
        401..=403 => BackendError::Credentials { status: code },
        408 => BackendError::TimedOut(TimeoutPhase::Request),
        429 => BackendError::RateLimited { retry_after },
        503 | 529 => BackendError::Overloaded {
            retry_after: retry_after.unwrap_or_default(),
        },
        // With an error object it is the model that is not there, or no longer.
        404 | 410 if reply.is_some() => BackendError::ModelUnknown {
            model: model.to_owned(),
        },
        400..=499 => match reply {
            Some(ErrorReply {
                context: Some((asked, limit)),
                ..
            }) => BackendError::ContextExceeded { asked, limit },
            Some(ErrorReply { reason, .. }) if is_filter(&reason) => {
                BackendError::ContentRefused { reason }
            }
            Some(ErrorReply { reason, .. }) => BackendError::Rejected {
                status: code,
                reason,
            },
            // These speak of the request even without words; another 4xx without an error object
            // speaks of the address: a wrong path, a gateway's page.
            None if matches!(code, 400 | 413 | 415 | 422) => BackendError::Rejected {
                status: code,
                reason: wordless(code),
            },
            None => BackendError::Failed { status: code },
        },
        _ => BackendError::Failed { status: code },
    }
}

fn is_filter(reason: &BadRequest) -> bool {
    let code = reason.code.as_deref();
    code.is_some_and(|code| FILTER_CODES.contains(&code))
}

fn wordless(code: u16) -> BadRequest {
    BadRequest {
        param: None,
        code: None,
        message: format!("the upstream refused the request with status {code} and gave no reason"),
    }
}

/// The body's first stretch. A body that breaks off is judged by what came.
async fn read_start(mut response: Response) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = ERROR_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ERROR_BYTES_MAX {
            break;
        }
    }
    body.freeze()
}

/// Some providers repeat the key they refuse.
fn without_key(mut reply: ErrorReply, key: Option<&Secret>) -> ErrorReply {
    let key = key.map(Secret::expose).filter(|key| !key.is_empty());
    if let Some(key) = key {
        let clean = |text: &mut String| *text = text.replace(key, KEY_PLACEHOLDER);
        clean(&mut reply.reason.message);
        reply.reason.param.as_mut().map(clean);
        reply.reason.code.as_mut().map(clean);
    }
    reply
}

/// `retry-after` in either of its forms (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use wire::openai::decode_error;

    use super::*;

    fn waits(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        // 1994-11-15 08:12:30 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_887_150);
        retry_after(&headers, now)
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(waits("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            waits("Tue, 15 Nov 1994 08:12:31 GMT"),
            Some(Duration::from_secs(1))
        );
        assert_eq!(waits("Tue, 15 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(waits("999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(waits("soon"), None);
        assert_eq!(waits("-1"), None);
    }

    #[test]
    fn the_upstreams_words_never_hold_our_key() {
        let body = br#"{"error":{"message":"key sk-123 is odd","param":"sk-123","code":"sk-123"}}"#;
        let reply = decode_error(body).unwrap();
        let clean = without_key(reply, Some(&Secret::new("sk-123")));
        assert_eq!(clean.reason.message, "key [key] is odd");
        assert_eq!(clean.reason.param.as_deref(), Some("[key]"));
        assert_eq!(clean.reason.code.as_deref(), Some("[key]"));
    }
}
