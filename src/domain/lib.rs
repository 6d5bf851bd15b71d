//! Nouns, the event stream and the traits between rooms. No runtime, no clock, no I/O.
//!
//! One word per idea, everywhere:
//!
//! | word | means |
//! | --- | --- |
//! | exchange | one request and its reply, from admission to record |
//! | principal | who asks: key, team, grants |
//! | candidate | one backend and model that may answer, with the reason it is on the list |
//! | plan | the ordered candidates of one exchange |
//! | finding | a stretch of text that is personal data, and its class |
//! | masked view | the request with every finding replaced by a placeholder |
//! | outbound | a request sealed for one destination, masked as that destination demands |
//! | embedding | a text as a vector, in one model's space |
//! | score | how well a text answers a query, as one model measures it |
//! | event | one step of a reply stream |
//! | reply | a whole stream, collected |
//! | shelf | where responses are kept that others may go on from |
//! | compartment | the part of the cache in which one request's neighbours are looked for |
//! | entry | a kept reply that may answer other requests of its compartment |
//! | evidence | how often an entry's answer was right where it was checked |
//! | shadow | a second reply beside a kept one or one of this machine, to see whether they say the same |
//! | receipt | leaves exactly one record per exchange, however it ends |
//! | fault | what a caller may learn of a failure |
//! | card | what a backend says of itself |
//! | priority | how soon a request wants its answer |
//! | pool | several engines of the operator's behind one name |
//! | endpoint | one engine of a pool |
//! | slot | one running sequence in the local engine |
//! | rescue | going on, with whoever can, where a reply broke off |
//! | link | the way to the upstreams that anybody may be |
//! | carrier | takes requests to an upstream by another way than a connection to it |
//! | edge, relay | the two ends of the sealed path: who seals requests, and who opens them and asks providers |
//! | seal | a provider's own token that vouches for a thought or a call, opaque to everybody else |
//! | attempt | one sign-in of a person that is not over yet |
//! | identity | who an identity provider says that a person is |
//! | adapter | small matrices (LoRA) that change what a model of this machine says |
//! | subject | whose data is meant, when it is to be handed out or removed: a user or a tag |
//! | text | what an exchange said, kept where a retention policy says so |
//! | mark | stands for a user's name or a tag where the word is not to be kept |

mod audit;
mod backend;
mod carrier;
mod causes;
mod chat;
mod embed;
mod event;
mod fault;
mod host;
mod ids;
mod image;
mod kept;
mod key;
mod link;
mod lora;
mod moderation;
mod price;
mod principal;
mod priority;
mod privacy;
mod quota;
mod reading;
mod record;
mod reply;
mod rerank;
mod resume;
mod reuse;
mod sampling;
mod sign_in;
mod store;
mod subject;
mod template;
mod text;
mod trace;

pub use audit::{AdminChange, AuditLog, ChangeLog, NoLog, SealedEntry, SealedResult, SealedSide};
pub use backend::{
    Abilities, Ability, Backend, BackendCard, BackendError, Health, HealthState, ModelCard, Tier,
    TimeoutPhase,
};
pub use carrier::{Carrier, Delivered, Enough, Parcel};
pub use causes::chain;
pub use chat::{
    Audio, ChatRequest, Delivery, Dialect, Effort, Extra, File, Image, Message, OutputFormat, Part,
    Prediction, Reasoning, Role, Sampling, Seal, SealKind, SourceBody, Tool, ToolCall, ToolChoice,
};
pub use embed::{EmbedInput, EmbedRequest, Embedder, EmbedderCard, Embeddings, VectorFormat};
pub use event::{
    ChatEvent, ChatStream, Extent, FinishReason, Grammar, GrammarError, Started, ToolCallPart,
    Usage, Written,
};
pub use fault::{BadRequest, Classify, Fault};
pub use host::is_this_machine;
pub use ids::{BackendName, KeyId, MicroUsd, ModelAlias, RequestId, Tag, TeamId, Tokens, UserId};
pub use image::{FetchFault, FetchedImage, ImageAddresses, ImageFetcher};
pub use kept::{
    Hour, KEPT_TEXT_BYTES_MAX, KeptRecord, NoTime, Overview, Place, PlaceLatency, RecordFault,
    RecordName, RecordShelf, SavedBy, Savings, ShadowSum, Since, SpokenTime, Sum, TeamSpent,
    moment_us,
};
pub use key::{KEY_BYTES, KEY_PREFIX, KeySecret, KeyTrouble};
pub use link::Link;
pub use lora::{LoraAdapter, LoraEntry, lora};
pub use moderation::{Moderation, ModerationRequest};
pub use price::{Price, Rates};
pub use principal::{KeyDigest, NoNetwork, Principal, USER_BYTES_MAX, network};
pub use priority::Priority;
pub use privacy::{Finding, FindingClass, Findings, Outbound, Trust};
pub use quota::{
    Exhausted, Grant, Left, Limit, LimitRules, LimitWarning, LimitWatch, Measure, Period, Quotas,
    Reach, Returned, Scope, Shortage, Thresholds, Use, WhenSpent,
};
pub use reading::{ReadToken, TextPart, TextToRead, Tokenizer};
pub use record::{
    Agreement, Basis, CacheOutcome, Counterfactual, ExchangeRecord, HedgeOutcome, HedgeRecord,
    Outcome, RouteTaken, ShadowRecord, Share,
};
pub use reply::{Reply, ReplyChoice, ReplyPiece, collect, read_head, replay, replay_events};
pub use rerank::{RerankRequest, Reranker, Scores};
pub use resume::Resume;
pub use reuse::{
    Compartment, Entry, EntryId, Evidence, Kept, MeaningId, Neighbour, Purge, ReplyIndex,
    ReuseStats, TAG_BYTES_MAX, TAGS_MAX, WRITERS_MAX, WriterId, is_tag,
};
pub use sampling::{
    Dry, Mirostat, MirostatVersion, OpenSampling, RepeatPenalty, TokenLogprob, TokenLogprobs, Xtc,
};
pub use sign_in::{Attempt, AuthorizationResponse, Identity, IdentityProvider, SignInFault};
pub use store::{
    CacheAway, CacheKey, CacheStore, KeyDirectory, RecordSink, ResponseShelf, StoredItem,
    StoredResponse, TeamShelf,
};
pub use subject::{
    CountedUse, CountsAway, Mark, Marker, Marks, NoMark, RecordRights, RecordsErased, Subject,
    UserCounts, Who,
};
pub use template::{
    ChatTemplate, ImagePlace, Prompt, PromptPiece, TemplateCompiler, TemplateError, TemplateSource,
};
pub use text::{
    FoundText, KeptText, OpenedText, Said, SaidCall, SaidMessage, TextFault, TextRules, TextShelf,
    TextView, Unopened,
};
pub use trace::{
    SpanId, StageTimes, TRACE_STATE_BYTES_MAX, TraceContext, TraceId, TraceParent, Traced,
};
