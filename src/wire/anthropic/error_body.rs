//! Anthropic's error object (API reference, "Errors", read 2026-11).

use serde::Serialize;

use crate::openai::ErrorBody;

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'static str,
    error: Body<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// What programs may act on.
#[derive(Serialize)]
struct Details {
    error_code: &'static str,
}

/// The one code of ours that Anthropic has too, and that its SDKs act on.
pub(super) const THREAD_UNSUPPORTED: &str = "thread_unsupported_request";

/// Too busy, in Anthropic's API.
const OVERLOADED: u16 = 529;

/// `{"type": "error", "error": {"type", "message"}, "request_id"}`. In a stream there is no id.
pub(super) fn error_body(status: u16, error: &ErrorBody, request_id: Option<&str>) -> Vec<u8> {
    let envelope = Envelope {
        r#type: "error",
        error: Body {
            r#type: kind(status),
            message: &error.message,
            details: (error.code.as_deref() == Some(THREAD_UNSUPPORTED)).then_some(Details {
                error_code: THREAD_UNSUPPORTED,
            }),
        },
        request_id,
    };
    serde_json::to_vec(&envelope).expect("strings always serialize")
}

/// The status by which Anthropic's clients know what ours says: their classes of errors go by it.
pub(super) fn status(ours: u16) -> u16 {
    match ours {
        503 => OVERLOADED,
        same => same,
    }
}

/// 429 stands for a budget that is spent, too.
fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | OVERLOADED => "overloaded_error",
        504 => "timeout_error",
        // Anthropic has this type for every other status of the kind.
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_status_names_the_type_and_the_message_stays() {
        let error = ErrorBody {
            message: "Invalid type for 'max_tokens'.".into(),
            kind: "invalid_request_error",
            param: Some("max_tokens".into()),
            code: Some("invalid_type".into()),
        };
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (402, "billing_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (405, "invalid_request_error"),
            (408, "invalid_request_error"),
            (413, "request_too_large"),
            (415, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (502, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
            (529, "overloaded_error"),
        ] {
            let written = error_body(status, &error, Some("req-1"));
            let read: Value = serde_json::from_slice(&written).unwrap();
            let expected = json!({
                "type": "error",
                "error": {"type": kind, "message": "Invalid type for 'max_tokens'."},
                "request_id": "req-1",
            });
            assert_eq!(read, expected, "{status}");
        }
        let unthreaded = ErrorBody {
            code: Some(THREAD_UNSUPPORTED.into()),
            ..error.clone()
        };
        let read: Value = serde_json::from_slice(&error_body(400, &unthreaded, None)).unwrap();
        assert_eq!(read["error"]["details"]["error_code"], THREAD_UNSUPPORTED);
        assert_eq!([status(503), status(529), status(429)], [529, 529, 429]);
        let written = error_body(500, &error, None);
        assert!(!String::from_utf8(written).unwrap().contains("request_id"));
    }
}
