//! Going on with a reply that broke off after content was sent.
//!
//! ```text
//! backend ─► … text ─► error ─► who may go on? ─► the request, and what was said ─► another backend
//!                                                                                     │
//! caller  ◄─ … text ◄──────────────────────────────── seam ◄─ its rest ◄──────────────┘
//! ```
//! What was said is what the caller was sent: values put back, and without what was held back as the
//! possible beginning of a placeholder. It is masked anew for whoever goes on, as every request is. Only
//! text is gone on with: a tool call once begun, several choices, log probabilities and formats are not,
//! for nobody could go on with those exactly.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::{
    BackendCard, BackendError, BackendName, ChatEvent, ChatRequest, ChatStream, Message,
    OutputFormat, Resume, Role, RouteTaken, Tokens, ToolChoice, Trust,
};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use policy::{Candidate, Plan, Rescue, count_tokens, rescuers};
use tracing::{debug, info};

use crate::answer::RouteLabel;
use crate::seam::{Seam, shown};
use crate::walk::{Begun, Walk, label_of, route_taken};

/// How far a reply is gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RescueRules {
    /// Candidates asked to go on with one reply. With so many asked, it ends with an error.
    pub attempts_max: u32,
    /// A reply that has said more than this is not gone on with.
    pub text_bytes_max: usize,
}

impl Default for RescueRules {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            text_bytes_max: 256 * 1024,
        }
    }
}

/// Text up to this is looked through and counted on the network's threads, within half a millisecond.
const STUDY_INLINE_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a thought that count as one token.
const THOUGHT_TOKEN_BYTES: usize = 4;

/// Who went on with a reply, as its caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescued {
    pub by: RouteLabel,
    /// What broke it off, by [`BackendError::as_label`].
    pub cause: &'static str,
}

impl fmt::Display for Rescued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; after={}", self.by, self.cause)
    }
}

/// The rescues of one reply, told before the first event that follows them.
#[derive(Clone, Debug, Default)]
pub struct Rescues(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    has_news: AtomicBool,
    news: Mutex<Vec<Rescued>>,
}

impl Rescues {
    /// Those that nobody took yet. Cheap while there are none.
    #[must_use]
    pub fn take(&self) -> Vec<Rescued> {
        if !self.0.has_news.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let news = self.0.news.lock();
        std::mem::take(&mut *news.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn tell(&self, rescued: Rescued) {
        let news = self.0.news.lock();
        news.unwrap_or_else(PoisonError::into_inner).push(rescued);
        self.0.has_news.store(true, Ordering::Release);
    }
}

/// Why a reply that broke off is not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// More than one choice was asked for.
    Choices,
    Logprobs,
    /// The reply keeps to a format.
    Format,
    /// The reply has to be a call.
    ForcedCall,
    /// The reply itself goes on with a message of the caller's.
    Begun,
    /// It has begun to call a tool.
    ToolCall,
    /// It has said more than is kept.
    TooLong,
    /// The error is the request's, or says that it should not be answered.
    Cause,
    /// As many as may were asked.
    Spent,
    /// Nobody can go on, or may see what was said.
    Nobody,
    /// All that were asked failed.
    Failed,
}

impl Lost {
    pub fn as_label(self) -> &'static str {
        match self {
            Lost::Choices => "choices",
            Lost::Logprobs => "logprobs",
            Lost::Format => "format",
            Lost::ForcedCall => "forced_call",
            Lost::Begun => "begun",
            Lost::ToolCall => "tool_call",
            Lost::TooLong => "too_long",
            Lost::Cause => "cause",
            Lost::Spent => "spent",
            Lost::Nobody => "nobody",
            Lost::Failed => "failed",
        }
    }
}

/// What there is to go on with one reply.
pub(crate) enum Lifeline {
    Ready(Box<Rescuer>),
    /// Its request rules it out.
    Cut(Lost),
}

/// A copy of the request, where the plan's route has replies rescued and this one can be.
pub(crate) fn kept(plan: &Plan, request: &ChatRequest) -> Option<Result<Box<ChatRequest>, Lost>> {
    match plan.trouble.rescue {
        Rescue::Off => None,
        Rescue::SameModel | Rescue::Any => Some(match unfit(request) {
            None => Ok(Box::new(request.clone())),
            Some(lost) => Err(lost),
        }),
    }
}

fn unfit(request: &ChatRequest) -> Option<Lost> {
    let last = request.messages.last();
    if request.choices > 1 {
        Some(Lost::Choices)
    } else if request.sampling.logprobs.is_some() {
        Some(Lost::Logprobs)
    } else if request.format != OutputFormat::Text {
        Some(Lost::Format)
    } else if matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    ) {
        Some(Lost::ForcedCall)
    } else if last.is_some_and(|message| message.role == Role::Assistant) {
        Some(Lost::Begun)
    } else {
        None
    }
}

/// Goes on with one reply, as often as it may.
pub(crate) struct Rescuer {
    walk: Walk,
    request: ChatRequest,
    rules: RescueRules,
    attempts_left: u32,
    /// Who speaks now.
    speaker: Candidate,
    /// The most trusted of those who had a part in what was said.
    trust_most: Trust,
    said: Said,
    rescues: Rescues,
}

