//! LoRA adapters, against the model that they are for.

use super::*;

const A: &str = "blk.0.ffn_down.weight.lora_a";
const B: &str = "blk.0.ffn_down.weight.lora_b";

/// With a matrix, one of three axes, one in nvfp4, and an output of its own.
pub fn model() -> Builder {
    Builder::model()
        .tensor("output.weight", &[2, 3], 0, 24)
        .tensor("blk.0.ffn_down.weight", &[4, 6], 0, 96)
        .tensor("blk.0.ffn_up_exps.weight", &[4, 6, 2], 0, 192)
        .tensor("blk.0.ffn_up.weight", &[64, 2], 40, 72)
}

fn keys() -> Builder {
    Builder::empty()
        .text("general.architecture", "llama")
        .text("general.type", "adapter")
        .text("adapter.type", "lora")
        .real("adapter.lora.alpha", 8.0)
}

/// Of rank 2.
fn adapter() -> Builder {
    keys().tensor(A, &[4, 2], 0, 32).tensor(B, &[2, 6], 0, 48)
}

/// What the fuzzer begins with.
pub fn seeds() -> [Builder; 2] {
    [adapter(), wide()]
}

fn wide() -> Builder {
    keys()
        .tensor("blk.0.ffn_up_exps.weight.lora_a", &[4, 3, 2], 1, 48)
        .tensor("blk.0.ffn_up_exps.weight.lora_b", &[3, 6, 2], 1, 72)
        .tensor("token_embd.weight.lora_a", &[5, 3], 0, 60)
        .tensor("token_embd.weight.lora_b", &[5, 2], 30, 20)
        .tensor("blk.0.attn_norm.weight", &[2], 0, 8)
}

fn fitted(model: &Builder, adapter: &Builder) -> Result<AdapterSummary, GgufFault> {
    let (model, adapter) = (model.build(), adapter.build());
    let weights = Weights::read_from(&*model, model.len() as u64).unwrap();
    weights.inspect_from(&*adapter, adapter.len() as u64)
}

#[test]
fn an_adapter_that_fits_says_what_it_is() {
    let summary = fitted(&model(), &adapter()).unwrap();
    assert_eq!((summary.weight_count, summary.rank_max), (1, 2));
    let summary = fitted(&model(), &wide()).unwrap();
    assert_eq!((summary.weight_count, summary.rank_max), (2, 5));
    // llama.cpp takes a missing alpha for none.
    assert!(fitted(&model(), &adapter().without("adapter.lora.alpha")).is_ok());
}

