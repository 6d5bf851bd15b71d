//! Decodes a whole reply, as a client.

use domain::{BackendError, Reply, ReplyChoice, ReplyPiece, Started};
use serde_json::Value;

use super::shape::{
    ITEMS_MAX, TOOL_CALLS_MAX, call, failure, filled, hidden, reason, texts, thoughts, usage,
};
use crate::openai::token_logprobs_of;

/// Reads a response object. A refusal's text is read as answer text; items of tools that the provider
/// runs itself are left out.
///
/// # Errors
/// [`BackendError::Garbled`] for bytes that are no response, or the failure they tell of.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, BackendError> {
    let body: Value = serde_json::from_slice(bytes)
        .map_err(|_| BackendError::Garbled("the reply is no response"))?;
    let Some(output) = body["output"].as_array() else {
        let error = &body["error"];
        return Err(match error.is_null() {
            false => failure(error),
            true => BackendError::Garbled("the reply is no response"),
        });
    };
    if output.len() > ITEMS_MAX {
        return Err(BackendError::Garbled("the response has too many items"));
    }
    let mut pieces = Vec::new();
    let mut tool_calls = Vec::new();
    let mut logprobs = Vec::new();
    for item in output {
        match item["type"].as_str() {
            Some("message") => {
                // Parts of one message are one text to everybody else.
                let text: String = texts(&item["content"]).collect();
                pieces.extend((!text.is_empty()).then_some(ReplyPiece::Text(text)));
                let parts = item["content"].as_array().into_iter().flatten();
                logprobs.extend(parts.flat_map(|part| token_logprobs_of(&part["logprobs"])));
            }
            Some("reasoning") => {
                pieces.extend(thoughts(item).map(ReplyPiece::Thought));
                pieces.extend(hidden(item).map(ReplyPiece::Seal));
            }
            Some("function_call") => tool_calls.push(call(item)?),
            Some(_) | None => {}
        }
    }
    if tool_calls.len() > TOOL_CALLS_MAX as usize {
        return Err(BackendError::Garbled("the response has too many calls"));
    }
    Ok(Reply {
        started: Started {
            model: filled(&body["model"]).unwrap_or_default(),
            reply_id: filled(&body["id"]),
            fingerprint: None,
        },
        choices: vec![ReplyChoice {
            choice: 0,
            pieces,
            reason: reason(&body, !tool_calls.is_empty())?,
            tool_calls,
            stop_string: None,
            logprobs,
        }],
        usage: usage(&body),
        written: None,
    })
}

#[cfg(test)]
mod tests;
