//! Decodes `document` blocks, as a server.
//!
//! | source | becomes |
//! | --- | --- |
//! | `base64` (PDF), `url` | a file |
//! | `text` | its text, after its title and context: so it is scanned, and every model reads it |
//! | `content` | its blocks, after the same |
//! | `file`, and kinds we do not know | itself |

use domain::{BadRequest, File, Part};
use serde_json::Value;

use super::decode_messages::{
    BLOCKS_MAX, Parts, kind_of, read_address, read_base64, read_image, required_text, source_kind,
};
use super::leftovers::{Place, keep};
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

pub(super) const PDF: &str = "application/pdf";

pub(super) fn read_document(
    path: Path<'_>,
    block: Value,
    into: &mut Parts,
) -> Result<(), BadRequest> {
    match source_kind(&path, &block)? {
        "base64" => read_file(path, block, into, |source| read_base64(source, &[PDF])),
        "url" => read_file(path, block, into, read_address),
        "text" | "content" => read_written(path, block, into),
        _ => {
            into.parts.push(Part::Other(block));
            Ok(())
        }
    }
}

fn read_file(
    path: Path<'_>,
    block: Value,
    into: &mut Parts,
    read_url: impl FnOnce(&mut Fields<'_>) -> Result<String, BadRequest>,
) -> Result<(), BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let source_path = path.field("source");
    let mut source = Fields::open(source_path, fields.required("source")?)?;
    source.take("type");
    let url = read_url(&mut source)?;
    let name = fields.string("title")?;
    let place = Place::Content(into.parts.len());
    keep(source, place, "/source", &mut into.extra);
    into.push(Part::File(File { url, name }), fields);
    Ok(())
}

/// What the model reads of a document that came as text or blocks.
fn read_written(path: Path<'_>, block: Value, into: &mut Parts) -> Result<(), BadRequest> {
    let mut fields = Fields::open(path, block)?;
    fields.take("type");
    let heading: Vec<String> = [fields.string("title")?, fields.string("context")?]
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    let mut heading = heading.join("\n\n");
    if !heading.is_empty() {
        heading.push_str("\n\n");
    }
    let source_path = path.field("source");
    let mut source = Fields::open(source_path, fields.required("source")?)?;
    match source.take("type") {
        Some(Value::String(kind)) if kind == "text" => {
            let media_type = required_text(&mut source, "media_type")?;
            if media_type != "text/plain" {
                let path = source_path.field("media_type");
                return Err(fault::not_one_of(&path, &media_type, &["text/plain"]));
            }
            let text = required_text(&mut source, "data")?;
            into.parts.push(Part::Text(heading + &text));
        }
        _ => match source.required("content")? {
            Value::String(text) => into.parts.push(Part::Text(heading + &text)),
            Value::Array(blocks) => {
                if !heading.is_empty() {
                    into.parts.push(Part::Text(heading));
                }
                let path = source_path.field("content");
                read_inner(path, Value::Array(blocks), into)?;
            }
            other => {
                let expected = "a string or an array of content blocks";
                return Err(source.wrong_type("content", expected, &other));
            }
        },
    }
    into.keep_aside(source, "/source");
    into.keep_aside(fields, "");
    Ok(())
}

/// The blocks within a document: texts and images.
fn read_inner(path: Path<'_>, blocks: Value, into: &mut Parts) -> Result<(), BadRequest> {
    for (at, block) in array(&path, blocks, 0, BLOCKS_MAX)?.into_iter().enumerate() {
        let path = path.index(at);
        match kind_of(&path, &block)? {
            "text" => {
                let mut fields = Fields::open(path, block)?;
                fields.take("type");
                let text = required_text(&mut fields, "text")?;
                into.push(Part::Text(text), fields);
            }
            "image" => read_image(path, block, into)?,
            other => {
                let kinds = ["text", "image"];
                return Err(fault::not_one_of(&path.field("type"), other, &kinds));
            }
        }
    }
    Ok(())
}
