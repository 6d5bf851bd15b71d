//! Decodes a request's input items, as a server.
//!
//! Reasoning, text and calls of one turn are items of their own here, and one message in `domain`.

use domain::{Audio, BadRequest, Extra, File, Image, Message, Part, Role, TeamShelf, ToolCall};
use serde_json::{Value, json};

use super::earlier;
use super::opaque_seal::seal;
use crate::data_url::{self, is_base64};
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

/// Items of one request.
const ITEMS_MAX: usize = 4096;
/// Content parts of one item.
const PARTS_MAX: usize = 1024;
/// Names, and ids of calls.
const NAME_BYTES_MAX: usize = 256;

const ROLES: [&str; 4] = ["user", "assistant", "system", "developer"];

/// What of the input is needed beside its messages.
#[derive(Default)]
pub(super) struct Input {
    /// The items, where they are to be kept.
    pub kept: Vec<Value>,
    /// Whether items stand elsewhere.
    pub has_references: bool,
}

/// `input`: a text, or items.
pub(super) fn read_input(
    fields: &mut Fields<'_>,
    shelf: Option<&TeamShelf>,
    messages: &mut Vec<Message>,
    extra: &mut Extra,
    keeps: bool,
) -> Result<Input, BadRequest> {
    let path = Path::Root.field("input");
    let mut input = Input::default();
    let mut items = match fields.required("input")? {
        Value::String(text) => {
            vec![json!({"type": "message", "role": "user", "content": text})]
        }
        Value::Array(items) => array(&path, Value::Array(items), 1, ITEMS_MAX)?,
        other => {
            return Err(fault::wrong_type(
                &path,
                "a string or an array of items",
                &other,
            ));
        }
    };
    for (at, item) in items.iter_mut().enumerate() {
        if let Some(found) = referenced(path.index(at), item, shelf)? {
            *item = found;
            input.has_references = true;
        }
    }
    if keeps {
        input.kept.clone_from(&items);
    }
    read_items(path, items, messages, extra)?;
    Ok(input)
}

/// The item that `item` stands for, where it stands for another.
fn referenced(
    path: Path<'_>,
    item: &Value,
    shelf: Option<&TeamShelf>,
) -> Result<Option<Value>, BadRequest> {
    let is_reference = match &item["type"] {
        Value::String(kind) => kind == "item_reference",
        // OpenAI lets the type be left out here, as of messages.
        Value::Null => item.get("id").is_some() && item.get("role").is_none(),
        _ => false,
    };
    if !is_reference {
        return Ok(None);
    }
    let path = path.field("id");
    let id = match item.get("id") {
        Some(Value::String(id)) => id,
        Some(other) => return Err(fault::wrong_type(&path, "a string", other)),
        None => return Err(fault::missing(&path)),
    };
    let found = earlier::item(shelf, id).ok_or_else(|| {
        let said = format!(
            "no item with the id '{}' is kept here. Send the item itself.",
            fault::shown(id)
        );
        fault::invalid(&path, said)
    })?;
    Ok(Some(found))
}

/// Adds what the items at `path` say.
pub(super) fn read_items(
    path: Path<'_>,
    items: Vec<Value>,
    messages: &mut Vec<Message>,
    extra: &mut Extra,
) -> Result<(), BadRequest> {
    for (at, item) in items.into_iter().enumerate() {
        read_item(path.index(at), item, messages, extra)?;
    }
    Ok(())
}

