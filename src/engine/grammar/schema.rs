//! A caller's JSON schema, read for the grammar compiler.
//!
//! The compiler passes over words that it does not know, and a caller who wrote them would get
//! replies that do not keep to them. So each keyword is looked at here: those in the tables below
//! go on, descriptions are left out, and any other refuses the schema by its name and place.
//! Whether a schema says `strict` makes no difference: a reply keeps to all of it.
//!
//! What could cost too much is refused here as well, before any of it is spent.

mod merging;
mod pattern;
mod place;
mod values;

use std::collections::BTreeSet;

use domain::BadRequest;
use serde_json::{Map, Value, json};

pub(super) use crate::grammar::schema::pattern::{GROUPS_MAX, REPEAT_MAX, push_char, translate};
pub(super) use crate::grammar::schema::place::PLACE;
use crate::grammar::schema::place::{NAME_CHARS_MAX, Place};
use crate::grammar::schema::values::{
    bound, bound_numbers, constant, count, format, names, replace_format, types,
};

/// Bytes of a schema's text.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Schemas within each other.
pub(super) const DEPTH_MAX: usize = 32;

/// Schemas within one, itself counted. Merging some can take the square of it.
pub(super) const SCHEMAS_MAX: usize = 500;

/// Values of all `enum`s of a schema. OpenAI's own bound.
pub(super) const VALUES_MAX: usize = 1_000;

/// Values within those of all `enum`s and `const`s, arrays and objects counted too.
pub(super) const VALUES_WITHIN_MAX: usize = 5_000;

/// Members of an object whose members are counted: each may be the one that is there.
pub(super) const COUNTED_MEMBERS_MAX: usize = 50;

/// `format`s of a schema. The longest count as their table says.
pub(super) const FORMATS_MAX: usize = 100;

/// Patterns of a schema, those for members' names counted. Each has its own search for whether
/// anything matches it.
pub(super) const PATTERNS_MAX: usize = 64;

/// Patterns for members' names. All pairs of them are compared.
pub(super) const NAME_PATTERNS_MAX: usize = 8;

pub(super) const PATTERN_BYTES_MAX: usize = 1_024;

/// Further places that are told where one of several is at fault.
const PLACES_MAX: usize = 3;

/// `multipleOf` in hundredths, or in whole numbers where all of a schema's are: two of them must
/// have a product within 32 bits.
const MULTIPLE_MAX: f64 = 65_535.0;

/// Keywords that say nothing of what is valid. Left out.
const DESCRIPTIONS: [&str; 14] = [
    "$anchor",
    "$comment",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "deprecated",
    "description",
    // OpenAPI's: which branch of `oneOf` to look at first.
    "discriminator",
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// What `$schema` may name: the drafts whose words these are. Another has rules of its own.
const DRAFTS: [&str; 5] = [
    "draft/2020-12/schema",
    "draft/2019-09/schema",
    "draft-07/schema",
    "draft-06/schema",
    "draft-04/schema",
];

/// `schema` with nothing in it that the compiler would pass over.
///
/// # Errors
/// It is beyond a limit, malformed, or has a keyword that replies could not be held to.
pub(super) fn read(schema: &Value, path: &str, spent: &mut Spent) -> Result<Value, BadRequest> {
    let root = Place::Root(path);
    spent.text_bytes += schema.to_string().len();
    if spent.text_bytes > TEXT_BYTES_MAX {
        return Err(root.refuse(format!(
            "a request's schemas may have up to {TEXT_BYTES_MAX} bytes"
        )));
    }
    let mut reader = Reader {
        root: schema,
        spent,
        multiples: Vec::new(),
        has_all_of: false,
    };
    let plain = reader.schema(schema, &root, 1)?;
    reader.check_multiples()?;
    merging::check(&plain, path, spent.has_counts)?;
    match plain {
        Value::Object(_) => Ok(plain),
        // The compiler wants an object to write its options in.
        Value::Bool(true) => Ok(json!({})),
        _ => Err(root.refuse("nothing is valid by it")),
    }
}

/// What the compiler found, whose words name no place: where it must be, if only one place can be
/// meant.
pub(super) fn fault(path: &str, reason: &str, spent: &Spent) -> BadRequest {
    let suspicion = SUSPICIONS
        .iter()
        .find(|known| reason.starts_with(known.finding));
    let said = suspicion.and_then(|known| known.said).unwrap_or(reason);
    let said = format!("replies cannot be held to this schema: {said}");
    let places = spent
        .suspects
        .iter()
        .filter(|(word, _)| suspicion.is_some_and(|known| known.words.contains(word)));
    let places: Vec<&str> = places.map(|(_, place)| place.as_str()).collect();
    match places.as_slice() {
        [] => BadRequest::at(path, said),
        [place] => BadRequest::at(*place, said),
        [first, rest @ ..] => {
            let others = rest.iter().take(PLACES_MAX);
            let others: String = others.map(|place| format!(", `{place}`")).collect();
            BadRequest::at(path, format!("{said} (one of `{first}`{others})"))
        }
    }
}

/// Keywords that the compiler may refuse without a place, by what it says then.
struct Suspicion {
    finding: &'static str,
    words: &'static [&'static str],
    /// `None`: its own words will do.
    said: Option<&'static str>,
}

