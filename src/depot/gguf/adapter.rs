//! LoRA adapters: pairs of small matrices whose product is added to a model's weights.
//!
//! llama.cpp compares an adapter with its model in two axes of four and checks no types, and ends
//! the process on the rest: on a key of another type when it reads it, on a third axis or a type
//! without a kernel when it first computes (`llama-adapter.cpp`, `build_lora_mm` and
//! `build_inp_embd` in `llama-graph.cpp`, of the pinned llama-cpp-sys-2). So an adapter is checked
//! here against the model's own table.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::Contents;
use super::fault::{AdapterReason, GgufFault, GgufProblem, shown};
use super::header::{Header, Value, wrong_type};
use super::tensor::{Tensor, Tensors};

const TYPE: &str = "general.type";
const KIND: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
/// Adapters that begin to hold in mid-prompt, after certain tokens.
const INVOCATION: &str = "adapter.alora.invocation_tokens";
const EMBEDDING: &str = "token_embd.weight";
/// What llama.cpp's converter writes: f32, f16, q8_0, bf16.
const KINDS: [u32; 4] = [0, 1, 8, 30];
const NVFP4: u32 = 40;
/// Real ones are from 4 to 512; llama.cpp reserves memory by it.
const RANK_MAX: u64 = 4_096;

/// What an adapter file says of itself, once it is known to fit its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// Weights of the model that it changes.
    pub weight_count: usize,
    pub rank_max: u64,
    pub bytes: u64,
}

/// The shapes of a model's weights: what its adapters must fit.
#[derive(Debug)]
pub struct Weights {
    architecture: String,
    shapes: BTreeMap<String, ([u64; 4], u32)>,
}

/// Both halves of one change, by shape.
pub(super) struct Part<'a> {
    name: &'a str,
    a: [u64; 4],
    b: [u64; 4],
}

impl Weights {
    /// Reads the table of the model at `path`, which must be sound: see [`super::inspect`].
    ///
    /// # Errors
    /// As there, as far as the file's form goes.
    pub fn read(path: &Path) -> Result<Self, GgufFault> {
        Self::of(Contents::open(path)?)
    }

    /// Reads the table of a model of `bytes` bytes from `source`.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn read_from(source: impl Read, bytes: u64) -> Result<Self, GgufFault> {
        Self::of(Contents::read(source, bytes)?)
    }

    fn of(model: Contents) -> Result<Self, GgufFault> {
        let architecture = model.judge(|header, _| {
            let name = header.required_text("general.architecture")?;
            Ok(name.to_owned())
        })?;
        let tensors = model.tensors.list.into_iter();
        Ok(Self {
            architecture,
            shapes: tensors
                .map(|tensor| (tensor.name, (tensor.shape, tensor.kind)))
                .collect(),
        })
    }

    /// Checks that the file at `path` is an adapter that llama.cpp can compute this model with.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn inspect(&self, path: &Path) -> Result<AdapterSummary, GgufFault> {
        self.judge(&Contents::open(path)?)
    }

    /// Checks an adapter of `bytes` bytes that is read from `source`.
    ///
    /// # Errors
    /// As [`Weights::inspect`].
    pub fn inspect_from(&self, source: impl Read, bytes: u64) -> Result<AdapterSummary, GgufFault> {
        self.judge(&Contents::read(source, bytes)?)
    }

    fn judge(&self, file: &Contents) -> Result<AdapterSummary, GgufFault> {
        file.judge(|header, tensors| self.fit(header, tensors, file.bytes))
    }

    fn fit(
        &self,
        header: &Header,
        tensors: &Tensors,
        bytes: u64,
    ) -> Result<AdapterSummary, GgufProblem> {
        let parts = parts(header, tensors)?;
        let architecture = header.required_text("general.architecture")?;
        if architecture != self.architecture {
            return Err(GgufProblem::OtherArchitecture {
                adapter: shown(architecture),
                model: shown(&self.architecture),
            });
        }
        let mut rank_max = 0;
        for part in &parts {
            let rank = self.rank(part).map_err(|reason| part.refused(reason))?;
            rank_max = rank_max.max(rank);
        }
        Ok(AdapterSummary {
            weight_count: parts.len(),
            rank_max,
            bytes,
        })
    }

    /// The rank of a part that fits its weight in all axes.
    fn rank(&self, part: &Part<'_>) -> Result<u64, AdapterReason> {
        let Some((weight, kind)) = self.shapes.get(part.name) else {
            return Err(AdapterReason::NoWeight);
        };
        if *kind == NVFP4 {
            return Err(AdapterReason::Nvfp4);
        }
        let [width, height, deep, deeper] = *weight;
        let rank = part.b[0];
        let (a, b) = if part.name.ends_with(EMBEDDING) {
            // Looked up by rows, so the halves lie the other way. An output that is the same weight
            // would be computed with them as they are.
            if part.name != EMBEDDING || !self.shapes.contains_key("output.weight") {
                return Err(AdapterReason::Tied);
            }
            ([rank, height, deep, deeper], [rank, width, deep, deeper])
        } else {
            ([width, rank, deep, deeper], [rank, height, deep, deeper])
        };
        if part.a != a || part.b != b {
            return Err(AdapterReason::Shape(width, height, deep, deeper));
        }
        if !(1..=RANK_MAX).contains(&rank) {
            return Err(AdapterReason::Rank(rank, RANK_MAX));
        }
        Ok(rank)
    }
}

