//! Values in the forms that are not JSON, written again as JSON.

use super::cursor::{Cursor, Stop, Taken, quoted};

/// Deeper values count as broken.
const DEPTH_MAX: usize = 32;

/// How a value is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dialect {
    /// Literals of Python; the words of JSON are taken too.
    Python,
    /// Gemma's: members' names bare, strings between two of the same mark and without escapes.
    Marked { quote: &'static str },
}

/// Appends the value that comes next to `json`.
pub(super) fn value(cursor: &mut Cursor<'_>, dialect: Dialect, json: &mut String) -> Taken<()> {
    within(cursor, dialect, json, 0)
}

fn within(cursor: &mut Cursor<'_>, dialect: Dialect, json: &mut String, depth: usize) -> Taken<()> {
    if depth > DEPTH_MAX {
        return Err(Stop::No);
    }
    cursor.space();
    match (cursor.peek()?, dialect) {
        ('[', _) => items(cursor, dialect, ']', json, depth),
        ('(', Dialect::Python) => items(cursor, dialect, ')', json, depth),
        ('{', _) => members(cursor, dialect, json, depth),
        (quote @ ('"' | '\''), Dialect::Python) => {
            json.push_str(&quoted(&python_string(cursor, quote)?));
            Ok(())
        }
        ('"', Dialect::Marked { .. }) => {
            json.push_str(&quoted(&cursor.json_string()?));
            Ok(())
        }
        (_, Dialect::Python) => {
            let word = cursor.run(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))?;
            json.push_str(&plain(word).ok_or(Stop::No)?);
            Ok(())
        }
        (_, Dialect::Marked { quote }) => {
            if cursor.optional(|cursor| cursor.literal(quote))?.is_some() {
                json.push_str(&quoted(cursor.until(quote)?));
                return Ok(());
            }
            let word = cursor.run(|c| !",]}".contains(c))?.trim();
            json.push_str(&plain(word).unwrap_or_else(|| quoted(word)));
            Ok(())
        }
    }
}

fn items(
    cursor: &mut Cursor<'_>,
    dialect: Dialect,
    close: char,
    json: &mut String,
    depth: usize,
) -> Taken<()> {
    cursor.literal(if close == ']' { "[" } else { "(" })?;
    let close = if close == ']' { "]" } else { ")" };
    json.push('[');
    let mut is_first = true;
    loop {
        cursor.space();
        if cursor.optional(|cursor| cursor.literal(close))?.is_some() {
            json.push(']');
            return Ok(());
        }
        if !is_first {
            json.push_str(", ");
        }
        is_first = false;
        within(cursor, dialect, json, depth + 1)?;
        comma(cursor, close)?;
    }
}

fn members(
    cursor: &mut Cursor<'_>,
    dialect: Dialect,
    json: &mut String,
    depth: usize,
) -> Taken<()> {
    cursor.literal("{")?;
    json.push('{');
    let mut is_first = true;
    loop {
        cursor.space();
        if cursor.optional(|cursor| cursor.literal("}"))?.is_some() {
            json.push('}');
            return Ok(());
        }
        if !is_first {
            json.push_str(", ");
        }
        is_first = false;
        json.push_str(&quoted(&key(cursor, dialect)?));
        json.push_str(": ");
        cursor.space();
        cursor.literal(":")?;
        within(cursor, dialect, json, depth + 1)?;
        comma(cursor, "}")?;
    }
}

/// A comma, or `close` in sight.
pub(super) fn comma(cursor: &mut Cursor<'_>, close: &str) -> Taken<()> {
    cursor.space();
    if close.starts_with(cursor.peek()?) {
        return Ok(());
    }
    cursor.literal(",")
}

/// A member's name.
pub(super) fn key(cursor: &mut Cursor<'_>, dialect: Dialect) -> Taken<String> {
    match (cursor.peek()?, dialect) {
        (quote @ ('"' | '\''), Dialect::Python) => python_string(cursor, quote),
        (_, Dialect::Python) => Err(Stop::No),
        ('"', Dialect::Marked { .. }) => cursor.json_string(),
        (_, Dialect::Marked { quote }) => {
            if cursor.optional(|cursor| cursor.literal(quote))?.is_some() {
                return cursor.until(quote).map(str::to_owned);
            }
            let bare = cursor.run(|c| !":,{}[]".contains(c))?;
            Ok(bare.trim().to_owned())
        }
    }
}

