//! Google's own schemas, a part of OpenAPI 3.0's, as JSON Schema.
//!
//! Read of `parameters` and `responseSchema`. We only write `parametersJsonSchema` and
//! `responseJsonSchema`, which take JSON Schema as it is.

use serde_json::{Map, Value};

/// Fields that hold one schema, a list of schemas, and schemas by name.
const ONE: [&str; 1] = ["items"];
const MANY: [&str; 2] = ["anyOf", "prefixItems"];
const NAMED: [&str; 2] = ["properties", "defs"];

/// Types in lower case, `nullable` as a type, counts as numbers; without `propertyOrdering`, and
/// without the `format` of enums. What is no object is left as it is.
pub(super) fn json_schema(value: Value) -> Value {
    let Value::Object(fields) = value else {
        return value;
    };
    let is_nullable = fields.get("nullable") == Some(&Value::Bool(true));
    let mut schema = Map::new();
    for (name, value) in fields {
        let value = match (name.as_str(), value) {
            ("nullable" | "propertyOrdering" | "property_ordering", _) => continue,
            ("format", Value::String(word)) if word == "enum" => continue,
            ("type", Value::String(word)) => typed(&word, is_nullable),
            (_, Value::String(count)) if is_count(&name) => match count.parse::<u64>() {
                Ok(count) => count.into(),
                Err(_) => count.into(),
            },
            (_, value) if ONE.contains(&name.as_str()) => json_schema(value),
            (_, Value::Array(items)) if MANY.contains(&camel(&name)) => {
                items.into_iter().map(json_schema).collect()
            }
            (_, Value::Object(named)) if NAMED.contains(&name.as_str()) => {
                let named = named.into_iter();
                Value::Object(named.map(|(name, it)| (name, json_schema(it))).collect())
            }
            (_, value) => value,
        };
        schema.insert(camel(&name).to_owned(), value);
    }
    Value::Object(schema)
}

fn typed(word: &str, is_nullable: bool) -> Value {
    let word = Value::from(word.to_ascii_lowercase());
    if is_nullable {
        Value::Array(vec![word, "null".into()])
    } else {
        word
    }
}

/// 64-bit numbers, which protobuf's JSON writes as text.
fn is_count(name: &str) -> bool {
    let names = [
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
    ];
    names.contains(&camel(name))
}

/// The known names that snake case changes.
fn camel(name: &str) -> &str {
    match name {
        "any_of" => "anyOf",
        "prefix_items" => "prefixItems",
        "min_items" => "minItems",
        "max_items" => "maxItems",
        "min_properties" => "minProperties",
        "max_properties" => "maxProperties",
        "min_length" => "minLength",
        "max_length" => "maxLength",
        "additional_properties" => "additionalProperties",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn googles_schema_becomes_json_schema() {
        let schema = json!({
            "type": "OBJECT",
            "propertyOrdering": ["city", "days"],
            "properties": {
                "city": {"type": "STRING", "format": "enum", "enum": ["Oslo", "Rome"]},
                "days": {"type": "ARRAY", "items": {"type": "INTEGER", "format": "int32"},
                    "minItems": "1", "max_items": 7},
                "type": {"type": "STRING", "nullable": true},
                "when": {"any_of": [{"type": "STRING"}, {"type": "NUMBER"}]},
            },
            "required": ["city"],
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Oslo", "Rome"]},
                "days": {"type": "array", "items": {"type": "integer", "format": "int32"},
                    "minItems": 1, "maxItems": 7},
                "type": {"type": ["string", "null"]},
                "when": {"anyOf": [{"type": "string"}, {"type": "number"}]},
            },
            "required": ["city"],
        });
        assert_eq!(json_schema(schema), expected);
        assert_eq!(json_schema(json!("x")), json!("x"));
    }
}
