//! What a process holds, and how it answers what is no chat.

use std::sync::Arc;

use domain::{
    Backend, BackendError, ChatRequest, ChatStream, Embedder, Health, Outbound, ReadToken,
    Reranker, Tokenizer,
};

use super::words::{Card, Part, Query};
use crate::embedding::LocalEmbedder;
use crate::encoding::EmbeddingDriver;
use crate::engine::{Engine, EngineDriver, EnginePanicked};
use crate::offload::Placement;
use crate::queue::{DraftCount, Stride, Vitals};
use crate::ranking::LocalReranker;

/// A loaded model, and its thread. There is one in a process.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made in a process's life, and taken apart at once"
)]
pub enum Loaded {
    Chat(Engine, EngineDriver),
    Embed(LocalEmbedder, EmbeddingDriver),
    Rank(LocalReranker, EmbeddingDriver),
}

impl Loaded {
    pub(super) fn settle(
        self,
    ) -> (
        Tenant,
        impl Future<Output = Result<(), EnginePanicked>> + Send,
    ) {
        let (tenant, engine, encoder) = match self {
            Loaded::Chat(engine, driver) => (Tenant::Chat(Arc::new(engine)), Some(driver), None),
            Loaded::Embed(embedder, driver) => {
                (Tenant::Embed(Arc::new(embedder)), None, Some(driver))
            }
            Loaded::Rank(reranker, driver) => {
                (Tenant::Rank(Arc::new(reranker)), None, Some(driver))
            }
        };
        let driver = async move {
            if let Some(driver) = engine {
                driver.run().await?;
            }
            if let Some(driver) = encoder {
                driver.run().await?;
            }
            Ok(())
        };
        (tenant, driver)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Tenant {
    Chat(Arc<Engine>),
    Embed(Arc<LocalEmbedder>),
    Rank(Arc<LocalReranker>),
}

/// Tokens' bytes in one part, but for a token that has more.
const PART_BYTES: usize = 64 * 1024;
/// What a token costs beside its bytes.
const TOKEN_BYTES: usize = 8;
/// Scores in one part.
const PART_SCORES: usize = 4_096;

const OTHER_WORK: BackendError = BackendError::Engine("the model does other work");

impl Tenant {
    pub(super) fn card(&self) -> Card {
        match self {
            Tenant::Chat(engine) => Card::Chat(engine.card().models.clone()),
            Tenant::Embed(embedder) => Card::Embed(embedder.card().clone()),
            Tenant::Rank(reranker) => Card::Rank(reranker.card().clone()),
        }
    }

    pub(super) fn health(&self) -> Health {
        match self {
            Tenant::Chat(engine) => engine.health(),
            Tenant::Embed(embedder) => embedder.health(),
            Tenant::Rank(reranker) => reranker.health(),
        }
    }

    pub(super) fn stride(&self) -> Stride {
        match self {
            Tenant::Chat(engine) => engine.stride(),
            Tenant::Embed(embedder) => embedder.stride(),
            Tenant::Rank(reranker) => reranker.stride(),
        }
    }

    pub(super) fn drafts(&self) -> DraftCount {
        match self {
            Tenant::Chat(engine) => engine.drafts(),
            Tenant::Embed(_) | Tenant::Rank(_) => DraftCount::default(),
        }
    }

    pub(super) fn vitals(&self) -> Vitals {
        match self {
            Tenant::Chat(engine) => engine.vitals(),
            Tenant::Embed(_) | Tenant::Rank(_) => Vitals::default(),
        }
    }

    pub(super) fn placement(&self) -> Placement {
        match self {
            Tenant::Chat(engine) => engine.placement().clone(),
            Tenant::Embed(_) | Tenant::Rank(_) => Placement::default(),
        }
    }

    pub(super) fn stop(&self) {
        match self {
            Tenant::Chat(engine) => engine.stop(),
            Tenant::Embed(embedder) => embedder.stop(),
            Tenant::Rank(reranker) => reranker.stop(),
        }
    }

    pub(super) async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        match self {
            Tenant::Chat(engine) => engine.chat(call).await,
            Tenant::Embed(_) | Tenant::Rank(_) => Err(OTHER_WORK),
        }
    }

    /// The answer in parts, each of which fits a frame.
    pub(super) async fn answer(&self, query: Query) -> Result<Vec<Part>, BackendError> {
        match (self, query) {
            (Tenant::Chat(engine), Query::Tokenize(text)) => {
                Ok(token_parts(engine.tokenize(text).await?))
            }
            (Tenant::Chat(engine), Query::TokenizeChat(request)) => {
                let request = parsed(request).await?;
                Ok(token_parts(engine.tokenize_chat(request).await?))
            }
            (Tenant::Chat(engine), Query::Detokenize(tokens)) => {
                Ok(byte_parts(&engine.detokenize(tokens).await?))
            }
            (Tenant::Chat(engine), Query::Render(request)) => {
                let request = parsed(request).await?;
                Ok(byte_parts(engine.render(request).await?.as_bytes()))
            }
            (Tenant::Embed(embedder), Query::Embed(inputs)) => {
                let embeddings = embedder.embed(inputs).await?;
                let vectors = embeddings.vectors.into_iter().map(Part::Vector);
                let tokens = Part::PromptTokens(embeddings.prompt_tokens);
                Ok(vectors.chain([tokens]).collect())
            }
            (Tenant::Rank(reranker), Query::Rank { query, documents }) => {
                let scores = reranker.rank(query, documents).await?;
                let parts = scores.scores.chunks(PART_SCORES);
                let parts = parts.map(|part| Part::Scores(part.to_vec()));
                let tokens = Part::PromptTokens(scores.prompt_tokens);
                Ok(parts.chain([tokens]).collect())
            }
            _ => Err(OTHER_WORK),
        }
    }
}

const UNREAD: BackendError = BackendError::Engine("the request was not understood by its process");

/// A request as the other side wrote it.
pub(super) fn parse(text: &str) -> Result<ChatRequest, BackendError> {
    serde_json::from_str(text).map_err(|_| UNREAD)
}

/// As [`parse`], off the thread that carries events.
pub(super) async fn parsed(text: String) -> Result<ChatRequest, BackendError> {
    let parsed = tokio::task::spawn_blocking(move || parse(&text)).await;
    parsed.map_err(|_| UNREAD)?
}

fn token_parts(tokens: Vec<ReadToken>) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for token in tokens {
        bytes += TOKEN_BYTES + token.piece.len();
        part.push(token);
        if bytes >= PART_BYTES {
            parts.push(Part::Tokens(std::mem::take(&mut part)));
            bytes = 0;
        }
    }
    parts.extend((!part.is_empty()).then_some(Part::Tokens(part)));
    parts
}

fn byte_parts(bytes: &[u8]) -> Vec<Part> {
    let parts = bytes.chunks(PART_BYTES);
    parts.map(|part| Part::Bytes(part.to_vec())).collect()
}
