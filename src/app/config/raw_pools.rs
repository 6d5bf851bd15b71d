//! Pools as written: every key, its default and its words, as [`super::raw`] has the rest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::{RawTrust, SecretText};

/// Engines of your own that serve the same models, behind one name. See docs/scale.md.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "kind", "models"]))]
pub struct RawPool {
    /// Callers name its models as `NAME/model`. With `local.enabled = false` the first pool answers
    /// as `local`. Required.
    pub name: Option<String>,
    /// Whose engine the endpoints are. Required.
    pub kind: Option<RawEngineKind>,
    /// Where they are, up to and including `/v1`: `http://10.0.0.5:8000/v1`. This or `dns`.
    pub endpoints: Vec<String>,
    /// One such address whose host is a name: each address the name leads to is an endpoint. Of a
    /// name with IPv4 and IPv6 addresses the IPv4 ones.
    pub dns: Option<String>,
    /// How often the name is looked up.
    pub dns_refresh_s: u64,
    /// Models that every endpoint serves. The first is the pool's default. Required.
    pub models: Vec<String>,
    /// The model for requests that name none; one of `models`.
    pub default_model: Option<String>,
    /// `env:NAME` or `file:/path`; the same for every endpoint. Left out for engines that ask for
    /// none.
    pub key: Option<SecretText>,
    /// `tenant` (default): machines of your own, and less is masked for them. `device`: they count as
    /// this machine, and nothing is masked.
    pub trust: RawTrust,
    /// Whether the engines read `structured_outputs`: replies held to a regular expression, a choice
    /// of texts or a grammar. Left out: true of `vllm`.
    pub structured_outputs: Option<bool>,
    /// Speak plain HTTP to hosts beyond this machine.
    pub allow_http: bool,
    /// Endpoints at most; further addresses of `dns` are left out.
    pub endpoints_max: u32,
    /// Endpoints one request is offered to before the next candidate is tried.
    pub attempts_max: u32,
    /// Replies under way at one endpoint; with every endpoint there the pool is overloaded.
    pub in_flight_max: u32,
    /// Requests whose instructions and first question are alike for this many bytes prefer the same
    /// endpoint, which has that beginning computed already. 0: only the load decides.
    pub affinity_bytes: u32,
    /// The preferred endpoint is passed over when its load would come to more than this many times
    /// the mean.
    pub spill_factor: f64,
    pub connect_timeout_ms: u64,
    /// Patience for the first event of a streamed reply, before the next endpoint is tried.
    pub first_event_timeout_ms: u64,
    /// The same for a reply that the client wants whole, up to its last byte.
    pub whole_reply_timeout_ms: u64,
    /// Longest silence inside a reply.
    pub idle_timeout_ms: u64,
    pub health: RawPoolHealth,
}

impl Default for RawPool {
    fn default() -> Self {
        Self {
            name: None,
            kind: None,
            endpoints: Vec::new(),
            dns: None,
            dns_refresh_s: 10,
            models: Vec::new(),
            default_model: None,
            key: None,
            trust: RawTrust::Tenant,
            structured_outputs: None,
            allow_http: false,
            endpoints_max: 32,
            attempts_max: 3,
            in_flight_max: 256,
            affinity_bytes: 1024,
            spill_factor: 1.25,
            connect_timeout_ms: 1_000,
            first_event_timeout_ms: 30_000,
            whole_reply_timeout_ms: 600_000,
            idle_timeout_ms: 60_000,
            health: RawPoolHealth::default(),
        }
    }
}

/// When an endpoint is left out, and when it returns.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPoolHealth {
    /// How often each endpoint is asked how it is, and how busy.
    pub interval_ms: u64,
    /// Patience with its answer.
    pub timeout_ms: u64,
    /// Failures in a row, of requests that found no connection, no answer in time or a server error, or
    /// of asking, before it is left out.
    pub failures_max: u32,
    /// How long it is left out the first time; doubled each time in a row.
    pub eject_ms: u64,
    /// The longest it is left out before it is asked again.
    pub eject_ms_max: u64,
}

impl Default for RawPoolHealth {
    fn default() -> Self {
        Self {
            interval_ms: 2_000,
            timeout_ms: 2_000,
            failures_max: 3,
            eject_ms: 1_000,
            eject_ms_max: 30_000,
        }
    }
}

/// Where an engine says that it is well and how busy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawEngineKind {
    /// `/health` and `/metrics`.
    Vllm,
    /// llama.cpp's: `/health`, and `/metrics` where it runs with `--metrics`.
    LlamaServer,
    /// `/api/version`; it does not say how busy it is.
    Ollama,
    /// `/health`, and `/metrics` where it runs with `--enable-metrics`.
    Sglang,
}
