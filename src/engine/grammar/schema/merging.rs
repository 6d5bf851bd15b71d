//! What it costs to make one schema of those that hold together.
//!
//! Where `allOf`, or `anyOf`, `oneOf`, `enum` and `$ref` beside other words, say something of one
//! value, the compiler merges each alternative of the one with each of the other, and copies what
//! is within them. A few lines can come to millions of merges, so they are counted before any is
//! made.

use std::collections::BTreeMap;

use domain::BadRequest;
use serde_json::{Map, Value};

use crate::grammar::schema::COUNTED_MEMBERS_MAX;
use crate::grammar::schema::place::Place;
use crate::splitting::on_deep_stack;

/// Schemas that merging may come to, copies counted. Some 20 take a millisecond.
pub(super) const MERGED_MAX: usize = 1_500;

/// The schemas of an object put together of several, where members are counted somewhere.
const COUNTED_MAX: usize = 2 * COUNTED_MEMBERS_MAX;

/// Trying two alternatives for which there is no merge costs about this part of one.
const TRIES_PER_MERGE: usize = 8;

/// # Errors
/// Merging comes to more than it may, at the place where it does.
pub(super) fn check(plain: &Value, path: &str, has_counts: bool) -> Result<(), BadRequest> {
    let mut measure = Measure {
        root: plain,
        path,
        known: BTreeMap::new(),
        merged: 0,
        has_counts,
    };
    // It recurses as deep as references lead.
    let measured = on_deep_stack(|| measure.schema(plain, &Place::Root(path), false));
    match measured {
        Ok(size) => size.map(|_| ()),
        Err(_) => Err(Place::Root(path).refuse("its references lead too far")),
    }
}

/// Types by what can be merged with what: null, boolean, number, string, array, object.
const TYPES: usize = 6;
const ARRAY: usize = 4;
const OBJECT: usize = 5;

/// How much of a schema there is, for each type.
#[derive(Clone, Copy, Default)]
struct Size([Part; TYPES]);

#[derive(Clone, Copy, Default)]
struct Part {
    /// Alternatives for one value.
    ways: usize,
    /// Schemas, with those within each alternative.
    all: usize,
}

impl Size {
    /// One alternative with `all` schemas in it.
    fn of(kind: usize, all: usize) -> Size {
        let mut size = Size::default();
        size.0[kind] = Part { ways: 1, all };
        size
    }

    fn of_value(value: &Value) -> Size {
        let kind = match value {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Array(_) => ARRAY,
            Value::Object(_) => OBJECT,
        };
        Size::of(kind, count(value))
    }

    fn ways(&self) -> usize {
        self.0
            .iter()
            .fold(0, |sum, part| sum.saturating_add(part.ways))
    }

    fn all(&self) -> usize {
        self.0
            .iter()
            .fold(0, |sum, part| sum.saturating_add(part.all))
    }

    fn or(mut self, other: Size) -> Size {
        for (part, other) in self.0.iter_mut().zip(other.0) {
            part.ways = part.ways.saturating_add(other.ways);
            part.all = part.all.saturating_add(other.all);
        }
        self
    }

    /// Each alternative with each of the same type.
    fn and(mut self, other: Size) -> Size {
        for (part, other) in self.0.iter_mut().zip(other.0) {
            let copies = part.ways.saturating_mul(other.all);
            part.all = copies.saturating_add(other.ways.saturating_mul(part.all));
            part.ways = part.ways.saturating_mul(other.ways);
        }
        self
    }
}

/// Any value, or one that is yet to be known.
const ANY: Size = Size([Part { ways: 1, all: 1 }; TYPES]);

struct Measure<'s> {
    root: &'s Value,
    path: &'s str,
    /// What references lead to, each read once. `None` while that is under way.
    known: BTreeMap<(&'s str, bool), Option<Size>>,
    merged: usize,
    /// Members of some object are counted.
    has_counts: bool,
}

