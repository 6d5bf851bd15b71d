//! Writes messages and their blocks from `domain`, as a client.
//!
//! `domain`'s messages become turns: results of tools and what a user said after them share one, as
//! this dialect has it, and neighbours of one role are joined, as Anthropic itself would.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::{
    Ability, BackendError, ChatRequest, Dialect, File, Image, Message, Part, Role, SealKind,
    ToolCall,
};
use serde_json::{Map, Value, json};

use super::decode_documents::PDF;
use super::decode_messages::IMAGE_TYPES;
use super::leftovers::{Leftovers, Place};
use super::reply_body::input;
use super::seals;

/// System prompt and turns.
#[derive(Debug, Default)]
pub(super) struct Prompt {
    /// Text blocks.
    pub system: Vec<Value>,
    turns: Vec<Turn>,
}

#[derive(Debug)]
struct Turn {
    role: &'static str,
    blocks: Vec<Value>,
    fields: Map<String, Value>,
}

impl Prompt {
    /// # Errors
    /// A part that this dialect has no block for, with its place among `domain`'s messages.
    pub fn of(request: &ChatRequest) -> Result<Self, BackendError> {
        let mut prompt = Prompt::default();
        let is_own = request.dialect == Dialect::Anthropic;
        for (at, message) in request.messages.iter().enumerate() {
            let writer = Writer {
                at,
                message,
                is_own,
                // Another dialect's fields stay behind.
                leftovers: if is_own {
                    Leftovers::of(&message.extra)
                } else {
                    Leftovers::default()
                },
            };
            match message.role {
                // One of this dialect's own amid the others stays where it is.
                Role::System | Role::Developer if is_own && !prompt.turns.is_empty() => {
                    prompt.add("system", writer.said()?, &writer);
                }
                Role::System | Role::Developer => prompt.system.extend(writer.system()?),
                Role::User => prompt.add("user", writer.said()?, &writer),
                Role::Tool => prompt.add("user", vec![writer.tool_result()?], &writer),
                Role::Assistant => prompt.add("assistant", writer.assistant()?, &writer),
            }
        }
        Ok(prompt)
    }

    /// A message that says nothing is none.
    fn add(&mut self, role: &'static str, blocks: Vec<Value>, writer: &Writer<'_>) {
        if blocks.is_empty() {
            return;
        }
        let fields = writer.leftovers.of_message();
        match self.turns.last_mut() {
            Some(last) if last.role == role && fields.is_empty() => last.blocks.extend(blocks),
            _ => self.turns.push(Turn {
                role,
                blocks,
                fields,
            }),
        }
    }

    pub fn messages(self) -> Vec<Value> {
        let turns = self.turns.into_iter();
        turns
            .map(|turn| {
                let mut body = Map::new();
                body.insert("role".into(), turn.role.into());
                body.insert("content".into(), content(turn.blocks));
                body.extend(turn.fields);
                Value::Object(body)
            })
            .collect()
    }
}

/// One text is written as such.
pub(super) fn content(blocks: Vec<Value>) -> Value {
    if let [Value::Object(fields)] = blocks.as_slice()
        && fields.len() == 2
        && fields["type"] == "text"
    {
        return fields["text"].clone();
    }
    blocks.into()
}

/// Writes one message's blocks.
struct Writer<'a> {
    at: usize,
    message: &'a Message,
    is_own: bool,
    leftovers: Leftovers<'a>,
}