#[test]
fn each_breach_of_an_adapter_is_named() {
    let pair = |name: &str, a: &[u64], b: &[u64]| {
        let bytes = |shape: &[u64]| usize::try_from(shape.iter().product::<u64>()).unwrap() * 4;
        keys()
            .tensor(&format!("{name}.lora_a"), a, 0, bytes(a))
            .tensor(&format!("{name}.lora_b"), b, 0, bytes(b))
    };
    let down = |a: &[u64], b: &[u64]| pair("blk.0.ffn_down.weight", a, b);
    let tied = Builder::model();
    let cases: Vec<(&str, Builder, Builder)> = vec![
        ("`general.type` is not `adapter`", model(), model()),
        (
            "`general.type` is not",
            model(),
            adapter().whole("general.type", 7),
        ),
        (
            "`adapter.type` is not `lora`",
            model(),
            adapter().text("adapter.type", "dora"),
        ),
        (
            "architecture` is missing",
            model(),
            adapter().without("general.architecture"),
        ),
        (
            "architecture` should be",
            model(),
            adapter().whole("general.architecture", 1),
        ),
        (
            "for `qwen2` models",
            model(),
            adapter().text("general.architecture", "qwen2"),
        ),
        // llama.cpp asserts on each of the three.
        (
            "alpha` should be",
            model(),
            adapter().whole("adapter.lora.alpha", 8),
        ),
        (
            "alpha` should be",
            model(),
            adapter().raw("adapter.lora.alpha", 12, 8_f64.to_le_bytes().to_vec()),
        ),
        (
            "alpha` should be",
            model(),
            adapter().real("adapter.lora.alpha", f32::NAN),
        ),
        (
            "mid-prompt",
            model(),
            adapter().whole("adapter.alora.invocation_tokens", 7),
        ),
        ("any `.lora_a`", model(), keys()),
        (
            "lacks its other half",
            model(),
            keys().tensor(A, &[4, 2], 0, 32),
        ),
        (
            "neither a `.lora_a`",
            model(),
            adapter().tensor("blk.0.x.weight", &[4], 0, 16),
        ),
        (
            "neither a `.lora_a`",
            model(),
            adapter().tensor("blk.0.ffn_down.lora_b.weight.lora_a", &[4, 2], 0, 32),
        ),
        (
            "element type 26",
            model(),
            keys().tensor(A, &[4, 2], 26, 32).tensor(B, &[2, 6], 0, 48),
        ),
        (
            "does not have",
            model(),
            pair("blk.9.ffn_down.weight", &[4, 2], &[2, 6]),
        ),
        ("weight of 4x6x1x1", model(), down(&[3, 2], &[2, 6])),
        ("weight of 4x6x1x1", model(), down(&[4, 2], &[2, 5])),
        ("weight of 4x6x1x1", model(), down(&[4, 2], &[3, 6])),
        // These two pass llama.cpp, and end its process when it computes.
        ("weight of 4x6x1x1", model(), down(&[4, 2, 2], &[2, 6])),
        (
            "weight of 4x6x2x1",
            model(),
            pair("blk.0.ffn_up_exps.weight", &[4, 2], &[2, 6]),
        ),
        ("rank 5000", model(), down(&[4, 5_000], &[5_000, 6])),
        (
            "in nvfp4",
            model(),
            pair("blk.0.ffn_up.weight", &[64, 1], &[1, 2]),
        ),
        // And so does this.
        (
            "for its output",
            tied,
            pair("token_embd.weight", &[5, 3], &[5, 2]),
        ),
    ];
    for (said, model, adapter) in cases {
        let fault = fitted(&model, &adapter).unwrap_err().to_string();
        assert!(fault.contains(said), "{said}: {fault}");
    }
}

#[test]
fn an_adapter_is_no_model_and_has_a_place_in_a_depot() {
    let file = adapter().build();
    let fault = inspected(&file).unwrap_err().to_string();
    assert!(fault.contains("local.adapters"), "{fault}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    std::fs::write(&path, &file).unwrap();
    assert_eq!(inspect_any(&path).unwrap().architecture, "llama");
    std::fs::write(&path, keys().tensor(A, &[4, 2], 0, 32).build()).unwrap();
    let fault = inspect_any(&path).unwrap_err().to_string();
    assert!(fault.contains("other half"), "{fault}");
}

/// One said it had 2^64 layers, and each was counted with the numbers it keeps of a token.
#[test]
fn an_adapter_is_not_believed_how_many_layers_it_has() {
    let count = u64::MAX.to_le_bytes().to_vec();
    let file = adapter().raw("llama.block_count", 10, count).build();
    let summary = inspect_any_from(&*file, file.len() as u64).unwrap();
    assert_eq!(summary.shape.layers, 512);
    assert_eq!(summary.shape.attention.len(), 512);
}

proptest! {
    #[test]
    fn random_changes_of_an_adapter_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 1_usize..9), 1..6)
    ) {
        let model = model().build();
        let weights = Weights::read_from(&*model, model.len() as u64).unwrap();
        let mut file = adapter().build();
        for (index, value, width) in changes {
            let at = index.index(file.len());
            let end = (at + width).min(file.len());
            file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        }
        let _ = weights.inspect_from(&*file, file.len() as u64);
    }
}
