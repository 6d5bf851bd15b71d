//! An upstream as a [`Backend`].

use async_trait::async_trait;
use domain::{Backend, BackendCard, BackendError, ChatStream, Health, Outbound};

use crate::{UpstreamConfig, UpstreamConfigError};

/// One OpenAI-compatible upstream over HTTP.
#[derive(Debug)]
pub struct Upstream {
    card: BackendCard,
}

impl Upstream {
    /// # Errors
    /// What is wrong with `config`.
    pub fn new(
        config: UpstreamConfig,
        client: reqwest::Client,
    ) -> Result<Self, UpstreamConfigError> {
        let _ = (config, client);
        todo!()
    }
}

#[async_trait]
impl Backend for Upstream {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        todo!()
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let _ = call;
        todo!()
    }
}
