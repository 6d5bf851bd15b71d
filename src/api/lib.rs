//! Everything HTTP on the server side: who may connect, what a request must look like, and how an
//! answer or a refusal is written.
//!
//! ```text
//! accept ─seats─► connection ─flood guard─► gate (Host, Origin) ─► POST chat: auth ─► body ─► pipeline ─► SSE | JSON
//!                                                              ├─► POST embeddings: the same, in one piece
//!                                                              └─► axum router: models, health, metrics, 404, 405
//! ```
//! A chat is matched before the router, since it is what the node is for; everything else is rare.
//! Decisions about the exchange itself belong to `pipeline`, the dialect's bytes to `wire`.
//!
//! Connections speak HTTP/1.1 only. hyper-util's builder that also knows HTTP/2 reads a
//! connection's first bytes without any time-out, which would open the door to silent connections.
//! `gateway`, where edges have many requests under way, speaks both and looks at each connection itself.
//!
//! Refusals have OpenAI's error body, or that of the dialect spoken at the path, but for bytes that are no HTTP request at all and for heads
//! past their bounds: those hyper answers itself, with a bare 400 or 431.

mod asked;
mod auth;
mod body;
mod chat;
mod connection;
mod cors;
mod count;
mod desk;
mod doors;
mod embeddings;
mod error;
mod failing;
mod feedback;
mod flood;
mod gate;
pub mod gateway;
mod ingress;
mod kept;
mod keys;
mod limits;
mod line;
mod loaded;
mod models;
mod moderations;
mod ollama;
mod openapi;
mod opening;
mod operators;
mod page;
mod probes;
mod reading;
mod records;
mod request_id;
mod rerank;
mod responses;
mod rights;
mod router;
mod seats;
mod server;
mod service;
mod sign_in;
mod sse;
mod tally;
mod texts;

pub use desk::{
    Changed, DeskFault, Expiry, KeyChange, KeyDesk, KeyMadeView, KeyState, KeyView, KeysView,
    NAME_BYTES_MAX, Noun, Source, TeamView, TeamsView,
};
pub use ingress::{BodyLimits, FloodConfig, IngressConfig, LoadLimits};
pub use kept::{CacheView, ExplainView, ExplainedView, NeighbourView, PurgedView};
pub use loaded::{DeviceView, ModelBoard, ModelFile, ModelState, ModelView, ModelsView};
pub use operators::{AdminToken, AdminTokens, Role};
pub use probes::Scrape;
pub use rights::{ErasedView, ExportView, Rights};
pub use server::Api;
pub use sign_in::{NamedBy, RoleGrant, RoleHolder, SessionRules, SignIn, SignInRules};
pub use texts::{TextView, TextsView};
