//! Errors as a client reads them.

use std::time::Duration;

use domain::Tokens;

use super::*;

fn body(code: u16, message: &str, status: &str, details: &Value) -> String {
    let error = json!({"code": code, "message": message, "status": status, "details": details});
    json!({ "error": error }).to_string()
}

#[test]
fn a_refusal_gives_message_field_and_code() {
    let details = json!([
        {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [
            {"field": "contents[0].parts", "description": "empty"}]},
    ]);
    let text = body(400, "Invalid value", "INVALID_ARGUMENT", &details);
    for text in [text.clone(), format!("[{text}]")] {
        let reply = Gemini.decode_error(text.as_bytes()).unwrap();
        assert_eq!(reply.reason.message, "Invalid value");
        assert_eq!(reply.reason.param.as_deref(), Some("contents[0].parts"));
        assert_eq!(reply.reason.code.as_deref(), Some("INVALID_ARGUMENT"));
        assert_eq!(reply.context, None);
    }
    for text in [
        "",
        "<html>",
        "[]",
        "{}",
        r#"{"error":"x"}"#,
        r#"{"error":{}}"#,
        "7",
    ] {
        assert_eq!(Gemini.decode_error(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn a_prompt_that_is_too_long_is_told_apart() {
    let said =
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).";
    let text = body(400, said, "INVALID_ARGUMENT", &json!([]));
    let reply = Gemini.decode_error(text.as_bytes()).unwrap();
    assert_eq!(reply.context, Some((Tokens(1_200_000), Tokens(1_048_576))));
    assert_eq!(
        reply.reason.code.as_deref(),
        Some("context_length_exceeded")
    );
}

#[test]
fn a_refusal_is_more_than_its_status() {
    let info = |reason: &str| json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]);
    let retry = |delay: &str| json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]);
    let refusal = |code, status: &str, details: &Value| {
        Gemini.refusal(code, body(code, "x", status, details).as_bytes())
    };
    assert!(matches!(
        refusal(400, "INVALID_ARGUMENT", &info("API_KEY_INVALID")),
        Some(BackendError::Credentials { status: 400 })
    ));
    assert!(matches!(
        refusal(400, "FAILED_PRECONDITION", &json!([])),
        Some(BackendError::Credentials { status: 400 })
    ));
    assert!(refusal(400, "INVALID_ARGUMENT", &json!([])).is_none());
    let waits = |details: &Value| match refusal(429, "RESOURCE_EXHAUSTED", details) {
        Some(BackendError::RateLimited { retry_after }) => retry_after,
        _ => None,
    };
    assert_eq!(waits(&retry("34.5s")), Some(Duration::from_millis(34_500)));
    assert_eq!(waits(&retry("999999999s")), Some(Duration::from_secs(3600)));
    for nonsense in ["-1s", "soon", "5", "NaNs"] {
        assert_eq!(waits(&retry(nonsense)), None, "{nonsense}");
    }
}

#[test]
fn an_error_in_a_stream_ends_it() {
    let details =
        json!([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]);
    for (code, label) in [
        (429, "rate_limited"),
        (503, "overloaded"),
        (500, "failed"),
        (0, "failed"),
    ] {
        let text = format!("data: {}\n\n", body(code, "x", "Y", &details));
        let events = stream(text.as_bytes());
        assert_eq!(error(&events).as_label(), label, "{code}");
    }
    let text = body(429, "x", "RESOURCE_EXHAUSTED", &details);
    for text in [text.clone(), format!("[{text}]")] {
        let events = stream(text.as_bytes());
        let BackendError::RateLimited { retry_after } = error(&events) else {
            panic!("rate limited");
        };
        assert_eq!(*retry_after, Some(Duration::from_secs(7)));
        let whole = Gemini.decode_reply(text.trim_matches(['[', ']']).as_bytes());
        assert_eq!(whole.unwrap_err().as_label(), "rate_limited");
    }
}
