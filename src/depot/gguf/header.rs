//! The key-value pairs: all are walked, few are kept.

use std::collections::BTreeMap;
use std::io::Read;

use super::GgufSummary;
use super::fault::{GgufFault, GgufProblem, TensorReason, shown};
use super::reader::Reader;
use super::tensor::Tensors;

const MAGIC: [u8; 4] = *b"GGUF";
/// Real files have tens of keys and at most some ten thousand tensors.
const KEYS_MAX: u64 = 65_536;
const TENSORS_MAX: u64 = 1 << 20;
/// The specification's bound on a key's length.
const KEY_BYTES_MAX: u64 = 65_535;
/// The longest templates in the wild have some 20 KiB.
const TEMPLATE_BYTES_MAX: u64 = 512 * 1024;
/// Texts we keep, templates apart.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// llama.cpp counts tokens in `int32_t`; no vocabulary comes near this.
const VOCABULARY_MAX: u64 = 1 << 24;
/// Nested arrays are in the specification and in no model.
const ARRAY_DEPTH_MAX: u32 = 2;
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 1 << 20;
const TEMPLATE: &str = "tokenizer.chat_template";
const TOKENS: &str = "tokenizer.ggml.tokens";
/// Lists that llama.cpp indexes by token without asking their length.
const PER_TOKEN: [&str; 2] = ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

/// A value, as far as anyone asks for it.
enum Value {
    Whole(u64),
    /// Negative and fractional numbers, which no check wants.
    Number,
    Text(String),
    List {
        count: u64,
    },
}

pub(super) struct Header {
    version: u32,
    pub(super) tensor_count: u64,
    values: BTreeMap<String, Value>,
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
        let mut values = BTreeMap::new();
        for index in 0..key_count {
            let key = reader.text("a key's name", KEY_BYTES_MAX)?;
            if key.is_empty() {
                return Err(reader.fault(GgufProblem::EmptyKey(index)));
            }
            let value = read_value(reader, &key)?;
            if values.contains_key(&key) {
                return Err(reader.fault(GgufProblem::Twice(shown(&key))));
            }
            values.insert(key, value);
        }
        Ok(Self {
            version,
            tensor_count,
            values,
        })
    }

    /// Of tensor data, in bytes: a power of two.
    pub(super) fn alignment<R: Read>(&self, reader: &Reader<R>) -> Result<u64, GgufFault> {
        const KEY: &str = "general.alignment";
        let alignment = match self.values.get(KEY) {
            None => return Ok(ALIGNMENT_DEFAULT),
            Some(Value::Whole(alignment)) => *alignment,
            Some(_) => return Err(wrong_type(reader, KEY, "a whole number")),
        };
        if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
            return Err(reader.fault(GgufProblem::OutOfRange {
                key: KEY.into(),
                value: alignment,
            }));
        }
        Ok(alignment)
    }

    /// What a chat model must have beside being well-formed.
    pub(super) fn check_model<R: Read>(
        &self,
        reader: &Reader<R>,
        tensors: &Tensors,
    ) -> Result<(), GgufFault> {
        if let Some(count) = self.whole("split.count").filter(|count| *count > 1) {
            return Err(reader.fault(GgufProblem::Split(count)));
        }
        let architecture = self.required_text(reader, "general.architecture")?;
        self.required_text(reader, "tokenizer.ggml.model")?;
        for key in ["context_length", "embedding_length", "block_count"] {
            self.required_size(reader, &format!("{architecture}.{key}"))?;
        }
        let vocabulary_count = self.vocabulary(reader)?;
        for key in PER_TOKEN {
            self.check_per_token(reader, key, vocabulary_count)?;
        }
        self.check_special_tokens(reader, vocabulary_count)?;
        let Some(rows) = tensors.token_rows else {
            return Err(reader.fault(GgufProblem::Missing("token_embd.weight".into())));
        };
        if rows != vocabulary_count {
            return Err(reader.fault(GgufProblem::Tensor {
                name: "token_embd.weight".into(),
                reason: TensorReason::Vocabulary {
                    rows,
                    vocabulary_count,
                },
            }));
        }
        Ok(())
    }

    fn vocabulary<R: Read>(&self, reader: &Reader<R>) -> Result<u64, GgufFault> {
        match self.values.get(TOKENS) {
            None => Err(reader.fault(GgufProblem::Missing(TOKENS.into()))),
            Some(Value::List { count }) if (1..=VOCABULARY_MAX).contains(count) => Ok(*count),
            Some(Value::List { count }) => Err(reader.fault(GgufProblem::OutOfRange {
                key: TOKENS.into(),
                value: *count,
            })),
            Some(_) => Err(wrong_type(reader, TOKENS, "a list")),
        }
    }

    fn check_per_token<R: Read>(
        &self,
        reader: &Reader<R>,
        key: &'static str,
        vocabulary_count: u64,
    ) -> Result<(), GgufFault> {
        match self.values.get(key) {
            None => Ok(()),
            Some(Value::List { count }) if *count == vocabulary_count => Ok(()),
            Some(Value::List { count }) => Err(reader.fault(GgufProblem::VocabularyMismatch {
                key,
                count: *count,
                vocabulary_count,
            })),
            Some(_) => Err(wrong_type(reader, key, "a list")),
        }
    }

    /// Ids of special tokens lie inside the vocabulary.
    fn check_special_tokens<R: Read>(
        &self,
        reader: &Reader<R>,
        vocabulary_count: u64,
    ) -> Result<(), GgufFault> {
        for (key, value) in self.values.range("tokenizer.ggml.".to_owned()..) {
            if !key.starts_with("tokenizer.ggml.") {
                break;
            }
            if key.ends_with("_token_id")
                && let Value::Whole(id) = value
                && *id >= vocabulary_count
                // -1 in an unsigned key means that there is no such token.
                && *id != u64::from(u32::MAX)
            {
                return Err(reader.fault(GgufProblem::OutOfRange {
                    key: shown(key),
                    value: *id,
                }));
            }
        }
        Ok(())
    }

    fn required_text<'a, R: Read>(
        &'a self,
        reader: &Reader<R>,
        key: &str,
    ) -> Result<&'a str, GgufFault> {
        match self.values.get(key) {
            Some(Value::Text(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(wrong_type(reader, key, "a text")),
            None => Err(reader.fault(GgufProblem::Missing(key.to_owned()))),
        }
    }

    fn required_size<R: Read>(&self, reader: &Reader<R>, key: &str) -> Result<(), GgufFault> {
        match self.values.get(key) {
            Some(Value::Whole(value)) if (1..=1 << 31).contains(value) => Ok(()),
            Some(Value::Whole(value)) => Err(reader.fault(GgufProblem::OutOfRange {
                key: shown(key),
                value: *value,
            })),
            Some(_) => Err(wrong_type(reader, key, "a whole number")),
            None => Err(reader.fault(GgufProblem::Missing(shown(key)))),
        }
    }

    fn whole(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Whole(value)) => Some(*value),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.values.get(key) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn summary(&self, tensors: &Tensors, bytes: u64) -> GgufSummary {
        let architecture = self.text("general.architecture").unwrap_or_default();
        let context_tokens = self
            .whole(&format!("{architecture}.context_length"))
            .and_then(|tokens| u32::try_from(tokens).ok());
        let vocabulary_count = match self.values.get(TOKENS) {
            Some(Value::List { count }) => *count,
            _ => 0,
        };
        GgufSummary {
            version: self.version,
            name: self.text("general.name"),
            licence: self.text("general.license"),
            context_tokens,
            vocabulary_count,
            tensor_count: self.tensor_count,
            parameter_count: tensors.element_count,
            chat_template: self.text(TEMPLATE),
            bytes,
            architecture,
        }
    }
}

