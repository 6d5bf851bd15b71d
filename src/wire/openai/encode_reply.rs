//! Encodes a whole reply, as a server.

use domain::{Dialect, Reply, ReplyChoice, TokenLogprob, TokenLogprobs, Usage};
use serde::Serialize;

use super::seals::ExtraContent;

/// What surrounds a reply's content: the same for every chunk of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// `chatcmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answers, as its backend names it; what was asked for where it does not say.
    pub model: String,
    /// True when the caller asked for the usage chunk. Without effect on whole replies.
    pub includes_usage: bool,
}

/// A `chat.completion` object: as its provider wrote it, under the provider's id, where it may be passed
/// on so. `usage` is left out when the backend gave none.
#[must_use]
pub fn encode_reply(framing: &Framing, reply: &Reply) -> Vec<u8> {
    if let Some(written) = reply.written_in(Dialect::OpenAi) {
        return written.to_vec();
    }
    let completion = Completion {
        id: &framing.id,
        object: "chat.completion",
        created: framing.created,
        model: &framing.model,
        choices: reply.choices.iter().map(ChoiceBody::from).collect(),
        usage: reply.usage.as_ref().map(UsageBody::from),
        system_fingerprint: reply.started.fingerprint.as_deref(),
    };
    serde_json::to_vec(&completion).expect("strings and integers always serialize")
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChoiceBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a str>,
}

#[derive(Serialize)]
struct ChoiceBody<'a> {
    index: u32,
    message: MessageBody<'a>,
    logprobs: Option<LogprobsBody<'a>>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct MessageBody<'a> {
    role: &'static str,
    /// Null only beside tool calls.
    content: Option<String>,
    refusal: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallBody<'a>>,
}

#[derive(Serialize)]
struct CallBody<'a> {
    id: &'a str,
    r#type: &'static str,
    function: FunctionBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<ExtraContent<'a>>,
}

#[derive(Serialize)]
struct FunctionBody<'a> {
    name: &'a str,
    arguments: &'a str,
}

impl<'a> From<&'a ReplyChoice> for ChoiceBody<'a> {
    fn from(choice: &'a ReplyChoice) -> Self {
        let text = choice.text();
        let thoughts = choice.thoughts();
        let is_calls_only = text.is_empty() && !choice.tool_calls.is_empty();
        ChoiceBody {
            index: choice.choice,
            message: MessageBody {
                role: "assistant",
                content: (!is_calls_only).then_some(text),
                refusal: (),
                reasoning_content: (!thoughts.is_empty()).then_some(thoughts),
                tool_calls: choice
                    .tool_calls
                    .iter()
                    .map(|call| CallBody {
                        id: &call.id,
                        r#type: "function",
                        function: FunctionBody {
                            name: &call.name,
                            arguments: &call.arguments,
                        },
                        extra_content: call.seal.as_ref().map(ExtraContent::from),
                    })
                    .collect(),
            },
            logprobs: (!choice.logprobs.is_empty())
                .then(|| LogprobsBody::from(choice.logprobs.as_slice())),
            finish_reason: choice.reason.as_label(),
        }
    }
}

/// The `logprobs` object, shared with the stream's chunks.
#[derive(Serialize)]
pub(super) struct LogprobsBody<'a> {
    content: Vec<TokenBody<'a>>,
    refusal: (),
}

#[derive(Serialize)]
struct TokenBody<'a> {
    #[serde(flatten)]
    token: LogprobBody<'a>,
    top_logprobs: Vec<LogprobBody<'a>>,
}

#[derive(Serialize)]
struct LogprobBody<'a> {
    token: &'a str,
    logprob: f64,
    bytes: Option<&'a [u8]>,
}

impl<'a> From<&'a [TokenLogprobs]> for LogprobsBody<'a> {
    fn from(tokens: &'a [TokenLogprobs]) -> Self {
        let content = tokens.iter().map(|one| TokenBody {
            token: LogprobBody::from(&one.token),
            top_logprobs: one.top.iter().map(LogprobBody::from).collect(),
        });
        Self {
            content: content.collect(),
            refusal: (),
        }
    }
}

impl<'a> From<&'a TokenLogprob> for LogprobBody<'a> {
    fn from(one: &'a TokenLogprob) -> Self {
        Self {
            token: &one.text,
            logprob: one.logprob,
            bytes: one.bytes.as_deref(),
        }
    }
}

/// Of tokens, as the responses dialect has them: the bytes are never left out.
pub(crate) fn logprobs_of(tokens: &[TokenLogprobs]) -> serde_json::Value {
    let filled = |one: &TokenLogprob| {
        let mut one = one.clone();
        one.bytes
            .get_or_insert_with(|| one.text.clone().into_bytes());
        one
    };
    let tokens: Vec<TokenLogprobs> = tokens
        .iter()
        .map(|one| TokenLogprobs {
            token: filled(&one.token),
            top: one.top.iter().map(filled).collect(),
        })
        .collect();
    let body = serde_json::to_value(LogprobsBody::from(tokens.as_slice()));
    let mut body = body.expect("strings and finite numbers always serialize");
    body["content"].take()
}

/// The `usage` object, shared with the stream's usage chunk.
#[derive(Serialize)]
pub(crate) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
    #[serde(skip_serializing_if = "Option::is_none")]
    hedge: Option<UsageExtension>,
}

/// What no other provider says.
#[derive(Serialize)]
struct UsageExtension {
    /// Tokens that the reply went on without when the context was full.
    dropped_tokens: u32,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
    /// Zero where it is left out, as OpenAI's document says.
    #[serde(skip_serializing_if = "is_zero")]
    cache_write_tokens: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
    accepted_prediction_tokens: u32,
    rejected_prediction_tokens: u32,
}

impl From<&Usage> for UsageBody {
    fn from(usage: &Usage) -> Self {
        UsageBody {
            prompt_tokens: usage.prompt_tokens.0,
            completion_tokens: usage.completion_tokens.0,
            total_tokens: u64::from(usage.prompt_tokens.0) + u64::from(usage.completion_tokens.0),
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_tokens.0,
                cache_write_tokens: usage.cache_write_tokens.0,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning_tokens.0,
                accepted_prediction_tokens: usage.accepted_prediction_tokens.0,
                rejected_prediction_tokens: usage.rejected_prediction_tokens.0,
            },
            hedge: (usage.dropped_tokens.0 > 0).then_some(UsageExtension {
                dropped_tokens: usage.dropped_tokens.0,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
