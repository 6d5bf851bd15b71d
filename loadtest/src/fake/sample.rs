//! One value that keeps to a JSON schema: for answers in a format, and for arguments of tools.

use serde_json::{Map, Value, json};

/// Schemas that nest further, or refer to themselves, end in null.
const DEPTH_MAX: u32 = 16;

/// The same for the same schema.
pub(super) fn sample(schema: &Value) -> Value {
    below(schema, schema, DEPTH_MAX)
}

fn below(schema: &Value, root: &Value, depth: u32) -> Value {
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    if let Some(path) = schema["$ref"].as_str() {
        let place = path.strip_prefix('#').unwrap_or_default();
        return root
            .pointer(place)
            .map_or(Value::Null, |schema| below(schema, root, depth));
    }
    if let Some(constant) = schema.get("const") {
        return constant.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(schema) = schema[choice].get(0) {
            return below(schema, root, depth);
        }
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].get(0).unwrap_or(&schema["type"]);
    match kind.as_str() {
        Some("object") => object(schema, root, depth),
        Some("array") => json!([below(&schema["items"], root, depth)]),
        Some("string") => "Lisbon".into(),
        Some("integer") => 7.into(),
        Some("number") => 1.5.into(),
        Some("boolean") => true.into(),
        _ => Value::Null,
    }
}

fn object(schema: &Value, root: &Value, depth: u32) -> Value {
    let properties = schema["properties"].as_object();
    let fields = properties.into_iter().flatten();
    let fields = fields.map(|(name, schema)| (name.clone(), below(schema, root, depth)));
    Value::Object(fields.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_keeps_to_its_schema_and_ends() {
        let cases = [
            (json!({"type": "string"}), json!("Lisbon")),
            (json!({"type": ["integer", "null"]}), json!(7)),
            (json!({"enum": ["Porto", "Lisbon"]}), json!("Porto")),
            (json!({"anyOf": [{"const": 3}, {"type": "null"}]}), json!(3)),
            (
                json!({"type": "object", "properties": {
                    "sure": {"type": "boolean"},
                    "marks": {"type": "array", "items": {"$ref": "#/$defs/mark"}},
                }, "$defs": {"mark": {"type": "number"}}}),
                json!({"sure": true, "marks": [1.5]}),
            ),
            (json!({"$ref": "#"}), Value::Null),
            (json!(true), Value::Null),
        ];
        for (schema, expected) in cases {
            assert_eq!(sample(&schema), expected, "{schema}");
        }
    }
}
