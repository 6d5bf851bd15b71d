//! Embeddings and rankings by models on this machine, each in a process of its own.
//!
//! The model is `fixtures/rank-tiny.gguf`, whose scores its maker says; with another number in its
//! header it makes embeddings.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Hedge, Reply, eventually, hedge, request, root, signal};

/// A folder with both models, and the settings that name them.
fn models() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let rank = root().join("tests/fixtures/rank-tiny.gguf");
    let mut bytes = std::fs::read(&rank).unwrap();
    let key = b"bert.pooling_type";
    let at = bytes.windows(key.len()).position(|window| window == key);
    // After the key comes the value's type, then the value: 1 is the mean.
    bytes[at.unwrap() + key.len() + 4] = 1;
    let embed = folder.path().join("embed-tiny.gguf");
    std::fs::write(&embed, bytes).unwrap();
    let config = format!(
        "[embeddings]\nmodel = {embed:?}\nalso = [\"text-embedding-3-small\"]\n\
         [rerank]\nmodel = {rank:?}\n"
    );
    (folder, config)
}

async fn post(hedge: &Hedge, path: &str, body: &Value) -> Reply {
    let mut request = request(Method::POST, path, Bytes::from(body.to_string()));
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    hedge.send(request).await
}

fn embed_ask(texts: &[&str]) -> Value {
    json!({"model": "embed-tiny", "input": texts})
}

fn rank_ask() -> Value {
    json!({
        "model": "rank-tiny",
        "query": "what is a panda?",
        "documents": ["it is a bear", {"text": "the giant panda is a bear of china."}, "hi"],
    })
}

async fn start(more: &str) -> (TempDir, Hedge) {
    let (folder, config) = models();
    let hedge = Hedge::start(&format!("{config}{more}")).await;
    eventually("both models are there", async || {
        let embedded = post(&hedge, "/v1/embeddings", &embed_ask(&["a"])).await;
        let ranked = post(&hedge, "/v1/rerank", &rank_ask()).await;
        // Until they are, callers are told to come back.
        for reply in [&embedded, &ranked] {
            let status = reply.status;
            assert!(
                status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE,
                "{}",
                reply.text
            );
        }
        embedded.status == StatusCode::OK && ranked.status == StatusCode::OK
    })
    .await;
    (folder, hedge)
}

fn vectors(reply: &Reply) -> Vec<Vec<f64>> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let json = reply.json();
    let data = json["data"].as_array().unwrap().iter();
    data.map(|item| {
        let vector = item["embedding"].as_array().unwrap().iter();
        vector.map(|value| value.as_f64().unwrap()).collect()
    })
    .collect()
}

fn cosine(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

/// The scores are those that `fixtures/make_rank_tiny.py` computes by itself.
#[tokio::test]
async fn documents_are_scored_as_the_models_weights_say() {
    let (_folder, hedge) = start("").await;
    let reply = post(&hedge, "/rerank", &rank_ask()).await;
    let json = reply.json();
    let results = json["results"].as_array().unwrap();
    let places: Vec<u64> = results
        .iter()
        .map(|result| result["index"].as_u64().unwrap())
        .collect();
    assert_eq!(places, [2, 0, 1], "{json}");
    for (result, expected) in results.iter().zip([-0.39373, -0.65060, -0.70707]) {
        let score = result["relevance_score"].as_f64().unwrap();
        assert!((score - expected).abs() < 2e-3, "{score} for {expected}");
    }
    assert_eq!(json["usage"]["prompt_tokens"], 17 + 32 + 13);
    assert!(reply.route().starts_with("local:rank-tiny"), "{reply:?}");
    let long = json!({
        "model": "rank-tiny", "query": "a", "documents": ["b", "a ".repeat(100)],
    });
    let refused = post(&hedge, "/rerank", &long).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.json()["error"]["param"], "documents[1]");
}

