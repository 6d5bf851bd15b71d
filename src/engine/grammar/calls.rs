//! The grammar of a reply that must call a tool.
//!
//! ```text
//! <tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>
//! ```
//! is what [`crate::tagged`] reads, and the form of Hermes, Qwen and their kin. The name is one of
//! those that may be called, the arguments keep to that tool's schema. Nothing comes before the
//! call, so there are neither thoughts nor words beside it.

use domain::{BadRequest, ChatRequest, Tool, ToolChoice};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value, json};

use crate::grammar::{schema, with_options};
use crate::tagged::{CALL_CLOSE, CALL_OPEN};

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

    /// `is_control` says of a tag whether the vocabulary has a control token for it.
    ///
    /// # Errors
    /// As for schemas, with the tool's place.
    pub(super) fn grammar(
        &self,
        is_control: impl Fn(&str) -> bool,
    ) -> Result<TopLevelGrammar, BadRequest> {
        let tag = |tag: &str| {
            if is_control(tag) {
                tag.to_owned()
            } else {
                quoted(tag)
            }
        };
        let mut rules = Vec::new();
        let mut schemas = Vec::new();
        let mut spent = schema::Spent::default();
        for (at, tool) in &self.tools {
            let place = format!("tools[{at}].function.parameters");
            let plain = schema::read(&object(&tool.parameters, &place)?, &place, &mut spent)?;
            let name = format!("arguments_{at}");
            let head = format!("{{\"name\": {}, \"arguments\": ", quoted(&tool.name));
            rules.push(format!("{} @{name} \"}}\"", quoted(&head)));
            schemas.push(GrammarWithLexer {
                name: Some(name),
                json_schema: Some(with_options(plain)),
                lark_grammar: None,
            });
        }
        let more = if self.is_single {
            ""
        } else {
            " (\"\\n\" call)*"
        };
        let lark = format!(
            "start: call{more}\ncall: {} \"\\n\" ({}) \"\\n\" {}\n",
            tag(CALL_OPEN),
            rules.join(" | "),
            tag(CALL_CLOSE)
        );
        schemas.insert(0, GrammarWithLexer::from_lark(lark));
        Ok(TopLevelGrammar {
            grammars: schemas,
            max_tokens: None,
        })
    }
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
