//! An upstream's answer, whichever way it came.

use bytes::Bytes;
use domain::BackendError;
use http::{HeaderMap, StatusCode};

use crate::direct;

/// A head, and a body that is read as it is asked for. Dropping it ends the exchange.
pub(crate) enum Response {
    Direct(direct::Response),
    Client(reqwest::Response),
}

impl Response {
    pub fn status(&self) -> StatusCode {
        match self {
            Response::Direct(response) => response.status(),
            Response::Client(response) => response.status(),
        }
    }

    pub fn headers(&self) -> &HeaderMap {
        match self {
            Response::Direct(response) => response.headers(),
            Response::Client(response) => response.headers(),
        }
    }

    /// Of the body, where it is known.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Response::Direct(response) => response.content_length(),
            Response::Client(response) => response.content_length(),
        }
    }

    /// The body's next stretch, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BackendError> {
        match self {
            Response::Direct(response) => response.chunk().await,
            Response::Client(response) => {
                let chunk = response.chunk().await;
                chunk.map_err(|_| BackendError::Interrupted)
            }
        }
    }
}
