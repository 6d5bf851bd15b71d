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

/// A model for embeddings in a process of its own. Dropping it stops the process.
#[derive(Debug)]
pub struct RemoteEmbedder {
    card: EmbedderCard,
    desk: Arc<Desk>,
}

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
        let hang_max = config.hang_max;
        let started = Started::with(Job::Embed(config), WINDOW, hang_max, launcher).await?;
        let Card::Embed(card) = started.card else {
            return Err(OTHER_KIND);
        };
        let desk = started.desk;
        Ok((Self { card, desk }, started.driver))
    }

    #[cfg(test)]
    pub(super) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// How often the process ended by itself, or had to be ended; it goes on counting.
    #[must_use]
    pub fn ends(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.desk.ends)
    }

    /// Stops the process. What waits ends with an error, at once.
    pub fn stop(&self) {
        self.desk.set_phase(Phase::Stopped);
    }
}

#[async_trait]
impl Embedder for RemoteEmbedder {
    fn card(&self) -> &EmbedderCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.desk.health()
    }

    async fn embed(&self, inputs: Vec<EmbedInput>) -> Result<Embeddings, BackendError> {
        let count = inputs.len();
        let mut vectors = Vec::with_capacity(count);
        let mut prompt_tokens = 0;
        for part in answer(&self.desk, Query::Embed(inputs)).await? {
            match part {
                Part::Vector(vector) if vector.len() == self.card.dimensions as usize => {
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

impl Drop for RemoteEmbedder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A model that ranks, in a process of its own. Dropping it stops the process.
#[derive(Debug)]
pub struct RemoteReranker {
    card: EmbedderCard,
    desk: Arc<Desk>,
}

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
        let hang_max = config.hang_max;
        let started = Started::with(Job::Rank(config), WINDOW, hang_max, launcher).await?;
        let Card::Rank(card) = started.card else {
            return Err(OTHER_KIND);
        };
        let desk = started.desk;
        Ok((Self { card, desk }, started.driver))
    }

    /// How often the process ended by itself, or had to be ended; it goes on counting.
    #[must_use]
    pub fn ends(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.desk.ends)
    }

    /// Stops the process. What waits ends with an error, at once.
    pub fn stop(&self) {
        self.desk.set_phase(Phase::Stopped);
    }
}

#[async_trait]
impl Reranker for RemoteReranker {
    fn card(&self) -> &EmbedderCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.desk.health()
    }

    async fn rank(&self, query: String, documents: Vec<String>) -> Result<Scores, BackendError> {
        let count = documents.len();
        let (mut scores, mut prompt_tokens) = (Vec::with_capacity(count), 0);
        for part in answer(&self.desk, Query::Rank { query, documents }).await? {
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

impl Drop for RemoteReranker {
    fn drop(&mut self) {
        self.stop();
    }
}
