//! The handle everyone else holds, and the thread behind it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use async_trait::async_trait;
use domain::{
    Abilities, Ability, Backend, BackendCard, BackendError, BackendName, ChatRequest, ChatStream,
    ChatTemplate, Health, HealthState, ModelCard, Outbound, OutputFormat, Resume, Tokenizer,
    Tokens, ToolChoice, Trust,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{error, info};

use crate::adapters::{Adapters, Chosen};
use crate::calls::{Manner, Offered};
use crate::chorus::Chorus;
use crate::config::{ContextShift, EngineConfig, Speculation};
use crate::decoder::{Decoder, Token, Vocabulary};
use crate::draft::Drafting;
use crate::gallery::Seen;
use crate::grammar::{Grammar, Grammars};
use crate::load::LoadError;
use crate::offload::Placement;
use crate::pictures::image_files;
use crate::prefixes::PrefixRules;
use crate::priority;
use crate::prompt::{Prepared, prepare};
use crate::queue::{DraftCount, Pulse, Request, Shared, Stride, Vitals};
use crate::reading::{READING_MAX, READING_WAITS_MAX};
use crate::reply::reply;
use crate::sampler::Sampler;
use crate::scheduler::{BusyPrompt, Pace, Rules, Scheduler};
use crate::sight::Sight;
use crate::turns::Turns;
use crate::voice::VoiceRules;

/// Prompts rendered and tokenized, and formats read, at once. Further ones wait, so that a burst of
/// long texts cannot take every core from the engine's thread.
const PREPARING_MAX: usize = 2;

/// Of them long ones: a burst of these leaves room for short ones, which may be another team's.
const PREPARING_LONG_MAX: usize = 1;

/// Texts of a request beyond which it counts as long: some ten milliseconds of tokenizing.
const SHORT_BYTES_MAX: usize = 64 * 1024;

/// Requests whose images are looked at, at once: one projector looks at one image at a time.
const VIEWING_MAX: usize = 1;

/// The most choices of one request; each takes a place in the queue and a slot. With more, the
/// request goes to the next candidate or is refused.
const CHOICES_MAX: usize = 8;

/// A model on this machine. Cheap to share; dropping the last one stops the thread.
pub struct Engine {
    card: BackendCard,
    shared: Arc<Shared>,
    mind: Arc<Mind>,
    /// `None` for a vocabulary that takes no formats.
    grammars: Option<Arc<Grammars>>,
    preparing: Arc<Semaphore>,
    preparing_long: Arc<Semaphore>,
    reading: Turns,
    viewing: Turns,
    /// All tokens that end a reply.
    ends: Arc<[Token]>,
    config: EngineConfig,
    placement: Placement,
    call_stem: String,
    adapters: Adapters,
}

/// A request, ready to be submitted.
struct Ready {
    prepared: Prepared,
    images: Vec<Arc<Seen>>,
    grammar: Option<Grammar>,
    /// One for each choice.
    samplers: Vec<Sampler>,
}

/// What of a model is read by all threads.
pub(crate) struct Mind {
    pub vocabulary: Arc<dyn Vocabulary>,
    pub template: Arc<dyn ChatTemplate>,
    pub context_tokens: u32,
    /// How the model writes thoughts and calls.
    pub manner: Manner,
    /// `None` for a model without a projector.
    pub sight: Option<Sight>,
}

/// The engine's thread, to be waited for at shutdown.
#[derive(Debug)]
pub struct EngineDriver {
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

/// The engine's thread panicked. Its chats were cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's thread panicked")]
pub struct EnginePanicked;

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("card", &self.card)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts a thread on which `build` makes the decoder. Waits until it has.
    pub(crate) fn start<D: Decoder + 'static>(
        config: EngineConfig,
        mind: Mind,
        build: impl FnOnce(Arc<Shared>) -> Result<D, LoadError> + Send + 'static,
    ) -> Result<(Engine, EngineDriver), LoadError> {
        let shared = Arc::new(Shared::new(config.queue_max, config.slots_max));
        let rules = Rules {
            busy_prompt: BusyPrompt::Within(config.busy_prompt_delay_max),
            stall_max: config.stall_max,
            prefixes: PrefixRules::of(&config),
            drafting: match config.speculation {
                Speculation::Lookup => Drafting::Measured,
                Speculation::Off => Drafting::Off,
            },
        };
        let comes_first = config.is_apart && config.threads_adapt;
        let (built, is_built) = std::sync::mpsc::sync_channel(1);
        let (ending, ended) = oneshot::channel();
        let (theirs, vocabulary) = (Arc::clone(&shared), Arc::clone(&mind.vocabulary));
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                // Closed last of all, also when this thread panics.
                let _closing = Closing(Arc::clone(&theirs), Some(ending));
                if comes_first {
                    priority::raise();
                }
                let decoder = match build(Arc::clone(&theirs)) {
                    Ok(decoder) => decoder,
                    Err(error) => return drop(built.send(Err(error))),
                };
                theirs.bell.hang(thread::current());
                theirs.pulse.set_state(HealthState::Ready);
                let shared = Arc::clone(&theirs);
                let scheduler = Scheduler::new(decoder, vocabulary, theirs, rules);
                if built.send(Ok(())).is_ok() {
                    run(scheduler, &shared.pulse);
                }
            })
            .map_err(LoadError::Thread)?;
        is_built.recv().map_err(|_| LoadError::Panicked)??;
        let ends = ends(mind.vocabulary.as_ref());
        let forced = mind.manner.family.forced.as_ref();
        let grammars = Grammars::new(mind.vocabulary.as_ref());
        let grammars = grammars.map(|grammars| Arc::new(grammars.with_forced(forced)));
        let engine = Engine {
            card: card(&config, &mind, grammars.is_some()),
            shared,
            mind: Arc::new(mind),
            grammars,
            preparing: Arc::new(Semaphore::new(PREPARING_MAX)),
            preparing_long: Arc::new(Semaphore::new(PREPARING_LONG_MAX)),
            reading: Turns::new(READING_MAX, READING_WAITS_MAX),
            viewing: Turns::new(VIEWING_MAX, config.queue_max),
            ends,
            adapters: Adapters::new(&config.name, &config.adapters),
            config,
            placement: Placement::default(),
            call_stem: format!("{:08x}", rand::random::<u32>()),
        };
        Ok((engine, EngineDriver { thread, ended }))
    }

    /// Stops the thread. What runs and what waits ends with an error, at once.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Tokens drafted since the start, and how many were right.
    #[must_use]
    pub fn drafts(&self) -> DraftCount {
        self.shared.pulse.drafts()
    }

    /// What it is busy with now.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.shared.vitals()
    }

    /// Where its layers lie.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    #[cfg(feature = "llama")]
    pub(crate) fn set_placement(&mut self, placement: Placement) {
        self.placement = placement;
    }

    pub(crate) fn stride(&self) -> Stride {
        self.shared.stride()
    }

    pub(crate) fn mind(&self) -> &Arc<Mind> {
        &self.mind
    }

    pub(crate) fn reading(&self) -> &Turns {
        &self.reading
    }

    /// Looks at the request's images. That takes up to seconds each, so it stops between two of them
    /// when the caller has left.
    async fn view(&self, call: &Outbound) -> Result<Vec<Arc<Seen>>, BackendError> {
        if !call.request().has_images() {
            return Ok(Vec::new());
        }
        let turn = self.viewing.take().await?;
        let mind = Arc::clone(&self.mind);
        let request = call.request().clone();
        let leaving = Leaving::default();
        let has_left = Arc::clone(&leaving.0);
        let work = tokio::task::spawn_blocking(move || {
            // Held to the end, whichever way it comes.
            let _turn = turn;
            let Some(sight) = &mind.sight else {
                return Err(BackendError::Unable(Ability::Images));
            };
            let files = image_files(&request)?;
            sight.see(&files, mind.context_tokens, &|| {
                has_left.load(Ordering::Relaxed)
            })
        });
        work.await
            .map_err(|_| BackendError::Engine("looking at the images failed"))?
    }

    async fn prepare(
        &self,
        call: &Outbound,
        images: Vec<Arc<Seen>>,
    ) -> Result<Ready, BackendError> {
        // In this order, so that no long one waits with a permit that a short one could have.
        let long_permit = match is_long(call.request()) {
            true => Some(turn(&self.preparing_long).await?),
            false => None,
        };
        let permit = turn(&self.preparing).await?;
        let mind = Arc::clone(&self.mind);
        let grammars = self.grammars.clone();
        let output_default = self.config.output_tokens_default;
        let temperature_default = self.config.temperature_default;
        let ends = Arc::clone(&self.ends);
        let (request, team) = (call.request().clone(), call.team().cloned());
        let work = tokio::task::spawn_blocking(move || {
            // Held to the end, whichever way it comes.
            let _permits = (permit, long_permit);
            let grammar = match &grammars {
                Some(grammars) => grammars.grammar(team.as_ref(), &request)?,
                None => None,
            };
            let choices = i64::from(request.choices.max(1));
            let mut sampling = request.sampling.clone();
            let prepared = prepare(
                request,
                &images,
                mind.template.as_ref(),
                mind.vocabulary.as_ref(),
                mind.manner,
                mind.context_tokens,
                output_default,
            )?;
            // -1 asks for a random one, as of llama-server and vLLM.
            let seed = sampling.seed.filter(|seed| *seed != -1);
            let seed = seed.unwrap_or_else(rand::random);
            let samplers = (0..choices).map(|choice| {
                sampling.seed = Some(seed.wrapping_add(choice));
                Sampler::new(&sampling, temperature_default, 0).at_prompt(
                    &sampling,
                    &mind.vocabulary,
                    &ends,
                    &prepared.tokens,
                )
            });
            Ok(Ready {
                samplers: samplers.collect(),
                prepared,
                images,
                grammar,
            })
        });
        work.await
            .map_err(|_| BackendError::Engine("preparing the prompt failed"))?
    }

    /// Each choice is a request of its own with the same prompt, which the first computes and the
    /// others share.
    fn submit(
        &self,
        call: &Outbound,
        chosen: &Chosen,
        ready: Ready,
    ) -> Result<ChatStream, BackendError> {
        let request = call.request();
        let Ready {
            prepared,
            images,
            grammar,
            samplers,
        } = ready;
        let reads_calls = !request.tools.is_empty() && request.tool_choice != ToolChoice::None;
        let offered = reads_calls.then(|| Offered::of(&request.tools));
        let prompts = std::iter::repeat_n(prepared.tokens, samplers.len());
        let prediction = prepared.prediction;
        // An image that is cut apart is none.
        let shift = match images.is_empty() {
            true => self.config.context_shift,
            false => ContextShift::Refuse,
        };
        let output_max = shift.output_max(
            prepared.output_wanted,
            prepared.output_max,
            self.mind.context_tokens,
        );
        let (mut requests, mut streams) = (Vec::new(), Vec::new());
        for (sampler, prompt) in samplers.into_iter().zip(prompts) {
            let (sender, stream) = reply(
                self.config.events_max,
                Arc::clone(&self.shared.bell),
                Arc::clone(&self.shared.interrupt),
            );
            streams.push(stream);
            requests.push(Request {
                team: call.team().cloned(),
                priority: call.priority(),
                model: Arc::clone(&chosen.model),
                adapters: chosen.adapters.clone(),
                prompt,
                images: images.clone(),
                prediction: prediction.clone(),
                output_max,
                sampler,
                grammar: grammar.as_ref().map(Grammar::again),
                rules: VoiceRules {
                    stops: request.sampling.stop.clone(),
                    manner: self.mind.manner,
                    beginning: prepared.beginning,
                    offered: offered.clone(),
                    ends_at_call: request.parallel_tool_calls == Some(false),
                    logprobs: request.sampling.logprobs,
                    call_stem: format!("{}{:06x}", self.call_stem, rand::random::<u32>() >> 8),
                },
                reply: sender,
            });
        }
        self.shared.submit(requests)?;
        Ok(Chorus::of(streams))
    }

    /// Another candidate may give more.
    fn check_choices(&self, asked: u32) -> Result<usize, BackendError> {
        let most = CHOICES_MAX.min(self.config.queue_max);
        let asked = usize::try_from(asked).unwrap_or(usize::MAX);
        if asked > most {
            return Err(BackendError::declined(
                "n",
                format!("this model gives at most {most} choices at once; ask for fewer"),
            ));
        }
        Ok(asked)
    }
}

