//! OpenAI's responses dialect, in four halves.
//!
//! | half | begins in | used by |
//! | --- | --- | --- |
//! | decode request | `decode_request.rs`, `decode_items.rs` | the server |
//! | encode reply | `encode_reply.rs`, its items in `items.rs` | the server |
//! | encode request | `encode_request.rs` | the client |
//! | decode reply | `decode_reply.rs`, `decode_stream.rs` | the client |
//!
//! Behaviour follows OpenAI's API reference, pages "Responses" and "Streaming events", as published
//! and read 2026-11.
//!
//! A response that another one follows is a conversation kept by the server. Keeping is not done
//! here: [`Encoder::previous`] says which earlier response is meant, whoever keeps them hands its
//! messages to [`Encoder::follow`], and the encoder hands out what is to be kept.
//!
//! What is not said, and to whom:
//!
//! | field | server | client |
//! | --- | --- | --- |
//! | tools other than `function`, `background`, `conversation`, `prompt`, stored items | 400 | - |
//! | `stop`, `seed`, penalties, `logit_bias`, `n`, `prediction`, sampling of open models | not in the dialect | declined, `seed` and `prediction` left out |
//! | `include`, `truncation`, `max_tool_calls`, `prompt_cache_key` | read, go on to this dialect | as they came |
//! | `metadata`, `user`, `service_tier`, `safety_identifier`, `store`, verbosity | go on to both of OpenAI's dialects | `store` is false: what is kept is kept here |

mod decode_items;
mod decode_reply;
mod decode_request;
mod decode_stream;
mod encode_reply;
mod encode_request;
mod halves;
mod items;
mod list;
mod shape;

pub(crate) use encode_request::SHARED;

pub use decode_request::decode_request;
pub use encode_reply::{Encoder, Keep};
pub use halves::Responses;
pub use list::{ItemsWanted, encode_deleted, encode_items};
