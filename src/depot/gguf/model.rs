//! What a model must have beside being well-formed: keys without which it cannot be loaded, and
//! hyperparameters on which llama.cpp ends its process (`load_hparams` in `llama-model.cpp`, the
//! graphs in `src/models`, and the kernels, of the pinned llama-cpp-sys-2).
//!
//! Only what is known to end a process is refused, or what no model can mean. What llama.cpp
//! refuses in words of its own is left to it.

use super::adapter;
use super::fault::{GgufProblem, TensorReason, shown};
use super::header::{Header, TEMPLATE, TOKENS, Value, wrong_type};
use super::shape;
use super::tensor::{CLASSES_OUT, Tensors};
use super::{GgufSummary, Pooling};

/// Lists that llama.cpp indexes by token.
const PER_TOKEN: [&str; 2] = ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"];
/// `LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS`.
pub(super) const LAYERS_MAX: u64 = 512;
const EXPERTS_MAX: u64 = 1_024;
/// llama.cpp counts in 32 bits; no model comes near half of that.
const SIZE_MAX: u64 = 1 << 31;
const HEADS_MAX: u64 = 1 << 16;
/// llama.cpp multiplies it by the sequences, of which there may be 256, in 32 bits.
const WINDOW_MAX: u64 = 1 << 23;
/// The last of `llama_pooling_type`.
const POOLING_MAX: u64 = 4;
/// `LLAMA_POOLING_TYPE_RANK`.
const POOLING_RANK: u64 = 4;
const ROPE_SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];
/// Tokenizers without a text of their own.
const TOKENIZERS_REFUSED: [&str; 3] = ["none", "no_vocab", "test"];
/// Tokenizers of models that do not chat.
const TOKENIZERS_NOT_OF_CHATS: [&str; 2] = ["bert", "t5"];
/// Architectures whose graphs assert that a whole head is turned by its position.
const WHOLE_HEADS_TURN: [&str; 26] = [
    "arcee",
    "baichuan",
    "dream",
    "ernie4_5",
    "exaone",
    "exaone4",
    "falcon",
    "granite",
    "granitemoe",
    "internlm2",
    "llada",
    "llama",
    "llama4",
    "mistral3",
    "olmo",
    "olmo2",
    "olmoe",
    "orion",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "seed_oss",
    "smollm3",
    "starcoder2",
    "xverse",
];

/// # Errors
/// The first thing that is missing or cannot be.
pub(super) fn check(header: &Header, tensors: &Tensors) -> Result<(), GgufProblem> {
    if let Some(count) = header.whole("split.count").filter(|count| *count > 1) {
        return Err(GgufProblem::Split(count));
    }
    if adapter::is_adapter(header) {
        return Err(GgufProblem::IsAdapter);
    }
    let architecture = header.required_text("general.architecture")?;
    let tokenizer = header.required_text("tokenizer.ggml.model")?;
    let parameters = Parameters {
        header,
        prefix: format!("{architecture}."),
    };
    parameters.check(architecture)?;
    parameters.check_ranking(tensors)?;
    check_vocabulary(header, tensors)?;
    check_tokenizer(header, tokenizer)?;
    if header.text(TEMPLATE).is_some() {
        if TOKENIZERS_NOT_OF_CHATS.contains(&tokenizer) {
            return Err(GgufProblem::Tokenizer(shown(tokenizer)));
        }
        parameters.check_chat()?;
    }
    Ok(())
}