#[async_trait]
impl Backend for Engine {
    fn card(&self) -> &BackendCard {
        &self.card
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    /// Must be called within a Tokio runtime: prompts are prepared on its blocking pool.
    async fn chat(&self, call: Outbound) -> Result<ChatStream, BackendError> {
        let able = self.card.models[0].abilities;
        if let Some(ability) = needs(call.request()).first_missing_from(able) {
            return Err(BackendError::Unable(ability));
        }
        check_together(call.request())?;
        let chosen = self.adapters.choose(call.model(), call.request())?;
        let choices = self.check_choices(call.request().choices)?;
        // Before the work of preparing, and again after it.
        self.shared.check_room(call.team(), choices)?;
        let images = self.view(&call).await?;
        let ready = self.prepare(&call, images).await?;
        self.submit(&call, &chosen, ready)
    }

    fn tokenizer(&self, _model: &str) -> Option<&dyn Tokenizer> {
        Some(self)
    }

    /// By `prefill.rs`.
    fn resume(&self, _model: &str) -> Resume {
        Resume::Exact
    }
}

/// Tells work on the blocking pool that nobody waits for it any more.
#[derive(Default)]
struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl EngineDriver {
    /// Waits until the thread has ended, which [`Engine::stop`] brings about.
    ///
    /// # Errors
    /// It panicked.
    pub async fn run(self) -> Result<(), EnginePanicked> {
        // Sent or dropped, the thread is on its last lines.
        let _ = self.ended.await;
        self.thread.join().map_err(|_| EnginePanicked)
    }

    /// As [`EngineDriver::run`], for a caller that may block.
    ///
    /// # Errors
    /// It panicked.
    pub fn join(self) -> Result<(), EnginePanicked> {
        self.thread.join().map_err(|_| EnginePanicked)
    }
}

/// The thread's loop around [`Scheduler::step`].
fn run<D: Decoder>(mut scheduler: Scheduler<D>, pulse: &Pulse) {
    loop {
        pulse.step();
        match scheduler.step(Instant::now()) {
            Pace::Busy => {}
            Pace::Idle(None) => pulse.rest(thread::park),
            Pace::Idle(Some(until)) => pulse.rest(|| {
                thread::park_timeout(until.saturating_duration_since(Instant::now()));
            }),
            Pace::Stopped => return info!("engine stopped"),
        }
    }
}

/// Leaves nobody waiting, however the thread ends.
struct Closing(Arc<Shared>, Option<oneshot::Sender<()>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if thread::panicking() {
            error!("engine thread panicked");
        }
        self.0.pulse.set_state(HealthState::Down);
        self.0.close();
        if let Some(ending) = self.1.take() {
            let _ = ending.send(());
        }
    }
}

