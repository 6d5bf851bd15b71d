//! Decodes a whole reply, as a client.

use domain::{BackendError, Dialect, Reply, ReplyChoice, ReplyPiece, Started, ToolCall, Usage};

use super::decode_error::{blocked, failure};
use super::reply_shape::{
    Body, CandidateBody, PartBody, TOOL_CALLS_MAX, UNSPEAKABLE_FAULT, finish_reason,
};
use super::seals;
use crate::passing::{self, is_filled};

/// Reads a `GenerateContentResponse`.
///
/// # Errors
/// [`BackendError::Garbled`] for bytes that are none; the error they hold;
/// [`BackendError::ContentRefused`] where the prompt was blocked.
pub(super) fn decode_reply(bytes: &[u8]) -> Result<Reply, BackendError> {
    let body: Body<'_> = serde_json::from_slice(bytes)
        .map_err(|_| BackendError::Garbled("the reply is no generateContent response"))?;
    if let Some(error) = body.error {
        return Err(failure(error.get()));
    }
    let is_googles = is_filled(body.model_version.as_ref());
    let reply_id = body.response_id.filter(|id| !id.is_empty());
    let mut choices = Vec::new();
    for (position, candidate) in body.candidates.unwrap_or_default().into_iter().enumerate() {
        choices.push(read_candidate(position, candidate, reply_id.as_deref())?);
    }
    let block_reason = body.prompt_feedback.and_then(|it| it.block_reason);
    if let (true, Some(word)) = (choices.is_empty(), block_reason) {
        return Err(blocked(&word));
    }
    if choices.is_empty() {
        return Err(BackendError::Garbled("the reply has no candidates"));
    }
    choices.sort_by_key(|choice| choice.choice);
    if choices
        .windows(2)
        .any(|pair| pair[0].choice == pair[1].choice)
    {
        return Err(BackendError::Garbled("two candidates have one index"));
    }
    Ok(Reply {
        started: Started {
            model: body.model_version.unwrap_or_default(),
            reply_id,
            fingerprint: None,
        },
        choices,
        usage: body.usage_metadata.map(Usage::from),
        written: is_googles.then(|| passing::whole(Dialect::Gemini, bytes)),
    })
}

fn read_candidate(
    position: usize,
    mut body: CandidateBody,
    reply_id: Option<&str>,
) -> Result<ReplyChoice, BackendError> {
    let choice = body.choice(position)?;
    let mut pieces: Vec<ReplyPiece> = Vec::new();
    let mut tool_calls = Vec::new();
    let content = body.content.take().unwrap_or_default();
    for mut part in content.parts.unwrap_or_default() {
        if part.holds_unspeakable() {
            return Err(BackendError::Garbled(UNSPEAKABLE_FAULT));
        }
        if part.function_call.is_some() {
            let at = tool_calls.len();
            tool_calls.extend(read_call(&mut part, reply_id, choice, at)?);
            continue;
        }
        let is_thought = part.thought.unwrap_or(false);
        if let Some(text) = part.text.filter(|text| !text.is_empty()) {
            match (pieces.last_mut(), is_thought) {
                (Some(ReplyPiece::Text(last)), false) | (Some(ReplyPiece::Thought(last)), true) => {
                    last.push_str(&text);
                }
                (_, false) => pieces.push(ReplyPiece::Text(text)),
                (_, true) => pieces.push(ReplyPiece::Thought(text)),
            }
        }
        let signature = part.thought_signature.filter(|text| !text.is_empty());
        pieces.extend(signature.map(|text| ReplyPiece::Seal(seals::own(text))));
    }
    let word = body.finish_reason.unwrap_or_default();
    Ok(ReplyChoice {
        choice,
        pieces,
        reason: finish_reason(&word, !tool_calls.is_empty())?,
        tool_calls,
        stop_string: None,
        logprobs: body.logprobs_result.map_or_else(Vec::new, Into::into),
    })
}

fn read_call(
    part: &mut PartBody,
    reply_id: Option<&str>,
    choice: u32,
    at: usize,
) -> Result<Option<ToolCall>, BackendError> {
    let Some(mut call) = part.function_call.take() else {
        return Ok(None);
    };
    if at >= TOOL_CALLS_MAX {
        return Err(BackendError::Garbled("a candidate has too many calls"));
    }
    let signature = part
        .thought_signature
        .take()
        .filter(|text| !text.is_empty());
    Ok(Some(ToolCall {
        name: call.name()?,
        id: call.id(reply_id, choice, at),
        arguments: call.arguments(),
        seal: signature.map(seals::own),
    }))
}
