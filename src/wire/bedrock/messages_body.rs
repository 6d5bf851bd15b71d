//! A request's messages, written from `domain`.

use domain::{
    Audio, BackendError, ChatRequest, Dialect, File, Message, Part, Role, Seal, SealKind,
};
use serde_json::{Map, Value, json};

use crate::data_url;
use crate::unsayable::arguments;

/// Bedrock's bound on ids of calls.
const CALL_ID_BYTES_MAX: usize = 64;
/// Bedrock's bound on names of documents.
const NAME_CHARS_MAX: usize = 200;

const IMAGES: [(&str, &str); 5] = [
    ("image/png", "png"),
    ("image/jpeg", "jpeg"),
    ("image/jpg", "jpeg"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
];

const DOCUMENTS: [(&str, &str); 10] = [
    ("application/pdf", "pdf"),
    ("text/csv", "csv"),
    ("application/msword", "doc"),
    (
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "docx",
    ),
    ("application/vnd.ms-excel", "xls"),
    (
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "xlsx",
    ),
    ("text/html", "html"),
    ("text/plain", "txt"),
    ("text/markdown", "md"),
    ("text/md", "md"),
];

const SOUNDS: [&str; 15] = [
    "mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a", "mpeg",
    "mpga", "pcm", "webm",
];

/// The system prompt: every one there is, in order.
pub(super) fn system_body(request: &ChatRequest) -> Result<Option<Value>, BackendError> {
    let mut blocks = Vec::new();
    for (at, message) in request.messages.iter().enumerate() {
        if !is_system(message.role) {
            continue;
        }
        for (part_at, part) in message.content.iter().enumerate() {
            match part {
                Part::Text(text) if text.trim().is_empty() => {}
                Part::Text(text) => blocks.push(json!({ "text": text })),
                Part::Other(block) => blocks.push(block.clone()),
                Part::Thought(_) | Part::Seal(_) => {}
                Part::Image(_) | Part::Audio(_) | Part::File(_) => {
                    let why = "the chosen model takes only text in system prompts";
                    return Err(declined(at, part_at, why));
                }
            }
        }
    }
    Ok((!blocks.is_empty()).then(|| blocks.into()))
}

fn is_system(role: Role) -> bool {
    match role {
        Role::System | Role::Developer => true,
        Role::User | Role::Assistant | Role::Tool => false,
    }
}

fn declined(at: usize, part_at: usize, why: &str) -> BackendError {
    BackendError::declined(format!("messages[{at}].content[{part_at}]"), why)
}

pub(super) fn messages_body(request: &ChatRequest) -> Result<Vec<Value>, BackendError> {
    let mut messages: Vec<(&str, Vec<Value>)> = Vec::new();
    let mut documents = 0;
    for (at, message) in request.messages.iter().enumerate() {
        if is_system(message.role) {
            continue;
        }
        let (role, blocks) = match message.role {
            Role::Assistant => ("assistant", assistant_blocks(at, message, &mut documents)?),
            Role::Tool => ("user", vec![result_block(at, message, &mut documents)?]),
            Role::User | Role::System | Role::Developer => {
                ("user", plain_blocks(at, message, &mut documents)?)
            }
        };
        match messages.last_mut() {
            Some((last, before)) if *last == role => before.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => messages.push((role, blocks)),
        }
    }
    if messages.is_empty() {
        return Err(BackendError::declined(
            "messages",
            "the chosen model needs a message besides system prompts",
        ));
    }
    let bodies = messages.into_iter();
    Ok(bodies
        .map(|(role, content)| json!({"role": role, "content": content}))
        .collect())
}

/// All parts but thoughts and seals.
fn plain_blocks(
    at: usize,
    message: &Message,
    documents: &mut usize,
) -> Result<Vec<Value>, BackendError> {
    let mut blocks = Vec::with_capacity(message.content.len());
    for (part_at, part) in message.content.iter().enumerate() {
        blocks.extend(block(part, documents).map_err(|why| declined(at, part_at, why))?);
    }
    Ok(blocks)
}

/// `None` for what is not said here.
fn block(part: &Part, documents: &mut usize) -> Result<Option<Value>, &'static str> {
    const NO_BYTES: &str = "the chosen model's provider takes images and files only as a data URL \
                            in base64, as data:image/png;base64,…";
    Ok(Some(match part {
        Part::Text(text) if text.trim().is_empty() => return Ok(None),
        Part::Text(text) => json!({ "text": text }),
        Part::Thought(_) | Part::Seal(_) => return Ok(None),
        Part::Other(block) => block.clone(),
        Part::Image(image) => {
            let (media_type, data) = data_url::split(&image.url).ok_or(NO_BYTES)?;
            let format = listed(&IMAGES, media_type)
                .ok_or("the chosen model's provider takes images as png, jpeg, gif and webp")?;
            json!({"image": {"format": format, "source": {"bytes": data}}})
        }
        Part::File(File { url, name }) => {
            let (media_type, data) = data_url::split(url).ok_or(NO_BYTES)?;
            let format = listed(&DOCUMENTS, media_type).ok_or(
                "the chosen model's provider takes files as pdf, csv, doc, docx, xls, xlsx, html, \
                 txt and md",
            )?;
            *documents += 1;
            let name = document_name(name.as_deref(), *documents);
            json!({"document": {"format": format, "name": name, "source": {"bytes": data}}})
        }
        Part::Audio(Audio { data, format }) => {
            let data = data_url::standard(data).ok_or("expected base64")?;
            if !SOUNDS.contains(&format.as_str()) {
                return Err("the chosen model's provider does not take this format of sound");
            }
            json!({"audio": {"format": format, "source": {"bytes": data}}})
        }
    }))
}