impl<'s> Measure<'s> {
    /// `is_merged`: what a reference leads to is copied in its place.
    fn schema(
        &mut self,
        schema: &'s Value,
        at: &Place<'_>,
        is_merged: bool,
    ) -> Result<Size, BadRequest> {
        let Value::Object(words) = schema else {
            return Ok(ANY);
        };
        // A reference alone stays one.
        let parts_count = parts_count(words);
        let is_merged = is_merged || parts_count > 1;
        let mut whole = self.within(words, at)?;
        for (word, value) in words {
            let here = at.name(word);
            match (word.as_str(), value) {
                ("allOf", Value::Array(schemas)) => {
                    for (index, schema) in schemas.iter().enumerate() {
                        let part = self.schema(schema, &here.index(index), is_merged)?;
                        whole = Some(self.merge(whole, part, &here)?);
                    }
                }
                ("anyOf" | "oneOf", Value::Array(schemas)) => {
                    let mut part = Size::default();
                    for (index, schema) in schemas.iter().enumerate() {
                        let way = self.schema(schema, &here.index(index), is_merged)?;
                        part = part.or(way);
                    }
                    if word == "oneOf" {
                        // All pairs are compared.
                        let pairs = part.ways().saturating_mul(part.ways());
                        self.spend(pairs / TRIES_PER_MERGE, &here)?;
                    }
                    whole = Some(self.merge(whole, part, &here)?);
                }
                ("enum", Value::Array(values)) => {
                    let part = values
                        .iter()
                        .map(Size::of_value)
                        .fold(Size::default(), Size::or);
                    whole = Some(self.merge(whole, part, &here)?);
                }
                ("const", value) => {
                    whole = Some(self.merge(whole, Size::of_value(value), &here)?);
                }
                ("$ref", Value::String(pointer)) => {
                    let part = self.reference(pointer, is_merged)?;
                    whole = Some(self.merge(whole, part, &here)?);
                }
                _ => {}
            }
        }
        Ok(whole.unwrap_or(ANY))
    }

    /// The words that say something of one type, and what lies within.
    fn within(
        &mut self,
        words: &'s Map<String, Value>,
        at: &Place<'_>,
    ) -> Result<Option<Size>, BadRequest> {
        let (mut of_arrays, mut of_objects) = (1_usize, 1_usize);
        let mut is_any = false;
        for (word, value) in words {
            let here = at.name(word);
            match (word.as_str(), value) {
                ("allOf" | "anyOf" | "oneOf" | "enum" | "const" | "$ref", _) => continue,
                ("$defs" | "definitions", _) => continue,
                ("properties" | "patternProperties", Value::Object(schemas)) => {
                    for (name, schema) in schemas {
                        let size = self.schema(schema, &here.name(name), false)?;
                        of_objects = of_objects.saturating_add(size.all());
                    }
                }
                ("prefixItems" | "items", Value::Array(schemas)) => {
                    for (index, schema) in schemas.iter().enumerate() {
                        let size = self.schema(schema, &here.index(index), false)?;
                        of_arrays = of_arrays.saturating_add(size.all());
                    }
                }
                ("items" | "additionalItems", schema) => {
                    let size = self.schema(schema, &here, false)?;
                    of_arrays = of_arrays.saturating_add(size.all());
                }
                ("additionalProperties", schema) => {
                    let size = self.schema(schema, &here, false)?;
                    of_objects = of_objects.saturating_add(size.all());
                }
                _ => {}
            }
            is_any = true;
        }
        let named = |name: &Value| match name.as_str() {
            Some("null") => Size::of(0, 1),
            Some("boolean") => Size::of(1, 1),
            Some("integer" | "number") => Size::of(2, 1),
            Some("string") => Size::of(3, 1),
            Some("array") => Size::of(ARRAY, of_arrays),
            _ => Size::of(OBJECT, of_objects),
        };
        let size = match words.get("type") {
            Some(Value::Array(names)) => names.iter().map(named).fold(Size::default(), Size::or),
            Some(name) => named(name),
            None => {
                let mut any = ANY;
                any.0[ARRAY].all = of_arrays;
                any.0[OBJECT].all = of_objects;
                any
            }
        };
        Ok(is_any.then_some(size))
    }

    fn reference(&mut self, pointer: &'s str, is_merged: bool) -> Result<Size, BadRequest> {
        let key = (pointer, is_merged);
        let size = match self.known.get(&key) {
            // One that leads back to itself is not followed again.
            Some(known) => known.unwrap_or(ANY),
            None => {
                self.known.insert(key, None);
                let names = pointer.trim_start_matches('#');
                let target = self.root.pointer(names);
                let path = format!("{}{}", self.path, names.replace('/', "."));
                let size = match target {
                    Some(target) => self.schema(target, &Place::Root(&path), is_merged)?,
                    None => ANY,
                };
                self.known.insert(key, Some(size));
                size
            }
        };
        Ok(if is_merged { size } else { Size::of(OBJECT, 1) })
    }

