//! Google's Gemini dialect, `generateContent` and `streamGenerateContent` of v1beta, in four halves.
//!
//! | half | begins in | used by |
//! | --- | --- | --- |
//! | decode request | `decode_request.rs`, `decode_contents.rs`, `decode_config.rs`, `decode_tools.rs` | the server |
//! | encode reply | `encode_reply.rs`, `encode_stream.rs` | the server |
//! | encode request | `encode_request.rs`, `contents_body.rs`, `config_body.rs` | the client |
//! | decode reply | `decode_reply.rs`, `decode_stream.rs` | the client |
//!
//! After the API reference at ai.google.dev ("Generating content", "Thinking", "Thought
//! signatures", "Function calling", "Structured outputs") and the types of googleapis/js-genai at
//! 6e9b35c, read 2026-11. Model and delivery stand in the path, not in the body.
//!
//! As protobuf's JSON has it, a server takes names as `inlineData` and as `inline_data`, whole
//! numbers as `40` and as `40.0`, and base64 of either alphabet.
//!
//! What this dialect cannot say, as a client:
//!
//! | said elsewhere | here |
//! | --- | --- |
//! | `parallel_tool_calls: false` beside tools | left out: `providers` hands on the first call alone |
//! | `logit_bias`, `min_p` and open models' samplers | declined |
//! | a seed beyond 32 bits, more than 8 choices | declined |
//! | a regular expression or a grammar as format | declined; a choice of texts is an enum |
//! | images and files by address in a tool's result, system prompts that are no text | declined |
//! | arguments in the history that are no JSON object | declined |
//! | where a system prompt stands | all of them go into `systemInstruction`, in order |
//! | a speaker's `name`, an image's `detail`, a file's name, a prediction | left out: hints |
//! | `strict` of tools and schemas | left out: schemas always bind here |
//! | how much to think | as near as the model can be told, and nothing where it does not think |
//! | a choice of tools without tools | left out: Google refuses it |
//! | another provider's seals | left out: nobody else can read them |
//!
//! And as a server:
//!
//! | said elsewhere | here |
//! | --- | --- |
//! | thoughts | only with `includeThoughts`, as Google does |
//! | other providers' seals | in `thoughtSignature`, base64 of `hedge.<dialect>.…`, and back |
//! | tokens written to a prompt cache | left out |
//! | a stop string that ended the reply | left out |
//! | arguments that are no JSON object | `MALFORMED_FUNCTION_CALL` |
//!
//! Of a request in this dialect, tools of Google's own (`googleSearch`), `cachedContent`,
//! `safetySettings` and everything else we do not know go to a Gemini upstream and to no other. For the
//! first two the request itself goes to no other: other dialects decline it, with their place.
//! What is unknown inside of a content, a function's call or its result goes there with the received
//! bytes alone.

mod halves;
mod schema;
mod seals;
mod spelling;

// Decode request.
mod decode_config;
mod decode_contents;
mod decode_request;
mod decode_tools;

// Encode reply.
mod encode_reply;
mod encode_stream;
mod error_body;
mod reply_body;

// Encode request.
mod config_body;
mod contents_body;
mod encode_request;

// Decode reply.
mod decode_error;
mod decode_reply;
mod decode_stream;
mod reply_shape;
mod splitter;

pub use halves::{Gemini, GenerateContent, StreamGenerateContent};

#[cfg(test)]
mod tests;
