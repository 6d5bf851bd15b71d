//! Anthropic's messages, by the types that anthropic-sdk-python 2.10.0 has of its published schema (read
//! 2026-11). It refuses what `checks.rs` says.

mod checks;

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::content::{Content, End, MustCall, Wishes};
use super::json as json_response;
use super::record::OpenReply;
use super::script::{Body, Parts, Step, refuse, respond, whole_steps};

pub(super) use checks::{fault, fault_of_prompt};

/// Base64 of no meaning; any other comes back as a 400.
pub(super) const SIGNATURE: &str = "c2lnbmVkIGJ5IHRoZSBmYWtl";

/// Thoughts of a reply whose request asks for them.
const THOUGHT_TOKENS: u32 = 2;

pub(super) const VERSION_HEADER: &str = "anthropic-version";

/// An error as Anthropic writes it.
pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    let body = json!({
        "type": "error", "error": {"type": error_kind(status.as_u16()), "message": message},
        "request_id": "req_fake",
    });
    let mut response = json_response(status, &body.to_string());
    let id = HeaderValue::from_static("req_fake");
    response.headers_mut().insert("request-id", id);
    response
}

fn error_kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// What `/v1/models` says to those who send a version.
pub(super) fn models(names: &[String]) -> String {
    let data = names.iter().map(|name| {
        json!({"type": "model", "id": name, "display_name": name,
            "created_at": "2026-01-01T00:00:00Z"})
    });
    json!({
        "data": data.collect::<Vec<_>>(), "has_more": false,
        "first_id": names.first(), "last_id": names.last(),
    })
    .to_string()
}

/// What `/v1/messages/count_tokens` says: words stand for tokens.
pub(super) fn count(body: &Value) -> String {
    json!({"input_tokens": prompt_tokens(body)}).to_string()
}

/// The text of the last message: of its last text block, or of its last tool's result.
pub(super) fn last_text(body: &Value) -> &str {
    let messages = body["messages"].as_array();
    let last = messages.and_then(|messages| messages.last());
    last.and_then(|message| texts(&message["content"]).last().copied())
        .unwrap_or_default()
}

