//! Google's error object.

use serde_json::{Value, json};

use crate::openai::ErrorBody;

/// `{"error": {"code", "message", "status", "details"}}`, with the field at fault where one is known.
pub(super) fn error_body(status: u16, error: &ErrorBody, request_id: Option<&str>) -> Value {
    let mut details = Vec::new();
    if let Some(code) = &error.code {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code.to_ascii_uppercase(),
            "domain": "hedge",
        }));
    }
    if let Some(param) = &error.param {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": param, "description": error.message}],
        }));
    }
    if let Some(id) = request_id {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RequestInfo",
            "requestId": id,
        }));
    }
    let mut body = json!({
        "code": status,
        "message": error.message,
        "status": status_word(status),
    });
    if !details.is_empty() {
        body["details"] = details.into();
    }
    json!({ "error": body })
}

/// The word of google.rpc.Code that Google's own servers put beside such a status.
fn status_word(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        405 | 501 => "UNIMPLEMENTED",
        502 | 503 | 529 => "UNAVAILABLE",
        400..=499 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_field_and_its_request() {
        let error = ErrorBody {
            message: "expected base64.".into(),
            kind: "invalid_request_error",
            param: Some("contents[0].parts[0].inlineData.data".into()),
            code: Some("invalid_value".into()),
        };
        let expected = json!({"error": {
            "code": 400,
            "message": "expected base64.",
            "status": "INVALID_ARGUMENT",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "INVALID_VALUE", "domain": "hedge"},
                {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{
                    "field": "contents[0].parts[0].inlineData.data",
                    "description": "expected base64."}]},
                {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "r-1"},
            ],
        }});
        assert_eq!(error_body(400, &error, Some("r-1")), expected);
    }

    #[test]
    fn every_status_has_googles_word() {
        for (status, word) in [
            (400, "INVALID_ARGUMENT"),
            (401, "UNAUTHENTICATED"),
            (403, "PERMISSION_DENIED"),
            (404, "NOT_FOUND"),
            (413, "INVALID_ARGUMENT"),
            (415, "INVALID_ARGUMENT"),
            (429, "RESOURCE_EXHAUSTED"),
            (500, "INTERNAL"),
            (502, "UNAVAILABLE"),
            (503, "UNAVAILABLE"),
            (504, "DEADLINE_EXCEEDED"),
        ] {
            assert_eq!(status_word(status), word, "{status}");
        }
    }
}
