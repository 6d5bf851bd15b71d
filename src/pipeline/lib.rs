//! The trunk every request travels, from admission to record.
//!
//! ```text
//! Parsed ─admit─► Admitted ─scan─► Scanned ─look up─► Missed ─plan─► Planned ─open─► Opened ─wrap─► Answer
//!                                      └─ hit ─► replay ─────────────────────────────────────────► Answer
//! ```
//! Each stage consumes one type and returns the next, so an order that must not happen does not
//! compile. Nothing here reads bytes, knows HTTP, or reads configuration after `admit`: an exchange
//! keeps the [`Snapshot`] it started with.

mod answer;
mod attempt;
mod cost;
mod embed;
mod embed_remote;
mod flight;
mod hedge;
mod images;
mod in_turn;
mod keep;
mod moderate;
mod named;
mod offline;
mod open;
mod pace;
mod queue;
mod quota;
mod reading;
mod receipt;
mod rerank;
mod rescue;
mod reuse;
mod seam;
mod shadow;
mod snapshot;
mod stages;
mod texts;
mod trace;
mod trunk;
mod vitals;
mod walk;
mod wrap;

pub use answer::{Answer, CacheUse, Refusal, RouteLabel, Timings};
pub use cost::Cost;
pub use embed::Embedded;
pub use images::{ImageLimits, ImageRules};
pub use moderate::{Moderated, NOT_OFFERED as MODERATION_NOT_OFFERED};
pub use named::{Named, NamedWork};
pub use offline::OfflineRules;
pub use pace::Pace;
pub use queue::QueueRules;
pub use quota::{Allowance, Standing};
pub use reading::{Counted, PromptCount};
pub use receipt::Recorder;
pub use rerank::{Place, Ranking};
pub use rescue::{RescueRules, Rescued, Rescues};
pub use reuse::{
    CacheEncoder, FeedbackTaken, Learner, Rating, Reuse, ReuseCounts, ReuseRules, Traced,
    TracedNeighbour,
};
pub use shadow::{ShadowCounts, ShadowRules, Shadower, Shadows};
pub use snapshot::{CacheRules, NamedEmbedder, NamedReranker, Patience, Prices, Snapshot};
pub use stages::{CacheWish, Parsed, RequestContext};
pub use texts::{
    TEXT_QUEUE_BYTES_MAX, TEXT_QUEUE_MAX, TEXTS_UNDER_WAY_BYTES_MAX, TextCounts, TextWriter, Texts,
};
pub use trace::{TRACE_HEADERS, Tracer};
pub use trunk::{ModelListing, Parts, Pipeline, Readiness};
pub use vitals::{ModelHealth, Percentiles};

#[cfg(test)]
mod tests;
