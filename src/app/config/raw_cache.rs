//! How replies are kept and reused, as written; [`super::raw`] has the rest.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::SecretText;

/// Replies kept in memory, for the same request and for questions that mean the same.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawCache {
    pub enabled: bool,
    /// Memory for all replies that are kept for the same request.
    pub bytes_max: u64,
    /// How long a reply is kept.
    pub ttl_s: u64,
    /// Replies larger than this are not kept.
    pub reply_bytes_max: u64,
    /// Replies answer other questions that mean the same. Left out: where an encoder is named.
    pub semantic: Option<bool>,
    /// What tells how near two questions are: a path to a GGUF file, or the name of a model that `hedge
    /// models list` shows. Left out: the one inside this binary, where it has one.
    pub encoder: Option<String>,
    /// Wrong answers by the cache, of all requests that are looked up, from 0 to 1.
    pub max_wrong_rate: f64,
    /// Of answers that the cache could give, how many are made afresh and compared, from 0 to 1.
    pub shadow_rate: f64,
    /// All of them are: nothing is answered by it, and it learns.
    pub dry_run: bool,
    /// How long a reply is kept by what its question is: `fact`, `how`, `why`, `yes_no`, `task`,
    /// `statement`, and each with `_other` for languages but English. Left out: `ttl_s`.
    pub ttl_by_class_s: BTreeMap<String, u64>,
    /// Who may be answered with whose replies: `team`, or `shared` for all teams.
    pub compartment: RawCompartment,
    /// With `shared`: teams, its own among them, that must have come to a reply before another gets it.
    pub shared_writers_min: u32,
    /// With `shared`: how long an answer by the cache takes at least, so that the time does not tell what
    /// others asked.
    pub pad_hits_ms: u64,
    /// Another number than before: nothing that was kept until then is found again.
    pub epoch: u64,
    /// How a kept reply is streamed: `instant`, or `natural` for word by word.
    pub replay: RawPace,
    /// How long looking for a reply to another question may take; then there is none.
    pub look_up_ms_max: u64,
    /// A folder that is this node's alone, in which replies for other questions outlive it, with what was
    /// learned. It holds what was asked and answered, masked. Left out: they are in memory alone.
    pub dir: Option<String>,
    /// A Redis or Valkey in which exact replies are shared with other replicas, as `store.redis` is
    /// written. Left out: that one, where it is set. See docs/reuse.md.
    pub redis: Option<SecretText>,
    /// What all shared replies may take there. 0: none are shared.
    pub redis_bytes_max: u64,
    /// How long a look there may take; then it is a miss.
    pub redis_ms_max: u64,
    /// What the names of shared replies are made with, as `env:NAME` or `file:/path`: 16 bytes at least, the
    /// same for all replicas. Left out: who may read that Redis can tell whether a question that he guesses
    /// was asked.
    pub secret: Option<SecretText>,
    /// Replies kept for other questions.
    pub entries_max: u64,
    /// Memory for them.
    pub entries_bytes_max: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawCompartment {
    #[default]
    Team,
    Shared,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawPace {
    #[default]
    Instant,
    Natural,
}

impl Default for RawCache {
    fn default() -> Self {
        Self {
            enabled: true,
            bytes_max: 64 * 1024 * 1024,
            ttl_s: 3600,
            reply_bytes_max: 256 * 1024,
            semantic: None,
            encoder: None,
            max_wrong_rate: 0.01,
            shadow_rate: 0.05,
            dry_run: false,
            ttl_by_class_s: BTreeMap::new(),
            compartment: RawCompartment::default(),
            shared_writers_min: 3,
            pad_hits_ms: 0,
            epoch: 0,
            replay: RawPace::default(),
            look_up_ms_max: 50,
            dir: None,
            redis: None,
            redis_bytes_max: 64 * 1024 * 1024,
            redis_ms_max: 20,
            secret: None,
            entries_max: 100_000,
            entries_bytes_max: 256 * 1024 * 1024,
        }
    }
}