const SUSPICIONS: [Suspicion; 3] = [
    Suspicion {
        finding: "oneOf",
        words: &["oneOf"],
        said: Some(
            "the branches of a `oneOf` must exclude each other by their types, or by a required \
             member with another `const` in each; `anyOf` has no such bound",
        ),
    },
    Suspicion {
        finding: "patternProperty",
        words: &["patternProperties"],
        said: None,
    },
    Suspicion {
        finding: "min/maxProperties",
        words: &["minProperties", "maxProperties"],
        said: Some(
            "`minProperties` and `maxProperties` of more than 1 want all members that have a name \
             in `properties` to be in `required`",
        ),
    },
];

/// What the schemas of one request have had of the limits.
#[derive(Debug, Default)]
pub(super) struct Spent {
    text_bytes: usize,
    schemas: usize,
    values: usize,
    values_within: usize,
    formats: usize,
    /// Members of some object are counted.
    has_counts: bool,
    name_patterns: usize,
    /// Where the patterns are, and how the compiler reads them.
    pub(super) patterns: Vec<(String, String)>,
    /// Places of the keywords in [`SUSPICIONS`].
    suspects: Vec<(&'static str, String)>,
}

struct Reader<'s> {
    root: &'s Value,
    spent: &'s mut Spent,
    multiples: Vec<(f64, String)>,
    has_all_of: bool,
}

