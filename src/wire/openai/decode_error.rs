//! Decodes an upstream's error body, as a client.

use domain::{BadRequest, Tokens};
use serde_json::Value;

use crate::error_words::{CONTEXT_CODE, cut, number_after};
use crate::request_fault::shown;

/// What an upstream's error body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    pub reason: BadRequest,
    /// Asked and limit, where the error says that the context is too short and names both.
    pub context: Option<(Tokens, Tokens)>,
}

/// Reads OpenAI's error object, or one of its known relatives: `error` as a plain string (Ollama),
/// `message` (older vLLM) and `detail` (FastAPI) at the top.
///
/// `None` when the bytes are no error body of a chat provider: an HTML page, say.
#[must_use]
pub fn decode_error(bytes: &[u8]) -> Option<ErrorReply> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let error = match body.get("error") {
        Some(error) if !error.is_null() => error,
        _ => &body,
    };
    let message = [error.get("message"), Some(error), error.get("detail")]
        .into_iter()
        .flatten()
        .find_map(Value::as_str)?;
    let word = |name: &str| match error.get(name)? {
        Value::String(word) if !word.is_empty() => Some(shown(word).into_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let is_context_fault = word("code").as_deref() == Some(CONTEXT_CODE)
        || word("type").as_deref() == Some("exceed_context_size_error")
        || message.contains("maximum context length");
    let code = if is_context_fault {
        Some(CONTEXT_CODE.to_owned())
    } else {
        word("code")
    };
    Some(ErrorReply {
        reason: BadRequest {
            param: word("param"),
            code,
            message: cut(message),
        },
        context: is_context_fault
            .then(|| context_counts(error, message))
            .flatten(),
    })
}

/// llama.cpp's server gives the counts as fields; OpenAI and vLLM have them in the sentence:
/// "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001
/// tokens" or "you requested 9001 tokens".
fn context_counts(error: &Value, message: &str) -> Option<(Tokens, Tokens)> {
    let field = |name: &str| Some(Tokens(u32::try_from(error.get(name)?.as_u64()?).ok()?));
    if let (Some(asked), Some(limit)) = (field("n_prompt_tokens"), field("n_ctx")) {
        return Some((asked, limit));
    }
    let limit = number_after(message, "maximum context length is ")?;
    let asked = number_after(message, "resulted in ")
        .or_else(|| number_after(message, "you requested "))
        .or_else(|| number_after(message, "request has "))?;
    Some((asked, limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_words::MESSAGE_CHARS_MAX;

    fn check(body: &str, message: &str, param: Option<&str>, code: Option<&str>) {
        let reply = decode_error(body.as_bytes()).expect(body);
        assert_eq!(reply.reason.message, message, "{body}");
        assert_eq!(reply.reason.param.as_deref(), param, "{body}");
        assert_eq!(reply.reason.code.as_deref(), code, "{body}");
    }

    #[test]
    fn every_known_shape_of_error_gives_its_message() {
        check(
            r#"{"error":{"message":"bad n","type":"invalid_request_error","param":"n","code":"x"}}"#,
            "bad n",
            Some("n"),
            Some("x"),
        );
        check(r#"{"error":"no such model"}"#, "no such model", None, None);
        check(
            r#"{"object":"error","message":"bad","code":400}"#,
            "bad",
            None,
            Some("400"),
        );
        check(r#"{"detail":"not here"}"#, "not here", None, None);
    }

    #[test]
    fn what_is_no_error_body_gives_nothing() {
        for body in ["", "<html>502</html>", "[]", "{}", r#"{"error":{}}"#, "7"] {
            assert_eq!(decode_error(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn a_context_fault_gives_both_counts() {
        let cases = [
            r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.","code":"context_length_exceeded","param":"messages"}}"#,
            r#"{"message":"This model's maximum context length is 8192 tokens. However, you requested 9001 tokens (9000 in the messages, 1 in the completion).","code":400}"#,
            r#"{"error":{"code":400,"message":"request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":9001,"n_ctx":8192}}"#,
        ];
        for body in cases {
            let reply = decode_error(body.as_bytes()).unwrap();
            assert_eq!(reply.context, Some((Tokens(9001), Tokens(8192))), "{body}");
            assert_eq!(
                reply.reason.code.as_deref(),
                Some("context_length_exceeded")
            );
        }
    }

    #[test]
    fn a_long_message_is_cut_and_its_controls_are_blanked() {
        let body = format!(r#"{{"error":"a\n{}"}}"#, "é".repeat(5000));
        let reply = decode_error(body.as_bytes()).unwrap();
        assert_eq!(reply.reason.message.chars().count(), MESSAGE_CHARS_MAX);
        assert!(reply.reason.message.starts_with("a é"));
    }
}
