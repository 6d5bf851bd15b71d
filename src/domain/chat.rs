//! A chat request, free of any dialect.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ModelAlias, OpenSampling, Tokens};

/// Fields that no room interprets, by name, in the order they came. They take part in cache keys
/// and masking, and are forwarded only to the dialect they came from.
pub type Extra = Map<String, Value>;

/// The wire format a request came in, or leaves in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// OpenAI's chat completions.
    #[default]
    OpenAi,
    /// OpenAI's responses.
    Responses,
    /// OpenAI's older completions.
    Completions,
    /// Anthropic's messages.
    Anthropic,
    /// Google's `generateContent`.
    Gemini,
    /// Amazon Bedrock's Converse.
    Bedrock,
    /// Ollama's own.
    Ollama,
}

impl Dialect {
    pub const ALL: [Dialect; 7] = [
        Dialect::OpenAi,
        Dialect::Responses,
        Dialect::Completions,
        Dialect::Anthropic,
        Dialect::Gemini,
        Dialect::Bedrock,
        Dialect::Ollama,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Dialect::OpenAi => "openai",
            Dialect::Responses => "responses",
            Dialect::Completions => "completions",
            Dialect::Anthropic => "anthropic",
            Dialect::Gemini => "gemini",
            Dialect::Bedrock => "bedrock",
            Dialect::Ollama => "ollama",
        }
    }
}

/// A provider's own token that vouches for the thought or call it comes with, opaque to everybody
/// else. Goes back to whoever speaks its dialect as it came, and to nobody else; so it is neither
/// scanned nor masked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Whose words it is in.
    pub of: Dialect,
    pub kind: SealKind,
    pub data: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SealKind {
    /// Signs the thought right before it (Anthropic's `signature`), or the call that holds it
    /// (Google's `thoughtSignature`).
    Signature,
    /// Stands for a whole thought that the provider does not show (Anthropic's
    /// `redacted_thinking`, OpenAI's `encrypted_content`).
    Hidden,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Seal({:?}, {:?}, {} bytes)",
            self.of,
            self.kind,
            self.data.len()
        )
    }
}

/// How much the model is to think before it answers. What a model has no such knob for is left to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasoning {
    pub effort: Option<Effort>,
    /// Thoughts' tokens (Anthropic's `budget_tokens`, Google's `thinkingBudget`).
    pub tokens_max: Option<Tokens>,
    /// Whether the caller wants to read the thoughts; `None`: as its dialect does without a word.
    pub is_shown: Option<bool>,
}

/// OpenAI's `reasoning_effort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
}

impl Effort {
    pub const ALL: [Effort; 6] = [
        Effort::None,
        Effort::Minimal,
        Effort::Low,
        Effort::Medium,
        Effort::High,
        Effort::XHigh,
    ];

