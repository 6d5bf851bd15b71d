//! Where a provider differs from the dialect it says it speaks, as data.
//!
//! A body is written as the dialect says and then altered, so no codec knows any provider. Names are
//! looked for first: a body with none of them leaves as it was written, byte for byte.

use bytes::{BufMut, Bytes, BytesMut};
use domain::BackendError;
use memchr::memmem;
use serde_json::value::RawValue;

use super::ErrorReply;
use crate::error_words::CONTEXT_CODE;
use crate::splice::{Members, put_json, put_member};

/// What differs. Nothing, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// Fields of the body under other names, as `(ours, theirs)`. Where both stand, theirs stays.
    pub renames: Vec<(String, String)>,
    /// Fields of the body that are hints, and left out.
    pub drops: Vec<String>,
    /// Fields of the body that say what the provider cannot do. A request is declined for them,
    /// unless their value says nothing: `null`, `false`, 0, empty, and an `n` of 1.
    pub refuses: Vec<String>,
    /// As `renames`, of each message.
    pub message_renames: Vec<(String, String)>,
    /// As `drops`, of each message.
    pub message_drops: Vec<String>,
    /// As `drops`, of each call of each message.
    pub call_drops: Vec<String>,
    /// What `system` and `developer` are called.
    pub system_role: Option<String>,
    /// Parts of sentences, in lower case, by which the provider says that a prompt is too long.
    pub context_phrases: Vec<String>,
}

impl Quirks {
    /// The body as the provider wants it.
    ///
    /// # Errors
    /// [`BackendError::Declined`] with the path of a field that the provider does not take.
    pub fn alter(&self, body: Bytes) -> Result<Bytes, BackendError> {
        let is_told = self.renames.iter().map(|(ours, _)| ours);
        let mut names = is_told.chain(&self.drops).chain(&self.refuses);
        let is_altered = names.any(|name| has_quoted(&body, name));
        let are_messages_altered = self.alters_messages(&body);
        if !is_altered && !are_messages_altered {
            return Ok(body);
        }
        let Ok(Members(members)) = serde_json::from_slice::<Members<'_>>(&body) else {
            return Ok(body);
        };
        let mut out = BytesMut::with_capacity(body.len());
        for (name, value) in &members {
            if self.refuses.iter().any(|refused| refused == name) {
                if says_something(name, value) {
                    return Err(BackendError::declined(
                        name.as_ref(),
                        format!("the provider does not take `{name}`"),
                    ));
                }
                continue;
            }
            if self.drops.iter().any(|dropped| dropped == name) {
                continue;
            }
            let Some(name) = renamed(name, &self.renames, &members) else {
                continue;
            };
            put_member(&mut out, name, |out| {
                if name == "messages" && are_messages_altered {
                    self.put_messages(out, value);
                } else {
                    out.put_slice(value.get().as_bytes());
                }
            });
        }
        Ok(closed(out))
    }

    fn alters_messages(&self, body: &[u8]) -> bool {
        let roles = self.system_role.as_deref();
        let mut other_roles = ROLES.iter().filter(|role| Some(**role) != roles);
        let has_other_role = roles.is_some() && other_roles.any(|role| has_quoted(body, role));
        let renames = self.message_renames.iter().map(|(ours, _)| ours);
        let mut names = renames.chain(&self.message_drops).chain(&self.call_drops);
        has_other_role || names.any(|name| has_quoted(body, name))
    }

    /// Messages that are none pass as they are.
    fn put_messages(&self, out: &mut BytesMut, messages: &RawValue) {
        let Ok(messages) = serde_json::from_str::<Vec<&RawValue>>(messages.get()) else {
            out.put_slice(messages.get().as_bytes());
            return;
        };
        out.put_u8(b'[');
        for (index, message) in messages.into_iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            match serde_json::from_str::<Members<'_>>(message.get()) {
                Ok(Members(members)) => out.put_slice(&self.message(&members)),
                Err(_) => out.put_slice(message.get().as_bytes()),
            }
        }
        out.put_u8(b']');
    }

    fn message(&self, members: &[Member<'_>]) -> Bytes {
        let mut out = BytesMut::new();
        for (name, value) in members {
            if self.message_drops.iter().any(|dropped| dropped == name) {
                continue;
            }
            let Some(name) = renamed(name, &self.message_renames, members) else {
                continue;
            };
            put_member(&mut out, name, |out| {
                if name == "tool_calls" && !self.call_drops.is_empty() {
                    return self.put_calls(out, value);
                }
                let role = self.system_role.as_ref().filter(|_| name == "role");
                match (role, serde_json::from_str::<&str>(value.get())) {
                    (Some(role), Ok(had)) if ROLES.contains(&had) => put_json(out, role),
                    (Some(_) | None, _) => out.put_slice(value.get().as_bytes()),
                }
            });
        }
        closed(out)
    }

    /// Calls that are none pass as they are.
    fn put_calls(&self, out: &mut BytesMut, calls: &RawValue) {
        let Ok(calls) = serde_json::from_str::<Vec<Members<'_>>>(calls.get()) else {
            out.put_slice(calls.get().as_bytes());
            return;
        };
        out.put_u8(b'[');
        for (index, Members(members)) in calls.into_iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            let mut call = BytesMut::new();
            for (name, value) in &members {
                if !self.call_drops.iter().any(|dropped| dropped == name) {
                    put_member(&mut call, name, |out| out.put_slice(value.get().as_bytes()));
                }
            }
            out.put_slice(&closed(call));
        }
        out.put_u8(b']');
    }

    /// The error, known for what it is where one of the provider's phrases stands in it.
    #[must_use]
    pub fn recognize(&self, mut reply: ErrorReply) -> ErrorReply {
        if !self.context_phrases.is_empty() {
            let message = reply.reason.message.to_lowercase();
            let mut phrases = self.context_phrases.iter();
            if phrases.any(|phrase| message.contains(phrase)) {
                reply.reason.code = Some(CONTEXT_CODE.to_owned());
            }
        }
        reply
    }
}

