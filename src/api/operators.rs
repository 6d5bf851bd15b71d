//! Who may use the operator's listener: everybody who reaches it where there are neither tokens nor sign-in,
//! and it is on loopback then; else who shows a token or is signed in, and does no more than his role lets him.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Extension;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use domain::{Fault, KeyDigest, KeyTrouble};
use http::header::{AUTHORIZATION, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use pipeline::Pipeline;
use serde::Serialize;
use subtle::ConstantTimeEq;

use crate::auth::{digest, key};
use crate::error::refusal;
use crate::models::json;
use crate::rights::ERASE_PATH;
use crate::sign_in::{CALLBACK_PATH, LOGIN_PATH, LOGOUT_PATH, SIGNED_OUT_PATH, SignIn, to_sign_in};
use crate::texts::BELOW_RECORDS;

/// In whose name things are changed where no token is asked for.
const LOOPBACK: &str = "loopback";
/// Whoever is on the way to be signed in, and changes nothing.
const NOBODY: &str = "nobody";

/// What orchestrators ask, who have no token.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];
/// What somebody sees who is not signed in yet, or no more, where people sign in.
const SIGN_IN_PATHS: [&str; 4] = [
    LOGIN_PATH,
    CALLBACK_PATH,
    SIGNED_OUT_PATH,
    "/admin/page.css",
];
/// A browser that comes here without a session is sent to get one.
const PAGE_PATH: &str = "/admin";

const MAY_NOT: &str = "your role is `viewer`, which may look and change nothing; it takes the role \
                       `operator`";
const FOREIGN_PAGE: &str = "a session changes something only from the page at `admin.oidc.redirect_url`'s \
                            origin, which the Origin header must name; send a token from elsewhere";

const NOT_OWNER: &str = "removing what is somebody's, and reading what was said, takes the role `owner`, \
                         and yours is less";

/// What somebody may do, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Changes keys, teams and limits, removes what is cached, and sees what is kept of somebody.
    Operator,
    /// All that there is: removes what is kept of somebody, and reads what was said, too.
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

/// In whose name something is looked at or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operator {
    pub name: Arc<str>,
    pub role: Role,
    known_by: KnownBy,
}

/// How it is known who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum KnownBy {
    /// He is on this machine.
    Loopback,
    Token,
    Session,
}

/// Who asks, as he is told.
#[derive(Serialize)]
struct OperatorView<'a> {
    name: &'a str,
    role: &'static str,
    known_by: KnownBy,
}

impl Operator {
    pub(crate) fn of_session(name: Arc<str>, role: Role) -> Self {
        let known_by = KnownBy::Session;
        Self {
            name,
            role,
            known_by,
        }
    }

    fn of_token(token: &AdminToken) -> Self {
        Self {
            name: Arc::clone(&token.name),
            role: token.role,
            known_by: KnownBy::Token,
        }
    }

    fn of_loopback() -> Self {
        Self {
            name: LOOPBACK.into(),
            role: Role::Owner,
            known_by: KnownBy::Loopback,
        }
    }

    /// Whether what was said may be told.
    pub(crate) fn may_read(&self) -> bool {
        self.role >= Role::Owner
    }

    pub(crate) fn is_of_session(&self) -> bool {
        self.known_by == KnownBy::Session
    }

    fn may(self, method: &Method, path: &str) -> Result<Self, TurnedAway> {
        let needed = needed(method, path);
        if self.role >= needed {
            return Ok(self);
        }
        let what = match needed {
            Role::Owner => NOT_OWNER,
            Role::Viewer | Role::Operator => MAY_NOT,
        };
        Err(TurnedAway::Refused(Fault::Forbidden { what }))
    }
}

impl Role {
    pub(crate) fn as_label(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }
}

/// Why a request does not pass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    Refused(Fault),
    /// The same, where a browser may ask its user for a token.
    AskedForToken(Fault),
    /// A browser can get what is missing.
    ToSignIn,
}

impl From<Fault> for TurnedAway {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

/// Who lets pass.
pub(crate) struct Doorkeeper<'a> {
    pub tokens: &'a AdminTokens,
    pub sign_in: Option<&'a SignIn>,
    pub pipeline: &'a Pipeline,
}

