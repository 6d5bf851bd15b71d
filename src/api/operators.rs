//! Who may use the operator's listener: everybody who reaches it where there are no tokens, and it is on
//! loopback then; else who shows one, and does no more than its role lets him.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::{Fault, KeyDigest, KeyTrouble};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response};
use pipeline::Pipeline;
use subtle::ConstantTimeEq;

use crate::auth::{digest, key};
use crate::error::refusal;
use crate::rights::ERASE_PATH;

/// In whose name things are changed where no token is asked for.
const LOOPBACK: &str = "loopback";

/// What orchestrators ask, who have no token.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

const MAY_NOT: &str = "this token's role is `viewer`, which may look and change nothing; send one whose \
                       role is `operator`";

const NOT_OWNER: &str = "removing what is somebody's takes a token whose role is `owner`, and this one's is \
                         less";

/// What a token lets do, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Changes keys, teams and limits, removes what is cached, and sees what is kept of somebody.
    Operator,
    /// All that there is: removes what is kept of somebody, too.
    Owner,
}

/// A token, known by its digest.
#[derive(Clone, Debug)]
pub struct AdminToken {
    pub name: Arc<str>,
    pub role: Role,
    pub digest: KeyDigest,
}

/// The tokens of the operator's listener.
#[derive(Clone, Default)]
pub struct AdminTokens(Vec<AdminToken>);

impl AdminTokens {
    #[must_use]
    pub fn new(tokens: Vec<AdminToken>) -> Self {
        Self(tokens)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them are compared, and each takes as long.
    pub(crate) fn find(&self, digest: &KeyDigest) -> Option<&AdminToken> {
        self.0.iter().fold(None, |found, token| {
            let is_it = bool::from(token.digest.0.ct_eq(&digest.0));
            if is_it { Some(token) } else { found }
        })
    }
}

impl fmt::Debug for AdminTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminTokens({})", self.0.len())
    }
}

/// In whose name something is changed.
#[derive(Clone, Debug)]
pub(crate) struct Operator(pub Arc<str>);

/// Lets a request to the operator's listener pass.
///
/// # Errors
/// `Unauthenticated` without a token where there are some, or with a caller's key; `Forbidden` where the
/// role does not let do it.
pub(crate) fn admit(
    tokens: &AdminTokens,
    pipeline: &Pipeline,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Operator, Fault> {
    let sent = sent(headers).map(|sent| digest(&sent));
    if let Some(token) = sent.and_then(|digest| tokens.find(&digest)) {
        let needed = needed(method, path);
        return match token.role >= needed {
            true => Ok(Operator(Arc::clone(&token.name))),
            false if needed == Role::Owner => Err(Fault::Forbidden { what: NOT_OWNER }),
            false => Err(Fault::Forbidden { what: MAY_NOT }),
        };
    }
    if sent.is_some_and(|digest| is_callers(pipeline, &digest)) {
        return Err(Fault::Unauthenticated(KeyTrouble::CallersKey));
    }
    if tokens.is_empty() || OPEN_PATHS.contains(&path) {
        return Ok(Operator(LOOPBACK.into()));
    }
    Err(Fault::Unauthenticated(KeyTrouble::NoToken))
}

/// A browser asks its user for a token, and shows it in its own way.
pub(crate) fn turn_away(fault: &Fault) -> Response<Body> {
    let mut response = refusal(fault);
    if matches!(fault, Fault::Unauthenticated(_)) {
        let basic = HeaderValue::from_static("Basic realm=\"hedge, any name and a token\"");
        response.headers_mut().append(WWW_AUTHENTICATE, basic);
    }
    response
}

/// A path is routed as it is written here, and in no other way.
fn needed(method: &Method, path: &str) -> Role {
    match *method {
        Method::GET | Method::HEAD => Role::Viewer,
        _ if path == ERASE_PATH => Role::Owner,
        _ => Role::Operator,
    }
}

fn is_callers(pipeline: &Pipeline, digest: &KeyDigest) -> bool {
    match pipeline.authenticate(Some(digest)) {
        // Nobody's where none is asked for.
        Ok(principal) => principal.key.is_some(),
        Err(Fault::Unauthenticated(KeyTrouble::Disabled | KeyTrouble::Expired)) => true,
        Err(_) => false,
    }
}

/// As programs send it, or as the password that a browser asked for (RFC 7617).
fn sent(headers: &HeaderMap) -> Option<Vec<u8>> {
    let basic = || {
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, encoded) = value.split_at_checked("basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let pair = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
        let at = pair.iter().position(|byte| *byte == b':')?;
        Some(pair[at + 1..].to_vec()).filter(|password| !password.is_empty())
    };
    basic().or_else(|| key(headers).map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::EXPORT_PATH;

    #[test]
    fn a_token_comes_as_a_bearer_s_or_as_a_password() {
        let cases: [(&'static str, Option<&str>); 8] = [
            ("Bearer t-1", Some("t-1")),
            // `anybody:t:1`, `:t-1`, `anybody:`, `t-1`.
            ("Basic YW55Ym9keTp0OjE=", Some("t:1")),
            ("basic OnQtMQ==", Some("t-1")),
            ("Basic YW55Ym9keTo=", None),
            ("Basic dC0x", None),
            ("Basic !", None),
            ("Basic", None),
            ("Digest t-1", None),
        ];
        for (header, token) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(header));
            let found = sent(&headers).map(|it| String::from_utf8(it).unwrap());
            assert_eq!(found.as_deref(), token, "{header}");
        }
    }

    #[test]
    fn each_role_may_what_the_one_before_may() {
        assert!(Role::Owner > Role::Operator && Role::Operator > Role::Viewer);
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            assert_eq!(needed(&method, "/admin/v1/keys"), Role::Operator);
        }
        assert_eq!(needed(&Method::GET, "/admin/v1/keys"), Role::Viewer);
        assert_eq!(needed(&Method::POST, EXPORT_PATH), Role::Operator);
        assert_eq!(needed(&Method::POST, ERASE_PATH), Role::Owner);
    }

    #[test]
    fn tokens_are_found_by_their_digest_and_not_shown() {
        let token = |name: &str| AdminToken {
            name: name.into(),
            role: Role::Viewer,
            digest: digest(name.as_bytes()),
        };
        let tokens = AdminTokens::new(vec![token("a"), token("b")]);
        assert_eq!(&*tokens.find(&digest(b"b")).unwrap().name, "b");
        assert!(tokens.find(&digest(b"c")).is_none());
        assert_eq!(format!("{tokens:?}"), "AdminTokens(2)");
    }
}
