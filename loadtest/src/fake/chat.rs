//! OpenAI's chats and older completions: the requests as far as they shape a reply, and the replies,
//! whole and as server-sent events.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::content::{Content, End, MustCall, Wishes, texts_of};
use super::record::OpenReply;
use super::script::{Body, Parts, Step, refuse, respond, whole_steps};
use super::{error, json as json_response};

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
    stream_options: Option<StreamOptions>,
    #[serde(default, alias = "max_completion_tokens")]
    max_tokens: Option<u32>,
    #[serde(default)]
    stop: Value,
    #[serde(default)]
    tools: Option<Vec<Value>>,
    #[serde(default)]
    tool_choice: Value,
    #[serde(default)]
    response_format: Value,
}

#[derive(Debug, Deserialize)]
struct AskMessage {
    #[serde(default)]
    role: String,
    #[serde(default)]
    content: Value,
    #[serde(default)]
    tool_calls: Option<Vec<AskCall>>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct AskCall {
    #[serde(default)]
    id: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
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

    /// What OpenAI answers with 400: results of tools that nobody called, and calls without one.
    pub(super) fn fault(&self) -> Option<String> {
        let mut open = HashSet::new();
        for (at, message) in self.messages.iter().enumerate() {
            if message.role == "tool" {
                let id = message.tool_call_id.as_deref().unwrap_or_default();
                if !open.remove(id) {
                    return Some(format!(
                        "messages[{at}]: messages with role 'tool' must be a response to a preceding message \
                         with 'tool_calls'"
                    ));
                }
                continue;
            }
            if !open.is_empty() {
                break;
            }
            let calls = message.tool_calls.iter().flatten();
            open.extend(calls.map(|call| call.id.as_str()));
        }
        (!open.is_empty()).then(|| {
            "an assistant message with 'tool_calls' must be followed by tool messages responding to each \
             'tool_call_id'"
                .to_owned()
        })
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

    fn wishes(&self, behaviour: &Behaviour) -> Wishes<'_> {
        let stops = texts_of(&self.stop);
        let tools = self.tools.iter().flatten().filter_map(|tool| {
            let function = &tool["function"];
            Some((function["name"].as_str()?, &function["parameters"]))
        });
        let must_call = match (
            self.tool_choice.as_str(),
            self.tool_choice["function"]["name"].as_str(),
        ) {
            (_, Some(name)) => MustCall::Tool(name),
            (Some("required"), None) => MustCall::Any,
            (_, None) => MustCall::May,
        };
        Wishes {
            stops,
            tokens_max: self.max_tokens,
            tools: tools.collect(),
            must_call,
            schema: self.response_format["json_schema"].get("schema"),
            begun: if behaviour.continues {
                self.begun()
            } else {
                ""
            },
            thought_tokens: behaviour.thought_tokens.unwrap_or_default(),
        }
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
    content: Content,
    behaviour: Behaviour,
    open: OpenReply,
}

impl Answer {
    pub(super) fn new(ask: &Ask, behaviour: Behaviour, open: OpenReply) -> Self {
        Self {
            model: ask.model.clone(),
            is_text: ask.prompt.is_some(),
            prompt_tokens: ask.prompt_tokens(),
            includes_usage: ask.stream_options.unwrap_or_default().include_usage,
            content: Content::of(&behaviour, &ask.wishes(&behaviour)),
            behaviour,
            open,
        }
    }

    pub(super) async fn whole(self) -> Response<Body> {
        if let Some(refusal) = refuse(&self.behaviour, error).await {
            self.open.complete();
            return refusal;
        }
        let body = self.whole_json();
        let Some(mishap) = &self.behaviour.mishap else {
            self.open.complete();
            return json_response(StatusCode::OK, &body);
        };
        let steps = whole_steps(&body, mishap);
        respond("application/json", Duration::ZERO, steps, self.open)
    }

    pub(super) async fn streamed(self) -> Response<Body> {
        if let Some(refusal) = refuse(&self.behaviour, error).await {
            self.open.complete();
            return refusal;
        }
        let error = json!({"error": {"message": "as the behaviour says", "type": "server_error",
            "param": null, "code": null}});
        let error = Bytes::from(format!("data: {error}\n\n"));
        let steps = self.parts().steps(self.behaviour.mishap.as_ref(), error);
        let gap = self.behaviour.token_gap;
        respond("text/event-stream", gap, steps, self.open)
    }

    fn finish_reason(&self) -> &str {
        match &self.content.end {
            End::Natural | End::Stop(_) => "stop",
            End::Calls => "tool_calls",
            End::Length => "length",
            End::Named(name) => name,
        }
    }

    fn tool_calls(&self) -> Vec<Value> {
        let calls = self.content.calls.iter().enumerate();
        calls
            .map(|(index, call)| {
                json!({"id": call_id(index), "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments.concat()}})
            })
            .collect()
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.content.tokens();
        let prompt_tokens = self.prompt_tokens + self.behaviour.cached_tokens as usize;
        json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": self.behaviour.cached_tokens, "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": self.content.thoughts.len(), "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        })
    }

    fn whole_json(&self) -> String {
        let text = self.content.pieces.concat();
        if self.is_text {
            return json!({
                "id": "cmpl-fake", "object": "text_completion", "created": CREATED,
                "model": self.model,
                "choices": [{"index": 0, "text": text, "logprobs": null,
                    "finish_reason": self.finish_reason()}],
                "usage": self.usage(),
            })
            .to_string();
        }
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if !self.content.thoughts.is_empty() {
            message["reasoning_content"] = self.content.thoughts.concat().into();
        }
        if !self.content.calls.is_empty() {
            message["content"] = Value::Null;
            message["tool_calls"] = self.tool_calls().into();
        }
        json!({
            "id": "chatcmpl-fake", "object": "chat.completion", "created": CREATED,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "logprobs": null,
                "finish_reason": self.finish_reason()}],
            "usage": self.usage(),
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

    /// Everything that a stream sends.
    fn parts(&self) -> Parts {
        let mut tokens = Vec::new();
        let mut token = |delta: &Value| tokens.extend([self.delta(delta, None), Step::Pace]);
        for thought in &self.content.thoughts {
            token(&json!({"reasoning_content": thought}));
        }
        for (index, call) in self.content.calls.iter().enumerate() {
            for (at, piece) in call.arguments.iter().enumerate() {
                // The first says whose arguments follow.
                let mut part = json!({"index": index, "function": {"arguments": piece}});
                if at == 0 {
                    part["id"] = call_id(index).into();
                    part["type"] = "function".into();
                    part["function"]["name"] = call.name.as_str().into();
                }
                token(&json!({"tool_calls": [part]}));
            }
        }
        for piece in &self.content.pieces {
            token(&json!({"content": piece}));
        }
        let mut tail = vec![self.delta(&json!({}), Some(self.finish_reason()))];
        if self.includes_usage {
            tail.push(self.chunk(&json!([]), &self.usage()));
        }
        tail.push(Step::Send(Bytes::from_static(b"data: [DONE]\n\n")));
        let begin = json!({"role": "assistant", "content": "", "refusal": null});
        Parts {
            head: vec![self.delta(&begin, None)],
            tokens,
            tail,
        }
    }
}

fn call_id(index: usize) -> String {
    match index {
        0 => "call_fake".to_owned(),
        more => format!("call_fake_{more}"),
    }
}
