//! The field `lora`: under which LoRA adapters of a model a request wants to be computed.
//!
//! It is llama-server's (`tools/server/README.md`, read 2026-11-28), `[{"id": 0, "scale": 0.5}]`, but that
//! an adapter without a scale has none there, and here its own; and that here one may also be named, as
//! `[{"name": "pirate"}]`, since ids change with the operator's list. It is read in one place, so that
//! who may use an adapter is judged by the same words as under which the reply is computed.

use serde_json::Value;

use crate::{BadRequest, Extra};

const FIELD: &str = "lora";

/// One entry of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraEntry {
    pub adapter: LoraAdapter,
    /// `None`: the adapter's own. May be out of any range, and infinite.
    pub scale: Option<f32>,
}

/// Which adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoraAdapter {
    /// Its place among the model's adapters.
    Id(usize),
    Name(String),
}

/// What a request lists; `None` where it says nothing of adapters.
///
/// # Errors
/// It is no such list, with the place.
pub fn lora(extra: &Extra) -> Result<Option<Vec<LoraEntry>>, BadRequest> {
    let Some(asked) = extra.get(FIELD).filter(|asked| !asked.is_null()) else {
        return Ok(None);
    };
    let Value::Array(entries) = asked else {
        let words = "must be a list such as [{\"id\": 0, \"scale\": 0.5}]";
        return Err(BadRequest::at(FIELD, words));
    };
    let entries = entries.iter().enumerate();
    let entries = entries.map(|(at, value)| entry(value, &LoraEntry::place(at)));
    entries.collect::<Result<_, _>>().map(Some)
}

impl LoraEntry {
    /// The JSON path of the entry at `index`.
    #[must_use]
    pub fn place(index: usize) -> String {
        format!("{FIELD}[{index}]")
    }

    /// True for one that changes nothing.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.scale == Some(0.0)
    }
}

impl LoraAdapter {
    /// The key it was chosen by.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            LoraAdapter::Id(_) => "id",
            LoraAdapter::Name(_) => "name",
        }
    }

    /// Its place among `names`, which are those of a model's adapters in their order.
    pub fn find<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
        match self {
            LoraAdapter::Id(id) => names.nth(*id).map(|name| (*id, name)),
            LoraAdapter::Name(asked) => names.enumerate().find(|(_, name)| name == asked),
        }
    }
}

fn entry(value: &Value, path: &str) -> Result<LoraEntry, BadRequest> {
    let refused = |key: &str, words: &str| Err(BadRequest::at(format!("{path}.{key}"), words));
    let Value::Object(fields) = value else {
        let words = "must be an object with an `id` or a `name`, and a `scale`";
        return Err(BadRequest::at(path, words));
    };
    for key in fields.keys() {
        if !["id", "name", "scale"].contains(&key.as_str()) {
            return refused(
                key,
                "is not known; an adapter has an `id` or a `name`, and a `scale`",
            );
        }
    }
    let adapter = match (fields.get("id"), fields.get("name")) {
        (Some(_), Some(_)) => return refused("name", "is one too many beside `id`"),
        (None, None) => return refused("id", "is required, or a `name`"),
        (Some(id), None) => match id.as_u64().and_then(|id| usize::try_from(id).ok()) {
            Some(id) => LoraAdapter::Id(id),
            None => return refused("id", "must be a whole number from 0 on"),
        },
        (None, Some(Value::String(name))) => LoraAdapter::Name(name.clone()),
        (None, Some(_)) => return refused("name", "must be a text"),
    };
    let scale = match fields.get("scale") {
        None | Some(Value::Null) => None,
        Some(scale) => match scale.as_f64() {
            Some(scale) => Some(single(scale)),
            None => return refused("scale", "must be a number"),
        },
    };
    Ok(LoraEntry { adapter, scale })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "adapters are scaled in 32 bits"
)]
fn single(scale: f64) -> f32 {
    scale as f32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(list: Value) -> Result<Option<Vec<LoraEntry>>, BadRequest> {
        lora(&Extra::from_iter([(FIELD.to_owned(), list)]))
    }

    #[test]
    fn adapters_are_listed_by_id_or_by_name() {
        assert_eq!(lora(&Extra::new()), Ok(None));
        assert_eq!(read(Value::Null), Ok(None));
        assert_eq!(read(json!([])), Ok(Some(Vec::new())));
        let entries =
            read(json!([{"id": 2}, {"name": "pirate", "scale": -0.0}, {"id": 0, "scale": 1e300}]));
        let entries = entries.unwrap().unwrap();
        let wanted = [
            (LoraAdapter::Id(2), None),
            (LoraAdapter::Name("pirate".into()), Some(-0.0)),
            (LoraAdapter::Id(0), Some(f32::INFINITY)),
        ];
        let wanted = wanted.map(|(adapter, scale)| LoraEntry { adapter, scale });
        assert_eq!(entries, wanted);
        assert_eq!(
            entries.iter().map(LoraEntry::is_off).collect::<Vec<_>>(),
            [false, true, false]
        );
    }

    #[test]
    fn what_is_no_such_list_is_refused_at_its_place() {
        let cases = [
            (json!({"id": 0}), "lora"),
            (json!("pirate"), "lora"),
            (json!([0]), "lora[0]"),
            (json!([{"id": 0}, {"scale": 1}]), "lora[1].id"),
            (json!([{"id": -1}]), "lora[0].id"),
            (json!([{"id": 0.5}]), "lora[0].id"),
            (json!([{"id": "pirate"}]), "lora[0].id"),
            (json!([{"id": 0, "name": "pirate"}]), "lora[0].name"),
            (json!([{"name": 0}]), "lora[0].name"),
            (json!([{"id": 0, "scale": "1"}]), "lora[0].scale"),
            (json!([{"id": 0, "weight": 1}]), "lora[0].weight"),
        ];
        for (list, place) in cases {
            let refused = read(list.clone()).unwrap_err();
            assert_eq!(refused.param.as_deref(), Some(place), "{list}");
        }
    }

    #[test]
    fn an_adapter_is_found_at_its_place() {
        let find = |adapter: LoraAdapter| adapter.find(["pirate", "formal"].into_iter());
        assert_eq!(find(LoraAdapter::Id(1)), Some((1, "formal")));
        assert_eq!(
            find(LoraAdapter::Name("pirate".into())),
            Some((0, "pirate"))
        );
        assert_eq!(find(LoraAdapter::Id(2)), None);
        assert_eq!(find(LoraAdapter::Name("Pirate".into())), None);
    }
}