/// What the caller was sent.
#[derive(Default)]
struct Said {
    text: String,
    thought_bytes: usize,
    has_call: bool,
    has_ended: bool,
    is_too_long: bool,
}

/// Another backend, which goes on.
pub(crate) struct Resumed {
    /// As the caller reads it: what was said before is not in it, nor `Started`.
    pub events: ChatStream,
    pub route: RouteTaken,
}

/// How a try to go on ended.
pub(crate) struct Tried {
    pub rescuer: Box<Rescuer>,
    pub failed: Vec<(BackendName, &'static str)>,
    pub outcome: Result<Resumed, Lost>,
}

/// What to do about an error.
pub(crate) enum Verdict {
    /// Nothing of the reply is missing.
    Whole,
    GoOn,
    Lost(Lost),
}

impl Rescuer {
    pub fn new(walk: Walk, speaker: Candidate, request: ChatRequest, rules: RescueRules) -> Self {
        let trust_most = walk.card_of(&speaker).trust;
        Self {
            walk,
            request,
            attempts_left: rules.attempts_max,
            rules,
            speaker,
            trust_most,
            said: Said::default(),
            rescues: Rescues::default(),
        }
    }

    pub fn rescues(&self) -> Rescues {
        self.rescues.clone()
    }

    /// Takes note of what the caller is sent.
    pub fn watch(&mut self, event: &ChatEvent) {
        let said = &mut self.said;
        match event {
            ChatEvent::Text { text, .. } => {
                if said.text.len() + text.len() > self.rules.text_bytes_max {
                    said.is_too_long = true;
                    said.text = String::new();
                } else if !said.is_too_long {
                    said.text.push_str(text);
                }
            }
            ChatEvent::Thought { text, .. } => said.thought_bytes += text.len(),
            ChatEvent::ToolCall { .. } => said.has_call = true,
            // Who was stopped has nothing more to say.
            ChatEvent::ChoiceEnded { .. } => said.has_ended = true,
            ChatEvent::Started(_)
            | ChatEvent::Written(_)
            | ChatEvent::Seal { .. }
            | ChatEvent::Logprobs { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::Usage(_) => {}
        }
    }

    pub fn judge(&self, error: &BackendError) -> Verdict {
        if self.said.has_ended {
            Verdict::Whole
        } else if self.said.has_call {
            Verdict::Lost(Lost::ToolCall)
        } else if self.said.is_too_long {
            Verdict::Lost(Lost::TooLong)
        } else if !is_accident(error) {
            Verdict::Lost(Lost::Cause)
        } else if self.attempts_left == 0 {
            Verdict::Lost(Lost::Spent)
        } else {
            Verdict::GoOn
        }
    }

    /// Asks those who may go on, one after the other.
    pub fn go_on(mut self: Box<Self>, error: &BackendError) -> BoxFuture<'static, Tried> {
        let cause = error.as_label();
        async move {
            let mut failed = Vec::new();
            let outcome = self.find(cause, &mut failed).await;
            Tried {
                rescuer: self,
                failed,
                outcome,
            }
        }
        .boxed()
    }

