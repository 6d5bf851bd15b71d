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
//! A response that another one goes on from was kept, as JSON, on a [`domain::TeamShelf`]: its items
//! are read again as if they had been sent.
//!
//! What is not said, and to whom:
//!
//! | field | server | client |
//! | --- | --- | --- |
//! | tools other than `function`, `background`, `conversation`, `prompt`, files by id | 400 | - |
//! | `store`, `previous_response_id`, `item_reference` | what is kept is kept here | `store` is false, the others written out |
//! | `stream_options`, `max_tool_calls`, other words of `include` | read over | as they came |
//! | `metadata`, `user`, `service_tier`, `safety_identifier`, `prompt_cache_key`, verbosity | go on to both of OpenAI's dialects | from both |
//! | `stop`, penalties, `logit_bias`, `n`, settings of open models, grammars | not in the dialect | declined |
//! | `seed`, `prediction` | not in the dialect | left out |
//! | a bound of fewer than 16 tokens | taken | 16, OpenAI's least |
//! | thoughts without a seal of OpenAI's | read | left out: it would not take them for its own |
//! | a failed call's result | the status `incomplete` | the same |
//! | a seal on a call | `encrypted_content` of the call, which is not OpenAI's | left out |
//! | refusals | read as text | read as text |

mod decode_items;
mod decode_reply;
mod decode_request;
mod decode_stream;
mod earlier;
mod encode_list;
mod encode_reply;
mod encode_request;
mod event_sink;
mod halves;
mod items;
mod listed_item;
mod opaque_seal;
mod shape;
#[cfg(test)]
mod test_shelf;

pub(crate) use encode_request::SHARED;

pub use decode_request::decode_request;
pub use encode_list::{ListOrder, ListQuery, encode_deleted, encode_list};
pub use encode_reply::{Encoder, response_object};
pub use halves::Responses;
