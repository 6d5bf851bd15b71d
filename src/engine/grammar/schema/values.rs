//! The values of keywords: what they must be, and where the compiler is told a little less.

use domain::BadRequest;
use serde_json::{Map, Value, json};

use crate::grammar::formats::{self, Format};
use crate::grammar::schema::place::Place;

/// What a count of characters, items or members may be: more than a reply has tokens.
pub(in crate::grammar) const COUNT_MAX: u64 = 10_000;

/// A bound beyond this is read as this. It is the greatest round number that 64 bits hold, and
/// whole numbers without a bound of their own get it: readers differ on what they do with longer
/// ones.
pub(super) const NUMBER_MAX: f64 = 9e18;

/// Multiples are drawn up to here where they may have decimals, so that these are exact too.
const FRACTION_MAX: f64 = 1e13;

/// Whole numbers up to here are exact in JSON (RFC 8259, section 6).
const EXACT_MAX: f64 = 9_007_199_254_740_991.0;

const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];

pub(super) fn types(value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_known = match value {
        Value::Array(types) => !types.is_empty() && types.iter().all(is_type),
        other => is_type(other),
    };
    if is_known {
        return Ok(value.clone());
    }
    Err(at.wants(&format!("one of {}, or an array of them", TYPES.join(", "))))
}

pub(super) fn names(value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
    let names = value.as_array();
    if names.is_some_and(|names| names.iter().all(Value::is_string)) {
        return Ok(value.clone());
    }
    Err(at.wants("an array of strings"))
}

pub(super) fn count(value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
    // 3.0 is a whole number too.
    let whole = value.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0);
    let count = value.as_u64().or(whole.map(|n| n as u64));
    let count = count.ok_or_else(|| at.wants("a whole number, 0 or more"))?;
    if count > COUNT_MAX {
        return Err(at.refuse(format!("it may be up to {COUNT_MAX}")));
    }
    Ok(json!(count))
}

/// The compiler reads bounds as `f64`. Where that rounds, the bound is taken a little narrower.
pub(super) fn bound(value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
    let bound = value.as_f64().ok_or_else(|| at.wants("a number"))?;
    let is_lower = matches!(at, Place::Name(_, "minimum" | "exclusiveMinimum"));
    let is_narrow = if is_lower {
        bound > EXACT_MAX
    } else {
        bound < -EXACT_MAX
    };
    if is_narrow {
        return Err(at.refuse("numbers beyond 9007199254740991 cannot be told apart"));
    }
    if bound.abs() <= EXACT_MAX {
        return Ok(value.clone());
    }
    let within = if is_lower {
        bound.next_up()
    } else {
        bound.next_down()
    };
    Ok(json!(within.clamp(-NUMBER_MAX, NUMBER_MAX)))
}

/// Numbers in `const` and `enum` are compared as `f64`, and control characters have no escape.
pub(super) fn constant(value: &Value, at: &Place<'_>) -> Result<Value, BadRequest> {
    match value {
        Value::Number(number) => {
            let is_exact = number.as_f64().is_some_and(|n| n.abs() <= EXACT_MAX);
            if !is_exact {
                return Err(at.refuse("a number here may be up to 9007199254740991"));
            }
        }
        Value::String(text) => {
            let is_unwritable = |c: char| c.is_ascii_control() && !"\n\r\t\u{8}\u{c}".contains(c);
            if text.contains(is_unwritable) {
                return Err(
                    at.refuse("a text here may have no control characters but \\n \\r \\t \\b \\f")
                );
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                constant(item, &at.index(index))?;
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                constant(member, &at.name(name))?;
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    Ok(value.clone())
}

pub(super) fn format(value: &Value, at: &Place<'_>) -> Result<&'static Format, BadRequest> {
    if let Some(format) = value.as_str().and_then(formats::find) {
        return Ok(format);
    }
    let names: Vec<_> = formats::FORMATS.iter().map(|format| format.name).collect();
    Err(at.refuse(format!(
        "replies can be held to the formats {}; leave it out or use `pattern`",
        names.join(", ")
    )))
}

/// Puts our pattern of a format in its place, beside any pattern there already is.
pub(super) fn replace_format(plain: &mut Map<String, Value>) {
    let named = plain.get("format").and_then(Value::as_str);
    let Some(pattern) = named
        .and_then(formats::find)
        .and_then(|format| format.pattern)
    else {
        return;
    };
    plain.shift_remove("format");
    if !plain.contains_key("pattern") {
        plain.insert("pattern".to_owned(), json!(pattern));
        return;
    }
    let parts = plain.entry("allOf").or_insert_with(|| json!([]));
    if let Value::Array(parts) = parts {
        parts.push(json!({"pattern": pattern}));
    }
}

/// See [`NUMBER_MAX`]. Numbers that need not be whole have an exponent to be long with. Whether a
/// number is a multiple cannot be told of one that is not exact.
pub(super) fn bound_numbers(plain: &mut Map<String, Value>) {
    let is_integer = match plain.get("type") {
        Some(Value::String(name)) => name == "integer",
        Some(Value::Array(names)) => {
            names.contains(&json!("integer")) && !names.contains(&json!("number"))
        }
        _ => false,
    };
    let multiple = plain.get("multipleOf").and_then(Value::as_f64);
    let limit = match multiple {
        Some(multiple) if multiple.fract() == 0.0 => EXACT_MAX,
        Some(_) => FRACTION_MAX,
        None if is_integer => NUMBER_MAX,
        None => return,
    };
    if plain.contains_key("enum") || plain.contains_key("const") {
        return;
    }
    for (bound, exclusive, limit) in [
        ("minimum", "exclusiveMinimum", -limit),
        ("maximum", "exclusiveMaximum", limit),
    ] {
        let is_narrower = |given: f64| given.abs() <= limit.abs();
        let given = [bound, exclusive].map(|word| plain.get(word).and_then(Value::as_f64));
        if !given.into_iter().flatten().any(is_narrower) {
            plain.insert(bound.to_owned(), json!(limit));
        }
    }
}
