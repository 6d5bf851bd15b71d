//! Black-box tests: the binary over HTTP, with its own model and a fake upstream.
//!
//! Every test starts a process of its own on a free port, so none sees another's state. Those that
//! need local inference stand behind the `llama` feature, as the engine does.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "every line here is a test's: the allowance for tests covers test functions alone"
)]

mod dockerfile;
mod harness;
mod rooms;

mod anthropic;
mod bad_input;
mod cache;
mod command_line;
mod cost;
mod data;
mod encrypted;
mod failures;
mod ingress;
mod keys;
mod limits;
mod metrics;
mod offline;
mod ollama;
mod openapi;
mod operations;
mod pools;
mod postgres;
mod prompts;
mod records;
mod reload;
mod replicas;
mod rescue;
mod retention;
mod sealed;
mod shadow;
mod shared_keys;
mod shared_replies;
mod telemetry;
mod tenants;
mod upstream;

#[cfg(feature = "llama")]
mod adapters;
#[cfg(feature = "llama")]
mod day;
#[cfg(all(feature = "llama", target_os = "linux"))]
mod encoders;
#[cfg(all(feature = "llama", target_os = "linux"))]
mod hostile_models;
#[cfg(all(feature = "llama", target_os = "linux"))]
mod isolation;
#[cfg(feature = "llama")]
mod local;
#[cfg(all(feature = "llama", target_os = "linux"))]
mod models;
#[cfg(feature = "llama")]
mod prefixes;
#[cfg(feature = "llama")]
mod reading;
#[cfg(feature = "llama")]
mod responses;
#[cfg(feature = "llama")]
mod routing;
#[cfg(feature = "llama")]
mod sight;
#[cfg(feature = "llama")]
mod streams;
