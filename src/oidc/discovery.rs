//! What a provider says of itself (OpenID Connect Discovery 1.0, section 3).

use reqwest::Url;
use serde::Deserialize;

use crate::error::OidcError;
use crate::issuer::Issuer;

/// Of what a provider calls itself, in the log.
const SHOWN_CHARS_MAX: usize = 200;

/// As it is written. What is not read here is passed over.
#[derive(Debug, Deserialize)]
pub struct RawDocument {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    jwks_uri: Option<String>,
    userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// As it is used.
#[derive(Clone, Debug)]
pub struct Document {
    pub authorization: Url,
    pub token: Url,
    pub keys: Url,
    pub userinfo: Option<Url>,
    pub proof: ClientProof,
    /// A browser always brings back whose code it has (RFC 9207).
    pub returns_issuer: bool,
}

/// How a client shows its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProof {
    Basic,
    Post,
}

impl RawDocument {
    /// # Errors
    /// It is another issuer's, or does not name what is needed.
    pub fn judge(self, issuer: &Issuer) -> Result<Document, OidcError> {
        if self.issuer != issuer.name() {
            let shown = self.issuer.chars().take(SHOWN_CHARS_MAX).collect();
            return Err(OidcError::OtherIssuer(shown));
        }
        let needed = |name: &'static str, text: Option<&str>| {
            let url = text.and_then(|text| issuer.endpoint(text));
            url.ok_or(OidcError::NoEndpoint(name))
        };
        let methods = self.token_endpoint_auth_methods_supported;
        let has = |name: &str| {
            let methods = methods.as_ref();
            methods.is_some_and(|methods| methods.iter().any(|method| method == name))
        };
        // The first where the document says nothing (section 3 again).
        let posts_only = has("client_secret_post") && !has("client_secret_basic");
        Ok(Document {
            authorization: needed(
                "authorization_endpoint",
                self.authorization_endpoint.as_deref(),
            )?,
            token: needed("token_endpoint", self.token_endpoint.as_deref())?,
            keys: needed("jwks_uri", self.jwks_uri.as_deref())?,
            userinfo: match self.userinfo_endpoint.as_deref() {
                Some(text) => Some(needed("userinfo_endpoint", Some(text))?),
                None => None,
            },
            proof: if posts_only {
                ClientProof::Post
            } else {
                ClientProof::Basic
            },
            returns_issuer: self.authorization_response_iss_parameter_supported,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(change: Value) -> Result<Document, OidcError> {
        let mut document = json!({
            "issuer": "https://login.example",
            "authorization_endpoint": "https://login.example/auth",
            "token_endpoint": "https://login.example/token",
            "jwks_uri": "https://login.example/jwks",
        });
        for (name, value) in change.as_object().unwrap() {
            document[name] = value.clone();
        }
        let raw: RawDocument = serde_json::from_value(document).unwrap();
        raw.judge(&Issuer::parse("https://login.example").unwrap())
    }

    #[test]
    fn a_secret_is_shown_as_the_provider_takes_it() {
        for (methods, proof) in [
            (Value::Null, ClientProof::Basic),
            (json!([]), ClientProof::Basic),
            (json!(["client_secret_post"]), ClientProof::Post),
            (
                json!(["client_secret_post", "client_secret_basic"]),
                ClientProof::Basic,
            ),
            (json!(["private_key_jwt"]), ClientProof::Basic),
        ] {
            let document = judged(json!({"token_endpoint_auth_methods_supported": methods}));
            assert_eq!(document.unwrap().proof, proof);
        }
    }

    #[test]
    fn a_document_of_another_issuer_or_without_its_endpoints_is_refused() {
        let other = judged(json!({"issuer": "https://login.example/"}));
        assert!(matches!(other, Err(OidcError::OtherIssuer(_))));
        for name in [
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "userinfo_endpoint",
        ] {
            let plain = judged(json!({name: "http://login.example/x"}));
            assert!(
                matches!(plain, Err(OidcError::NoEndpoint(it)) if it == name),
                "{name}"
            );
        }
        let missing = judged(json!({"jwks_uri": null}));
        assert!(matches!(missing, Err(OidcError::NoEndpoint("jwks_uri"))));
    }
}
