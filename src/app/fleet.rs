//! The models on this machine: loaded when they are wanted, unloaded when they are not.
//!
//! ```text
//! request ─► Resident ─ holds ─► Registry ─ says what is to be done ─► FleetDriver ─ loads, unloads
//!              └── waits until its model is loaded, then Backend of the engine itself
//! ```
//! [`Registry`] decides, knowing numbers only. The driver does as it says, one engine for each model,
//! and runs their drivers. A [`Resident`] stands for its model in a snapshot from the start, loaded or
//! not, and holds it for as long as a reply goes on.

mod registry;
mod view;

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use domain::{
    Backend, BackendCard, BackendError, ChatEvent, ChatRequest, ChatStream, Findings, Health,
    HealthState, Message, Outbound, ReadToken, Resume, Role, TextToRead, Tokenizer, Tokens, Trust,
    collect,
};
use engine::{DraftCount, LoadError, QUARANTINED};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use registry::{Act, Denied, Registry, State};
pub use registry::{Cause, Shortage, Terms, first_without_room, mebibytes};

use crate::local::{self, LocalDriver, LocalEngine, LocalModel, Located};

/// For the first token after a load. Then requests come to a model that is not warm.
const WARM_UP_MAX: Duration = Duration::from_secs(60);
/// Between two lines in the log about the same model's want of memory.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// News that nobody has heard yet. There are two of a model at most, of its card and of its failure.
const NEWS_PER_MODEL: usize = 2;
/// What a caller is told to wait for a model that does not fit beside those that stay.
const NO_ROOM_WAIT: Duration = Duration::from_secs(60);

const ON_DEMAND: &str = "not loaded; the next request loads it";
const NOT_LOADABLE: &str = "it could not be loaded; the log says why";
const NO_ROOM: &str =
    "it needs more memory than the models that stay leave; `hedge ps` has the numbers";
const STOPPED: BackendError = BackendError::Engine("it has stopped");

/// What the node is told.
#[derive(Debug)]
pub enum News {
    /// A model says other things of itself than was expected of it.
    Learned,
    /// A model for the start could not be loaded, for a reason of its own.
    Broken(LoadError),
}

/// All models. Shared by their backends, the driver, metrics and the operator's view.
pub struct Fleet {
    models: Vec<LocalModel>,
    load_wait: Duration,
    book: Mutex<Book>,
    /// Told when something may be to do, or somebody's wait may be over.
    changed: watch::Sender<()>,
    news: mpsc::Sender<News>,
}

struct Book {
    registry: Registry,
    berths: Vec<Berth>,
    is_stopping: bool,
}

/// What is known of one model beside what the registry knows.
struct Berth {
    engine: Option<LocalEngine>,
    card: BackendCard,
    /// Why it could not be loaded.
    failure: Option<Failure>,
    /// It was loaded before, or shall not be expected any more.
    has_settled: bool,
    counts: Counts,
    /// Of its engines before the one it has now.
    ends_before: u64,
    drafts_before: DraftCount,
    said_at: Option<Instant>,
}

struct Failure {
    words: String,
    is_final: bool,
}

/// What happened to one model since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub loads: u64,
    pub failures: u64,
    pub idle_unloads: u64,
    pub memory_unloads: u64,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("models", &self.models.len())
            .finish_non_exhaustive()
    }
}

/// Loads and unloads. To be run, and waited for at shutdown.
#[derive(Debug)]
pub struct FleetDriver {
    fleet: Arc<Fleet>,
}

type Loaded = Result<(LocalEngine, LocalDriver), LoadError>;

impl Fleet {
    /// Nothing is loaded before the driver runs.
    #[must_use]
    pub fn new(located: &Located) -> (Arc<Self>, FleetDriver, mpsc::Receiver<News>) {
        let models: Vec<LocalModel> = located.models().cloned().collect();
        let berths = located.cards().into_iter().map(|card| Berth {
            engine: None,
            card,
            failure: None,
            has_settled: false,
            counts: Counts::default(),
            ends_before: 0,
            drafts_before: DraftCount::default(),
            said_at: None,
        });
        let terms = models.iter().map(local::terms);
        let book = Book {
            registry: Registry::new(located.budget, terms, now()),
            berths: berths.collect(),
            is_stopping: false,
        };
        let (news, heard) = mpsc::channel((models.len() * NEWS_PER_MODEL).max(1));
        let fleet = Arc::new(Self {
            load_wait: located.load_wait,
            book: Mutex::new(book),
            changed: watch::Sender::new(()),
            news,
            models,
        });
        let driver = FleetDriver {
            fleet: Arc::clone(&fleet),
        };
        (fleet, driver, heard)
    }

