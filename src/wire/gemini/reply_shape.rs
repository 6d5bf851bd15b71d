//! What Google's replies look like, whole and in chunks: one shape for both.

use domain::{BackendError, FinishReason, TokenLogprob, TokenLogprobs, Usage};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::numbers::{Count, sum};

/// The highest `index` of a candidate taken, plus one. OpenAI's `n` ends at 128.
pub(super) const CHOICES_MAX: u32 = 128;
/// Calls taken per candidate.
pub(super) const TOOL_CALLS_MAX: usize = 256;
/// Alternatives taken per token.
const TOP_LOGPROBS_MAX: usize = 20;
/// The characters of a reply's id that ids of its calls repeat.
const ID_CHARS_MAX: usize = 24;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    #[serde(default)]
    pub candidates: Option<Vec<CandidateBody>>,
    #[serde(default)]
    pub prompt_feedback: Option<FeedbackBody>,
    #[serde(default)]
    pub usage_metadata: Option<UsageBody>,
    #[serde(default)]
    pub model_version: Option<String>,
    #[serde(default)]
    pub response_id: Option<String>,
    #[serde(borrow, default)]
    pub error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FeedbackBody {
    #[serde(default)]
    pub block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CandidateBody {
    #[serde(default)]
    pub index: Option<u32>,
    #[serde(default)]
    pub content: Option<ContentBody>,
    #[serde(default)]
    pub finish_reason: Option<String>,
    #[serde(default)]
    pub logprobs_result: Option<LogprobsBody>,
}

impl CandidateBody {
    /// Its choice. A candidate without an index stands at its place in the list.
    ///
    /// # Errors
    /// [`BackendError::Garbled`] for one that is out of range.
    pub fn choice(&self, position: usize) -> Result<u32, BackendError> {
        let choice = match self.index {
            Some(index) => index,
            None => u32::try_from(position).unwrap_or(CHOICES_MAX),
        };
        if choice >= CHOICES_MAX {
            return Err(BackendError::Garbled("a candidate's index is out of range"));
        }
        Ok(choice)
    }
}

#[derive(Default, Deserialize)]
pub(super) struct ContentBody {
    #[serde(default)]
    pub parts: Option<Vec<PartBody>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PartBody {
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub thought: Option<bool>,
    #[serde(default)]
    pub thought_signature: Option<String>,
    #[serde(default)]
    pub function_call: Option<CallBody>,
    #[serde(default)]
    inline_data: Option<IgnoredAny>,
    #[serde(default)]
    file_data: Option<IgnoredAny>,
    #[serde(default)]
    function_response: Option<IgnoredAny>,
    #[serde(default)]
    executable_code: Option<IgnoredAny>,
    #[serde(default)]
    code_execution_result: Option<IgnoredAny>,
    #[serde(default)]
    tool_call: Option<IgnoredAny>,
    #[serde(default)]
    tool_response: Option<IgnoredAny>,
}

impl PartBody {
    /// What there is no event for. Without a word it would be missing from the reply.
    pub fn holds_unspeakable(&self) -> bool {
        let others = [
            &self.inline_data,
            &self.file_data,
            &self.function_response,
            &self.executable_code,
            &self.code_execution_result,
            &self.tool_call,
            &self.tool_response,
        ];
        others.iter().any(|other| other.is_some())
    }
}

pub(super) const UNSPEAKABLE_FAULT: &str =
    "the reply holds what cannot be passed on: an image, a file, or code that the provider ran";

#[derive(Deserialize)]
pub(super) struct CallBody {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub args: Option<Map<String, Value>>,
}

impl CallBody {
    /// # Errors
    /// [`BackendError::Garbled`] for a call of nothing.
    pub fn name(&mut self) -> Result<String, BackendError> {
        let name = self.name.take().filter(|name| !name.is_empty());
        name.ok_or(BackendError::Garbled("a function call has no name"))
    }

    /// Google's id, or one made of the reply's: ids are to differ from those of earlier turns.
    pub fn id(&mut self, reply_id: Option<&str>, choice: u32, at: usize) -> String {
        let given = self.id.take().filter(|id| !id.is_empty());
        given.unwrap_or_else(|| {
            let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-".contains(*letter);
            let reply: String = reply_id
                .unwrap_or_default()
                .chars()
                .filter(is_plain)
                .take(ID_CHARS_MAX)
                .collect();
            match reply.as_str() {
                "" => format!("call_{choice}_{at}"),
                reply => format!("call_{reply}_{choice}_{at}"),
            }
        })
    }

    pub fn arguments(&mut self) -> String {
        Value::Object(self.args.take().unwrap_or_default()).to_string()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogprobsBody {
    #[serde(default)]
    chosen_candidates: Option<Vec<LogprobBody>>,
    #[serde(default)]
    top_candidates: Option<Vec<TopBody>>,
}

#[derive(Deserialize)]
struct TopBody {
    #[serde(default)]
    candidates: Option<Vec<LogprobBody>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogprobBody {
    #[serde(default)]
    token: String,
    #[serde(default)]
    log_probability: f64,
}

impl From<LogprobBody> for TokenLogprob {
    fn from(body: LogprobBody) -> Self {
        let is_whole = !body.token.contains(char::REPLACEMENT_CHARACTER);
        Self {
            bytes: is_whole.then(|| body.token.as_bytes().to_vec()),
            text: body.token,
            logprob: body.log_probability.max(TokenLogprob::LEAST),
        }
    }
}

impl From<LogprobsBody> for Vec<TokenLogprobs> {
    fn from(body: LogprobsBody) -> Self {
        let mut tops = body.top_candidates.unwrap_or_default().into_iter();
        let chosen = body.chosen_candidates.unwrap_or_default().into_iter();
        chosen
            .map(|token| {
                let top = tops
                    .next()
                    .and_then(|top| top.candidates)
                    .unwrap_or_default();
                let top = top.into_iter().take(TOP_LOGPROBS_MAX);
                TokenLogprobs {
                    token: token.into(),
                    top: top.map(TokenLogprob::from).collect(),
                }
            })
            .collect()
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageBody {
    #[serde(default)]
    prompt_token_count: Option<Count>,
    /// What Google's own tools said, which the model read.
    #[serde(default)]
    tool_use_prompt_token_count: Option<Count>,
    #[serde(default)]
    cached_content_token_count: Option<Count>,
    /// Without thoughts.
    #[serde(default)]
    candidates_token_count: Option<Count>,
    #[serde(default)]
    thoughts_token_count: Option<Count>,
}

impl From<UsageBody> for Usage {
    fn from(body: UsageBody) -> Self {
        let thoughts = Count::tokens(body.thoughts_token_count);
        let tools = Count::tokens(body.tool_use_prompt_token_count);
        Usage {
            prompt_tokens: sum(Count::tokens(body.prompt_token_count), tools),
            completion_tokens: sum(Count::tokens(body.candidates_token_count), thoughts),
            cached_tokens: Count::tokens(body.cached_content_token_count),
            reasoning_tokens: thoughts,
            ..Usage::default()
        }
    }
}

/// A candidate's end.
///
/// # Errors
/// Words that mean that the reply is not whole.
pub(super) fn finish_reason(word: &str, has_calls: bool) -> Result<FinishReason, BackendError> {
    match word {
        "MAX_TOKENS" => Ok(FinishReason::Length),
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR"
        | "OTHER" => Ok(FinishReason::ContentFilter),
        "MALFORMED_FUNCTION_CALL" => Err(BackendError::Garbled(
            "the model wrote a function call that is none",
        )),
        "UNEXPECTED_TOOL_CALL" | "TOO_MANY_TOOL_CALLS" => Err(BackendError::Garbled(
            "the model called what it was not given",
        )),
        "MALFORMED_RESPONSE" => Err(BackendError::Garbled("the model's reply is malformed")),
        _ if has_calls => Ok(FinishReason::ToolCalls),
        _ => Ok(FinishReason::Stop),
    }
}
