//! Looks a GGUF file over before llama.cpp gets it.
//!
//! llama.cpp ends the process on some malformed files, and reads past buffers on others (a token
//! score list shorter than the vocabulary). So everything that can be checked without computing is
//! checked here, in safe Rust, reading the header only: magic, version, counts, types, lengths,
//! shapes, offsets against the file's size, the keys a model needs, and the hyperparameters on
//! which llama.cpp ends the process. Nothing in the file makes this room allocate more than the
//! file is large, nor more than some bounds of its own, nor read on past where a header can end.
//!
//! Format: ggml's `docs/gguf.md`; sizes and further rules from `gguf.cpp` and `ggml-common.h` of
//! the pinned llama-cpp-sys-2.

mod adapter;
mod fault;
mod header;
mod model;
mod projector;
mod reader;
mod shape;
mod tensor;
mod tokens;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

pub use adapter::{AdapterSummary, Weights};
pub use fault::{AdapterReason, GgufFault, GgufProblem, TensorReason};
use header::Header;
use reader::Reader;
pub use shape::{Attention, GgufShape};
use tensor::Tensors;

/// What a model file says of itself, once it is known to be whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufSummary {
    pub version: u32,
    /// `general.architecture`: `llama`, `qwen2`, …
    pub architecture: String,
    /// `general.name`.
    pub name: Option<String>,
    /// `general.license`.
    pub licence: Option<String>,
    /// The context the model was trained for, in tokens.
    pub context_tokens: Option<u32>,
    pub vocabulary_count: u64,
    pub tensor_count: u64,
    /// Weights, by count.
    pub parameter_count: u64,
    /// `general.file_type`: llama.cpp's number for how most weights are packed.
    pub file_type: Option<u64>,
    /// What a text becomes; `None` where the file says nothing, as a chat model does.
    pub pooling: Option<Pooling>,
    /// `tokenizer.chat_template`, as written.
    pub chat_template: Option<String>,
    pub bytes: u64,
    /// What decides how much memory it takes.
    pub shape: GgufShape,
}

/// `pooling_type`, as far as it matters what a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Mean, first or last: one vector that can be compared.
    Vector,
    /// A score of two texts.
    Rank,
}

/// Checks the file at `path`.
///
/// # Errors
/// The first thing wrong with it, and where.
pub fn inspect(path: &Path) -> Result<GgufSummary, GgufFault> {
    let file = Contents::open(path)?;
    file.judge(model::check)?;
    Ok(model::summary(&file.header, &file.tensors, file.bytes))
}

/// What a projector file says of itself, once it is known to be whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectorSummary {
    /// `mlp`, `pixtral`, …
    pub kind: String,
    pub weight_bytes: u64,
    /// What one look takes, about.
    pub compute_bytes: u64,
    /// The tokens of an image look at those behind them, and are computed at one go.
    pub looks_ahead: bool,
}

/// Checks the projector file at `path`.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_projector(path: &Path) -> Result<ProjectorSummary, GgufFault> {
    let file = File::open(path).map_err(GgufFault::io)?;
    let bytes = file.metadata().map_err(GgufFault::io)?.len();
    inspect_projector_from(BufReader::with_capacity(1 << 16, file), bytes)
}

/// Checks a projector of `bytes` bytes that is read from `source`.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_projector_from(
    source: impl Read,
    bytes: u64,
) -> Result<ProjectorSummary, GgufFault> {
    let mut reader = Reader::new(source, bytes);
    let header = Header::read(&mut reader)?;
    let tensors = tensor::read_all(&mut reader, &header)?;
    projector::check(&header, &tensors).map_err(|problem| reader.fault(problem))
}

/// Checks a file of `bytes` bytes that is read from `source`.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_from(source: impl Read, bytes: u64) -> Result<GgufSummary, GgufFault> {
    let file = Contents::read(source, bytes)?;
    file.judge(model::check)?;
    Ok(model::summary(&file.header, &file.tensors, bytes))
}

/// Checks a file at `path` that may also be an adapter, whatever its model.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_any(path: &Path) -> Result<GgufSummary, GgufFault> {
    whichever(&Contents::open(path)?)
}

/// Checks such a file of `bytes` bytes that is read from `source`.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_any_from(source: impl Read, bytes: u64) -> Result<GgufSummary, GgufFault> {
    whichever(&Contents::read(source, bytes)?)
}

fn whichever(file: &Contents) -> Result<GgufSummary, GgufFault> {
    if adapter::is_adapter(&file.header) {
        file.judge(|header, tensors| adapter::parts(header, tensors).map(drop))?;
    } else {
        file.judge(model::check)?;
    }
    Ok(model::summary(&file.header, &file.tensors, file.bytes))
}

/// A well-formed file: its keys, and its tensors' table.
struct Contents {
    header: Header,
    tensors: Tensors,
    bytes: u64,
    /// Where the table ends.
    end: u64,
}

impl Contents {
    fn open(path: &Path) -> Result<Self, GgufFault> {
        let file = File::open(path).map_err(GgufFault::io)?;
        let bytes = file.metadata().map_err(GgufFault::io)?.len();
        Self::read(BufReader::with_capacity(1 << 16, file), bytes)
    }

    fn read(source: impl Read, bytes: u64) -> Result<Self, GgufFault> {
        let mut reader = Reader::new(source, bytes);
        let header = Header::read(&mut reader)?;
        let tensors = tensor::read_all(&mut reader, &header)?;
        Ok(Self {
            header,
            tensors,
            bytes,
            end: reader.at(),
        })
    }

    /// What `check` finds, with a place.
    fn judge<T>(
        &self,
        check: impl FnOnce(&Header, &Tensors) -> Result<T, GgufProblem>,
    ) -> Result<T, GgufFault> {
        check(&self.header, &self.tensors).map_err(|problem| GgufFault {
            at: self.end,
            problem,
        })
    }
}

#[cfg(test)]
pub(crate) mod builder;
#[cfg(test)]
mod tests;
