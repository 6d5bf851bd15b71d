//! One question to a provider: within a time and up to a length.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::{Asked, OidcError};

/// For one question, from the connection to the answer's last byte.
const ASK_MAX: Duration = Duration::from_secs(5);
/// Of one answer: a document has some 5 KiB, and so have the keys.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// An answer, whatever its status.
pub struct Answer {
    pub status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    /// # Errors
    /// It is not the JSON that it should be.
    pub fn read<T: DeserializeOwned>(&self, asked: Asked) -> Result<T, OidcError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| OidcError::Unreadable(asked, error.into()))
    }
}

/// # Errors
/// No answer in time, or one that is too long.
pub async fn ask(request: RequestBuilder, asked: Asked) -> Result<Answer, OidcError> {
    let answered = timeout(ASK_MAX, whole(request, asked)).await;
    answered.unwrap_or(Err(OidcError::TimedOut))
}

/// The same, of an answer that is only good with status 200.
///
/// # Errors
/// As `ask`, and for any other status or what is not the JSON that it should be.
pub async fn ask_for<T: DeserializeOwned>(
    request: RequestBuilder,
    asked: Asked,
) -> Result<T, OidcError> {
    let answer = ask(request, asked).await?;
    match answer.status {
        StatusCode::OK => answer.read(asked),
        status => Err(OidcError::Status(asked, status)),
    }
}

async fn whole(request: RequestBuilder, asked: Asked) -> Result<Answer, OidcError> {
    // Its address may have a tenant's name, which is nobody's to read in a log.
    let unreachable = |error: reqwest::Error| OidcError::Unreachable(asked, error.without_url());
    let mut response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            let bytes_max = ANSWER_BYTES_MAX;
            return Err(OidcError::TooLong { asked, bytes_max });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}
