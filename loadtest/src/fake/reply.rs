//! The replies themselves, whole and as server-sent events.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Mishap};
use super::record::OpenReply;
use super::{error, json as json_response};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Constant, so that replies can be compared.
const CREATED: u64 = 1_700_000_000;

/// The part of a request that shapes the reply.
#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    model: String,
    #[serde(default)]
    messages: Vec<AskMessage>,
    /// Of OpenAI's older completions, in place of messages: a text, or a list of one.
    #[serde(default)]
    prompt: Option<Value>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
}

#[derive(Debug, Deserialize)]
struct AskMessage {
    #[serde(default)]
    role: String,
    #[serde(default)]
    content: Value,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Ask {
    pub(super) fn is_streamed(&self) -> bool {
        self.stream
    }

    /// The last message's text, or its first text part; or the prompt.
    pub(super) fn last_text(&self) -> &str {
        if let Some(prompt) = &self.prompt {
            return text_of_prompt(prompt);
        }
        let content = self.messages.last().map(|message| &message.content);
        match content {
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => parts
                .iter()
                .find_map(|part| part.get("text").and_then(Value::as_str))
                .unwrap_or_default(),
            _ => "",
        }
    }

    /// What the reply is to go on with, where the assistant's message is the last.
    fn begun(&self) -> &str {
        match self.messages.last() {
            Some(last) if last.role == "assistant" => last.content.as_str().unwrap_or_default(),
            _ => "",
        }
    }

    /// Words stand for tokens.
    fn prompt_tokens(&self) -> usize {
        let messages = self.messages.iter();
        messages
            .filter_map(|message| message.content.as_str())
            .chain(self.prompt.as_ref().map(text_of_prompt))
            .map(|text| text.split_whitespace().count())
            .sum()
    }
}

fn text_of_prompt(prompt: &Value) -> &str {
    let only = prompt.get(0).unwrap_or(prompt);
    only.as_str().unwrap_or_default()
}

/// What `/v1/models` says.
pub(super) fn models(names: &[String]) -> String {
    let data: Vec<Value> = names
        .iter()
        .map(|name| json!({"id": name, "object": "model", "created": CREATED, "owned_by": "fake"}))
        .collect();
    json!({"object": "list", "data": data}).to_string()
}

/// One reply in the making.
pub(super) struct Answer {
    model: String,
    /// A text's continuation, and no chat's next message.
    is_text: bool,
    prompt_tokens: usize,
    includes_usage: bool,
    /// How much of the text is there already.
    begun: String,
    behaviour: Behaviour,
    open: OpenReply,
}

impl Answer {
    pub(super) fn new(ask: &Ask, behaviour: Behaviour, open: OpenReply) -> Self {
        Self {
            model: ask.model.clone(),
            is_text: ask.prompt.is_some(),
            prompt_tokens: ask.prompt_tokens(),
            includes_usage: ask.stream_options.include_usage,
            begun: if behaviour.continues {
                ask.begun().to_owned()
            } else {
                String::new()
            },
            behaviour,
            open,
        }
    }

    pub(super) async fn whole(self) -> Response<Body> {
        if let Some(refusal) = self.refuse().await {
            return refusal;
        }
        let body = self.whole_json();
        let Some(mishap) = self.behaviour.mishap.clone() else {
            self.open.complete();
            return json_response(StatusCode::OK, &body);
        };
        let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
        let steps = match mishap {
            Mishap::CutAfter(_) | Mishap::CutAtByte(_) => {
                vec![Step::Send(half), Step::Break]
            }
            Mishap::HangAfter(_) => vec![Step::Send(half), Step::Hang],
            Mishap::EndEarly(_) => vec![Step::Send(half)],
            Mishap::Garbage => vec![Step::Send(Bytes::from_static(b"<html>busy</html>"))],
            Mishap::Status { .. } | Mishap::Hang | Mishap::Unreadable(_) => Vec::new(),
        };
        self.respond("application/json", Duration::ZERO, steps)
    }

