//! The one stream every reply travels in, and its grammar.

use std::fmt;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{BackendError, Dialect, Seal, TokenLogprobs, Tokens};

/// One step of a reply.
///
/// Grammar: `Started (Text | Thought | Seal | ToolCall | Logprobs | StopString)* ChoiceEnded+ Usage?` and
/// then the end, or an `Err` at any point and then the end. With several choices, a choice's events may follow another
/// choice's `ChoiceEnded`. A `Written` may stand anywhere before the events that it spells.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum ChatEvent {
    Started(Started),
    Text {
        choice: u32,
        text: String,
    },
    /// Reasoning text, apart from the answer.
    Thought {
        choice: u32,
        text: String,
    },
    /// Vouches for the thought right before it, or stands for one that is not shown.
    Seal {
        choice: u32,
        seal: Seal,
    },
    ToolCall {
        choice: u32,
        index: u32,
        part: ToolCallPart,
    },
    /// How likely the tokens were that what follows of this choice is made of. Where text is held
    /// back they may come before it, never after.
    Logprobs {
        choice: u32,
        tokens: Vec<TokenLogprobs>,
    },
    /// The caller's stop string that ends the choice, right before `ChoiceEnded`, where the backend
    /// says which it was.
    StopString {
        choice: u32,
        text: String,
    },
    ChoiceEnded {
        choice: u32,
        reason: FinishReason,
    },
    Usage(Usage),
    /// The next events in their provider's own words, for callers who read its dialect. Whoever changes
    /// one of them takes it out. Does not travel between processes: no engine writes any. The last of
    /// all, for serde counts a skipped variant when it writes the number of one after it, and not when it
    /// reads that.
    #[serde(skip)]
    Written(Written),
}

impl fmt::Debug for ChatEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatEvent::Started(started) => f.debug_tuple("Started").field(started).finish(),
            ChatEvent::Written(written) => written.fmt(f),
            ChatEvent::Text { choice, text } => write!(f, "Text({choice}, {} bytes)", text.len()),
            ChatEvent::Thought { choice, text } => {
                write!(f, "Thought({choice}, {} bytes)", text.len())
            }
            ChatEvent::Seal { choice, seal } => write!(f, "Seal({choice}, {seal:?})"),
            ChatEvent::ToolCall { choice, index, .. } => write!(f, "ToolCall({choice}, {index})"),
            ChatEvent::StopString { choice, text } => {
                write!(f, "StopString({choice}, {} bytes)", text.len())
            }
            ChatEvent::Logprobs { choice, tokens } => {
                write!(f, "Logprobs({choice}, {} tokens)", tokens.len())
            }
            ChatEvent::ChoiceEnded { choice, reason } => {
                write!(f, "ChoiceEnded({choice}, {reason:?})")
            }
            ChatEvent::Usage(usage) => f.debug_tuple("Usage").field(usage).finish(),
        }
    }
}

impl ChatEvent {
    /// True for events that carry something of the answer.
    #[must_use]
    pub fn is_content(&self) -> bool {
        matches!(
            self,
            ChatEvent::Text { .. }
                | ChatEvent::Thought { .. }
                | ChatEvent::ToolCall { .. }
                | ChatEvent::Logprobs { .. }
        )
    }

    /// The same event as another choice's; one that is of none stays as it is.
    #[must_use]
    pub fn of_choice(mut self, other: u32) -> Self {
        match &mut self {
            ChatEvent::Text { choice, .. }
            | ChatEvent::Thought { choice, .. }
            | ChatEvent::Seal { choice, .. }
            | ChatEvent::ToolCall { choice, .. }
            | ChatEvent::Logprobs { choice, .. }
            | ChatEvent::StopString { choice, .. }
            | ChatEvent::ChoiceEnded { choice, .. } => *choice = other,
            ChatEvent::Started(_) | ChatEvent::Written(_) | ChatEvent::Usage(_) => {}
        }
        self
    }
}

/// A boxed stream of events. Dropping it cancels the work behind it.
pub type ChatStream = BoxStream<'static, Result<ChatEvent, BackendError>>;

/// What a provider wrote, kept so that a caller who reads the same dialect gets every field untouched.
#[derive(Clone, PartialEq)]
pub struct Written {
    pub dialect: Dialect,
    pub extent: Extent,
    pub bytes: Bytes,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.len();
        write!(
            f,
            "Written({:?}, {:?}, {bytes} bytes)",
            self.dialect, self.extent
        )
    }
}

