//! The guard before llama.cpp: any bytes as a model, a projector, or an adapter of a model that is
//! known.

#![no_main]

use std::sync::LazyLock;

use depot::gguf::{
    AdapterSummary, GgufFault, GgufSummary, ProjectorSummary, Weights, inspect_any_from,
    inspect_from, inspect_projector_from,
};
use libfuzzer_sys::fuzz_target;

/// What adapters are for: written along with the inputs to begin with.
const MODEL: &[u8] = include_bytes!("../adapted.gguf");

static WEIGHTS: LazyLock<Weights> = LazyLock::new(|| {
    Weights::read_from(MODEL, MODEL.len() as u64).expect("the model is sound")
});

fuzz_target!(|bytes: &[u8]| {
    let length = bytes.len() as u64;
    // A file that was cut short after its length was asked for, and one of a length that is a lie.
    for claimed in [length.saturating_mul(2), 1 << 50] {
        let _ = inspect_from(bytes, claimed);
        let _ = inspect_any_from(bytes, claimed);
        let _ = inspect_projector_from(bytes, claimed);
        let _ = WEIGHTS.inspect_from(bytes, claimed);
    }
    judged(inspect_from(bytes, length), |found| model(found, length));
    judged(inspect_any_from(bytes, length), |found| {
        let shape = &found.shape;
        assert!(shape.attention.len() <= 512 && shape.layer_weights.len() <= 512);
    });
    judged(inspect_projector_from(bytes, length), |found| {
        projector(found, length);
    });
    judged(WEIGHTS.inspect_from(bytes, length), |found| {
        adapter(found, length);
    });
});

fn judged<T>(found: Result<T, GgufFault>, check: impl FnOnce(&T)) {
    match found {
        Ok(found) => check(&found),
        Err(fault) => assert!(fault.to_string().len() < 1_000, "{fault}"),
    }
}

// What the rest of the program takes for granted of a file that has passed.

fn model(found: &GgufSummary, length: u64) {
    let shape = &found.shape;
    assert!(shape.weight_bytes <= length);
    assert!((1..=512).contains(&shape.layers));
    assert_eq!(shape.attention.len() as u64, shape.layers);
    assert_eq!(shape.layer_weights.len() as u64, shape.layers);
    let layers: u64 = shape.layer_weights.iter().sum();
    assert!(layers <= shape.weight_bytes && shape.output_bytes <= shape.weight_bytes);
    assert!(found.vocabulary_count > 0 && found.context_tokens.is_some());
    assert!(!found.architecture.is_empty());
}

fn projector(found: &ProjectorSummary, length: u64) {
    assert!(found.weight_bytes <= length && found.compute_bytes > 0);
}

fn adapter(found: &AdapterSummary, length: u64) {
    assert!(found.weight_count > 0 && found.bytes == length);
    assert!((1..=4_096).contains(&found.rank_max));
}
