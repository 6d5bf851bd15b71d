//! Texts to vectors: the request, its answer, and who gives it.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{BackendError, Health, ModelAlias};

/// A request for embeddings, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    pub model: ModelAlias,
    /// Never empty.
    pub inputs: Vec<EmbedInput>,
    /// Components to keep of each vector, from the first on; all of them where `None`.
    pub dimensions: Option<u32>,
    pub format: VectorFormat,
}

/// One text, or its tokens in the model's own vocabulary. Never empty.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum EmbedInput {
    Text(String),
    Tokens(Vec<u32>),
}

impl EmbedInput {
    /// Of what was sent, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            EmbedInput::Text(text) => text.len(),
            EmbedInput::Tokens(tokens) => size_of_val(tokens.as_slice()),
        }
    }
}

impl fmt::Debug for EmbedInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmbedInput::Text(text) => write!(f, "Text({} bytes)", text.len()),
            EmbedInput::Tokens(tokens) => write!(f, "Tokens({})", tokens.len()),
        }
    }
}

/// How vectors are written in the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VectorFormat {
    #[default]
    Float,
    /// Little-endian `f32`, in base64.
    Base64,
}

/// One vector for each input, in order.
#[derive(Clone, PartialEq)]
pub struct Embeddings {
    pub vectors: Vec<Vec<f32>>,
    /// Tokens read, of all inputs together.
    pub prompt_tokens: u32,
}

impl fmt::Debug for Embeddings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embeddings")
            .field("vectors", &self.vectors.len())
            .field("prompt_tokens", &self.prompt_tokens)
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedderCard {
    pub name: String,
    /// Components of a vector.
    pub dimensions: u32,
    /// The longest input, in tokens.
    pub input_tokens_max: u32,
}

/// A model on this machine that turns texts into vectors of length 1.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// Constant for the embedder's life.
    fn card(&self) -> &EmbedderCard;

    /// A cheap snapshot; never blocks.
    fn health(&self) -> Health;

    /// One vector for each of `inputs`. Dropping the future cancels what is not yet computed.
    ///
    /// # Errors
    /// [`BackendError::Declined`] names the input at fault, as `input[3]`.
    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError>;
}