impl Reader<'_> {
    fn schema(
        &mut self,
        schema: &Value,
        at: &Place<'_>,
        depth: usize,
    ) -> Result<Value, BadRequest> {
        self.spent.schemas += 1;
        if self.spent.schemas > SCHEMAS_MAX {
            return Err(at.refuse(format!(
                "the schema has more than {SCHEMAS_MAX} schemas within it"
            )));
        }
        if depth > DEPTH_MAX {
            return Err(at.refuse(format!(
                "schemas may lie within each other {DEPTH_MAX} deep; use `$ref` or flatten it"
            )));
        }
        let words = match schema {
            Value::Object(words) => words,
            Value::Bool(_) => return Ok(schema.clone()),
            _ => return Err(at.wants("a schema: an object, `true` or `false`")),
        };
        let mut plain = Map::new();
        for (word, value) in words {
            let here = at.name(word);
            if let Some(value) = self.keyword(word, value, &here, depth)? {
                plain.insert(word.clone(), value);
            }
        }
        check_members(words, at)?;
        replace_format(&mut plain);
        bound_numbers(&mut plain);
        Ok(Value::Object(plain))
    }

    /// What the compiler is to read of a keyword; `None` where it says nothing.
    fn keyword(
        &mut self,
        word: &str,
        value: &Value,
        at: &Place<'_>,
        depth: usize,
    ) -> Result<Option<Value>, BadRequest> {
        let suspicious = SUSPICIONS.iter().flat_map(|known| known.words);
        if let Some(known) = suspicious.copied().find(|known| *known == word) {
            self.spent.suspects.push((known, at.path()));
        }
        let read = match word {
            "properties" | "$defs" | "definitions" => self.named_schemas(value, at, depth)?,
            "patternProperties" => self.pattern_properties(value, at, depth)?,
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => {
                self.has_all_of |= word == "allOf";
                self.listed_schemas(value, at, depth)?
            }
            // Drafts before 2020-12 write `prefixItems` so.
            "items" if value.is_array() => self.listed_schemas(value, at, depth)?,
            "items" | "additionalItems" | "additionalProperties" => {
                self.schema(value, at, depth + 1)?
            }
            "$ref" => self.reference(value, at)?,
            "type" => types(value, at)?,
            "const" => {
                self.spent.values += 1;
                self.constant(value, at)?
            }
            "enum" => self.values(value, at)?,
            "required" => names(value, at)?,
            "minProperties" | "maxProperties" => {
                self.spent.has_counts = true;
                count(value, at)?
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" => count(value, at)?,
            "minimum" | "maximum" => bound(value, at)?,
            // Draft 4 has truth values here.
            "exclusiveMinimum" | "exclusiveMaximum" if value.is_boolean() => value.clone(),
            "exclusiveMinimum" | "exclusiveMaximum" => bound(value, at)?,
            "multipleOf" => {
                let multiple = value.as_f64().filter(|multiple| *multiple > 0.0);
                let multiple = multiple.ok_or_else(|| at.wants("a number above 0"))?;
                self.multiples.push((multiple, at.path()));
                value.clone()
            }
            "pattern" => {
                let pattern = value.as_str().ok_or_else(|| at.wants("a string"))?;
                self.pattern(pattern, at)?.into()
            }
            "$schema" => return draft(value, at),
            "format" => {
                let format = format(value, at)?;
                self.spent.formats += format.weight();
                if self.spent.formats > FORMATS_MAX {
                    return Err(at.refuse(format!(
                        "a schema may have up to {FORMATS_MAX} formats, of which some count as \
                         several"
                    )));
                }
                value.clone()
            }
            // They change nothing where they say so.
            "uniqueItems" | "nullable" if *value == json!(false) => return Ok(None),
            // At the root it names the whole, within it another base for references.
            "$id" | "id" if depth == 1 && value.is_string() => return Ok(None),
            word if DESCRIPTIONS.contains(&word) || is_extension(word) => return Ok(None),
            word => {
                let word: String = word.chars().take(NAME_CHARS_MAX).collect();
                return Err(at.refuse(format!(
                    "replies cannot be held to the keyword `{word}`; leave it out or name another \
                     model"
                )));
            }
        };
        Ok(Some(read))
    }

    fn named_schemas(
        &mut self,
        value: &Value,
        at: &Place<'_>,
        depth: usize,
    ) -> Result<Value, BadRequest> {
        let schemas = value.as_object().ok_or_else(|| at.wants("an object"))?;
        let read = schemas.iter().map(|(name, schema)| {
            let schema = self.schema(schema, &at.name(name), depth + 1)?;
            Ok((name.clone(), schema))
        });
        read.collect::<Result<Map<_, _>, _>>().map(Value::Object)
    }

    fn pattern_properties(
        &mut self,
        value: &Value,
        at: &Place<'_>,
        depth: usize,
    ) -> Result<Value, BadRequest> {
        let schemas = value.as_object().ok_or_else(|| at.wants("an object"))?;
        let mut read = Map::new();
        for (pattern, schema) in schemas {
            self.spent.name_patterns += 1;
            if self.spent.name_patterns > NAME_PATTERNS_MAX {
                return Err(at.refuse(format!(
                    "a schema may have up to {NAME_PATTERNS_MAX} patterns for names"
                )));
            }
            let here = at.name(pattern);
            let written = self.pattern(pattern, &here)?;
            let schema = self.schema(schema, &here, depth + 1)?;
            if read.insert(written, schema).is_some() {
                return Err(here.refuse("another pattern here says the same"));
            }
        }
        Ok(Value::Object(read))
    }

    fn listed_schemas(
        &mut self,
        value: &Value,
        at: &Place<'_>,
        depth: usize,
    ) -> Result<Value, BadRequest> {
        let schemas = value.as_array().filter(|schemas| !schemas.is_empty());
        let schemas = schemas.ok_or_else(|| at.wants("an array of schemas, not empty"))?;
        let read = schemas.iter().enumerate();
        let read = read.map(|(index, schema)| self.schema(schema, &at.index(index), depth + 1));
        read.collect()
    }

    /// Only places in the schema itself, written plainly: the compiler does not unescape them.
    fn reference(&self, value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
        let place = value.as_str().ok_or_else(|| at.wants("a string"))?;
        let is_plain = !place.contains(['~', '%']);
        let pointer = place.strip_prefix('#').filter(|_| is_plain);
        let Some(pointer) = pointer.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
            return Err(at.refuse(
                "references may lead to places in the schema itself, as `#/$defs/name`, without \
                 `~` and `%`",
            ));
        };
        if leads_to_schema(self.root, pointer) {
            return Ok(value.clone());
        }
        Err(at.refuse("there is no schema where this reference leads"))
    }

    fn values(&mut self, value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
        let values = value.as_array().filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| at.wants("an array of values, not empty"))?;
        self.spent.values += values.len();
        if self.spent.values > VALUES_MAX {
            return Err(at.refuse(format!(
                "a schema may have up to {VALUES_MAX} values in all its `enum`s"
            )));
        }
        let read = values.iter().enumerate();
        let read = read.map(|(index, value)| self.constant(value, &at.index(index)));
        read.collect()
    }

    fn constant(&mut self, value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
        self.spent.values_within += merging::count(value);
        if self.spent.values_within > VALUES_WITHIN_MAX {
            return Err(at.refuse(format!(
                "a schema may have up to {VALUES_WITHIN_MAX} values within its `enum`s and `const`s"
            )));
        }
        constant(value, at)
    }

    /// The pattern in the compiler's dialect.
    fn pattern(&mut self, pattern: &str, at: &Place<'_>) -> Result<String, BadRequest> {
        if self.spent.patterns.len() == PATTERNS_MAX {
            return Err(at.refuse(format!("a schema may have up to {PATTERNS_MAX} patterns")));
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(at.refuse(format!(
                "a pattern may have up to {PATTERN_BYTES_MAX} bytes"
            )));
        }
        let written = translate(pattern).map_err(|said| at.refuse(said))?;
        self.spent.patterns.push((at.path(), written.clone()));
        Ok(written)
    }

    /// The compiler multiplies those that apply to one number, in 32 bits and unchecked.
    fn check_multiples(&self) -> Result<(), BadRequest> {
        let are_whole = self
            .multiples
            .iter()
            .all(|(multiple, _)| multiple.fract() == 0.0);
        let scale = if are_whole { 1.0 } else { 100.0 };
        let fits = |multiple: f64| {
            let scaled = multiple * scale;
            scaled <= MULTIPLE_MAX && (scaled - scaled.round()).abs() < 1e-9
        };
        let fault = self
            .multiples
            .iter()
            .find(|(multiple, _)| self.has_all_of || !fits(*multiple));
        let Some((_, place)) = fault else {
            return Ok(());
        };
        Err(BadRequest::at(
            place,
            "`multipleOf` may be a whole number up to 65535 or have two decimals up to 655.35, in \
             a schema without `allOf`",
        ))
    }
}

