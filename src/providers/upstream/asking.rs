//! Requests whose answer is one piece of JSON and no chat.

use bytes::Bytes;
use domain::{BackendError, Outbound, TimeoutPhase};
use tokio::time::{Instant, timeout_at};

use super::Upstream;
use crate::reading::read_json;
use crate::target::Target;

impl Upstream {
    /// The answer to `body` at `target`, of at most `bytes_max`.
    pub(super) async fn json(
        &self,
        call: &Outbound,
        target: &Target,
        body: Bytes,
        bytes_max: usize,
    ) -> Result<Bytes, BackendError> {
        let answered = timeout_at(Instant::now() + self.whole_reply_timeout, async {
            let response = self.send(call, target, body).await?;
            if response.status() != http::StatusCode::OK {
                return Err(self.refused(self.speech.dialect, call, response).await);
            }
            read_json(response, bytes_max).await
        });
        let answered = answered.await;
        answered.map_err(|_| BackendError::TimedOut(TimeoutPhase::FirstEvent))?
    }
}

/// A thousand texts, vectors or results take milliseconds to write and to read.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| BackendError::Unreachable("the request could not be written or read"))?
}
