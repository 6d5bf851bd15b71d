//! A chat request, free of any dialect.

use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{ModelAlias, Tokens};

/// Fields that no room interprets, by name, in the order they came. They take part in cache keys
/// and masking, and are forwarded only to the dialect they came from.
pub type Extra = Map<String, Value>;

/// The wire format a request came in, or leaves in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    OpenAi,
}

/// The request's body as received, kept so that a provider of the same dialect gets every field
/// untouched. Dropped as soon as anything in the request was masked.
#[derive(Clone)]
pub struct SourceBody {
    pub dialect: Dialect,
    pub bytes: Bytes,
}

impl fmt::Debug for SourceBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceBody")
            .field("dialect", &self.dialect)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// One chat request. `messages` is never empty: the codecs refuse such a body.
#[derive(Clone)]
pub struct ChatRequest {
    pub model: ModelAlias,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    pub parallel_tool_calls: Option<bool>,
    pub sampling: Sampling,
    pub format: OutputFormat,
    /// The caller's bound on generated tokens; `None` leaves it to the model.
    pub output_tokens_max: Option<Tokens>,
    /// How many choices are asked for; at least 1.
    pub choices: u32,
    pub delivery: Delivery,
    pub extra: Extra,
    pub source: Option<SourceBody>,
}

impl fmt::Debug for ChatRequest {
    /// Shape only: a request's text never reaches a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequest")
            .field("model", &self.model)
            .field("messages", &self.messages.len())
            .field("tools", &self.tools.len())
            .field("choices", &self.choices)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

impl ChatRequest {
    /// Every text a person may have written, in reading order: message parts, names, arguments of
    /// tool calls, tools' descriptions and schemas, stop strings, uninterpreted parts and fields.
    /// Images are left out: they are addresses or bytes. Scanning reads through this; `texts_mut`
    /// must visit the same places.
    pub fn texts(&self, visit: &mut dyn FnMut(&str)) {
        for message in &self.messages {
            if let Some(name) = &message.name {
                visit(name);
            }
            for part in &message.content {
                match part {
                    Part::Text(text) => visit(text),
                    Part::Other(value) => strings(value, visit),
                    Part::Image(_) => {}
                }
            }
            for call in &message.tool_calls {
                visit(&call.arguments);
            }
            for value in message.extra.values() {
                strings(value, visit);
            }
        }
        for tool in &self.tools {
            if let Some(description) = &tool.description {
                visit(description);
            }
            strings(&tool.parameters, visit);
            for value in tool.extra.values() {
                strings(value, visit);
            }
        }
        if let OutputFormat::JsonSchema(schema) = &self.format {
            strings(schema, visit);
        }
        for stop in &self.sampling.stop {
            visit(stop);
        }
        for value in self.extra.values() {
            strings(value, visit);
        }
    }

    /// The same places as [`ChatRequest::texts`], to be rewritten.
    pub fn texts_mut(&mut self, rewrite: &mut dyn FnMut(&mut String)) {
        for message in &mut self.messages {
            if let Some(name) = &mut message.name {
                rewrite(name);
            }
            for part in &mut message.content {
                match part {
                    Part::Text(text) => rewrite(text),
                    Part::Other(value) => strings_mut(value, rewrite),
                    Part::Image(_) => {}
                }
            }
            for call in &mut message.tool_calls {
                rewrite(&mut call.arguments);
            }
            for value in message.extra.values_mut() {
                strings_mut(value, rewrite);
            }
        }
        for tool in &mut self.tools {
            if let Some(description) = &mut tool.description {
                rewrite(description);
            }
            strings_mut(&mut tool.parameters, rewrite);
            for value in tool.extra.values_mut() {
                strings_mut(value, rewrite);
            }
        }
        if let OutputFormat::JsonSchema(schema) = &mut self.format {
            strings_mut(schema, rewrite);
        }
        for stop in &mut self.sampling.stop {
            rewrite(stop);
        }
        for value in self.extra.values_mut() {
            strings_mut(value, rewrite);
        }
    }

    /// The text of the last message by the user, or an empty string.
    #[must_use]
    pub fn last_user_text(&self) -> String {
        self.messages
            .iter()
            .rev()
            .find(|message| message.role == Role::User)
            .map(Message::text)
            .unwrap_or_default()
    }

    #[must_use]
    pub fn has_images(&self) -> bool {
        self.messages
            .iter()
            .flat_map(|message| &message.content)
            .any(|part| matches!(part, Part::Image(_)))
    }

