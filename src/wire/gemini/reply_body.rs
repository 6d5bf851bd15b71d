//! The parts of a reply's JSON, whole and in chunks, as a server writes them.

use domain::{FinishReason, Seal, TokenLogprob, TokenLogprobs, ToolCall, Usage};
use serde::Serialize;
use serde_json::{Map, Value};

use super::seals;
use crate::unsayable::arguments;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResponseBody<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub candidates: &'a [CandidateBody<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_metadata: Option<UsageBody>,
    pub model_version: &'a str,
    pub response_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CandidateBody<'a> {
    pub content: ContentBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_message: Option<&'static str>,
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs_result: Option<LogprobsBody<'a>>,
}

#[derive(Serialize)]
pub(super) struct ContentBody<'a> {
    pub parts: Vec<PartBody<'a>>,
    pub role: &'static str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PartBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub thought: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<CallBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thought_signature: Option<String>,
}

#[derive(Serialize)]
pub(super) struct CallBody<'a> {
    id: &'a str,
    name: &'a str,
    args: Map<String, Value>,
}

impl<'a> PartBody<'a> {
    pub fn text(text: &'a str) -> Self {
        Self {
            text: Some(text),
            ..Self::default()
        }
    }

    pub fn thought(text: &'a str) -> Self {
        Self {
            thought: true,
            ..Self::text(text)
        }
    }

    /// A signature that has no part to stand in.
    pub fn seal(seal: &Seal) -> Self {
        Self {
            thought_signature: Some(seals::write(seal)),
            ..Self::text("")
        }
    }

    /// `None` where the arguments are no object, which this dialect cannot write.
    pub fn call(call: &'a ToolCall) -> Option<Self> {
        let function_call = CallBody {
            id: &call.id,
            name: &call.name,
            args: arguments(&call.arguments)?,
        };
        Some(Self {
            function_call: Some(function_call),
            thought_signature: call.seal.as_ref().map(seals::write),
            ..Self::default()
        })
    }
}

pub(super) const MALFORMED_CALL: &str = "MALFORMED_FUNCTION_CALL";
pub(super) const MALFORMED_CALL_MESSAGE: &str =
    "the model called a function with arguments that are no JSON object, or too long";

/// Google's word for an end. Calls end a turn as its last word does.
pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => "STOP",
        FinishReason::Length => "MAX_TOKENS",
        FinishReason::ContentFilter => "SAFETY",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogprobsBody<'a> {
    chosen_candidates: Vec<LogprobBody<'a>>,
    top_candidates: Vec<TopBody<'a>>,
}

#[derive(Serialize)]
struct TopBody<'a> {
    candidates: Vec<LogprobBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogprobBody<'a> {
    token: &'a str,
    log_probability: f64,
}

impl<'a> LogprobsBody<'a> {
    /// `None` where none were asked for.
    pub fn of(tokens: &'a [TokenLogprobs]) -> Option<Self> {
        (!tokens.is_empty()).then(|| Self {
            chosen_candidates: tokens
                .iter()
                .map(|it| LogprobBody::from(&it.token))
                .collect(),
            top_candidates: tokens
                .iter()
                .map(|it| TopBody {
                    candidates: it.top.iter().map(LogprobBody::from).collect(),
                })
                .collect(),
        })
    }
}

impl<'a> From<&'a TokenLogprob> for LogprobBody<'a> {
    fn from(one: &'a TokenLogprob) -> Self {
        Self {
            token: &one.text,
            log_probability: one.logprob,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageBody {
    prompt_token_count: u32,
    candidates_token_count: u32,
    total_token_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_content_token_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thoughts_token_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge: Option<UsageExtension>,
}

/// What Google does not say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageExtension {
    /// Tokens that the reply went on without when the context was full.
    dropped_token_count: u32,
}

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        let (prompt, completion) = (usage.prompt_tokens.0, usage.completion_tokens.0);
        let thoughts = usage.reasoning_tokens.0;
        let some = |count: u32| (count > 0).then_some(count);
        Self {
            prompt_token_count: prompt,
            candidates_token_count: completion.saturating_sub(thoughts),
            total_token_count: u64::from(prompt) + u64::from(completion),
            cached_content_token_count: some(usage.cached_tokens.0),
            thoughts_token_count: some(thoughts),
            hedge: some(usage.dropped_tokens.0).map(|dropped_token_count| UsageExtension {
                dropped_token_count,
            }),
        }
    }
}
