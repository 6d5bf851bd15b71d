//! Remote HTTP: addresses, credentials, connect retry, transport and health of upstreams.
//!
//! Bodies are made and read by `wire`; this room knows statuses, headers and time. The HTTP client
//! is handed in, so that TLS and connection settings exist once.

mod config;
mod secret;
mod upstream;

pub use config::{UpstreamConfig, UpstreamConfigError};
pub use secret::Secret;
pub use upstream::Upstream;
