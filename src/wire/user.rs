//! For whom a request is made, in each dialect's words.

use domain::{BadRequest, ChatRequest, Dialect, Extra};
use serde::Deserialize;
use serde_json::Value;

use crate::fields::Path;
use crate::request_fault as fault;

/// Whom a chat's caller names as its user: OpenAI's `safety_identifier`, else its older `user`;
/// Anthropic's `metadata.user_id`.
///
/// # Errors
/// It is no text.
pub fn user_of(request: &ChatRequest) -> Result<Option<&str>, BadRequest> {
    match request.dialect {
        Dialect::Anthropic => {
            let Some(Value::Object(metadata)) = request.extra.get("metadata") else {
                return Ok(None);
            };
            let path = Path::Root.field("metadata");
            text(metadata, &path, "user_id")
        }
        Dialect::OpenAi
        | Dialect::Responses
        | Dialect::Completions
        | Dialect::Gemini
        | Dialect::Bedrock
        | Dialect::Ollama => {
            let of = |name| text(&request.extra, &Path::Root, name);
            Ok(of("safety_identifier")?.or(of("user")?))
        }
    }
}

/// The same of a body that is no chat's: its `user`. What is no JSON names nobody; whoever decodes it says
/// what is wrong.
///
/// # Errors
/// The user is no text.
pub fn user_in(body: &[u8]) -> Result<Option<String>, BadRequest> {
    #[derive(Deserialize)]
    struct Named {
        user: Option<String>,
    }
    match serde_json::from_slice::<Named>(body) {
        Ok(named) => Ok(named.user),
        Err(error) if error.is_data() && body.trim_ascii_start().starts_with(b"{") => Err(
            BadRequest::at("user", "Invalid type for 'user': expected a string."),
        ),
        Err(_) => Ok(None),
    }
}

/// Whether it is worth the while to look for one in `body`: most name nobody, and may be long.
#[must_use]
pub fn may_name_user(body: &[u8]) -> bool {
    memchr::memmem::find(body, br#""user""#).is_some()
}

fn text<'a>(fields: &'a Extra, path: &Path<'_>, name: &str) -> Result<Option<&'a str>, BadRequest> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(user)) => Ok(Some(user)),
        Some(other) => Err(fault::wrong_type(&path.field(name), "a string", other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(dialect: Dialect, extra: Value) -> Result<Option<String>, Option<String>> {
        let Value::Object(extra) = extra else {
            panic!("it is an object");
        };
        let request = ChatRequest {
            dialect,
            extra,
            ..ChatRequest::new("m", Vec::new())
        };
        let user = user_of(&request).map_err(|fault| fault.param)?;
        Ok(user.map(str::to_owned))
    }

    #[test]
    fn each_dialect_names_its_user_in_its_own_way() {
        use Dialect::{Anthropic, Completions, OpenAi, Responses};
        let both = json!({"user": "old", "safety_identifier": "new"});
        for (dialect, extra, user) in [
            (OpenAi, json!({"user": "u"}), Some("u")),
            (Responses, both, Some("new")),
            (Completions, json!({"user": "u"}), Some("u")),
            (OpenAi, json!({"metadata": {"user_id": "u"}}), None),
            (Anthropic, json!({"metadata": {"user_id": "u"}}), Some("u")),
            (Anthropic, json!({"metadata": {"user_id": null}}), None),
            (Anthropic, json!({"metadata": null}), None),
            (OpenAi, json!({"user": null}), None),
        ] {
            let found = named(dialect, extra.clone()).unwrap();
            assert_eq!(found.as_deref(), user, "{extra}");
        }
    }

    #[test]
    fn a_user_is_a_text() {
        for (dialect, extra, path) in [
            (Dialect::OpenAi, json!({"user": 5}), "user"),
            (
                Dialect::Responses,
                json!({"safety_identifier": []}),
                "safety_identifier",
            ),
            (
                Dialect::Anthropic,
                json!({"metadata": {"user_id": {}}}),
                "metadata.user_id",
            ),
        ] {
            assert_eq!(named(dialect, extra), Err(Some(path.to_owned())));
        }
    }

    #[test]
    fn other_bodies_have_a_field_for_it() {
        assert_eq!(
            user_in(br#"{"input": ["a"], "user": "u"}"#),
            Ok(Some("u".into()))
        );
        assert_eq!(user_in(br#"{"input": "a"}"#), Ok(None));
        assert_eq!(user_in(b"[5"), Ok(None));
        assert_eq!(user_in(b"[5]"), Ok(None));
        assert!(user_in(br#"{"user": 5}"#).is_err());
        assert!(may_name_user(br#"{"input": ["a"], "user" : "u"}"#));
        assert!(!may_name_user(br#"{"input": ["the user"]}"#));
    }
}
