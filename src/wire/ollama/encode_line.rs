//! The objects that a reply is made of: one for a whole reply, one a line in a stream.

use domain::{FinishReason, TokenLogprob, TokenLogprobs, ToolCall, Usage};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ReplyTimes;

/// Which endpoint's: they differ in where a reply's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Generate,
}

#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub model: &'a str,
    pub created_at: &'a str,
    #[serde(flatten)]
    pub said: Said<'a>,
    pub done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<LogprobsBody<'a>>,
    #[serde(flatten)]
    pub counts: Option<Counts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Notes<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Said<'a> {
    Chat {
        message: MessageBody<'a>,
    },
    Generate {
        response: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        thinking: &'a str,
    },
}

impl<'a> Said<'a> {
    /// Calls are for chats alone: a prompt offers no tools.
    /// Their places among the reply's calls count from `first`.
    pub fn of(
        form: Form,
        text: &'a str,
        thought: &'a str,
        calls: &'a [ToolCall],
        first: usize,
    ) -> Self {
        match form {
            Form::Chat => Said::Chat {
                message: MessageBody {
                    role: "assistant",
                    content: text,
                    thinking: thought,
                    tool_calls: (first..).zip(calls).map(CallBody::from).collect(),
                },
            },
            Form::Generate => Said::Generate {
                response: text,
                thinking: thought,
            },
        }
    }
}

#[derive(Serialize)]
pub(super) struct MessageBody<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallBody<'a>>,
}

#[derive(Serialize)]
struct CallBody<'a> {
    id: &'a str,
    function: FunctionBody<'a>,
}

#[derive(Serialize)]
struct FunctionBody<'a> {
    index: usize,
    name: &'a str,
    arguments: Arguments<'a>,
}

impl<'a> From<(usize, &'a ToolCall)> for CallBody<'a> {
    fn from((index, call): (usize, &'a ToolCall)) -> Self {
        CallBody {
            id: &call.id,
            function: FunctionBody {
                index,
                name: &call.name,
                arguments: Arguments::of(&call.arguments),
            },
        }
    }
}

/// The object that the model wrote, as it wrote it; what is none is told in one.
#[derive(Serialize)]
#[serde(untagged)]
enum Arguments<'a> {
    Object(&'a RawValue),
    Unfolded(Value),
    Text { arguments: &'a str },
}

impl<'a> Arguments<'a> {
    fn of(text: &'a str) -> Self {
        let text = if text.trim_ascii().is_empty() {
            "{}"
        } else {
            text
        };
        let is_folded = text.contains(['\n', '\r']);
        match serde_json::from_str::<&RawValue>(text) {
            // A line is a line.
            Ok(raw) if raw.get().starts_with('{') && is_folded => serde_json::from_str(text)
                .map_or(Arguments::Text { arguments: text }, |value| {
                    Arguments::Unfolded(value)
                }),
            Ok(raw) if raw.get().starts_with('{') => Arguments::Object(raw),
            Ok(_) | Err(_) => Arguments::Text { arguments: text },
        }
    }
}

/// `logprobs`, with bytes as numbers.
#[derive(Serialize)]
pub(super) struct LogprobsBody<'a> {
    #[serde(flatten)]
    token: LogprobBody<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<LogprobBody<'a>>,
}

#[derive(Serialize)]
struct LogprobBody<'a> {
    token: &'a str,
    logprob: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<&'a [u8]>,
}

impl<'a> LogprobsBody<'a> {
    pub fn all(tokens: &'a [TokenLogprobs]) -> Vec<Self> {
        let body = |one: &'a TokenLogprob| LogprobBody {
            token: &one.text,
            logprob: one.logprob,
            bytes: one.bytes.as_deref(),
        };
        let bodies = tokens.iter().map(|one| LogprobsBody {
            token: body(&one.token),
            top_logprobs: one.top.iter().map(body).collect(),
        });
        bodies.collect()
    }
}

/// What only the last object has. Durations are nanoseconds, and those that nobody knows are not there,
/// as Ollama leaves out what is 0.
#[derive(Serialize)]
pub(super) struct Counts {
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_eval_count: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_count: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counts {
    pub fn of(times: &ReplyTimes, usage: Option<&Usage>) -> Self {
        Self {
            total_duration: nanoseconds(times.total),
            load_duration: nanoseconds(times.load),
            prompt_eval_count: usage.map(|usage| usage.prompt_tokens.0),
            prompt_eval_duration: nanoseconds(times.prompt),
            eval_count: usage.map(|usage| usage.completion_tokens.0),
            eval_duration: nanoseconds(times.reply),
        }
    }
}

pub(super) fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What could not be told in the answer's head.
pub(super) struct Notes<'a>(pub &'a [(String, String)]);

impl<'a> Notes<'a> {
    pub fn unless_empty(notes: &'a [(String, String)]) -> Option<Self> {
        (!notes.is_empty()).then_some(Self(notes))
    }
}

impl Serialize for Notes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, text)| (name, text)))
    }
}

pub(super) fn done_reason(reason: FinishReason) -> &'static str {
    match reason {
        // A model that calls a tool has said what it wanted to.
        FinishReason::Stop | FinishReason::ToolCalls => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content_filter",
    }
}
