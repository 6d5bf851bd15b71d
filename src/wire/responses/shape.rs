//! What is read of a provider's response object and its items.

use domain::{BackendError, FinishReason, Seal, ToolCall, Usage};
use serde_json::Value;

use super::opaque_seal::seal;
use crate::numbers::Count;

/// Output items of one reply.
pub(super) const ITEMS_MAX: usize = 1024;
pub(super) const TOOL_CALLS_MAX: u32 = 256;

pub(super) fn usage(response: &Value) -> Option<Usage> {
    let usage = response.get("usage").filter(|usage| !usage.is_null())?;
    let count = |value: &Value| Count::tokens(value.as_f64().map(Count::from));
    Some(Usage {
        prompt_tokens: count(&usage["input_tokens"]),
        completion_tokens: count(&usage["output_tokens"]),
        cached_tokens: count(&usage["input_tokens_details"]["cached_tokens"]),
        cache_write_tokens: count(&usage["input_tokens_details"]["cache_write_tokens"]),
        reasoning_tokens: count(&usage["output_tokens_details"]["reasoning_tokens"]),
        ..Usage::default()
    })
}

/// How a response that is there ended.
///
/// # Errors
/// It failed, was cancelled, or is not at its end.
pub(super) fn reason(response: &Value, has_calls: bool) -> Result<FinishReason, BackendError> {
    match response["status"].as_str() {
        None | Some("completed") if has_calls => Ok(FinishReason::ToolCalls),
        None | Some("completed") => Ok(FinishReason::Stop),
        Some("incomplete") => match response["incomplete_details"]["reason"].as_str() {
            Some("content_filter") => Ok(FinishReason::ContentFilter),
            Some(_) | None => Ok(FinishReason::Length),
        },
        Some("failed") => Err(failure(&response["error"])),
        Some(_) => Err(BackendError::Interrupted),
    }
}

/// An error object of a response or of a stream.
pub(super) fn failure(error: &Value) -> BackendError {
    match error["code"].as_str() {
        Some("rate_limit_exceeded") => BackendError::RateLimited { retry_after: None },
        Some("server_is_overloaded" | "overloaded") => BackendError::Overloaded {
            retry_after: OVERLOADED_WAIT,
        },
        Some(_) | None => BackendError::Failed { status: 500 },
    }
}

const OVERLOADED_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// What stands for a thought that is not shown. Another hedge's server writes other dialects' here.
pub(super) fn hidden(item: &Value) -> Option<Seal> {
    filled(&item["encrypted_content"]).map(seal)
}

pub(super) fn filled(value: &Value) -> Option<String> {
    let text = value.as_str().filter(|text| !text.is_empty())?;
    Some(text.to_owned())
}

pub(super) fn texts(parts: &Value) -> impl Iterator<Item = String> {
    let parts = parts.as_array().into_iter().flatten();
    parts.filter_map(|part| filled(&part["text"]).or_else(|| filled(&part["refusal"])))
}

/// Stands between the parts of a summary, each of which is a paragraph.
pub(super) const BETWEEN_PARTS: &str = "\n\n";

/// A reasoning item's own words, or the summary that stands for them.
pub(super) fn thoughts(item: &Value) -> Option<String> {
    let content = item["content"].as_array().filter(|list| !list.is_empty());
    let place = if content.is_some() {
        "content"
    } else {
        "summary"
    };
    let parts: Vec<String> = texts(&item[place]).collect();
    (!parts.is_empty()).then(|| parts.join(BETWEEN_PARTS))
}

/// A call's id, name, arguments and seal.
pub(super) fn call(item: &Value) -> Result<ToolCall, BackendError> {
    let (Some(id), Some(name)) = (filled(&item["call_id"]), filled(&item["name"])) else {
        return Err(BackendError::Garbled("a call has no id or no name"));
    };
    Ok(ToolCall {
        id,
        name,
        arguments: item["arguments"].as_str().unwrap_or_default().to_owned(),
        seal: hidden(item),
    })
}