fn wrong_type<R: Read>(reader: &Reader<R>, key: &str, expected: &'static str) -> GgufFault {
    reader.fault(GgufProblem::WrongType {
        key: shown(key),
        expected,
    })
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

fn read_value<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Value, GgufFault> {
    const WHAT: &str = "a value";
    let kind = reader.u32("a value's type")?;
    let fixed = |bytes: u64| Ok(Value::Whole(bytes));
    match kind {
        0 | kind::BOOL => fixed(u64::from(reader.array::<1>(WHAT)?[0])),
        2 => fixed(u64::from(u16::from_le_bytes(reader.array(WHAT)?))),
        4 => fixed(u64::from(reader.u32(WHAT)?)),
        10 => fixed(reader.u64(WHAT)?),
        1 => Ok(signed(i64::from(i8::from_le_bytes(reader.array(WHAT)?)))),
        3 => Ok(signed(i64::from(i16::from_le_bytes(reader.array(WHAT)?)))),
        5 => Ok(signed(i64::from(i32::from_le_bytes(reader.array(WHAT)?)))),
        11 => Ok(signed(i64::from_le_bytes(reader.array(WHAT)?))),
        6 => reader.skip(WHAT, 4).map(|()| Value::Number),
        12 => reader.skip(WHAT, 8).map(|()| Value::Number),
        kind::TEXT => read_text(reader, key),
        kind::LIST => read_list(reader, key, 1),
        kind => Err(reader.fault(GgufProblem::ValueType {
            key: shown(key),
            kind,
        })),
    }
}

fn signed(value: i64) -> Value {
    u64::try_from(value).map_or(Value::Number, Value::Whole)
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

fn read_list<R: Read>(reader: &mut Reader<R>, key: &str, depth: u32) -> Result<Value, GgufFault> {
    let kind = reader.u32("a list's type")?;
    if let Some(width) = width(kind) {
        let count = reader.count("list entries", width, u64::MAX)?;
        reader.skip("list entries", count.saturating_mul(width))?;
        return Ok(Value::List { count });
    }
    match kind {
        kind::TEXT => {
            let count = reader.count("list entries", 8, u64::MAX)?;
            for _ in 0..count {
                reader.skip_text("a list's text")?;
            }
            Ok(Value::List { count })
        }
        kind::LIST if depth < ARRAY_DEPTH_MAX => {
            let count = reader.count("list entries", 12, u64::MAX)?;
            for _ in 0..count {
                read_list(reader, key, depth + 1)?;
            }
            Ok(Value::List { count })
        }
        kind => Err(reader.fault(GgufProblem::ValueType {
            key: shown(key),
            kind,
        })),
    }
}