    #[must_use]
    pub fn as_label(self) -> &'static str {
        match self {
            Effort::None => "none",
            Effort::Minimal => "minimal",
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::XHigh => "xhigh",
        }
    }

    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_label() == word)
    }
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
#[derive(Clone, Serialize, Deserialize)]
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
    /// What the caller expects most of the reply to be.
    pub prediction: Option<Prediction>,
    /// `None` leaves it to the model.
    pub reasoning: Option<Reasoning>,
    /// How many choices are asked for; at least 1.
    pub choices: u32,
    pub delivery: Delivery,
    pub extra: Extra,
    /// The dialect that `extra` is in, here, in messages and in tools.
    ///
    /// Of [`Dialect::Completions`], the text of the messages is the prompt itself, which no chat
    /// template changes.
    pub dialect: Dialect,
    /// The place of the first thing in it that only providers of `dialect` have, as a JSON path: a tool
    /// that they run or define, a cache that they keep. Nobody else can answer it as it was meant.
    pub bound_by: Option<String>,
    /// What of `dialect`'s providers is not for everybody yet and its caller asks for by name. Others do
    /// not know it.
    pub betas: Vec<String>,
    /// Does not travel between processes: no engine reads it.
    #[serde(skip)]
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
    /// A request that says nothing but these: one whole reply of text, by the model's own settings.
    #[must_use]
    pub fn new(model: impl Into<ModelAlias>, messages: Vec<Message>) -> Self {
        Self {
            model: model.into(),
            messages,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            parallel_tool_calls: None,
            sampling: Sampling::default(),
            format: OutputFormat::Text,
            output_tokens_max: None,
            prediction: None,
            reasoning: None,
            choices: 1,
            delivery: Delivery::Whole,
            extra: Extra::new(),
            dialect: Dialect::OpenAi,
            bound_by: None,
            betas: Vec::new(),
            source: None,
        }
    }

    /// True where the text of the messages is the prompt itself, and no chat.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.dialect == Dialect::Completions
    }

    /// What texts that are JSON say where they have escapes, as results of tools do: [`ChatRequest::texts`] has
    /// them as they are written.
    pub fn escaped_texts(&self, visit: &mut dyn FnMut(&str)) {
        let parts = self.messages.iter().flat_map(|message| &message.content);
        for part in parts {
            let (Part::Text(text) | Part::Thought(text)) = part else {
                continue;
            };
            let pieces = Piece::all_of(text).unwrap_or_default();
            pieces.iter().for_each(|piece| piece.visit(visit));
        }
    }

    /// Every text a person may have written, in reading order: message parts, names, ids, arguments
    /// of tool calls, tools' descriptions and schemas, the prediction, stop strings and what is like
    /// them, uninterpreted parts and fields;
    /// of JSON the keys, strings and numbers. Images and files named by address count, those that came as
    /// bytes, sound and seals do not. Scanning reads through this; `texts_mut` must visit the same places.
    pub fn texts(&self, visit: &mut dyn FnMut(&str)) {
        for message in &self.messages {
            if let Some(name) = &message.name {
                visit(name);
            }
            for part in &message.content {
                match part {
                    Part::Text(text) | Part::Thought(text) => visit(text),
                    Part::Other(value) => texts_of(value, visit),
                    Part::Seal(_) | Part::Audio(_) => {}
                    Part::File(file) => {
                        if !file.is_inline() {
                            visit(&file.url);
                        }
                        file.name.iter().for_each(|name| visit(name));
                    }
                    Part::Image(image) => {
                        if !image.is_inline() {
                            visit(&image.url);
                        }
                        image.detail.iter().for_each(|detail| visit(detail));
                    }
                }
            }
            for call in &message.tool_calls {
                visit(&call.id);
                visit(&call.name);
                match Piece::all_of(&call.arguments) {
                    Some(pieces) => pieces.iter().for_each(|piece| piece.visit(visit)),
                    None => visit(&call.arguments),
                }
            }
            if let Some(id) = &message.tool_call_id {
                visit(id);
            }
            texts_of_fields(&message.extra, visit);
        }
        for tool in &self.tools {
            visit(&tool.name);
            if let Some(description) = &tool.description {
                visit(description);
            }
            texts_of(&tool.parameters, visit);
            texts_of_fields(&tool.extra, visit);
        }
        if let ToolChoice::Named(name) = &self.tool_choice {
            visit(name);
        }
        match &self.format {
            OutputFormat::Text | OutputFormat::JsonObject => {}
            OutputFormat::JsonSchema(schema) => texts_of(schema, visit),
            OutputFormat::Regex(text) | OutputFormat::Grammar(text) => visit(text),
            OutputFormat::Choice(texts) => texts.iter().for_each(|text| visit(text)),
        }
        if let Some(prediction) = &self.prediction {
            prediction.content.iter().for_each(|text| visit(text));
        }
        for stop in &self.sampling.stop {
            visit(stop);
        }
        for breaker in self.sampling.open.dry.iter().flat_map(|dry| &dry.breakers) {
            visit(breaker);
        }
        texts_of_fields(&self.extra, visit);
    }

    /// The same places as [`ChatRequest::texts`], to be rewritten. A number rewritten becomes a
    /// string, and a message's name is left out instead: providers take only letters, digits, `_`
    /// and `-` there.
    pub fn texts_mut(&mut self, rewrite: &mut dyn FnMut(&mut String)) {
        for message in &mut self.messages {
            message.name = message.name.take().filter(|name| {
                let mut rewritten = name.clone();
                rewrite(&mut rewritten);
                rewritten == *name
            });
            for part in &mut message.content {
                match part {
                    Part::Text(text) | Part::Thought(text) => {
                        rewrite_text(text, rewrite);
                    }
                    Part::Other(value) => rewrite_texts_of(value, rewrite),
                    Part::Seal(_) | Part::Audio(_) => {}
                    Part::File(file) => {
                        if !file.is_inline() {
                            rewrite(&mut file.url);
                        }
                        file.name.iter_mut().for_each(&mut *rewrite);
                    }
                    Part::Image(image) => {
                        if !image.is_inline() {
                            rewrite(&mut image.url);
                        }
                        image.detail.iter_mut().for_each(&mut *rewrite);
                    }
                }
            }
            for call in &mut message.tool_calls {
                rewrite(&mut call.id);
                rewrite(&mut call.name);
                rewrite_arguments(&mut call.arguments, rewrite);
            }
            if let Some(id) = &mut message.tool_call_id {
                rewrite(id);
            }
            rewrite_texts_of_fields(&mut message.extra, rewrite);
        }
        for tool in &mut self.tools {
            rewrite(&mut tool.name);
            if let Some(description) = &mut tool.description {
                rewrite(description);
            }
            rewrite_texts_of(&mut tool.parameters, rewrite);
            rewrite_texts_of_fields(&mut tool.extra, rewrite);
        }
        if let ToolChoice::Named(name) = &mut self.tool_choice {
            rewrite(name);
        }
        match &mut self.format {
            OutputFormat::Text | OutputFormat::JsonObject => {}
            OutputFormat::JsonSchema(schema) => rewrite_texts_of(schema, rewrite),
            OutputFormat::Regex(text) | OutputFormat::Grammar(text) => rewrite(text),
            OutputFormat::Choice(texts) => texts.iter_mut().for_each(&mut *rewrite),
        }
        if let Some(prediction) = &mut self.prediction {
            prediction.content.iter_mut().for_each(&mut *rewrite);
        }
        for stop in &mut self.sampling.stop {
            rewrite(stop);
        }
        let dry = self.sampling.open.dry.iter_mut();
        dry.flat_map(|dry| &mut dry.breakers)
            .for_each(&mut *rewrite);
        rewrite_texts_of_fields(&mut self.extra, rewrite);
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
        self.has_part(|part| matches!(part, Part::Image(_)))
    }

    /// Whether it names an image by address.
    #[must_use]
    pub fn has_image_addresses(&self) -> bool {
        self.has_part(|part| matches!(part, Part::Image(image) if !image.is_inline()))
    }

    #[must_use]
    pub fn has_audio(&self) -> bool {
        self.has_part(|part| matches!(part, Part::Audio(_)))
    }

    #[must_use]
    pub fn has_files(&self) -> bool {
        self.has_part(|part| matches!(part, Part::File(_)))
    }

    /// True when a part is of a kind no room interprets.
    #[must_use]
    pub fn has_other_parts(&self) -> bool {
        self.has_part(|part| matches!(part, Part::Other(_)))
    }

    fn has_part(&self, is_such: impl Fn(&Part) -> bool) -> bool {
        let mut parts = self.messages.iter().flat_map(|message| &message.content);
        parts.any(is_such)
    }
}

