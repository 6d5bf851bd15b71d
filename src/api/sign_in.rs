//! Sign-in of people to the operator's listener: from a browser without a session to one with a session, by
//! way of an identity provider.
//!
//! ```text
//! /admin ─► /admin/login ─ cookie: ticket ─► the provider ─► /admin/callback ─ cookie: session ─► /admin
//!                                                             └ state, ticket ─ code ─► Identity ─► role
//! ```
//! Before somebody is signed in nothing is kept of him here: all of an attempt follows from the ticket in his
//! browser and this process' own key. A session is kept by its digest. Where a browser goes is written here
//! and in the configuration; no request says it.

mod answers;
mod attempts;
mod cookies;
mod roles;
mod sessions;

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{AuthorizationResponse, Identity, IdentityProvider, SignInFault};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::gate::Home;
use crate::operators::Operator;
use attempts::Attempts;
use cookies::Cookies;
use sessions::Sessions;

pub(crate) use answers::{callback, login, logout, signed_out, to_sign_in};
pub use roles::{NamedBy, RoleGrant, RoleHolder};
pub use sessions::SessionRules;

pub(crate) const LOGIN_PATH: &str = "/admin/login";
pub(crate) const CALLBACK_PATH: &str = "/admin/callback";
pub(crate) const LOGOUT_PATH: &str = "/admin/logout";
pub(crate) const SIGNED_OUT_PATH: &str = "/admin/signed-out";
/// Where everybody ends up who is signed in.
const HOME_PATH: &str = "/admin";

/// Steps of sign-ins that wait for the provider at once; one more is refused.
const AT_ONCE_MAX: usize = 16;

/// What those who sign in may do, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInRules {
    /// The origin by which browsers know this node, as `https://hedge.example`.
    pub origin: String,
    pub grants: Vec<RoleGrant>,
    pub named_by: NamedBy,
    pub sessions: SessionRules,
}

/// Sign-in, with the sessions that there are. Another one knows none of them.
pub struct SignIn {
    provider: Arc<dyn IdentityProvider>,
    rules: SignInRules,
    home: Home,
    cookies: Cookies,
    attempts: Attempts,
    sessions: Mutex<Sessions>,
    at_once: Semaphore,
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// Why somebody is not signed in, as he is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many are at it.
    Busy,
    /// The provider does not answer.
    Away,
    /// The provider and this node do not fit together.
    Unusable,
    /// It was not begun in this browser, or too long ago, or is over already.
    Stale,
    /// The provider said no.
    Denied,
    /// What came back proves nothing.
    Unproven,
    /// He is who he is, and may do nothing here.
    NoRole,
    /// It cannot be written down.
    Unkept,
}

impl Refused {
    pub(crate) fn as_label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Away => "away",
            Self::Unusable => "unusable",
            Self::Stale => "stale",
            Self::Denied => "denied",
            Self::Unproven => "unproven",
            Self::NoRole => "no_role",
            Self::Unkept => "unkept",
        }
    }
}

/// What a browser brought back, as it wrote it.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub state: Option<String>,
    pub code: Option<String>,
    pub issuer: Option<String>,
    pub has_error: bool,
}

/// Somebody who has proven who he is and may do something, and has no session yet.
pub(crate) struct Proven {
    pub operator: Operator,
    subject: String,
    ticket: String,
}

