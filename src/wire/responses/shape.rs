//! What is read of a provider's response object and its items.

use domain::{BackendError, BadRequest, FinishReason, Seal, ToolCall, Usage};
use serde_json::Value;

use super::opaque_seal::seal;
use crate::error_words::{CONTEXT_CODE, cut};
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

/// An error object of a response or of a stream. It comes after a status of 200, so its code alone tells whose
/// fault it is (OpenAI's API reference, "Response", `error.code`, read 2026-12).
pub(super) fn failure(error: &Value) -> BackendError {
    let code = error["code"].as_str().unwrap_or_default();
    match code {
        "rate_limit_exceeded" | "insufficient_quota" => {
            BackendError::RateLimited { retry_after: None }
        }
        "server_is_overloaded" | "overloaded" => BackendError::Overloaded {
            retry_after: OVERLOADED_WAIT,
        },
        // The first is said of prompts that its usage policy does not let pass.
        "invalid_prompt"
        | "content_filter"
        | "content_policy_violation"
        | "image_content_policy_violation" => BackendError::ContentRefused {
            reason: reason_of(error, code),
        },
        CONTEXT_CODE => rejected(error, code),
        code if code.starts_with("invalid_") || code.contains("image") => rejected(error, code),
        _ => BackendError::Failed { status: 500 },
    }
}

fn rejected(error: &Value, code: &str) -> BackendError {
    BackendError::Rejected {
        status: 400,
        reason: reason_of(error, code),
    }
}

fn reason_of(error: &Value, code: &str) -> BadRequest {
    BadRequest {
        param: filled(&error["param"]).map(|param| cut(&param)),
        code: Some(cut(code)),
        message: match filled(&error["message"]) {
            Some(message) => cut(&message),
            None => "the upstream refused the request and gave no reason".to_owned(),
        },
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
