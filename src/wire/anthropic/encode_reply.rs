//! Encodes a whole reply, as a server.

use std::borrow::Cow;

use domain::{Dialect, FinishReason, Reply, ReplyChoice, ReplyPiece, Seal, SealKind};
use serde::Serialize;
use serde_json::value::RawValue;

use super::decode_settings::Asked;
use super::reply_body::{UsageBody, input, stop_reason};
use super::seals;
use crate::openai::Framing;

/// A `message` object of the first choice: this dialect has one.
pub(super) fn encode_reply(framing: &Framing, reply: &Reply, asked: Asked) -> Vec<u8> {
    let choice = reply.choices.first();
    let stop_string = choice.and_then(|choice| choice.stop_string.as_deref());
    let reason = choice.map_or(FinishReason::Stop, |choice| choice.reason);
    let has_calls = choice.is_some_and(|choice| !choice.tool_calls.is_empty());
    let stop_reason = stop_reason(reason, has_calls, stop_string.is_some());
    let message = MessageBody {
        id: &framing.id,
        r#type: "message",
        role: "assistant",
        model: &framing.model,
        content: choice.map_or_else(Vec::new, |choice| blocks(choice, asked)),
        stop_reason,
        stop_sequence: stop_string.filter(|_| stop_reason == "stop_sequence"),
        usage: UsageBody::from(reply.usage.unwrap_or_default()),
    };
    serde_json::to_vec(&message).expect("strings and integers always serialize")
}

/// The answer to a request to count: `{"input_tokens": 7}`.
#[must_use]
pub fn encode_count(tokens: usize) -> Vec<u8> {
    let body = serde_json::json!({ "input_tokens": tokens });
    serde_json::to_vec(&body).expect("integers always serialize")
}

#[derive(Serialize)]
struct MessageBody<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    stop_reason: &'static str,
    stop_sequence: Option<&'a str>,
    usage: UsageBody,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text {
        text: &'a str,
    },
    Thinking {
        thinking: &'a str,
        signature: Cow<'a, str>,
    },
    RedactedThinking {
        data: Cow<'a, str>,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
}

fn blocks(choice: &ReplyChoice, asked: Asked) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut pieces = choice.pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            ReplyPiece::Text(text) if text.is_empty() => {}
            ReplyPiece::Text(text) => blocks.push(Block::Text { text }),
            ReplyPiece::Thought(thought) => {
                let signs = |piece: &&ReplyPiece| matches!(piece, ReplyPiece::Seal(seal) if seal.kind == SealKind::Signature);
                let seal = pieces.next_if(signs).and_then(seal_of);
                blocks.extend(thinking(thought, seal, asked));
            }
            ReplyPiece::Seal(seal) => match seal.kind {
                SealKind::Signature => blocks.extend(thinking("", Some(seal), asked)),
                SealKind::Hidden if may_be_written(seal, asked) => {
                    let data = seals::written(seal);
                    blocks.push(Block::RedactedThinking { data });
                }
                SealKind::Hidden => {}
            },
        }
    }
    for call in &choice.tool_calls {
        blocks.extend(call.seal.as_ref().map(|seal| Block::RedactedThinking {
            data: seals::written_for_call(seal).into(),
        }));
        blocks.push(Block::ToolUse {
            id: &call.id,
            name: &call.name,
            input: input(&call.arguments),
        });
    }
    blocks
}

fn seal_of(piece: &ReplyPiece) -> Option<&Seal> {
    match piece {
        ReplyPiece::Seal(seal) => Some(seal),
        ReplyPiece::Text(_) | ReplyPiece::Thought(_) => None,
    }
}

/// `None` where the caller is to see nothing of it.
fn thinking<'a>(thought: &'a str, seal: Option<&'a Seal>, asked: Asked) -> Option<Block<'a>> {
    let signature = seal.map(seals::written);
    match asked {
        Asked::Thoughts => Some(Block::Thinking {
            thinking: thought,
            signature: signature.unwrap_or_default(),
        }),
        Asked::Signatures => signature.map(|signature| Block::Thinking {
            thinking: "",
            signature,
        }),
        Asked::Nothing => {
            let signature = signature.filter(|_| seal.is_some_and(is_anthropics));
            signature.map(|signature| Block::Thinking {
                thinking: thought,
                signature,
            })
        }
    }
}

/// Whether a seal that stands for itself is written.
pub(super) fn may_be_written(seal: &Seal, asked: Asked) -> bool {
    match asked {
        Asked::Thoughts | Asked::Signatures => true,
        Asked::Nothing => is_anthropics(seal),
    }
}

fn is_anthropics(seal: &Seal) -> bool {
    seal.of == Dialect::Anthropic
}
