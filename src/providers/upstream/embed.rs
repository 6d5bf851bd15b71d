//! Embeddings by an upstream, where its dialect has them.

use bytes::Bytes;
use domain::{BackendError, Embeddings, Message, Outbound, TimeoutPhase};
use tokio::time::{Instant, timeout_at};

use super::Upstream;
use crate::reading::read_json;

/// The largest answer read: 2,048 vectors of 3,072 numbers, 13 characters each, are 82 MB.
const ANSWER_BYTES_MAX: usize = 96 << 20;

impl Upstream {
    /// One vector for each message of `call`.
    pub(super) async fn vectors(
        &self,
        call: &Outbound,
        dimensions: Option<u32>,
    ) -> Result<Embeddings, BackendError> {
        let Some(halves) = self.speech.dialect.embeddings() else {
            let words = "what this upstream speaks has no embeddings here";
            return Err(BackendError::declined("model", words));
        };
        let model = call.model();
        let target = self.speech.targets.page(model, &halves.target(model))?;
        let texts: Vec<String> = call.request().messages.iter().map(Message::text).collect();
        let (count, asked) = (texts.len(), model.to_owned());
        let body = aside(move || Ok(halves.encode(&asked, &texts, dimensions)));
        let body: Bytes = body.await?;
        let answered = timeout_at(Instant::now() + self.whole_reply_timeout, async {
            let response = self.send(call, &target, body).await?;
            if response.status() != http::StatusCode::OK {
                return Err(self.refused(self.speech.dialect, call, response).await);
            }
            read_json(response, ANSWER_BYTES_MAX).await
        });
        let body = answered
            .await
            .map_err(|_| BackendError::TimedOut(TimeoutPhase::FirstEvent))??;
        aside(move || halves.decode(&body, count)).await
    }
}

/// A thousand texts or vectors take milliseconds to write and to read.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackendError> + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| BackendError::Unreachable("the embeddings could not be written or read"))?
}