    /// True when a part is of a kind no room interprets (audio, files).
    #[must_use]
    pub fn has_other_parts(&self) -> bool {
        self.messages
            .iter()
            .flat_map(|message| &message.content)
            .any(|part| matches!(part, Part::Other(_)))
    }
}

fn strings(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn strings_mut(value: &mut Value, rewrite: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => rewrite(text),
        Value::Array(items) => items.iter_mut().for_each(|item| strings_mut(item, rewrite)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| strings_mut(field, rewrite)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    System,
    /// OpenAI's newer name for a system message; templates see `system`.
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

#[derive(Clone)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Part>,
    pub name: Option<String>,
    /// Calls the assistant made; empty for every other role.
    pub tool_calls: Vec<ToolCall>,
    /// The call a `tool` message answers.
    pub tool_call_id: Option<String>,
    pub extra: Extra,
}

impl Message {
    #[must_use]
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![Part::Text(text.into())],
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            extra: Extra::new(),
        }
    }

    /// All text parts, joined without a separator.
    #[must_use]
    pub fn text(&self) -> String {
        self.content
            .iter()
            .filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Image(_) | Part::Other(_) => None,
            })
            .collect()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("parts", &self.content.len())
            .field("tool_calls", &self.tool_calls.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq)]
pub enum Part {
    Text(String),
    Image(Image),
    /// A part of a kind we do not interpret, as it came.
    Other(Value),
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Part::Image(_) => f.write_str("Image"),
            Part::Other(_) => f.write_str("Other"),
        }
    }
}

/// An image by address or as a data URL. Never fetched by us.
#[derive(Clone, PartialEq)]
pub struct Image {
    pub url: String,
    pub detail: Option<String>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes)", self.url.len())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments; an empty object when the caller gave none.
    pub parameters: Value,
    /// Whatever else the caller wrote beside those (`strict`), as it came.
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum ToolChoice {
    /// The model decides. Also what an absent field means.
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// A call of a tool. `arguments` is JSON text as the model wrote it: it may be malformed.
#[derive(Clone, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCall")
            .field("name", &self.name)
            .field("arguments", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

/// How tokens are drawn. `None` leaves a value to the model's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 to 2; 0 is greedy.
    pub temperature: Option<f32>,
    /// Above 0, to 1.
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    pub seed: Option<i64>,
    /// At most [`Sampling::STOPS_MAX`], none empty.
    pub stop: Vec<String>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// Token id to bias, -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
    /// `Some(k)`: log probabilities are asked for, with the `k` best alternatives.
    pub logprobs: Option<u8>,
}

impl Sampling {
    /// OpenAI takes four stop strings.
    pub const STOPS_MAX: usize = 4;
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum OutputFormat {
    #[default]
    Text,
    JsonObject,
    /// The `json_schema` object as the caller wrote it.
    JsonSchema(Value),
}

/// How the caller wants the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    Whole,
    Streamed { includes_usage: bool },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn extra(text: &str) -> Extra {
        Extra::from_iter([("x".to_owned(), json!({"y": [text, 7]}))])
    }

    fn request() -> ChatRequest {
        let mut message = Message::new(Role::User, "1");
        message.content.push(Part::Other(json!({"type": "2"})));
        message.name = Some("0".into());
        message.tool_calls = vec![ToolCall {
            id: "-".into(),
            name: "-".into(),
            arguments: "3".into(),
        }];
        message.extra = extra("4");
        ChatRequest {
            model: "-".into(),
            messages: vec![message],
            tools: vec![Tool {
                name: "-".into(),
                description: Some("5".into()),
                parameters: json!({"title": "6"}),
                extra: extra("7"),
            }],
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: None,
            sampling: Sampling {
                stop: vec!["9".into()],
                ..Sampling::default()
            },
            format: OutputFormat::JsonSchema(json!({"name": "8"})),
            output_tokens_max: None,
            choices: 1,
            delivery: Delivery::Whole,
            extra: extra("10"),
            source: None,
        }
    }

    #[test]
    fn every_text_is_visited_in_order_and_rewritten_in_the_same_places() {
        let mut request = request();
        let mut seen = Vec::new();
        request.texts(&mut |text| seen.push(text.to_owned()));
        let expected: Vec<String> = (0..=10).map(|number| number.to_string()).collect();
        assert_eq!(seen, expected);

        let mut rewritten = Vec::new();
        request.texts_mut(&mut |text| rewritten.push(std::mem::take(text)));
        assert_eq!(rewritten, expected);
        request.texts(&mut |text| assert_eq!(text, ""));
    }
}
