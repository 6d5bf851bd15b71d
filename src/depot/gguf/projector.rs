//! What a projector file must have: the eyes of a model that reads images (`general.architecture` is
//! `clip`; keys and what is computed of them in `clip.cpp` of the pinned llama-cpp-sys-2).
//!
//! As for models, what ends a process or cannot be meant is refused here, and the rest is left to
//! llama.cpp's own words. It goes through tensors by their names and throws where one is missing.

use super::ProjectorSummary;
use super::fault::{GgufProblem, shown};
use super::header::{Header, Value, wrong_type};
use super::tensor::Tensors;

const ARCHITECTURE: &str = "general.architecture";
const OF_PROJECTORS: &str = "clip";
const HAS_VISION: &str = "clip.has_vision_encoder";
/// The second is for files with eyes and ears.
const KINDS: [&str; 2] = ["clip.projector_type", "clip.vision.projector_type"];
/// `mtmd_decode_use_non_causal` in `mtmd.cpp`.
const LOOKING_AHEAD: [&str; 3] = ["gemma3", "gemma4uv", "gemma4v"];
/// What this kind makes of an image hangs on where it stands in the prompt.
const REFUSED: &str = "deepseek4v";
const SIDE_MAX: u64 = 1 << 14;
const LAYERS_MAX: u64 = 512;
const WIDTH_MAX: u64 = 1 << 20;
const HEADS_MAX: u64 = 1 << 12;
/// By which sides are divided, where it is said.
const MERGES: [&str; 2] = ["spatial_merge_size", "projector.scale_factor"];
const MERGE_MAX: u64 = 64;
/// Rows of a layer that are as long as the embedding.
const EMBEDDING_ROWS: u64 = 8;
const NUMBER_BYTES: u64 = 4;

/// # Errors
/// The first thing that is missing or cannot be.
pub(super) fn check(header: &Header, tensors: &Tensors) -> Result<ProjectorSummary, GgufProblem> {
    let architecture = header.required_text(ARCHITECTURE)?;
    if architecture != OF_PROJECTORS {
        return Err(GgufProblem::NoProjector(shown(architecture)));
    }
    match header.value(HAS_VISION) {
        Some(Value::Flag(true)) => {}
        Some(Value::Flag(false)) | None => return Err(GgufProblem::NoEyes),
        Some(_) => return Err(wrong_type(HAS_VISION, "true or false")),
    }
    let kind = KINDS.into_iter().find_map(|key| header.text(key));
    let kind = kind.ok_or_else(|| GgufProblem::Missing(KINDS[0].into()))?;
    if kind == REFUSED {
        return Err(GgufProblem::ProjectorKind(shown(kind)));
    }
    let side = required(header, "image_size", SIDE_MAX)?;
    let patch = required(header, "patch_size", side)?;
    let embedding = required(header, "embedding_length", WIDTH_MAX)?;
    let heads = required(header, "attention.head_count", HEADS_MAX)?;
    required(header, "block_count", LAYERS_MAX)?;
    let has_head_length = header.value(&key("attention.head_dim")).is_some();
    if !has_head_length && !embedding.is_multiple_of(heads) {
        return Err(GgufProblem::Hyperparameter {
            key: key("attention.head_count"),
            reason: "does not divide the embedding's length",
        });
    }
    for name in MERGES {
        match header.whole(&key(name)) {
            Some(merge) if !(1..=MERGE_MAX).contains(&merge) => {
                return Err(GgufProblem::OutOfRange {
                    key: key(name),
                    value: merge,
                });
            }
            Some(_) | None => {}
        }
    }
    let epsilon = header.value(&key("attention.layer_norm_epsilon"));
    if let Some(epsilon) = epsilon.and_then(Value::real)
        && !(0.0..1.0).contains(&epsilon)
    {
        return Err(GgufProblem::Hyperparameter {
            key: key("attention.layer_norm_epsilon"),
            reason: "is not between 0 and 1",
        });
    }
    // Some look at more than one square at a time, one after the other.
    let patches = (side / patch).saturating_mul(side / patch);
    let scores = patches.saturating_mul(heads);
    let row = embedding.saturating_mul(EMBEDDING_ROWS);
    let row = row.saturating_add(header.whole(&key("feed_forward_length")).unwrap_or(0));
    Ok(ProjectorSummary {
        kind: shown(kind),
        weight_bytes: tensors.data_bytes,
        compute_bytes: patches
            .saturating_mul(row.saturating_add(scores))
            .saturating_mul(NUMBER_BYTES),
        looks_ahead: LOOKING_AHEAD.contains(&kind),
    })
}

fn key(name: &str) -> String {
    format!("clip.vision.{name}")
}

fn required(header: &Header, name: &str, max: u64) -> Result<u64, GgufProblem> {
    let key = key(name);
    match header.value(&key) {
        Some(Value::Whole(value)) if (1..=max).contains(value) => Ok(*value),
        Some(Value::Whole(value)) => Err(GgufProblem::OutOfRange { key, value: *value }),
        Some(_) => Err(wrong_type(&key, "a whole number")),
        None => Err(GgufProblem::Missing(key)),
    }
}