    /// A backend for each model, with what is known of it now. The default one comes first.
    #[must_use]
    pub fn backends(self: &Arc<Self>) -> Vec<Arc<dyn Backend>> {
        let book = self.book();
        let berths = book.berths.iter().enumerate();
        let resident = |(at, berth): (usize, &Berth)| {
            Arc::new(Resident {
                fleet: Arc::clone(self),
                at,
                card: berth.card.clone(),
            }) as Arc<dyn Backend>
        };
        berths.map(resident).collect()
    }

    #[must_use]
    pub fn cards(&self) -> Vec<BackendCard> {
        let book = self.book();
        book.berths.iter().map(|berth| berth.card.clone()).collect()
    }

    /// Everything is unloaded, and the driver ends. What runs ends with an error.
    pub fn stop(&self) {
        self.book().is_stopping = true;
        self.changed.send_replace(());
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change under the lock is whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self, at: usize) -> Health {
        let book = self.book();
        let (registry, berth) = (&book.registry, &book.berths[at]);
        let wait = Some(registry.load_wait(at, now()));
        let with = |state, reason| Health {
            reason: Some(reason),
            ..Health::of(state, wait)
        };
        let down = |reason| Health {
            reason: Some(reason),
            ..Health::of(HealthState::Down, None)
        };
        match registry.state(at) {
            State::Loaded => {
                let engine = berth.engine.as_ref();
                engine.map_or(down(NOT_LOADABLE), |engine| engine.backend().health())
            }
            State::Failed { retry_at } => match (&berth.failure, retry_at) {
                (Some(failure), _) if failure.is_final => down(QUARANTINED),
                (_, Some(at)) if at <= now() => with(HealthState::Ready, ON_DEMAND),
                _ => down(NOT_LOADABLE),
            },
            _ if registry.terms(at).is_loaded_at_start && !berth.has_settled => {
                Health::of(HealthState::Starting, wait)
            }
            _ if registry.never_fits(at).is_some() => down(NO_ROOM),
            State::Unloaded | State::Loading { .. } | State::Unloading => {
                with(HealthState::Ready, ON_DEMAND)
            }
        }
    }

    /// The engine of a model, loaded if need be, and a hold on it.
    async fn engine(self: &Arc<Self>, at: usize) -> Result<(Arc<dyn Backend>, Hold), BackendError> {
        let mut changed = self.changed.subscribe();
        let hold = self.hold(at)?;
        let wait = async {
            loop {
                changed.borrow_and_update();
                if let Some(backend) = self.loaded(at)? {
                    return Ok::<_, BackendError>(backend);
                }
                changed.changed().await.map_err(|_| STOPPED)?;
            }
        };
        match tokio::time::timeout(self.load_wait, wait).await {
            Ok(loaded) => Ok((loaded?, hold)),
            Err(_) => {
                self.say_shortage(at);
                let retry_after = self.book().registry.load_wait(at, now());
                Err(BackendError::Overloaded { retry_after })
            }
        }
    }

    fn hold(self: &Arc<Self>, at: usize) -> Result<Hold, BackendError> {
        let mut book = self.book();
        if book.is_stopping {
            return Err(STOPPED);
        }
        let before = book.registry.state(at);
        let held = book.registry.hold(at, now());
        let is_final = book.berths[at]
            .failure
            .as_ref()
            .is_some_and(|it| it.is_final);
        drop(book);
        match held {
            Ok(()) => {
                if before != State::Loaded {
                    self.changed.send_replace(());
                }
                let fleet = Arc::clone(self);
                Ok(Hold { fleet, at })
            }
            Err(Denied::Failed) if is_final => Err(BackendError::Engine(QUARANTINED)),
            Err(Denied::Failed) => Err(BackendError::Engine(NOT_LOADABLE)),
            Err(Denied::TooLarge(shortage)) => {
                self.say(at, &shortage);
                Err(BackendError::Overloaded {
                    retry_after: NO_ROOM_WAIT,
                })
            }
        }
    }

    /// The engine, once it is loaded.
    fn loaded(&self, at: usize) -> Result<Option<Arc<dyn Backend>>, BackendError> {
        let book = self.book();
        if book.is_stopping {
            return Err(STOPPED);
        }
        let berth = &book.berths[at];
        match book.registry.state(at) {
            State::Loaded => Ok(berth.engine.as_ref().map(LocalEngine::backend)),
            State::Failed { .. } => Err(BackendError::Engine(match &berth.failure {
                Some(failure) if failure.is_final => QUARANTINED,
                _ => NOT_LOADABLE,
            })),
            State::Unloaded | State::Loading { .. } | State::Unloading => Ok(None),
        }
    }