impl Part<'_> {
    fn refused(&self, reason: AdapterReason) -> GgufProblem {
        refused(self.name, reason)
    }
}

fn refused(name: &str, reason: AdapterReason) -> GgufProblem {
    GgufProblem::Adapter {
        name: shown(name),
        reason,
    }
}

/// True for a file that says it is an adapter, of whichever kind.
pub(super) fn is_adapter(header: &Header) -> bool {
    header.text(TYPE) == Some("adapter")
}

/// Checks what can be without the model, and pairs the halves.
///
/// # Errors
/// The first thing wrong with it.
pub(super) fn parts<'a>(
    header: &Header,
    tensors: &'a Tensors,
) -> Result<Vec<Part<'a>>, GgufProblem> {
    for (key, expected) in [(TYPE, "adapter"), (KIND, "lora")] {
        if header.text(key) != Some(expected) {
            return Err(GgufProblem::NotAdapter { key, expected });
        }
    }
    header.required_text("general.architecture")?;
    match header.value(ALPHA) {
        None => {}
        Some(Value::Single(alpha)) if alpha.is_finite() => {}
        Some(_) => return Err(wrong_type(ALPHA, "a finite number of 32 bits")),
    }
    if header.value(INVOCATION).is_some() {
        return Err(wrong_type(
            INVOCATION,
            "left out: adapters that begin in mid-prompt are not supported",
        ));
    }
    let mut halves: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    for tensor in &tensors.list {
        let name = tensor.name.as_str();
        // llama.cpp passes these over.
        if name.ends_with("_norm.weight") {
            continue;
        }
        let (stem, half) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(stem), _) => (stem, 0),
            (None, Some(stem)) => (stem, 1),
            (None, None) => return Err(refused(name, AdapterReason::Suffix)),
        };
        // It takes the suffixes out of the middle of a name too.
        if stem.contains(".lora_a") || stem.contains(".lora_b") {
            return Err(refused(name, AdapterReason::Suffix));
        }
        if !KINDS.contains(&tensor.kind) {
            return Err(refused(name, AdapterReason::Type(tensor.kind)));
        }
        halves.entry(stem).or_default()[half] = Some(tensor);
    }
    if halves.is_empty() {
        return Err(GgufProblem::Missing("any `.lora_a` and `.lora_b`".into()));
    }
    let pairs = halves.into_iter().map(|(name, halves)| match halves {
        [Some(a), Some(b)] => Ok(Part {
            name,
            a: a.shape,
            b: b.shape,
        }),
        _ => Err(refused(name, AdapterReason::Half)),
    });
    pairs.collect()
}
