//! Embeddings by an upstream, where its dialect has them.

use bytes::Bytes;
use domain::{BackendError, Embeddings, Message, Outbound};

use super::Upstream;
use super::asking::aside;

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
        let body = self.json(call, &target, body, ANSWER_BYTES_MAX).await?;
        aside(move || halves.decode(&body, count)).await
    }
}
