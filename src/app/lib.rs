//! Configuration, wiring, the task set, telemetry and the command line: the only room that knows
//! every concrete type.
//!
//! ```text
//! cli ─► commands ─► config ─► assembly ─► node ─► tasks
//! ```

mod cli;
mod commands;

mod adapters;
mod assembly;
mod bundled;
mod config;
mod embedder;
mod fleet;
mod keys;
mod local;
mod memory;
mod sealed;

mod client;
mod events;
mod metrics;
mod node;
mod otel;
mod quotas;
mod reload;
mod resident;
mod retention;
mod reuse;
mod signals;
mod tasks;
mod telemetry;

mod banner;
mod terminal;

pub use commands::main;