impl SignIn {
    #[must_use]
    pub fn new(provider: Arc<dyn IdentityProvider>, rules: SignInRules) -> Self {
        let now = Instant::now();
        Self {
            provider,
            home: Home::of(&rules.origin),
            cookies: Cookies::of(&rules.origin),
            attempts: Attempts::new(rand::random(), now),
            sessions: Mutex::new(Sessions::new(rules.sessions)),
            at_once: Semaphore::new(AT_ONCE_MAX),
            rules,
        }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// Whose session the request is of.
    pub(crate) fn whose(&self, headers: &HeaderMap) -> Option<Operator> {
        let secret = self.cookies.session(headers)?;
        self.lock().find(secret, Instant::now())
    }

    /// Whether a browser sent it from the page of this node. Another page can have it send a cookie along,
    /// but not say that it is this one; and what changes nothing need not say it.
    pub(crate) fn is_from_home(&self, method: &Method, origin: Option<&HeaderValue>) -> bool {
        match origin {
            Some(origin) => self.home.is_origin(origin.to_str().unwrap_or_default()),
            None => matches!(*method, Method::GET | Method::HEAD),
        }
    }

    /// Where the browser goes, and the cookie that it keeps until it is back.
    async fn begin(&self) -> Result<(String, HeaderValue), Refused> {
        let _place = self.place()?;
        let (ticket, attempt) = self.attempts.begin(rand::random(), Instant::now());
        let address = self.provider.begin(&attempt).await.map_err(told)?;
        Ok((address, self.cookies.keep_ticket(&ticket)))
    }

    /// Who came back with what.
    async fn finish(&self, headers: &HeaderMap, back: Back) -> Result<Proven, Refused> {
        let ticket = self.cookies.ticket(headers).ok_or(Refused::Stale)?;
        let state = back.state.as_deref().ok_or(Refused::Stale)?;
        let attempt = self.attempts.resume(ticket, state, Instant::now());
        let attempt = attempt.ok_or(Refused::Stale)?;
        let code = back.code.filter(|_| !back.has_error);
        let code = code.ok_or(Refused::Denied)?;
        let issuer = back.issuer;
        let response = AuthorizationResponse { code, issuer };
        let _place = self.place()?;
        let identity = self.provider.finish(&attempt, &response).await;
        let identity = identity.map_err(told)?;
        let operator = self.admit(&identity).ok_or(Refused::NoRole)?;
        Ok(Proven {
            operator,
            subject: identity.subject,
            ticket: ticket.to_owned(),
        })
    }

    fn admit(&self, identity: &Identity) -> Option<Operator> {
        let role = roles::role_of(&self.rules.grants, identity);
        if role.is_none() {
            // Who is to be let in is found by it.
            let subject = &identity.subject;
            warn!(subject, "somebody without a role tried to sign in");
        }
        Some(Operator::of_session(
            self.rules.named_by.name_of(identity),
            role?,
        ))
    }

    /// Gives them a session, and ends the one that the browser had.
    fn open(&self, headers: &HeaderMap, proven: Proven) -> HeaderValue {
        let secret = attempts::encode(&rand::random::<[u8; 32]>());
        self.attempts.spend(&proven.ticket, Instant::now());
        let mut sessions = self.lock();
        if let Some(old) = self.cookies.session(headers) {
            sessions.close(old);
        }
        let (subject, now) = (proven.subject, Instant::now());
        sessions.open(&secret, subject, proven.operator, now);
        drop(sessions);
        let lasts = self.rules.sessions.lasts;
        self.cookies.keep_session(&secret, lasts)
    }

    /// Ends the browser's session.
    fn close(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(secret) = self.cookies.session(headers) {
            self.lock().close(secret);
        }
        self.cookies.drop_session()
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, Refused> {
        self.at_once.try_acquire().map_err(|_| Refused::Busy)
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logged here, with what only the operator may read.
fn told(fault: SignInFault) -> Refused {
    let causes = causes(&fault);
    match fault {
        SignInFault::Away(_) => {
            warn!(causes, "sign-in failed");
            Refused::Away
        }
        SignInFault::Unusable(_) => {
            error!(
                causes,
                "sign-in failed; look at admin.oidc and at the provider"
            );
            Refused::Unusable
        }
        SignInFault::Unproven(_) => {
            warn!(causes, "sign-in failed");
            Refused::Unproven
        }
    }
}

fn causes(fault: &SignInFault) -> String {
    let mut words = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// What a caller is told to wait when too many are at it.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// And when the provider does not answer.
const AWAY_WAIT: Duration = Duration::from_secs(10);
