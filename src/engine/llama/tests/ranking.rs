//! The tests' own reranker, held against what its maker computes in plain Python
//! (`tests/fixtures/make_rank_tiny.py`).

use std::path::{Path, PathBuf};

use domain::{BackendError, EmbedInput, Embedder, Reranker};

use crate::embedding::{EmbedderConfig, LocalEmbedder};
use crate::llama::embedder::{Slot, slots};
use crate::load::LoadError;
use crate::ranking::LocalReranker;

const PANDA: &str = "what is a panda?";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/rank-tiny.gguf")
}

async fn scores(reranker: &LocalReranker, query: &str, documents: &[&str]) -> Vec<f32> {
    let documents = documents.iter().map(|text| (*text).to_owned()).collect();
    let scores = reranker.rank(query.to_owned(), documents).await;
    scores.unwrap().scores
}

#[tokio::test]
async fn scores_are_what_the_weights_say_alone_and_together() {
    let (reranker, driver) = LocalReranker::load(EmbedderConfig::new(path(), "r")).unwrap();
    assert_eq!(reranker.card().input_tokens_max, 64);
    for (query, documents, expected) in [
        (
            PANDA,
            &["hi", "it is a bear", "the giant panda is a bear of china."][..],
            &[-0.39373, -0.65060, -0.70707][..],
        ),
        ("capital of france", &["paris"], &[-0.43309]),
    ] {
        let together = scores(&reranker, query, documents).await;
        for ((document, score), expected) in documents.iter().zip(&together).zip(expected) {
            assert!((score - expected).abs() < 2e-3, "{document}: {score}");
            let alone = scores(&reranker, query, &[document]).await[0];
            assert!((alone - score).abs() < 1e-4, "{document}: {alone} {score}");
        }
    }
    // More documents than a batch takes.
    let many = scores(&reranker, PANDA, &["hi"; 100]).await;
    assert_eq!(many.len(), 100);
    assert!(
        many.iter().all(|score| (score + 0.39373).abs() < 2e-3),
        "{many:?}"
    );
    let long = reranker.rank("a".to_owned(), vec!["b ".repeat(64)]).await;
    assert!(
        matches!(long, Err(BackendError::Declined { .. })),
        "{long:?}"
    );
    reranker.stop();
    driver.run().await.unwrap();
}

#[tokio::test]
async fn a_model_does_what_its_file_says_and_nothing_else() {
    let refused = LocalEmbedder::load(EmbedderConfig::new(path(), "e"));
    assert!(matches!(refused, Err(LoadError::NotEmbedding { .. })));
    // As an encoder with the mean of its vectors.
    let mut bytes = std::fs::read(path()).unwrap();
    let key = b"bert.pooling_type";
    let at = bytes.windows(key.len()).position(|window| window == key);
    bytes[at.unwrap() + key.len() + 4] = 1;
    let file = format!("hedge-mean-{}.gguf", std::process::id());
    let mean = std::env::temp_dir().join(file);
    std::fs::write(&mean, bytes).unwrap();
    let refused = LocalReranker::load(EmbedderConfig::new(&mean, "r"));
    let embedder = LocalEmbedder::load(EmbedderConfig::new(&mean, "e"));
    std::fs::remove_file(&mean).unwrap();
    assert!(matches!(refused, Err(LoadError::NotRanking { .. })));
    let (embedder, _driver) = embedder.unwrap();
    assert_eq!(embedder.card().dimensions, 32);
    // As long as the model reads, and one more; nothing but white space has its two ends.
    let text = |text: String| vec![EmbedInput::Text(text)];
    assert!(embedder.embed(text("a ".repeat(62))).await.is_ok());
    assert!(embedder.embed(text(" ".to_owned())).await.is_ok());
    let long = embedder.embed(text("a ".repeat(63))).await;
    assert!(
        matches!(long, Err(BackendError::Declined { .. })),
        "{long:?}"
    );
}

#[test]
fn a_template_is_cut_at_its_marks() {
    let text = |text: &str| Slot::Text(text.to_owned());
    for (template, expected) in [
        (
            "<q>{query}<d>{document}<e>",
            vec![
                text("<q>"),
                Slot::Query,
                text("<d>"),
                Slot::Document,
                text("<e>"),
            ],
        ),
        ("{document}{query}", vec![Slot::Document, Slot::Query]),
        ("{query", vec![text("{query")]),
        ("", vec![]),
    ] {
        assert_eq!(slots(template), expected, "{template}");
    }
}
