//! One request to a collector, as the protocol's page has it:
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>, read 2026-11-29 (OTLP 1.9).

use std::time::Duration;

use providers::Secret;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::otlp::Answer;

/// A collector that takes longer is as one that is away.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Of an answer that says what was not taken.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const TRIES_MAX: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(10);
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why it was not taken. What is said names no header.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    #[error("the collector cannot be reached")]
    Unreachable,
    #[error("the collector does not answer in time")]
    Late,
    #[error("the collector refuses it with {0}")]
    Refused(StatusCode),
}

#[derive(Debug)]
pub struct Post {
    client: Client,
    headers: HeaderMap,
}

impl Post {
    pub fn new(client: Client, headers: &[(String, Secret)]) -> Self {
        // The configuration refuses what is none.
        let headers = headers.iter().filter_map(|(name, secret)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(secret.expose()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let mut headers: HeaderMap = headers.collect();
        headers.insert(CONTENT_TYPE, JSON);
        Self { client, headers }
    }

    /// Sends `message`, again where the collector may take it later, and reads what it says.
    pub async fn send(&self, url: &Url, message: &impl Serialize) -> Result<Answer, PostError> {
        // Maps have text for keys, and there is nothing else that JSON could not say.
        let body = serde_json::to_vec(message).unwrap_or_default();
        let body = bytes::Bytes::from(body);
        let mut tries = 0;
        loop {
            tries += 1;
            let (error, after) = match self.once(url, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let (Some(after), true) = (after, tries < TRIES_MAX) else {
                return Err(error);
            };
            sleep(after.max(FIRST_WAIT * tries).min(WAIT_MAX)).await;
        }
    }

    /// With an error when it may be sent again, `None` where that is never.
    async fn once(
        &self,
        url: &Url,
        body: bytes::Bytes,
    ) -> Result<Answer, (PostError, Option<Duration>)> {
        let request = self
            .client
            .post(url.clone())
            .headers(self.headers.clone())
            .body(body);
        let answer = timeout(ANSWER_MAX, request.send()).await;
        let answer = answer.map_err(|_| (PostError::Late, Some(Duration::ZERO)))?;
        let answer = answer.map_err(|_| (PostError::Unreachable, Some(Duration::ZERO)))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(read(answer).await);
        }
        let is_passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let named = answer.headers().get(RETRY_AFTER);
        let named = named.and_then(|text| text.to_str().ok()?.parse().ok());
        let after = is_passing.then(|| Duration::from_secs(named.unwrap_or(0)));
        Err((PostError::Refused(status), after))
    }
}

/// What a collector says beside that it took it is a courtesy: where it cannot be read, it said nothing.
async fn read(answer: Response) -> Answer {
    if answer
        .content_length()
        .is_none_or(|bytes| bytes > ANSWER_BYTES_MAX)
    {
        return Answer::default();
    }
    match timeout(ANSWER_MAX, answer.bytes()).await {
        Ok(Ok(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Ok(Err(_)) | Err(_) => Answer::default(),
    }
}
