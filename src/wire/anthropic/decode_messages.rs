//! Decodes a request's messages and system prompt, as a server.
//!
//! `domain` has a message for each result of a tool, and calls apart from what was said. So one
//! message of this dialect becomes one or more:
//!
//! ```text
//! user [text, tool_result, tool_result, text]   ─► User, Tool, Tool, User
//! assistant [thinking, text, tool_use, tool_use] ─► Assistant { content, tool_calls }
//! ```

use domain::{BadRequest, Extra, Image, Message, Part, Role, Seal, SealKind, ToolCall};
use serde_json::Value;

use super::decode_documents::read_document;
use super::leftovers::{Place, keep};
use super::seals;
use crate::data_url::is_base64;
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

/// Messages in one request.
const MESSAGES_MAX: usize = 4096;
/// Blocks in one message, and in one result of a tool.
pub(super) const BLOCKS_MAX: usize = 1024;
/// Names of tools, and ids of calls.
const NAME_BYTES_MAX: usize = 256;

/// What Anthropic's models see.
pub(super) const IMAGE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const ROLES: [&str; 3] = ["user", "assistant", "system"];

/// Parts of one message, with the fields of their blocks that nobody here interprets.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub parts: Vec<Part>,
    pub extra: Extra,
}

impl Parts {
    /// Adds what `fields` became, and keeps what is left of them.
    pub fn push(&mut self, part: Part, fields: Fields<'_>) {
        keep(
            fields,
            Place::Content(self.parts.len()),
            "",
            &mut self.extra,
        );
        self.parts.push(part);
    }

    /// Keeps what is left of a block that has no place in the message any more.
    pub fn keep_aside(&mut self, fields: Fields<'_>, below: &str) {
        // Fields are only ever added, so no two blocks get one number.
        let place = Place::Aside(self.extra.len());
        keep(fields, place, below, &mut self.extra);
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.extra.is_empty()
    }

    /// A message of everything so far.
    fn take(&mut self, role: Role) -> Message {
        let Parts { parts, extra } = std::mem::take(self);
        Message {
            content: parts,
            extra,
            ..Message::new(role, "")
        }
    }
}

/// `system`: a text or blocks of text. `None` where there is nothing in it.
pub(super) fn read_system(fields: &mut Fields<'_>) -> Result<Option<Message>, BadRequest> {
    let path = Path::Root.field("system");
    let parts = match fields.take("system") {
        None => return Ok(None),
        Some(value) => read_texts(path, value)?,
    };
    let mut parts = parts;
    Ok((!parts.is_empty()).then(|| parts.take(Role::System)))
}

/// A text or an array of text blocks.
fn read_texts(path: Path<'_>, value: Value) -> Result<Parts, BadRequest> {
    let mut parts = Parts::default();
    match value {
        Value::String(text) => parts.parts.push(Part::Text(text)),
        Value::Array(blocks) => {
            let blocks = array(&path, Value::Array(blocks), 0, BLOCKS_MAX)?;
            for (at, block) in blocks.into_iter().enumerate() {
                let path = path.index(at);
                match kind_of(&path, &block)? {
                    "text" => read_text(path, block, &mut parts)?,
                    other => {
                        return Err(fault::not_one_of(&path.field("type"), other, &["text"]));
                    }
                }
            }
        }
        other => {
            let expected = "a string or an array of text blocks";
            return Err(fault::wrong_type(&path, expected, &other));
        }
    }
    Ok(parts)
}

/// Appends the request's messages to `messages`.
pub(super) fn read_messages(
    fields: &mut Fields<'_>,
    messages: &mut Vec<Message>,
) -> Result<(), BadRequest> {
    let path = Path::Root.field("messages");
    let items = array(&path, fields.required("messages")?, 1, MESSAGES_MAX)?;
    for (at, value) in items.into_iter().enumerate() {
        let path = path.index(at);
        let mut fields = Fields::open(path, value)?;
        let role_path = path.field("role");
        let role = fields
            .string("role")?
            .ok_or_else(|| fault::missing(&role_path))?;
        let content = fields.required("content")?;
        let first = messages.len();
        match role.as_str() {
            "user" => read_user(path.field("content"), content, messages)?,
            "assistant" => messages.push(read_assistant(path.field("content"), content)?),
            "system" => {
                let mut parts = read_texts(path.field("content"), content)?;
                messages.push(parts.take(Role::System));
            }
            other => return Err(fault::not_one_of(&role_path, other, &ROLES)),
        }
        if let Some(message) = messages.get_mut(first) {
            keep(fields, Place::Message, "", &mut message.extra);
        }
    }
    Ok(())
}

