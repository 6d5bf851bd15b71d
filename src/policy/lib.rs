//! Decisions without I/O: who answers, what is masked, what a cached reply is called, what a prompt
//! looks like.
//!
//! Everything here is a function of its arguments. There is no clock, no randomness, no network and
//! no file; a decision made twice is made the same way.
//!
//! ```text
//! model name ─resolve─► Asked ─┐
//! rules ────────RoutePolicy────┼─route─► Plan      (of those whom the rules' `Sealing` admits)
//! request, team, headers ─Ask──┘          └─rescuers─► who goes on where a reply broke off
//!
//! request ─ScanRules─► Findings ─mask─► masked view ─cache_key─► CacheKey
//!                          └─Unmasker: the reply's text, piece by piece
//!
//! template, request ─Templates─► Prompt
//! ```

mod rule_fault;

mod adapters;
mod roster;

mod condition;
mod features;
mod needs;
mod pattern_set;
mod route;
mod route_file;
mod sealing;
mod tokens;
mod toml_section;
mod trouble;

mod balance;
mod breaker;
mod latency;
mod retry;

mod detect;
mod scan;
mod unmask;
mod vocabulary;

mod cache_key;
mod canonical;
mod compartment;
pub mod reuse;

// What it costs, and would have cost.
mod prices;
mod savings;

mod template;

pub use adapters::check_adapters;
pub use balance::{Equal, conversation, name_hash, order};
pub use breaker::{Breaker, BreakerRules, BreakerState, Pass};
pub use cache_key::{CacheSecret, cache_key};
pub use compartment::{
    COMPARED_BYTES_MAX, Circumstances, Compared, Incomparable, ReuseScope, compared, writer_id,
};
pub use features::{Ask, MATCHED_BYTES_MAX, estimate_tokens};
pub use latency::{PeakEwma, Quantiles};
pub use needs::needs;
pub use prices::{LongFigures, PriceBook, PriceEntry, PriceFault};
pub use retry::{
    BACKOFF_BASE, BACKOFF_MAX, RETRIES_MAX, RETRY_AFTER_MAX, RETRY_AFTER_MAX_BESIDE_OTHERS,
    RetryBudget, RetryRules, backoff,
};
pub use roster::{
    ANY_MODEL, AUTO, Asked, CLOUD, LOCAL, Roster, RosterEntry, Share, Target, check_aliases,
    resolve,
};
pub use route::{Candidate, NAMED_RULE, Plan, SkipCause, Skipped, route, rule_of};
pub use route_file::{
    DEFAULT_ROUTES, LOCAL_ONLY_ROUTES, Manners, RULES_MAX, RoutePolicy, route_names,
};
pub use rule_fault::RuleFault;
pub use savings::{Answered, Yardstick, counterfactual};
pub use scan::{
    CustomRule, DEFAULT_CLASSES, FINDINGS_MAX, ScanRuleFault, ScanRules, VALUE_BYTES_MIN,
};
pub use sealing::{Sealing, UNSEALED, check_sealed_aliases};
pub use template::{Date, TEMPLATE_BYTES_MAX, Templates};
pub use tokens::{TOKENIZED_BYTES_MAX, count_tokens, embed_text, warm_up};
pub use trouble::{Rescue, Trouble, WhenOffline, rescuers};
pub use unmask::{RESTORED_BYTES_MAX, Room, Unmasker};