fn texts_of(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, visit)),
        Value::Object(fields) => texts_of_fields(fields, visit),
        Value::Number(number) => visit(&number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

fn texts_of_fields(fields: &Map<String, Value>, visit: &mut dyn FnMut(&str)) {
    for (name, field) in fields {
        visit(name);
        texts_of(field, visit);
    }
}

/// Of a text that is JSON with escapes what it says, and then what is left of it as written.
fn rewrite_text(text: &mut String, rewrite: &mut dyn FnMut(&mut String)) {
    if let Some(rewritten) = Piece::all_of(text).map(|pieces| rewritten(pieces, rewrite)) {
        *text = rewritten;
    }
    rewrite(text);
}

/// Stays JSON where it was: a number of which something else is made becomes a string.
fn rewrite_arguments(arguments: &mut String, rewrite: &mut dyn FnMut(&mut String)) {
    if let Some(pieces) = Piece::all_of(arguments) {
        *arguments = rewritten(pieces, rewrite);
        return;
    }
    let mut plain = arguments.clone();
    rewrite(&mut plain);
    let is_broken = plain != *arguments && Piece::of_json(&plain).is_none();
    *arguments = match is_broken.then(|| Piece::of_json(arguments)).flatten() {
        Some(pieces) => rewritten(pieces, rewrite),
        None => plain,
    };
}

fn rewritten(mut pieces: Vec<Piece<'_>>, rewrite: &mut dyn FnMut(&mut String)) -> String {
    pieces.iter_mut().for_each(|piece| piece.rewrite(rewrite));
    pieces.iter().map(Piece::as_written).collect()
}

fn rewrite_texts_of(value: &mut Value, rewrite: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => rewrite(text),
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| rewrite_texts_of(item, rewrite)),
        Value::Object(fields) => rewrite_texts_of_fields(fields, rewrite),
        Value::Number(number) => {
            let written = number.to_string();
            let mut text = written.clone();
            rewrite(&mut text);
            if text != written {
                *value = Value::String(text);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn rewrite_texts_of_fields(fields: &mut Map<String, Value>, rewrite: &mut dyn FnMut(&mut String)) {
    *fields = std::mem::take(fields)
        .into_iter()
        .map(|(mut name, mut field)| {
            rewrite(&mut name);
            rewrite_texts_of(&mut field, rewrite);
            (name, field)
        })
        .collect();
}

/// A stretch of JSON text. Unlike a parsed value, all pieces together keep names given twice, white
/// space and the way each number is written.
enum Piece<'a> {
    /// Punctuation, white space and words.
    Between(&'a str),
    /// A string or number as written, what it says, and what it is to say.
    Text {
        written: &'a str,
        said: String,
        wanted: String,
    },
}

impl<'a> Piece<'a> {
    /// The pieces of `json`, or `None` where it says what it means: nothing in it is escaped, or it
    /// is no JSON.
    fn all_of(json: &'a str) -> Option<Vec<Self>> {
        json.contains('\\').then(|| Self::of_json(json)).flatten()
    }

    /// The pieces of whatever is JSON.
    fn of_json(json: &'a str) -> Option<Vec<Self>> {
        serde_json::from_str::<serde::de::IgnoredAny>(json).ok()?;
        let mut pieces = Vec::new();
        let mut rest = json;
        while !rest.is_empty() {
            let (written, after) = rest.split_at(piece_length(rest));
            pieces.push(Self::of(written));
            rest = after;
        }
        Some(pieces)
    }

    fn of(written: &'a str) -> Self {
        let said = match written.as_bytes()[0] {
            // A lone surrogate is JSON, but no text.
            b'"' => serde_json::from_str(written).unwrap_or_else(|_| written.to_owned()),
            b'-' | b'0'..=b'9' => written.to_owned(),
            _ => return Piece::Between(written),
        };
        let wanted = said.clone();
        Piece::Text {
            written,
            said,
            wanted,
        }
    }

    fn visit(&self, visit: &mut dyn FnMut(&str)) {
        if let Piece::Text { said, .. } = self {
            visit(said);
        }
    }

    fn rewrite(&mut self, rewrite: &mut dyn FnMut(&mut String)) {
        if let Piece::Text { wanted, .. } = self {
            rewrite(wanted);
        }
    }

    fn as_written(&self) -> String {
        match self {
            Piece::Text { said, wanted, .. } if said != wanted => {
                Value::from(wanted.as_str()).to_string()
            }
            Piece::Between(written) | Piece::Text { written, .. } => (*written).to_owned(),
        }
    }
}

/// The length of the piece that JSON text begins with; never 0.
fn piece_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    let is_of_number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    match bytes[0] {
        b'"' => {
            let mut is_escaped = false;
            let closing = bytes[1..].iter().position(|byte| {
                let closes = *byte == b'"' && !is_escaped;
                is_escaped = *byte == b'\\' && !is_escaped;
                closes
            });
            closing.map_or(bytes.len(), |closing| closing + 2)
        }
        b'-' | b'0'..=b'9' => bytes.iter().take_while(|byte| is_of_number(byte)).count(),
        _ => {
            let opens_text = |byte: &u8| matches!(byte, b'"' | b'-' | b'0'..=b'9');
            let next = bytes.iter().position(opens_text);
            next.unwrap_or(bytes.len())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

#[derive(Clone, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Part>,
    pub name: Option<String>,
    /// Calls the assistant made; empty for every other role.
    pub tool_calls: Vec<ToolCall>,
    /// The call a `tool` message answers.
    pub tool_call_id: Option<String>,
    /// Whether that call failed, and the content says how.
    pub is_failure: bool,
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
            is_failure: false,
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
                Part::Image(_)
                | Part::Audio(_)
                | Part::File(_)
                | Part::Thought(_)
                | Part::Seal(_)
                | Part::Other(_) => None,
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

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum Part {
    Text(String),
    Image(Image),
    Audio(Audio),
    File(File),
    /// What an assistant thought before it said what follows.
    Thought(String),
    Seal(Seal),
    /// A part of a kind we do not interpret, as it came.
    Other(Value),
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Part::Image(_) => f.write_str("Image"),
            Part::Audio(_) => f.write_str("Audio"),
            Part::File(_) => f.write_str("File"),
            Part::Thought(text) => write!(f, "Thought({} bytes)", text.len()),
            Part::Seal(seal) => seal.fmt(f),
            Part::Other(_) => f.write_str("Other"),
        }
    }
}

/// An image by address or as a data URL. What is at an address is fetched only where the operator lets
/// it be ([`crate::ImageFetcher`]).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub url: String,
    pub detail: Option<String>,
}

impl Image {
    /// True for a data URL: its bytes came along.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.url.starts_with("data:")
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes)", self.url.len())
    }
}