fn read_user(
    path: Path<'_>,
    content: Value,
    messages: &mut Vec<Message>,
) -> Result<(), BadRequest> {
    let mut said = Parts::default();
    let first = messages.len();
    for (at, block) in blocks(&path, content, 1)?.into_iter().enumerate() {
        let path = path.index(at);
        match kind_of(&path, &block)? {
            "tool_result" => {
                if !said.is_empty() {
                    messages.push(said.take(Role::User));
                }
                messages.push(read_tool_result(path, block)?);
            }
            kind @ ("tool_use" | "thinking" | "redacted_thinking") => {
                return Err(misplaced(&path, kind, "assistant"));
            }
            _ => read_block(path, block, &mut said)?,
        }
    }
    if !said.is_empty() || messages.len() == first {
        messages.push(said.take(Role::User));
    }
    Ok(())
}

fn read_assistant(path: Path<'_>, content: Value) -> Result<Message, BadRequest> {
    let mut said = Parts::default();
    let mut calls = Vec::new();
    // Stood right before the call that it is for.
    let mut seal = None;
    for (at, block) in blocks(&path, content, 0)?.into_iter().enumerate() {
        let path = path.index(at);
        match kind_of(&path, &block)? {
            "tool_use" => {
                let call = read_tool_use(path, block, calls.len(), &mut said.extra)?;
                calls.push(ToolCall {
                    seal: seal.take(),
                    ..call
                });
            }
            "thinking" => read_thinking(path, block, &mut said)?,
            "redacted_thinking" => seal = read_hidden(path, block, &mut said)?,
            "tool_result" => return Err(misplaced(&path, "tool_result", "user")),
            _ => read_block(path, block, &mut said)?,
        }
    }
    Ok(Message {
        tool_calls: calls,
        ..said.take(Role::Assistant)
    })
}

/// A text stands for one block of it.
fn blocks(path: &Path<'_>, content: Value, items_min: usize) -> Result<Vec<Value>, BadRequest> {
    match content {
        Value::String(text) => Ok(vec![serde_json::json!({"type": "text", "text": text})]),
        Value::Array(blocks) => array(path, Value::Array(blocks), items_min, BLOCKS_MAX),
        other => {
            let expected = "a string or an array of content blocks";
            Err(fault::wrong_type(path, expected, &other))
        }
    }
}

pub(super) fn kind_of<'v>(path: &Path<'_>, block: &'v Value) -> Result<&'v str, BadRequest> {
    let Value::Object(fields) = block else {
        return Err(fault::wrong_type(path, "an object", block));
    };
    match fields.get("type") {
        Some(Value::String(kind)) => Ok(kind),
        None | Some(Value::Null) => Err(fault::missing(&path.field("type"))),
        Some(other) => Err(fault::wrong_type(&path.field("type"), "a string", other)),
    }
}

fn misplaced(path: &Path<'_>, kind: &str, role: &str) -> BadRequest {
    fault::invalid(
        &path.field("type"),
        format_args!("'{kind}' blocks stand in messages of the role '{role}'."),
    )
}

/// A block that may stand in any message or result. One that we do not interpret stays as it is.
fn read_block(path: Path<'_>, block: Value, into: &mut Parts) -> Result<(), BadRequest> {
    match kind_of(&path, &block)? {
        "text" => read_text(path, block, into),
        "image" => read_image(path, block, into),
        "document" => read_document(path, block, into),
        _ => {
            into.parts.push(Part::Other(block));
            Ok(())
        }
    }
}

fn read_text(path: Path<'_>, block: Value, into: &mut Parts) -> Result<(), BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let text = required_text(&mut fields, "text")?;
    into.push(Part::Text(text), fields);
    Ok(())
}

/// A string that is there and may be empty.
pub(super) fn required_text(fields: &mut Fields<'_>, name: &str) -> Result<String, BadRequest> {
    let text = fields.string(name)?;
    let path = fields.path;
    text.ok_or_else(|| fault::missing(&path.field(name)))
}

pub(super) fn read_image(path: Path<'_>, block: Value, into: &mut Parts) -> Result<(), BadRequest> {
    let source_path = path.field("source");
    let kind = source_kind(&path, &block)?;
    let is_inline = match kind {
        "base64" => true,
        "url" => false,
        // A file that the provider holds is known to that provider alone.
        _ => {
            into.parts.push(Part::Other(block));
            return Ok(());
        }
    };
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let mut source = Fields::open(source_path, fields.required("source")?)?;
    source.take("type");
    let url = if is_inline {
        read_base64(&mut source, &IMAGE_TYPES)?
    } else {
        read_address(&mut source)?
    };
    keep(
        source,
        Place::Content(into.parts.len()),
        "/source",
        &mut into.extra,
    );
    into.push(Part::Image(Image { url, detail: None }), fields);
    Ok(())
}

