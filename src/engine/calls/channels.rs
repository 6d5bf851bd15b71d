//! Headers of channelled replies, which are several messages.
//!
//! ```text
//! <|channel|>analysis<|message|> … <|end|><|start|>assistant<|channel|>final<|message|> …
//! <|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>
//! ```
//! The prompt already ends with `<|start|>assistant`. A tool's name may stand before the channel too.

use super::cursor::{Cursor, Stop, Taken};
use super::head::is_of_name;

pub(super) const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const TO: &str = "to=";

/// What may end a message. The last of them belongs to the next one.
pub(super) const ENDS: [&str; 4] = ["<|end|>", "<|return|>", "<|call|>", START];

/// What a reply's final message begins with, after the prompt.
pub(crate) const ANSWER_OPEN: &str = "<|channel|>final<|message|>";

/// What stands around words before a call, after the prompt and up to the next message.
pub(crate) const REMARK: (&str, &str) = (
    "<|channel|>commentary<|message|>",
    "<|end|><|start|>assistant",
);

/// What a message is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Header {
    Text,
    Thought,
    /// A call of this tool, whose arguments' bracket comes next.
    Call(String),
}

/// Reads a header, and for a call up to its arguments.
pub(super) fn header(cursor: &mut Cursor<'_>, reads_calls: bool) -> Taken<Header> {
    cursor.optional(|cursor| {
        cursor.space();
        cursor.literal(START)
    })?;
    cursor.optional(|cursor| cursor.literal("assistant"))?;
    cursor.space();
    let first = cursor.one_of(&[CHANNEL, TO, MESSAGE])?;
    let head = match first {
        MESSAGE => String::new(),
        first => format!("{first}{}", cursor.until(MESSAGE)?),
    };
    match recipient(&head) {
        Some(name) if reads_calls => {
            cursor.space();
            if cursor.peek()? != '{' {
                return Err(Stop::No);
            }
            Ok(Header::Call(name.to_owned()))
        }
        Some(_) => Err(Stop::No),
        None => Ok(channel(&head)),
    }
}

/// A model may begin a header twice; the last channel counts.
fn channel(head: &str) -> Header {
    match head.rsplit_once(CHANNEL) {
        Some((_, name)) if name.trim_start().starts_with("analysis") => Header::Thought,
        Some(_) | None => Header::Text,
    }
}

/// The tool that a header names. A model may address itself, which names none.
fn recipient(head: &str) -> Option<&str> {
    let (_, name) = head.rsplit_once(TO)?;
    let end = name.find(|c| !is_of_name(c)).unwrap_or(name.len());
    let name = &name[..end];
    let name = name.strip_prefix("functions.").unwrap_or(name);
    (!name.is_empty() && name != "assistant").then_some(name)
}

/// True while `text` may be, or surely is, the beginning of a header.
pub(super) fn is_begun(text: &str) -> bool {
    let text = text.trim_start();
    [START, CHANNEL, TO]
        .iter()
        .any(|mark| text.starts_with(mark) || mark.starts_with(text))
}
