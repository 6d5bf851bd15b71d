//! Who asks: the `Authorization` header, Anthropic's clients' `x-api-key` or Google's `x-goog-api-key`,
//! turned into a key's digest before the body is read. Of a request that came sealed it was proven
//! already.

use domain::{Fault, KeyDigest, Principal};
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderName};
use pipeline::Pipeline;
use sha2::{Digest, Sha256};

pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// Who asks, as somebody within this process found out. Nothing that comes over a network makes one.
#[derive(Clone, Debug)]
pub(crate) struct Known(pub Principal);

/// # Errors
/// `Unauthenticated`, when the node asks for keys and the headers hold none of them.
pub(crate) fn principal(
    pipeline: &Pipeline,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<Principal, Fault> {
    if let Some(Known(principal)) = extensions.get() {
        return Ok(principal.clone());
    }
    let digest = key(headers).map(|key| KeyDigest(Sha256::digest(key).into()));
    pipeline.authenticate(digest.as_ref())
}

/// A bearer token outweighs the other headers.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    bearer(headers)
        .or_else(|| plain(headers, X_API_KEY))
        .or_else(|| plain(headers, X_GOOG_API_KEY))
}

/// The token of `Authorization: Bearer <token>` (RFC 6750, section 2.1; the scheme's case does not
/// matter). Any other scheme is as good as no key.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn plain(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let key = headers.get(name)?.as_bytes().trim_ascii();
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_bearer_token_is_a_key() {
        let cases: [(&'static str, Option<&[u8]>); 6] = [
            ("Bearer sk-1", Some(b"sk-1")),
            ("bearer  sk-1 ", Some(b"sk-1")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic c2stMQ==", None),
            ("sk-1", None),
        ];
        for (sent, key) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(sent));
            assert_eq!(bearer(&headers), key, "{sent}");
        }
    }

    #[test]
    fn another_makers_header_is_a_key_where_there_is_no_token() {
        type Case = (Option<&'static str>, &'static str, Option<&'static [u8]>);
        let cases: [Case; 5] = [
            (None, "sk-2", Some(b"sk-2")),
            (None, " sk-2 ", Some(b"sk-2")),
            (None, "", None),
            (Some("Bearer sk-1"), "sk-2", Some(b"sk-1")),
            (Some("Basic c2stMQ=="), "sk-2", Some(b"sk-2")),
        ];
        for name in [X_API_KEY, X_GOOG_API_KEY] {
            for (bearer, plain, expected) in cases {
                let mut headers = HeaderMap::new();
                headers.insert(&name, HeaderValue::from_static(plain));
                if let Some(bearer) = bearer {
                    headers.insert(AUTHORIZATION, HeaderValue::from_static(bearer));
                }
                assert_eq!(key(&headers), expected, "{name} {bearer:?} {plain}");
            }
        }
    }
}
