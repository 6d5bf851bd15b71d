//! JSON from callers: parsed once, strictly, with the place of every fault.
//!
//! Two things that serde_json lets pass are refused, because the bytes may be forwarded as they
//! came while everyone here looks at the parsed value: a name that stands twice in an object (the
//! scan would see one value and the upstream might read the other), and more values than any
//! honest request has.

use std::cell::Cell;
use std::fmt;

use domain::BadRequest;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::request_fault::shown;

/// Values in one body, nested ones counted: a parsed value takes 32 bytes or more however short
/// its text. The largest agent requests we know (hundreds of messages and tools) stay below 20,000.
const VALUES_MAX: usize = 200_000;

/// # Errors
/// The body is no JSON text: `param` names the innermost place reached, the message line and column.
pub(crate) fn parse(body: &[u8]) -> Result<Value, BadRequest> {
    let text = std::str::from_utf8(body).map_err(|fault| {
        malformed(
            None,
            format!(
                "The body is not valid UTF-8: the byte at offset {} is out of place. Send JSON \
                 encoded as UTF-8.",
                fault.valid_up_to()
            ),
        )
    })?;
    if text.trim().is_empty() {
        return Err(malformed(
            None,
            "The body is empty. Send a JSON object with 'model' and 'messages'.".into(),
        ));
    }
    if text.starts_with('\u{FEFF}') {
        return Err(malformed(
            None,
            "The body begins with a byte order mark. Send JSON without one.".into(),
        ));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let budget = Budget::new();
    let parsed = Strict(&budget)
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    // Only a body at fault is read a second time, to learn where.
    parsed.map_err(|fault| locate(text, &fault))
}

fn locate(text: &str, fault: &serde_json::Error) -> BadRequest {
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let budget = Budget::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let path = match Strict(&budget).deserialize(tracked) {
        Ok(_) => None,
        Err(_) => Some(track.path().to_string()).filter(|path| path != "."),
    };
    let hint = if is_near_nonfinite(text, fault) {
        " JSON has no NaN or Infinity; leave the field out."
    } else {
        ""
    };
    malformed(
        path.map(|path| shown(&path).into_owned()),
        format!("The body could not be parsed as JSON: {fault}.{hint}"),
    )
}

/// True when the fault stands at what Python's `json` writes for numbers that are not finite.
fn is_near_nonfinite(text: &str, fault: &serde_json::Error) -> bool {
    let line = text.lines().nth(fault.line().saturating_sub(1));
    let rest = line
        .and_then(|line| line.as_bytes().get(fault.column().saturating_sub(2)..))
        .unwrap_or_default();
    let near = &rest[..rest.len().min(12)];
    let has = |word: &[u8]| near.windows(word.len()).any(|window| window == word);
    has(b"NaN") || has(b"Infinity")
}

fn malformed(param: Option<String>, message: String) -> BadRequest {
    BadRequest {
        param,
        code: Some("invalid_json".into()),
        message,
    }
}

struct Budget(Cell<usize>);

impl Budget {
    fn new() -> Self {
        Self(Cell::new(VALUES_MAX))
    }

    fn spend<E: de::Error>(&self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0.set(
            left.ok_or_else(|| {
                E::custom(format_args!("more than {VALUES_MAX} values in one body"))
            })?,
        );
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Strict<'b>(&'b Budget);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, is_true: bool) -> Result<Value, E> {
        Ok(Value::Bool(is_true))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        let finite = Number::from_f64(number);
        finite
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(de::Error::custom(format_args!(
                    "the name '{}' stands twice in one object",
                    shown(&name)
                )));
            }
            let value = fields.next_value_seed(self)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}