fn listed(table: &[(&str, &'static str)], media_type: &str) -> Option<&'static str> {
    let media_type = media_type.to_ascii_lowercase();
    let row = table.iter().find(|(known, _)| *known == media_type);
    row.map(|(_, format)| *format)
}

/// In the letters that Bedrock takes, with a number, as no two may be alike.
fn document_name(name: Option<&str>, number: usize) -> String {
    let is_fit = |letter: char| letter.is_ascii_alphanumeric() || "-()[]".contains(letter);
    let stem = name.map_or("document", |name| match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    });
    let fitted: String = stem
        .chars()
        .take(NAME_CHARS_MAX - 20)
        .map(|letter| if is_fit(letter) { letter } else { '-' })
        .collect();
    format!("{fitted} {number}")
}

fn assistant_blocks(
    at: usize,
    message: &Message,
    documents: &mut usize,
) -> Result<Vec<Value>, BackendError> {
    let mut blocks = Vec::new();
    let mut thought: Option<&str> = None;
    for (part_at, part) in message.content.iter().enumerate() {
        match part {
            Part::Thought(text) => thought = Some(text),
            Part::Seal(seal) => blocks.extend(reasoning_block(thought.take(), seal)),
            Part::Text(_) | Part::Image(_) | Part::Audio(_) | Part::File(_) | Part::Other(_) => {
                thought = None;
                blocks.extend(block(part, documents).map_err(|why| declined(at, part_at, why))?);
            }
        }
    }
    for (call_at, call) in message.tool_calls.iter().enumerate() {
        let Some(input) = arguments(&call.arguments) else {
            return Err(BackendError::declined(
                format!("messages[{at}].tool_calls[{call_at}].function.arguments"),
                "the chosen model takes only JSON objects as arguments",
            ));
        };
        let id = call_id(&call.id);
        let call = json!({"toolUseId": id, "name": call.name, "input": input});
        blocks.push(json!({ "toolUse": call }));
    }
    Ok(blocks)
}

/// A thought goes back only with Bedrock's word for it: models refuse one that nobody signed.
fn reasoning_block(thought: Option<&str>, seal: &Seal) -> Option<Value> {
    if seal.of != Dialect::Bedrock {
        return None;
    }
    Some(match seal.kind {
        SealKind::Signature => json!({"reasoningContent": {"reasoningText": {
            "text": thought?, "signature": seal.data,
        }}}),
        SealKind::Hidden => json!({"reasoningContent": {"redactedContent": seal.data}}),
    })
}

fn result_block(
    at: usize,
    message: &Message,
    documents: &mut usize,
) -> Result<Value, BackendError> {
    let content = plain_blocks(at, message, documents)?;
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    let mut result = Map::new();
    result.insert("toolUseId".into(), call_id(id).into());
    result.insert("content".into(), content.into());
    if message.is_failure {
        result.insert("status".into(), "error".into());
    }
    Ok(json!({ "toolResult": result }))
}

/// The id in the letters and the length that Bedrock takes. The end of a long one tells it apart.
fn call_id(id: &str) -> String {
    let is_fit = |letter: char| letter.is_ascii_alphanumeric() || "_.:-".contains(letter);
    let fitted: String = id
        .chars()
        .map(|letter| if is_fit(letter) { letter } else { '_' })
        .collect();
    let cut = fitted.len().saturating_sub(CALL_ID_BYTES_MAX);
    fitted[cut..].to_owned()
}
