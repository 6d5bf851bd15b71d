//! What the engine is told at load. Every limit has a name and a word on what happens at it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adapters::AdapterConfig;
use crate::kv::KvConfig;
use crate::memory::ModelShape;
use crate::offload::GpuLayers;

/// Settings of one engine, that is of one loaded model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineConfig {
    /// The GGUF file.
    pub path: PathBuf,
    /// The GGUF file of the projector that turns images into what the model reads. `None`: it reads
    /// text only.
    pub projector: Option<PathBuf>,
    /// The model's name on the card.
    pub name: String,
    /// The most tokens of one chat, prompt and reply together. `None`: the model's own length, or
    /// [`EngineConfig::CONTEXT_TOKENS_DEFAULT`] where that is less. A longer prompt is refused,
    /// and a reply ends there.
    pub context_tokens_max: Option<u32>,
    /// Whether a reply that was asked to be longer ends there.
    pub context_shift: ContextShift,
    /// Room of the KV cache in tokens, shared by all slots as they need it; a full context for every
    /// sequence where that is no more than this. `None`: such a one where it takes a small part of
    /// the memory, else a full context for every slot, but no more than the larger of one context
    /// and [`EngineConfig::KV_TOKENS_DEFAULT`]. When it is used up, requests wait in the queue, and
    /// the youngest running one is set back to be computed again.
    pub kv_tokens_max: Option<u32>,
    /// How the cache is kept.
    pub kv: KvConfig,
    /// Chats computed at once; at most [`EngineConfig::SLOTS_LIMIT`]. Further ones wait, but for the
    /// first of a team, which may have one of [`EngineConfig::SPARE_SLOTS`] more.
    pub slots_max: u32,
    /// Chats that may wait for a slot. One more is refused as overloaded, unless its team has less
    /// than its share of a reserve of a quarter more.
    pub queue_max: usize,
    /// Threads that compute. `None`: the physical cores this process may use, at most
    /// [`EngineConfig::THREADS_DEFAULT_MAX`], and 1 for a model so small that threads would only
    /// wait for each other.
    pub threads: Option<u32>,
    /// Whether fewer compute while others keep the processor busy, where that is measured to be
    /// faster.
    pub threads_adapt: bool,
    /// Whether the engine has a process of its own, whose threads that compute may then come before
    /// others. Set by that process.
    pub is_apart: bool,
    /// Tokens in one step of computation, prompts and replies together.
    pub batch_tokens_max: u32,
    /// What prompts may add to the time until everybody else's next token, while somebody is being
    /// answered. They are cut into what the machine computes of them in so long.
    pub busy_prompt_delay_max: Duration,
    /// LoRA adapters, each a model name of its own; at most [`AdapterConfig::COUNT_MAX`].
    pub adapters: Vec<AdapterConfig>,
    /// Layers kept on accelerators, where the build has a back end for them.
    pub gpu_layers: GpuLayers,
    /// The model's sizes, by which they are fitted: from the header of the file that is loaded, so
    /// known only where that was looked over. `None`: all layers are kept there.
    #[serde(skip)]
    pub shape: Option<Box<ModelShape>>,
    /// Events of one reply that wait for its reader. At this many its slot pauses.
    pub events_max: usize,
    /// How long a reader may take nothing before its slot is freed and its reply ends in an error.
    pub stall_max: Duration,
    /// How long the engine's own process may be without progress, or without a word of it, before
    /// it is ended and started again. An engine that is a thread is not watched.
    pub hang_max: Duration,
    /// The bound on a reply whose request states none. `None`: what is left of the context.
    pub output_tokens_default: Option<u32>,
    /// The temperature of a request that states none. 0 takes the likeliest token each time.
    pub temperature_default: f32,
    /// Whether replies are drafted from what was said before.
    pub speculation: Speculation,
    /// Where the CPU back ends lie in a build with `dynamic-backends`; unused in any other.
    pub backends_dir: Option<PathBuf>,
    /// Who is spared the computing of a prompt's beginning that was computed before.
    pub prefix_scope: PrefixScope,
    /// Bytes of prompts' states kept in memory after the cache has given them up, and as many again
    /// in [`EngineConfig::prefix_dir`]. At this many the least saved work goes. 0 keeps none. `None`:
    /// a sixteenth of the memory that is free at load, at most
    /// [`EngineConfig::PREFIX_BYTES_DEFAULT_MAX`].
    pub prefix_bytes_max: Option<u64>,
    /// A folder in which states are kept across restarts, in one of its own per model's name.
    /// `None`: nowhere. They hold what prompts and replies said.
    pub prefix_dir: Option<PathBuf>,
}

