//! What of a header decides how much memory a model takes, beside its weights.

use super::header::{Header, Value};
use super::model::LAYERS_MAX;
use super::tensor::Tensors;

/// Sizes of a model's parts. 0 where the header does not say and no default is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GgufShape {
    /// Of all tensors.
    pub weight_bytes: u64,
    pub layers: u64,
    /// Bytes of each layer's tensors, one entry for each layer.
    pub layer_weights: Vec<u64>,
    /// Of the tensors that are computed with after the last layer.
    pub output_bytes: u64,
    pub embedding: u64,
    pub heads: u64,
    /// The widest layer's; of an expert mixture, all experts that one token uses.
    pub feed_forward: u64,
    /// One entry for each layer.
    pub attention: Vec<Attention>,
    /// Numbers of state that one sequence holds in each layer, whatever its length: recurrent
    /// models and hybrids, 0 for all others. An upper estimate, as it counts every layer.
    pub state_numbers: u64,
}

/// What one layer keeps of each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention {
    /// Numbers in the keys of all its heads; 0 for a layer without attention.
    pub keys: u64,
    pub values: u64,
}

/// Read after [`super::model::check`], so that counts lie within its bounds; of an adapter, which that
/// does not look at, no more layers are told than a model may have. Windows and compressed caches are
/// not looked at: the full cache is an upper estimate of both.
pub(super) fn of(header: &Header, architecture: &str, tensors: &Tensors) -> GgufShape {
    let key = |name: &str| format!("{architecture}.{name}");
    let whole = |name: &str| header.whole(&key(name)).unwrap_or(0);
    let per_layer = |name: &str| match header.value(&key(name)) {
        Some(Value::Whole(whole)) => vec![*whole],
        Some(Value::List(list)) => list.wholes.clone(),
        _ => Vec::new(),
    };
    let layers = whole("block_count").min(LAYERS_MAX);
    let embedding = whole("embedding_length");
    let heads_listed = per_layer("attention.head_count");
    let heads = heads_listed.iter().copied().max().unwrap_or(0);
    let key_heads = per_layer("attention.head_count_kv");
    // Without heads a whole embedding a token: more than any architecture keeps.
    let head = embedding.checked_div(heads).unwrap_or(embedding);
    let length = |name: &str| header.whole(&key(name)).unwrap_or(head);
    let (key_length, value_length) = (
        length("attention.key_length"),
        length("attention.value_length"),
    );
    let at = |list: &[u64], layer: u64| {
        let layer = usize::try_from(layer).unwrap_or(usize::MAX);
        list.get(layer).or(list.first()).copied()
    };
    let attention = (0..layers).map(|layer| {
        let heads = at(&key_heads, layer)
            .or_else(|| at(&heads_listed, layer))
            .unwrap_or(1);
        Attention {
            keys: heads.saturating_mul(key_length),
            values: heads.saturating_mul(value_length),
        }
    });
    let experts = per_layer("expert_used_count").into_iter().max();
    let feed_forward = per_layer("feed_forward_length").into_iter().max();
    let of_experts = whole("expert_feed_forward_length").saturating_mul(experts.unwrap_or(0));
    GgufShape {
        weight_bytes: tensors.data_bytes,
        layers,
        layer_weights: (0..layers)
            .map(|layer| bytes_of(&tensors.block_bytes, layer))
            .collect(),
        output_bytes: tensors.output_bytes,
        embedding,
        heads,
        feed_forward: feed_forward.unwrap_or(0).max(of_experts),
        attention: attention.collect(),
        state_numbers: state_numbers(embedding, whole),
    }
}

/// 0 for a block without tensors.
fn bytes_of(block_bytes: &[u64], layer: u64) -> u64 {
    let layer = usize::try_from(layer).unwrap_or(usize::MAX);
    block_bytes.get(layer).copied().unwrap_or(0)
}

/// Mamba's convolution and state, or RWKV's shifted tokens and heads, of one layer.
fn state_numbers(embedding: u64, whole: impl Fn(&str) -> u64) -> u64 {
    let inner = whole("ssm.inner_size");
    let state = whole("ssm.state_size");
    let groups = whole("ssm.group_count").max(1);
    let convolved = inner.saturating_add(groups.saturating_mul(state).saturating_mul(2));
    let mamba = whole("ssm.conv_kernel")
        .saturating_mul(convolved)
        .saturating_add(inner.saturating_mul(state));
    let head = whole("wkv.head_size");
    let rwkv = if head == 0 {
        0
    } else {
        embedding.saturating_mul(head.saturating_add(whole("token_shift_count").max(2)))
    };
    mamba.max(rwkv)
}