/// The `type` of a block's `source`.
pub(super) fn source_kind<'v>(path: &Path<'_>, block: &'v Value) -> Result<&'v str, BadRequest> {
    let path = path.field("source");
    match block.get("source") {
        None | Some(Value::Null) => Err(fault::missing(&path)),
        Some(source) => kind_of(&path, source),
    }
}

/// `media_type` and `data` as a data URL (RFC 2397).
pub(super) fn read_base64(
    source: &mut Fields<'_>,
    media_types: &[&str],
) -> Result<String, BadRequest> {
    let path = source.path;
    let media_type = required_text(source, "media_type")?;
    if !media_types.contains(&media_type.as_str()) {
        let path = path.field("media_type");
        return Err(fault::not_one_of(&path, &media_type, media_types));
    }
    let data = source.required_name("data", usize::MAX)?;
    if !is_base64(&data) {
        return Err(fault::invalid(&path.field("data"), "expected base64."));
    }
    Ok(format!("data:{media_type};base64,{data}"))
}

pub(super) fn read_address(source: &mut Fields<'_>) -> Result<String, BadRequest> {
    let path = source.path;
    let url = source.required_name("url", usize::MAX)?;
    let is_web = ["http://", "https://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    if is_web {
        return Ok(url);
    }
    let why = "expected an address that begins with https:// or http://.";
    Err(fault::invalid(&path.field("url"), why))
}

fn read_thinking(path: Path<'_>, block: Value, into: &mut Parts) -> Result<(), BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let thought = required_text(&mut fields, "thinking")?;
    let signature = fields.string("signature")?.filter(|it| !it.is_empty());
    if thought.is_empty() && signature.is_none() {
        into.keep_aside(fields, "");
        return Ok(());
    }
    keep(
        fields,
        Place::Content(into.parts.len()),
        "",
        &mut into.extra,
    );
    if !thought.is_empty() {
        into.parts.push(Part::Thought(thought));
    }
    match signature.map(|text| seals::read(text, SealKind::Signature)) {
        None => {}
        Some(seals::Read::Here(seal) | seals::Read::NextCall(seal)) => {
            into.parts.push(Part::Seal(seal));
        }
    }
    Ok(())
}

/// A hidden thought, or the seal of the next call.
fn read_hidden(path: Path<'_>, block: Value, into: &mut Parts) -> Result<Option<Seal>, BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let data = fields.required_name("data", usize::MAX)?;
    match seals::read(data, SealKind::Hidden) {
        seals::Read::Here(seal) => {
            into.push(Part::Seal(seal), fields);
            Ok(None)
        }
        seals::Read::NextCall(seal) => {
            into.keep_aside(fields, "");
            Ok(Some(seal))
        }
    }
}

fn read_tool_use(
    path: Path<'_>,
    block: Value,
    at: usize,
    extra: &mut Extra,
) -> Result<ToolCall, BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let id = fields.required_name("id", NAME_BYTES_MAX)?;
    let name = fields.required_name("name", NAME_BYTES_MAX)?;
    let input = fields.required("input")?;
    if !input.is_object() {
        return Err(fields.wrong_type("input", "an object", &input));
    }
    keep(fields, Place::Call(at), "", extra);
    Ok(ToolCall {
        id,
        name,
        arguments: input.to_string(),
        seal: None,
    })
}

fn read_tool_result(path: Path<'_>, block: Value) -> Result<Message, BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let id = fields.required_name("tool_use_id", NAME_BYTES_MAX)?;
    let is_failure = fields.boolean("is_error")?.unwrap_or(false);
    let content_path = path.field("content");
    let mut said = Parts::default();
    if let Some(content) = fields.take("content") {
        for (at, block) in blocks(&content_path, content, 0)?.into_iter().enumerate() {
            let path = content_path.index(at);
            match kind_of(&path, &block)? {
                kind @ ("tool_use" | "tool_result" | "thinking" | "redacted_thinking") => {
                    return Err(fault::invalid(
                        &path.field("type"),
                        format_args!("'{kind}' blocks do not stand in results of tools."),
                    ));
                }
                _ => read_block(path, block, &mut said)?,
            }
        }
    }
    keep(fields, Place::Block, "", &mut said.extra);
    Ok(Message {
        tool_call_id: Some(id),
        is_failure,
        ..said.take(Role::Tool)
    })
}