/// Sound, as bytes.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Audio {
    /// In base64, with padding.
    pub data: String,
    /// `wav`, `mp3` and the like.
    pub format: String,
}

impl fmt::Debug for Audio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audio({} bytes)", self.data.len())
    }
}

/// A document by address or as a data URL. Never fetched by us.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub url: String,
    pub name: Option<String>,
}

impl File {
    /// True for a data URL: its bytes came along.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.url.starts_with("data:")
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({} bytes)", self.url.len())
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the arguments; an empty object when the caller gave none.
    pub parameters: Value,
    /// Whatever else the caller wrote beside those (`strict`), as it came.
    pub extra: Extra,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool")
            .field("name_bytes", &self.name.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum ToolChoice {
    /// The model decides. Also what an absent field means.
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// A call of a tool. `arguments` is JSON text as the model wrote it: it may be malformed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
    pub seal: Option<Seal>,
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
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 to 2; 0 is greedy.
    pub temperature: Option<f32>,
    /// Above 0, to 1.
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// The first choice's; the second has the next number, and so on.
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
    pub open: OpenSampling,
}

impl fmt::Debug for Sampling {
    /// Stop strings are the caller's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampling")
            .field("temperature", &self.temperature)
            .field("top_p", &self.top_p)
            .field("top_k", &self.top_k)
            .field("min_p", &self.min_p)
            .field("seed", &self.seed)
            .field("stop", &self.stop.len())
            .field("frequency_penalty", &self.frequency_penalty)
            .field("presence_penalty", &self.presence_penalty)
            .field("logit_bias", &self.logit_bias)
            .field("logprobs", &self.logprobs)
            .field("open", &self.open)
            .finish()
    }
}

impl Sampling {
    /// No dialect takes more here. The engine looks for each after every token, which costs about as
    /// much as the token's text is long.
    pub const STOPS_MAX: usize = 64;
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum OutputFormat {
    #[default]
    Text,
    JsonObject,
    /// The `json_schema` object as the caller wrote it.
    JsonSchema(Value),
    /// A regular expression that the whole reply matches.
    Regex(String),
    /// The reply is one of these texts; at least one, none empty.
    Choice(Vec<String>),
    /// A grammar in llama.cpp's notation, GBNF.
    Grammar(String),
}

impl fmt::Debug for OutputFormat {
    /// Its kind and length: what is in it may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutputFormat::Text => f.write_str("Text"),
            OutputFormat::JsonObject => f.write_str("JsonObject"),
            OutputFormat::JsonSchema(_) => f.write_str("JsonSchema(_)"),
            OutputFormat::Regex(text) => write!(f, "Regex({} bytes)", text.len()),
            OutputFormat::Choice(texts) => write!(f, "Choice({} texts)", texts.len()),
            OutputFormat::Grammar(text) => write!(f, "Grammar({} bytes)", text.len()),
        }
    }
}

