//! Decodes a request's tools, as a server.

use domain::{BadRequest, Extra, Tool, ToolChoice};
use serde_json::{Map, Value};

use super::decode_messages::read_function_kind;
use super::decode_request::{NAME_PATTERN_HINT, is_plain_name};
use crate::fields::{Fields, Path, array};
use crate::request_fault as fault;

/// OpenAI's bound on `tools`.
const TOOLS_MAX: usize = 128;
/// OpenAI's bound on a function's name.
const FUNCTION_NAME_BYTES_MAX: usize = 64;

pub(crate) fn read_tools(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Vec<Tool>, BadRequest> {
    let path = Path::Root.field("tools");
    let Some(value) = fields.take("tools") else {
        return Ok(Vec::new());
    };
    let mut tools: Vec<Tool> = Vec::new();
    for (at, value) in array(&path, value, 0, TOOLS_MAX)?.into_iter().enumerate() {
        let tool = read_tool(path.index(at), value, extra)?;
        if tools.iter().any(|known| known.name == tool.name) {
            return Err(fault::invalid(
                &path.index(at).field("function").field("name"),
                format_args!("two tools have the name '{}'.", fault::shown(&tool.name)),
            ));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn read_tool(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Tool, BadRequest> {
    let mut tool = Fields::open(path, value)?;
    read_function_kind(&mut tool)?;
    let mut function = Fields::open(path.field("function"), tool.required("function")?)?;
    let name = read_function_name(&mut function)?;
    let description = function.string("description")?;
    let parameters = match function.take("parameters") {
        None => Value::Object(Map::new()),
        Some(Value::Object(schema)) => Value::Object(schema),
        Some(other) => return Err(function.wrong_type("parameters", "an object", &other)),
    };
    tool.leave_to(extra);
    Ok(Tool {
        name,
        description,
        parameters,
        extra: function.rest(),
    })
}

fn read_function_name(function: &mut Fields<'_>) -> Result<String, BadRequest> {
    let name = function.required_name("name", FUNCTION_NAME_BYTES_MAX)?;
    if is_plain_name(&name) {
        Ok(name)
    } else {
        let path = function.path.field("name");
        Err(fault::invalid(&path, NAME_PATTERN_HINT))
    }
}

pub(super) fn read_tool_choice(
    fields: &mut Fields<'_>,
    tools: &[Tool],
    extra: &mut Extra,
) -> Result<ToolChoice, BadRequest> {
    let path = Path::Root.field("tool_choice");
    let choice = match fields.take("tool_choice") {
        None => return Ok(ToolChoice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => return Ok(ToolChoice::Auto),
            "none" => return Ok(ToolChoice::None),
            "required" => ToolChoice::Required,
            other => {
                return Err(fault::not_one_of(
                    &path,
                    other,
                    &["none", "auto", "required"],
                ));
            }
        },
        Some(Value::Object(body)) => read_named(path, Value::Object(body), tools, extra)?,
        Some(other) => {
            return Err(fault::wrong_type(&path, "a string or an object", &other));
        }
    };
    if tools.is_empty() {
        return Err(fault::invalid(
            &path,
            "it may be set only when 'tools' are given.",
        ));
    }
    Ok(choice)
}

fn read_named(
    path: Path<'_>,
    value: Value,
    tools: &[Tool],
    extra: &mut Extra,
) -> Result<ToolChoice, BadRequest> {
    let mut choice = Fields::open(path, value)?;
    read_function_kind(&mut choice)?;
    let function_path = path.field("function");
    let mut function = Fields::open(function_path, choice.required("function")?)?;
    let name = function.required_name("name", FUNCTION_NAME_BYTES_MAX)?;
    if !tools.is_empty() && tools.iter().all(|tool| tool.name != name) {
        return Err(fault::invalid(
            &function_path.field("name"),
            format_args!("'{}' is not in 'tools'.", fault::shown(&name)),
        ));
    }
    function.leave_to(extra);
    choice.leave_to(extra);
    Ok(ToolChoice::Named(name))
}