    fn say_shortage(&self, at: usize) {
        let shortage = self.book().registry.does_not_fit(at);
        match shortage {
            Some(shortage) => self.say(at, &shortage),
            None => warn!(
                model = self.name(at),
                "loading takes longer than a request may wait"
            ),
        }
    }

    /// Requests may come by the thousand; their operator is told once a while.
    fn say(&self, at: usize, shortage: &Shortage) {
        let now = now();
        let mut book = self.book();
        let said_at = &mut book.berths[at].said_at;
        if said_at.is_some_and(|said| now < said + SAY_AGAIN_AFTER) {
            return;
        }
        *said_at = Some(now);
        drop(book);
        warn!(model = self.name(at), %shortage, "no memory for the model; requests for it are refused");
    }

    fn name(&self, at: usize) -> &str {
        &self.models[at].engine.name
    }

    /// Begins what is to be done now, and says when to look again.
    fn decide(
        &self,
        loads: &FuturesUnordered<BoxFuture<'static, (usize, Loaded)>>,
    ) -> Option<Instant> {
        let mut leaving = Vec::new();
        let mut book = self.book();
        for act in book.registry.decide(now()) {
            match act {
                Act::Load(at) => {
                    let load = load(self.models[at].clone());
                    loads.push(load.map(move |loaded| (at, loaded)).boxed());
                }
                Act::Unload(at, cause) => {
                    let berth = &mut book.berths[at];
                    match cause {
                        Cause::Idle => berth.counts.idle_unloads += 1,
                        Cause::Memory => berth.counts.memory_unloads += 1,
                    }
                    if let Some(engine) = berth.engine.take() {
                        berth.ends_before += ends(&engine);
                        berth.drafts_before = berth.drafts_before.and(engine.drafts());
                        leaving.push((at, cause, engine));
                    }
                }
            }
        }
        let wake_at = book.registry.wake_at();
        drop(book);
        for (at, cause, engine) in leaving {
            info!(model = self.name(at), ?cause, "local model is unloaded");
            engine.stop();
        }
        wake_at
    }

    /// A load is over. The driver of what was loaded is to be run.
    fn take(&self, at: usize, loaded: Loaded) -> Option<LocalDriver> {
        let (engine, driver) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.failed(at, error);
                return None;
            }
        };
        let mut book = self.book();
        let berth = &mut book.berths[at];
        let models = engine.backend().card().models.clone();
        let has_learned = berth.card.models != models;
        berth.card.models = models;
        berth.engine = Some(engine);
        berth.failure = None;
        berth.counts.loads += 1;
        let is_first = !std::mem::replace(&mut berth.has_settled, true);
        book.registry.loaded(at, now());
        drop(book);
        self.changed.send_replace(());
        info!(model = self.name(at), "local model is ready");
        if has_learned || is_first {
            self.tell(News::Learned);
        }
        Some(driver)
    }

    fn failed(&self, at: usize, error: LoadError) {
        let is_final = matches!(error, LoadError::Quarantined { .. });
        let words = domain::chain(&error);
        error!(
            model = self.name(at),
            error = words,
            "there is no local model"
        );
        let mut book = self.book();
        let berth = &mut book.berths[at];
        let is_first = !std::mem::replace(&mut berth.has_settled, true);
        berth.counts.failures += 1;
        berth.failure = Some(Failure { words, is_final });
        let is_for_start = book.registry.terms(at).is_loaded_at_start;
        book.registry.failed(at, now(), !is_final);
        drop(book);
        self.changed.send_replace(());
        // A model that brings its process down is not to bring down the node.
        if is_first && is_for_start && !is_final {
            self.tell(News::Broken(error));
        }
    }

    fn tell(&self, news: News) {
        // Full or unheard only where the node is about to end.
        let _ = self.news.try_send(news);
    }

    /// An engine's driver ended: true when it was told to.
    fn ended(&self, at: usize) -> bool {
        let mut book = self.book();
        if book.registry.state(at) != State::Unloading {
            return false;
        }
        book.registry.unloaded(at);
        drop(book);
        self.changed.send_replace(());
        true
    }

    fn is_stopping(&self) -> bool {
        self.book().is_stopping
    }
}

