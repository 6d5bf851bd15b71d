//! Amazon Bedrock's Converse dialect, as a client.
//!
//! | half | begins in |
//! | --- | --- |
//! | encode request | `encode_request.rs`, `messages_body.rs` |
//! | decode reply | `decode_reply.rs`, `decode_stream.rs` over `frames.rs` |
//!
//! After the Bedrock API reference ("Converse", "ConverseStream", "ContentBlock", "TokenUsage") and
//! boto/botocore's service model 2023-09-30 at 0e6e240, which AWS generates; frames after Smithy's
//! "Amazon Event Stream Specification"; all read 2026-11. Requests are signed elsewhere.
//!
//! An upstream's base URL is `https://bedrock-runtime.<region>.amazonaws.com`. The model is an id, an
//! inference profile or an ARN, and stands in the path.
//!
//! What this dialect cannot say:
//!
//! | said elsewhere | here |
//! | --- | --- |
//! | several choices, `logprobs`, `logit_bias`, `json_object`, regular expressions and the like | declined: the model is unable |
//! | `temperature` above 1, penalties, `seed`, `min_p`, open models' samplers | declined, with the field |
//! | `top_k` of models but Anthropic's and Amazon's | declined |
//! | `parallel_tool_calls: false` | left out: `providers` hands on the first call alone |
//! | `tool_choice: none` after calls, calls without `tools` | declined |
//! | images and files by address, media types that Bedrock does not list | declined |
//! | arguments in the history that are no JSON object | declined |
//! | how much to think, of models but Anthropic's | left to the model |
//! | the same of Claude, `top_p` beside a temperature | as in Anthropic's own dialect |
//! | texts of white space alone | left out: Bedrock refuses them |
//! | where a system prompt stands | all of them go into `system`, in order |
//! | messages of one role in a row | one message: Bedrock wants roles to alternate |
//! | thoughts without a signature of Bedrock's, other providers' seals | left out |
//! | a speaker's `name`, an image's `detail`, a prediction | left out: hints |
//! | ids of calls with letters that Bedrock does not take | those letters are `_`, in both places |
//!
//! And of a reply: citations are left out, their text is not; the model's name is not in it.

mod decode_error;
mod decode_reply;
mod decode_stream;
mod encode_request;
pub(crate) mod frames;
mod halves;
mod messages_body;
mod reply_shape;

pub use halves::Converse;

#[cfg(test)]
mod tests;
