//! Decodes a whole reply, as a client.

use domain::{
    BackendError, Dialect, FinishReason, Reply, ReplyChoice, ReplyPiece, Started, ToolCall, Usage,
};

use super::reply_shape::{
    Body, CHOICES_MAX, CallBody, ChoiceBody, Shape, TOOL_CALLS_MAX, failure, finish_reason,
};
use super::seals;
use crate::passing;

/// Reads a `chat.completion` object. A refusal's text is read as answer text.
///
/// # Errors
/// [`BackendError::Garbled`] for bytes that are no chat completion; [`BackendError::Failed`] for
/// an error object that came under a good status.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, BackendError> {
    let body: Body<'_> = serde_json::from_slice(bytes)
        .map_err(|_| BackendError::Garbled("the reply is no chat completion"))?;
    if let Some(error) = body.error {
        return Err(failure(error));
    }
    let is_openais = body.is_openais(Shape::Whole);
    let mut choices = Vec::new();
    for (position, choice) in body.choices.unwrap_or_default().into_iter().enumerate() {
        choices.push(read_choice(position, choice)?);
    }
    if choices.is_empty() {
        return Err(BackendError::Garbled("the reply has no choices"));
    }
    choices.sort_by_key(|choice| choice.choice);
    if choices
        .windows(2)
        .any(|pair| pair[0].choice == pair[1].choice)
    {
        return Err(BackendError::Garbled("two choices have one index"));
    }
    Ok(Reply {
        started: Started {
            model: body.model.0.unwrap_or_default().into_owned(),
            reply_id: owned(body.id.0),
            fingerprint: owned(body.system_fingerprint.0),
        },
        choices,
        usage: body.usage.map(Usage::from),
        written: is_openais.then(|| passing::whole(Dialect::OpenAi, bytes)),
    })
}

fn owned(text: Option<std::borrow::Cow<'_, str>>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(Into::into)
}

fn read_choice(position: usize, mut body: ChoiceBody<'_>) -> Result<ReplyChoice, BackendError> {
    let choice = match body.index {
        Some(index) => index,
        None => u32::try_from(position).unwrap_or(CHOICES_MAX),
    };
    if choice >= CHOICES_MAX {
        return Err(BackendError::Garbled("a choice's index is out of range"));
    }
    let logprobs = body.token_logprobs();
    let Some(mut message) = body.take_message() else {
        return Err(BackendError::Garbled("a choice has no message"));
    };
    let thought = message.thought();
    let text: String = message.texts().collect();
    let mut pieces = Vec::new();
    pieces.extend(thought.map(|thought| ReplyPiece::Thought(thought.into_owned())));
    pieces.extend((!text.is_empty()).then_some(ReplyPiece::Text(text)));

    let calls = message.tool_calls.unwrap_or_default();
    if calls.len() > TOOL_CALLS_MAX {
        return Err(BackendError::Garbled("a choice has too many tool calls"));
    }
    let tool_calls: Vec<ToolCall> = calls
        .into_iter()
        .enumerate()
        .map(|(at, call)| read_call(choice, at, call))
        .collect::<Result<_, _>>()?;
    let reason = match body.finish_reason.take_filled() {
        Some(word) => finish_reason(&word)?,
        None if tool_calls.is_empty() => FinishReason::Stop,
        None => FinishReason::ToolCalls,
    };
    Ok(ReplyChoice {
        choice,
        pieces,
        tool_calls,
        stop_string: None,
        logprobs,
        reason,
    })
}

fn read_call(choice: u32, at: usize, mut call: CallBody<'_>) -> Result<ToolCall, BackendError> {
    let mut function = call.function.unwrap_or_default();
    let Some(name) = function.name.take_filled() else {
        return Err(BackendError::Garbled("a tool call has no function name"));
    };
    let id = match call.id.take_filled() {
        Some(id) => id.into_owned(),
        None => made_up_call_id(choice, at),
    };
    Ok(ToolCall {
        id,
        name: name.into_owned(),
        arguments: function.arguments_text()?,
        seal: seals::read(call.extra_content),
    })
}

/// For providers that give calls no id; callers need one to answer by.
pub(super) fn made_up_call_id(choice: u32, at: usize) -> String {
    format!("call_{choice}_{at}")
}

#[cfg(test)]
mod tests;
