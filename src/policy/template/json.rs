//! `tojson` as Hugging Face's tokenizers define it: Python's `json.dumps` without ASCII escapes,
//! with none of the HTML escapes that Jinja's own filter adds.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::meter;

pub(super) fn tojson(value: Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match options.get::<Option<usize>>("indent")? {
        Some(indent) => Some(indent),
        None => indent,
    };
    let (item, key) = match options.get::<Option<Vec<String>>>("separators")? {
        Some(pair) if pair.len() == 2 => (pair[0].clone(), pair[1].clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "separators must be a pair",
            ));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let writer = Writer {
        text: String::new(),
        charged: 0,
        indent: indent.map(|width| width.min(16)),
        item,
        key,
        escapes_non_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sorts_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    writer.finish(&value)
}

struct Writer {
    text: String,
    charged: usize,
    indent: Option<usize>,
    item: String,
    key: String,
    escapes_non_ascii: bool,
    sorts_keys: bool,
}

impl Writer {
    fn finish(mut self, value: &Value) -> Result<Value, Error> {
        self.write(value, 0)?;
        meter::charge(self.text.len() - self.charged)?;
        Ok(Value::from(self.text))
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > meter::DEPTH_MAX {
            return Err(meter::Breach::Bound("depth").into());
        }
        // Counted as it grows: a value may hold another many times.
        meter::charge(self.text.len() - self.charged)?;
        self.charged = self.text.len();
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self
                .text
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            _ => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    "the value has no form in JSON",
                ));
            }
        }
        Ok(())
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let mut is_empty = true;
        for item in value.try_iter()? {
            self.separate(&mut is_empty, depth);
            self.write(&item, depth + 1)?;
        }
        self.close(is_empty, depth, ']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('{');
        let mut is_empty = true;
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sorts_keys {
            keys.sort();
        }
        for key in keys {
            self.separate(&mut is_empty, depth);
            match key.as_str() {
                Some(name) => self.string(name),
                None => self.string(&key.to_string()),
            }
            let separator = self.key.clone();
            self.text.push_str(&separator);
            self.write(&value.get_item(&key)?, depth + 1)?;
        }
        self.close(is_empty, depth, '}');
        Ok(())
    }

    fn separate(&mut self, is_empty: &mut bool, depth: usize) {
        if !*is_empty {
            let separator = self.item.clone();
            self.text.push_str(&separator);
        }
        *is_empty = false;
        self.line(depth + 1);
    }

    fn close(&mut self, is_empty: bool, depth: usize, bracket: char) {
        if !is_empty {
            self.line(depth);
        }
        self.text.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(width) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                control if control < ' ' => self.escape(control),
                other if self.escapes_non_ascii && !other.is_ascii() => self.escape(other),
                other => self.text.push(other),
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, letter: char) {
        for unit in letter.encode_utf16(&mut [0; 2]) {
            self.text.push_str(&format!("\\u{unit:04x}"));
        }
    }
}
