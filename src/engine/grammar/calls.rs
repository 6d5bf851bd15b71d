//! The grammar of a reply that must call a tool.
//!
//! ```text
//! <tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>
//! ```
//! and whatever else the model's family writes (its [`ForcedForm`]), which [`crate::calls`] reads
//! again. The name is one of those that may be called, the arguments keep to that tool's schema.
//! Nothing comes before the call, so there are neither thoughts nor words beside it.

use domain::{BadRequest, ChatRequest, Tool, ToolChoice};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value, json};

use crate::calls::{ForcedForm, is_of_name};
use crate::grammar::{schema, with_options};

/// A request's tools that the reply must call one of.
pub(super) struct Forced<'r> {
    /// Each with its place among the request's tools.
    tools: Vec<(usize, &'r Tool)>,
    /// One call only.
    is_single: bool,
}

impl<'r> Forced<'r> {
    /// `None` where no call is forced.
    ///
    /// # Errors
    /// There is no such tool.
    pub(super) fn of(request: &'r ChatRequest) -> Result<Option<Self>, BadRequest> {
        let name = match &request.tool_choice {
            ToolChoice::Auto | ToolChoice::None => return Ok(None),
            ToolChoice::Required => None,
            ToolChoice::Named(name) => Some(name),
        };
        let tools = request.tools.iter().enumerate();
        let tools: Vec<_> = tools
            .filter(|(_, tool)| name.is_none_or(|name| *name == tool.name))
            .collect();
        if tools.is_empty() {
            return Err(BadRequest::at(
                "tool_choice",
                "there is no such tool in `tools`",
            ));
        }
        Ok(Some(Self {
            tools,
            is_single: name.is_some() || request.parallel_tool_calls == Some(false),
        }))
    }

    /// All that the grammar depends on.
    pub(super) fn text(&self) -> String {
        let tools = self.tools.iter();
        let tools: Vec<_> = tools
            .map(|(at, tool)| json!([at, tool.name, tool.parameters]))
            .collect();
        let is_single = self.is_single;
        // No schema's text begins so.
        format!("calls {}", json!([is_single, tools]))
    }

    /// `controls`: texts that are control tokens, and those.
    ///
    /// # Errors
    /// As for schemas, with the tool's place. A name cannot be written in `form`.
    pub(super) fn grammar(
        &self,
        form: &ForcedForm,
        controls: &[(String, u32)],
        spent: &mut schema::Spent,
    ) -> Result<TopLevelGrammar, BadRequest> {
        let mut calls = Vec::new();
        let mut schemas = Vec::new();
        for (at, tool) in &self.tools {
            let place = format!("tools[{at}].function.parameters");
            let plain = schema::read(&object(&tool.parameters, &place)?, &place, spent)?;
            let name = format!("arguments_{at}");
            let mut parts = spelled(form.before, controls);
            parts.push(quoted(&written(&tool.name, form, *at)?));
            parts.extend(spelled(form.between, controls));
            parts.push(format!("@{name}"));
            parts.extend(spelled(form.after, controls));
            calls.push(parts.join(" "));
            schemas.push(GrammarWithLexer {
                name: Some(name),
                json_schema: Some(with_options(plain)),
                lark_grammar: None,
            });
        }
        let mut start = spelled(form.block.0, controls);
        start.push("call".to_owned());
        if let Some(joint) = form.joint.filter(|_| !self.is_single) {
            let mut more = spelled(joint, controls);
            more.push("call".to_owned());
            start.push(format!("({})*", more.join(" ")));
        }
        start.extend(spelled(form.block.1, controls));
        let lark = format!("start: {}\ncall: {}\n", start.join(" "), calls.join(" | "));
        schemas.insert(0, GrammarWithLexer::from_lark(lark));
        Ok(TopLevelGrammar {
            grammars: schemas,
            max_tokens: None,
        })
    }
}

/// A tool's name as `form` has it.
fn written(name: &str, form: &ForcedForm, at: usize) -> Result<String, BadRequest> {
    if form.is_quoted {
        return Ok(quoted(name));
    }
    if name.is_empty() || !name.chars().all(is_of_name) {
        return Err(BadRequest::at(
            format!("tools[{at}].function.name"),
            "this model can be made to call only names of letters, digits and `_-./:`",
        ));
    }
    Ok(name.to_owned())
}

/// `text` in the grammar's language: control tokens by number, what is between them quoted.
fn spelled(text: &str, controls: &[(String, u32)]) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let found = controls
            .iter()
            .filter(|(control, _)| !control.is_empty())
            .filter_map(|(control, token)| Some((rest.find(control.as_str())?, control, token)))
            .min_by_key(|(at, control, _)| (*at, std::cmp::Reverse(control.len())));
        let Some((at, control, token)) = found else {
            parts.push(quoted(rest));
            break;
        };
        if at > 0 {
            parts.push(quoted(&rest[..at]));
        }
        parts.push(format!("<[{token}]>"));
        rest = &rest[at + control.len()..];
    }
    parts
}

/// A text as JSON and as the grammar's language write it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// Arguments are an object, also where a schema leaves it open.
fn object(parameters: &Value, place: &str) -> Result<Value, BadRequest> {
    let mut words = match parameters {
        Value::Object(words) => words.clone(),
        _ => Map::new(),
    };
    let may_be = match words.get("type") {
        None => true,
        Some(Value::Array(types)) => types.contains(&json!("object")),
        Some(other) => *other == json!("object"),
    };
    if !may_be {
        return Err(BadRequest::at(
            format!("{place}.type"),
            "a tool's parameters are an object",
        ));
    }
    words.insert("type".to_owned(), json!("object"));
    Ok(Value::Object(words))
}

#[cfg(test)]
mod tests;
