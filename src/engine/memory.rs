//! How much memory a model will take, told from its header before it is loaded.
//!
//! Each part is an upper estimate by the sizes this room gives llama.cpp, so that what fits by this
//! count fits in truth. Adapters take their files' size. Weights kept on an accelerator are counted
//! as if they were here, which they are while they are read.

use crate::config::EngineConfig;
use crate::gallery::{GALLERY_BYTES_MAX, KEPT_BYTES_MAX};
use crate::kv::FlashAttention;
use crate::offload::{GpuLayers, Parts};
use crate::pictures::PICTURE_BYTES_MAX;
use crate::prefixes::ENTRIES_MAX;

/// On a CPU, prompts are read as fast in pieces of 64 tokens as in 512 (235 and 245 t/s, 0.5B on two
/// cores), and the interrupt is looked at between operations, which are this much shorter.
pub(crate) const UBATCH_TOKENS_CPU: u32 = 128;
/// An accelerator wants more at once.
pub(crate) const UBATCH_TOKENS_GPU: u32 = 512;
/// For images whose tokens are computed at one go, as Gemma's are.
pub(crate) const UBATCH_TOKENS_AHEAD: u32 = 512;
/// What may be kept in memory of prompts' states: one part in so many of what is free.
const PREFIX_MEMORY_SHARE: u64 = 16;
/// Up to this many bytes of weights each sequence may have cells of its own,
const SPLIT_WEIGHT_BYTES_MAX: u64 = 32 << 20;
/// if those take no more than so many bytes,
const SPLIT_BYTES_MIN: u64 = 192 << 20;
/// or no more than this part of the memory that is free.
const SPLIT_SHARE: u64 = 8;
/// llama.cpp allots cells in multiples of this, and so many more are for filling steps up.
pub(crate) const CELLS_STEP: u32 = 256;
/// Of each number computed with, and in the state of a recurrent layer.
const NUMBER_BYTES: u64 = 4;
/// Rows of a step that are as long as the embedding, and as the feed-forward's middle.
const EMBEDDING_ROWS: u64 = 8;
const FEED_FORWARD_ROWS: u64 = 3;
/// Rows of logits of one step that are kept beside one for each sequence: drafted tokens.
const DRAFTED_ROWS: u64 = 16;
/// A token's text and its places in llama.cpp's tables and in the trie of the grammars. A guess on
/// the large side.
const TOKEN_BYTES: u64 = 640;
/// The program, its threads and what they allot whatever the model.
const PROCESS_BYTES: u64 = 48 << 20;

/// Sizes of a model's parts, as its file states them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelShape {
    pub weight_bytes: u64,
    pub vocabulary: u64,
    /// Tokens it was trained on at once.
    pub context_tokens: Option<u32>,
    pub layers: u64,
    /// Of each layer, in order.
    pub layer_weights: Vec<u64>,
    /// Of what comes after the last layer, or is read there too.
    pub output_bytes: u64,
    pub embedding: u64,
    pub heads: u64,
    pub feed_forward: u64,
    /// Numbers that each layer keeps of one token, in order.
    pub token_numbers: Vec<u64>,
    /// Numbers that one sequence holds in each layer of a recurrent model, whatever its length.
    pub state_numbers: u64,
    /// Of its projector's weights and of what one look takes; 0 without one.
    pub projector_bytes: u64,
    /// Its images are computed at one go.
    pub looks_ahead: bool,
}

impl ModelShape {
    /// All layers' numbers of one token.
    fn token_numbers(&self) -> u64 {
        let layers = self.token_numbers.iter().copied();
        layers.fold(0, u64::saturating_add)
    }
}

/// What a loaded model takes, in bytes, by what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Of the model and its adapters.
    pub weights: u64,
    /// Keys and values of all tokens under way, and recurrent states.
    pub cache: u64,
    /// What a step computes in.
    pub compute: u64,
    /// Saved states of earlier prompts, at their most.
    pub prefixes: u64,
    /// The projector, and what was seen through it.
    pub sight: u64,
    /// The vocabulary's tables and the process itself.
    pub rest: u64,
}

