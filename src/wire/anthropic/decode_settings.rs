//! Decodes how the model is to think and in what form it is to reply, as a server.

use domain::{BadRequest, Effort, Extra, OutputFormat, Reasoning, Tokens};
use serde_json::{Value, json};

use crate::fields::{Fields, Path};
use crate::request_fault as fault;

/// The least budget that Anthropic takes for thoughts.
pub(super) const BUDGET_TOKENS_MIN: u32 = 1024;
/// Beyond every model's context.
const BUDGET_TOKENS_MAX: u32 = 16 << 20;

/// Whether the caller reads thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It does.
    Thoughts,
    /// Their signatures alone.
    Signatures,
    /// It asked for none. Those that Anthropic signed come along nevertheless, because newer models
    /// think unasked and want their thoughts back; a program that expects none of another model's
    /// would take them for the answer.
    Nothing,
}

const DISPLAYS: [&str; 2] = ["summarized", "omitted"];

/// `thinking`, beside the effort from `output_config`. The field itself goes on as it came.
pub(super) fn read_reasoning(
    fields: &mut Fields<'_>,
    effort: Option<Effort>,
    extra: &mut Extra,
) -> Result<(Option<Reasoning>, Asked), BadRequest> {
    let Some(value) = fields.take("thinking") else {
        let reasoning = effort.map(|effort| Reasoning {
            effort: Some(effort),
            ..Reasoning::default()
        });
        return Ok((reasoning, Asked::Nothing));
    };
    extra.insert("thinking".into(), value.clone());
    let path = Path::Root.field("thinking");
    let mut thinking = Fields::open(path, value)?;
    let kind_path = path.field("type");
    let kind = thinking
        .string("type")?
        .ok_or_else(|| fault::missing(&kind_path))?;
    let tokens_max = match kind.as_str() {
        "enabled" => Some(read_budget(&mut thinking)?),
        "adaptive" | "between_tools" => None,
        "disabled" => {
            let reasoning = Reasoning {
                effort: Some(Effort::None),
                tokens_max: None,
                is_shown: Some(false),
            };
            return Ok((Some(reasoning), Asked::Nothing));
        }
        other => {
            let kinds = ["enabled", "disabled", "adaptive", "between_tools"];
            return Err(fault::not_one_of(&kind_path, other, &kinds));
        }
    };
    let display = thinking.string("display")?;
    let asked = match display.as_deref() {
        None | Some("summarized") => Asked::Thoughts,
        Some("omitted") => Asked::Signatures,
        Some(other) => return Err(fault::not_one_of(&path.field("display"), other, &DISPLAYS)),
    };
    let reasoning = Reasoning {
        effort,
        tokens_max,
        is_shown: Some(asked == Asked::Thoughts),
    };
    Ok((Some(reasoning), asked))
}

fn read_budget(thinking: &mut Fields<'_>) -> Result<Tokens, BadRequest> {
    let budget = thinking.count("budget_tokens", BUDGET_TOKENS_MIN..=BUDGET_TOKENS_MAX)?;
    let thinking_path = thinking.path;
    budget
        .map(Tokens)
        .ok_or_else(|| fault::missing(&thinking_path.field("budget_tokens")))
}

/// The reply's form and the effort: `output_config`, or `output_format` as the beta had it.
pub(super) fn read_format(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<(OutputFormat, Option<Effort>), BadRequest> {
    let older_path = Path::Root.field("output_format");
    let older = match fields.take("output_format") {
        None => None,
        Some(value) => Some(read_schema(older_path, value, extra)?),
    };
    let Some(value) = fields.take("output_config") else {
        return Ok((older.unwrap_or_default(), None));
    };
    let path = Path::Root.field("output_config");
    let mut config = Fields::open(path, value)?;
    let effort = match config.peek("effort") {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) => effort_named(word),
        Some(other) => return Err(config.wrong_type("effort", "a string", other)),
    };
    let newer = match config.take("format") {
        None => None,
        Some(value) => Some(read_schema(path.field("format"), value, extra)?),
    };
    config.leave_to(extra);
    if older.is_some() && newer.is_some() {
        return Err(fault::invalid(
            &older_path,
            "it cannot be set along with 'output_config.format'.",
        ));
    }
    Ok((newer.or(older).unwrap_or_default(), effort))
}

/// A word that a newer model knows and we do not goes on to it as it came.
fn effort_named(word: &str) -> Option<Effort> {
    match word {
        "max" => Some(Effort::XHigh),
        "none" | "minimal" => None,
        other => Effort::named(other),
    }
}

/// `{"type": "json_schema", "schema": …}`, as `domain` has it: in OpenAI's `json_schema` object.
fn read_schema(
    path: Path<'_>,
    value: Value,
    extra: &mut Extra,
) -> Result<OutputFormat, BadRequest> {
    let mut format = Fields::open(path, value)?;
    let kind_path = path.field("type");
    match format.string("type")?.as_deref() {
        None => return Err(fault::missing(&kind_path)),
        Some("json_schema") => {}
        Some(other) => return Err(fault::not_one_of(&kind_path, other, &["json_schema"])),
    }
    let schema = format.required("schema")?;
    if !schema.is_object() {
        return Err(format.wrong_type("schema", "an object", &schema));
    }
    format.leave_to(extra);
    Ok(OutputFormat::JsonSchema(json!({
        "name": "schema", "schema": schema, "strict": true,
    })))
}
