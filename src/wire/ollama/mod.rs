//! Ollama's own API, as a server, for tools that speak nothing else.
//!
//! | half | in |
//! | --- | --- |
//! | decode chats and prompts | `decode_chat.rs`, `decode_generate.rs`, `decode_messages.rs`, `decode_shared.rs` |
//! | encode their replies | `encode_reply.rs`, `encode_line.rs` |
//! | embeddings | `embeddings.rs` |
//! | models | `models.rs` |
//!
//! Behaviour follows `docs/api.md`, `api/types.go` and `server/routes.go` of github.com/ollama/ollama
//! (commit fb30760, of 2026-08-21) and `_types.py` of the Python client (0.6.3), all read 2026-11.
//!
//! | field | what becomes of it |
//! | --- | --- |
//! | `model: name:latest` | the name without it, unless there is one with it |
//! | `keep_alive` | checked and without effect: how long a model stays is its operator's affair. 0 without a prompt, which unloads a model, is refused |
//! | `think` | the effort, and whether thoughts are told; `false` leaves out those that come all the same |
//! | `format` | `json` or a schema, which a model of this machine keeps to |
//! | `options` of sampling | as everywhere; `seed` below 0 and `num_predict` of 0 and below are as if left out. What OpenAI has no word for (`repeat_penalty`, `mirostat`, …) is for models of this machine; an upstream never sees it |
//! | other `options`: `num_ctx`, `num_gpu`, … | without effect: how a model is loaded is its operator's affair |
//! | `truncate`, `shift` | checked and without effect: a prompt that is too long is refused |
//! | `raw` | a prompt that no template changes, as in [`crate::completions`] |
//! | `suffix`, `template`, `context`, `_debug_render_only` | refused |
//! | a reply's seals | left out: nothing could bring them back |
//! | arguments of a call that are no object | told as `{"arguments": text}`, for the field holds objects alone |

mod decode_chat;
mod decode_generate;
mod decode_messages;
mod decode_shared;
mod embeddings;
mod encode_line;
mod encode_reply;
mod halves;
mod models;
mod moment;

pub use embeddings::{decode_embed, decode_embeddings, encode_embed, encode_embeddings};
pub use halves::{Chat, Generate, encode_error};
pub use models::{
    ModelDetails, ModelTag, RunningModel, Shown, decode_show, encode_running, encode_shown,
    encode_tags, encode_version,
};

#[cfg(test)]
mod tests;
