//! The addresses of sign-in. What goes wrong is said in JSON, and to a browser as a page.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Extension, State};
use domain::{AdminChange, Fault};
use http::header::{ACCEPT, CACHE_CONTROL, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use tracing::info;

use super::{AWAY_WAIT, BUSY_WAIT, Back, HOME_PATH, LOGIN_PATH, Refused, SignIn};
use crate::error::refusal_in_words;
use crate::keys::unkept;
use crate::operators::Operator;
use crate::page::{Notice, notice};
use crate::records::decode;
use crate::server::Api;
use crate::tally::SignedIn;

const NOT_SET_UP: &str = "nobody signs in here; `admin.oidc` says with whom people may";
const BEGIN_AGAIN: &str = "Sign in again";

pub(crate) async fn login(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response<Body> {
    let Some(sign_in) = api.sign_in() else {
        return absent();
    };
    match sign_in.begin().await {
        Ok((address, ticket)) => going(&address, &[ticket]),
        Err(refused) => {
            api.tally.count_sign_in(SignedIn::Not(refused));
            answer(&headers, refused, None)
        }
    }
}

pub(crate) async fn callback(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    uri: Uri,
) -> Response<Body> {
    let Some(sign_in) = api.sign_in() else {
        return absent();
    };
    let came = signed_in(&api, &sign_in, &headers, &uri).await;
    let counted = came
        .as_ref()
        .map_or_else(|refused| SignedIn::Not(*refused), |_| SignedIn::Done);
    api.tally.count_sign_in(counted);
    match came {
        Ok(session) => going(HOME_PATH, &[session, sign_in.cookies.drop_ticket()]),
        // He may come once more with the same when the provider is back.
        Err(refused @ (Refused::Away | Refused::Busy)) => answer(&headers, refused, None),
        Err(refused) => answer(&headers, refused, Some(sign_in.cookies.drop_ticket())),
    }
}

async fn signed_in(
    api: &Api,
    sign_in: &SignIn,
    headers: &HeaderMap,
    uri: &Uri,
) -> Result<HeaderValue, Refused> {
    let back = read_back(uri).ok_or(Refused::Stale)?;
    let proven = sign_in.finish(headers, back).await?;
    let operator = proven.operator.clone();
    if let Some(log) = api.changes.as_deref()
        && log.ready().await.is_err()
    {
        return Err(Refused::Unkept);
    }
    if !note(api, &operator, "session.begin").await {
        return Err(Refused::Unkept);
    }
    let session = sign_in.open(headers, proven);
    let (who, role) = (&operator.name, operator.role.as_label());
    info!(who = &**who, role, "operator signed in");
    Ok(session)
}

/// Ends the session of the browser that asks. Whoever asks with a token has none.
pub(crate) async fn logout(
    State(api): State<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(sign_in) = api.sign_in() else {
        return absent();
    };
    let cookie = sign_in.close(&headers);
    if operator.is_of_session() {
        info!(who = &*operator.name, "operator signed out");
        note(&api, &operator, "session.end").await;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().append(SET_COOKIE, cookie);
    unkept_by_browsers(&mut response);
    response
}

/// What is shown to somebody who signed out; the page itself would have him signed in again.
pub(crate) async fn signed_out(State(api): State<Arc<Api>>) -> Response<Body> {
    if api.sign_in().is_none() {
        return absent();
    }
    let shown = Notice {
        title: "Signed out",
        words: "You are signed out here. The provider may still know you: sign out there too if \
                this is not your own browser.",
        link: (LOGIN_PATH, BEGIN_AGAIN),
    };
    notice(StatusCode::OK, &shown)
}

/// False where it is not written.
async fn note(api: &Api, operator: &Operator, what: &'static str) -> bool {
    let Some(log) = api.changes.as_deref() else {
        return true;
    };
    log.note(AdminChange {
        at: SystemTime::now(),
        who: operator.name.to_string(),
        what,
        id: operator.role.as_label().to_owned(),
    })
    .await
}

/// The fields that are ours; a provider may add others. `None` where one of ours is there twice, or is no
/// text.
fn read_back(uri: &Uri) -> Option<Back> {
    let mut back = Back::default();
    let query = uri.query().unwrap_or_default();
    for field in query.split('&') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let place = match name {
            "state" => &mut back.state,
            "code" => &mut back.code,
            "iss" => &mut back.issuer,
            "error" => {
                back.has_error = true;
                continue;
            }
            _ => continue,
        };
        if place.replace(decode(value)?).is_some() {
            return None;
        }
    }
    Some(back)
}

/// Sends a browser on. The address was chosen here or in the configuration.
fn going(address: &str, cookies: &[HeaderValue]) -> Response<Body> {
    let Ok(address) = HeaderValue::from_str(address) else {
        return crate::error::refusal(&Fault::Internal);
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(LOCATION, address);
    for cookie in cookies {
        headers.append(SET_COOKIE, cookie.clone());
    }
    unkept_by_browsers(&mut response);
    response
}

/// A browser without a session, on its way to one.
pub(crate) fn to_sign_in() -> Response<Body> {
    going(LOGIN_PATH, &[])
}

fn absent() -> Response<Body> {
    refusal_in_words(StatusCode::NOT_FOUND, "not_found", NOT_SET_UP, None)
}

/// State and code stand in the address of some.
fn unkept_by_browsers(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

fn answer(headers: &HeaderMap, refused: Refused, cookie: Option<HeaderValue>) -> Response<Body> {
    let (status, code, words) = refused.told();
    let wait = refused.wait();
    let mut response = if wants_page(headers) {
        let shown = Notice {
            title: "Not signed in",
            words,
            link: (LOGIN_PATH, BEGIN_AGAIN),
        };
        let mut page = notice(status, &shown);
        if let Some(wait) = wait {
            let seconds = HeaderValue::from(wait.as_secs());
            page.headers_mut()
                .insert(http::header::RETRY_AFTER, seconds);
        }
        page
    } else if refused == Refused::Unkept {
        unkept()
    } else {
        refusal_in_words(status, code, words, wait)
    };
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    unkept_by_browsers(&mut response);
    response
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    accepted
        .filter_map(|it| it.to_str().ok())
        .any(|it| it.contains("text/html"))
}

impl Refused {
    fn told(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "too many people are signing in at once; try again in a moment",
            ),
            Self::Away => (
                StatusCode::SERVICE_UNAVAILABLE,
                "sign_in_away",
                "the identity provider does not answer, so nobody can sign in just now; try again \
                 later. Sessions that there are and the tokens of `admin.tokens` go on working",
            ),
            Self::Unusable => (
                StatusCode::BAD_GATEWAY,
                "sign_in_unusable",
                "the identity provider's answer cannot be used; the operator finds in the log what \
                 `admin.oidc` or the provider must be set to",
            ),
            Self::Stale => (
                StatusCode::BAD_REQUEST,
                "sign_in_stale",
                "this sign-in was not begun in this browser, took longer than ten minutes, or is \
                 over already; begin again at /admin",
            ),
            Self::Denied => (
                StatusCode::FORBIDDEN,
                "sign_in_denied",
                "the identity provider did not sign you in; begin again at /admin",
            ),
            Self::Unproven => (
                StatusCode::FORBIDDEN,
                "sign_in_unproven",
                "what came back from the identity provider proves nothing; begin again at /admin, \
                 and if it stays so, the operator finds the reason in the log",
            ),
            Self::NoRole => (
                StatusCode::FORBIDDEN,
                "no_role",
                "the identity provider knows you, and you have no role here; ask an operator to give \
                 you one in `admin.oidc.roles`",
            ),
            Self::Unkept => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_kept",
                "you are not signed in, for it cannot be written down; the server's log says why",
            ),
        }
    }

    fn wait(self) -> Option<Duration> {
        match self {
            Self::Busy => Some(BUSY_WAIT),
            Self::Away => Some(AWAY_WAIT),
            Self::Unusable
            | Self::Stale
            | Self::Denied
            | Self::Unproven
            | Self::NoRole
            | Self::Unkept => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_brings_back_is_read_and_the_rest_passed_over() {
        let read = |query: &str| {
            let uri = format!("/admin/callback?{query}").parse().unwrap();
            read_back(&uri)
        };
        let back = read("state=a%2Fb&code=c&iss=https%3A%2F%2Fx&session_state=1&hd=x&").unwrap();
        assert_eq!(back.state.as_deref(), Some("a/b"));
        assert_eq!(back.code.as_deref(), Some("c"));
        assert_eq!(back.issuer.as_deref(), Some("https://x"));
        assert!(!back.has_error);
        assert!(read("state=a&error=access_denied").unwrap().has_error);
        assert!(read("").unwrap().state.is_none());
        for query in [
            "state=a&state=a",
            "code=a&state=b&code=c",
            "state=%ff",
            "code=%",
        ] {
            assert!(read(query).is_none(), "{query}");
        }
    }

    #[test]
    fn a_browser_gets_a_page_and_a_program_json() {
        let mut headers = HeaderMap::new();
        let json = answer(&headers, Refused::Away, None);
        assert_eq!(json.headers()["content-type"], "application/json");
        headers.insert(ACCEPT, HeaderValue::from_static("text/html,*/*;q=0.8"));
        let page = answer(&headers, Refused::Away, None);
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        for response in [json, page] {
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["retry-after"], "10");
            assert_eq!(response.headers()["cache-control"], "no-store");
        }
    }
}
