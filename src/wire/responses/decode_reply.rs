//! Decodes a whole reply, as a client.

use domain::{BackendError, Reply, ReplyChoice, ReplyPiece, Started, ToolCall};
use serde_json::Value;

use super::shape::{
    ITEMS_MAX, TOOL_CALLS_MAX, failure, filled, hidden, reason, texts, thoughts, usage,
};

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
    for item in output {
        match item["type"].as_str() {
            Some("message") => pieces.extend(texts(&item["content"]).map(ReplyPiece::Text)),
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
            logprobs: Vec::new(),
        }],
        usage: usage(&body),
        written: None,
    })
}

fn call(item: &Value) -> Result<ToolCall, BackendError> {
    let named = |name| filled(&item[name]);
    let (Some(id), Some(name)) = (named("call_id"), named("name")) else {
        return Err(BackendError::Garbled("a call has no id or no name"));
    };
    Ok(ToolCall {
        id,
        name,
        arguments: item["arguments"].as_str().unwrap_or_default().to_owned(),
        seal: None,
    })
}

#[cfg(test)]
mod tests;