impl MemoryNeed {
    #[must_use]
    pub fn total(&self) -> u64 {
        let parts = [
            self.cache,
            self.compute,
            self.prefixes,
            self.sight,
            self.rest,
        ];
        parts.into_iter().fold(self.weights, u64::saturating_add)
    }
}

/// How the cache's cells are divided, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellPlan {
    /// Each sequence has its own, a whole context of them.
    pub is_split: bool,
    pub tokens: u32,
}

impl CellPlan {
    /// Those for filling steps up among them.
    fn allotted(self) -> u64 {
        let filling = if self.is_split { 0 } else { CELLS_STEP };
        u64::from(self.tokens).saturating_add(u64::from(filling))
    }
}

/// Where each sequence has cells of its own, no step looks at those of others, but llama.cpp computes
/// a step of replies and a prompt in two passes over the weights. So they are for models with few
/// weights, on a CPU; and they take a whole context of memory each.
pub(crate) fn cell_plan(
    config: &EngineConfig,
    weight_bytes: u64,
    context_tokens: u32,
    cell_bytes: u64,
    free_bytes: Option<u64>,
) -> CellPlan {
    let split = cells_of_one(context_tokens).saturating_mul(config.sequences());
    let unified = config
        .kv_tokens(context_tokens)
        .next_multiple_of(CELLS_STEP);
    let bytes = u64::from(split).saturating_mul(cell_bytes);
    let is_small = match config.kv_tokens_max {
        Some(max) => split <= max,
        None => bytes <= SPLIT_BYTES_MIN.max(free_bytes.unwrap_or(0) / SPLIT_SHARE),
    };
    let is_light = weight_bytes <= SPLIT_WEIGHT_BYTES_MAX;
    let is_split = match config.kv.unified {
        Some(is_unified) => !is_unified,
        None => is_light && is_small && !is_on_gpu(config),
    };
    CellPlan {
        is_split,
        tokens: if is_split { split } else { unified },
    }
}

/// The cells of a sequence that has its own; so counted, none are idle.
pub(crate) fn cells_of_one(context_tokens: u32) -> u32 {
    context_tokens.next_multiple_of(CELLS_STEP)
}

pub(crate) fn is_on_gpu(config: &EngineConfig) -> bool {
    cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"))
        && config.gpu_layers.may_be_some()
}

/// Bytes for prompts' states where nobody says: a part of the memory that is free, where it can be
/// told.
pub(crate) fn prefix_bytes_default(free_bytes: Option<u64>) -> u64 {
    free_bytes.map_or(EngineConfig::PREFIX_BYTES_DEFAULT_MAX, |free| {
        (free / PREFIX_MEMORY_SHARE).min(EngineConfig::PREFIX_BYTES_DEFAULT_MAX)
    })
}

impl EngineConfig {
    /// What the model will take, loaded with these settings while `free_bytes` are free. Where it is
    /// yet to be seen whether an accelerator takes any of it, the most of both ways.
    #[must_use]
    pub fn memory_need(&self, shape: &ModelShape, free_bytes: Option<u64>) -> MemoryNeed {
        let need = self.need_as_said(shape, free_bytes);
        match self.gpu_layers {
            GpuLayers::Count(_) => need,
            GpuLayers::Fitted => {
                let here = EngineConfig {
                    gpu_layers: GpuLayers::Count(0),
                    ..self.clone()
                };
                let here = here.need_as_said(shape, free_bytes);
                std::cmp::max_by_key(need, here, MemoryNeed::total)
            }
        }
    }

