//! The handle: a backend whose engine is elsewhere.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Backend, BackendCard, BackendError, BackendName, BadRequest, ChatRequest, ChatStream, Health,
    Outbound, ReadToken, Resume, TextToRead, Tokenizer, Trust,
};
use futures::{StreamExt, TryStreamExt};

use super::desk::{Desk, Phase};
use super::launch::{Launch, Program};
use super::supervisor::{Restarts, Supervisor, first};
use super::words::{Ask, Card, Job, Order, Part, Query};
use crate::config::EngineConfig;
use crate::engine::needs;
use crate::load::LoadError;
use crate::offload::Placement;
use crate::queue::{DraftCount, Vitals};

/// How long a request waits for a child that is being started again. Most are back sooner, and
/// the pipeline's own patience is longer.
const READY_WAIT_MAX: Duration = Duration::from_secs(3);
/// Parts of one answer: a vector for each of the most texts that are taken, or the tokens of the
/// longest text. A process that sends more is not as ours.
const PARTS_MAX: usize = 4_096;
/// A request that came with more bytes than this is written as JSON off the network's threads.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// A model in a process of its own. Dropping it stops the process.
pub struct Remote {
    card: BackendCard,
    desk: Arc<Desk>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

/// Talks to the process and starts it again. To be run, and waited for at shutdown.
pub struct RemoteDriver(Pin<Box<dyn Future<Output = ()> + Send>>);

impl fmt::Debug for RemoteDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemoteDriver")
    }
}

impl RemoteDriver {
    /// Ends after [`Remote::stop`], within a few seconds.
    pub async fn run(self) {
        self.0.await;
    }
}

/// Said where a process loaded another kind of model than it was told to, which is our own fault.
pub(super) const OTHER_KIND: LoadError = LoadError::Setting("job");

/// A process that has loaded its model.
pub(super) struct Started {
    pub card: Card,
    pub desk: Arc<Desk>,
    pub driver: RemoteDriver,
}

impl Started {
    /// As [`Remote::start`], for any job. `window`: what a reply may be ahead of its reader.
    pub(super) async fn with<L: Launch>(
        job: Job,
        window: usize,
        hang_max: Duration,
        mut launcher: L,
    ) -> Result<Started, LoadError> {
        let window = u32::try_from(window).map_err(|_| LoadError::Setting("events_max"))?;
        if hang_max < Duration::from_millis(EngineConfig::HANG_MS_LEAST) {
            return Err(LoadError::Setting("hang_max"));
        }
        let load = Order::Load { job, window };
        let mut restarts = Restarts::default();
        let (link, card) = first(&mut launcher, &load, &mut restarts).await?;
        let desk = Arc::new(Desk::new(window));
        let supervisor = Supervisor {
            launcher,
            load,
            card: card.clone(),
            restarts,
            desk: Arc::clone(&desk),
            hang_max,
        };
        Ok(Started {
            card,
            desk,
            driver: RemoteDriver(Box::pin(supervisor.run(link))),
        })
    }
}

impl Remote {
    /// Starts the process and waits until it has loaded. Dropped meanwhile, it ends the process.
    ///
    /// The thread that polls this, and later those that poll the driver, must live as long as the
    /// process shall: Linux ends a child that asked for it with the thread it came from.
    ///
    /// # Errors
    /// [`LoadError::Elsewhere`] in the process's own words, or [`LoadError::Quarantined`].
    pub async fn start(
        config: EngineConfig,
        program: Program,
    ) -> Result<(Remote, RemoteDriver), LoadError> {
        Self::start_with(config, program).await
    }

    pub(super) async fn start_with<L: Launch>(
        mut config: EngineConfig,
        launcher: L,
    ) -> Result<(Remote, RemoteDriver), LoadError> {
        // What a reply may be ahead of its reader is divided between the two processes.
        let window = (config.events_max / 2).max(1);
        config.events_max = (config.events_max - window).max(1);
        let hang_max = config.hang_max;
        let started = Started::with(Job::Chat(config), window, hang_max, launcher).await?;
        let Card::Chat(models) = started.card else {
            return Err(OTHER_KIND);
        };
        let remote = Remote {
            card: BackendCard {
                name: BackendName::new("local"),
                tier: domain::Tier::Engine,
                is_sealed: false,
                trust: Trust::Device,
                models,
            },
            desk: started.desk,
        };
        Ok((remote, started.driver))
    }