fn check_vocabulary(header: &Header, tensors: &Tensors) -> Result<(), GgufProblem> {
    let tokens = match (&header.tokens, header.value(TOKENS)) {
        (Some(tokens), _) => tokens,
        (None, Some(_)) => return Err(wrong_type(TOKENS, "a list of texts")),
        (None, None) => return Err(GgufProblem::Missing(TOKENS.into())),
    };
    let vocabulary_count = tokens.count;
    for key in PER_TOKEN {
        match header.value(key) {
            None => {}
            Some(Value::List(list)) if list.count == vocabulary_count => {}
            Some(Value::List(list)) => {
                return Err(GgufProblem::VocabularyMismatch {
                    key,
                    count: list.count,
                    vocabulary_count,
                });
            }
            Some(_) => return Err(wrong_type(key, "a list")),
        }
    }
    // Ids of special tokens lie inside the vocabulary.
    for (key, value) in header.values("tokenizer.ggml.") {
        if key.ends_with("_token_id")
            && let Value::Whole(id) = value
            && *id >= vocabulary_count
            // -1 in an unsigned key means that there is no such token.
            && *id != u64::from(u32::MAX)
        {
            return Err(out_of_range(key, *id));
        }
    }
    let Some(rows) = tensors.token_rows else {
        return Err(GgufProblem::Missing("token_embd.weight".into()));
    };
    if rows != vocabulary_count {
        return Err(GgufProblem::Tensor {
            name: "token_embd.weight".into(),
            reason: TensorReason::Vocabulary {
                rows,
                vocabulary_count,
            },
        });
    }
    Ok(())
}

/// Of every file: a model that embeds reads texts too.
fn check_tokenizer(header: &Header, tokenizer: &str) -> Result<(), GgufProblem> {
    if TOKENIZERS_REFUSED.contains(&tokenizer) {
        return Err(GgufProblem::NoTokenizer(shown(tokenizer)));
    }
    // SentencePiece falls back to bytes, and throws across the border where one has no token.
    let missing = header.tokens.as_ref().and_then(|list| list.missing_byte());
    match missing {
        Some(byte) if tokenizer == "llama" => Err(GgufProblem::ByteWithoutToken(byte)),
        _ => Ok(()),
    }
}

fn out_of_range(key: &str, value: u64) -> GgufProblem {
    GgufProblem::OutOfRange {
        key: shown(key),
        value,
    }
}

/// The keys that begin with the architecture's name.
struct Parameters<'a> {
    header: &'a Header,
    prefix: String,
}