    fn need_as_said(&self, shape: &ModelShape, free_bytes: Option<u64>) -> MemoryNeed {
        let context = self.context_tokens(shape.context_tokens.unwrap_or(u32::MAX));
        let cell_bytes = self.cell_bytes(shape.token_numbers());
        let cells = cell_plan(self, shape.weight_bytes, context, cell_bytes, free_bytes);
        let sequences = u64::from(self.sequences());
        let states = shape
            .state_numbers
            .saturating_mul(shape.layers)
            .saturating_mul(NUMBER_BYTES);
        let cache = cells
            .allotted()
            .saturating_mul(cell_bytes)
            .saturating_add(states.saturating_mul(sequences));
        // A saved state is at most a whole context.
        let state = u64::from(context)
            .saturating_mul(cell_bytes)
            .saturating_add(states);
        let prefixes = self
            .prefix_bytes_max
            .unwrap_or_else(|| prefix_bytes_default(free_bytes))
            .min(state.saturating_mul(ENTRIES_MAX as u64));
        MemoryNeed {
            weights: shape.weight_bytes.saturating_add(self.adapter_bytes()),
            cache,
            compute: self.compute_bytes(shape, cells, context),
            prefixes,
            sight: self.sight_bytes(shape, context),
            rest: shape
                .vocabulary
                .saturating_mul(TOKEN_BYTES)
                .saturating_add(PROCESS_BYTES),
        }
    }

    /// Of all adapters together.
    fn adapter_bytes(&self) -> u64 {
        let adapters = self.adapters.iter().map(|adapter| adapter.bytes);
        adapters.fold(0, u64::saturating_add)
    }

    /// What is held of images is at most a context for each request, and bounded for all together.
    fn sight_bytes(&self, shape: &ModelShape, context_tokens: u32) -> u64 {
        if shape.projector_bytes == 0 {
            return 0;
        }
        let requests = u64::from(self.sequences()).saturating_add(self.queue_max as u64);
        let vectors = u64::from(context_tokens)
            .saturating_mul(shape.embedding)
            .saturating_mul(NUMBER_BYTES);
        let seen = vectors
            .saturating_mul(requests)
            .saturating_add(KEPT_BYTES_MAX)
            .min(GALLERY_BYTES_MAX);
        [seen, PICTURE_BYTES_MAX]
            .into_iter()
            .fold(shape.projector_bytes, u64::saturating_add)
    }

    /// What each part of the model takes where it lies, loaded with these settings.
    pub(crate) fn parts(&self, shape: &ModelShape, free_bytes: Option<u64>) -> Parts {
        let context = self.context_tokens(shape.context_tokens.unwrap_or(u32::MAX));
        let cell_bytes = self.cell_bytes(shape.token_numbers());
        let cells = cell_plan(self, shape.weight_bytes, context, cell_bytes, free_bytes);
        let states = shape
            .state_numbers
            .saturating_mul(NUMBER_BYTES)
            .saturating_mul(u64::from(self.sequences()));
        let layers = shape.layer_weights.iter().enumerate();
        let layers = layers.map(|(layer, weights)| {
            let numbers = shape.token_numbers.get(layer).copied().unwrap_or(0);
            self.cell_bytes(numbers)
                .saturating_mul(cells.allotted())
                .saturating_add(states)
                .saturating_add(*weights)
        });
        Parts {
            layers: layers.collect(),
            output: shape.output_bytes,
            compute: self.compute_bytes(shape, cells, context),
            visiting: shape.layer_weights.iter().copied().max().unwrap_or(0),
            adapters: self.adapter_bytes(),
            projector: shape.projector_bytes,
        }
    }

    /// `numbers` of one token as they are kept: half of them are keys, half are values.
    fn cell_bytes(&self, numbers: u64) -> u64 {
        let half = numbers.div_ceil(2);
        let keys = self.kv.type_k.bytes(half);
        keys.saturating_add(self.kv.type_v.bytes(half))
    }

