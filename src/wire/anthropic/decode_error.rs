//! Decodes an upstream's error body, as a client.

use domain::{BadRequest, Tokens};
use serde_json::Value;

use super::reply_shape::word;
use crate::error_words::{CONTEXT_CODE, cut};
use crate::openai::{self, ErrorReply};

/// Reads Anthropic's error object; servers that only resemble Anthropic may answer with OpenAI's.
pub(super) fn decode_error(bytes: &[u8]) -> Option<ErrorReply> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let is_own = body.get("type").is_some_and(|kind| kind == "error");
    if !is_own {
        return openai::decode_error(bytes);
    }
    let error = body.get("error")?;
    let message = error.get("message")?.as_str()?;
    let kind = error.get("type").and_then(Value::as_str);
    let context = context_counts(message);
    let is_context_fault = context.is_some() || message.starts_with("prompt is too long");
    let code = if is_context_fault {
        Some(CONTEXT_CODE.to_owned())
    } else {
        // What says only that something is wrong is no code.
        kind.filter(|kind| *kind != "invalid_request_error")
            .map(word)
    };
    Some(ErrorReply {
        reason: BadRequest {
            param: param(message),
            code,
            message: cut(message),
        },
        context,
    })
}

/// "max_tokens: Field required" names a field. Places among messages are left in the sentence: they
/// are those of the body that went out, which may have other messages than the one that came in.
fn param(message: &str) -> Option<String> {
    let (head, _) = message.split_once(": ")?;
    let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let is_name = !head.is_empty() && head.bytes().all(is_of_name);
    is_name.then(|| word(head))
}

/// "prompt is too long: 213462 tokens > 200000 maximum" and "input length and `max_tokens` exceed
/// context limit: 190000 + 20000 > 200000, …", asked and limit (known sentences of Anthropic's answers,
/// for which no page was read; other wording leaves the counts unknown).
fn context_counts(message: &str) -> Option<(Tokens, Tokens)> {
    let rest = message
        .strip_prefix("prompt is too long: ")
        .or_else(|| Some(message.split_once("exceed context limit: ")?.1))?;
    let (asked, limit) = rest.split_once(" > ")?;
    Some((number(asked)?, number(limit)?))
}

fn number(text: &str) -> Option<Tokens> {
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().ok().map(Tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_words::MESSAGE_CHARS_MAX;

    fn error(kind: &str, message: &str) -> String {
        let error = serde_json::json!({"type": kind, "message": message});
        serde_json::json!({"type": "error", "error": error, "request_id": "req_1"}).to_string()
    }

    #[test]
    fn an_error_gives_its_message_type_and_field() {
        for (kind, message, param, code) in [
            (
                "invalid_request_error",
                "max_tokens: Field required",
                Some("max_tokens"),
                None,
            ),
            ("invalid_request_error", "messages.0.role: bad", None, None),
            (
                "not_found_error",
                "model: claude-x",
                Some("model"),
                Some("not_found_error"),
            ),
            (
                "rate_limit_error",
                "slow down",
                None,
                Some("rate_limit_error"),
            ),
        ] {
            let reply = decode_error(error(kind, message).as_bytes()).unwrap();
            assert_eq!(reply.reason.message, message);
            assert_eq!(reply.reason.param.as_deref(), param, "{message}");
            assert_eq!(reply.reason.code.as_deref(), code, "{message}");
            assert_eq!(reply.context, None);
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_gives_both_counts() {
        for (message, asked) in [
            (
                "prompt is too long: 213462 tokens > 200000 maximum",
                213_462,
            ),
            (
                "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens` and try again",
                190_000,
            ),
        ] {
            let reply = decode_error(error("invalid_request_error", message).as_bytes()).unwrap();
            assert_eq!(reply.context, Some((Tokens(asked), Tokens(200_000))));
            assert_eq!(reply.reason.code.as_deref(), Some(CONTEXT_CODE));
        }
    }

    #[test]
    fn what_is_no_error_of_anthropics_is_read_as_openais_or_not_at_all() {
        let other = decode_error(br#"{"error":{"message":"bad","code":"x"}}"#).unwrap();
        assert_eq!(other.reason.code.as_deref(), Some("x"));
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"type":"error"}"#,
            r#"{"type":"error","error":{"message":7}}"#,
        ] {
            assert_eq!(decode_error(body.as_bytes()), None, "{body}");
        }
        let long = decode_error(error("api_error", &"é\n".repeat(5000)).as_bytes()).unwrap();
        assert_eq!(long.reason.message.chars().count(), MESSAGE_CHARS_MAX);
        assert!(!long.reason.message.contains('\n'));
    }
}
