//! Personal data inside patterns: regular expressions, grammars and the `pattern`s of schemas.
//!
//! Between escapes a value is not written as what it is: `ann@example\.com`. It is found by undoing
//! them. Nothing can be masked there, since a pattern with a placeholder in it is another pattern.

use std::iter::Peekable;
use std::str::Chars;

use domain::{ChatRequest, OutputFormat};
use serde_json::{Map, Value};

/// Every text of the request that is a pattern.
pub(super) fn patterns(request: &ChatRequest, visit: &mut dyn FnMut(&str)) {
    match &request.format {
        OutputFormat::Regex(text) | OutputFormat::Grammar(text) => visit(text),
        OutputFormat::JsonSchema(schema) => within(schema, visit),
        OutputFormat::Text | OutputFormat::JsonObject | OutputFormat::Choice(_) => {}
    }
    for tool in &request.tools {
        within(&tool.parameters, visit);
        within_fields(&tool.extra, visit);
    }
    within_fields(&request.extra, visit);
}

fn within(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::Object(fields) => within_fields(fields, visit),
        Value::Array(items) => items.iter().for_each(|item| within(item, visit)),
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

fn within_fields(fields: &Map<String, Value>, visit: &mut dyn FnMut(&str)) {
    for (name, value) in fields {
        match value {
            Value::String(text) if is_pattern(name) => visit(text),
            Value::Object(by_pattern) if name == "patternProperties" => {
                by_pattern.keys().for_each(|pattern| visit(pattern));
                within_fields(by_pattern, visit);
            }
            other => within(other, visit),
        }
    }
}

/// JSON Schema's `pattern`, and the names of several servers for patterns and grammars.
fn is_pattern(name: &str) -> bool {
    ["pattern", "regex", "ebnf", "grammar"]
        .iter()
        .any(|word| name.ends_with(word))
}

/// The pattern with its escapes undone, and a class of one character as that character. `None` where
/// it says what it means.
pub(super) fn plain(pattern: &str) -> Option<String> {
    let mut plain = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    let mut has_changed = false;
    while let Some(character) = rest.next() {
        let meant = match character {
            '\\' => escaped(&mut rest),
            '[' => class_of_one(&mut rest),
            _ => None,
        };
        has_changed |= meant.is_some();
        plain.push(meant.unwrap_or(character));
    }
    has_changed.then_some(plain)
}

/// What the characters after a backslash stand for: `.`, `x40`, `u0040`, `u{40}`, `U00000040`. Nothing
/// is taken where they stand for no one character.
fn escaped(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    let digits = match *rest.peek()? {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        other if !other.is_ascii_alphanumeric() => {
            rest.next();
            return Some(other);
        }
        _ => return None,
    };
    let mut ahead = rest.clone();
    ahead.next();
    let code = if ahead.next_if_eq(&'{').is_some() {
        let mut code = String::new();
        while let Some(digit) = ahead.next_if(char::is_ascii_hexdigit) {
            code.push(digit);
        }
        ahead.next_if_eq(&'}')?;
        code
    } else {
        let code: String = ahead.by_ref().take(digits).collect();
        if code.chars().count() < digits {
            return None;
        }
        code
    };
    let meant = u32::from_str_radix(&code, 16)
        .ok()
        .and_then(char::from_u32)?;
    *rest = ahead;
    Some(meant)
}

/// `[.]`, after its first bracket.
fn class_of_one(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    let mut ahead = rest.clone();
    let meant = match ahead.next()? {
        '\\' => escaped(&mut ahead)?,
        '^' | ']' => return None,
        other => other,
    };
    ahead.next_if_eq(&']')?;
    *rest = ahead;
    Some(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_where_they_stand_for_one_character() {
        for (pattern, wanted) in [
            (r"a@b\.c", "a@b.c"),
            (r"a\x40b[.]c", "a@b.c"),
            (r"a\u0040b[\.]c", "a@b.c"),
            (r"a\u{40}b\U0000002ec", "a@b.c"),
        ] {
            assert_eq!(plain(pattern).as_deref(), Some(wanted), "{pattern}");
        }
        for as_written in [
            r"a@b.c",
            r"\d+\w\b",
            r"[^.][]a][ab]",
            r"\x4",
            r"\u{zz}",
            r"\",
            "[",
        ] {
            assert_eq!(plain(as_written), None, "{as_written}");
        }
    }
}