    /// The widest rows of one piece of a batch, all at once, which llama.cpp sets aside for the
    /// worst case.
    fn compute_bytes(&self, shape: &ModelShape, cells: CellPlan, context_tokens: u32) -> u64 {
        let piece = if is_on_gpu(self) {
            UBATCH_TOKENS_GPU
        } else if shape.looks_ahead {
            UBATCH_TOKENS_AHEAD
        } else {
            UBATCH_TOKENS_CPU
        };
        let piece = u64::from(piece.min(self.batch_tokens_max));
        let masked = u64::from(cells.tokens);
        // Flash attention keeps no scores.
        let scored = match self.kv.flash_attention {
            FlashAttention::Off if cells.is_split => u64::from(context_tokens),
            FlashAttention::Off => masked,
            FlashAttention::On | FlashAttention::Auto => 0,
        };
        // What an adapter of the output adds to it stands beside it until then.
        let adapted = if self.adapters.is_empty() {
            0
        } else {
            shape.vocabulary
        };
        let row = [
            shape.vocabulary,
            adapted,
            shape.embedding.saturating_mul(EMBEDDING_ROWS),
            shape.feed_forward.saturating_mul(FEED_FORWARD_ROWS),
            shape.heads.saturating_mul(scored),
            masked,
        ]
        .into_iter()
        .fold(0, u64::saturating_add);
        let logits = shape
            .vocabulary
            .saturating_mul(u64::from(self.sequences()) + DRAFTED_ROWS);
        row.saturating_mul(piece)
            .saturating_add(logits)
            .saturating_mul(NUMBER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AdapterConfig;

    const GIB: u64 = 1 << 30;

    /// Qwen 2.5 0.5B: 24 layers, 2 of 14 heads keep keys and values of 64 numbers.
    fn half_billion() -> ModelShape {
        ModelShape {
            weight_bytes: 525 << 20,
            vocabulary: 151_936,
            context_tokens: Some(32_768),
            layers: 24,
            layer_weights: vec![16 << 20; 24],
            output_bytes: 141 << 20,
            embedding: 896,
            heads: 14,
            feed_forward: 4_864,
            token_numbers: vec![2 * 2 * 64; 24],
            state_numbers: 0,
            projector_bytes: 0,
            looks_ahead: false,
        }
    }

    fn adapter(name: &str, bytes: u64) -> AdapterConfig {
        AdapterConfig {
            path: format!("{name}.gguf").into(),
            name: name.to_owned(),
            scale: 1.0,
            bytes,
        }
    }

    #[test]
    fn a_cache_is_counted_as_it_is_laid_out() {
        let config = EngineConfig::new("m.gguf", "m");
        let light = ModelShape {
            weight_bytes: 20 << 20,
            ..half_billion()
        };
        // 8,192 cells for each of ten sequences, at 12 KiB.
        let roomy = config.memory_need(&light, Some(64 * GIB));
        assert_eq!(roomy.cache, 10 * 8_192 * 12 * 1024);
        // Little memory: one pool of 16,384. The same where weights are read for long.
        let tight = config.memory_need(&light, Some(2 * GIB));
        assert_eq!(tight.cache, (16_384 + 256) * 12 * 1024);
        assert!(tight.compute < roomy.compute);
        assert_eq!(tight.prefixes, 2 * GIB / 16);
        let heavy = config.memory_need(&half_billion(), Some(64 * GIB));
        assert_eq!(heavy.cache, tight.cache);
    }

    #[test]
    fn the_parts_come_to_the_whole() {
        let mut config = EngineConfig::new("m.gguf", "m");
        config.adapters = ["a", "b"].map(|name| adapter(name, 70 << 20)).into();
        let shape = ModelShape {
            projector_bytes: 600 << 20,
            looks_ahead: true,
            ..half_billion()
        };
        let (parts, need) = (
            config.parts(&shape, Some(2 * GIB)),
            config.memory_need(&shape, Some(2 * GIB)),
        );
        let layers: u64 = parts.layers.iter().sum();
        let beside = parts.output + parts.adapters;
        assert_eq!(layers + beside, need.weights + need.cache);
        assert_eq!((parts.compute, parts.visiting), (need.compute, 16 << 20));
        assert_eq!(
            parts.projector,
            need.sight - GALLERY_BYTES_MAX - PICTURE_BYTES_MAX
        );
        assert_eq!((parts.adapters, parts.count()), (140 << 20, 25));
    }

    /// A model so light that each sequence has cells of its own, but not on an accelerator.
    #[test]
    fn what_may_yet_go_to_an_accelerator_is_counted_as_if_it_stayed() {
        let light = ModelShape {
            weight_bytes: 20 << 20,
            ..half_billion()
        };
        let need = |gpu_layers| {
            let config = EngineConfig {
                gpu_layers,
                ..EngineConfig::new("m.gguf", "m")
            };
            config.memory_need(&light, Some(64 * GIB))
        };
        let here = need(GpuLayers::Count(0));
        assert_eq!(here.cache, 10 * 8_192 * 12 * 1024);
        assert_eq!(need(GpuLayers::Fitted), here);
        let is_built = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));
        assert_eq!(need(GpuLayers::Count(99)) == here, !is_built);
    }