impl Writer<'_> {
    fn declined(&self, part: usize, why: &str) -> BackendError {
        BackendError::declined(format!("messages[{}].content[{part}]", self.at), why)
    }

    fn system(&self) -> Result<Vec<Value>, BackendError> {
        let is_text = |part: &Part| matches!(part, Part::Text(_));
        if let Some(at) = self.message.content.iter().position(|part| !is_text(part)) {
            return Err(self.declined(at, "this provider's system prompt takes text alone"));
        }
        self.said()
    }

    /// What was said, without thoughts and empty texts. White space alone is refused as well: "text content
    /// blocks must contain non-whitespace text" (anomalyco/opencode#31259).
    fn said(&self) -> Result<Vec<Value>, BackendError> {
        let mut blocks = Vec::with_capacity(self.message.content.len());
        for (at, part) in self.message.content.iter().enumerate() {
            blocks.extend(self.block(at, part)?);
        }
        Ok(blocks)
    }

    fn block(&self, at: usize, part: &Part) -> Result<Option<Value>, BackendError> {
        let mut block = match part {
            Part::Text(text) if text.is_empty() => return Ok(None),
            Part::Text(text) if !self.is_own && text.trim().is_empty() => return Ok(None),
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Image(image) => self.image(at, image)?,
            Part::File(file) => self.document(at, file)?,
            Part::Audio(_) => return Err(BackendError::Unable(Ability::Audio)),
            Part::Other(value) if self.is_own => return Ok(Some(value.clone())),
            Part::Other(_) => return Err(BackendError::Unable(Ability::OtherParts)),
            Part::Thought(_) | Part::Seal(_) => return Ok(None),
        };
        self.leftovers.put_back(Place::Content(at), &mut block);
        Ok(Some(block))
    }

    fn image(&self, at: usize, image: &Image) -> Result<Value, BackendError> {
        let source = match base64_of(&image.url) {
            _ if !image.is_inline() => json!({"type": "url", "url": image.url}),
            Some((media_type, data)) if IMAGE_TYPES.contains(&media_type) => {
                json!({"type": "base64", "media_type": media_type, "data": data})
            }
            _ => {
                let why = "this provider takes images as JPEG, PNG, GIF or WebP, in base64";
                return Err(self.declined(at, why));
            }
        };
        Ok(json!({"type": "image", "source": source}))
    }

    fn document(&self, at: usize, file: &File) -> Result<Value, BackendError> {
        let text = |(media_type, data): (&str, &str)| {
            let is_text = media_type.starts_with("text/");
            let bytes = is_text.then(|| STANDARD.decode(data).ok())??;
            String::from_utf8(bytes).ok()
        };
        let source = match base64_of(&file.url) {
            _ if !file.is_inline() => json!({"type": "url", "url": file.url}),
            Some((PDF, data)) => json!({"type": "base64", "media_type": PDF, "data": data}),
            other => match other.and_then(text) {
                Some(text) => json!({"type": "text", "media_type": "text/plain", "data": text}),
                None => {
                    let why = "this provider takes files as PDF or text";
                    return Err(self.declined(at, why));
                }
            },
        };
        let mut block = json!({"type": "document", "source": source});
        if let Some(name) = &file.name {
            block["title"] = name.as_str().into();
        }
        Ok(block)
    }

    /// What an assistant thought, as far as Anthropic vouches for it, what it said, and its calls.
    fn assistant(&self) -> Result<Vec<Value>, BackendError> {
        let mut blocks = Vec::with_capacity(self.message.content.len());
        // A thought, where it began, that is good for nothing without the signature that follows.
        let mut unsigned: Option<(usize, String)> = None;
        for (at, part) in self.message.content.iter().enumerate() {
            match part {
                Part::Thought(text) => {
                    let (_, thought) = unsigned.get_or_insert_with(|| (at, String::new()));
                    thought.push_str(text);
                }
                Part::Seal(seal) => {
                    let thought = unsigned.take();
                    if seal.of != Dialect::Anthropic {
                        continue;
                    }
                    let (begun, mut block) = match seal.kind {
                        SealKind::Signature => {
                            let (begun, thought) = thought.unwrap_or((at, String::new()));
                            let signature = seals::written(seal);
                            let block = json!({
                                "type": "thinking", "thinking": thought, "signature": signature,
                            });
                            (begun, block)
                        }
                        SealKind::Hidden => {
                            let data = seals::written(seal);
                            (at, json!({"type": "redacted_thinking", "data": data}))
                        }
                    };
                    self.leftovers.put_back(Place::Content(begun), &mut block);
                    blocks.push(block);
                }
                Part::Text(_)
                | Part::Image(_)
                | Part::Audio(_)
                | Part::File(_)
                | Part::Other(_) => {
                    unsigned = None;
                    blocks.extend(self.block(at, part)?);
                }
            }
        }
        let calls = self.message.tool_calls.iter().enumerate();
        blocks.extend(calls.map(|(at, call)| self.tool_use(at, call)));
        Ok(blocks)
    }

    fn tool_use(&self, at: usize, call: &ToolCall) -> Value {
        let arguments = input(&call.arguments);
        // What is nested too deep to be read goes as text.
        let input: Value = serde_json::from_str(arguments.get())
            .unwrap_or_else(|_| json!({ "INVALID_JSON": call.arguments }));
        let mut block = json!({
            "type": "tool_use", "id": plain_id(&call.id), "name": call.name, "input": input,
        });
        self.leftovers.put_back(Place::Call(at), &mut block);
        block
    }

    fn tool_result(&self) -> Result<Value, BackendError> {
        let id = self.message.tool_call_id.as_deref().unwrap_or_default();
        let mut block = json!({"type": "tool_result", "tool_use_id": plain_id(id)});
        let blocks = self.said()?;
        if !blocks.is_empty() {
            let is_nested = self
                .leftovers
                .has(|place| matches!(place, Place::Content(_)));
            block["content"] = if is_nested {
                blocks.into()
            } else {
                content(blocks)
            };
        }
        if self.message.is_failure {
            block["is_error"] = true.into();
        }
        self.leftovers.put_back(Place::Block, &mut block);
        Ok(block)
    }
}

/// Anthropic takes letters, digits, `_` and `-` in ids; calls and results are changed alike.
fn plain_id(id: &str) -> String {
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => letter,
        _ => '_',
    };
    id.chars().map(plain).collect()
}

/// Media type and data of a data URL in base64 (RFC 2397).
fn base64_of(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let media_type = head.strip_suffix(";base64")?;
    let end = media_type.find(';').unwrap_or(media_type.len());
    Some((&media_type[..end], data))
}
