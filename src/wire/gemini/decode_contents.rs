//! Decodes a request's contents, as a server.
//!
//! One content may become several messages: each `functionResponse` is one of its own. A call
//! without an id is answered by its name, in order, as Google does.

use domain::{Audio, BadRequest, Extra, File, Image, Message, Part, Role, ToolCall};
use serde_json::{Map, Value, json};

use super::{seals, spelling};
use crate::fields::{Fields, Path, array, bounded};
use crate::{data_url, request_fault as fault};

const CONTENTS_MAX: usize = 4096;
/// Parts of one content.
const PARTS_MAX: usize = 1024;
/// Calls in one content.
const TOOL_CALLS_MAX: usize = 256;
/// Names of functions, and ids of calls.
const NAME_BYTES_MAX: usize = 256;

const CONTENT_NAMES: [&str; 2] = ["role", "parts"];
/// What a part may hold of what we know; exactly one of them.
const DATA: [&str; 5] = [
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
];
/// Beside any of them.
const BESIDE: [&str; 2] = ["thought", "thoughtSignature"];

pub(super) fn read_system(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Option<Message>, BadRequest> {
    let path = Path::Root.field("systemInstruction");
    let content = match fields.take("systemInstruction") {
        None => return Ok(None),
        // The clients' own short form, which some let through.
        Some(Value::String(text)) => return Ok(Some(Message::new(Role::System, text))),
        Some(value) => value,
    };
    let mut content = spelling::open(path, content, &CONTENT_NAMES)?;
    content.string("role")?;
    let mut message = Message::new(Role::System, "");
    message.content.clear();
    let parts_path = path.field("parts");
    for (at, value) in read_part_list(&mut content)?.into_iter().enumerate() {
        let part = OpenPart::open(parts_path.index(at), value)?;
        match part.data {
            Data::Part(part) => message.content.push(part),
            Data::Call(..) | Data::Response(..) | Data::Nothing => {
                return Err(fault::missing(&parts_path.index(at).field("text")));
            }
        }
    }
    content.leave_to(extra);
    Ok(Some(message))
}

pub(super) fn read_contents(
    fields: &mut Fields<'_>,
    messages: &mut Vec<Message>,
    extra: &mut Extra,
) -> Result<(), BadRequest> {
    let path = Path::Root.field("contents");
    let contents = match fields.required("contents")? {
        // Some clients' form of a single one.
        Value::Object(content) => vec![Value::Object(content)],
        other => array(&path, other, 1, CONTENTS_MAX)?,
    };
    let mut unanswered: Vec<Open> = Vec::new();
    let mut was_model = false;
    for (at, value) in contents.into_iter().enumerate() {
        let path = path.index(at);
        let mut content = spelling::open(path, value, &CONTENT_NAMES)?;
        let is_model = is_of_model(&mut content)?;
        if is_model {
            if !was_model {
                unanswered.clear();
            }
            let message = read_model_content(at, &mut content, extra)?;
            unanswered.extend(message.tool_calls.iter().map(Open::of));
            messages.push(message);
        } else {
            read_user_content(&mut content, messages, &mut unanswered)?;
        }
        was_model = is_model;
        content.leave_to(extra);
    }
    let is_said = |message: &Message| message.role != Role::System;
    if !messages.iter().any(is_said) {
        return Err(fault::invalid(
            &path,
            "they say nothing: every part is empty.",
        ));
    }
    Ok(())
}

fn is_of_model(content: &mut Fields<'_>) -> Result<bool, BadRequest> {
    match content.string("role")?.as_deref() {
        None | Some("" | "user" | "function") => Ok(false),
        Some("model") => Ok(true),
        Some(other) => {
            let path = content.path;
            Err(fault::not_one_of(
                &path.field("role"),
                other,
                &["user", "model"],
            ))
        }
    }
}

fn read_part_list(content: &mut Fields<'_>) -> Result<Vec<Value>, BadRequest> {
    let path = content.path;
    let parts_path = path.field("parts");
    match content.required("parts")? {
        Value::Object(part) => Ok(vec![Value::Object(part)]),
        other => array(&parts_path, other, 1, PARTS_MAX),
    }
}

fn read_model_content(
    content_at: usize,
    content: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Message, BadRequest> {
    let path = content.path;
    let parts_path = path.field("parts");
    let mut message = Message::new(Role::Assistant, "");
    message.content.clear();
    for (at, value) in read_part_list(content)?.into_iter().enumerate() {
        let path = parts_path.index(at);
        let OpenPart {
            data,
            is_thought,
            signature,
        } = OpenPart::open(path, value)?;
        let seal = signature.map(seals::read);
        match data {
            Data::Call(call, rest) => {
                if message.tool_calls.len() >= TOOL_CALLS_MAX {
                    return Err(fault::too_many(&parts_path, TOOL_CALLS_MAX, at + 1));
                }
                let made_up = || format!("call_{content_at}_{}", message.tool_calls.len());
                let id = call.id.unwrap_or_else(made_up);
                message.tool_calls.push(ToolCall {
                    id,
                    name: call.name,
                    arguments: call.arguments,
                    seal,
                });
                leave(rest, &path.field("functionCall"), extra);
            }
            Data::Response(..) => {
                return Err(fault::invalid(
                    &path.field("functionResponse"),
                    "only contents of the role 'user' have it.",
                ));
            }
            Data::Part(part) => {
                let part = match part {
                    Part::Text(text) if is_thought => Part::Thought(text),
                    part => part,
                };
                let is_bare =
                    matches!(&part, Part::Text(text) | Part::Thought(text) if text.is_empty());
                if !is_bare || seal.is_none() {
                    message.content.push(part);
                }
                message.content.extend(seal.map(Part::Seal));
            }
            Data::Nothing => message.content.extend(seal.map(Part::Seal)),
        }
    }
    Ok(message)
}

/// A call that has no result yet.
struct Open {
    id: String,
    name: String,
}

impl Open {
    fn of(call: &ToolCall) -> Self {
        Self {
            id: call.id.clone(),
            name: call.name.clone(),
        }
    }
}

fn read_user_content(
    content: &mut Fields<'_>,
    messages: &mut Vec<Message>,
    unanswered: &mut Vec<Open>,
) -> Result<(), BadRequest> {
    let path = content.path;
    let parts_path = path.field("parts");
    let mut said = Vec::new();
    let flush = |said: &mut Vec<Part>, messages: &mut Vec<Message>| {
        if !said.is_empty() {
            let mut message = Message::new(Role::User, "");
            message.content = std::mem::take(said);
            messages.push(message);
        }
    };
    for (at, value) in read_part_list(content)?.into_iter().enumerate() {
        let path = parts_path.index(at);
        match OpenPart::open(path, value)?.data {
            Data::Part(part) => said.push(part),
            Data::Nothing => {}
            Data::Call(..) => {
                return Err(fault::invalid(
                    &path.field("functionCall"),
                    "only contents of the role 'model' have it.",
                ));
            }
            Data::Response(response, rest) => {
                flush(&mut said, messages);
                let path = path.field("functionResponse");
                messages.push(response.message(&path, unanswered, rest)?);
            }
        }
    }
    flush(&mut said, messages);
    Ok(())
}

/// One part, by what it holds.
struct OpenPart {
    data: Data,
    is_thought: bool,
    signature: Option<String>,
}

enum Data {
    Part(Part),
    /// With the fields we do not know.
    Call(Call, Extra),
    Response(Response, Extra),
    /// Nothing but a signature, or an empty object.
    Nothing,
}

struct Call {
    id: Option<String>,
    name: String,
    arguments: String,
}

struct Response {
    id: Option<String>,
    name: String,
    content: Vec<Part>,
    is_failure: bool,
}

impl OpenPart {
    fn open(path: Path<'_>, value: Value) -> Result<Self, BadRequest> {
        let names = [DATA.as_slice(), &BESIDE].concat();
        // Large bytes are not copied for nothing.
        let whole = has_unknown(&value, &names).then(|| value.clone());
        let mut fields = spelling::open(path, value, &names)?;
        let is_thought = fields.boolean("thought")?.unwrap_or(false);
        let signature = match fields.string("thoughtSignature")? {
            Some(text) if data_url::standard(&text).is_none() => {
                let path = path.field("thoughtSignature");
                return Err(fault::invalid(&path, "expected base64."));
            }
            signature => signature.filter(|text| !text.is_empty()),
        };
        let mut held = DATA.iter().filter(|name| fields.has(name));
        let data = match (held.next(), held.next()) {
            (Some(first), Some(second)) => {
                return Err(fault::invalid(
                    &path.field(second),
                    format_args!("a part holds one thing, and this one has '{first}' too."),
                ));
            }
            (Some(name), None) => {
                let value = fields.required(name)?;
                let data = read_data(path, name, value)?;
                match (data, whole) {
                    // What we do not know beside it says how to look at it.
                    (Data::Part(_), Some(whole)) => Data::Part(Part::Other(whole)),
                    (data, _) => data,
                }
            }
            // `executableCode` and the like.
            (None, _) => whole.map_or(Data::Nothing, |whole| Data::Part(Part::Other(whole))),
        };
        Ok(Self {
            data,
            is_thought,
            signature,
        })
    }
}

fn has_unknown(value: &Value, names: &[&str]) -> bool {
    let is_known = |name: &String| {
        let mut known = names.iter();
        known.any(|known| name == known || *name == spelling::snake(known))
    };
    value
        .as_object()
        .is_some_and(|fields| !fields.keys().all(is_known))
}

fn read_data(path: Path<'_>, name: &str, value: Value) -> Result<Data, BadRequest> {
    let path = path.field(name);
    match name {
        "text" => match value {
            Value::String(text) => Ok(Data::Part(Part::Text(text))),
            other => Err(fault::wrong_type(&path, "a string", &other)),
        },
        "inlineData" => read_blob(path, value).map(Data::Part),
        "fileData" => read_address(path, value).map(Data::Part),
        "functionCall" => read_call(path, value),
        _ => read_response(path, value),
    }
}

fn read_blob(path: Path<'_>, value: Value) -> Result<Part, BadRequest> {
    let names = ["mimeType", "data", "displayName"];
    let whole = has_unknown(&value, &names).then(|| value.clone());
    let mut blob = spelling::open(path, value, &names)?;
    let media_type = blob.required_name("mimeType", NAME_BYTES_MAX)?;
    let media_type = media_type.to_ascii_lowercase();
    let data = blob.required_name("data", usize::MAX)?;
    let name = blob.string("displayName")?;
    let Some(data) = data_url::standard(&data) else {
        return Err(fault::invalid(&path.field("data"), "expected base64."));
    };
    if let Some(whole) = whole {
        return Ok(Part::Other(json!({ "inlineData": whole })));
    }
    Ok(match media_type.split_once('/') {
        Some(("image", _)) => Part::Image(Image {
            url: data_url::join(&media_type, &data),
            detail: None,
        }),
        Some(("audio", format)) => Part::Audio(Audio {
            data: data.into_owned(),
            format: match format {
                "mpeg" | "mpga" => "mp3".to_owned(),
                other => other.strip_prefix("x-").unwrap_or(other).to_owned(),
            },
        }),
        Some(_) => Part::File(File {
            url: data_url::join(&media_type, &data),
            name,
        }),
        None => {
            return Err(fault::invalid(
                &path.field("mimeType"),
                "expected a media type, as image/png.",
            ));
        }
    })
}

/// Files that Google holds, its buckets' and YouTube's are known to Google alone.
fn read_address(path: Path<'_>, value: Value) -> Result<Part, BadRequest> {
    let whole = value.clone();
    let mut file = spelling::open(path, value, &["mimeType", "fileUri", "displayName"])?;
    let uri = file.required_name("fileUri", usize::MAX)?;
    let media_type = file.string("mimeType")?;
    let name = file.string("displayName")?;
    let kind = media_type.as_deref().and_then(|it| it.split('/').next());
    let is_google = |host: &&str| {
        uri.split('/')
            .nth(2)
            .is_some_and(|authority| authority == *host || authority.ends_with(&format!(".{host}")))
    };
    let is_public = uri.starts_with("https://") || uri.starts_with("http://");
    let is_for_all = is_public
        && file.rest().is_empty()
        && !["googleapis.com", "youtube.com", "youtu.be"]
            .iter()
            .any(is_google);
    Ok(match kind {
        Some("image") if is_for_all => Part::Image(Image {
            url: uri,
            detail: None,
        }),
        Some("application" | "text") if is_for_all => Part::File(File { url: uri, name }),
        _ => Part::Other(json!({ "fileData": whole })),
    })
}

fn read_call(path: Path<'_>, value: Value) -> Result<Data, BadRequest> {
    let mut call = Fields::open(path, value)?;
    let id = read_id(&mut call)?;
    let name = call.required_name("name", NAME_BYTES_MAX)?;
    let arguments = match call.take("args") {
        None => "{}".to_owned(),
        Some(Value::Object(args)) => Value::Object(args).to_string(),
        Some(other) => return Err(call.wrong_type("args", "an object", &other)),
    };
    let call_read = Call {
        id,
        name,
        arguments,
    };
    Ok(Data::Call(call_read, call.rest()))
}

fn read_id(fields: &mut Fields<'_>) -> Result<Option<String>, BadRequest> {
    let path = fields.path;
    let id = fields.string("id")?.filter(|id| !id.is_empty());
    id.map(|id| bounded(&path.field("id"), id, NAME_BYTES_MAX))
        .transpose()
}

fn read_response(path: Path<'_>, value: Value) -> Result<Data, BadRequest> {
    let mut response = Fields::open(path, value)?;
    let id = read_id(&mut response)?;
    let name = response.required_name("name", NAME_BYTES_MAX)?;
    let (text, is_failure) = match response.required("response")? {
        Value::Object(fields) => result_text(fields),
        other => return Err(response.wrong_type("response", "an object", &other)),
    };
    let mut content = vec![Part::Text(text)];
    let parts_path = path.field("parts");
    if let Some(parts) = response.take("parts") {
        for (at, part) in array(&parts_path, parts, 0, PARTS_MAX)?
            .into_iter()
            .enumerate()
        {
            match OpenPart::open(parts_path.index(at), part)?.data {
                Data::Part(part) => content.push(part),
                Data::Call(..) | Data::Response(..) | Data::Nothing => {
                    return Err(fault::missing(&parts_path.index(at).field("inlineData")));
                }
            }
        }
    }
    let read = Response {
        id,
        name,
        content,
        is_failure,
    };
    Ok(Data::Response(read, response.rest()))
}

/// By the reference, `output` holds a function's result and `error` what went wrong; without
/// either, the whole object is the result.
fn result_text(mut fields: Map<String, Value>) -> (String, bool) {
    let text_of = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let says = |value: &Value| !value.is_null() && value != "";
    let has_error = fields.get("error").is_some_and(says);
    let is_failure = has_error && !fields.contains_key("output");
    for name in ["output", "result", "error"] {
        if fields.len() == 1
            && let Some(value) = fields.shift_remove(name)
        {
            return (text_of(value), is_failure);
        }
    }
    (Value::Object(fields).to_string(), is_failure)
}

impl Response {
    /// The message that answers one of the calls before it.
    fn message(
        self,
        path: &Path<'_>,
        unanswered: &mut Vec<Open>,
        extra: Extra,
    ) -> Result<Message, BadRequest> {
        let at = unanswered.iter().position(|open| match &self.id {
            Some(id) => *id == open.id,
            None => self.name == open.name,
        });
        let Some(at) = at else {
            let (field, word) = match &self.id {
                Some(id) => ("id", id),
                None => ("name", &self.name),
            };
            return Err(fault::invalid(
                &path.field(field),
                format_args!(
                    "no unanswered functionCall of the model's turn before it has '{}'.",
                    fault::shown(word)
                ),
            ));
        };
        let mut message = Message::new(Role::Tool, "");
        message.content = self.content;
        message.tool_call_id = Some(unanswered.remove(at).id);
        message.is_failure = self.is_failure;
        message.extra = extra;
        Ok(message)
    }
}

fn leave(rest: Extra, path: &Path<'_>, extra: &mut Extra) {
    for (name, value) in rest {
        extra.insert(path.field(&name).pointer(), value);
    }
}