    async fn find(
        &mut self,
        cause: &'static str,
        failed: &mut Vec<(BackendName, &'static str)>,
    ) -> Result<Resumed, Lost> {
        let study = self.study().await.ok_or(Lost::Nobody)?;
        let order = self.order(study.trust_least);
        let mut lost = Lost::Nobody;
        for (at, (candidate, resume)) in order.iter().enumerate() {
            if self.attempts_left == 0 {
                return Err(Lost::Spent);
            }
            self.attempts_left -= 1;
            let is_last = at + 1 == order.len();
            let request = Box::new(self.resumed(*resume, study.tokens));
            let asked = self
                .walk
                .resume_one(candidate.clone(), request, *resume, is_last);
            match asked.await {
                Ok(Ok(begun)) => return Ok(self.resume(begun, *resume, cause)),
                Ok(Err(error)) => {
                    let name = &self.walk.card_of(candidate).name;
                    debug!(backend = %name, error = error.error.as_label(), "did not go on");
                    failed.push((name.clone(), error.error.as_label()));
                    lost = Lost::Failed;
                }
                Err(_) => return Err(Lost::Failed),
            }
        }
        Err(lost)
    }

    /// Who is asked, and how each goes on: those last who may repeat themselves.
    fn order(&self, trust_least: Option<Trust>) -> Vec<(Candidate, Resume)> {
        let is_anew = shown(&self.said.text).is_empty();
        let found = rescuers(self.walk.plan(), &self.speaker, &self.walk.roster());
        let able = found.into_iter().filter_map(|candidate| {
            let resume = match self.walk.resume_of(&candidate) {
                // Nothing has to be gone on with, so it is asked as any other.
                _ if is_anew => Resume::Told,
                Resume::Never => return None,
                // Another hand than the model's own.
                Resume::Told if self.walk.plan().trouble.rescue != Rescue::Any => return None,
                resume => resume,
            };
            let card = self.walk.card_of(&candidate);
            self.may_see(card, trust_least)
                .then_some((candidate, resume))
        });
        let mut order: Vec<(Candidate, Resume)> = able.collect();
        order.sort_by_key(|(_, resume)| *resume == Resume::Told);
        order
    }

    /// Whether `card`'s backend may see what was said. Whoever said it may have read values that are
    /// hidden from others, and what it made of them is not looked for.
    fn may_see(&self, card: &BackendCard, trust_least: Option<Trust>) -> bool {
        let mut hidden = self.walk.findings().iter();
        let knows = !hidden.any(|it| card.trust < it.trust_min && self.trust_most >= it.trust_min);
        knows && trust_least.is_none_or(|least| card.trust >= least)
    }

    /// What was said, looked through: for how trusted a reader it is, and how many tokens. `None` where
    /// it is for nobody.
    async fn study(&self) -> Option<Study> {
        let text = self.said.text.clone();
        let snapshot = Arc::clone(self.walk.snapshot());
        let findings = Arc::clone(self.walk.findings());
        let thoughts = self.said.thought_bytes / THOUGHT_TOKEN_BYTES;
        let is_short = text.len() <= STUDY_INLINE_BYTES_MAX;
        let study = move || {
            let tokens = count_tokens(&text) + thoughts;
            let request = ChatRequest::new("", vec![Message::new(Role::Assistant, text)]);
            let found = snapshot.scan().scan(&request).ok()?;
            let is_known = |value: &str| findings.iter().any(|it| it.value == value);
            let new = found.iter().filter(|it| !is_known(&it.value));
            let trust_least = new.map(|it| it.trust_min).chain(found.trust_least()).max();
            Some(Study {
                trust_least,
                tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            })
        };
        if is_short {
            study()
        } else {
            tokio::task::spawn_blocking(study).await.ok()?
        }
    }

    /// The request for the rest: no more of it than is left of what was asked for.
    fn resumed(&self, resume: Resume, tokens: u32) -> ChatRequest {
        let mut request = self
            .request
            .clone()
            .resumed_from(shown(&self.said.text), resume);
        let left = |max: Tokens| Tokens(max.0.saturating_sub(tokens).max(1));
        request.output_tokens_max = request.output_tokens_max.map(left);
        request
    }

    fn resume(&mut self, begun: Begun, resume: Resume, cause: &'static str) -> Resumed {
        let card = self.walk.card_of(&begun.candidate);
        let route = route_taken(card, &begun.candidate.model);
        let rescued = Rescued {
            by: label_of(card, &begun.candidate.model),
            cause,
        };
        info!(by = %rescued.by, cause, "reply gone on with");
        self.rescues.tell(rescued);
        self.trust_most = self.trust_most.max(card.trust);
        self.speaker = begun.candidate;
        let events = stream::iter(begun.head.into_iter().map(Ok)).chain(begun.rest);
        Resumed {
            events: joined(events.boxed(), Seam::new(&self.said.text, resume)),
            route,
        }
    }
}

struct Study {
    /// Of values in what was said that the request does not have.
    trust_least: Option<Trust>,
    tokens: u32,
}

/// Whether an error says nothing about the request: a backend that fails so might as well have gone on.
fn is_accident(error: &BackendError) -> bool {
    match error {
        BackendError::Overloaded { .. }
        | BackendError::Resting { .. }
        | BackendError::RateLimited { .. }
        | BackendError::Unreachable(_)
        | BackendError::TimedOut(_)
        | BackendError::Failed { .. }
        | BackendError::Garbled(_)
        | BackendError::Interrupted
        | BackendError::Engine(_) => true,
        BackendError::Rejected { .. }
        | BackendError::Declined { .. }
        | BackendError::ContentRefused { .. }
        | BackendError::ModelUnknown { .. }
        | BackendError::ContextExceeded { .. }
        | BackendError::Unable(_)
        | BackendError::Credentials { .. } => false,
    }
}

/// The rest as the caller reads it. What whoever goes on thinks about it is nobody's: the reply has its
/// thoughts already.
fn joined(events: ChatStream, mut seam: Seam) -> ChatStream {
    let text = |text: String| (!text.is_empty()).then_some(Ok(ChatEvent::Text { choice: 0, text }));
    let join = move |event: Result<ChatEvent, BackendError>| match event {
        Ok(
            ChatEvent::Started(_)
            | ChatEvent::Written(_)
            | ChatEvent::Thought { .. }
            | ChatEvent::Seal { .. }
            | ChatEvent::Logprobs { .. },
        ) => [None, None],
        Ok(ChatEvent::Text { text: piece, .. }) => [text(seam.push(&piece)), None],
        // Nothing of the text follows these.
        Ok(
            event @ (ChatEvent::ToolCall { .. }
            | ChatEvent::StopString { .. }
            | ChatEvent::ChoiceEnded { .. }),
        ) => [text(seam.finish()), Some(Ok(event.of_choice(0)))],
        Ok(event @ ChatEvent::Usage(_)) => [None, Some(Ok(event))],
        Err(error) => [None, Some(Err(error))],
    };
    events
        .map(join)
        .flat_map(|events| stream::iter(events.into_iter().flatten()))
        .boxed()
}