/// Who is spared the computing of a prompt's beginning that was computed before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefixScope {
    /// The team it was computed for. What it saves others would tell them what the team wrote.
    #[default]
    Team,
    /// Everybody.
    Global,
}

/// Where drafts of a reply come from: tokens that are computed along with the one that is due, and kept
/// where they turn out right. What a reply says does not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speculation {
    /// What was said before in the prompt and the reply, and the request's prediction.
    #[default]
    Lookup,
    Off,
}

/// What becomes of a reply that reaches the end of its context and was asked to be longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContextShift {
    /// It ends there.
    #[default]
    Refuse,
    /// It goes on without its oldest part, and its usage says so.
    Shift,
}

impl ContextShift {
    /// A reply that goes on is at most so many contexts long: one that repeats itself has no other
    /// end.
    const REPLY_CONTEXTS_MAX: u32 = 16;

    /// The bound on a reply that was asked to have `wanted` tokens, of which `room` have their place in
    /// the context.
    pub(crate) fn output_max(self, wanted: Option<u32>, room: u32, context_tokens: u32) -> u32 {
        match (self, wanted) {
            (ContextShift::Refuse, _) | (ContextShift::Shift, None) => room,
            (ContextShift::Shift, Some(wanted)) => {
                let most = context_tokens.saturating_mul(Self::REPLY_CONTEXTS_MAX);
                wanted.min(most).max(room)
            }
        }
    }
}

impl EngineConfig {
    /// The most slots there may be: llama.cpp's own bound is 256 sequences, and 64 of them already
    /// share a CPU's bandwidth too thinly to be of use.
    pub const SLOTS_LIMIT: u32 = 64;
    /// Slots beyond `slots_max`, each for a team of which no interactive request is being answered.
    pub const SPARE_SLOTS: u32 = 2;
    /// Models state up to a million tokens; the cache for those would not fit most machines.
    pub const CONTEXT_TOKENS_DEFAULT: u32 = 8_192;
    /// 12 KB a token for a 0.5B model, 128 KB for an 8B one: 0.2 to 2 GB.
    pub const KV_TOKENS_DEFAULT: u32 = 16_384;
    /// A busy machine may keep any process from running for a good part of a second.
    pub const HANG_MS_LEAST: u64 = 1_000;
    /// [`EngineConfig::busy_prompt_delay_max`], as may be set, in milliseconds.
    pub const PROMPT_DELAY_MS: RangeInclusive<u64> = 10..=5_000;
    /// Decoding is bound by memory bandwidth, which few cores use up.
    pub const THREADS_DEFAULT_MAX: u32 = 16;
    /// Some 40,000 tokens of a 0.5B model, 4,000 of an 8B one.
    pub const PREFIX_BYTES_DEFAULT_MAX: u64 = 512 * 1024 * 1024;