async fn turn(line: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, BackendError> {
    let permit = Arc::clone(line).acquire_owned().await;
    permit.map_err(|_| BackendError::Engine("it has stopped"))
}

fn is_long(request: &ChatRequest) -> bool {
    let mut bytes = 0;
    request.texts(&mut |text| bytes += text.len());
    bytes > SHORT_BYTES_MAX
}

fn card(config: &EngineConfig, mind: &Mind, has_grammars: bool) -> BackendCard {
    let mut abilities: Abilities = [Ability::LogitBias, Ability::Logprobs, Ability::Choices]
        .into_iter()
        .collect();
    if has_grammars {
        abilities = abilities
            .with(Ability::JsonObject)
            .with(Ability::JsonSchema)
            .with(Ability::Constraints);
    }
    if mind.sight.is_some() {
        abilities = abilities.with(Ability::Images);
    }
    if mind.template.renders_tools() {
        abilities = abilities.with(Ability::Tools);
        if has_grammars && mind.manner.family.forced.is_some() {
            abilities = abilities.with(Ability::ForcedTools);
        }
    }
    BackendCard {
        name: BackendName::new("local"),
        tier: domain::Tier::Engine,
        is_sealed: false,
        trust: Trust::Device,
        models: config
            .model_names()
            .map(|name| ModelCard {
                name: name.to_owned(),
                context_tokens_max: Some(Tokens(mind.context_tokens)),
                abilities,
            })
            .collect(),
    }
}

fn ends(vocabulary: &dyn Vocabulary) -> Arc<[Token]> {
    let tokens = (0..vocabulary.size()).filter_map(|token| Token::try_from(token).ok());
    tokens.filter(|token| vocabulary.is_end(*token)).collect()
}

/// A reply is either held to a format or free to call tools. Another candidate may do both.
fn check_together(request: &ChatRequest) -> Result<(), BackendError> {
    let offers_tools = !request.tools.is_empty() && request.tool_choice != ToolChoice::None;
    if offers_tools && request.format != OutputFormat::Text {
        return Err(BackendError::declined(
            "response_format",
            "this model cannot have tools and a `response_format` at once; leave one out or set \
                 `tool_choice` to `none`",
        ));
    }
    Ok(())
}

/// What `request` asks of a model beyond plain text.
pub(crate) fn needs(request: &ChatRequest) -> Abilities {
    let is_offered = !request.tools.is_empty() && request.tool_choice != ToolChoice::None;
    let is_forced = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    );
    let needs = [
        (is_offered, Ability::Tools),
        (is_forced, Ability::ForcedTools),
        (request.has_images(), Ability::Images),
        (
            request.format == OutputFormat::JsonObject,
            Ability::JsonObject,
        ),
        (
            matches!(request.format, OutputFormat::JsonSchema(_)),
            Ability::JsonSchema,
        ),
        (request.sampling.logprobs.is_some(), Ability::Logprobs),
        (request.choices > 1, Ability::Choices),
        (!request.sampling.logit_bias.is_empty(), Ability::LogitBias),
        (request.has_other_parts(), Ability::OtherParts),
        (request.bound_by.is_some(), Ability::ProvidersOwn),
        (request.format.is_constraint(), Ability::Constraints),
    ];
    needs
        .into_iter()
        .filter_map(|(is_needed, ability)| is_needed.then_some(ability))
        .collect()
}

#[cfg(test)]
mod tests;
