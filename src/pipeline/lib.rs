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
mod embed;
mod open;
mod receipt;
mod snapshot;
mod stages;
mod trunk;
mod wrap;

pub use answer::{Answer, Refusal, RouteLabel, Timings};
pub use embed::Embedded;
pub use receipt::Recorder;
pub use snapshot::{CacheRules, NamedEmbedder, Patience, Snapshot};
pub use stages::{CacheWish, Parsed, RequestContext};
pub use trunk::{ModelListing, Parts, Pipeline, Readiness};

#[cfg(test)]
mod tests;