impl OutputFormat {
    /// True for what OpenAI's own API has no words for.
    #[must_use]
    pub fn is_constraint(&self) -> bool {
        match self {
            OutputFormat::Text | OutputFormat::JsonObject | OutputFormat::JsonSchema(_) => false,
            OutputFormat::Regex(_) | OutputFormat::Choice(_) | OutputFormat::Grammar(_) => true,
        }
    }
}

/// Text that the caller expects in the reply: a file before its change, say. Where it is right the
/// reply comes sooner; what the reply says does not depend on it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Its parts, which belong together without a separator. Never empty; each part may be.
    pub content: Vec<String>,
}

impl fmt::Debug for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.content.iter().map(String::len).sum();
        write!(f, "Prediction({bytes} bytes)")
    }
}

/// How the caller wants the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Delivery {
    Whole,
    Streamed { includes_usage: bool },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Dry;

    fn extra(name: &str, text: &str, number: u64) -> Extra {
        Extra::from_iter([(name.to_owned(), json!([text, number, true, null]))])
    }

    fn image(url: &str, detail: Option<&str>) -> Part {
        Part::Image(Image {
            url: url.into(),
            detail: detail.map(Into::into),
        })
    }

    fn request() -> ChatRequest {
        let mut message = Message::new(Role::User, "101");
        message.content.push(Part::Other(json!({"102": "103"})));
        message
            .content
            .push(image("data:image/png;base64,AA", None));
        message.content.push(image("104", Some("105")));
        message.name = Some("100".into());
        message.tool_calls = vec![
            ToolCall {
                id: "106".into(),
                name: "107".into(),
                arguments: "108".into(),
                seal: None,
            },
            ToolCall {
                id: "109".into(),
                name: "110".into(),
                arguments: r#"{"\u0031\u0031\u0031" : ["112",113, true], "114": "11\u0035"}"#
                    .into(),
                seal: None,
            },
        ];
        message.tool_call_id = Some("116".into());
        message.extra = extra("117", "118", 119);
        ChatRequest {
            tools: vec![Tool {
                name: "120".into(),
                description: Some("121".into()),
                parameters: json!({"122": {"123": 124}}),
                extra: extra("125", "126", 127),
            }],
            tool_choice: ToolChoice::Named("128".into()),
            sampling: Sampling {
                stop: vec!["133".into()],
                open: OpenSampling {
                    dry: Some(Dry {
                        multiplier: 1.0,
                        base: 2.0,
                        allowed: 2,
                        tokens_max: None,
                        breakers: vec!["134".into()],
                    }),
                    ..OpenSampling::default()
                },
                ..Sampling::default()
            },
            format: OutputFormat::JsonSchema(json!({"129": "130"})),
            prediction: Some(Prediction {
                content: vec!["131".into(), "132".into()],
            }),
            extra: extra("135", "136", 137),
            ..ChatRequest::new("-", vec![message])
        }
    }

    fn texts(request: &ChatRequest) -> Vec<String> {
        let mut seen = Vec::new();
        request.texts(&mut |text| seen.push(text.to_owned()));
        seen
    }

    #[test]
    fn every_text_is_visited_in_order_and_rewritten_in_the_same_places() {
        let mut request = request();
        let expected: Vec<String> = (100..=137).map(|number| number.to_string()).collect();
        assert_eq!(texts(&request), expected);

        let mut rewritten = Vec::new();
        request.texts_mut(&mut |text| {
            rewritten.push(text.clone());
            text.insert(0, '<');
        });
        // A number that becomes a text is written anew.
        rewritten.dedup();
        assert_eq!(rewritten, expected);
        // The name is left out.
        let mut wanted: Vec<String> = expected[1..].iter().map(|it| format!("<{it}")).collect();
        let number = wanted.iter().position(|it| it == "<108").unwrap();
        wanted[number] = "\"<108\"".to_owned();
        // What was escaped in the arguments is so no more, so they are one text.
        let arguments = request.messages[0].tool_calls[1].arguments.clone();
        wanted.splice(10..15, [arguments]);
        assert_eq!(texts(&request), wanted);
        assert_eq!(request.messages[0].name, None);
        assert_eq!(request.extra["<135"], json!(["<136", "<137", true, null]));
        assert_eq!(
            request.messages[0].tool_calls[1].arguments,
            r#"{"<111" : ["<112","<113", true], "<114": "<115"}"#
        );
    }

    #[test]
    fn the_texts_of_constraints_are_visited_and_rewritten() {
        for (format, count) in [
            (OutputFormat::Regex("r".into()), 1),
            (OutputFormat::Choice(vec!["a".into(), "b".into()]), 2),
            (OutputFormat::Grammar("g".into()), 1),
        ] {
            let mut constrained = request();
            constrained.format = format.clone();
            // A schema's two texts are gone.
            assert_eq!(
                texts(&constrained).len(),
                texts(&request()).len() - 2 + count
            );
            constrained.texts_mut(&mut |text| text.insert(0, '<'));
            assert_ne!(constrained.format, format);
        }
    }

    #[test]
    fn rewriting_nothing_changes_nothing() {
        let mut same = request();
        same.texts_mut(&mut |_| {});
        assert_eq!(texts(&same), texts(&request()));
        assert_eq!(same.messages[0].name.as_deref(), Some("100"));
        assert_eq!(same.extra, request().extra);
        assert_eq!(
            same.messages[0].tool_calls,
            request().messages[0].tool_calls
        );
    }

    /// `alice\u0040x.com` in a tool call's arguments went to the cloud as it was.
    #[test]
    fn escapes_in_arguments_hide_nothing() {
        let check = |arguments: &str, wanted: &[&str]| {
            let mut request = request();
            request.messages[0].tool_calls[0].arguments = arguments.into();
            let seen = texts(&request);
            assert_eq!(seen[8..8 + wanted.len()], *wanted, "{arguments}");
            assert_eq!(seen.len(), 37 + wanted.len(), "{arguments}");
        };
        check(r#""alice\u0040x.com""#, &["alice@x.com"]);
        check(r#"{"a":"x\\\"","a":-1e5}"#, &["a", "x\\\"", "a", "-1e5"]);
        check(r#"["\ud800", ""]"#, &[r#""\ud800""#, ""]);
        check(r#"{"a": "cut\u0040"#, &[r#"{"a": "cut\u0040"#]);
        check("", &[""]);
    }

    #[test]
    fn what_the_caller_wrote_does_not_print() {
        let text = || "ann@mail.example".to_owned();
        let formats = [
            OutputFormat::JsonSchema(json!({ "const": text() })),
            OutputFormat::Regex(text()),
            OutputFormat::Choice(vec![text()]),
            OutputFormat::Grammar(text()),
        ];
        let tool = Tool {
            name: text(),
            description: Some(text()),
            parameters: json!(text()),
            extra: extra("a", &text(), 1),
        };
        let mut sampling = Sampling {
            stop: vec![text()],
            ..Sampling::default()
        };
        sampling.open.dry = Some(Dry {
            multiplier: 1.0,
            base: 1.75,
            allowed: 2,
            tokens_max: None,
            breakers: vec![text()],
        });
        let shown = format!("{formats:?} {tool:?} {sampling:?}");
        assert!(!shown.contains("ann"), "{shown}");
    }
}