/// False for what stands in a schema and is none, as a value: it was not read.
fn leads_to_schema(root: &Value, pointer: &str) -> bool {
    let mut names = pointer.split('/').skip(1);
    let mut here = Some(root);
    while let (Some(schema), Some(word)) = (here, names.next()) {
        let held = schema.get(word);
        here = match word {
            "items" if held.is_some_and(Value::is_array) => held,
            "items" | "additionalItems" | "additionalProperties" => {
                here = held;
                continue;
            }
            "properties" | "$defs" | "definitions" | "allOf" | "anyOf" | "oneOf"
            | "prefixItems" => held,
            _ => None,
        };
        let name = names.next().unwrap_or_default();
        here = here.and_then(|held| match held {
            Value::Array(schemas) => schemas.get(name.parse::<usize>().ok()?),
            schemas => schemas.get(name),
        });
    }
    here.is_some_and(|schema| schema.is_object() || schema.is_boolean())
}

/// Left out: what a schema says here is the same in all of them.
fn draft(value: &Value, at: &Place<'_>) -> Result<Option<Value>, BadRequest> {
    let name = value.as_str().ok_or_else(|| at.wants("a string"))?;
    let name = name.trim_end_matches('#');
    let host = name.split_once("://").map(|(_, host)| host);
    let known = host.and_then(|host| host.strip_prefix("json-schema.org/"));
    if known.is_some_and(|known| DRAFTS.contains(&known)) {
        return Ok(None);
    }
    Err(at.refuse(
        "replies can be held to JSON Schema's drafts 4, 6, 7, 2019-09 and 2020-12; leave `$schema` \
         out",
    ))
}

/// OpenAPI's and others' own words.
fn is_extension(word: &str) -> bool {
    word.starts_with("x-")
}

/// A grammar cannot see that a name was given before, so members beyond those with names of their
/// own are not counted one by one.
fn check_members(words: &Map<String, Value>, at: &Place<'_>) -> Result<(), BadRequest> {
    let named = words.get("properties").and_then(Value::as_object);
    for word in ["minProperties", "maxProperties"] {
        let is_many = named.is_some_and(|named| named.len() > COUNTED_MEMBERS_MAX);
        if is_many && words.contains_key(word) {
            return Err(at.name(word).refuse(format!(
                "members are counted in an object of up to {COUNTED_MEMBERS_MAX} `properties`"
            )));
        }
    }
    let least = words
        .get("minProperties")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let required = words.get("required").and_then(Value::as_array);
    let required = required.into_iter().flatten().filter_map(Value::as_str);
    let required = required.collect::<BTreeSet<_>>().len();
    if least > required as u64 + 1 {
        return Err(at.name("minProperties").refuse(
            "it may be one more than the names in `required`; list the names that must be there",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
