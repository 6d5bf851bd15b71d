//! Anthropic's Messages dialect, in four halves.
//!
//! | half | begins in | used by |
//! | --- | --- | --- |
//! | decode request | `decode_request.rs`, `decode_messages.rs` | the server |
//! | encode reply | `encode_reply.rs`, `encode_stream.rs` | the server |
//! | encode request | `encode_request.rs`, `request_body.rs` | the client |
//! | decode reply | `decode_reply.rs`, `decode_stream.rs` | the client |
//!
//! Behaviour follows Anthropic's API reference, pages "Create a Message", "Count tokens", "Streaming
//! messages", "Extended thinking", "Structured outputs" and "Errors", and the types that its SDK
//! generates from the published schema (anthropic-sdk-python of 2026-08 and its 2.10.0), read 2026-11.
//!
//! An upstream's base URL is `https://api.anthropic.com`: without `/v1`, as Anthropic's SDKs have it.
//!
//! What a request of another dialect asks for and this one has no word for:
//!
//! | asked | done |
//! | --- | --- |
//! | `n` above 1, `logprobs`, `logit_bias`, sound, `json_object`, grammars and the like | declined: the model is unable |
//! | `temperature` above 1, penalties, `min_p`, open models' sampling, stops of white space alone | declined, with the field |
//! | `seed`, a prediction, `user`, `metadata`, `service_tier`, speakers' names, an image's `detail` | left out: hints |
//! | system messages amid the others | moved to the front, where the system prompt stands |
//! | thoughts without a signature of Anthropic's, seals of others | left out |
//! | texts of white space alone | left out: this dialect refuses them |
//! | `top_p` of 1 or beside a temperature, for Claude | left out: newer models take one of both |
//! | reasoning effort beside a temperature, `top_k`, `top_p` below 0.95 or a forced tool | left out: this dialect takes one or the other |
//! | the same for Claude before 4.6, after calls without their signed thought or with a reply begun | left out: this dialect refuses it |
//! | no bound on the reply | [`MAX_TOKENS_DEFAULT`] |
//!
//! What a caller of this dialect asks for and other dialects have no word for: `cache_control`,
//! `metadata`, `service_tier` and fields we do not know go to upstreams of this dialect alone. So do
//! tools that Anthropic defines or runs (`bash_20250124`, `web_search_20250305`), `mcp_servers` and
//! `container`, and with them the request: other dialects decline it, with their place. Calls of defined
//! tools are calls as any; what Anthropic ran itself (`server_tool_use` and its results) has no place in
//! `domain`, and of a reply the text it led to comes alone. Blocks we do not interpret need a model that
//! takes such parts.
//!
//! Seals of other dialects' makers travel in this one's opaque strings; see `seals.rs`.

mod error_body;
mod halves;
mod seals;

// Decode request.
mod decode_documents;
mod decode_messages;
mod decode_request;
mod decode_settings;
mod decode_tools;
mod leftovers;

// Encode reply.
mod encode_reply;
mod encode_stream;
mod reply_body;

// Encode request.
mod encode_blocks;
mod encode_request;
mod request_body;
mod thinking;

// Decode reply.
mod decode_error;
mod decode_reply;
mod decode_stream;
mod reply_shape;

pub use decode_request::decode_count;
pub use encode_reply::encode_count;
pub use halves::Messages;
pub use request_body::MAX_TOKENS_DEFAULT;
pub(crate) use thinking::{Block, Drawing, Thinking, drawing_for, thinking_for};

#[cfg(test)]
mod tests;