fn read_item(
    path: Path<'_>,
    item: Value,
    messages: &mut Vec<Message>,
    extra: &mut Extra,
) -> Result<(), BadRequest> {
    let mut item = Fields::open(path, item)?;
    let kind = item.string("type")?;
    // Whose they are and how far they got is known by where they stand.
    item.take("id");
    let status = item.string("status")?;
    match kind.as_deref() {
        None | Some("message") => read_message(item, messages, extra),
        Some("function_call") => {
            let call = ToolCall {
                id: item.required_name("call_id", NAME_BYTES_MAX)?,
                name: item.required_name("name", NAME_BYTES_MAX)?,
                arguments: item
                    .string("arguments")?
                    .ok_or_else(|| fault::missing(&path.field("arguments")))?,
                seal: item.string("encrypted_content")?.map(seal),
            };
            item.leave_to(extra);
            turn(messages, |_| true).tool_calls.push(call);
            Ok(())
        }
        Some("function_call_output") => {
            let id = item.required_name("call_id", NAME_BYTES_MAX)?;
            let output = item.required("output")?;
            let content = read_content(&path.field("output"), output, extra)?;
            item.leave_to(extra);
            messages.push(Message {
                content,
                tool_call_id: Some(id),
                is_failure: status.as_deref() == Some("incomplete"),
                ..Message::new(Role::Tool, "")
            });
            Ok(())
        }
        Some("reasoning") => read_reasoning(item, messages, extra),
        Some(other) => Err(fault::not_one_of(
            &path.field("type"),
            other,
            &[
                "message",
                "function_call",
                "function_call_output",
                "reasoning",
                "item_reference",
            ],
        )),
    }
}

