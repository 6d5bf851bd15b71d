//! What whole and streamed replies have in common, as a server writes them.

use std::borrow::Cow;

use domain::{FinishReason, Usage};
use serde::Serialize;
use serde_json::value::RawValue;

/// Why a reply ended. A model that made calls waits for their results, whatever its provider says.
pub(super) fn stop_reason(
    reason: FinishReason,
    has_calls: bool,
    has_stop_string: bool,
) -> &'static str {
    match reason {
        FinishReason::Stop if has_stop_string => "stop_sequence",
        FinishReason::Stop if has_calls => "tool_use",
        FinishReason::Stop => "end_turn",
        FinishReason::Length => "max_tokens",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::ContentFilter => "refusal",
    }
}

/// The `usage` object. Its `input_tokens` leave out those that the cache served or was given.
#[derive(Debug, Serialize)]
pub(super) struct UsageBody {
    input_tokens: u32,
    cache_creation_input_tokens: u32,
    cache_read_input_tokens: u32,
    output_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputDetails>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge: Option<UsageExtension>,
}

#[derive(Debug, Serialize)]
struct OutputDetails {
    thinking_tokens: u32,
}

/// What no other provider says.
#[derive(Debug, Serialize)]
struct UsageExtension {
    /// Tokens that the reply went on without when the context was full.
    dropped_tokens: u32,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        let (read, written) = (usage.cached_tokens.0, usage.cache_write_tokens.0);
        let input = usage.prompt_tokens.0;
        UsageBody {
            input_tokens: input.saturating_sub(read.saturating_add(written)),
            cache_creation_input_tokens: written,
            cache_read_input_tokens: read,
            output_tokens: usage.completion_tokens.0,
            output_tokens_details: (usage.reasoning_tokens.0 > 0).then_some(OutputDetails {
                thinking_tokens: usage.reasoning_tokens.0,
            }),
            hedge: (usage.dropped_tokens.0 > 0).then_some(UsageExtension {
                dropped_tokens: usage.dropped_tokens.0,
            }),
        }
    }
}

/// A call's arguments as this dialect's `input`, which is an object.
///
/// Arguments that are none go under a name that Anthropic's guide "Fine-grained tool streaming" has
/// for them (read 2026-11); no arguments are an empty object.
pub(super) fn input(arguments: &str) -> Cow<'_, RawValue> {
    let text = arguments.trim_ascii();
    if text.starts_with('{')
        && let Ok(raw) = serde_json::from_str::<&RawValue>(text)
    {
        return Cow::Borrowed(raw);
    }
    let object = if text.is_empty() {
        serde_json::json!({})
    } else {
        serde_json::json!({ "INVALID_JSON": arguments })
    };
    Cow::Owned(serde_json::value::to_raw_value(&object).expect("a value tree always serializes"))
}

#[cfg(test)]
mod tests {
    use domain::Tokens;

    use super::*;

    #[test]
    fn arguments_are_an_object_or_become_one() {
        for (arguments, expected) in [
            (r#"{"a": 1.0}"#, r#"{"a": 1.0}"#),
            (" {\"a\":1}\n", r#"{"a":1}"#),
            ("", "{}"),
            ("  ", "{}"),
            (r#"{"a": "#, r#"{"INVALID_JSON":"{\"a\": "}"#),
            ("7", r#"{"INVALID_JSON":"7"}"#),
            ("[]", r#"{"INVALID_JSON":"[]"}"#),
        ] {
            assert_eq!(input(arguments).get(), expected, "{arguments}");
        }
    }

    #[test]
    fn input_tokens_leave_the_cache_out() {
        let usage = Usage {
            prompt_tokens: Tokens(100),
            cached_tokens: Tokens(60),
            cache_write_tokens: Tokens(30),
            completion_tokens: Tokens(7),
            ..Usage::default()
        };
        let body = UsageBody::from(usage);
        assert_eq!(body.input_tokens, 10);
        let odd = Usage {
            prompt_tokens: Tokens(1),
            ..usage
        };
        assert_eq!(UsageBody::from(odd).input_tokens, 0);
    }
}
