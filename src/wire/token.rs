//! The answer of an authorization server to a client that asks for a token (RFC 6749, sections 5.1
//! and 5.2).

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// Assumed where the server names no end, which section 5.1 lets it.
const LIFE_DEFAULT: Duration = Duration::from_secs(300);

/// A token to send as `Authorization: Bearer`.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    pub text: String,
    pub life: Duration,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken({:?})", self.life)
    }
}

/// Reads the server's answer; `None` where it holds no bearer token.
#[must_use]
pub fn decode_token(body: &[u8]) -> Option<AccessToken> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let is_bearer = answer.token_type.eq_ignore_ascii_case("bearer");
    (is_bearer && !answer.access_token.is_empty()).then_some(AccessToken {
        text: answer.access_token,
        life: answer.expires_in.map_or(LIFE_DEFAULT, Seconds::life),
    })
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: String,
    expires_in: Option<Seconds>,
}

/// Entra's older endpoint writes the number as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn life(self) -> Duration {
        match self {
            Seconds::Number(seconds) => Duration::from_secs(seconds),
            Seconds::Text(text) => text.parse().map_or(LIFE_DEFAULT, Duration::from_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_with_its_life() {
        for (body, life) in [
            (
                r#"{"token_type":"Bearer","expires_in":3599,"access_token":"t"}"#,
                3599,
            ),
            (
                r#"{"token_type":"bearer","expires_in":"60","access_token":"t","x":1}"#,
                60,
            ),
            (r#"{"token_type":"Bearer","access_token":"t"}"#, 300),
            (
                r#"{"token_type":"Bearer","expires_in":"soon","access_token":"t"}"#,
                300,
            ),
        ] {
            let token = decode_token(body.as_bytes()).expect(body);
            assert_eq!(token.text, "t");
            assert_eq!(token.life, Duration::from_secs(life), "{body}");
        }
    }

    #[test]
    fn what_is_no_bearer_token_is_none() {
        for body in [
            "",
            "<html>",
            "[]",
            r#"{"error":"invalid_client"}"#,
            r#"{"token_type":"mac","access_token":"t"}"#,
            r#"{"token_type":"Bearer","access_token":""}"#,
            r#"{"token_type":"Bearer","access_token":7}"#,
            r#"{"token_type":"Bearer","expires_in":-1,"access_token":"t"}"#,
        ] {
            assert_eq!(decode_token(body.as_bytes()), None, "{body}");
        }
    }
}
