//! Reading a parsed object field by field, knowing the path of each.

use std::fmt;
use std::ops::RangeInclusive;

use domain::{BadRequest, Extra};
use serde_json::{Map, Value};

use crate::request_fault as fault;

/// Where a value stands. Borrowed links, so that a path costs nothing until it is written out.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// The path as a JSON Pointer (RFC 6901).
    pub fn pointer(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Field(parent, name) => {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                format!("{}/{escaped}", parent.pointer())
            }
            Path::Index(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(&fault::shown(name)),
            Path::Field(parent, name) => write!(f, "{parent}.{}", fault::shown(name)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// An object whose fields are taken out one by one. What is left at the end was not interpreted.
///
/// A null field reads as an absent one, as OpenAI has it.
pub(crate) struct Fields<'p> {
    pub path: Path<'p>,
    map: Map<String, Value>,
    /// The marks of the names in `map`, and of some that were: most names that are asked for are in no
    /// object, and need not be looked up.
    marks: u64,
}

/// One of 64 bits for a name, by its length and its ends.
fn mark(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let at = |byte: Option<&u8>| byte.map_or(0, |byte| u32::from(*byte));
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mixed = length.wrapping_mul(7) ^ at(bytes.first()) ^ at(bytes.last()).wrapping_mul(5);
    1 << (mixed % 64)
}

impl<'p> Fields<'p> {
    pub fn open(path: Path<'p>, value: Value) -> Result<Self, BadRequest> {
        match value {
            Value::Object(map) => Ok(Self::of(path, map)),
            other => Err(fault::wrong_type(&path, "an object", &other)),
        }
    }

    fn of(path: Path<'p>, map: Map<String, Value>) -> Self {
        let marks = map.keys().fold(0, |marks, name| marks | mark(name));
        Self { path, map, marks }
    }

    fn may_have(&self, name: &str) -> bool {
        self.marks & mark(name) != 0
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        if !self.may_have(name) {
            return None;
        }
        // The order of what is left is kept: it is the caller's.
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Those of `names` that are there, to be read and yet stay.
    pub fn copy_of(&self, names: &[&str]) -> Fields<'p> {
        let copy = |name: &&str| {
            let value = self.peek(name)?;
            Some(((*name).to_owned(), value.clone()))
        };
        Self::of(self.path, names.iter().filter_map(copy).collect())
    }

    /// The field as it stands, without taking it.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.may_have(name).then(|| self.map.get(name)).flatten()
    }

    pub fn has(&self, name: &str) -> bool {
        self.peek(name).is_some_and(|value| !value.is_null())
    }

    pub fn required(&mut self, name: &str) -> Result<Value, BadRequest> {
        self.take(name)
            .ok_or_else(|| fault::missing(&self.path.field(name)))
    }

    pub fn string(&mut self, name: &str) -> Result<Option<String>, BadRequest> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, "a string", &other)),
        }
    }

    /// A string that is there, not empty, and of at most `bytes_max` bytes.
    pub fn required_name(&mut self, name: &str, bytes_max: usize) -> Result<String, BadRequest> {
        let text = self
            .string(name)?
            .ok_or_else(|| fault::missing(&self.path.field(name)))?;
        bounded(&self.path.field(name), text, bytes_max)
    }

    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, BadRequest> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(is_true)) => Ok(Some(is_true)),
            Some(other) => Err(self.wrong_type(name, "a boolean", &other)),
        }
    }

    pub fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, BadRequest> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let path = self.path.field(name);
        let Some(number) = value.as_i64() else {
            // Integers past 64 bits arrive as floats, and those past the sign as unsigned.
            return Err(match value.as_f64() {
                Some(huge) if huge.fract() == 0.0 && huge >= I64_END => {
                    fault::above_max(&path, "integer", range.end(), huge)
                }
                Some(huge) if huge.fract() == 0.0 && huge <= -I64_END => {
                    fault::below_min(&path, "integer", range.start(), huge)
                }
                _ => fault::wrong_type(&path, "an integer", &value),
            });
        };
        if number > *range.end() {
            return Err(fault::above_max(&path, "integer", range.end(), number));
        }
        if number < *range.start() {
            return Err(fault::below_min(&path, "integer", range.start(), number));
        }
        Ok(Some(number))
    }

    /// As [`Fields::integer`], for ranges that `u32` holds.
    pub fn count(
        &mut self,
        name: &str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, BadRequest> {
        let wide = i64::from(*range.start())..=i64::from(*range.end());
        let number = self.integer(name, wide)?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    pub fn decimal(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, BadRequest> {
        self.take(name)
            .map(|value| decimal(&self.path.field(name), &value, range))
            .transpose()
    }

    pub fn wrong_type(&self, name: &str, expected: &str, got: &Value) -> BadRequest {
        fault::wrong_type(&self.path.field(name), expected, got)
    }

    /// Everything not taken.
    pub fn rest(self) -> Extra {
        self.map
    }

    /// Moves everything not taken into `extra`, under JSON Pointers from the body's root.
    pub fn leave_to(self, extra: &mut Extra) {
        for (name, value) in self.map {
            extra.insert(self.path.field(&name).pointer(), value);
        }
    }
}

/// Fields at the top level that we do not know.
pub(crate) const EXTRA_FIELDS_MAX: usize = 256;

/// Two to the 63rd.
const I64_END: f64 = 9_223_372_036_854_775_808.0;

pub(crate) fn bounded(
    path: &Path<'_>,
    text: String,
    bytes_max: usize,
) -> Result<String, BadRequest> {
    if text.is_empty() {
        return Err(fault::empty_string(path));
    }
    if text.len() > bytes_max {
        return Err(fault::too_long(path, bytes_max, text.len()));
    }
    Ok(text)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the value is within a small range; the model reads 32 bits"
)]
pub(crate) fn decimal(
    path: &Path<'_>,
    value: &Value,
    range: RangeInclusive<f64>,
) -> Result<f32, BadRequest> {
    let Some(number) = value.as_f64() else {
        return Err(fault::wrong_type(path, "a decimal number", value));
    };
    if number > *range.end() {
        return Err(fault::above_max(path, "decimal", range.end(), number));
    }
    if number < *range.start() {
        return Err(fault::below_min(path, "decimal", range.start(), number));
    }
    Ok(number as f32)
}

/// An array of at most `items_max`; `items_min` is 0 or 1.
pub(crate) fn array(
    path: &Path<'_>,
    value: Value,
    items_min: usize,
    items_max: usize,
) -> Result<Vec<Value>, BadRequest> {
    match value {
        Value::Array(items) if items.len() < items_min => Err(fault::empty_array(path)),
        Value::Array(items) if items.len() > items_max => {
            Err(fault::too_many(path, items_max, items.len()))
        }
        Value::Array(items) => Ok(items),
        other => Err(fault::wrong_type(path, "an array", &other)),
    }
}

/// Unknown fields of the top level, which are not many.
pub(crate) fn few_unknown(fields: Fields<'_>) -> Result<Extra, BadRequest> {
    let unknown = fields.rest();
    if unknown.len() <= EXTRA_FIELDS_MAX {
        return Ok(unknown);
    }
    Err(BadRequest {
        param: None,
        code: Some("too_many_parameters".into()),
        message: format!(
            "The body has {} parameters that are not known; at most {EXTRA_FIELDS_MAX} are passed on.",
            unknown.len()
        ),
    })
}

/// Unknown fields of the top level. Names that look like the JSON Pointers of nested ones would
/// be mistaken for those.
pub(crate) fn add_unknown(fields: Fields<'_>, extra: &mut Extra) -> Result<(), BadRequest> {
    for (name, value) in few_unknown(fields)? {
        if name.starts_with('/') {
            return Err(fault::unsupported(
                &fault::shown(&name),
                "Names that begin with '/' are not passed on.",
            ));
        }
        extra.insert(name, value);
    }
    Ok(())
}
