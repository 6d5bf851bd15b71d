//! How a request's faults are worded: OpenAI's sentences and codes, so that clients which match on
//! them go on working (API reference, "Error codes", read 2026-11).

use std::borrow::Cow;
use std::fmt::Display;

use domain::BadRequest;
use serde_json::Value;

/// What is quoted of a caller's own text in a message, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// The text, cut where it is too long to be quoted.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

pub(crate) fn missing(path: &impl Display) -> BadRequest {
    fault(
        path,
        "missing_required_parameter",
        format!("Missing required parameter: '{path}'."),
    )
}

/// `expected` with its article: `a string`.
pub(crate) fn wrong_type(path: &impl Display, expected: &str, got: &Value) -> BadRequest {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    fault(
        path,
        "invalid_type",
        format!("Invalid type for '{path}': expected {expected}, but got {got} instead."),
    )
}

pub(crate) fn invalid(path: &impl Display, why: impl Display) -> BadRequest {
    fault(
        path,
        "invalid_value",
        format!("Invalid value for '{path}': {why}"),
    )
}

pub(crate) fn not_one_of(path: &impl Display, got: &str, supported: &[&str]) -> BadRequest {
    let list = supported
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(", ");
    fault(
        path,
        "invalid_value",
        format!(
            "Invalid value for '{path}': '{}'. Supported values are: {list}.",
            shown(got)
        ),
    )
}

pub(crate) fn unsupported(path: &impl Display, why: &str) -> BadRequest {
    fault(
        path,
        "unsupported_parameter",
        format!("Unsupported parameter: '{path}'. {why}"),
    )
}

/// `kind` is `integer` or `decimal`.
pub(crate) fn above_max(
    path: &impl Display,
    kind: &str,
    max: impl Display,
    got: impl Display,
) -> BadRequest {
    fault(
        path,
        &format!("{kind}_above_max_value"),
        format!(
            "Invalid '{path}': {kind} above maximum value. Expected a value <= {max}, but got \
             {got} instead."
        ),
    )
}

pub(crate) fn below_min(
    path: &impl Display,
    kind: &str,
    min: impl Display,
    got: impl Display,
) -> BadRequest {
    fault(
        path,
        &format!("{kind}_below_min_value"),
        format!(
            "Invalid '{path}': {kind} below minimum value. Expected a value >= {min}, but got \
             {got} instead."
        ),
    )
}

pub(crate) fn empty_array(path: &impl Display) -> BadRequest {
    fault(
        path,
        "empty_array",
        format!(
            "Invalid '{path}': empty array. Expected an array with minimum length 1, but got an \
             empty array instead."
        ),
    )
}

pub(crate) fn too_many(path: &impl Display, max: usize, got: usize) -> BadRequest {
    fault(
        path,
        "array_above_max_length",
        format!(
            "Invalid '{path}': array too long. Expected an array with maximum length {max}, but \
             got an array with length {got} instead."
        ),
    )
}

pub(crate) fn empty_string(path: &impl Display) -> BadRequest {
    fault(
        path,
        "empty_string",
        format!(
            "Invalid '{path}': empty string. Expected a string with minimum length 1, but got an \
             empty string instead."
        ),
    )
}

pub(crate) fn too_long(path: &impl Display, max: usize, got: usize) -> BadRequest {
    fault(
        path,
        "string_above_max_length",
        format!(
            "Invalid '{path}': string too long. Expected a string with maximum length {max}, but \
             got a string with length {got} instead."
        ),
    )
}

fn fault(path: &impl Display, code: &str, message: String) -> BadRequest {
    BadRequest::at(path.to_string(), message).with_code(code)
}
