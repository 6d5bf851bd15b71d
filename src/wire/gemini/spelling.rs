//! How protobuf's JSON may be spelt: names in two ways, whole numbers in three.

use domain::BadRequest;
use serde_json::{Map, Value};

use crate::fields::{Fields, Path};
use crate::request_fault as fault;

/// Opens an object whose known fields are `names`, each also taken in snake case.
pub(super) fn open<'p>(
    path: Path<'p>,
    value: Value,
    names: &[&str],
) -> Result<Fields<'p>, BadRequest> {
    let Value::Object(mut map) = value else {
        return Err(fault::wrong_type(&path, "an object", &value));
    };
    for name in names {
        let other = snake(name);
        if other == *name {
            continue;
        }
        let Some(value) = map.shift_remove(&other) else {
            continue;
        };
        if map.contains_key(*name) {
            let said = format!("it is the same as '{name}', which is set too.");
            return Err(fault::invalid(&path.field(&other), said));
        }
        map.insert((*name).to_owned(), value);
    }
    Fields::open(path, Value::Object(map))
}

/// `inlineData` as `inline_data`.
pub(super) fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Whole numbers of an object that came as `40.0` or `"40"`, as Google's own clients write some.
pub(super) fn straighten(map: &mut Map<String, Value>, names: &[&str]) {
    let spellings = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), snake(name)]);
    for name in spellings {
        let Some(value) = map.get_mut(&name) else {
            continue;
        };
        let whole = match &*value {
            Value::Number(number) if number.is_f64() => number.as_f64().and_then(whole),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        if let Some(whole) = whole {
            *value = Value::from(whole);
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "whole and within 53 bits, which both types hold"
)]
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_spellings_are_one_field() {
        for body in [json!({"inlineData": 1}), json!({"inline_data": 1})] {
            let mut fields = open(Path::Root, body, &["inlineData"]).unwrap();
            assert_eq!(fields.take("inlineData"), Some(json!(1)));
            assert!(fields.rest().is_empty());
        }
        let both = json!({"inlineData": 1, "inline_data": 1});
        let refused = open(Path::Root, both, &["inlineData"]).err().unwrap();
        assert_eq!(refused.param.as_deref(), Some("inline_data"));
    }

    #[test]
    fn whole_numbers_are_straightened_and_others_left() {
        let mut map = json!({
            "topK": 40.0, "max_output_tokens": "7", "seed": 1.5, "logprobs": 3, "candidateCount": "x",
        });
        let map = map.as_object_mut().unwrap();
        straighten(
            map,
            &[
                "topK",
                "maxOutputTokens",
                "seed",
                "logprobs",
                "candidateCount",
            ],
        );
        let expected = json!({
            "topK": 40, "max_output_tokens": 7, "seed": 1.5, "logprobs": 3, "candidateCount": "x",
        });
        assert_eq!(Value::Object(map.clone()), expected);
    }
}
