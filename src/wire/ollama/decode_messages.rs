//! Decodes a chat's messages.
//!
//! Calls need no ids here, and a tool's answer may say the tool's name or nothing of what it answers.
//! Everybody else goes by ids, so calls without one get one by their place, and an answer gets that of
//! the first call yet unanswered that it may be meant for.

use domain::{BadRequest, Extra, Message, Part, Role, ToolCall};
use serde_json::Value;

use super::decode_shared::read_images;
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

/// Messages in one request.
const MESSAGES_MAX: usize = 4096;
/// Calls in one assistant message.
const TOOL_CALLS_MAX: usize = 256;
/// Names of functions, and ids of calls.
const NAME_BYTES_MAX: usize = 256;

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Empty where none are sent: that is a request to load the model.
pub(super) fn read_messages(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Vec<Message>, BadRequest> {
    let path = Path::Root.field("messages");
    let Some(value) = fields.take("messages") else {
        return Ok(Vec::new());
    };
    let mut calls = Calls::default();
    array(&path, value, 0, MESSAGES_MAX)?
        .into_iter()
        .enumerate()
        .map(|(at, value)| read_message(path.index(at), value, &mut calls, extra))
        .collect()
}

fn read_message(
    path: Path<'_>,
    value: Value,
    calls: &mut Calls,
    extra: &mut Extra,
) -> Result<Message, BadRequest> {
    let mut fields = Fields::open(path, value)?;
    let word = fields
        .string("role")?
        .ok_or_else(|| fault::missing(&path.field("role")))?;
    let role = match word.to_ascii_lowercase().as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => return Err(fault::not_one_of(&path.field("role"), other, &ROLES)),
    };
    let text = fields.string("content")?.unwrap_or_default();
    let thought = fields.string("thinking")?;
    let images = read_images(&mut fields)?;
    let tool_calls = read_calls(&mut fields, role, calls, extra)?;
    let answered = read_answered(&mut fields, role, calls)?;
    fields.leave_to(extra);

    let thought = thought.filter(|text| role == Role::Assistant && !text.is_empty());
    let mut message = Message::new(role, "");
    message.content.clear();
    message.content.extend(thought.map(Part::Thought));
    message.content.extend(images.into_iter().map(Part::Image));
    let is_silent = text.is_empty() && !(message.content.is_empty() && tool_calls.is_empty());
    if !is_silent {
        message.content.push(Part::Text(text));
    }
    message.tool_calls = tool_calls;
    message.tool_call_id = answered;
    Ok(message)
}

fn read_calls(
    fields: &mut Fields<'_>,
    role: Role,
    calls: &mut Calls,
    extra: &mut Extra,
) -> Result<Vec<ToolCall>, BadRequest> {
    let path = fields.path;
    let path = path.field("tool_calls");
    let Some(value) = fields.take("tool_calls") else {
        return Ok(Vec::new());
    };
    let items = array(&path, value, 0, TOOL_CALLS_MAX)?;
    if role != Role::Assistant && !items.is_empty() {
        return Err(fault::invalid(
            &path,
            "only messages of the role 'assistant' have it.",
        ));
    }
    if !items.is_empty() {
        calls.open.clear();
    }
    items
        .into_iter()
        .enumerate()
        .map(|(at, item)| read_call(path.index(at), item, calls, extra))
        .collect()
}

fn read_call(
    path: Path<'_>,
    value: Value,
    calls: &mut Calls,
    extra: &mut Extra,
) -> Result<ToolCall, BadRequest> {
    let mut call = Fields::open(path, value)?;
    let id = read_name(&mut call, "id")?;
    let function_path = path.field("function");
    let mut function = Fields::open(function_path, call.required("function")?)?;
    let name = function.required_name("name", NAME_BYTES_MAX)?;
    let arguments = match function.take("arguments") {
        None => "{}".to_owned(),
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        Some(other) => return Err(function.wrong_type("arguments", "an object", &other)),
    };
    // Where it stood among its like, which the order of the array says too.
    function.take("index");
    call.string("type")?;
    function.leave_to(extra);
    call.leave_to(extra);
    Ok(ToolCall {
        id: calls.made(id, &name),
        name,
        arguments,
        seal: None,
    })
}

/// The id of the call that a tool's message answers.
fn read_answered(
    fields: &mut Fields<'_>,
    role: Role,
    calls: &mut Calls,
) -> Result<Option<String>, BadRequest> {
    let id = read_name(fields, "tool_call_id")?;
    // An older name of the same.
    let older = read_name(fields, "name")?;
    let name = read_name(fields, "tool_name")?.or(older);
    Ok((role == Role::Tool).then(|| calls.answered(id, name.as_deref())))
}

/// A name, or nothing where it is empty.
fn read_name(fields: &mut Fields<'_>, name: &str) -> Result<Option<String>, BadRequest> {
    if fields.peek(name).and_then(Value::as_str) == Some("") {
        fields.take(name);
        return Ok(None);
    }
    match fields.has(name) {
        true => fields.required_name(name, NAME_BYTES_MAX).map(Some),
        false => Ok(None),
    }
}

/// The conversation's last calls, those that nobody has answered.
#[derive(Default)]
struct Calls {
    count: usize,
    open: Vec<(String, String)>,
}

impl Calls {
    /// Takes note of a call, and says its id.
    fn made(&mut self, id: Option<String>, name: &str) -> String {
        let id = id.unwrap_or_else(|| format!("call_{}", self.count));
        self.count += 1;
        self.open.push((id.clone(), name.to_owned()));
        id
    }

    /// Takes note of an answer. What answers nothing that was asked keeps its own id, or gets one that
    /// nothing else has.
    fn answered(&mut self, id: Option<String>, name: Option<&str>) -> String {
        let meant = self
            .open
            .iter()
            .position(|(known, tool)| match (&id, name) {
                (Some(id), _) => known == id,
                (None, Some(name)) => tool == name,
                (None, None) => true,
            });
        if let Some(at) = meant {
            return self.open.remove(at).0;
        }
        self.count += 1;
        id.unwrap_or_else(|| format!("call_{}", self.count - 1))
    }
}
