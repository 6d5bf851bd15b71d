//! Local inference: one thread per model, several chats in one batch.
//!
//! ```text
//! Engine ── prompt ──► Shared queue ──► Scheduler ──► Decoder (llama.cpp, or a script)
//!    ▲                                    │ slots, sampler
//!    └────── ReplyStream ◄── channel ◄── Voice (characters, stops, thoughts, calls)
//! ```
//! The scheduler is a value that is stepped, by the engine's thread or by a test. It knows numbers
//! only; llama.cpp lives in `llama/` behind the feature of that name, and all `unsafe` in one file
//! there. Without the feature everything but [`Engine::load`] is the same.
//!
//! Not here: choosing a model, fetching files, rendering templates (a
//! [`domain::TemplateCompiler`] is passed in). A request that needs what the model at hand cannot do
//! is refused as `Unable`.
//!
//! llama.cpp's own assertions end the process. All sizes and ids are checked before they cross, and
//! [`Remote`] holds an engine in a process of its own, so that no other goes with it. Whoever starts
//! an [`Engine`]'s process should set `GGML_NO_BACKTRACE=1`: an abort otherwise starts a debugger
//! first.

#![cfg_attr(
    not(any(feature = "llama", test)),
    expect(
        dead_code,
        reason = "the scheduler's only decoder outside tests is llama.cpp"
    )
)]

mod adapters;
mod calls;
mod cells;
mod chorus;
mod config;
mod crew;
mod decoder;
mod draft;
mod embedding;
mod encoding;
mod engine;
#[cfg(test)]
mod fake;
mod forecast;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod gallery;
mod grammar;
mod kv;
#[cfg(feature = "llama")]
mod llama;
mod load;
mod logprobs;
mod memory;
mod offload;
mod pacing;
mod pictures;
mod prefill;
mod prefixes;
mod priority;
mod process;
mod prompt;
mod queue;
mod ranking;
mod reading;
mod reply;
mod sampler;
mod scheduler;
mod sight;
mod slot;
mod splitting;
mod stops;
mod turns;
mod utf8;
mod voice;
mod waiting;

pub use adapters::AdapterConfig;
pub use config::{ContextShift, EngineConfig, PrefixScope, Speculation};
pub use embedding::{EmbedderConfig, LocalEmbedder};
pub use encoding::EmbeddingDriver;
pub use engine::{Engine, EngineDriver, EnginePanicked};
pub use kv::{FlashAttention, KvConfig, KvFault, KvType};
#[cfg(feature = "llama")]
pub use llama::devices;
pub use load::LoadError;
#[cfg(not(feature = "llama"))]
pub use load::devices;
pub use memory::{MemoryNeed, ModelShape};
pub use offload::{Device, GpuLayers, Placed, Placement};
pub use process::{
    Job, Loaded, Program, QUARANTINED, Remote, RemoteDriver, RemoteEmbedder, RemoteReranker,
    ServeError, serve,
};
pub use queue::{DraftCount, Vitals};
pub use ranking::LocalReranker;
