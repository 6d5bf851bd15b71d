//! Decodes a request's messages, as a server.

use domain::{Audio, BadRequest, Extra, File, Image, Message, Part, Role, ToolCall};
use serde_json::Value;

use super::failures;
use super::seals;
use crate::data_url::is_base64;
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

/// Messages in one request.
const MESSAGES_MAX: usize = 4096;
/// Content parts in one message.
pub(super) const PARTS_MAX: usize = 1024;
/// Calls in one assistant message.
const TOOL_CALLS_MAX: usize = 256;
/// Names of speakers and functions, and ids of calls.
const NAME_BYTES_MAX: usize = 256;

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

pub(super) fn read_messages(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Vec<Message>, BadRequest> {
    let path = Path::Root.field("messages");
    array(&path, fields.required("messages")?, 1, MESSAGES_MAX)?
        .into_iter()
        .enumerate()
        .map(|(at, value)| read_message(path.index(at), value, extra))
        .collect()
}

fn read_message(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Message, BadRequest> {
    let mut fields = Fields::open(path, value)?;
    let role = read_role(&mut fields)?;
    if fields.take("function_call").is_some() {
        return Err(fault::unsupported(
            &path.field("function_call"),
            "It is OpenAI's older form; use 'tool_calls' instead.",
        ));
    }
    let tool_calls = read_calls(&mut fields, role, extra)?;
    let tool_call_id = read_call_id(&mut fields, role)?;
    let may_be_silent = role == Role::Assistant
        && (!tool_calls.is_empty() || fields.has("refusal") || fields.has("audio"));
    let mut content = read_content(&mut fields, may_be_silent, extra)?;
    if let (Role::Assistant, Some(thought)) = (role, fields.string("reasoning_content")?) {
        content.insert(0, Part::Thought(thought));
    }
    let is_failure = role == Role::Tool && failures::unmark(&mut content);
    let name = match fields.has("name") {
        true => Some(fields.required_name("name", NAME_BYTES_MAX)?),
        false => {
            fields.take("name");
            None
        }
    };
    Ok(Message {
        role,
        content,
        name,
        tool_calls,
        tool_call_id,
        is_failure,
        extra: fields.rest(),
    })
}

fn read_role(fields: &mut Fields<'_>) -> Result<Role, BadRequest> {
    let message_path = fields.path;
    let path = message_path.field("role");
    let word = fields
        .string("role")?
        .ok_or_else(|| fault::missing(&path))?;
    match word.as_str() {
        "system" => Ok(Role::System),
        "developer" => Ok(Role::Developer),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        "function" => Err(fault::invalid(
            &path,
            "the role 'function' is OpenAI's older form; use 'tool' with 'tool_call_id' instead.",
        )),
        other => Err(fault::not_one_of(&path, other, &ROLES)),
    }
}

fn read_call_id(fields: &mut Fields<'_>, role: Role) -> Result<Option<String>, BadRequest> {
    if role == Role::Tool {
        return fields
            .required_name("tool_call_id", NAME_BYTES_MAX)
            .map(Some);
    }
    match fields.take("tool_call_id") {
        None => Ok(None),
        Some(_) => Err(fault::invalid(
            &fields.path.field("tool_call_id"),
            "only messages of the role 'tool' have it.",
        )),
    }
}

fn read_content(
    fields: &mut Fields<'_>,
    may_be_silent: bool,
    extra: &mut Extra,
) -> Result<Vec<Part>, BadRequest> {
    let message_path = fields.path;
    let path = message_path.field("content");
    match fields.take("content") {
        None if may_be_silent => Ok(Vec::new()),
        None => Err(fault::missing(&path)),
        Some(Value::String(text)) => Ok(vec![Part::Text(text)]),
        Some(Value::Array(parts)) => array(&path, Value::Array(parts), 1, PARTS_MAX)?
            .into_iter()
            .enumerate()
            .map(|(at, part)| read_part(path.index(at), part, extra))
            .collect(),
        Some(other) => Err(fault::wrong_type(
            &path,
            "a string or an array of content parts",
            &other,
        )),
    }
}

fn read_part(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Part, BadRequest> {
    let Some(kind) = value.get("type") else {
        return Err(match value {
            Value::Object(_) => fault::missing(&path.field("type")),
            other => fault::wrong_type(&path, "an object", &other),
        });
    };
    let text_field = match kind.as_str() {
        Some("text") => "text",
        // What a model said when it declined; for the next turn it is the assistant's text.
        Some("refusal") => "refusal",
        Some("image_url") => return read_image(path, value, extra),
        Some("input_audio") => return read_audio(path, value, extra),
        // A file that the provider holds is known to that provider alone.
        Some("file") if value.pointer("/file/file_data").is_some() => {
            return read_file(path, value, extra);
        }
        Some(_) => return Ok(Part::Other(value)),
        None => return Err(fault::wrong_type(&path.field("type"), "a string", kind)),
    };
    let mut fields = Fields::open(path, value)?;
    let text = fields
        .string(text_field)?
        .ok_or_else(|| fault::missing(&path.field(text_field)))?;
    fields.take("type");
    fields.leave_to(extra);
    Ok(Part::Text(text))
}

fn read_image(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Part, BadRequest> {
    let mut fields = Fields::open(path, value)?;
    fields.take("type");
    let image_path = path.field("image_url");
    let mut image = Fields::open(image_path, fields.required("image_url")?)?;
    let url = image.required_name("url", usize::MAX)?;
    if !["http://", "https://", "data:"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(fault::invalid(
            &image_path.field("url"),
            "expected an address that begins with https://, http:// or data:.",
        ));
    }
    let detail = image.string("detail")?;
    image.leave_to(extra);
    fields.leave_to(extra);
    Ok(Part::Image(Image { url, detail }))
}

fn read_audio(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Part, BadRequest> {
    let mut fields = Fields::open(path, value)?;
    fields.take("type");
    let audio_path = path.field("input_audio");
    let mut audio = Fields::open(audio_path, fields.required("input_audio")?)?;
    let data = audio.required_name("data", usize::MAX)?;
    if !is_base64(&data) {
        return Err(fault::invalid(
            &audio_path.field("data"),
            "expected base64.",
        ));
    }
    let format = audio.required_name("format", NAME_BYTES_MAX)?;
    audio.leave_to(extra);
    fields.leave_to(extra);
    Ok(Part::Audio(Audio { data, format }))
}

fn read_file(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Part, BadRequest> {
    let mut fields = Fields::open(path, value)?;
    fields.take("type");
    let file_path = path.field("file");
    let mut file = Fields::open(file_path, fields.required("file")?)?;
    let url = file.required_name("file_data", usize::MAX)?;
    let bytes = url
        .strip_prefix("data:")
        .and_then(|url| url.split_once(";base64,"));
    if bytes.is_none_or(|(_, bytes)| !is_base64(bytes)) {
        return Err(fault::invalid(
            &file_path.field("file_data"),
            "expected a data URL, as data:application/pdf;base64,….",
        ));
    }
    let name = file.string("filename")?;
    file.leave_to(extra);
    fields.leave_to(extra);
    Ok(Part::File(File { url, name }))
}

fn read_calls(
    fields: &mut Fields<'_>,
    role: Role,
    extra: &mut Extra,
) -> Result<Vec<ToolCall>, BadRequest> {
    let message_path = fields.path;
    let path = message_path.field("tool_calls");
    let Some(value) = fields.take("tool_calls") else {
        return Ok(Vec::new());
    };
    let calls = array(&path, value, 0, TOOL_CALLS_MAX)?;
    if role != Role::Assistant && !calls.is_empty() {
        return Err(fault::invalid(
            &path,
            "only messages of the role 'assistant' have it.",
        ));
    }
    calls
        .into_iter()
        .enumerate()
        .map(|(at, call)| read_call(path.index(at), call, extra))
        .collect()
}

fn read_call(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<ToolCall, BadRequest> {
    let mut call = Fields::open(path, value)?;
    let id = call.required_name("id", NAME_BYTES_MAX)?;
    read_function_kind(&mut call)?;
    let function_path = path.field("function");
    let mut function = Fields::open(function_path, call.required("function")?)?;
    let name = function.required_name("name", NAME_BYTES_MAX)?;
    let arguments = function
        .string("arguments")?
        .ok_or_else(|| fault::missing(&function_path.field("arguments")))?;
    function.leave_to(extra);
    let seal = seals::take(&mut call, extra);
    call.leave_to(extra);
    Ok(ToolCall {
        id,
        name,
        arguments,
        seal,
    })
}

/// Takes `type`, which is `function` or, from lenient clients, absent.
pub(super) fn read_function_kind(fields: &mut Fields<'_>) -> Result<(), BadRequest> {
    match fields.string("type")?.as_deref() {
        None | Some("function") => Ok(()),
        Some(other) => Err(fault::not_one_of(
            &fields.path.field("type"),
            other,
            &["function"],
        )),
    }
}
