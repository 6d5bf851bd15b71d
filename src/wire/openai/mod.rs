//! OpenAI's chat completions dialect, in four halves.
//!
//! | half | begins in | used by |
//! | --- | --- | --- |
//! | decode request | `decode_request.rs`, `decode_format.rs` | the server |
//! | encode reply | `encode_reply.rs`, `encode_chunk.rs` | the server |
//! | encode request | `encode_request.rs` | the client |
//! | decode reply | `decode_reply.rs`, `decode_chunk.rs` | the client |
//!
//! Behaviour follows OpenAI's API reference, pages "Chat", "Streaming" and "Error codes", as
//! published and read 2026-11. Beyond it: `top_k`, `min_p` and `reasoning_content`, as llama.cpp's
//! server, vLLM and DeepSeek write them.
//!
//! What this dialect has no field for:
//!
//! | said elsewhere | here |
//! | --- | --- |
//! | a result of a call that failed | its text begins with `[the call failed]`, and is read so |
//! | the seal of a call | where Google has it (`seals.rs`); other makers' to clients alone |
//! | seals of thoughts | left out |
//! | images and files that a tool returned | in a message of the user after it |
//! | parts that nobody here interprets, tools of other providers | declined |

mod embed_client;
mod embeddings;
mod error_body;
mod failures;
mod halves;
mod moderations;
mod reading;
mod rerank;
mod seals;

// Decode request.
mod decode_format;
mod decode_messages;
mod decode_open_sampling;
mod decode_request;
mod decode_tools;

// Encode reply.
mod encode_chunk;
mod encode_reply;

// Encode request.
mod effort;
mod encode_request;
mod quirks;
mod request_body;
mod resuming;

// Decode reply.
mod decode_chunk;
mod decode_error;
mod decode_reply;
mod reply_shape;

// For dialects that have the same fields.
pub(crate) use decode_format::{Origin, read_format};
pub(crate) use decode_open_sampling::read_open_sampling;
pub(crate) use decode_request::{
    CHOICES_MAX, MODEL_BYTES_MAX, NAME_PATTERN_HINT, OUTPUT_TOKENS_MAX, is_plain_name,
    read_delivery, read_drawing, read_logprobs,
};
pub(crate) use decode_tools::read_tools;
pub(crate) use effort::{draws_as_told, effort_for, refuses_to_think};
pub(crate) use encode_reply::{UsageBody, logprobs_of};
pub(crate) use encode_request::splice;
pub(crate) use reply_shape::{TOP_LOGPROBS_MAX, token_logprobs_of};
pub(crate) use request_body::{NEWER_OUTPUT_BOUND, request_body};

pub use decode_chunk::ChunkDecoder;
pub use decode_error::{ErrorReply, decode_error};
pub use decode_reply::decode_reply;
pub use decode_request::decode_request;
pub use embeddings::{decode_embed_request, encode_embeddings};
pub use encode_chunk::ChunkEncoder;
pub use encode_reply::{Framing, encode_reply};
pub use encode_request::encode_request;
pub use error_body::ErrorBody;
pub(crate) use halves::BETAS_HEADER;
pub use halves::Chat;
pub use moderations::decode_moderation_request;
pub use quirks::Quirks;
pub use reading::{
    DetokenizeRequest, TokenForm, TokenSource, TokenizeRequest, decode_detokenize, decode_template,
    decode_tokenize, encode_content, encode_prompt, encode_tokens,
};
pub use rerank::{Ranked, decode_rerank, encode_ranking};
pub use resuming::{ResumeWords, resuming};
