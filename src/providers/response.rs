//! An upstream's answer, whichever way it came.

use std::mem;
use std::time::Duration;

use bytes::Bytes;
use domain::BackendError;
use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use crate::direct;
use crate::upstream::Carried;

/// How long a finished stream waits for its body's end, so that the connection can be used again.
/// An upstream slower than this pays with a new connection.
const DRAIN_MAX: Duration = Duration::from_millis(20);

/// A head, and a body that is read as it is asked for. Dropping it ends the exchange.
pub(crate) enum Response {
    Direct(direct::Response),
    Client(reqwest::Response),
    Carried(Carried),
}

impl Response {
    pub fn status(&self) -> StatusCode {
        match self {
            Response::Direct(response) => response.status(),
            Response::Client(response) => response.status(),
            Response::Carried(response) => response.status(),
        }
    }

    pub fn headers(&self) -> &HeaderMap {
        match self {
            Response::Direct(response) => response.headers(),
            Response::Client(response) => response.headers(),
            Response::Carried(response) => response.headers(),
        }
    }

    /// Lets go of the headers. They lie in the buffer that the connection reads into, and while they do
    /// it reads into a second one.
    pub fn forget_headers(&mut self) {
        match self {
            Response::Direct(response) => response.forget_headers(),
            Response::Client(response) => drop(mem::take(response.headers_mut())),
            Response::Carried(_) => {}
        }
    }

    /// Of the body, where it is known.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Response::Direct(response) => response.content_length(),
            Response::Client(response) => response.content_length(),
            Response::Carried(_) => None,
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
            Response::Carried(response) => response.chunk().await,
        }
    }

    /// All that is wanted was read: the rest, where there is any, soon comes or nobody waits for it.
    pub async fn finish(&mut self) {
        match self {
            Response::Direct(_) | Response::Client(_) => {
                let drained = timeout(DRAIN_MAX, async {
                    while let Ok(Some(_)) = self.chunk().await {}
                });
                // Late, broken or done: the reply is whole either way.
                let _ = drained.await;
            }
            Response::Carried(response) => response.finish(),
        }
    }
}
