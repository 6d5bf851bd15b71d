//! The bundled model made an embedding model by a word in its header.

use domain::{BackendError, EmbedInput, Embedder};

use super::model_path;
use crate::embedding::{EmbedderConfig, LocalEmbedder};
use crate::encoding::EmbeddingDriver;
use crate::llama::raw::TILE_ROWS;
use crate::load::LoadError;

/// A key and a `u32`, as GGUF writes them.
fn pair(key: &str, value: u32) -> Vec<u8> {
    const U32: u32 = 4;
    let mut bytes = (key.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(&U32.to_le_bytes());
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes
}

/// `None` where there is no bundled model.
fn load(
    pooling: u32,
    name: &str,
    input_tokens_max: u32,
) -> Option<Result<(LocalEmbedder, EmbeddingDriver), LoadError>> {
    let mut bytes = std::fs::read(model_path()?).unwrap();
    let mut added = pair("llama.pooling_type", pooling);
    // What is added must not move the tensors off their alignment.
    added.extend(pair("padding.of_a_t", 0));
    assert_eq!(added.len() % 32, 0);
    // Magic, version, tensors, then how many pairs there are.
    let pairs = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    bytes[16..24].copy_from_slice(&(pairs + 2).to_le_bytes());
    bytes.splice(24..24, added);
    let file = format!("hedge-embed-{name}-{}.gguf", std::process::id());
    let path = std::env::temp_dir().join(file);
    std::fs::write(&path, bytes).unwrap();
    let mut config = EmbedderConfig::new(&path, "e");
    config.input_tokens_max = Some(input_tokens_max);
    let loaded = LocalEmbedder::load(config);
    std::fs::remove_file(&path).unwrap();
    Some(loaded)
}

fn texts(texts: &[&str]) -> Vec<EmbedInput> {
    texts
        .iter()
        .map(|text| EmbedInput::Text((*text).to_owned()))
        .collect()
}

fn cosine(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn texts_have_the_same_vectors_alone_and_together() {
    let Some(loaded) = load(3, "last", 128) else {
        return;
    };
    let (embedder, driver) = loaded.unwrap();
    let all = [
        "What is the capital of France?",
        "12 + 30",
        "Hello there, friend",
    ];
    let together = embedder.embed(texts(&all)).await.unwrap();
    assert_eq!(together.vectors.len(), 3);
    assert!(together.prompt_tokens > 3);
    for (text, vector) in all.iter().zip(&together.vectors) {
        assert_eq!(vector.len(), embedder.card().dimensions as usize);
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-5);
        let alone = embedder.embed(texts(&[text])).await.unwrap();
        assert!(cosine(vector, &alone.vectors[0]) > 0.9999, "{text}");
    }
    let [one, other, _] = &together.vectors[..] else {
        panic!("three vectors");
    };
    assert!(cosine(one, other) < 0.999, "two texts have one vector");
    let long = embedder.embed(texts(&[&"long ".repeat(200)])).await;
    assert!(
        matches!(long, Err(BackendError::Declined { .. })),
        "{long:?}"
    );
    embedder.stop();
    driver.run().await.unwrap();
}

/// Few tokens are computed otherwise than many.
#[tokio::test]
async fn few_and_many_tokens_have_the_same_vectors_whatever_the_longest_input() {
    let all: Vec<String> = (1..=9)
        .map(|at| format!("What is {at} and {}, and the capital of France?", at * 7))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for input_tokens_max in [300, 509] {
        let Some(loaded) = load(1, &input_tokens_max.to_string(), input_tokens_max) else {
            return;
        };
        let (embedder, driver) = loaded.unwrap();
        let together = embedder.embed(texts(&all)).await.unwrap();
        assert!(together.prompt_tokens > TILE_ROWS);
        for (text, vector) in all.iter().zip(&together.vectors) {
            let alone = embedder.embed(texts(&[text])).await.unwrap();
            assert!(alone.prompt_tokens < TILE_ROWS);
            assert!(cosine(vector, &alone.vectors[0]) > 0.9999, "{text}");
        }
        embedder.stop();
        driver.run().await.unwrap();
    }
}

#[test]
fn a_model_without_a_pooling_of_one_vector_is_refused() {
    for pooling in [0, 4] {
        let Some(loaded) = load(pooling, &pooling.to_string(), 128) else {
            return;
        };
        let refused = loaded.map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, LoadError::NotEmbedding { .. }),
            "{refused}"
        );
    }
}
