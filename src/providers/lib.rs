//! Remote HTTP: addresses, credentials, connect retry, transport and health of upstreams.
//!
//! Bodies are made and read by `wire`; this room knows statuses, headers and time. The HTTP client
//! is handed in, so that TLS and connection settings exist once.
//!
//! ```text
//! Outbound ─encode─► MarkedBody ─► connection ─► 200: reading ─► ChatStream
//!                                            └─► else: refusal ─► BackendError
//! ```

mod breaker;
mod config;
mod reading;
mod refusal;
mod secret;
mod sending;
mod upstream;

pub use config::{UpstreamConfig, UpstreamConfigError};
pub use secret::Secret;
pub use upstream::Upstream;