    #[test]
    fn settings_bound_what_is_needed() {
        let mut config = EngineConfig::new("m.gguf", "m");
        config.kv_tokens_max = Some(4_096);
        config.context_tokens_max = Some(4_096);
        config.prefix_bytes_max = Some(0);
        let need = config.memory_need(&half_billion(), Some(64 * GIB));
        assert_eq!(need.cache, (4_096 + 256) * 12 * 1024);
        assert_eq!(need.prefixes, 0);
        assert_eq!(
            need.total(),
            need.weights + need.cache + need.compute + need.rest
        );
    }

    #[test]
    fn a_projector_is_counted_with_what_is_seen_through_it() {
        let config = EngineConfig::new("m.gguf", "m");
        let blind = config.memory_need(&half_billion(), Some(64 * GIB));
        let seeing = ModelShape {
            projector_bytes: 600 << 20,
            ..half_billion()
        };
        let seeing = config.memory_need(&seeing, Some(64 * GIB));
        assert_eq!(blind.sight, 0);
        assert_eq!(
            seeing.sight,
            (600 << 20) + GALLERY_BYTES_MAX + PICTURE_BYTES_MAX
        );
        assert_eq!(seeing.total(), blind.total() + seeing.sight);
    }

    #[test]
    fn adapters_are_counted_with_their_model() {
        let mut config = EngineConfig::new("m.gguf", "m");
        let bare = config.memory_need(&half_billion(), Some(64 * GIB));
        config.adapters = ["a", "b"].map(|name| adapter(name, 70 << 20)).into();
        let need = config.memory_need(&half_billion(), Some(64 * GIB));
        assert_eq!(need.weights, bare.weights + (140 << 20));
        assert!(need.compute > bare.compute);
        config.adapters.push(adapter("c", u64::MAX));
        let most = config.memory_need(&half_billion(), Some(64 * GIB));
        assert_eq!(most.total(), u64::MAX);
    }

    #[test]
    fn few_short_states_need_no_more_than_they_can_come_to() {
        let tiny = ModelShape {
            context_tokens: Some(256),
            token_numbers: vec![64],
            ..ModelShape::default()
        };
        let config = EngineConfig::new("m.gguf", "m");
        let need = config.memory_need(&tiny, Some(64 * GIB));
        assert_eq!(need.prefixes, ENTRIES_MAX as u64 * 256 * 128);
    }

    #[test]
    fn a_recurrent_model_has_a_state_for_each_sequence() {
        let recurrent = ModelShape {
            layers: 4,
            state_numbers: 1_000,
            ..ModelShape::default()
        };
        let config = EngineConfig::new("m.gguf", "m");
        let need = config.memory_need(&recurrent, None);
        assert_eq!(need.cache, 10 * 4 * 1_000 * 4);
    }

    #[test]
    fn a_header_that_claims_the_most_does_not_overflow() {
        let most = ModelShape {
            weight_bytes: u64::MAX,
            vocabulary: u64::MAX,
            context_tokens: Some(u32::MAX),
            layers: u64::MAX,
            layer_weights: vec![u64::MAX; 2],
            output_bytes: u64::MAX,
            embedding: u64::MAX,
            heads: u64::MAX,
            feed_forward: u64::MAX,
            token_numbers: vec![u64::MAX; 2],
            state_numbers: u64::MAX,
            projector_bytes: u64::MAX,
            looks_ahead: true,
        };
        let config = EngineConfig::new("m.gguf", "m");
        assert_eq!(config.memory_need(&most, Some(1)).total(), u64::MAX);
        assert_eq!(config.parts(&most, Some(1)).layers, [u64::MAX; 2]);
    }
}
