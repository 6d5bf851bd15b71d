//! Tokens of Microsoft Entra's, by the flow of client credentials.
//!
//! After "OAuth 2.0 client credentials flow on the Microsoft identity platform" (learn.microsoft.com,
//! read 2026-11). A token is kept until shortly before its end. Whoever finds none asks for the next
//! one, and everybody who comes meanwhile waits for the same answer.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use domain::BackendError;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::header::CONTENT_TYPE;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::{Instant, timeout};
use tracing::warn;
use wire::{AccessToken, decode_token};

use super::EntraClient;
use super::key_file::KeyCell;
use crate::{Secret, UpstreamConfigError};

/// How long before its end a token is replaced: longer than a request takes to get there, with
/// clocks that differ.
const MARGIN: Duration = Duration::from_secs(120);
/// Of a token's life, where that is short.
const MARGIN_SHARE: u32 = 4;
/// For the server's whole answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Tokens are a few KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Stands for the status of a server that gave none, as a gateway would say it.
const NO_ANSWER: u16 = 502;

type Asked = Shared<BoxFuture<'static, Result<Token, BackendError>>>;

pub(crate) struct Tokens {
    client: Client,
    url: Url,
    client_id: String,
    client_secret: KeyCell,
    scope: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// The question under way, and when it was begun: one whose askers all left is not polled, and
    /// is old when the next one comes.
    asked: Option<(Asked, Instant)>,
}

#[derive(Clone)]
struct Token {
    text: Secret,
    replace_at: Instant,
}

impl Tokens {
    pub fn new(config: &EntraClient, client: Client) -> Result<Self, UpstreamConfigError> {
        let url = Url::parse(&config.token_url).map_err(|_| UpstreamConfigError::TokenUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UpstreamConfigError::TokenUrl);
        }
        Ok(Self {
            client,
            url,
            client_id: config.client_id.clone(),
            client_secret: KeyCell::new(&config.client_secret),
            scope: config.scope.clone(),
            state: Mutex::default(),
        })
    }

    /// A token that is good for a while.
    ///
    /// # Errors
    /// [`BackendError::Credentials`] when none can be had.
    pub async fn current(&self) -> Result<Secret, BackendError> {
        let secret = self.client_secret.current().await;
        let asked = match self.known_or_asked(&secret) {
            Ok(token) => return Ok(token),
            Err(asked) => asked,
        };
        let answer = asked.clone().await;
        let mut state = self.lock();
        let is_same = |(known, _): &(Asked, Instant)| known.ptr_eq(&asked);
        // The first to hear of it; the others find it kept.
        if state.asked.as_ref().is_some_and(is_same) {
            state.asked = None;
            state.token = answer.as_ref().ok().cloned();
            if answer.is_err() {
                self.client_secret.refused();
                warn!(host = self.url.host_str(), "no token could be had");
            }
        }
        answer.map(|token| token.text)
    }

    fn known_or_asked(&self, secret: &Secret) -> Result<Secret, Asked> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(token) = state.token.as_ref().filter(|token| now < token.replace_at) {
            return Ok(token.text.clone());
        }
        if let Some((asked, since)) = &state.asked
            && now.duration_since(*since) < ANSWER_MAX
        {
            return Err(asked.clone());
        }
        let asked = self.ask(secret).boxed().shared();
        state.asked = Some((asked.clone(), now));
        Err(asked)
    }

    /// The upstream refused the token.
    pub fn refused(&self) {
        self.lock().token = None;
    }

    pub fn secrets(&self) -> Vec<Secret> {
        let token = self.lock().token.as_ref().map(|token| token.text.clone());
        token
            .into_iter()
            .chain([self.client_secret.known()])
            .collect()
    }

    fn ask(&self, secret: &Secret) -> impl Future<Output = Result<Token, BackendError>> + use<> {
        let mut form = self.url.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", secret.expose())
            .append_pair("scope", &self.scope);
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned());
        async move {
            let answer = timeout(ANSWER_MAX, async {
                let response = request.send().await.map_err(|_| NO_ANSWER)?;
                let status = response.status();
                if status != StatusCode::OK {
                    return Err(status.as_u16());
                }
                read(response).await.ok_or(NO_ANSWER)
            });
            match answer.await {
                Ok(Ok(token)) => Ok(Token::new(token, Instant::now())),
                Ok(Err(status)) => Err(BackendError::Credentials { status }),
                Err(_) => Err(BackendError::Credentials { status: NO_ANSWER }),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(mut response: Response) -> Option<AccessToken> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    decode_token(&body)
}

impl Token {
    fn new(token: AccessToken, now: Instant) -> Self {
        let margin = MARGIN.min(token.life / MARGIN_SHARE);
        Self {
            text: Secret::new(token.text),
            // A life beyond what a clock can say is long enough to be asked for again.
            replace_at: now
                .checked_add(token.life.saturating_sub(margin))
                .unwrap_or(now),
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}