impl Parameters<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.header.value(&self.key(name))
    }

    /// 0 where it is missing, as llama.cpp has it.
    fn whole(&self, name: &str) -> u64 {
        self.header.whole(&self.key(name)).unwrap_or(0)
    }

    /// One number for all layers, or one each.
    fn per_layer(&self, name: &str) -> Vec<u64> {
        match self.value(name) {
            Some(Value::Whole(whole)) => vec![*whole],
            Some(Value::List(list)) => list.wholes.clone(),
            _ => Vec::new(),
        }
    }

    fn refuse<T>(&self, name: &str, reason: &'static str) -> Result<T, GgufProblem> {
        Err(GgufProblem::Hyperparameter {
            key: shown(&self.key(name)),
            reason,
        })
    }

    fn check(&self, architecture: &str) -> Result<(), GgufProblem> {
        self.required("context_length", SIZE_MAX)?;
        let width = self.required("embedding_length", SIZE_MAX)?;
        let layers = self.required("block_count", LAYERS_MAX)?;
        if self.whole("nextn_predict_layers") > layers {
            return self.refuse("nextn_predict_layers", "is more than there are blocks");
        }
        let window = self.whole("attention.sliding_window");
        if window > WINDOW_MAX {
            return Err(out_of_range(&self.key("attention.sliding_window"), window));
        }
        let pooling = self.whole("pooling_type");
        if pooling > POOLING_MAX {
            return Err(out_of_range(&self.key("pooling_type"), pooling));
        }
        // Exempt in llama.cpp too, which forgets their one expert.
        if !architecture.starts_with("hunyuan") {
            self.check_experts()?;
        }
        self.check_heads(architecture, width)?;
        self.check_turning(architecture)?;
        self.check_numbers()
    }

    fn required(&self, name: &str, max: u64) -> Result<u64, GgufProblem> {
        let key = self.key(name);
        match self.header.value(&key) {
            Some(Value::Whole(value)) if (1..=max).contains(value) => Ok(*value),
            Some(Value::Whole(value)) => Err(out_of_range(&key, *value)),
            Some(_) => Err(wrong_type(&key, "a whole number")),
            None => Err(GgufProblem::Missing(shown(&key))),
        }
    }

    fn check_experts(&self) -> Result<(), GgufProblem> {
        let count = self.whole("expert_count");
        let used = self.per_layer("expert_used_count");
        let used = used.into_iter().max().unwrap_or(0);
        let groups = self.whole("expert_group_count");
        if count > EXPERTS_MAX {
            return Err(out_of_range(&self.key("expert_count"), count));
        }
        if used > count || (count > 0 && used == 0) {
            return self.refuse("expert_used_count", "does not fit the number of experts");
        }
        if groups > 0 && groups >= count {
            return self.refuse("expert_group_count", "does not fit the number of experts");
        }
        if groups > 1 {
            if !count.is_multiple_of(groups) {
                return self.refuse("expert_group_count", "does not divide the experts");
            }
            if !(1..groups).contains(&self.whole("expert_group_used_count")) {
                return self.refuse("expert_group_used_count", "does not fit the groups");
            }
        }
        Ok(())
    }

    fn check_heads(&self, architecture: &str, width: u64) -> Result<(), GgufProblem> {
        const HEADS: &str = "attention.head_count";
        const SHARED: &str = "attention.head_count_kv";
        let heads = self.per_layer(HEADS);
        let shared = self.per_layer(SHARED);
        if let Some(heads) = heads.iter().find(|heads| **heads > HEADS_MAX) {
            return Err(out_of_range(&self.key(HEADS), *heads));
        }
        // Where one of the two is a list, the other holds for all its layers.
        let layers = heads.len().max(shared.len());
        let of = |list: &[u64], layer: usize| list.get(layer).or(list.first()).copied();
        for layer in 0..layers {
            let heads = of(&heads, layer).unwrap_or(0);
            let shared_count = of(&shared, layer).unwrap_or(heads);
            let is_list = shared.len() > 1;
            // In a list, 0 is a layer without attention.
            if heads > 0 && shared_count == 0 && !is_list {
                return self.refuse(SHARED, "is 0");
            }
            if heads > 0 && shared_count > 0 && !heads.is_multiple_of(shared_count) {
                return self.refuse(SHARED, "does not divide the heads");
            }
        }
        let Some(first) = heads.first().copied().filter(|heads| *heads > 0) else {
            return Ok(());
        };
        let sizes = ["attention.key_length", "attention.value_length"];
        for name in sizes {
            if let Some(Value::Whole(size)) = self.value(name)
                && !(1..=HEADS_MAX).contains(size)
            {
                return Err(out_of_range(&self.key(name), *size));
            }
        }
        let [keys, values] = sizes.map(|name| self.header.whole(&self.key(name)));
        if (keys.is_none() || values.is_none()) && !width.is_multiple_of(first) {
            return self.refuse(HEADS, "does not divide the embedding's length");
        }
        let keys = keys.unwrap_or(width / first);
        let values = values.unwrap_or(width / first);
        let turns = self.header.whole(&self.key("rope.dimension_count"));
        let turns_whole = WHOLE_HEADS_TURN.contains(&architecture);
        if turns_whole && keys != values {
            return self.refuse("attention.value_length", "is not that of the keys");
        }
        match turns {
            Some(turns) if turns > keys => {
                self.refuse("rope.dimension_count", "is more than a head has")
            }
            Some(turns) if turns_whole && turns != keys => {
                self.refuse("rope.dimension_count", "is not the length of a head")
            }
            Some(turns) if !turns.is_multiple_of(2) => {
                self.refuse("rope.dimension_count", "is odd")
            }
            None if turns_whole && !keys.is_multiple_of(2) => {
                self.refuse(HEADS, "gives heads of an odd length")
            }
            _ => Ok(()),
        }
    }

    /// Rotary positions.
    fn check_turning(&self, architecture: &str) -> Result<(), GgufProblem> {
        if let Some(Value::Text(scaling)) = self.value("rope.scaling.type")
            && !ROPE_SCALINGS.contains(&scaling.as_str())
        {
            return self.refuse("rope.scaling.type", "is none that is known");
        }
        // Others have the list and do without it.
        if architecture.contains("vl")
            && let Some(Value::List(sections)) = self.value("rope.dimension_sections")
            && sections.wholes.iter().take(3).all(|length| *length == 0)
        {
            return self.refuse("rope.dimension_sections", "has no section");
        }
        Ok(())
    }

    /// Numbers that everything else is multiplied by or divided through.
    fn check_numbers(&self) -> Result<(), GgufProblem> {
        for (key, value) in self.header.values(&self.prefix) {
            let name = key.strip_prefix(&self.prefix).unwrap_or(key);
            let refused = |reason| {
                Err(GgufProblem::Hyperparameter {
                    key: shown(key),
                    reason,
                })
            };
            match value.real() {
                Some(real) if name.ends_with("epsilon") && !(0.0..1.0).contains(&real) => {
                    return refused("is not between 0 and 1");
                }
                Some(real) if name.starts_with("rope.") && !real.is_finite() => {
                    return refused("is no number");
                }
                Some(real) if name.starts_with("rope.freq_base") && real <= 0.0 => {
                    return refused("is not above 0");
                }
                _ => {}
            }
            if name == "wkv.head_size" && matches!(value, Value::Whole(0)) {
                return refused("is 0");
            }
        }
        Ok(())
    }

    /// A model that ranks has a head with a row for each label, or one: llama.cpp reads as many
    /// numbers of its result, whatever it has.
    fn check_ranking(&self, tensors: &Tensors) -> Result<(), GgufProblem> {
        if self.whole("pooling_type") != POOLING_RANK {
            return Ok(());
        }
        let labels = match self.value("classifier.output_labels") {
            Some(Value::List(list)) => list.count.max(1),
            _ => 1,
        };
        match tensors.label_rows {
            None => Err(GgufProblem::Missing(CLASSES_OUT.into())),
            Some((_, rows)) if rows == labels => Ok(()),
            Some((name, rows)) => Err(GgufProblem::Tensor {
                name: name.into(),
                reason: TensorReason::Labels { rows, labels },
            }),
        }
    }

    fn check_chat(&self) -> Result<(), GgufProblem> {
        if let Some(Value::Flag(false)) = self.value("attention.causal") {
            return self.refuse("attention.causal", "is false, so it cannot write text");
        }
        Ok(())
    }
}

pub(super) fn summary(header: &Header, tensors: &Tensors, bytes: u64) -> GgufSummary {
    let text = |key| header.text(key).map(str::to_owned);
    let architecture = text("general.architecture").unwrap_or_default();
    let context_tokens = header
        .whole(&format!("{architecture}.context_length"))
        .and_then(|tokens| u32::try_from(tokens).ok());
    GgufSummary {
        version: header.version,
        name: text("general.name"),
        licence: text("general.license"),
        context_tokens,
        vocabulary_count: header.tokens.as_ref().map_or(0, |tokens| tokens.count),
        tensor_count: header.tensor_count,
        parameter_count: tensors.element_count,
        file_type: header.whole("general.file_type"),
        pooling: match header.whole(&format!("{architecture}.pooling_type")) {
            Some(1..POOLING_RANK) => Some(Pooling::Vector),
            Some(POOLING_RANK) => Some(Pooling::Rank),
            Some(_) | None => None,
        },
        chat_template: text(TEMPLATE),
        bytes,
        shape: shape::of(header, &architecture, tensors),
        architecture,
    }
}
