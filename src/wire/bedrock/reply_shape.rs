//! What Bedrock's replies are made of, whole and in events.

use domain::{BackendError, Dialect, FinishReason, Seal, SealKind, Tokens, Usage};
use serde::Deserialize;

use crate::numbers::{Count, sum};

/// Calls taken in one reply.
pub(super) const TOOL_CALLS_MAX: usize = 256;

pub(super) const UNSPEAKABLE: &str =
    "the reply holds what cannot be passed on: an image, a file, or a tool that the provider ran";

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageBody {
    /// Without those read from the cache or written to it.
    #[serde(default)]
    input_tokens: Option<Count>,
    #[serde(default)]
    output_tokens: Option<Count>,
    #[serde(default)]
    cache_read_input_tokens: Option<Count>,
    #[serde(default)]
    cache_write_input_tokens: Option<Count>,
}

impl From<UsageBody> for Usage {
    fn from(body: UsageBody) -> Self {
        let cached_tokens = Count::tokens(body.cache_read_input_tokens);
        let cache_write_tokens = Count::tokens(body.cache_write_input_tokens);
        let cache: Tokens = sum(cached_tokens, cache_write_tokens);
        Usage {
            prompt_tokens: sum(Count::tokens(body.input_tokens), cache),
            completion_tokens: Count::tokens(body.output_tokens),
            cached_tokens,
            cache_write_tokens,
            ..Usage::default()
        }
    }
}

pub(super) fn signature(data: String) -> Seal {
    Seal {
        of: Dialect::Bedrock,
        kind: SealKind::Signature,
        data,
    }
}

pub(super) fn hidden(data: String) -> Seal {
    Seal {
        of: Dialect::Bedrock,
        kind: SealKind::Hidden,
        data,
    }
}

/// # Errors
/// Words that mean that the reply is not whole.
pub(super) fn finish_reason(word: &str) -> Result<FinishReason, BackendError> {
    match word {
        "max_tokens" | "model_context_window_exceeded" => Ok(FinishReason::Length),
        "tool_use" => Ok(FinishReason::ToolCalls),
        "guardrail_intervened" | "content_filtered" => Ok(FinishReason::ContentFilter),
        "malformed_tool_use" => Err(BackendError::Garbled("the model wrote a call that is none")),
        "malformed_model_output" => Err(BackendError::Garbled("the model's reply is malformed")),
        _ => Ok(FinishReason::Stop),
    }
}
