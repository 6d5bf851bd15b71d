//! What form a reply is asked for in.
//!
//! OpenAI has `response_format`. vLLM has further forms in `structured_outputs`, in its older
//! `guided_*` fields, and llama-server `json_schema` and `grammar` (vLLM's "Structured Outputs" and
//! llama.cpp's tools/server/README.md, read 2026-11-21). All are read into the same
//! [`OutputFormat`]; two of them at once are refused.

use domain::{BadRequest, Extra, OutputFormat};
use serde_json::{Value, json};

use super::decode_request::{NAME_PATTERN_HINT, is_plain_name};
use crate::fields::{Fields, Path, array, bounded};
use crate::request_fault as fault;

/// OpenAI's bound on the name of a JSON schema, and its characters.
const SCHEMA_NAME_BYTES_MAX: usize = 64;
const REGEX_BYTES_MAX: usize = 16 * 1024;
const GRAMMAR_BYTES_MAX: usize = 64 * 1024;
/// Texts of a choice, as many as values in an `enum`, and their bytes together.
const CHOICES_MAX: usize = 1_000;
const CHOICES_BYTES_MAX: usize = 64 * 1024;

/// Fields besides `response_format`, and what each asks for.
const OTHERS: [(&str, Form); 6] = [
    ("guided_json", Form::Json),
    ("guided_regex", Form::Regex),
    ("guided_choice", Form::Choice),
    ("guided_grammar", Form::Grammar),
    ("json_schema", Form::Json),
    ("grammar", Form::Grammar),
];

/// The fields of `structured_outputs`.
const STRUCTURED: [(&str, Form); 5] = [
    ("json", Form::Json),
    ("regex", Form::Regex),
    ("choice", Form::Choice),
    ("grammar", Form::Grammar),
    ("json_object", Form::AnyObject),
];

#[derive(Clone, Copy)]
enum Form {
    Json,
    AnyObject,
    Regex,
    Choice,
    Grammar,
}

/// Whose words asked for the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    OpenAi,
    Another,
}

pub(crate) fn read_format(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<(OutputFormat, Origin), BadRequest> {
    let mut asked = match read_response_format(fields, extra)? {
        OutputFormat::Text => None,
        format => Some(("response_format".to_owned(), format)),
    };
    let mut origin = Origin::OpenAi;
    let mut add = |name: String, format: Option<OutputFormat>| {
        origin = Origin::Another;
        let Some(format) = format else {
            return Ok(());
        };
        if let Some((first, _)) = &asked {
            let said = format!("it cannot be set along with '{first}'.");
            return Err(fault::invalid(&name, &said));
        }
        asked = Some((name, format));
        Ok(())
    };
    if let Some(value) = fields.take("structured_outputs") {
        let path = Path::Root.field("structured_outputs");
        let mut body = Fields::open(path, value)?;
        for (name, form) in STRUCTURED {
            if let Some(value) = body.take(name) {
                let path = path.field(name);
                add(path.to_string(), form.read(&path, value)?)?;
            }
        }
        let rest = body.rest();
        let mut unknown = rest.iter().filter(|(_, value)| !value.is_null());
        if let Some((name, _)) = unknown.next() {
            let why = "Of 'structured_outputs', 'json', 'json_object', 'regex', 'choice' and \
                       'grammar' can be set.";
            return Err(fault::unsupported(&path.field(name), why));
        }
    }
    for (name, form) in OTHERS {
        if let Some(value) = fields.take(name) {
            let path = Path::Root.field(name);
            add(name.to_owned(), form.read(&path, value)?)?;
        }
    }
    let format = asked.map_or(OutputFormat::Text, |(_, format)| format);
    Ok((format, origin))
}

impl Form {
    /// `None` where the value says that nothing is asked for.
    fn read(self, path: &Path<'_>, value: Value) -> Result<Option<OutputFormat>, BadRequest> {
        let text = |value: Value, bytes_max| match value {
            Value::String(text) => bounded(path, text, bytes_max),
            other => Err(fault::wrong_type(path, "a string", &other)),
        };
        Ok(Some(match self {
            Form::Json => OutputFormat::JsonSchema(json!({
                "name": "schema", "schema": schema(path, value)?, "strict": true,
            })),
            Form::AnyObject => match value {
                Value::Bool(true) => OutputFormat::JsonObject,
                Value::Bool(false) => return Ok(None),
                other => return Err(fault::wrong_type(path, "a boolean", &other)),
            },
            Form::Regex => OutputFormat::Regex(text(value, REGEX_BYTES_MAX)?),
            // llama-server's own clients send an empty one along.
            Form::Grammar if value == json!("") => return Ok(None),
            Form::Grammar => OutputFormat::Grammar(text(value, GRAMMAR_BYTES_MAX)?),
            Form::Choice => OutputFormat::Choice(choices(path, value)?),
        }))
    }
}

/// vLLM takes a schema as an object and as its text.
fn schema(path: &Path<'_>, value: Value) -> Result<Value, BadRequest> {
    let schema = match value {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|_| fault::invalid(path, "expected a JSON schema, or one as a string."))?,
        other => other,
    };
    if schema.is_object() {
        return Ok(schema);
    }
    Err(fault::wrong_type(path, "an object", &schema))
}

fn choices(path: &Path<'_>, value: Value) -> Result<Vec<String>, BadRequest> {
    let mut bytes = 0;
    let items = array(path, value, 1, CHOICES_MAX)?.into_iter().enumerate();
    let read = items.map(|(at, item)| match item {
        Value::String(text) => {
            bytes += text.len();
            if bytes > CHOICES_BYTES_MAX {
                return Err(fault::too_long(path, CHOICES_BYTES_MAX, bytes));
            }
            bounded(&path.index(at), text, CHOICES_BYTES_MAX)
        }
        other => Err(fault::wrong_type(&path.index(at), "a string", &other)),
    });
    read.collect()
}

fn read_response_format(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<OutputFormat, BadRequest> {
    let Some(value) = fields.take("response_format") else {
        return Ok(OutputFormat::Text);
    };
    let path = Path::Root.field("response_format");
    let mut body = Fields::open(path, value)?;
    let kind = body
        .string("type")?
        .ok_or_else(|| fault::missing(&path.field("type")))?;
    let format = match kind.as_str() {
        "text" => OutputFormat::Text,
        "json_object" => OutputFormat::JsonObject,
        "json_schema" => OutputFormat::JsonSchema(read_schema(&mut body)?),
        other => {
            let supported = ["text", "json_object", "json_schema"];
            return Err(fault::not_one_of(&path.field("type"), other, &supported));
        }
    };
    body.leave_to(extra);
    Ok(format)
}

fn read_schema(body: &mut Fields<'_>) -> Result<Value, BadRequest> {
    let schema = body.required("json_schema")?;
    let path = body.path.field("json_schema");
    let mut parts = Fields::open(path, schema.clone())?;
    let name = parts.required_name("name", SCHEMA_NAME_BYTES_MAX)?;
    if !is_plain_name(&name) {
        return Err(fault::invalid(&path.field("name"), NAME_PATTERN_HINT));
    }
    if let Some(other) = parts.take("schema").filter(|schema| !schema.is_object()) {
        return Err(parts.wrong_type("schema", "an object", &other));
    }
    parts.boolean("strict")?;
    Ok(schema)
}
