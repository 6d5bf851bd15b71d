//! Encodes a whole reply, as a server.

use domain::{Reply, ReplyChoice, ReplyPiece};

use super::reply_body::{
    CandidateBody, ContentBody, LogprobsBody, MALFORMED_CALL, MALFORMED_CALL_MESSAGE, PartBody,
    ResponseBody, UsageBody, finish_word,
};
use super::seals;
use crate::openai::Framing;

/// A `GenerateContentResponse`. Thoughts are in it only where the caller asked for them.
pub(super) fn encode_reply(framing: &Framing, reply: &Reply, shows_thoughts: bool) -> Vec<u8> {
    let choices = reply.choices.iter();
    let candidates: Vec<CandidateBody<'_>> = choices
        .map(|choice| candidate(choice, shows_thoughts))
        .collect();
    let body = ResponseBody {
        candidates: &candidates,
        usage_metadata: reply.usage.as_ref().map(UsageBody::from),
        model_version: &framing.model,
        response_id: &framing.id,
    };
    serde_json::to_vec(&body).expect("strings and numbers always serialize")
}

fn candidate(choice: &ReplyChoice, shows_thoughts: bool) -> CandidateBody<'_> {
    let mut parts: Vec<PartBody<'_>> = Vec::new();
    // Whether the last part is what a seal that comes now is for.
    let mut may_seal = false;
    for piece in &choice.pieces {
        match piece {
            ReplyPiece::Text(text) => {
                parts.push(PartBody::text(text));
                may_seal = true;
            }
            ReplyPiece::Thought(text) if shows_thoughts => {
                parts.push(PartBody::thought(text));
                may_seal = true;
            }
            ReplyPiece::Thought(_) => may_seal = false,
            ReplyPiece::Seal(seal) => {
                match parts.last_mut().filter(|_| may_seal) {
                    Some(part) => part.thought_signature = Some(seals::write(seal)),
                    None => parts.push(PartBody::seal(seal)),
                }
                may_seal = false;
            }
        }
    }
    let calls: Option<Vec<PartBody<'_>>> = choice.tool_calls.iter().map(PartBody::call).collect();
    let is_malformed = calls.is_none();
    parts.extend(calls.into_iter().flatten());
    CandidateBody {
        content: ContentBody {
            parts,
            role: "model",
        },
        finish_reason: Some(if is_malformed {
            MALFORMED_CALL
        } else {
            finish_word(choice.reason)
        }),
        finish_message: is_malformed.then_some(MALFORMED_CALL_MESSAGE),
        index: choice.choice,
        logprobs_result: LogprobsBody::of(&choice.logprobs),
    }
}
