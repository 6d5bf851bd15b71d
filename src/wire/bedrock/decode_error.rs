//! Decodes an error: the body of a refusal, or an exception inside of a stream.

use std::time::Duration;

use domain::{BackendError, BadRequest, TimeoutPhase, Tokens};
use serde_json::Value;

use crate::error_words::{CONTEXT_CODE, cut};
use crate::openai::ErrorReply;
use crate::request_fault::shown;

/// Reads `{"message": …}`, which some of AWS's servers write with a capital, and give a type
/// (`__type`). `None` when the bytes are no such object.
pub(super) fn decode_error(bytes: &[u8]) -> Option<ErrorReply> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let message = message_of(&body)?;
    let context = context_counts(message);
    let is_context_fault = context.is_some() || message.contains("nput is too long");
    let kind = body.get("__type").and_then(Value::as_str);
    let kind = kind.map(|kind| kind.rsplit('#').next().unwrap_or(kind));
    let code = if is_context_fault {
        Some(CONTEXT_CODE)
    } else {
        kind
    };
    Some(ErrorReply {
        reason: BadRequest {
            param: None,
            code: code.map(|code| shown(code).into_owned()),
            message: cut(message),
        },
        context,
    })
}

/// An exception in the place of an event.
pub(super) fn exception(name: &str, payload: &[u8]) -> BackendError {
    let body: Value = serde_json::from_slice(payload).unwrap_or_default();
    let status = |or: u16| {
        let original = body.get("originalStatusCode").and_then(Value::as_u64);
        original
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| (400..600).contains(status))
            .unwrap_or(or)
    };
    match name {
        "throttlingException" => BackendError::RateLimited { retry_after: None },
        "serviceUnavailableException" | "modelNotReadyException" => BackendError::Overloaded {
            // Bedrock names no wait.
            retry_after: Duration::ZERO,
        },
        "modelTimeoutException" => BackendError::TimedOut(TimeoutPhase::BetweenEvents),
        "accessDeniedException" => BackendError::Credentials { status: 403 },
        "validationException" => match decode_error(payload) {
            Some(ErrorReply {
                context: Some((asked, limit)),
                ..
            }) => BackendError::ContextExceeded { asked, limit },
            Some(ErrorReply { reason, .. }) => BackendError::Rejected {
                status: 400,
                reason,
            },
            None => BackendError::Failed { status: 400 },
        },
        "modelStreamErrorException" | "modelErrorException" => BackendError::Failed {
            status: status(424),
        },
        _ => BackendError::Failed {
            status: status(500),
        },
    }
}

fn message_of(body: &Value) -> Option<&str> {
    ["message", "Message"]
        .into_iter()
        .find_map(|name| body.get(name)?.as_str())
}

/// Anthropic's sentence: "prompt is too long: 210000 tokens > 200000 maximum".
fn context_counts(message: &str) -> Option<(Tokens, Tokens)> {
    let (_, rest) = message.split_once("prompt is too long: ")?;
    let (asked, rest) = rest.split_once(" tokens > ")?;
    let limit = rest.split(' ').next()?;
    Some((Tokens(asked.parse().ok()?), Tokens(limit.parse().ok()?)))
}