/// The assistant's turn that is being said, where `may_join`; else a new one.
fn turn(messages: &mut Vec<Message>, may_join: impl Fn(&Message) -> bool) -> &mut Message {
    let joins = messages
        .last()
        .is_some_and(|last| last.role == Role::Assistant && may_join(last));
    if !joins {
        messages.push(Message {
            content: Vec::new(),
            ..Message::new(Role::Assistant, "")
        });
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

fn read_message(
    mut item: Fields<'_>,
    messages: &mut Vec<Message>,
    extra: &mut Extra,
) -> Result<(), BadRequest> {
    let path = item.path;
    let role_path = path.field("role");
    let word = item.string("role")?;
    let role = match word.as_deref() {
        None => return Err(fault::missing(&role_path)),
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => Role::System,
        Some("developer") => Role::Developer,
        Some(other) => return Err(fault::not_one_of(&role_path, other, &ROLES)),
    };
    let content = item.required("content")?;
    let content = read_content(&path.field("content"), content, extra)?;
    // What is of the reply alone.
    keep(&mut item, "phase", extra);
    item.leave_to(extra);
    if role != Role::Assistant {
        messages.push(Message {
            content,
            ..Message::new(role, "")
        });
        return Ok(());
    }
    turn(messages, has_thoughts_only).content.extend(content);
    Ok(())
}

/// Thoughts come right before what they led to.
fn has_thoughts_only(last: &Message) -> bool {
    let mut parts = last.content.iter();
    let is_thought = |part: &Part| matches!(part, Part::Thought(_) | Part::Seal(_));
    last.tool_calls.is_empty() && parts.all(is_thought)
}

fn read_reasoning(
    mut item: Fields<'_>,
    messages: &mut Vec<Message>,
    extra: &mut Extra,
) -> Result<(), BadRequest> {
    let path = item.path;
    let mut thoughts = Vec::new();
    for name in ["summary", "content"] {
        let list = path.field(name);
        let Some(value) = item.take(name) else {
            continue;
        };
        for (at, part) in array(&list, value, 0, PARTS_MAX)?.into_iter().enumerate() {
            let mut part = Fields::open(list.index(at), part)?;
            let text = part
                .string("text")?
                .ok_or_else(|| fault::missing(&list.index(at).field("text")))?;
            part.take("type");
            part.leave_to(extra);
            thoughts.push(Part::Thought(text));
        }
    }
    if let Some(data) = item.string("encrypted_content")? {
        thoughts.push(Part::Seal(seal(data)));
    }
    item.leave_to(extra);
    if !thoughts.is_empty() {
        turn(messages, has_thoughts_only).content.extend(thoughts);
    }
    Ok(())
}

fn read_content(path: &Path<'_>, value: Value, extra: &mut Extra) -> Result<Vec<Part>, BadRequest> {
    match value {
        Value::String(text) => Ok(vec![Part::Text(text)]),
        Value::Array(parts) => array(path, Value::Array(parts), 0, PARTS_MAX)?
            .into_iter()
            .enumerate()
            .map(|(at, part)| read_part(path.index(at), part, extra))
            .collect(),
        other => Err(fault::wrong_type(
            path,
            "a string or an array of content parts",
            &other,
        )),
    }
}

/// What no model reads is kept where it says something, for it may be personal and is in the received bytes.
fn keep(fields: &mut Fields<'_>, name: &str, extra: &mut Extra) {
    let Some(value) = fields.take(name) else {
        return;
    };
    let is_plain = match &value {
        Value::Array(items) => items.is_empty(),
        Value::String(word) => word.bytes().all(|it| it.is_ascii_lowercase() || it == b'_'),
        Value::Null | Value::Bool(_) => true,
        Value::Number(_) | Value::Object(_) => false,
    };
    if !is_plain {
        extra.insert(fields.path.field(name).pointer(), value);
    }
}

fn read_part(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Part, BadRequest> {
    let mut part = Fields::open(path, value)?;
    let kind = part
        .string("type")?
        .ok_or_else(|| fault::missing(&path.field("type")))?;
    let read = match kind.as_str() {
        "input_text" | "output_text" | "text" => {
            // Of a reply that comes back.
            keep(&mut part, "annotations", extra);
            keep(&mut part, "logprobs", extra);
            text(&mut part, "text").map(Part::Text)
        }
        "refusal" => text(&mut part, "refusal").map(Part::Text),
        "input_image" => read_image(&mut part).map(Part::Image),
        "input_file" => read_file(&mut part).map(Part::File),
        "input_audio" => {
            let inner = path.field("input_audio");
            let mut audio = Fields::open(inner, part.required("input_audio")?)?;
            let data = audio.required_name("data", usize::MAX)?;
            if !is_base64(&data) {
                return Err(fault::invalid(&inner.field("data"), "expected base64."));
            }
            let read = Audio {
                data,
                format: audio.required_name("format", NAME_BYTES_MAX)?,
            };
            audio.leave_to(extra);
            Ok(Part::Audio(read))
        }
        other => Err(fault::not_one_of(
            &path.field("type"),
            other,
            &[
                "input_text",
                "input_image",
                "input_file",
                "input_audio",
                "output_text",
                "refusal",
            ],
        )),
    }?;
    part.leave_to(extra);
    Ok(read)
}

fn text(part: &mut Fields<'_>, name: &str) -> Result<String, BadRequest> {
    part.string(name)?
        .ok_or_else(|| fault::missing(&part.path.field(name)))
}

fn read_image(part: &mut Fields<'_>) -> Result<Image, BadRequest> {
    let path = part.path;
    refuse_held(part)?;
    let url = part.required_name("image_url", usize::MAX)?;
    let schemes = ["http://", "https://", "data:"];
    if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(fault::invalid(
            &path.field("image_url"),
            "expected an address that begins with https://, http:// or data:.",
        ));
    }
    let detail = part.string("detail")?;
    Ok(Image { url, detail })
}

fn read_file(part: &mut Fields<'_>) -> Result<File, BadRequest> {
    let path = part.path;
    refuse_held(part)?;
    let name = part.string("filename")?;
    let url = match (part.string("file_data")?, part.string("file_url")?) {
        (Some(data), None) if data_url::split(&data).is_some() => data,
        (Some(_), None) => {
            return Err(fault::invalid(
                &path.field("file_data"),
                "expected a data URL, as data:application/pdf;base64,….",
            ));
        }
        (None, Some(url)) if url.starts_with("https://") || url.starts_with("http://") => url,
        (None, Some(_)) => {
            return Err(fault::invalid(
                &path.field("file_url"),
                "expected an address that begins with https:// or http://.",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(fault::invalid(
                &path.field("file_url"),
                "it cannot stand beside 'file_data'. Send one of them.",
            ));
        }
        (None, None) => return Err(fault::missing(&path.field("file_data"))),
    };
    Ok(File { url, name })
}

/// Files that one provider keeps are known to that provider alone.
fn refuse_held(part: &mut Fields<'_>) -> Result<(), BadRequest> {
    match part.take("file_id") {
        None => Ok(()),
        Some(_) => Err(fault::unsupported(
            &part.path.field("file_id"),
            "Files are not kept here; send the bytes as a data URL, or an address.",
        )),
    }
}
