//! Decodes a whole reply, as a client.

use domain::{
    BackendError, Dialect, FinishReason, Reply, ReplyChoice, ReplyPiece, Seal, SealKind, Started,
    ToolCall, Usage,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::reply_shape::{BlockBody, BlockKind, STOP_SEQUENCE, UsageBody, failure, finish_reason};
use crate::passing::{self, is_filled};

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    stop_sequence: Option<String>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Body<'_> {
    /// Whether callers may have it as it is: nothing lacks that the reference has in every message.
    fn is_anthropics(&self) -> bool {
        self.r#type.as_deref() == Some("message")
            && self.role.as_deref() == Some("assistant")
            && is_filled(self.id.as_ref())
            && is_filled(self.model.as_ref())
            && is_filled(self.stop_reason.as_ref())
            && self.usage.is_some()
    }
}

/// Reads a `message` object.
pub(super) fn decode_reply(bytes: &[u8]) -> Result<Reply, BackendError> {
    const NO_MESSAGE: BackendError = BackendError::Garbled("the reply is no message");
    let body: Body<'_> = serde_json::from_slice(bytes).map_err(|_| NO_MESSAGE)?;
    if body.r#type.as_deref() == Some("error") {
        return Err(failure(body.error));
    }
    let is_anthropics = body.is_anthropics();
    let Some(content) = body.content else {
        return Err(NO_MESSAGE);
    };
    let mut choice = ReplyChoice {
        choice: 0,
        pieces: Vec::new(),
        tool_calls: Vec::new(),
        stop_string: None,
        logprobs: Vec::new(),
        reason: FinishReason::Stop,
    };
    for block in content {
        take(&mut choice, BlockBody::read(block)?)?;
    }
    choice.reason = match body.stop_reason.as_deref() {
        None if choice.tool_calls.is_empty() => FinishReason::Stop,
        None => FinishReason::ToolCalls,
        Some(word) => finish_reason(word),
    };
    choice.stop_string = body
        .stop_sequence
        .filter(|_| body.stop_reason.as_deref() == Some(STOP_SEQUENCE));
    Ok(Reply {
        started: Started {
            model: body.model.unwrap_or_default(),
            reply_id: body.id.filter(|id| !id.is_empty()),
            fingerprint: None,
        },
        choices: vec![choice],
        usage: body.usage.and_then(UsageBody::read).map(Usage::from),
        written: is_anthropics.then(|| passing::whole(Dialect::Anthropic, bytes)),
    })
}

fn take(choice: &mut ReplyChoice, mut block: BlockBody<'_>) -> Result<(), BackendError> {
    let filled = |text: &mut Option<String>| text.take().filter(|text| !text.is_empty());
    match block.r#type {
        BlockKind::Text => {
            if let Some(text) = filled(&mut block.text) {
                match choice.pieces.last_mut() {
                    Some(ReplyPiece::Text(last)) => last.push_str(&text),
                    _ => choice.pieces.push(ReplyPiece::Text(text)),
                }
            }
        }
        BlockKind::Thinking => {
            if let Some(thought) = filled(&mut block.thinking) {
                match choice.pieces.last_mut() {
                    Some(ReplyPiece::Thought(last)) => last.push_str(&thought),
                    _ => choice.pieces.push(ReplyPiece::Thought(thought)),
                }
            }
            let signature = filled(&mut block.signature);
            let seal = signature.map(|data| seal(SealKind::Signature, data));
            choice.pieces.extend(seal.map(ReplyPiece::Seal));
        }
        BlockKind::RedactedThinking => {
            let data = filled(&mut block.data);
            let seal = data.map(|data| seal(SealKind::Hidden, data));
            choice.pieces.extend(seal.map(ReplyPiece::Seal));
        }
        BlockKind::ToolUse => {
            let (id, name) = block.call(choice.tool_calls.len())?;
            choice.tool_calls.push(ToolCall {
                id,
                name,
                arguments: block.arguments().unwrap_or("{}").to_owned(),
                seal: None,
            });
        }
        BlockKind::Unknown => {}
    }
    Ok(())
}

pub(super) fn seal(kind: SealKind, data: String) -> Seal {
    Seal {
        of: Dialect::Anthropic,
        kind,
        data,
    }
}
