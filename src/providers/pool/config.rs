//! What a pool is configured with, and what may be wrong with it.

use std::time::Duration;

use crate::{UpstreamConfig, UpstreamConfigError};

/// One pool: engines that serve the same models, behind one name.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// How each endpoint is asked. Its `base_url` is not looked at: every endpoint has its own.
    pub asked: UpstreamConfig,
    pub kind: EngineKind,
    pub members: Members,
    /// Endpoints at most; further addresses of a name are left out.
    pub endpoints_max: usize,
    /// Endpoints one chat is offered to, one after the other, before the pool has failed.
    pub attempts_max: u32,
    /// Replies under way at one endpoint; with every endpoint there the pool is overloaded.
    pub in_flight_max: u32,
    pub balance: Balance,
    pub health: HealthRules,
}

/// Where the endpoints are. Addresses reach up to and including `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    Listed(Vec<String>),
    /// One URL whose host is a name: each address the name leads to is an endpoint.
    Dns {
        base_url: String,
        refresh: Duration,
    },
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balance {
    /// Requests that begin alike for this many bytes prefer the same endpoint, whose engine then
    /// holds that beginning computed. 0: no preference.
    pub affinity_bytes: usize,
    /// The preferred endpoint is passed over when its load would come to more than this many times
    /// the mean.
    pub spill_factor: f64,
}

/// When an endpoint is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRules {
    /// Between two rounds of asking.
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row, of chats or of asking, before it is left out.
    pub failures_max: u32,
    /// The first time it is left out; doubled each time in a row, up to `eject_max`.
    pub eject: Duration,
    pub eject_max: Duration,
}

/// Whose engine the endpoints are: where it says that it is well, and how busy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    Vllm,
    LlamaServer,
    Ollama,
    Sglang,
}

/// Why a pool cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolConfigError {
    #[error("the pool has no endpoint")]
    Empty,
    /// Of the endpoint with this index, or of the name when there is one.
    #[error("{source}")]
    Endpoint {
        index: usize,
        #[source]
        source: UpstreamConfigError,
    },
}
