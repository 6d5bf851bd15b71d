//! Getting bytes: redirects, statuses, patience. The client itself follows no redirect.

use std::time::Duration;

use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};

use crate::pull::Hub;
use crate::source::is_loopback;
use crate::{PullError, Sha256Digest, hub};

/// The hub needs one; more than a few are a circle.
const REDIRECTS_MAX: u32 = 5;
/// Silence after which a server is taken for gone.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An address to ask, and how it was reached.
pub(crate) struct Hop {
    url: Url,
    redirects: u32,
    /// The digest the hub names on its own answer, before it sends us elsewhere.
    sha256: Option<Sha256Digest>,
}

impl Hop {
    pub(crate) fn first(url: Url) -> Self {
        Self {
            url,
            redirects: 0,
            sha256: None,
        }
    }

    /// The next address: https, or this machine when we were on it already.
    fn follow(self, headers: &HeaderMap) -> Result<Self, PullError> {
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| self.url.join(location).ok());
        let Some(next) = next.filter(|_| self.redirects < REDIRECTS_MAX) else {
            return Err(PullError::Redirect);
        };
        let is_safe = next.scheme() == "https" || (is_loopback(&next) && is_loopback(&self.url));
        if !is_safe {
            return Err(PullError::Redirect);
        }
        Ok(Self {
            url: next,
            redirects: self.redirects + 1,
            sha256: self.sha256,
        })
    }
}

/// An answer that is a success, and what was learnt on the way to it.
pub(crate) struct Arrived {
    pub(crate) response: Response,
    pub(crate) sha256: Option<Sha256Digest>,
}

/// Asks, following redirects. `dress` adds headers to each request; the hub's token goes to the hub
/// alone. A 416 counts as an answer, for the caller to judge.
pub(crate) async fn get(
    client: &Client,
    hub: &Hub,
    mut hop: Hop,
    dress: &(dyn Fn(RequestBuilder) -> RequestBuilder + Send + Sync),
) -> Result<Arrived, PullError> {
    loop {
        let request = hub::authorize(dress(client.get(hop.url.clone())), hub, &hop.url);
        let response = tokio::time::timeout(SILENCE_MAX, request.send())
            .await
            .map_err(|_| unreachable(&hop.url, "it did not answer in time"))?
            .map_err(|error| unreachable(&hop.url, reason(&error)))?;
        hop.sha256 = hop.sha256.or_else(|| stated_digest(response.headers()));
        let status = response.status();
        if status.is_redirection() {
            hop = hop.follow(response.headers())?;
            continue;
        }
        return match status {
            StatusCode::NOT_FOUND => Err(PullError::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PullError::Refused {
                status: status.as_u16(),
            }),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Arrived {
                response,
                sha256: hop.sha256,
            }),
            _ if status.is_success() => Ok(Arrived {
                response,
                sha256: hop.sha256,
            }),
            _ => Err(PullError::Status {
                status: status.as_u16(),
            }),
        };
    }
}

/// The SHA-256 that the hub states for large files, in `x-linked-etag`.
fn stated_digest(headers: &HeaderMap) -> Option<Sha256Digest> {
    let text = headers.get("x-linked-etag")?.to_str().ok()?;
    text.trim_start_matches("W/").trim_matches('"').parse().ok()
}

fn unreachable(url: &Url, reason: &'static str) -> PullError {
    PullError::Unreachable {
        host: url.host_str().unwrap_or_default().to_owned(),
        reason,
    }
}

fn reason(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "no connection; check the network, a proxy or certificates"
    } else if error.is_timeout() {
        "it did not answer in time"
    } else {
        "the request failed"
    }
}

/// A small body, whole.
pub(crate) async fn whole(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, PullError> {
    let mut body = Vec::new();
    loop {
        let chunk = tokio::time::timeout(SILENCE_MAX, response.chunk()).await;
        match chunk {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= bytes_max => {
                body.extend_from_slice(&chunk);
            }
            Ok(Ok(None)) => return Ok(body),
            _ => return Err(PullError::Listing),
        }
    }
}