impl FleetDriver {
    /// Ends after [`Fleet::stop`], within a few seconds, and early where an engine ends by itself.
    pub async fn run(self) {
        let fleet = self.fleet;
        let mut changed = fleet.changed.subscribe();
        let mut loads = FuturesUnordered::new();
        let mut drivers = FuturesUnordered::new();
        while !fleet.is_stopping() {
            changed.borrow_and_update();
            let wake_at = fleet.decide(&loads);
            tokio::select! {
                _ = changed.changed() => {}
                () = until(wake_at) => {}
                Some((at, loaded)) = loads.next(), if !loads.is_empty() => {
                    if let Some(driver) = fleet.take(at, loaded) {
                        drivers.push(driver.map(move |()| at));
                    }
                }
                Some(at) = drivers.next(), if !drivers.is_empty() => {
                    if !fleet.ended(at) && !fleet.is_stopping() {
                        error!(model = fleet.name(at), "the model's engine ended by itself");
                        return;
                    }
                }
            }
        }
        // Dropped, a load ends its process.
        drop(loads);
        let engines: Vec<LocalEngine> = {
            let mut book = fleet.book();
            book.berths
                .iter_mut()
                .filter_map(|berth| berth.engine.take())
                .collect()
        };
        engines.iter().for_each(LocalEngine::stop);
        drop(engines);
        while drivers.next().await.is_some() {}
    }
}

/// As the registry counts time, and as tests let it pass.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn ends(engine: &LocalEngine) -> u64 {
    let ends = engine.ends();
    ends.map_or(0, |ends| ends.load(Ordering::Relaxed))
}

async fn load(model: LocalModel) -> Loaded {
    let (warms_up, name) = (model.stay.warms_up, model.engine.name.clone());
    let (engine, mut driver) = LocalEngine::load(model).await?;
    if !warms_up {
        return Ok((engine, driver));
    }
    let warmed = {
        let backend = engine.backend();
        let warming = tokio::time::timeout(WARM_UP_MAX, warm_up(backend.as_ref(), &name));
        tokio::select! {
            warmed = warming => warmed,
            () = &mut driver => return Err(LoadError::Panicked),
        }
    };
    match warmed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(model = name, error = error.as_label(), "warming up failed"),
        Err(_) => warn!(model = name, "warming up took too long"),
    }
    Ok((engine, driver))
}

/// One token of an answer to the shortest of questions.
async fn warm_up(backend: &dyn Backend, model: &str) -> Result<(), BackendError> {
    let request = ChatRequest {
        output_tokens_max: Some(Tokens(1)),
        ..ChatRequest::new(model, vec![Message::new(Role::User, "Hi")])
    };
    let call = Outbound::seal(
        "warm-up".into(),
        model.to_owned(),
        request,
        &Findings::default(),
        Trust::Device,
    );
    collect(backend.chat(call).await?).await.map(|_| ())
}

/// A model's place in a snapshot.
#[derive(Debug)]
struct Resident {
    fleet: Arc<Fleet>,
    at: usize,
    card: BackendCard,
}

#[async_trait]
impl Backend for Resident {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.fleet.health(self.at)
    }

    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let (engine, hold) = self.fleet.engine(self.at).await?;
        let stream = engine.chat(call).await?;
        Ok(Held {
            stream,
            _hold: hold,
        }
        .boxed())
    }

    fn tokenizer(&self, _model: &str) -> Option<&dyn Tokenizer> {
        Some(self)
    }

    /// An engine continues a last message by the assistant.
    fn resume(&self, _model: &str) -> Resume {
        Resume::Exact
    }
}

/// Loads the model first, as a chat does.
#[async_trait]
impl Tokenizer for Resident {
    async fn tokenize(&self, text: TextToRead) -> Result<Vec<ReadToken>, BackendError> {
        let (engine, _hold) = self.fleet.engine(self.at).await?;
        reader(engine.as_ref())?.tokenize(text).await
    }

    async fn tokenize_chat(&self, request: ChatRequest) -> Result<Vec<ReadToken>, BackendError> {
        let (engine, _hold) = self.fleet.engine(self.at).await?;
        reader(engine.as_ref())?.tokenize_chat(request).await
    }

    async fn detokenize(&self, tokens: Vec<u32>) -> Result<Vec<u8>, BackendError> {
        let (engine, _hold) = self.fleet.engine(self.at).await?;
        reader(engine.as_ref())?.detokenize(tokens).await
    }

    async fn render(&self, request: ChatRequest) -> Result<String, BackendError> {
        let (engine, _hold) = self.fleet.engine(self.at).await?;
        reader(engine.as_ref())?.render(request).await
    }
}

fn reader(engine: &dyn Backend) -> Result<&dyn Tokenizer, BackendError> {
    engine
        .tokenizer("")
        .ok_or(BackendError::Engine("it does not say how it reads text"))
}

/// Keeps a model loaded.
struct Hold {
    fleet: Arc<Fleet>,
    at: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.fleet.book().registry.release(self.at, now()) {
            self.fleet.changed.send_replace(());
        }
    }
}

/// A reply, which holds its model.
struct Held {
    stream: ChatStream,
    _hold: Hold,
}

impl Stream for Held {
    type Item = Result<ChatEvent, BackendError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}
