//! Seals of calls, where Google's own endpoint of this dialect has them:
//! `tool_calls[].extra_content.google.thought_signature`.
//!
//! Google's page "Thought signatures", its part on OpenAI compatibility, is the source that public
//! clients name for it (crmne/ruby_llm's pull request 588 and openai/openai-agents-python's 2158,
//! read 2026-11; the page itself was not). A seal of another maker stands there as `foreign_seal.rs`
//! writes it. Thoughts and texts have no place for theirs.

use std::borrow::Cow;

use domain::{Dialect, Extra, Seal, SealKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fields::Fields;
use crate::foreign_seal;

const NAME: &str = "extra_content";
const POINTER: &str = "/google/thought_signature";

/// `extra_content`, as it is written.
#[derive(Serialize)]
pub(super) struct ExtraContent<'a> {
    google: Google<'a>,
}

#[derive(Serialize)]
struct Google<'a> {
    thought_signature: Cow<'a, str>,
}

impl<'a> From<&'a Seal> for ExtraContent<'a> {
    fn from(seal: &'a Seal) -> Self {
        let thought_signature = if is_googles(seal) {
            Cow::Borrowed(seal.data.as_str())
        } else {
            Cow::Owned(foreign_seal::write(seal))
        };
        Self {
            google: Google { thought_signature },
        }
    }
}

/// What an upstream of this dialect is sent: nobody but Google can read it there.
pub(super) fn is_googles(seal: &Seal) -> bool {
    seal.of == Dialect::Gemini
}

/// Takes a call's seal as a client sends it back. What else stands beside it, and what is of another
/// form, is left as any field that nobody here knows.
pub(super) fn take(call: &mut Fields<'_>, extra: &mut Extra) -> Option<Seal> {
    let signature = call.peek(NAME)?.pointer(POINTER)?.as_str()?;
    let seal = seal(signature.to_owned())?;
    let call_path = call.path;
    let path = call_path.field(NAME);
    let mut content = Fields::open(path, call.take(NAME)?).ok()?;
    let mut google = Fields::open(path.field("google"), content.take("google")?).ok()?;
    google.take("thought_signature");
    google.leave_to(extra);
    content.leave_to(extra);
    Some(seal)
}

/// Reads what an upstream sends; `None` for whatever else its `extra_content` may hold.
pub(super) fn read(content: Option<&RawValue>) -> Option<Seal> {
    #[derive(Deserialize)]
    struct Content {
        google: Google,
    }
    #[derive(Deserialize)]
    struct Google {
        thought_signature: String,
    }
    let content: Content = serde_json::from_str(content?.get()).ok()?;
    seal(content.google.thought_signature)
}

fn seal(text: String) -> Option<Seal> {
    let own = |data| Seal {
        of: Dialect::Gemini,
        kind: SealKind::Signature,
        data,
    };
    let is_there = !text.is_empty();
    is_there.then(|| foreign_seal::read(&text).unwrap_or_else(|| own(text)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fields::Path;

    fn of(dialect: Dialect) -> Seal {
        Seal {
            of: dialect,
            kind: SealKind::Signature,
            data: "c2lnLTE=".into(),
        }
    }

    fn raw(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    #[test]
    fn every_makers_seal_comes_back_and_googles_own_is_untouched() {
        for dialect in Dialect::ALL {
            let written = serde_json::to_value(ExtraContent::from(&of(dialect))).unwrap();
            let text = written.pointer(POINTER).unwrap();
            assert_eq!(text == "c2lnLTE=", dialect == Dialect::Gemini);
            assert_eq!(read(Some(&raw(&written))), Some(of(dialect)));
            let mut call = Fields::open(Path::Root, json!({ "extra_content": written })).unwrap();
            let mut extra = Extra::new();
            assert_eq!(take(&mut call, &mut extra), Some(of(dialect)));
            assert!(extra.is_empty() && call.rest().is_empty());
        }
    }

    #[test]
    fn what_is_of_another_form_stays_as_it_is() {
        for content in [
            json!(7),
            json!({"google": 7}),
            json!({"google": {"thought_signature": 7}}),
            json!({"google": {"thought_signature": ""}}),
            json!({"other": {}}),
        ] {
            assert_eq!(read(Some(&raw(&content))), None, "{content}");
            let call = json!({ "extra_content": content });
            let mut fields = Fields::open(Path::Root, call.clone()).unwrap();
            assert_eq!(take(&mut fields, &mut Extra::new()), None);
            assert_eq!(Value::Object(fields.rest()), call);
        }
    }

    #[test]
    fn what_stands_beside_it_is_kept_where_it_stood() {
        let content = json!({"google": {"thought_signature": "c2ln", "a": 1}, "b": 2});
        let mut call = Fields::open(Path::Root, json!({ "extra_content": content })).unwrap();
        let mut extra = Extra::new();
        take(&mut call, &mut extra).unwrap();
        let expected = json!({"/extra_content/google/a": 1, "/extra_content/b": 2});
        assert_eq!(Value::Object(extra), expected);
    }
}