    pub(super) async fn streamed(self) -> Response<Body> {
        if let Some(refusal) = self.refuse().await {
            return refusal;
        }
        let steps = self.events();
        let gap = self.behaviour.token_gap;
        self.respond("text/event-stream", gap, steps)
    }

    /// Waits as told, and answers the mishaps that come before any success.
    async fn refuse(&self) -> Option<Response<Body>> {
        if !self.behaviour.head_delay.is_zero() {
            tokio::time::sleep(self.behaviour.head_delay).await;
        }
        let refusal = match self.behaviour.mishap.as_ref()? {
            Mishap::Status {
                status,
                retry_after_s,
            } => {
                let status =
                    StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut refusal = error(status, "as the behaviour says");
                if let Some(seconds) = retry_after_s {
                    refusal
                        .headers_mut()
                        .insert(RETRY_AFTER, HeaderValue::from(*seconds));
                }
                refusal
            }
            Mishap::Unreadable(why) => error(StatusCode::BAD_REQUEST, why),
            Mishap::Hang => std::future::pending().await,
            Mishap::CutAfter(_)
            | Mishap::CutAtByte(_)
            | Mishap::Garbage
            | Mishap::EndEarly(_)
            | Mishap::HangAfter(_) => return None,
        };
        self.open.complete();
        Some(refusal)
    }

    /// The reply's text, one piece a token.
    fn pieces(&self) -> Vec<String> {
        if self.behaviour.call.is_some() {
            return Vec::new();
        }
        let counted = || (0..self.behaviour.tokens).map(|index| format!("t{index} "));
        let text = match &self.behaviour.text {
            Some(text) => text.clone(),
            None => counted().collect(),
        };
        // What is no beginning of it is answered with all of it: that shows.
        let rest = text.strip_prefix(self.begun.as_str()).unwrap_or(&text);
        rest.split_inclusive(' ').map(str::to_owned).collect()
    }

    fn finish_reason(&self) -> &'static str {
        match self.behaviour.call {
            Some(_) => "tool_calls",
            None => "stop",
        }
    }

    fn tool_calls(&self) -> Option<Value> {
        let name = self.behaviour.call.as_ref()?;
        Some(json!([{"index": 0, "id": "call_fake", "type": "function",
            "function": {"name": name, "arguments": "{\"place\":\"Lisbon\"}"}}]))
    }

