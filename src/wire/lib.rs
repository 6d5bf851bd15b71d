//! Dialect codecs and SSE framing: bytes to `domain` nouns and back, nothing else.
//!
//! A dialect is written once, as four halves that share a folder: decode request and encode reply
//! (as a server), encode request and decode reply (as a client). Each converts to or from `domain`,
//! never dialect to dialect. No I/O, no clock, no randomness: ids and times arrive as arguments.

pub mod anthropic;
pub mod bedrock;
pub mod completions;
pub mod gemini;
pub mod ollama;
pub mod openai;
pub mod responses;

mod clients;
mod data_url;
mod error_words;
mod fields;
mod foreign_seal;
mod halves;
mod numbers;
mod own_tools;
mod passing;
pub mod percent;
mod request_fault;
mod splice;
mod sse;
mod sse_reading;
mod strict_json;
mod token;
mod unsayable;
mod user;

pub use clients::{CLIENTS, client};
pub use halves::{
    Address, ClientDialect, Decoded, EmbedDialect, ModerationDialect, ReplyEncoder, ReplyTimes,
    ServerDialect, StreamDecoder,
};
pub use sse::{SseDecoder, SseEvent, SseFault};
pub use token::{AccessToken, decode_token};
pub use user::{may_name_user, user_in, user_of};

#[cfg(test)]
mod pairs;