#[tokio::test]
async fn vectors_are_the_same_alone_among_many_and_shortened() {
    let (_folder, hedge) = start("").await;
    let texts: Vec<String> = (0..300).map(|at| format!("text number {at} a b")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let many = vectors(&post(&hedge, "/v1/embeddings", &embed_ask(&texts)).await);
    assert_eq!(many.len(), 300);
    for at in [0, 7, 299] {
        let alone = vectors(&post(&hedge, "/v1/embeddings", &embed_ask(&[texts[at]])).await);
        assert!(cosine(&alone[0], &many[at]) > 0.99999, "{at}");
        assert!((cosine(&alone[0], &alone[0]) - 1.0).abs() < 1e-5);
    }
    assert!(
        cosine(&many[0], &many[299]) < 0.9999,
        "two texts have one vector"
    );
    let short = json!({
        "model": "text-embedding-3-small", "input": texts[0], "dimensions": 8,
        "encoding_format": "base64",
    });
    let short = post(&hedge, "/v1/embeddings", &short).await;
    let written = short.json()["data"][0]["embedding"].as_str().unwrap().len();
    // 32 bytes in base64.
    assert_eq!(written, 44, "{}", short.text);
    for (body, param) in [
        (embed_ask(&["a", &"a ".repeat(70)]), "input[1]"),
        (embed_ask(&["a", ""]), "input[1]"),
        (
            json!({"model": "embed-tiny", "input": [[1, 999]]}),
            "input[0]",
        ),
        (
            json!({"model": "embed-tiny", "input": "a", "dimensions": 33}),
            "dimensions",
        ),
    ] {
        let refused = post(&hedge, "/v1/embeddings", &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text);
    }
}

/// Each process is killed in turn under requests: all of them end, the next are answered, and the
/// proxy and the other processes are the ones they were.
#[tokio::test]
async fn a_killed_encoder_is_back_and_nobody_else_has_noticed() {
    let (_folder, hedge) = start("").await;
    let proxy = hedge.pid();
    for turn in 0..3 {
        let before: BTreeSet<u32> = hedge.engine_pids().into_iter().collect();
        assert_eq!(before.len(), 3, "one for each model");
        // The next is younger than all: so each has its turn.
        let killed = *before.first().unwrap();
        let texts: Vec<String> = (0..200).map(|at| format!("text number {at}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (embed, rank) = (embed_ask(&texts), rank_ask());
        let asked = join_all((0..8).map(|at| {
            let (path, body) = if at % 2 == 0 {
                ("/v1/embeddings", &embed)
            } else {
                ("/v1/rerank", &rank)
            };
            post(&hedge, path, body)
        }));
        let killing = async {
            tokio::task::yield_now().await;
            signal(killed, "-KILL");
        };
        let (replies, ()) = futures::future::join(asked, killing).await;
        for reply in replies {
            let is_error = reply.text.contains("\"error\"");
            assert!(reply.status == StatusCode::OK || is_error, "{reply:?}");
        }
        eventually("all are served again", async || {
            let embedded = post(&hedge, "/v1/embeddings", &embed_ask(&["a"])).await;
            let ranked = post(&hedge, "/v1/rerank", &rank_ask()).await;
            let read = post(&hedge, "/tokenize", &json!({"content": "a"})).await;
            [embedded, ranked, read]
                .iter()
                .all(|reply| reply.status == StatusCode::OK)
                && hedge.engine_pids().len() == 3
        })
        .await;
        let after: BTreeSet<u32> = hedge.engine_pids().into_iter().collect();
        assert_eq!(before.difference(&after).count(), 1, "{before:?} {after:?}");
        assert!(!after.contains(&killed));
        assert_eq!(hedge.pid(), proxy);
        assert_eq!(hedge.get("/healthz").await.status, StatusCode::OK);
        let metrics = hedge.metrics().await;
        let counted = format!("hedge_engine_restarts_total {}", turn + 1);
        assert!(metrics.lines().any(|line| line == counted), "{metrics}");
    }
}

#[tokio::test]
async fn as_threads_they_have_no_processes_and_the_same_answers() {
    let (_folder, hedge) = start("[local]\nisolation = \"thread\"\n").await;
    assert!(hedge.engine_pids().is_empty());
    let json = post(&hedge, "/v1/rerank", &rank_ask()).await.json();
    assert_eq!(json["results"][0]["index"], 2);
    let score = json["results"][0]["relevance_score"].as_f64().unwrap();
    assert!((score + 0.39373).abs() < 2e-3, "{score}");
}

#[tokio::test]
async fn the_processes_leave_with_the_proxy() {
    let (_folder, hedge) = start("").await;
    let pids = hedge.engine_pids();
    hedge.terminate();
    assert!(hedge.ended_well().await);
    let is_there = |pid: &u32| std::path::Path::new("/proc").join(pid.to_string()).exists();
    eventually("they are gone", async || !pids.iter().any(is_there)).await;
}

/// A file is looked over before llama.cpp opens it.
#[test]
fn a_model_without_a_head_is_refused_with_words() {
    let (folder, _) = models();
    let mut bytes = std::fs::read(root().join("tests/fixtures/rank-tiny.gguf")).unwrap();
    let name = b"cls.output.weight";
    let at = bytes.windows(name.len()).position(|window| window == name);
    bytes[at.unwrap()] = b'x';
    let path = folder.path().join("headless.gguf");
    std::fs::write(&path, bytes).unwrap();
    let config = folder.path().join("hedge.toml");
    let rank = format!("listen = \"127.0.0.1:0\"\n[rerank]\nmodel = {path:?}\n");
    std::fs::write(&config, rank).unwrap();
    let ended = hedge()
        .args(["serve", "--config"])
        .arg(&config)
        .env("XDG_DATA_HOME", folder.path())
        .output()
        .unwrap();
    assert!(!ended.status.success());
    let said = String::from_utf8(ended.stderr).unwrap();
    for words in ["rerank.model", "`cls.weight` gives 32 numbers for 1 labels"] {
        assert!(said.contains(words), "{said}");
    }
}
