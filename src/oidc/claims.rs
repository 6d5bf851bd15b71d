//! Who somebody is, by the claims about him.

use domain::Identity;
use serde_json::Value;

use crate::token::{Claims, text};

/// Of the claim that roles are read from; further values are not looked at.
const ROLES_MAX: usize = 1_000;
/// Of an address (RFC 5321, section 4.5.3.1, less the brackets). A longer one is none.
const EMAIL_BYTES_MAX: usize = 254;

/// Where a claim stands: a name at the top, whatever characters it has, or from a `/` on the way to it
/// (RFC 6901), as `/realm_access/roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn find<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        let Some(rest) = self.0.strip_prefix('/') else {
            return claims.get(&self.0);
        };
        let (first, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let first = first.replace("~1", "/").replace("~0", "~");
        claims.get(&first)?.pointer(rest)
    }
}

/// Whether the token leaves open what userinfo may say.
pub fn is_short(claims: &Claims, roles: Option<&ClaimPath>, asks_email: bool) -> bool {
    let has_roles = roles.is_none_or(|path| path.find(claims).is_some());
    !has_roles || (asks_email && text(claims, "email").is_none())
}

/// What the token says goes first: an address and whether it is verified are read from one of the two.
pub fn identity(token: &Claims, userinfo: Option<&Claims>, roles: Option<&ClaimPath>) -> Identity {
    let all = || std::iter::once(token).chain(userinfo);
    let email = all().find(|claims| text(claims, "email").is_some());
    let roles = roles.and_then(|path| all().find_map(|claims| path.find(claims)));
    Identity {
        subject: text(token, "sub").unwrap_or_default().to_owned(),
        email: email.and_then(verified),
        roles: roles.map(words).unwrap_or_default(),
    }
}

fn verified(claims: &Claims) -> Option<String> {
    // Some providers write it as a word.
    let is_verified = match claims.get("email_verified")? {
        Value::Bool(is_verified) => *is_verified,
        Value::String(word) => word == "true",
        _ => false,
    };
    let email = text(claims, "email").filter(|_| is_verified)?;
    let is_short = email.len() <= EMAIL_BYTES_MAX;
    let is_plain = is_short && email.contains('@') && !email.contains(char::is_control);
    is_plain.then(|| email.to_owned())
}

fn words(value: &Value) -> Vec<String> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let words = list.iter().take(ROLES_MAX).filter_map(Value::as_str);
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn roles_are_found_wherever_a_provider_puts_them() {
        let told = claims(json!({
            "groups": ["a", "b", 7, {"c": 1}],
            "role": "admin",
            "realm_access": {"roles": ["x"]},
            "https://acme.example/roles": ["y"],
            "a/b": {"c~d": "z"},
            "count": 3,
        }));
        let cases: [(&str, &[&str]); 8] = [
            ("groups", &["a", "b"]),
            ("role", &["admin"]),
            ("/realm_access/roles", &["x"]),
            ("https://acme.example/roles", &["y"]),
            ("/a~1b/c~0d", &["z"]),
            ("realm_access", &[]),
            ("count", &[]),
            ("none", &[]),
        ];
        for (path, roles) in cases {
            let path = ClaimPath::new(path);
            assert_eq!(identity(&told, None, Some(&path)).roles, roles, "{path:?}");
        }
        assert!(identity(&told, None, None).roles.is_empty());
    }

    #[test]
    fn only_a_verified_address_counts_and_no_two_places_are_mixed() {
        let token = |value: Value| claims(value);
        let vouched = claims(json!({"email": "b@x.example", "email_verified": true}));
        for (told, userinfo, email) in [
            (
                json!({"email": "a@x.example", "email_verified": true}),
                None,
                Some("a@x.example"),
            ),
            (
                json!({"email": "a@x.example", "email_verified": "true"}),
                None,
                Some("a@x.example"),
            ),
            (json!({"email": "a@x.example"}), None, None),
            (
                json!({"email": "a@x.example", "email_verified": false}),
                Some(&vouched),
                None,
            ),
            (
                json!({"email": "a@x.example", "email_verified": 1}),
                None,
                None,
            ),
            (json!({"email": "a", "email_verified": true}), None, None),
            (
                json!({"email": "a@x\n", "email_verified": true}),
                None,
                None,
            ),
            (json!({}), Some(&vouched), Some("b@x.example")),
            (json!({"email_verified": true}), None, None),
        ] {
            let found = identity(&token(told.clone()), userinfo, None).email;
            assert_eq!(found.as_deref(), email, "{told}");
        }
    }

    #[test]
    fn userinfo_is_asked_for_what_the_token_leaves_open() {
        let groups = ClaimPath::new("groups");
        let token = claims(json!({"groups": []}));
        assert!(!is_short(&token, Some(&groups), false));
        assert!(is_short(&token, Some(&groups), true));
        assert!(is_short(&claims(json!({})), Some(&groups), false));
        assert!(!is_short(&claims(json!({"email": "a"})), None, true));
    }
}