    /// Defaults for the model in `path`, known to callers as `name`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            projector: None,
            name: name.into(),
            context_tokens_max: None,
            context_shift: ContextShift::default(),
            kv_tokens_max: None,
            kv: KvConfig::default(),
            slots_max: 8,
            queue_max: 64,
            threads: None,
            threads_adapt: true,
            is_apart: false,
            batch_tokens_max: 512,
            busy_prompt_delay_max: Duration::from_millis(150),
            adapters: Vec::new(),
            gpu_layers: GpuLayers::default(),
            shape: None,
            events_max: 32,
            stall_max: Duration::from_secs(10),
            hang_max: Duration::from_secs(30),
            output_tokens_default: None,
            temperature_default: 0.0,
            speculation: Speculation::default(),
            backends_dir: None,
            prefix_scope: PrefixScope::default(),
            prefix_bytes_max: None,
            prefix_dir: None,
        }
    }

    /// The first setting that no engine could work with, by name.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let zero = [
            (self.slots_max == 0, "slots_max"),
            (self.slots_max > Self::SLOTS_LIMIT, "slots_max"),
            (self.queue_max == 0, "queue_max"),
            (self.threads == Some(0), "threads"),
            (self.batch_tokens_max < self.sequences(), "batch_tokens_max"),
            (
                self.busy_prompt_delay_max.is_zero(),
                "busy_prompt_delay_max",
            ),
            (self.events_max == 0, "events_max"),
            (!self.has_sound_adapters(), "adapters"),
            (
                self.hang_max < Duration::from_millis(Self::HANG_MS_LEAST),
                "hang_max",
            ),
            (
                self.context_tokens_max.is_some_and(|n| n < 2),
                "context_tokens_max",
            ),
            (self.kv_tokens_max.is_some_and(|n| n < 2), "kv_tokens_max"),
            (
                self.output_tokens_default == Some(0),
                "output_tokens_default",
            ),
            (
                !(0.0..=2.0).contains(&self.temperature_default),
                "temperature_default",
            ),
        ];
        zero.into_iter()
            .find_map(|(is_wrong, name)| is_wrong.then_some(name))
    }

    /// What callers may call the model: by its own name, then under each adapter.
    pub fn model_names(&self) -> impl Iterator<Item = &str> {
        let adapters = self.adapters.iter().map(|adapter| adapter.name.as_str());
        std::iter::once(self.name.as_str()).chain(adapters)
    }

    /// Not too many, none called like another or like the model.
    fn has_sound_adapters(&self) -> bool {
        let names: BTreeSet<&str> = self.adapters.iter().map(|one| one.name.as_str()).collect();
        self.adapters.len() <= AdapterConfig::COUNT_MAX
            && names.len() == self.adapters.len()
            && !names.contains(self.name.as_str())
            && self
                .adapters
                .iter()
                .all(|one| AdapterConfig::has_scale(one.scale))
    }

    /// Chats that may be in the cache at once.
    pub(crate) fn sequences(&self) -> u32 {
        self.slots_max.saturating_add(Self::SPARE_SLOTS)
    }

    /// The context of one chat for a model trained on `trained` tokens.
    pub(crate) fn context_tokens(&self, trained: u32) -> u32 {
        let trained = trained.max(1);
        self.context_tokens_max
            .unwrap_or(Self::CONTEXT_TOKENS_DEFAULT)
            .min(trained)
    }

    /// The room of the whole cache, never less than one context.
    pub(crate) fn kv_tokens(&self, context_tokens: u32) -> u32 {
        let full = context_tokens.saturating_mul(self.slots_max);
        self.kv_tokens_max
            .unwrap_or_else(|| full.min(Self::KV_TOKENS_DEFAULT.max(context_tokens)))
            .max(context_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_holds_a_context_and_no_more_than_it_may() {
        let config = EngineConfig::new("m.gguf", "m");
        assert_eq!(config.context_tokens(131_072), 8_192);
        assert_eq!(config.context_tokens(512), 512);
        assert_eq!(config.kv_tokens(512), 4_096);
        assert_eq!(config.kv_tokens(8_192), 16_384);
        assert_eq!(config.kv_tokens(100_000), 100_000);
    }

    #[test]
    fn only_a_reply_that_was_asked_to_goes_beyond_its_context() {
        let bounds = |shift: ContextShift| {
            [None, Some(3), Some(50), Some(u32::MAX)]
                .map(|wanted| shift.output_max(wanted, wanted.unwrap_or(7).min(7), 10))
        };
        assert_eq!(bounds(ContextShift::Refuse), [7, 3, 7, 7]);
        assert_eq!(bounds(ContextShift::Shift), [7, 3, 50, 160]);
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let mut config = EngineConfig::new("m.gguf", "m");
        assert_eq!(config.fault(), None);
        config.slots_max = 65;
        assert_eq!(config.fault(), Some("slots_max"));
        config.slots_max = 8;
        config.temperature_default = f32::NAN;
        assert_eq!(config.fault(), Some("temperature_default"));
        config.temperature_default = 0.0;
        let adapter = |name: &str, scale| AdapterConfig {
            path: "a.gguf".into(),
            name: name.to_owned(),
            scale,
            bytes: 0,
        };
        config.adapters = vec![adapter("a", 1.0), adapter("b", -1.0)];
        assert_eq!(config.fault(), None);
        for (name, scale) in [("a", 1.0), ("m", 1.0), ("c", f32::NAN), ("c", 17.0)] {
            config.adapters[1] = adapter(name, scale);
            assert_eq!(config.fault(), Some("adapters"), "{name} {scale}");
        }
    }
}