impl Doorkeeper<'_> {
    /// Lets a request to the operator's listener pass.
    ///
    /// # Errors
    /// `Unauthenticated` without a token or session where one is asked for, or with a caller's key;
    /// `Forbidden` where the role does not let do it, or another page sent a session along.
    pub(crate) fn admit(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Operator, TurnedAway> {
        let sent = sent(headers).map(|sent| digest(&sent));
        if let Some(token) = sent.and_then(|digest| self.tokens.find(&digest)) {
            return Operator::of_token(token).may(method, path);
        }
        if sent.is_some_and(|digest| is_callers(self.pipeline, &digest)) {
            return Err(self.ask_for_token(KeyTrouble::CallersKey));
        }
        if OPEN_PATHS.contains(&path) {
            return Ok(Operator::of_loopback());
        }
        match self.sign_in {
            Some(sign_in) => signed_in(sign_in, method, path, headers),
            None if self.tokens.is_empty() => Ok(Operator::of_loopback()),
            None => Err(self.ask_for_token(KeyTrouble::NoToken)),
        }
    }

    /// Where people sign in, a browser's own question for a password would only stand in their way.
    fn ask_for_token(&self, trouble: KeyTrouble) -> TurnedAway {
        let fault = Fault::Unauthenticated(trouble);
        match self.sign_in {
            Some(_) => TurnedAway::Refused(fault),
            None => TurnedAway::AskedForToken(fault),
        }
    }
}

fn signed_in(
    sign_in: &SignIn,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Operator, TurnedAway> {
    let is_looking = matches!(*method, Method::GET | Method::HEAD);
    if is_looking && SIGN_IN_PATHS.contains(&path) {
        return Ok(Operator::of_session(NOBODY.into(), Role::Viewer));
    }
    let Some(operator) = sign_in.whose(headers) else {
        return Err(match is_looking && path == PAGE_PATH {
            true => TurnedAway::ToSignIn,
            false => Fault::Unauthenticated(KeyTrouble::SignedOut).into(),
        });
    };
    if !sign_in.is_from_home(method, headers.get(ORIGIN)) {
        return Err(Fault::Forbidden { what: FOREIGN_PAGE }.into());
    }
    operator.may(method, path)
}

impl TurnedAway {
    pub(crate) fn answer(&self) -> Response<Body> {
        match self {
            Self::Refused(fault) => refusal(fault),
            Self::AskedForToken(fault) => {
                let mut response = refusal(fault);
                let basic = HeaderValue::from_static("Basic realm=\"hedge, any name and a token\"");
                response.headers_mut().append(WWW_AUTHENTICATE, basic);
                response
            }
            Self::ToSignIn => to_sign_in(),
        }
    }
}

/// `/admin/v1/operator`: who asks.
pub(crate) async fn whoami(Extension(operator): Extension<Operator>) -> Response<Body> {
    let view = OperatorView {
        name: &operator.name,
        role: operator.role.as_label(),
        known_by: operator.known_by,
    };
    json(StatusCode::OK, &view)
}

/// A path is routed as it is written here, and in no other way.
fn needed(method: &Method, path: &str) -> Role {
    match *method {
        // What was said stands below its record.
        _ if path.starts_with(BELOW_RECORDS) => Role::Owner,
        Method::GET | Method::HEAD => Role::Viewer,
        // Everybody may end what is his own.
        _ if path == LOGOUT_PATH => Role::Viewer,
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
        assert_eq!(needed(&Method::GET, "/admin/v1/records"), Role::Viewer);
        let text = "/admin/v1/records/a%2Fb/text";
        assert_eq!(needed(&Method::GET, text), Role::Owner);
        assert_eq!(needed(&Method::HEAD, text), Role::Owner);
        assert_eq!(needed(&Method::POST, EXPORT_PATH), Role::Operator);
        assert_eq!(needed(&Method::POST, ERASE_PATH), Role::Owner);
        assert_eq!(needed(&Method::POST, LOGOUT_PATH), Role::Viewer);
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
