//! Decodes a request's tools, as a server.

use domain::{BadRequest, Extra, Tool, ToolChoice};
use serde_json::{Map, Value};

use super::{schema, spelling};
use crate::fields::{Fields, Path, array, bounded};
use crate::{own_tools, request_fault as fault};

/// Functions together. Google takes 512.
const FUNCTIONS_MAX: usize = 512;
const TOOLS_MAX: usize = 128;
const NAME_BYTES_MAX: usize = 256;

const DECLARATION_NAMES: [&str; 4] = ["name", "description", "parameters", "parametersJsonSchema"];

pub(super) fn read_tools(
    fields: &mut Fields<'_>,
    extra: &mut Extra,
) -> Result<Vec<Tool>, BadRequest> {
    let path = Path::Root.field("tools");
    let Some(value) = fields.take("tools") else {
        return Ok(Vec::new());
    };
    let mut functions: Vec<Tool> = Vec::new();
    for (at, value) in array(&path, value, 0, TOOLS_MAX)?.into_iter().enumerate() {
        let tool_path = path.index(at);
        let mut tool = spelling::open(tool_path, value, &["functionDeclarations"])?;
        let path = tool_path.field("functionDeclarations");
        if let Some(value) = tool.take("functionDeclarations") {
            for (at, value) in array(&path, value, 0, FUNCTIONS_MAX)?
                .into_iter()
                .enumerate()
            {
                let function = read_function(path.index(at), value)?;
                add(&mut functions, function, &path, at)?;
            }
        }
        let rest = tool.rest();
        if !rest.is_empty() {
            own_tools::keep(tool_path, Value::Object(rest), extra);
        }
    }
    Ok(functions)
}

fn add(
    functions: &mut Vec<Tool>,
    function: Tool,
    path: &Path<'_>,
    at: usize,
) -> Result<(), BadRequest> {
    if functions.len() >= FUNCTIONS_MAX {
        return Err(fault::too_many(path, FUNCTIONS_MAX, functions.len() + 1));
    }
    if functions.iter().any(|known| known.name == function.name) {
        return Err(fault::invalid(
            &path.index(at).field("name"),
            format_args!(
                "two functions have the name '{}'.",
                fault::shown(&function.name)
            ),
        ));
    }
    functions.push(function);
    Ok(())
}

fn read_function(path: Path<'_>, value: Value) -> Result<Tool, BadRequest> {
    let mut function = spelling::open(path, value, &DECLARATION_NAMES)?;
    let name = function.required_name("name", NAME_BYTES_MAX)?;
    let description = function.string("description")?;
    let mut object = |name: &str| match function.take(name) {
        None => Ok(None),
        Some(Value::Object(schema)) => Ok(Some(Value::Object(schema))),
        Some(other) => Err(function.wrong_type(name, "an object", &other)),
    };
    let parameters = match (object("parameters")?, object("parametersJsonSchema")?) {
        (None, None) => Value::Object(Map::new()),
        (Some(schema), None) => schema::json_schema(schema),
        (None, Some(schema)) => schema,
        (Some(_), Some(_)) => {
            return Err(fault::invalid(
                &path.field("parametersJsonSchema"),
                "it cannot be set along with 'parameters'.",
            ));
        }
    };
    Ok(Tool {
        name,
        description,
        parameters,
        extra: function.rest(),
    })
}

/// What may be called, and of which tools.
///
/// A list of allowed functions that is not a single one leaves the others out: `domain` has no
/// other word for it.
pub(super) fn read_tool_config(
    fields: &mut Fields<'_>,
    mut tools: Vec<Tool>,
    extra: &mut Extra,
) -> Result<(ToolChoice, Vec<Tool>), BadRequest> {
    let path = Path::Root.field("toolConfig");
    let Some(value) = fields.take("toolConfig") else {
        return Ok((ToolChoice::Auto, tools));
    };
    let mut config = spelling::open(path, value, &["functionCallingConfig"])?;
    let calling = config.take("functionCallingConfig");
    config.leave_to(extra);
    let Some(value) = calling else {
        return Ok((ToolChoice::Auto, tools));
    };
    let path = path.field("functionCallingConfig");
    let mut calling = spelling::open(path, value, &["mode", "allowedFunctionNames"])?;
    let mode = calling.string("mode")?;
    let mode_path = path.field("mode");
    let allowed = read_allowed(&mut calling, &tools)?;
    calling.leave_to(extra);
    let is_any = match mode.as_deref() {
        None | Some("MODE_UNSPECIFIED" | "AUTO" | "auto") => false,
        Some("ANY" | "any") => true,
        Some("NONE" | "none") => return Ok((ToolChoice::None, tools)),
        Some("VALIDATED" | "validated") => {
            extra.insert(mode_path.pointer(), "VALIDATED".into());
            false
        }
        Some(other) => {
            let supported = ["AUTO", "ANY", "NONE", "VALIDATED"];
            return Err(fault::not_one_of(&mode_path, other, &supported));
        }
    };
    if is_any && tools.is_empty() {
        return Err(fault::invalid(
            &mode_path,
            "ANY may be set only when 'tools' declare functions.",
        ));
    }
    if is_any && let [name] = allowed.as_slice() {
        return Ok((ToolChoice::Named(name.clone()), tools));
    }
    if !allowed.is_empty() {
        tools.retain(|tool| allowed.contains(&tool.name));
    }
    let choice = if is_any {
        ToolChoice::Required
    } else {
        ToolChoice::Auto
    };
    Ok((choice, tools))
}

fn read_allowed(calling: &mut Fields<'_>, tools: &[Tool]) -> Result<Vec<String>, BadRequest> {
    let path = calling.path;
    let path = path.field("allowedFunctionNames");
    let Some(value) = calling.take("allowedFunctionNames") else {
        return Ok(Vec::new());
    };
    let items = array(&path, value, 0, FUNCTIONS_MAX)?
        .into_iter()
        .enumerate();
    let read = items.map(|(at, item)| {
        let path = path.index(at);
        let Value::String(name) = item else {
            return Err(fault::wrong_type(&path, "a string", &item));
        };
        let name = bounded(&path, name, NAME_BYTES_MAX)?;
        if tools.iter().all(|tool| tool.name != name) {
            let said = format_args!("'{}' is not in 'tools'.", fault::shown(&name)).to_string();
            return Err(fault::invalid(&path, said));
        }
        Ok(name)
    });
    read.collect()
}