/// Words and numbers, as JSON writes them.
fn plain(word: &str) -> Option<String> {
    let known = match word {
        "True" | "true" => "true",
        "False" | "false" => "false",
        "None" | "null" => "null",
        _ => "",
    };
    if !known.is_empty() {
        return Some(known.to_owned());
    }
    if !word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    if serde_json::from_str::<serde_json::Number>(word).is_ok() {
        return Some(word.to_owned());
    }
    let number = serde_json::Number::from_f64(word.parse().ok()?)?;
    Some(number.to_string())
}

/// A string of Python and what it says. Escapes it does not know stay as written, as in Python.
fn python_string(cursor: &mut Cursor<'_>, quote: char) -> Taken<String> {
    let three: String = [quote; 3].iter().collect();
    let is_long = cursor.optional(|cursor| cursor.literal(&three))?.is_some();
    let close = if is_long { three } else { quote.to_string() };
    if !is_long {
        cursor.literal(&close)?;
    }
    let mut said = String::new();
    loop {
        if cursor.optional(|cursor| cursor.literal(&close))?.is_some() {
            return Ok(said);
        }
        let letter = take(cursor)?;
        if letter == '\\' {
            escape(cursor, &mut said)?;
        } else {
            said.push(letter);
        }
    }
}

fn take(cursor: &mut Cursor<'_>) -> Taken<char> {
    let letter = cursor.peek()?;
    cursor.literal(letter.encode_utf8(&mut [0; 4]))?;
    Ok(letter)
}

fn escape(cursor: &mut Cursor<'_>, said: &mut String) -> Taken<()> {
    let letter = take(cursor)?;
    match letter {
        'n' => said.push('\n'),
        't' => said.push('\t'),
        'r' => said.push('\r'),
        '\\' | '\'' | '"' => said.push(letter),
        '\n' => {}
        'x' => said.push(coded(cursor, 2)?),
        'u' => said.push(coded(cursor, 4)?),
        'U' => said.push(coded(cursor, 8)?),
        other => said.extend(['\\', other]),
    }
    Ok(())
}

fn coded(cursor: &mut Cursor<'_>, digits: u32) -> Taken<char> {
    let mut code: u32 = 0;
    for _ in 0..digits {
        let digit = take(cursor)?.to_digit(16).ok_or(Stop::No)?;
        code = (code << 4) | digit;
    }
    Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dialect: Dialect) -> Option<String> {
        let mut json = String::new();
        let mut cursor = Cursor::new(text, true);
        value(&mut cursor, dialect, &mut json).ok()?;
        serde_json::from_str::<serde_json::Value>(&json).expect("what is written is JSON");
        cursor.rest().trim().is_empty().then_some(json)
    }

    #[test]
    fn pythons_literals_become_json() {
        let cases = [
            ("1", Some("1")),
            ("-0.5e3", Some("-0.5e3")),
            (".5", Some("0.5")),
            ("True", Some("true")),
            ("[None, 'a', \"b\"]", Some(r#"[null, "a", "b"]"#)),
            ("(1, 2,)", Some("[1, 2]")),
            ("{'a': {'b': []}}", Some(r#"{"a": {"b": []}}"#)),
            (r"'it\'s \u00e9\x41\q'", Some(r#""it's éA\\q""#)),
            ("'''a\n'b'''", Some(r#""a\n'b""#)),
            ("oops", None),
            ("[1", None),
            ("1__0", None),
        ];
        for (text, json) in cases {
            assert_eq!(read(text, Dialect::Python).as_deref(), json, "{text}");
        }
        assert_eq!(read(&"[".repeat(40), Dialect::Python), None);
    }

    #[test]
    fn gemmas_values_become_json() {
        let dialect = Dialect::Marked { quote: "<|\"|>" };
        let cases = [
            ("<|\"|>a\"b{<|\"|>", Some(r#""a\"b{""#)),
            (
                "{a:1,<|\"|>b c<|\"|>:[true,<|\"|>x<|\"|>]}",
                Some(r#"{"a": 1, "b c": [true, "x"]}"#),
            ),
            ("{unit:celsius}", Some(r#"{"unit": "celsius"}"#)),
            ("<|\"|>open", None),
        ];
        for (text, json) in cases {
            assert_eq!(read(text, dialect).as_deref(), json, "{text}");
        }
    }
}
