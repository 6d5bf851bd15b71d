//! What may be wrong with a model file.

use std::io;

/// One fault, and the byte it was seen at.
#[derive(Debug, thiserror::Error)]
#[error("not a usable GGUF file: {problem} (at byte {at})")]
pub struct GgufFault {
    pub at: u64,
    #[source]
    pub problem: GgufProblem,
}

impl GgufFault {
    pub(super) fn io(error: io::Error) -> Self {
        Self {
            at: 0,
            problem: GgufProblem::Io(error),
        }
    }
}

/// Names from the file are cut to a printable stretch before they get here.
#[derive(Debug, thiserror::Error)]
pub enum GgufProblem {
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    #[error("it does not begin with `GGUF`; it is some other kind of file")]
    Magic,
    #[error("its version is {0}; versions 2 and 3 are understood")]
    Version(u32),
    #[error("it ends too early: {needed} more bytes are needed for {what}; pull it again")]
    Truncated { what: &'static str, needed: u64 },
    #[error("it claims {count} {what}, more than the {count_max} there can be")]
    TooMany {
        what: &'static str,
        count: u64,
        count_max: u64,
    },
    #[error("its header is longer than the {bytes_max} bytes that one can have")]
    HeaderTooLong { bytes_max: u64 },
    #[error("text is not UTF-8 in {0}")]
    NotUtf8(&'static str),
    #[error("key number {0} has no name")]
    EmptyKey(u64),
    #[error("`{0}` is there twice")]
    Twice(String),
    #[error("`{key}` has value type {kind}, which does not exist")]
    ValueType { key: String, kind: u32 },
    #[error("`{key}` should be {expected}")]
    WrongType { key: String, expected: &'static str },
    #[error("`{0}` is missing")]
    Missing(String),
    #[error("`{key}` is {value}, which is out of range")]
    OutOfRange { key: String, value: u64 },
    #[error("the chat template has {bytes} bytes; the most is {bytes_max}")]
    TemplateTooLarge { bytes: u64, bytes_max: u64 },
    #[error("`{key}` has {count} entries for a vocabulary of {vocabulary_count}")]
    VocabularyMismatch {
        key: &'static str,
        count: u64,
        vocabulary_count: u64,
    },
    #[error("its tokens {first} and {second} are the same text")]
    SameToken { first: u64, second: u64 },
    #[error("its vocabulary has no token for the byte {0:#04x}, so some texts cannot be read")]
    ByteWithoutToken(u8),
    #[error("its tokenizer `{0}` reads no text")]
    NoTokenizer(String),
    #[error("its tokenizer `{0}` is none for chats")]
    Tokenizer(String),
    /// llama.cpp would end its process over it, or divide by zero.
    #[error("`{key}` {reason}")]
    Hyperparameter { key: String, reason: &'static str },
    #[error("it is one of {0} parts; join them with llama-gguf-split --merge first")]
    Split(u64),
    #[error("it is no projector but a model of the kind `{0}`")]
    NoProjector(String),
    #[error("its kind of projector, `{0}`, is not supported")]
    ProjectorKind(String),
    #[error("its projector takes no images")]
    NoEyes,
    #[error("tensor `{name}` {reason}")]
    Tensor { name: String, reason: TensorReason },
    #[error("it is an adapter, no model; name it under `local.adapters`")]
    IsAdapter,
    #[error("it is no LoRA adapter: `{key}` is not `{expected}`")]
    NotAdapter {
        key: &'static str,
        expected: &'static str,
    },
    #[error("it is an adapter for `{adapter}` models, and this one is `{model}`")]
    OtherArchitecture { adapter: String, model: String },
    #[error("its change of `{name}` {reason}")]
    Adapter { name: String, reason: AdapterReason },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorReason {
    #[error("has {0} dimensions; from 1 to 4 are allowed")]
    Dimensions(u32),
    #[error("has an empty dimension or more elements than fit a machine")]
    Shape,
    #[error("has element type {0}, which this build does not know")]
    Type(u32),
    #[error("has element type {0}, with which such a tensor cannot be computed")]
    Role(u32),
    #[error("has rows of {row} elements, no multiple of its block of {block}")]
    Row { row: u64, block: u64 },
    #[error("lies at {offset} and should lie at {expected}")]
    Offset { offset: u64, expected: u64 },
    #[error("reaches {missing} bytes past the end of the file; pull it again")]
    PastEnd { missing: u64 },
    #[error("has rows for {rows} tokens and the vocabulary has {vocabulary_count}")]
    Vocabulary { rows: u64, vocabulary_count: u64 },
    #[error("gives {rows} numbers for {labels} labels")]
    Labels { rows: u64, labels: u64 },
}

/// Why a part of an adapter cannot be used. llama.cpp refuses some of these itself, and ends its
/// process over the others once it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterReason {
    #[error("is neither a `.lora_a` nor a `.lora_b`")]
    Suffix,
    #[error("lacks its other half")]
    Half,
    #[error("has element type {0}; f32, f16, bf16 and q8_0 are taken")]
    Type(u32),
    #[error("is of a weight that the model does not have")]
    NoWeight,
    #[error("does not fit the model's weight of {0}x{1}x{2}x{3}")]
    Shape(u64, u64, u64, u64),
    #[error("has rank {0}; from 1 to {1} are taken")]
    Rank(u64, u64),
    #[error("is of a weight in nvfp4, which takes no adapters")]
    Nvfp4,
    #[error("is of the token embedding, which this model also uses for its output")]
    Tied,
}

/// A name from a file, fit for a message.
pub(super) fn shown(name: &str) -> String {
    const SHOWN_MAX: usize = 80;
    name.chars()
        .take(SHOWN_MAX)
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}