type Member<'a> = (std::borrow::Cow<'a, str>, &'a RawValue);

/// Both names of a message that instructs.
const ROLES: [&str; 2] = ["system", "developer"];

/// `None` where the other name stands there, too.
fn renamed<'a>(
    name: &'a str,
    renames: &'a [(String, String)],
    members: &[Member<'_>],
) -> Option<&'a str> {
    let Some((_, theirs)) = renames.iter().find(|(ours, _)| ours == name) else {
        return Some(name);
    };
    let has_theirs = members.iter().any(|(name, _)| name == theirs);
    (!has_theirs).then_some(theirs)
}

/// False where no name of the body is `name`. A value that is may make it true.
fn has_quoted(body: &[u8], name: &str) -> bool {
    memmem::find_iter(body, name).any(|start| {
        let before = start.checked_sub(1).and_then(|at| body.get(at));
        before == Some(&b'"') && body.get(start + name.len()) == Some(&b'"')
    })
}

fn says_something(name: &str, value: &RawValue) -> bool {
    let text = value.get();
    let is_empty = ["null", "false", "0", "0.0", "\"\"", "[]", "{}"].contains(&text);
    let says_nothing = is_empty || (name == "n" && text == "1");
    !says_nothing
}

fn closed(mut object: BytesMut) -> Bytes {
    if object.is_empty() {
        object.put_u8(b'{');
    }
    object.put_u8(b'}');
    object.freeze()
}

