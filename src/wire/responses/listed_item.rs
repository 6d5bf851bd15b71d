//! Input items as a list of them shows them, with all that OpenAI's document wants of each.

use serde_json::{Map, Value, json};

/// The item with what its caller may leave out, but for the id.
pub(super) fn listed(mut item: Value) -> Value {
    let Value::Object(fields) = &mut item else {
        return item;
    };
    if !fields.get("type").is_some_and(Value::is_string) {
        fields.insert("type".into(), "message".into());
    }
    match fields.get("type").and_then(Value::as_str) {
        Some("function_call" | "function_call_output") => {
            fill(fields, "status", "completed".into())
        }
        Some("reasoning") => fill(fields, "summary", json!([])),
        _ => fill_message(fields),
    }
    item
}

/// Puts `value` where there is none.
fn fill(fields: &mut Map<String, Value>, name: &str, value: Value) {
    let field = fields.entry(name).or_insert(Value::Null);
    if field.is_null() {
        *field = value;
    }
}

fn fill_message(fields: &mut Map<String, Value>) {
    let is_own = fields.get("role").and_then(Value::as_str) == Some("assistant");
    let kind = if is_own { "output_text" } else { "input_text" };
    fill(fields, "status", "completed".into());
    if let Some(Value::String(text)) = fields.get("content") {
        let parts = json!([{"type": kind, "text": text}]);
        fields.insert("content".into(), parts);
    }
    let parts = fields.get_mut("content").and_then(Value::as_array_mut);
    for part in parts.into_iter().flatten().filter_map(Value::as_object_mut) {
        let said = part.get("type").and_then(Value::as_str);
        match said {
            // Some clients write either kind for either speaker.
            Some("input_text" | "output_text" | "text") => {
                part.insert("type".into(), kind.into());
                if is_own {
                    fill(part, "annotations", json!([]));
                    fill(part, "logprobs", json!([]));
                }
            }
            Some("input_image") => fill(part, "detail", "auto".into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out_is_filled_in() {
        let cases = [
            (
                json!({"role": "user", "content": "hi"}),
                json!({"role": "user", "content": [{"type": "input_text", "text": "hi"}],
                       "type": "message", "status": "completed"}),
            ),
            (
                json!({"type": "message", "role": "assistant", "id": "msg_1", "status": "incomplete",
                       "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}),
                json!({"type": "message", "role": "assistant", "id": "msg_1", "status": "incomplete",
                       "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
                                   {"type": "refusal", "refusal": "b"}]}),
            ),
            (
                json!({"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}),
                json!({"role": "user", "content": [{"type": "input_image", "image_url": "data:,", "detail": "auto"}],
                       "type": "message", "status": "completed"}),
            ),
            (
                json!({"type": "function_call_output", "call_id": "c", "output": "o", "status": null}),
                json!({"type": "function_call_output", "call_id": "c", "output": "o", "status": "completed"}),
            ),
        ];
        for (item, wanted) in cases {
            assert_eq!(listed(item.clone()), wanted, "{item}");
        }
    }
}