    fn usage(&self, completion_tokens: usize) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
        })
    }

    fn whole_json(&self) -> String {
        let pieces = self.pieces();
        if self.is_text {
            return json!({
                "id": "cmpl-fake", "object": "text_completion", "created": CREATED,
                "model": self.model,
                "choices": [{"index": 0, "text": pieces.concat(), "logprobs": null,
                    "finish_reason": self.finish_reason()}],
                "usage": self.usage(pieces.len()),
            })
            .to_string();
        }
        let text = pieces.concat();
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if let Some(calls) = self.tool_calls() {
            message["content"] = Value::Null;
            message["tool_calls"] = calls;
        }
        json!({
            "id": "chatcmpl-fake", "object": "chat.completion", "created": CREATED,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": null,
                "finish_reason": self.finish_reason()}],
            "usage": self.usage(pieces.len()),
        })
        .to_string()
    }

    fn chunk(&self, choices: &Value, usage: &Value) -> Step {
        let (id, object) = match self.is_text {
            true => ("cmpl-fake", "text_completion"),
            false => ("chatcmpl-fake", "chat.completion.chunk"),
        };
        let mut chunk = json!({
            "id": id, "object": object, "created": CREATED,
            "model": self.model, "choices": choices,
        });
        if self.includes_usage {
            chunk["usage"] = usage.clone();
        }
        Step::Send(Bytes::from(format!("data: {chunk}\n\n")))
    }

    fn delta(&self, delta: &Value, reason: Option<&str>) -> Step {
        let choices = match self.is_text {
            true => {
                let text = delta["content"].as_str().unwrap_or_default();
                json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": reason}])
            }
            false => {
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}])
            }
        };
        self.chunk(&choices, &Value::Null)
    }

    /// Everything a stream sends, up to its mishap.
    fn events(&self) -> Vec<Step> {
        let pieces = self.pieces();
        let begin = json!({"role": "assistant", "content": "", "refusal": null});
        let mut steps = vec![self.delta(&begin, None)];
        if let Some(calls) = self.tool_calls() {
            steps.push(self.delta(&json!({"tool_calls": calls}), None));
        }
        for piece in &pieces {
            steps.push(self.delta(&json!({"content": piece}), None));
            steps.push(Step::Pace);
        }
        // The role's event, then two steps a token.
        let after = |tokens: u32| 1 + 2 * tokens as usize;
        let (keep, last) = match &self.behaviour.mishap {
            Some(Mishap::CutAfter(tokens)) => (after(*tokens), Some(Step::Break)),
            Some(Mishap::HangAfter(tokens)) => (after(*tokens), Some(Step::Hang)),
            Some(Mishap::EndEarly(tokens)) => (after(*tokens), None),
            Some(Mishap::Garbage) => (1, Some(Step::garbage())),
            Some(
                Mishap::Status { .. } | Mishap::Hang | Mishap::Unreadable(_) | Mishap::CutAtByte(_),
            )
            | None => {
                steps.push(self.delta(&json!({}), Some(self.finish_reason())));
                if self.includes_usage {
                    steps.push(self.chunk(&json!([]), &self.usage(pieces.len())));
                }
                steps.push(Step::Send(Bytes::from_static(b"data: [DONE]\n\n")));
                return match self.behaviour.mishap {
                    Some(Mishap::CutAtByte(bytes)) => cut_at(bytes as usize, steps),
                    _ => steps,
                };
            }
        };
        steps.truncate(keep);
        steps.extend(last);
        steps
    }

    fn respond(
        self,
        content_type: &'static str,
        gap: Duration,
        steps: Vec<Step>,
    ) -> Response<Body> {
        let script = Script {
            steps: steps.into_iter(),
            gap,
            open: self.open,
        };
        let frames = stream::unfold(script, Script::next_frame);
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

/// The steps up to that many bytes, and a break; all of them where they are fewer.
fn cut_at(mut bytes: usize, steps: Vec<Step>) -> Vec<Step> {
    let mut kept = Vec::new();
    for step in steps {
        match step {
            Step::Send(sent) if sent.len() > bytes => {
                kept.extend([Step::Send(sent.slice(..bytes)), Step::Break]);
                return kept;
            }
            Step::Send(sent) => {
                bytes -= sent.len();
                kept.push(Step::Send(sent));
            }
            other => kept.push(other),
        }
    }
    kept
}

/// What a body does next.
#[derive(Debug)]
enum Step {
    Send(Bytes),
    /// Waits for the token gap.
    Pace,
    /// Breaks the connection.
    Break,
    Hang,
}

impl Step {
    fn garbage() -> Step {
        Step::Send(Bytes::from_static(b"data: {\"choices\": [{\"del\n\n"))
    }
}

/// A body being sent. Dropped before its last step, it counts as abandoned.
#[derive(Debug)]
struct Script {
    steps: std::vec::IntoIter<Step>,
    gap: Duration,
    open: OpenReply,
}

impl Script {
    async fn next_frame(mut self) -> Option<(Result<Frame<Bytes>, io::Error>, Self)> {
        let frame = loop {
            let Some(step) = self.steps.next() else {
                self.open.complete();
                return None;
            };
            match step {
                Step::Send(bytes) => break Ok(Frame::data(bytes)),
                Step::Pace if self.gap.is_zero() => {}
                Step::Pace => tokio::time::sleep(self.gap).await,
                Step::Break => {
                    // What was sent so far must leave first: hyper drops its buffer with the error.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    self.open.complete();
                    break Err(io::ErrorKind::ConnectionReset.into());
                }
                Step::Hang => std::future::pending().await,
            }
        };
        Some((frame, self))
    }
}
