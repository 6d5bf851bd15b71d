//! What of a request's tools the reading of calls depends on.

use std::collections::BTreeMap;
use std::fmt;

use domain::Tool;
use serde_json::Value;

use super::cursor::{Cursor, quoted};
use super::literals::{self, Dialect};

/// The tools a reply may call, and the types of their arguments.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Offered(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offered({} tools)", self.0.len())
    }
}

impl Offered {
    pub(crate) fn of(tools: &[Tool]) -> Self {
        let types = |tool: &Tool| {
            let properties = tool.parameters.get("properties").and_then(Value::as_object);
            let properties = properties.into_iter().flatten();
            properties
                .map(|(key, schema)| (key.clone(), types_of(schema)))
                .collect()
        };
        let tools = tools.iter().map(|tool| (tool.name.clone(), types(tool)));
        Self(tools.collect())
    }

    pub(super) fn has(&self, tool: &str) -> bool {
        self.0.contains_key(tool)
    }

    /// True where an argument is written as bare text: its schema lets it be a string only.
    pub(super) fn is_text(&self, tool: &str, key: &str) -> bool {
        self.types(tool, key) == ["string"]
    }

    fn types(&self, tool: &str, key: &str) -> &[String] {
        let types = self.0.get(tool).and_then(|types| types.get(key));
        types.map_or(&[], Vec::as_slice)
    }

    /// `written` between marks as JSON: by its schema's type, and where that says nothing as what it
    /// looks like.
    pub(super) fn argument(&self, tool: &str, key: &str, written: &str) -> String {
        let types = self.types(tool, key);
        let trimmed = written.trim();
        let fits = |json: &str| {
            let read = serde_json::from_str::<Value>(json);
            read.is_ok_and(|value| {
                types.is_empty() || types.iter().any(|name| is_of_type(&value, name))
            })
        };
        if fits(trimmed) {
            return trimmed.to_owned();
        }
        // Some write `True` and single quotes, as Python does.
        let mut json = String::new();
        let mut cursor = Cursor::new(trimmed, true);
        let is_literal = literals::value(&mut cursor, Dialect::Python, &mut json).is_ok();
        if is_literal && cursor.rest().is_empty() && fits(&json) {
            return json;
        }
        quoted(written)
    }
}

fn types_of(schema: &Value) -> Vec<String> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    match schema.get("type") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several.iter().filter_map(name).collect(),
        _ => {
            let words = schema.get("enum").and_then(Value::as_array);
            let are_texts = words.is_some_and(|words| words.iter().all(Value::is_string));
            are_texts.then(|| "string".to_owned()).into_iter().collect()
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => {
            name == "number"
                || name == "integer" && number.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    }
}
