//! Decodes a request's tools, as a server.

use domain::{BadRequest, Extra, Tool, ToolChoice};
use serde_json::Value;

use crate::fields::{Fields, Path, array};
use crate::{own_tools, request_fault as fault};

/// Agents with many servers of tools bring some hundreds.
const TOOLS_MAX: usize = 512;
/// Anthropic's bound on a tool's name.
const NAME_BYTES_MAX: usize = 128;

const KINDS: [&str; 4] = ["auto", "any", "tool", "none"];

pub(super) fn read_tools(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Vec<Tool>, BadRequest> {
    let path = Path::Root.field("tools");
    let Some(value) = fields.take("tools") else {
        return Ok(Vec::new());
    };
    let mut tools: Vec<Tool> = Vec::new();
    for (at, value) in array(&path, value, 0, TOOLS_MAX)?.into_iter().enumerate() {
        let Some(tool) = read_tool(path.index(at), value, extra)? else {
            continue;
        };
        if tools.iter().any(|known| known.name == tool.name) {
            return Err(fault::invalid(
                &path.index(at).field("name"),
                format_args!("two tools have the name '{}'.", fault::shown(&tool.name)),
            ));
        }
        tools.push(tool);
    }
    Ok(tools)
}

/// `None` for one that Anthropic defines.
fn read_tool(path: Path<'_>, value: Value, extra: &mut Extra) -> Result<Option<Tool>, BadRequest> {
    let mut tool = Fields::open(path, value)?;
    match tool.peek("type").and_then(Value::as_str) {
        None | Some("custom") => {}
        Some(_) => {
            own_tools::keep(path, Value::Object(tool.rest()), extra);
            return Ok(None);
        }
    }
    tool.string("type")?;
    let name = tool.required_name("name", NAME_BYTES_MAX)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.bytes().all(is_plain) {
        return Err(fault::invalid(
            &path.field("name"),
            "expected a string that matches the pattern '^[a-zA-Z0-9_-]{1,128}$'.",
        ));
    }
    let description = tool.string("description")?;
    let parameters = tool.required("input_schema")?;
    if !parameters.is_object() {
        return Err(tool.wrong_type("input_schema", "an object", &parameters));
    }
    tool.leave_to(extra);
    Ok(Some(Tool {
        name,
        description,
        parameters,
        extra: Extra::new(),
    }))
}

/// The choice, and whether several calls may come at once.
pub(super) fn read_tool_choice(
    fields: &mut Fields<'_>,
    tools: &[Tool],
    extra: &mut Extra,
) -> Result<(ToolChoice, Option<bool>), BadRequest> {
    let Some(value) = fields.take("tool_choice") else {
        return Ok((ToolChoice::Auto, None));
    };
    let path = Path::Root.field("tool_choice");
    let mut choice = Fields::open(path, value)?;
    let kind_path = path.field("type");
    let kind = choice
        .string("type")?
        .ok_or_else(|| fault::missing(&kind_path))?;
    let is_single = choice.boolean("disable_parallel_tool_use")?;
    let parallel = is_single.map(|is_single| !is_single);
    let read = match kind.as_str() {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => ToolChoice::Named(read_named(&mut choice, tools, extra)?),
        other => return Err(fault::not_one_of(&kind_path, other, &KINDS)),
    };
    choice.leave_to(extra);
    match read {
        ToolChoice::Required | ToolChoice::Named(_)
            if tools.is_empty() && !own_tools::are_in(extra) =>
        {
            Err(fault::invalid(
                &path,
                "it may be set only when 'tools' are given.",
            ))
        }
        ToolChoice::Auto | ToolChoice::None | ToolChoice::Required | ToolChoice::Named(_) => {
            Ok((read, parallel))
        }
    }
}

fn read_named(
    choice: &mut Fields<'_>,
    tools: &[Tool],
    extra: &Extra,
) -> Result<String, BadRequest> {
    let name = choice.required_name("name", NAME_BYTES_MAX)?;
    let has_tools = !tools.is_empty() || own_tools::are_in(extra);
    let is_known = tools.iter().any(|tool| tool.name == name) || own_tools::has_named(extra, &name);
    if has_tools && !is_known {
        let path = choice.path;
        return Err(fault::invalid(
            &path.field("name"),
            format_args!("'{}' is not in 'tools'.", fault::shown(&name)),
        ));
    }
    Ok(name)
}
