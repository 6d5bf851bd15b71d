//! Texts in order of how well they answer a query.

use std::fmt;

use async_trait::async_trait;

use crate::{BackendError, EmbedderCard, Health, ModelAlias};

/// A request for a ranking, decoded.
#[derive(Clone, PartialEq)]
pub struct RerankRequest {
    pub model: ModelAlias,
    pub query: String,
    /// Never empty.
    pub documents: Vec<String>,
    /// How many of the best are wanted; all where `None`.
    pub best_max: Option<usize>,
    /// Whether the answer repeats the documents' texts.
    pub shows_documents: bool,
}

impl fmt::Debug for RerankRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RerankRequest")
            .field("model", &self.model)
            .field("documents", &self.documents.len())
            .finish_non_exhaustive()
    }
}

/// One score for each document, in the documents' order.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The model's own measure: higher is better, and of any size.
    pub scores: Vec<f32>,
    /// Tokens read, of all pairs of query and document together.
    pub prompt_tokens: u32,
}

/// A model on this machine that says how well texts answer a query.
#[async_trait]
pub trait Reranker: Send + Sync + 'static {
    /// Constant for the reranker's life. An input is a query and a document together.
    fn card(&self) -> &EmbedderCard;

    /// A cheap snapshot; never blocks.
    fn health(&self) -> Health;

    /// One score for each of `documents`, none of which is NaN. Dropping the future cancels what is
    /// not yet computed.
    ///
    /// # Errors
    /// [`BackendError::Declined`] names the document at fault, as `documents[3]`.
    async fn rank(&self, query: String, documents: Vec<String>) -> Result<Scores, BackendError>;
}
