//! What replies look like, whole and in events, read tolerantly: kinds we do not know are read over,
//! and so is what known ones have beside what we use.

use std::time::Duration;

use domain::{BackendError, BadRequest, FinishReason, Usage};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::numbers::Count;
use crate::request_fault::shown;

/// Calls taken per reply.
pub(super) const TOOL_CALLS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BlockKind {
    Text,
    Thinking,
    RedactedThinking,
    ToolUse,
    /// What Anthropic's own tools do (`server_tool_use`, `web_search_tool_result`), and what is new.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize)]
pub(super) struct BlockBody<'a> {
    pub r#type: BlockKind,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub thinking: Option<String>,
    #[serde(default)]
    pub signature: Option<String>,
    #[serde(default)]
    pub data: Option<String>,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(borrow, default)]
    pub input: Option<&'a RawValue>,
}

impl<'a> BlockBody<'a> {
    /// A block of a kind that we do not know may have anything in it.
    pub fn read(raw: &'a RawValue) -> Result<Self, BackendError> {
        #[derive(Deserialize)]
        struct Kind {
            r#type: BlockKind,
        }
        const GARBLED: BackendError = BackendError::Garbled("a content block is malformed");
        let Kind { r#type } = serde_json::from_str(raw.get()).map_err(|_| GARBLED)?;
        if r#type == BlockKind::Unknown {
            return Ok(Self {
                r#type,
                text: None,
                thinking: None,
                signature: None,
                data: None,
                id: None,
                name: None,
                input: None,
            });
        }
        serde_json::from_str(raw.get()).map_err(|_| GARBLED)
    }

    /// The call's id, made up where the provider gave none, and its name.
    pub fn call(&mut self, at: usize) -> Result<(String, String), BackendError> {
        if at >= TOOL_CALLS_MAX {
            return Err(BackendError::Garbled("a reply has too many tool calls"));
        }
        let id = self.id.take().filter(|id| !id.is_empty());
        let id = id.unwrap_or_else(|| format!("toolu_{at}"));
        match self.name.take().filter(|name| !name.is_empty()) {
            Some(name) => Ok((id, name)),
            None => Err(BackendError::Garbled("a tool call has no name")),
        }
    }

    /// The arguments, where the block brings them along.
    pub fn arguments(&self) -> Option<&'a str> {
        let text = self.input.map(RawValue::get)?;
        let is_empty = text == "null"
            || text
                .bytes()
                .filter(|it| !it.is_ascii_whitespace())
                .eq(*b"{}");
        (!is_empty).then_some(text)
    }
}

/// Why a reply ended. `pause_turn` comes with Anthropic's own tools alone: the turn is unfinished.
pub(super) fn finish_reason(word: &str) -> FinishReason {
    match word {
        "max_tokens" | "model_context_window_exceeded" | "pause_turn" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

pub(super) const STOP_SEQUENCE: &str = "stop_sequence";

/// Counts so far. Each is the last that was said: those of `message_delta` are cumulative.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct UsageBody {
    #[serde(default)]
    input_tokens: Option<Count>,
    #[serde(default)]
    cache_creation_input_tokens: Option<Count>,
    #[serde(default)]
    cache_read_input_tokens: Option<Count>,
    #[serde(default)]
    output_tokens: Option<Count>,
    #[serde(default)]
    output_tokens_details: Option<DetailsBody>,
    /// Our own, of another node.
    #[serde(default)]
    hedge: Option<DetailsBody>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct DetailsBody {
    #[serde(default)]
    thinking_tokens: Option<Count>,
    #[serde(default)]
    dropped_tokens: Option<Count>,
}

impl UsageBody {
    /// What is no usage object says nothing.
    pub fn read(raw: &RawValue) -> Option<Self> {
        let is_object = raw.get().starts_with('{');
        is_object.then(|| serde_json::from_str(raw.get()).ok())?
    }

    pub fn or(self, before: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.or(before.input_tokens),
            cache_creation_input_tokens: self
                .cache_creation_input_tokens
                .or(before.cache_creation_input_tokens),
            cache_read_input_tokens: self
                .cache_read_input_tokens
                .or(before.cache_read_input_tokens),
            output_tokens: self.output_tokens.or(before.output_tokens),
            output_tokens_details: self.output_tokens_details.or(before.output_tokens_details),
            hedge: self.hedge.or(before.hedge),
        }
    }
}

impl From<UsageBody> for Usage {
    /// `input_tokens` leave out those of the cache; `domain`'s count all of the prompt's.
    fn from(body: UsageBody) -> Self {
        let details = body.output_tokens_details.unwrap_or_default();
        let cached = Count::tokens(body.cache_read_input_tokens);
        let written = Count::tokens(body.cache_creation_input_tokens);
        let mut prompt = Count::tokens(body.input_tokens);
        prompt.0 = prompt.0.saturating_add(cached.0).saturating_add(written.0);
        Usage {
            prompt_tokens: prompt,
            completion_tokens: Count::tokens(body.output_tokens),
            cached_tokens: cached,
            cache_write_tokens: written,
            reasoning_tokens: Count::tokens(details.thinking_tokens),
            dropped_tokens: Count::tokens(body.hedge.unwrap_or_default().dropped_tokens),
            ..Usage::default()
        }
    }
}

/// An error object that came under a good status, by its type.
pub(super) fn failure(raw: Option<&RawValue>) -> BackendError {
    #[derive(Default, Deserialize)]
    struct ErrorBody {
        #[serde(default)]
        r#type: String,
        #[serde(default)]
        message: String,
    }
    let body = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let body: ErrorBody = body.unwrap_or_default();
    match body.r#type.as_str() {
        "overloaded_error" => BackendError::Overloaded {
            // In the midst of a reply no header can name a wait.
            retry_after: Duration::ZERO,
        },
        "rate_limit_error" => BackendError::RateLimited { retry_after: None },
        "authentication_error" => BackendError::Credentials { status: 401 },
        "billing_error" => BackendError::Credentials { status: 402 },
        "permission_error" => BackendError::Credentials { status: 403 },
        "timeout_error" => BackendError::Failed { status: 504 },
        "invalid_request_error" | "request_too_large" => BackendError::Rejected {
            status: 400,
            reason: BadRequest {
                param: None,
                code: None,
                message: crate::error_words::cut(&body.message),
            },
        },
        _ => BackendError::Failed { status: 500 },
    }
}

/// An error's own word for itself.
pub(super) fn word(text: &str) -> String {
    shown(text).into_owned()
}
