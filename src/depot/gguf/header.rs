//! The key-value pairs: all are walked, few are kept.

use std::collections::BTreeMap;
use std::io::Read;

use super::fault::{GgufFault, GgufProblem, shown};
use super::reader::Reader;
use super::tokens::{self, TokenList};

const MAGIC: [u8; 4] = *b"GGUF";
/// Real files have tens of keys and some thousand tensors.
const KEYS_MAX: u64 = 65_536;
const TENSORS_MAX: u64 = 65_536;
/// The specification's bound on a key's length.
const KEY_BYTES_MAX: u64 = 65_535;
/// The longest templates in the wild have some 20 KiB.
const TEMPLATE_BYTES_MAX: u64 = 512 * 1024;
/// Texts we keep, templates apart.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// All keys and texts that are kept of one file.
const KEPT_BYTES_MAX: u64 = 16 << 20;
/// Nested arrays are in the specification, in no model, and llama.cpp refuses them.
const ARRAY_DEPTH_MAX: u32 = 2;
/// Lists of hyperparameters have an entry per layer, of which there are at most 512. No entries of
/// longer ones are kept.
const LIST_KEPT_MAX: u64 = 512;
/// Also the least: the CPU back end asserts that the data it maps lies so.
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 20;
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// A value, as far as anyone asks for it.
#[derive(Debug)]
pub(super) enum Value {
    Whole(u64),
    /// A fractional number of 32 bits, which llama.cpp tells from one of 64.
    Single(f32),
    /// Negative and fractional numbers.
    Real(f64),
    Flag(bool),
    Text(String),
    List(List),
}

impl Value {
    /// A negative or fractional number.
    pub(super) fn real(&self) -> Option<f64> {
        match self {
            Value::Single(value) => Some(f64::from(*value)),
            Value::Real(value) => Some(*value),
            Value::Whole(_) | Value::Flag(_) | Value::Text(_) | Value::List(_) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct List {
    pub count: u64,
    /// All entries of a short list of whole numbers.
    pub wholes: Vec<u64>,
}

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) tensor_count: u64,
    values: BTreeMap<String, Value>,
    pub(super) tokens: Option<TokenList>,
}

impl Header {
    pub(super) fn read<R: Read>(reader: &mut Reader<R>) -> Result<Self, GgufFault> {
        if reader.left() < 4 || reader.array::<4>("the magic")? != MAGIC {
            return Err(reader.fault(GgufProblem::Magic));
        }
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(reader.fault(GgufProblem::Version(version)));
        }
        // Name length, dimension count, one dimension, type, offset.
        let tensor_count = reader.count("tensors", 8 + 4 + 8 + 4 + 8, TENSORS_MAX)?;
        // Key length, one letter, type, one byte.
        let key_count = reader.count("keys", 8 + 1 + 4 + 1, KEYS_MAX)?;
        let mut header = Self {
            version,
            tensor_count,
            values: BTreeMap::new(),
            tokens: None,
        };
        let mut kept_bytes = 0;
        for index in 0..key_count {
            let key = reader.text("a key's name", KEY_BYTES_MAX)?;
            if key.is_empty() {
                return Err(reader.fault(GgufProblem::EmptyKey(index)));
            }
            let value = read_value(reader, &key, &mut header.tokens)?;
            if header.values.contains_key(&key) {
                return Err(reader.fault(GgufProblem::Twice(shown(&key))));
            }
            kept_bytes += key.len() as u64;
            if let Value::Text(text) = &value {
                kept_bytes += text.len() as u64;
            }
            if kept_bytes > KEPT_BYTES_MAX {
                return Err(reader.fault(GgufProblem::TooMany {
                    what: "bytes of keys and texts",
                    count: kept_bytes,
                    count_max: KEPT_BYTES_MAX,
                }));
            }
            header.values.insert(key, value);
        }
        Ok(header)
    }

