//! What is answered about kept responses.

use domain::StoredResponse;
use serde_json::{Value, json};

/// Which of a response's input items are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemsWanted {
    pub count_max: usize,
    /// Only what comes after the item of this id.
    pub after: Option<String>,
    /// The first one said comes first; without, the last.
    pub is_ascending: bool,
}

impl ItemsWanted {
    /// OpenAI's bound, and what it gives without a word.
    pub const COUNT_MAX: usize = 100;
    pub const COUNT_DEFAULT: usize = 20;
}

/// A list of input items, with ids made of the response's.
///
/// `None` where there is no item of the id that it is to begin after.
#[must_use]
pub fn encode_items(response: &StoredResponse, wanted: &ItemsWanted) -> Option<Vec<u8>> {
    let stem = response.id.strip_prefix("resp_").unwrap_or(&response.id);
    let items = response.input.iter().enumerate().map(|(at, item)| {
        let mut item = item.clone();
        if let Value::Object(fields) = &mut item {
            let id = fields.entry("id").or_insert(Value::Null);
            if !id.is_string() {
                *id = format!("in_{stem}{at:04x}").into();
            }
        }
        item
    });
    let mut items: Vec<Value> = items.collect();
    if !wanted.is_ascending {
        items.reverse();
    }
    let from = match &wanted.after {
        None => 0,
        Some(after) => 1 + items.iter().position(|item| item["id"] == after.as_str())?,
    };
    let rest = items.len() - from;
    let shown = &items[from..from + rest.min(wanted.count_max)];
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let list = json!({
        "object": "list",
        "data": shown,
        "first_id": id(shown.first()),
        "last_id": id(shown.last()),
        "has_more": rest > shown.len(),
    });
    Some(list.to_string().into_bytes())
}

/// What is said of a response that is kept no more.
#[must_use]
pub fn encode_deleted(id: &str) -> Vec<u8> {
    json!({"id": id, "object": "response", "deleted": true})
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(count_max: usize, after: Option<&str>, is_ascending: bool) -> Option<Value> {
        let response = StoredResponse {
            id: "resp_ab".into(),
            object: "{}".into(),
            input: vec![
                json!({"type": "message", "id": "m1"}),
                json!({"type": "message", "id": null}),
                json!({"type": "message"}),
            ],
            said: Vec::new(),
        };
        let wanted = ItemsWanted {
            count_max,
            after: after.map(Into::into),
            is_ascending,
        };
        let list = encode_items(&response, &wanted)?;
        Some(serde_json::from_slice(&list).unwrap())
    }

    #[test]
    fn items_are_listed_by_pages_from_either_end() {
        let ids = |list: &Value| -> Vec<String> {
            let data = list["data"].as_array().unwrap();
            data.iter()
                .map(|it| it["id"].as_str().unwrap().to_owned())
                .collect()
        };
        let first = listed(2, None, false).unwrap();
        assert_eq!(ids(&first), ["in_ab0002", "in_ab0001"]);
        assert_eq!(
            (&first["has_more"], &first["last_id"]),
            (&json!(true), &json!("in_ab0001"))
        );
        let second = listed(2, Some("in_ab0001"), false).unwrap();
        assert_eq!(ids(&second), ["m1"]);
        assert_eq!(second["has_more"], false);
        assert_eq!(
            ids(&listed(9, None, true).unwrap()),
            ["m1", "in_ab0001", "in_ab0002"]
        );
        let none = listed(2, Some("in_ab0002"), true).unwrap();
        assert_eq!((ids(&none).len(), &none["first_id"]), (0, &Value::Null));
        assert_eq!(listed(2, Some("gone"), true), None);
    }
}
