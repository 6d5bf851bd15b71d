//! The handles of models that make vectors and scores in processes of their own.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use domain::{
    BackendError, EmbedInput, Embedder, EmbedderCard, Embeddings, Health, Reranker, Scores,
};

use super::desk::{Desk, Phase};
use super::launch::{Launch, Program};
use super::remote::{OTHER_KIND, OTHER_PART, RemoteDriver, Started, answer};
use super::words::{Card, Job, Part, Query};
use crate::embedding::EmbedderConfig;
use crate::load::LoadError;

/// Parts of one answer that may be on their way: vectors, mostly.
const WINDOW: usize = 16;

/// What both are: a model's card, and the desk of its process. Dropping it stops the process.
#[derive(Debug)]
struct Handle {
    card: EmbedderCard,
    desk: Arc<Desk>,
}

impl Handle {
    /// `card_of` gives nothing for a model of another kind.
    async fn start<L: Launch>(
        job: impl FnOnce(EmbedderConfig) -> Job,
        card_of: impl FnOnce(Card) -> Option<EmbedderCard>,
        config: EmbedderConfig,
        launcher: L,
    ) -> Result<(Self, RemoteDriver), LoadError> {
        let hang_max = config.hang_max;
        let started = Started::with(job(config), WINDOW, hang_max, launcher).await?;
        let card = card_of(started.card).ok_or(OTHER_KIND)?;
        let desk = started.desk;
        Ok((Self { card, desk }, started.driver))
    }

    fn ends(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.desk.ends)
    }

    fn stop(&self) {
        self.desk.set_phase(Phase::Stopped);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A model for embeddings in a process of its own. Dropping it stops the process.
#[derive(Debug)]
pub struct RemoteEmbedder(Handle);

impl RemoteEmbedder {
    /// As [`crate::Remote::start`].
    ///
    /// # Errors
    /// As there.
    pub async fn start(
        config: EmbedderConfig,
        program: Program,
    ) -> Result<(Self, RemoteDriver), LoadError> {
        Self::start_with(config, program).await
    }

    pub(super) async fn start_with<L: Launch>(
        config: EmbedderConfig,
        launcher: L,
    ) -> Result<(Self, RemoteDriver), LoadError> {
        let card_of = |card| match card {
            Card::Embed(card) => Some(card),
            Card::Chat(_) | Card::Rank(_) => None,
        };
        let (handle, driver) = Handle::start(Job::Embed, card_of, config, launcher).await?;
        Ok((Self(handle), driver))
    }

    #[cfg(test)]
    pub(super) fn desk(&self) -> &Arc<Desk> {
        &self.0.desk
    }

    /// How often the process ended by itself, or had to be ended; it goes on counting.
    #[must_use]
    pub fn ends(&self) -> Arc<AtomicU64> {
        self.0.ends()
    }

    /// Stops the process. What waits ends with an error, at once.
    pub fn stop(&self) {
        self.0.stop();
    }
}

#[async_trait]
impl Embedder for RemoteEmbedder {
    fn card(&self) -> &EmbedderCard {
        &self.0.card
    }

    fn health(&self) -> Health {
        self.0.desk.health()
    }

    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        let count = inputs.len();
        let mut vectors = Vec::with_capacity(count);
        let mut prompt_tokens = 0;
        for part in answer(&self.0.desk, Query::Embed(inputs)).await? {
            match part {
                Part::Vector(vector) if vector.len() == self.0.card.dimensions as usize => {
                    vectors.push(vector);
                }
                Part::PromptTokens(tokens) => prompt_tokens = tokens,
                _ => return Err(OTHER_PART),
            }
        }
        if vectors.len() != count {
            return Err(OTHER_PART);
        }
        Ok(Embeddings {
            vectors,
            prompt_tokens,
        })
    }
}

/// A model that ranks, in a process of its own. Dropping it stops the process.
#[derive(Debug)]
pub struct RemoteReranker(Handle);

impl RemoteReranker {
    /// As [`crate::Remote::start`].
    ///
    /// # Errors
    /// As there.
    pub async fn start(
        config: EmbedderConfig,
        program: Program,
    ) -> Result<(Self, RemoteDriver), LoadError> {
        Self::start_with(config, program).await
    }

    pub(super) async fn start_with<L: Launch>(
        config: EmbedderConfig,
        launcher: L,
    ) -> Result<(Self, RemoteDriver), LoadError> {
        let card_of = |card| match card {
            Card::Rank(card) => Some(card),
            Card::Chat(_) | Card::Embed(_) => None,
        };
        let (handle, driver) = Handle::start(Job::Rank, card_of, config, launcher).await?;
        Ok((Self(handle), driver))
    }

    /// How often the process ended by itself, or had to be ended; it goes on counting.
    #[must_use]
    pub fn ends(&self) -> Arc<AtomicU64> {
        self.0.ends()
    }

    /// Stops the process. What waits ends with an error, at once.
    pub fn stop(&self) {
        self.0.stop();
    }
}

#[async_trait]
impl Reranker for RemoteReranker {
    fn card(&self) -> &EmbedderCard {
        &self.0.card
    }

    fn health(&self) -> Health {
        self.0.desk.health()
    }

    async fn rank(&self, query: String, documents: Vec<String>) -> Result<Scores, BackendError> {
        let count = documents.len();
        let (mut scores, mut prompt_tokens) = (Vec::with_capacity(count), 0);
        for part in answer(&self.0.desk, Query::Rank { query, documents }).await? {
            match part {
                Part::Scores(more) => scores.extend(more),
                Part::PromptTokens(tokens) => prompt_tokens = tokens,
                _ => return Err(OTHER_PART),
            }
        }
        if scores.len() != count {
            return Err(OTHER_PART);
        }
        Ok(Scores {
            scores,
            prompt_tokens,
        })
    }
}
