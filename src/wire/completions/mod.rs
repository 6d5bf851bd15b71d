//! OpenAI's older completions: a prompt that no chat template changes, and the text that follows it.
//!
//! | half | in | used by |
//! | --- | --- | --- |
//! | decode request | `decode_request.rs` | the server |
//! | encode reply | `encode_reply.rs`, `encode_chunk.rs`, `logprobs.rs` | the server |
//! | encode request | `encode_request.rs` | the client |
//! | decode reply | [`crate::openai`], whose decoders read the older form as well | the client |
//!
//! Behaviour follows OpenAI's API reference, page "Completions", as published and read 2026-11.
//! In `domain` a prompt is the only message of a request that [`domain::ChatRequest::is_raw`].
//!
//! | field | what becomes of it |
//! | --- | --- |
//! | `prompt` of several texts, or of tokens | refused: one text at a time |
//! | `suffix`, `best_of` other than `n` | refused |
//! | `echo` | the reply begins with the prompt; an upstream never sees the field |
//! | `echo` with `logprobs` | refused: the prompt's own are not computed |
//! | a reply's thoughts and tool calls | left out: the dialect has no place for them, and a model of this machine has none in reply to a raw prompt |

mod decode_request;
mod encode_chunk;
mod encode_reply;
mod encode_request;
mod halves;
mod logprobs;

pub use halves::Completions;

#[cfg(test)]
mod tests;
