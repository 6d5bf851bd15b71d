//! Encodes a whole reply, as a server.

use domain::{FinishReason, Reply, ReplyChoice};
use serde::Serialize;

use super::logprobs::LogprobsBody;
use crate::openai::{Framing, UsageBody};

/// A `text_completion` object. `echo` is the prompt, where the reply is to begin with it.
pub(super) fn encode_reply(framing: &Framing, echo: Option<&str>, reply: &Reply) -> Vec<u8> {
    let choices = reply.choices.iter();
    let completion = Completion {
        id: &framing.id,
        object: "text_completion",
        created: framing.created,
        model: &framing.model,
        choices: choices
            .map(|choice| ChoiceBody::of(choice, echo.unwrap_or_default()))
            .collect(),
        usage: reply.usage.as_ref().map(UsageBody::from),
        system_fingerprint: reply.started.fingerprint.as_deref(),
    };
    serde_json::to_vec(&completion).expect("strings and numbers always serialize")
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
    text: String,
    index: u32,
    logprobs: Option<LogprobsBody<'a>>,
    finish_reason: &'static str,
}

impl<'a> ChoiceBody<'a> {
    fn of(choice: &'a ReplyChoice, echo: &str) -> Self {
        let from = echo.chars().count();
        let logprobs =
            (!choice.logprobs.is_empty()).then(|| LogprobsBody::of(&choice.logprobs, from).0);
        Self {
            text: format!("{echo}{}", choice.text()),
            index: choice.choice,
            logprobs,
            finish_reason: finish_reason(choice.reason),
        }
    }
}

/// This dialect knows no calls: a model that makes one has said what it wanted to.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls => FinishReason::Stop.as_label(),
        FinishReason::Length | FinishReason::ContentFilter => reason.as_label(),
    }
}