    /// Of tensor data, in bytes: a power of two.
    pub(super) fn alignment<R: Read>(&self, reader: &Reader<R>) -> Result<u64, GgufFault> {
        const KEY: &str = "general.alignment";
        let alignment = match self.values.get(KEY) {
            None => return Ok(ALIGNMENT_DEFAULT),
            Some(Value::Whole(alignment)) => *alignment,
            Some(_) => return Err(reader.fault(wrong_type(KEY, "a whole number"))),
        };
        if !alignment.is_power_of_two() || !(ALIGNMENT_DEFAULT..=ALIGNMENT_MAX).contains(&alignment)
        {
            return Err(reader.fault(GgufProblem::OutOfRange {
                key: KEY.into(),
                value: alignment,
            }));
        }
        Ok(alignment)
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All values whose keys begin with `prefix`.
    pub(super) fn values<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.values
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.as_str(), value))
    }

    pub(super) fn whole(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Whole(value)) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn required_text(&self, key: &str) -> Result<&str, GgufProblem> {
        match self.values.get(key) {
            Some(Value::Text(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(wrong_type(key, "a text")),
            None => Err(GgufProblem::Missing(key.to_owned())),
        }
    }
}

pub(super) fn wrong_type(key: &str, expected: &'static str) -> GgufProblem {
    GgufProblem::WrongType {
        key: shown(key),
        expected,
    }
}

/// Value types of the format, by their numbers.
mod kind {
    pub const BOOL: u32 = 7;
    pub const TEXT: u32 = 8;
    pub const LIST: u32 = 9;
}

/// Bytes of a value of fixed size.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | kind::BOOL => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn read_value<R: Read>(
    reader: &mut Reader<R>,
    key: &str,
    tokens: &mut Option<TokenList>,
) -> Result<Value, GgufFault> {
    match reader.u32("a value's type")? {
        kind::TEXT => read_text(reader, key),
        kind::LIST => read_list(reader, key, 1, tokens).map(Value::List),
        kind => read_number(reader, kind)?.ok_or_else(|| {
            reader.fault(GgufProblem::ValueType {
                key: shown(key),
                kind,
            })
        }),
    }
}

/// A value of fixed size; `None` for a type that has none.
fn read_number<R: Read>(reader: &mut Reader<R>, kind: u32) -> Result<Option<Value>, GgufFault> {
    const WHAT: &str = "a value";
    Ok(Some(match kind {
        kind::BOOL => Value::Flag(reader.array::<1>(WHAT)?[0] != 0),
        0 => Value::Whole(u64::from(reader.array::<1>(WHAT)?[0])),
        2 => Value::Whole(u64::from(u16::from_le_bytes(reader.array(WHAT)?))),
        4 => Value::Whole(u64::from(reader.u32(WHAT)?)),
        10 => Value::Whole(reader.u64(WHAT)?),
        1 => signed(i64::from(i8::from_le_bytes(reader.array(WHAT)?))),
        3 => signed(i64::from(i16::from_le_bytes(reader.array(WHAT)?))),
        5 => signed(i64::from(i32::from_le_bytes(reader.array(WHAT)?))),
        11 => signed(i64::from_le_bytes(reader.array(WHAT)?)),
        6 => Value::Single(f32::from_le_bytes(reader.array(WHAT)?)),
        12 => Value::Real(f64::from_le_bytes(reader.array(WHAT)?)),
        _ => return Ok(None),
    }))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "negative numbers are only ever refused"
)]
fn signed(value: i64) -> Value {
    u64::try_from(value).map_or(Value::Real(value as f64), Value::Whole)
}

fn read_text<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Value, GgufFault> {
    // Further templates stand beside the first as `tokenizer.chat_template.NAME`.
    if !key.starts_with(TEMPLATE) {
        return reader.text("a text", TEXT_BYTES_MAX).map(Value::Text);
    }
    let text = reader.text("a chat template", TEXT_BYTES_MAX)?;
    let bytes = text.len() as u64;
    if bytes > TEMPLATE_BYTES_MAX {
        return Err(reader.fault(GgufProblem::TemplateTooLarge {
            bytes,
            bytes_max: TEMPLATE_BYTES_MAX,
        }));
    }
    Ok(Value::Text(text))
}

fn read_list<R: Read>(
    reader: &mut Reader<R>,
    key: &str,
    depth: u32,
    tokens: &mut Option<TokenList>,
) -> Result<List, GgufFault> {
    const WHAT: &str = "list entries";
    let kind = reader.u32("a list's type")?;
    let mut wholes = Vec::new();
    if let Some(width) = width(kind) {
        let count = reader.count(WHAT, width, u64::MAX)?;
        if count > LIST_KEPT_MAX {
            reader.skip(WHAT, count.saturating_mul(width))?;
            return Ok(List { count, wholes });
        }
        for _ in 0..count {
            match read_number(reader, kind)? {
                Some(Value::Whole(whole)) => wholes.push(whole),
                Some(Value::Flag(flag)) => wholes.push(flag.into()),
                _ => {}
            }
        }
        return Ok(List { count, wholes });
    }
    match kind {
        kind::TEXT if key == TOKENS && depth == 1 => {
            let list = tokens::read(reader)?;
            let count = list.count;
            *tokens = Some(list);
            Ok(List { count, wholes })
        }
        kind::TEXT => {
            let count = reader.count(WHAT, 8, u64::MAX)?;
            for _ in 0..count {
                reader.skip_text("a list's text")?;
            }
            Ok(List { count, wholes })
        }
        kind::LIST if depth < ARRAY_DEPTH_MAX => {
            let count = reader.count(WHAT, 12, u64::MAX)?;
            for _ in 0..count {
                read_list(reader, key, depth + 1, tokens)?;
            }
            Ok(List { count, wholes })
        }
        kind => Err(reader.fault(GgufProblem::ValueType {
            key: shown(key),
            kind,
        })),
    }
}
