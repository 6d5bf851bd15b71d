//! How this machine becomes an edge, once.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use relay::manifest::IdentityPin;
use reqwest::{Response, Url};
use serde::Deserialize;

use super::authority::{chain_of, request};
use super::ed25519::{self, Seed};
use super::registrar::{Admission, JOIN_PATH, JoinRequest};
use super::tls;
use super::token::{JoinToken, fingerprint};
use crate::client;

/// For the whole of it: one request.
const JOIN_MAX: Duration = Duration::from_secs(30);
/// An answer of the relay's, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What came of it: what the relay answered, and the key that it signed.
pub struct Joined {
    pub admission: Admission,
    pub key: Seed,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Joined({})", self.admission.relay_id)
    }
}

/// Asks the relay at `url` to sign a key that is made here and leaves this machine never. Nothing is
/// believed of whoever does not have the authority and the identity that the token names.
///
/// # Errors
/// The relay cannot be reached, is another one, or lets nobody in.
pub async fn join(url: &Url, token: &JoinToken) -> anyhow::Result<Joined> {
    if url.scheme() != "https" {
        bail!("joining needs https: the relay sends who it is in its TLS");
    }
    let http = client::relay_builder()
        .tls_backend_preconfigured(tls::joining(token.authority)?)
        .build()
        .context("cannot set up the HTTP client")?;
    let key = ed25519::generate(&mut rand::rng());
    let asked = JoinRequest {
        secret: token.secret.expose().to_string(),
        request: request(&key)?,
    };
    let response = http
        .post(url.join(JOIN_PATH)?)
        .timeout(JOIN_MAX)
        .json(&asked)
        .send()
        .await
        .map_err(|error| unreached(url, error))?;
    let admission = answer(response).await?;
    let identity = fingerprint(admission.identity.as_bytes());
    let authority = chain_of(&admission.authorities)?.swap_remove(0);
    if identity != token.identity || fingerprint(&authority) != token.authority {
        bail!("the relay answers under another identity than the token names; nothing was written");
    }
    let identity: IdentityPin = admission.identity.parse()?;
    if !admission.has_names() || !admission.is_signed_by(&identity) {
        bail!("the relay's answer is not signed by it, or names nothing; nothing was written");
    }
    Ok(Joined { admission, key })
}

/// A certificate that does not hold is the likeliest cause that a user can do something about.
fn unreached(url: &Url, error: reqwest::Error) -> anyhow::Error {
    let chain = format!("{:#}", anyhow!(error.without_url()));
    let next = if chain.contains("certificate") {
        "something on the way, or another relay, answers there; the token is of another one than this"
    } else {
        "is `hedge relay` running, and is its port open?"
    };
    anyhow!("cannot reach the relay at {url}: {chain}; {next}")
}

/// What a relay answers to who joins or renews.
///
/// # Errors
/// It refuses, in its words.
pub async fn answer(mut response: Response) -> anyhow::Result<Admission> {
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            bail!("the relay's answer is longer than any");
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).context("the relay's answer cannot be understood");
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Problem {
        title: String,
        detail: String,
    }
    let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
    let said = [problem.detail, problem.title];
    let said = said.into_iter().find(|said| !said.is_empty());
    let next = match status.as_u16() {
        401 => {
            "the token is not known, was used, or is older than 15 minutes: print another one at \
                the relay, with `hedge relay edges add`"
        }
        403 => "the edge is not known there any more",
        404 => "that is no relay",
        429 => "too many tries; wait a minute",
        _ => "the relay's log says more",
    };
    // What came in the clear is shown for what it is: letters, and few of them.
    let said = said.unwrap_or_default();
    let said: String = said
        .chars()
        .filter(|it| !it.is_control())
        .take(200)
        .collect();
    bail!("the relay answered {status} {said}; {next}")
}