#[cfg(test)]
mod tests {
    use domain::BadRequest;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(ours, theirs): &(&str, &str)| ((*ours).to_owned(), (*theirs).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn check(quirks: &Quirks, body: &str, expected: &str) {
        let altered = quirks.alter(Bytes::from(body.to_owned())).unwrap();
        assert_eq!(std::str::from_utf8(&altered).unwrap(), expected, "{body}");
    }

    #[test]
    fn fields_are_renamed_and_left_out() {
        let quirks = Quirks {
            renames: pairs(&[
                ("max_completion_tokens", "max_tokens"),
                ("seed", "random_seed"),
            ]),
            drops: names(&["store", "stream_options"]),
            ..Quirks::default()
        };
        check(
            &quirks,
            r#"{"model":"m","max_completion_tokens":7,"store":true,"seed":1,"x": {"seed":1.50}}"#,
            r#"{"model":"m","max_tokens":7,"random_seed":1,"x":{"seed":1.50}}"#,
        );
        check(
            &quirks,
            r#"{"max_tokens":5,"max_completion_tokens":7}"#,
            r#"{"max_tokens":5}"#,
        );
        check(&quirks, r#"{"store":true}"#, "{}");
    }

    #[test]
    fn a_body_without_any_of_the_names_keeps_its_bytes() {
        let quirks = Quirks {
            drops: names(&["store"]),
            system_role: Some("system".into()),
            message_drops: names(&["name"]),
            ..Quirks::default()
        };
        let body =
            r#"{ "model": "restore", "messages": [{"role": "system", "content": "\u00e9"}] }"#;
        check(&quirks, body, body);
        check(&Quirks::default(), body, body);
        check(&quirks, "no \"store\" of JSON", "no \"store\" of JSON");
    }

    #[test]
    fn a_field_that_is_refused_declines_the_request_unless_it_says_nothing() {
        let quirks = Quirks {
            refuses: names(&["logprobs", "logit_bias", "n"]),
            ..Quirks::default()
        };
        check(
            &quirks,
            r#"{"logprobs":false,"logit_bias":{},"n":1,"model":"n"}"#,
            r#"{"model":"n"}"#,
        );
        for (body, field) in [
            (r#"{"model":"m","logprobs":true}"#, "logprobs"),
            (r#"{"n":2}"#, "n"),
            (r#"{"logit_bias":{"5":1}}"#, "logit_bias"),
        ] {
            let Err(BackendError::Declined { reason }) = quirks.alter(Bytes::from(body)) else {
                panic!("{body} passes");
            };
            assert_eq!(reason.param.as_deref(), Some(field));
        }
    }

    #[test]
    fn messages_have_the_providers_names_and_roles() {
        let quirks = Quirks {
            message_renames: pairs(&[("reasoning_content", "reasoning")]),
            message_drops: names(&["name"]),
            system_role: Some("system".into()),
            ..Quirks::default()
        };
        check(
            &quirks,
            r#"{"messages":[{"role":"developer","content":"developer"},{"role":"user","name":"u","content":[ 1 ]},{"role":"assistant","reasoning_content":"t","content":"a"},7],"developer":"developer"}"#,
            r#"{"messages":[{"role":"system","content":"developer"},{"role":"user","content":[ 1 ]},{"role":"assistant","reasoning":"t","content":"a"},7],"developer":"developer"}"#,
        );
        let developer = Quirks {
            system_role: Some("developer".into()),
            ..Quirks::default()
        };
        check(
            &developer,
            r#"{"messages":[{"role":"system","content":"a"}]}"#,
            r#"{"messages":[{"role":"developer","content":"a"}]}"#,
        );
    }

    #[test]
    fn calls_lose_what_the_provider_refuses() {
        let quirks = Quirks {
            call_drops: names(&["extra_content"]),
            ..Quirks::default()
        };
        check(
            &quirks,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"a","extra_content":{"google":{}},"function": {"x": 1.50}},{"extra_content":1}]},{"role":"assistant","tool_calls":7}]}"#,
            r#"{"messages":[{"role":"assistant","tool_calls":[{"id":"a","function":{"x": 1.50}},{}]},{"role":"assistant","tool_calls":7}]}"#,
        );
    }

    #[test]
    fn a_providers_phrase_says_that_the_prompt_is_too_long() {
        let quirks = Quirks {
            context_phrases: names(&["too large for model"]),
            ..Quirks::default()
        };
        let reply = |message: &str| ErrorReply {
            reason: BadRequest {
                param: None,
                code: Some("3051".into()),
                message: message.to_owned(),
            },
            context: None,
        };
        for (message, code) in [
            (
                "Prompt Too Large for Model with 8 tokens",
                "context_length_exceeded",
            ),
            ("the image is too large", "3051"),
        ] {
            let known = quirks.recognize(reply(message));
            assert_eq!(known.reason.code.as_deref(), Some(code), "{message}");
        }
    }
}