/// How much of a reply was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it, in a body of its own.
    Reply,
    /// One event of a stream, as it stands there with its blank line: what the next `events` events
    /// say.
    Event { events: u32 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The model that answers, as its backend names it.
    pub model: String,
    /// The backend's own id of the reply, if it gave one.
    pub reply_id: Option<String>,
    /// OpenAI's `system_fingerprint`, if the backend gave one.
    pub fingerprint: Option<String>,
}

/// A piece of one tool call. The first piece of an index carries `id` and `name`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCallPart {
    pub id: Option<String>,
    pub name: Option<String>,
    /// The next stretch of the arguments' JSON text; may be empty.
    pub arguments: String,
    pub seal: Option<Seal>,
}

impl fmt::Debug for ToolCallPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCallPart")
            .field("name", &self.name)
            .field("arguments", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
}

impl FinishReason {
    /// OpenAI's word for it.
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::ContentFilter => "content_filter",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: Tokens,
    pub completion_tokens: Tokens,
    /// Prompt tokens that were served from a prefix cache; part of `prompt_tokens`.
    pub cached_tokens: Tokens,
    /// Prompt tokens that the provider put into its prefix cache, at a price of its own; part of
    /// `prompt_tokens`.
    pub cache_write_tokens: Tokens,
    /// Reasoning tokens; part of `completion_tokens`.
    pub reasoning_tokens: Tokens,
    /// Tokens of the request's prediction that the reply took over; part of `completion_tokens`.
    pub accepted_prediction_tokens: Tokens,
    /// Tokens of it that were tried and are not in the reply.
    pub rejected_prediction_tokens: Tokens,
    /// Tokens of prompt and reply that the model no longer saw at the reply's end, because the context
    /// was full and the reply went on without them.
    pub dropped_tokens: Tokens,
}

/// Watches a stream and says where it leaves the grammar.
#[derive(Debug, Default)]
pub struct Grammar {
    has_started: bool,
    ended: Vec<u32>,
    open: Vec<u32>,
    has_usage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("the first event is not Started")]
    NotStarted,
    #[error("Started came twice")]
    StartedTwice,
    #[error("an event came after Usage")]
    AfterUsage,
    #[error("choice {0} went on after its end")]
    AfterEnd(u32),
    #[error("choice {0} never ended")]
    NeverEnded(u32),
    #[error("no choice ended")]
    NoChoice,
}

impl Grammar {
    /// Takes the next event.
    ///
    /// # Errors
    /// The first breach; the watcher is then of no further use.
    pub fn take(&mut self, event: &ChatEvent) -> Result<(), GrammarError> {
        if self.has_usage {
            return Err(GrammarError::AfterUsage);
        }
        let choice = match event {
            ChatEvent::Written(_) => return Ok(()),
            ChatEvent::Started(_) if self.has_started => return Err(GrammarError::StartedTwice),
            ChatEvent::Started(_) => {
                self.has_started = true;
                return Ok(());
            }
            _ if !self.has_started => return Err(GrammarError::NotStarted),
            ChatEvent::Usage(_) => {
                self.has_usage = true;
                return self.finish();
            }
            ChatEvent::Text { choice, .. }
            | ChatEvent::Thought { choice, .. }
            | ChatEvent::Seal { choice, .. }
            | ChatEvent::ToolCall { choice, .. }
            | ChatEvent::Logprobs { choice, .. }
            | ChatEvent::StopString { choice, .. }
            | ChatEvent::ChoiceEnded { choice, .. } => *choice,
        };
        if self.ended.contains(&choice) {
            return Err(GrammarError::AfterEnd(choice));
        }
        if matches!(event, ChatEvent::ChoiceEnded { .. }) {
            self.open.retain(|open| *open != choice);
            self.ended.push(choice);
        } else if !self.open.contains(&choice) {
            self.open.push(choice);
        }
        Ok(())
    }

    /// Checks that the stream may end here without an error.
    ///
    /// # Errors
    /// A choice that never ended, or none at all.
    pub fn finish(&self) -> Result<(), GrammarError> {
        if !self.has_started {
            return Err(GrammarError::NotStarted);
        }
        if let Some(choice) = self.open.first() {
            return Err(GrammarError::NeverEnded(*choice));
        }
        if self.ended.is_empty() {
            return Err(GrammarError::NoChoice);
        }
        Ok(())
    }
}
