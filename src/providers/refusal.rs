//! From an upstream's status, headers and error body to what the pipeline can decide on.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use domain::{BackendError, BadRequest, TimeoutPhase};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use tokio::time::timeout;
use wire::ClientDialect;
use wire::openai::ErrorReply;

use crate::response::Response;

/// Read of an error body; whatever is longer is no provider's error object.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// The longest wait believed. A provider that names days is out of money, not out of breath.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Codes of a provider's content filter: Azure's and OpenAI's (Azure OpenAI, "Content filtering",
/// and OpenAI's error codes for images and moderation; known to us, not read anew).
const FILTER_CODES: [&str; 2] = ["content_filter", "content_policy_violation"];
/// For the error body of an upstream that failed.
const TRACE_WAIT_MAX: Duration = Duration::from_millis(50);
/// Of a provider's codes and ids. Longer ones are no such things.
const WORD_BYTES_MAX: usize = 128;
/// The headers that providers name an exchange in: Anthropic, OpenAI and most others, Azure, Bedrock,
/// and whoever sits behind Cloudflare (known to us, not read anew).
const REQUEST_IDS: [&str; 5] = [
    "request-id",
    "x-request-id",
    "apim-request-id",
    "x-amzn-requestid",
    "cf-ray",
];

/// A response that is no success.
#[derive(Debug)]
pub(crate) struct Refused {
    pub error: BackendError,
    /// For the operator. Sentences are left out: providers repeat prompts in them.
    pub trace: Trace,
}

/// What an operator may show the provider.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub status: u16,
    pub code: Option<String>,
    pub their_id: Option<String>,
}

/// Reads what is needed of a response that is no success. `understand` reads an error object.
pub(crate) async fn read_refusal(
    response: Response,
    dialect: &dyn ClientDialect,
    model: &str,
    understand: impl Fn(&[u8]) -> Option<ErrorReply>,
) -> Refused {
    let status = response.status();
    let retry_after = retry_after(response.headers(), SystemTime::now());
    let their_id = their_id(response.headers());
    let body = match status.as_u16() {
        400..=499 => Some(read_start(response).await),
        // Its words are for the operator alone, and the next candidate does not wait for them.
        500..=599 => timeout(TRACE_WAIT_MAX, read_start(response)).await.ok(),
        _ => None,
    };
    let body = body.as_deref();
    let said = body.and_then(|body| dialect.refusal(status.as_u16(), body));
    let reply = body.and_then(understand);
    let code = reply
        .as_ref()
        .and_then(|reply| reply.reason.code.as_deref());
    let trace = Trace {
        status: status.as_u16(),
        code: code.and_then(plain_word).map(str::to_owned),
        their_id,
    };
    Refused {
        error: said.unwrap_or_else(|| classify(status, retry_after, reply, model)),
        trace,
    }
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

/// A word of a provider's that is one of its own and no user's: short, and made as such words are.
fn plain_word(word: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte);
    let is_short = (1..=WORD_BYTES_MAX).contains(&word.len());
    (is_short && word.bytes().all(is_plain)).then_some(word)
}

/// The provider's own name for the exchange.
fn their_id(headers: &HeaderMap) -> Option<String> {
    let mut ids = REQUEST_IDS.iter().filter_map(|name| headers.get(*name));
    let id = ids.find_map(|id| plain_word(id.to_str().ok()?))?;
    Some(id.to_owned())
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
    fn only_words_of_the_providers_own_are_kept_for_the_operator() {
        for (text, is_kept) in [
            ("rate_limit_exceeded", true),
            ("req_011CSHoEeqs5C35K2UUqR7Fy", true),
            ("8ff1e2d3-AMS", true),
            ("", false),
            ("my secret plan", false),
            ("naïve", false),
            (&"a".repeat(WORD_BYTES_MAX + 1), false),
        ] {
            assert_eq!(plain_word(text).is_some(), is_kept, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", "has a space".parse().unwrap());
        headers.insert("x-amzn-requestid", "b-1".parse().unwrap());
        assert_eq!(their_id(&headers).as_deref(), Some("b-1"));
    }
}