    /// How often the process ended by itself, or had to be ended; it goes on counting.
    #[must_use]
    pub fn ends(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.desk.ends)
    }

    /// As [`crate::Engine::drafts`], of all its processes; up to a moment old.
    #[must_use]
    pub fn drafts(&self) -> DraftCount {
        self.desk.drafts()
    }

    /// As [`crate::Engine::vitals`], up to a moment old.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.desk.vitals()
    }

    /// As [`crate::Engine::placement`].
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.desk.placement()
    }

    /// The process, while there is one that has loaded.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.desk.pid()
    }

    /// Stops the process. What runs and what waits ends with an error, at once.
    pub fn stop(&self) {
        self.desk.set_phase(Phase::Stopped);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Backend for Remote {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.desk.health()
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let able = self.card.models.first().map(|model| model.abilities);
        if let Some(ability) = needs(call.request()).first_missing_from(able.unwrap_or_default()) {
            return Err(BackendError::Unable(ability));
        }
        self.desk.until_ready(READY_WAIT_MAX).await?;
        let is_long = call.body_bytes() > INLINE_BYTES_MAX;
        let request = written(call.request(), is_long).await?;
        let (stream, taken) = self.desk.open(|id| Ask {
            id,
            request_id: call.request_id().as_str().to_owned(),
            model: call.model().to_owned(),
            team: call.team().map(|team| team.as_str().to_owned()),
            priority: call.priority(),
            request,
        })?;
        taken.wait().await?;
        Ok(stream.boxed())
    }

    fn tokenizer(&self, _model: &str) -> Option<&dyn Tokenizer> {
        Some(self)
    }

    /// By `prefill.rs`.
    fn resume(&self, _model: &str) -> Resume {
        Resume::Exact
    }
}

#[async_trait]
impl Tokenizer for Remote {
    async fn tokenize(&self, text: TextToRead) -> Result<Vec<ReadToken>, BackendError> {
        self.tokens(Query::Tokenize(text)).await
    }

    async fn tokenize_chat(&self, request: ChatRequest) -> Result<Vec<ReadToken>, BackendError> {
        let request = written(&request, is_long(&request)).await?;
        self.tokens(Query::TokenizeChat(request)).await
    }

    async fn detokenize(&self, tokens: Vec<u32>) -> Result<Vec<u8>, BackendError> {
        self.bytes(Query::Detokenize(tokens)).await
    }

    async fn render(&self, request: ChatRequest) -> Result<String, BackendError> {
        let request = written(&request, is_long(&request)).await?;
        let bytes = self.bytes(Query::Render(request)).await?;
        String::from_utf8(bytes).map_err(|_| OTHER_PART)
    }
}

impl Remote {
    async fn tokens(&self, query: Query) -> Result<Vec<ReadToken>, BackendError> {
        let parts = answer(&self.desk, query).await?;
        let parts = parts.into_iter().map(|part| match part {
            Part::Tokens(tokens) => Ok(tokens),
            _ => Err(OTHER_PART),
        });
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    }

    async fn bytes(&self, query: Query) -> Result<Vec<u8>, BackendError> {
        let parts = answer(&self.desk, query).await?;
        let parts = parts.into_iter().map(|part| match part {
            Part::Bytes(bytes) => Ok(bytes),
            _ => Err(OTHER_PART),
        });
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// Said of an answer to another question.
pub(super) const OTHER_PART: BackendError = BackendError::Engine("its process answered amiss");

/// All parts of the answer to `query`. Dropped meanwhile, nothing more of it is computed or sent.
pub(super) async fn answer(desk: &Arc<Desk>, query: Query) -> Result<Vec<Part>, BackendError> {
    desk.until_ready(READY_WAIT_MAX).await?;
    let parts: Vec<Part> = desk.query(query)?.take(PARTS_MAX + 1).try_collect().await?;
    if parts.len() > PARTS_MAX {
        return Err(OTHER_PART);
    }
    Ok(parts)
}

/// Of one that came in no call: without its bytes nothing is known.
fn is_long(request: &ChatRequest) -> bool {
    let source = request.source.as_ref();
    source.is_none_or(|source| source.bytes.len() > INLINE_BYTES_MAX)
}

async fn written(request: &ChatRequest, is_long: bool) -> Result<String, BackendError> {
    let json = if is_long {
        let request = request.clone();
        let work = tokio::task::spawn_blocking(move || serde_json::to_string(&request));
        work.await
            .map_err(|_| BackendError::Engine("preparing the request failed"))?
    } else {
        serde_json::to_string(request)
    };
    // Numbers that JSON has no form for, which the codecs let through from nowhere.
    json.map_err(|_| BackendError::Declined {
        reason: BadRequest {
            param: None,
            code: None,
            message: "the request has a number that JSON cannot express".to_owned(),
        },
    })
}
