//! Fields of messages that nobody here interprets, `cache_control` above all.
//!
//! One message of this dialect may become several of `domain`, and several may leave as one, so such
//! a field's place is told from within its message of `domain`, in `Message::extra`:
//!
//! | name | stands in |
//! | --- | --- |
//! | `/message/x` | the message itself |
//! | `/block/x` | the `tool_result` that the message became of |
//! | `/content/3/x` | the block that the fourth part begins |
//! | `/calls/0/x` | the first call's `tool_use` |
//! | `aside/3/x` | nowhere any more: the block has another form now |

use std::collections::BTreeMap;

use domain::Extra;
use serde_json::{Map, Value};

use crate::fields::Fields;

/// Where a leftover field stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Message,
    Block,
    Content(usize),
    Call(usize),
    Aside(usize),
}

impl Place {
    fn prefix(self) -> String {
        match self {
            Place::Message => "/message".into(),
            Place::Block => "/block".into(),
            Place::Content(at) => format!("/content/{at}"),
            Place::Call(at) => format!("/calls/{at}"),
            Place::Aside(at) => format!("aside/{at}"),
        }
    }

    /// The place, and the rest of the name, which begins with a slash.
    fn of(name: &str) -> Option<(Self, &str)> {
        let indexed = |rest: &'_ str, place: fn(usize) -> Place| {
            let end = rest.find('/')?;
            Some((place(rest[..end].parse().ok()?), end))
        };
        if let Some(rest) = name.strip_prefix("/message") {
            return Some((Place::Message, rest));
        }
        if let Some(rest) = name.strip_prefix("/block") {
            return Some((Place::Block, rest));
        }
        if let Some(rest) = name.strip_prefix("/content/") {
            let (place, end) = indexed(rest, Place::Content)?;
            return Some((place, &rest[end..]));
        }
        let rest = name.strip_prefix("/calls/")?;
        let (place, end) = indexed(rest, Place::Call)?;
        Some((place, &rest[end..]))
    }
}

/// Keeps what was not taken of an object that stands at `below` in its place.
pub(super) fn keep(fields: Fields<'_>, place: Place, below: &str, extra: &mut Extra) {
    let rest = fields.rest();
    if rest.is_empty() {
        return;
    }
    let prefix = place.prefix();
    for (name, value) in rest {
        let name = name.replace('~', "~0").replace('/', "~1");
        extra.insert(format!("{prefix}{below}/{name}"), value);
    }
}

/// The fields of one message by where they stood.
#[derive(Debug, Default)]
pub(super) struct Leftovers<'a>(BTreeMap<Place, Vec<(&'a str, &'a Value)>>);

impl<'a> Leftovers<'a> {
    pub fn of(extra: &'a Extra) -> Self {
        let mut places: BTreeMap<Place, Vec<_>> = BTreeMap::new();
        for (name, value) in extra {
            if let Some((place, rest)) = Place::of(name) {
                places.entry(place).or_default().push((rest, value));
            }
        }
        Self(places)
    }

    pub fn has(&self, is_such: impl Fn(Place) -> bool) -> bool {
        self.0.keys().any(|place| is_such(*place))
    }

    /// Puts the fields of `place` back. One whose own place is gone is left out.
    pub fn put_back(&self, place: Place, object: &mut Value) {
        for (pointer, value) in self.0.get(&place).into_iter().flatten() {
            put(object, pointer, value);
        }
    }

    /// Those of the message itself.
    pub fn of_message(&self) -> Map<String, Value> {
        let mut object = Value::Object(Map::new());
        self.put_back(Place::Message, &mut object);
        match object {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }
}

/// Sets what a JSON Pointer (RFC 6901) names, where the object that holds it is there.
pub(super) fn put(body: &mut Value, pointer: &str, value: &Value) {
    let Some((holder, name)) = pointer.rsplit_once('/') else {
        return;
    };
    let name = name.replace("~1", "/").replace("~0", "~");
    if let Some(Value::Object(fields)) = body.pointer_mut(holder) {
        fields.insert(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fields::Path;

    #[test]
    fn what_is_kept_is_put_back_where_it_stood() {
        let mut extra = Extra::new();
        for place in [
            Place::Message,
            Place::Block,
            Place::Content(3),
            Place::Call(12),
        ] {
            let fields = Fields::open(Path::Root, json!({"a/b~c": 1})).unwrap();
            keep(fields, place, "", &mut extra);
            let fields = Fields::open(Path::Root, json!({"x": 2})).unwrap();
            keep(fields, place, "/source", &mut extra);
            let mut object = json!({"source": {}});
            Leftovers::of(&extra).put_back(place, &mut object);
            assert_eq!(object, json!({"source": {"x": 2}, "a/b~c": 1}), "{place:?}");
        }
    }

    #[test]
    fn what_stands_aside_or_nowhere_is_not_put_back() {
        let mut extra = Extra::new();
        let fields = Fields::open(Path::Root, json!({"x": 1})).unwrap();
        keep(fields, Place::Aside(0), "", &mut extra);
        for name in [
            "x",
            "/content/",
            "/content/x/y",
            "/content/9999999999999999999999/y",
            "/",
        ] {
            extra.insert(name.to_owned(), json!(1));
        }
        let leftovers = Leftovers::of(&extra);
        assert!(!leftovers.has(|_| true), "{leftovers:?}");
        let mut object = json!({});
        put(&mut object, "/source/x", &json!(1));
        assert_eq!(object, json!({}));
    }
}
