//! Decodes an error, as a client: the body of a refusal, or an object inside of a stream.
//!
//! `{"error": {"code", "message", "status", "details": […]}}`, where a detail says by its `@type`
//! what it is (`google.rpc.BadRequest`, `ErrorInfo`, `RetryInfo`). Refusals of streams without
//! `alt=sse` stand in an array.

use std::time::Duration;

use domain::{BackendError, BadRequest, Tokens};
use serde_json::Value;

use crate::error_words::{CONTEXT_CODE, cut, number_after};
use crate::openai::ErrorReply;
use crate::request_fault::shown;

/// The longest wait believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Stands for an error that names no status of its own.
const FAILED_STATUS: u16 = 500;

/// `None` when the bytes are no error of Google's.
pub(super) fn decode_error(bytes: &[u8]) -> Option<ErrorReply> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let error = error_of(&body)?;
    let message = error.get("message")?.as_str()?;
    let context = context_counts(message);
    let is_context_fault =
        context.is_some() || message.contains("exceeds the maximum number of tokens");
    let code = if is_context_fault {
        Some(CONTEXT_CODE.to_owned())
    } else {
        reason(error)
            .or_else(|| error.get("status").and_then(Value::as_str))
            .map(|word| shown(word).into_owned())
    };
    Some(ErrorReply {
        reason: BadRequest {
            param: violated_field(error).map(|field| shown(field).into_owned()),
            code,
            message: cut(message),
        },
        context,
    })
}

/// What a refusal means where its status alone would mislead.
pub(super) fn refusal(status: u16, bytes: &[u8]) -> Option<BackendError> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let error = error_of(&body)?;
    match status {
        // Google answers a bad key with 400, and one from a country it does not serve.
        400 if matches!(reason(error), Some("API_KEY_INVALID" | "API_KEY_EXPIRED")) => {
            Some(BackendError::Credentials { status })
        }
        400 if error.get("status").and_then(Value::as_str) == Some("FAILED_PRECONDITION") => {
            Some(BackendError::Credentials { status })
        }
        429 => retry_delay(error).map(|wait| BackendError::RateLimited {
            retry_after: Some(wait),
        }),
        503 => retry_delay(error).map(|retry_after| BackendError::Overloaded { retry_after }),
        _ => None,
    }
}

/// The error object `json` that stood in a reply under a good status.
pub(super) fn failure(json: &str) -> BackendError {
    let error: Value = serde_json::from_str(json).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_u64);
    let status = code
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (400..600).contains(code))
        .unwrap_or(FAILED_STATUS);
    match status {
        429 => BackendError::RateLimited {
            retry_after: retry_delay(&error),
        },
        503 => BackendError::Overloaded {
            retry_after: retry_delay(&error).unwrap_or_default(),
        },
        status => BackendError::Failed { status },
    }
}

/// A prompt that Google's filter did not let pass, by its `blockReason`.
pub(super) fn blocked(word: &str) -> BackendError {
    BackendError::ContentRefused {
        reason: BadRequest {
            param: None,
            code: Some("content_filter".to_owned()),
            message: format!(
                "the provider's filter did not let the prompt pass: {}",
                shown(word)
            ),
        },
    }
}

fn error_of(body: &Value) -> Option<&Value> {
    let body = match body {
        Value::Array(items) => items.first()?,
        body => body,
    };
    body.get("error").filter(|error| error.is_object())
}

/// The details whose type ends in `name`.
fn details<'a>(error: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let details = error.get("details").and_then(Value::as_array);
    details.into_iter().flatten().filter(move |detail| {
        let kind = detail.get("@type").and_then(Value::as_str);
        kind.is_some_and(|kind| kind.rsplit('.').next() == Some(name))
    })
}

fn reason(error: &Value) -> Option<&str> {
    details(error, "ErrorInfo").find_map(|it| it.get("reason")?.as_str())
}

fn violated_field(error: &Value) -> Option<&str> {
    details(error, "BadRequest").find_map(|it| it.pointer("/fieldViolations/0/field")?.as_str())
}

/// `RetryInfo`'s delay, as `34.07s`.
fn retry_delay(error: &Value) -> Option<Duration> {
    let text = details(error, "RetryInfo").find_map(|it| it.get("retryDelay")?.as_str())?;
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    let wait = Duration::try_from_secs_f64(seconds).ok()?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
fn context_counts(message: &str) -> Option<(Tokens, Tokens)> {
    let asked = number_after(message, "input token count (")?;
    let limit = number_after(message, "maximum number of tokens allowed (")?;
    Some((asked, limit))
}