/// All texts in a content, those of results among them.
fn texts(content: &Value) -> Vec<&str> {
    match content {
        Value::String(text) => vec![text],
        Value::Array(blocks) => blocks
            .iter()
            .flat_map(|block| match block["type"].as_str() {
                Some("text") => block["text"].as_str().into_iter().collect(),
                Some("tool_result") => texts(&block["content"]),
                _ => Vec::new(),
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn prompt_tokens(body: &Value) -> usize {
    let messages = body["messages"].as_array().into_iter().flatten();
    let contents = messages.map(|message| &message["content"]);
    let texts = contents.chain([&body["system"]]).flat_map(texts);
    texts.map(|text| text.split_whitespace().count()).sum()
}

fn wishes<'a>(body: &'a Value, behaviour: &Behaviour) -> Wishes<'a> {
    let tools = body["tools"].as_array().into_iter().flatten();
    let tools = tools.filter_map(|tool| Some((tool["name"].as_str()?, &tool["input_schema"])));
    let choice = &body["tool_choice"];
    let must_call = match (choice["type"].as_str(), choice["name"].as_str()) {
        (Some("tool"), Some(name)) => MustCall::Tool(name),
        (Some("any"), _) => MustCall::Any,
        (_, _) => MustCall::May,
    };
    let stops = body["stop_sequences"].as_array().into_iter().flatten();
    let last = body["messages"].as_array().and_then(|all| all.last());
    let begun = last.filter(|last| behaviour.continues && last["role"] == "assistant");
    let thinks = matches!(
        body["thinking"]["type"].as_str(),
        Some("enabled" | "adaptive")
    );
    Wishes {
        stops: stops.filter_map(Value::as_str).collect(),
        tokens_max: body["max_tokens"]
            .as_u64()
            .and_then(|most| u32::try_from(most).ok()),
        tools: tools.collect(),
        must_call,
        schema: body["output_config"]["format"].get("schema"),
        begun: begun
            .and_then(|last| texts(&last["content"]).last().copied())
            .unwrap_or_default(),
        thought_tokens: if thinks {
            behaviour.thought_tokens.unwrap_or(THOUGHT_TOKENS)
        } else {
            0
        },
    }
}

/// One reply in the making.
pub(super) struct Answer {
    model: Value,
    is_streamed: bool,
    /// The thoughts' text stays with Anthropic.
    omits_thoughts: bool,
    prompt_tokens: usize,
    content: Content,
    behaviour: Behaviour,
    open: OpenReply,
}

impl Answer {
    pub(super) fn new(body: &Value, behaviour: Behaviour, open: OpenReply) -> Self {
        Self {
            model: body["model"].clone(),
            is_streamed: body["stream"] == true,
            omits_thoughts: body["thinking"]["display"] == "omitted",
            prompt_tokens: prompt_tokens(body),
            content: Content::of(&behaviour, &wishes(body, &behaviour)),
            behaviour,
            open,
        }
    }

    pub(super) async fn response(self) -> Response<Body> {
        if let Some(refusal) = refuse(&self.behaviour, error).await {
            self.open.complete();
            return refusal;
        }
        let mishap = self.behaviour.mishap.as_ref();
        if self.is_streamed {
            let error = event(
                &json!({"type": "error", "error": {"type": "overloaded_error",
                "message": "Overloaded"}}),
            );
            let steps = self.parts().steps(mishap, error);
            return respond(
                "text/event-stream",
                self.behaviour.token_gap,
                steps,
                self.open,
            );
        }
        let body = self.message().to_string();
        let Some(mishap) = mishap else {
            self.open.complete();
            return json_response(StatusCode::OK, &body);
        };
        let steps = whole_steps(&body, mishap);
        respond("application/json", Duration::ZERO, steps, self.open)
    }

    fn stop_reason(&self) -> &str {
        match &self.content.end {
            End::Natural => "end_turn",
            End::Calls => "tool_use",
            End::Length => "max_tokens",
            End::Stop(_) => "stop_sequence",
            End::Named(name) => name,
        }
    }

    fn stop_sequence(&self) -> Option<&str> {
        match &self.content.end {
            End::Stop(stop) => Some(stop),
            End::Natural | End::Calls | End::Length | End::Named(_) => None,
        }
    }

    /// What was cached is not in `input_tokens`.
    fn usage(&self, output_tokens: usize) -> Value {
        let Behaviour {
            cached_tokens,
            written_tokens,
            ..
        } = self.behaviour;
        json!({
            "input_tokens": self.prompt_tokens,
            "cache_creation_input_tokens": written_tokens,
            "cache_read_input_tokens": cached_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": written_tokens, "ephemeral_1h_input_tokens": 0,
            },
            "output_tokens": output_tokens,
            "service_tier": "standard",
        })
    }

    fn head(&self, content: &[Value], ended: bool, usage: &Value) -> Value {
        json!({
            "id": "msg_fake", "type": "message", "role": "assistant", "model": self.model,
            "content": content,
            "stop_reason": ended.then(|| self.stop_reason()),
            "stop_sequence": self.stop_sequence().filter(|_| ended),
            "usage": usage,
        })
    }

    fn message(&self) -> Value {
        let mut blocks = Vec::new();
        if !self.content.thoughts.is_empty() {
            let thought = match self.omits_thoughts {
                true => String::new(),
                false => self.content.thoughts.concat(),
            };
            blocks.push(json!({"type": "thinking", "thinking": thought, "signature": SIGNATURE}));
        }
        if !self.content.pieces.is_empty() {
            blocks.push(json!({"type": "text", "text": self.content.pieces.concat()}));
        }
        for (index, call) in self.content.calls.iter().enumerate() {
            let input: Value = serde_json::from_str(&call.arguments.concat()).unwrap_or_default();
            blocks.push(
                json!({"type": "tool_use", "id": call_id(index), "name": call.name,
                "input": input}),
            );
        }
        self.head(&blocks, true, &self.usage(self.content.tokens()))
    }

    /// Everything that a stream sends.
    fn parts(&self) -> Parts {
        let message = self.head(&[], false, &self.usage(1));
        let mut blocks = Blocks::default();
        if !self.content.thoughts.is_empty() {
            blocks.start(&json!({"type": "thinking", "thinking": "", "signature": ""}));
            for thought in self
                .content
                .thoughts
                .iter()
                .filter(|_| !self.omits_thoughts)
            {
                blocks.token(&json!({"type": "thinking_delta", "thinking": thought}));
            }
            blocks.delta(&json!({"type": "signature_delta", "signature": SIGNATURE}));
            blocks.stop();
        }
        if !self.content.pieces.is_empty() {
            blocks.start(&json!({"type": "text", "text": ""}));
            for piece in &self.content.pieces {
                blocks.token(&json!({"type": "text_delta", "text": piece}));
            }
            blocks.stop();
        }
        for (index, call) in self.content.calls.iter().enumerate() {
            blocks.start(
                &json!({"type": "tool_use", "id": call_id(index), "name": call.name,
                "input": {}}),
            );
            blocks.delta(&json!({"type": "input_json_delta", "partial_json": ""}));
            for piece in &call.arguments {
                blocks.token(&json!({"type": "input_json_delta", "partial_json": piece}));
            }
            blocks.stop();
        }
        let delta = json!({"type": "message_delta",
            "delta": {"stop_reason": self.stop_reason(), "stop_sequence": self.stop_sequence()},
            "usage": self.usage(self.content.tokens())});
        Parts {
            head: vec![
                Step::Send(event(&json!({"type": "message_start", "message": message}))),
                Step::Send(event(&json!({"type": "ping"}))),
            ],
            tokens: blocks.steps,
            tail: vec![
                Step::Send(event(&delta)),
                Step::Send(event(&json!({"type": "message_stop"}))),
            ],
        }
    }
}

/// The content of a stream.
#[derive(Default)]
struct Blocks {
    steps: Vec<Step>,
    index: usize,
}

impl Blocks {
    fn send(&mut self, body: &Value) {
        self.steps.push(Step::Send(event(body)));
    }

    fn start(&mut self, block: &Value) {
        self.send(&json!({"type": "content_block_start", "index": self.index,
            "content_block": block}));
    }

    fn delta(&mut self, delta: &Value) {
        self.send(&json!({"type": "content_block_delta", "index": self.index, "delta": delta}));
    }

    fn token(&mut self, delta: &Value) {
        self.delta(delta);
        self.steps.push(Step::Pace);
    }

    fn stop(&mut self) {
        self.send(&json!({"type": "content_block_stop", "index": self.index}));
        self.index += 1;
    }
}

/// Named as its body's type.
fn event(body: &Value) -> Bytes {
    let kind = body["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {kind}\ndata: {body}\n\n"))
}

fn call_id(index: usize) -> String {
    format!("toolu_fake_{index}")
}

/// Whether a request is for this dialect, where others have the same path.
pub(super) fn is_spoken(head: &Head) -> bool {
    head.headers.contains_key(VERSION_HEADER) || head.uri.path().starts_with("/v1/messages")
}