    fn merge(
        &mut self,
        whole: Option<Size>,
        part: Size,
        at: &Place<'_>,
    ) -> Result<Size, BadRequest> {
        let Some(whole) = whole else {
            return Ok(part);
        };
        let merged = whole.and(part);
        let tries = whole.ways().saturating_mul(part.ways()) / TRIES_PER_MERGE;
        self.spend(merged.all().saturating_add(tries), at)?;
        // Which object's members are counted shows only once all is merged.
        if self.has_counts && merged.0[OBJECT].all > COUNTED_MAX {
            return Err(at.refuse(format!(
                "in a schema with `minProperties` or `maxProperties`, objects of up to \
                 {COUNTED_MAX} schemas are put together"
            )));
        }
        Ok(merged)
    }

    fn spend(&mut self, merged: usize, at: &Place<'_>) -> Result<(), BadRequest> {
        self.merged = self.merged.saturating_add(merged);
        if self.merged > MERGED_MAX {
            return Err(at.refuse(format!(
                "putting it together with what else is said of the same value comes to more than \
                 {MERGED_MAX} schemas; give each alternative as a whole, or ask for less at once"
            )));
        }
        Ok(())
    }
}

/// What in a schema says something of one value by itself.
fn parts_count(words: &Map<String, Value>) -> usize {
    let mut has_plain = false;
    let mut count = 0;
    for (word, value) in words {
        match word.as_str() {
            "allOf" => count += value.as_array().map_or(0, Vec::len),
            "anyOf" | "oneOf" | "enum" | "const" | "$ref" => count += 1,
            "$defs" | "definitions" => {}
            _ => has_plain = true,
        }
    }
    count + usize::from(has_plain)
}

/// A value, and all within it.
pub(super) fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_merged_is_counted_and_what_is_not_is_free() {
        let ways = |count: usize| -> Vec<Value> {
            (0..count)
                .map(|n| json!({"type": "object", "required": [format!("p{n}")]}))
                .collect()
        };
        let members = |count: usize| -> Map<String, Value> {
            (0..count)
                .map(|n| (format!("p{n}"), json!({"type": "null"})))
                .collect()
        };
        let chain = |length: usize, link: &dyn Fn(Value) -> Value| {
            let to = |n: usize| json!({"$ref": format!("#/$defs/d{n}")});
            let links = (0..length).map(|n| (format!("d{n}"), link(to(n + 1))));
            let mut defs: Map<String, Value> = links.collect();
            defs.insert(format!("d{length}"), json!({"type": "integer"}));
            json!({"$defs": defs, "$ref": "#/$defs/d0"})
        };
        let free = [
            json!({"anyOf": ways(400)}),
            json!({"type": "object", "properties": members(490)}),
            json!({"enum": vec![json!({"a": 1}); 900]}),
            chain(400, &|to| to),
            chain(50, &|to| json!({"anyOf": [to.clone(), to]})),
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}}),
            json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}),
        ];
        for schema in free {
            assert!(check(&schema, "s", false).is_ok(), "{schema}");
        }
        let dear = [
            (
                json!({"type": "object", "properties": members(100), "anyOf": ways(100)}),
                "s.anyOf",
            ),
            (
                json!({"allOf": vec![json!({"anyOf": ways(10)}); 4]}),
                "s.allOf",
            ),
            (
                chain(40, &|to| json!({"allOf": [to.clone(), to]})),
                "s.$defs.",
            ),
            (json!({"oneOf": ways(300)}), "s.oneOf"),
            (json!({"pattern": "a", "enum": vec!["a"; 900]}), "s.enum"),
        ];
        for (schema, place) in dear {
            let refused = check(&schema, "s", false).unwrap_err().param.unwrap();
            assert!(refused.starts_with(place), "{refused}");
        }
        let counted = json!({"properties": members(110), "allOf": [{"minProperties": 1}]});
        assert!(check(&counted, "s", false).is_ok());
        let refused = check(&counted, "s", true).unwrap_err().param.unwrap();
        assert_eq!(refused, "s.allOf");
    }
}
