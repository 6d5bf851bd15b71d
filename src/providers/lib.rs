//! Remote HTTP: addresses, credentials, connect retry, transport and health of upstreams.
//!
//! Bodies are made and read by `wire`; this room knows statuses, headers and time. The [`Transport`]
//! is handed in, so that TLS and connection settings exist once.
//!
//! ```text
//! Outbound ─encode─► direct, or the client ─► 200: reading ─► ChatStream
//!                                          └─► else: refusal ─► BackendError
//! ```
//! What connects of public upstreams come to, [`LinkState`] knows: whether the node is offline.
//! A [`Pool`] is several such upstreams behind one name: it chooses, watches and moves on. A [`Fetcher`]
//! brings images from where callers say they are, and shares nothing with the rest.

mod auth;
mod breaker;
mod config;
mod direct;
mod fetch;
mod link;
mod one_call;
mod pool;
mod reading;
mod refusal;
mod response;
mod resume;
mod secret;
mod sending;
mod target;
mod transport;
mod upstream;

pub use hyper_util::client::proxy::matcher::Matcher as Proxies;

pub use auth::{Auth, AwsKeys, EntraClient, Key};
pub use config::{UpstreamConfig, UpstreamConfigError};
pub use fetch::{FetchRules, Fetcher, ImageKind};
pub use link::{Knock, LinkRules, LinkState, TcpKnock};
pub use pool::{
    Balance, EndpointState, EndpointView, EngineKind, HealthRules, Members, Pool, PoolConfig,
    PoolConfigError, Resolve, SystemResolver,
};
pub use resume::Continues;
pub use secret::Secret;
pub use transport::{DirectRules, Transport};
pub use upstream::Upstream;
