//! LoRA adapters over real llama.cpp: small random ones, made here for the bundled model.

use std::io::Write;

use domain::{Findings, Outbound, Trust};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::NamedTempFile;

use super::*;
use crate::AdapterConfig;

/// The bundled model's `ffn_down`, in each layer.
const WIDE: u64 = 512;
const NARROW: u64 = 192;
const LAYERS: u64 = 6;
const RANK: u64 = 4;

fn text_bytes(text: &str) -> Vec<u8> {
    let length = (text.len() as u64).to_le_bytes();
    [&length, text.as_bytes()].concat()
}

/// An adapter file for the bundled model, with numbers drawn from `seed`. `wide` is [`WIDE`] for one
/// that fits.
fn file(seed: u64, wide: u64) -> NamedTempFile {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((2 * LAYERS).to_le_bytes());
    out.extend(4_u64.to_le_bytes());
    for (key, value) in [
        ("general.architecture", "llama"),
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
    ] {
        out.extend(text_bytes(key));
        out.extend(8_u32.to_le_bytes());
        out.extend(text_bytes(value));
    }
    out.extend(text_bytes("adapter.lora.alpha"));
    out.extend(6_u32.to_le_bytes());
    out.extend((RANK as f32).to_le_bytes());
    let mut data = Vec::new();
    let mut random = StdRng::seed_from_u64(seed);
    for layer in 0..LAYERS {
        for (half, shape) in [("a", [wide, RANK]), ("b", [RANK, NARROW])] {
            out.extend(text_bytes(&format!(
                "blk.{layer}.ffn_down.weight.lora_{half}"
            )));
            out.extend(2_u32.to_le_bytes());
            shape
                .iter()
                .for_each(|length| out.extend(length.to_le_bytes()));
            out.extend(0_u32.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            for _ in 0..shape[0] * shape[1] {
                data.extend(random.random_range(-0.75_f32..0.75).to_le_bytes());
            }
            data.resize(data.len().next_multiple_of(32), 0);
        }
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&out).unwrap();
    file
}

fn config(file: &NamedTempFile, name: &str) -> AdapterConfig {
    AdapterConfig {
        path: file.path().to_owned(),
        name: name.to_owned(),
        scale: 1.0,
        bytes: file.as_file().metadata().unwrap().len(),
    }
}

/// An engine with the adapters `one` and `two`.
fn engine_of_two(files: &[NamedTempFile; 2]) -> Option<(Engine, EngineDriver)> {
    load(|engine| {
        engine.adapters = vec![config(&files[0], "one"), config(&files[1], "two")];
    })
}

fn sealed_for(model: &str, request: ChatRequest) -> Outbound {
    let findings = Findings::default();
    Outbound::seal("r".into(), model.into(), request, &findings, Trust::Device)
}

/// What is asked of which model, with which list of adapters.
type Ask = (&'static str, Option<&'static str>);

const ASKS: [Ask; 5] = [
    ("tiny", None),
    ("one", None),
    ("two", None),
    (
        "tiny",
        Some(r#"[{"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.5}]"#),
    ),
    ("tiny", Some(r#"[{"id": 1, "scale": 1}]"#)),
];

async fn reply(engine: &Engine, (model, lora): Ask, question: &str) -> Reply {
    let asked = request(question, |request| {
        request.output_tokens_max = Some(Tokens(24));
        let lora = lora.map(|lora| serde_json::from_str(lora).unwrap());
        request
            .extra
            .extend(lora.map(|lora| ("lora".to_owned(), lora)));
    });
    let stream = engine.chat(sealed_for(model, asked)).await.unwrap();
    collect(stream).await.unwrap()
}

#[tokio::test]
async fn text_under_each_adapter_is_the_same_alone_and_among_others() {
    let files = [file(1, WIDE), file(2, WIDE)];
    let Some((engine, _driver)) = engine_of_two(&files) else {
        return;
    };
    let mut alone = Vec::new();
    for ask in ASKS {
        alone.push(reply(&engine, ask, QUESTION).await.choices[0].text());
    }
    let (plain, _) = load(|_| ()).unwrap();
    let bare = reply(&plain, ASKS[0], QUESTION).await;
    assert_eq!(
        alone[0],
        bare.choices[0].text(),
        "no adapter changes what is under none"
    );
    assert!(alone[0].contains(ANSWER), "{}", alone[0]);
    for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        assert_ne!(alone[one], alone[other], "{one} and {other}");
    }
    assert_eq!(alone[2], alone[4], "by name or by list");

    // All at once, twice each, and other texts between them.
    let asks = (0..3).flat_map(|round| ASKS.iter().enumerate().map(move |ask| (round, ask)));
    let among = asks.map(|(round, (at, ask))| {
        let engine = &engine;
        async move {
            let question = if round == 1 {
                "What is 2 + 3?"
            } else {
                QUESTION
            };
            let reply = reply(engine, *ask, question).await;
            assert_eq!(reply.started.model, ask.0);
            (round != 1).then(|| (at, reply.choices[0].text()))
        }
    });
    for (at, text) in join_all(among).await.into_iter().flatten() {
        assert_eq!(text, alone[at], "{:?}", ASKS[at]);
    }
}

#[tokio::test]
async fn what_the_cache_holds_under_one_adapter_serves_no_other() {
    let files = [file(1, WIDE), file(2, WIDE)];
    let Some((engine, _driver)) = engine_of_two(&files) else {
        return;
    };
    for first in [true, false] {
        for ask in &ASKS[..4] {
            let usage = reply(&engine, *ask, QUESTION).await.usage.unwrap();
            let cached = usage.cached_tokens.0;
            assert_eq!(cached == 0, first, "{ask:?}: {cached}");
        }
    }
}

#[tokio::test]
async fn each_adapter_is_a_model_on_the_card() {
    let files = [file(1, WIDE), file(2, WIDE)];
    let Some((engine, _driver)) = engine_of_two(&files) else {
        return;
    };
    let models = &engine.card().models;
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["tiny", "one", "two"]);
    assert!(
        models
            .iter()
            .all(|model| model.abilities == models[0].abilities)
    );
    let unknown = request(QUESTION, |request| {
        request
            .extra
            .insert("lora".to_owned(), json!([{"id": 2, "scale": 1.0}]));
    });
    let refused = engine.chat(sealed(unknown)).await.err();
    let Some(BackendError::Declined { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(reason.param.as_deref(), Some("lora[0].id"));
}

#[test]
fn an_adapter_of_another_shape_or_none_at_all_is_refused_in_words() {
    let Some(path) = model_path() else { return };
    let empty = NamedTempFile::new().unwrap();
    for bad in [file(1, WIDE + 32), empty] {
        let mut engine = EngineConfig::new(&path, "tiny");
        engine.adapters = vec![config(&bad, "bad")];
        let refused = Engine::load(engine, Arc::new(FakeCompiler)).err();
        let Some(LoadError::Refused { path, reason }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(path, bad.path());
        assert!(
            reason.contains("lora") || reason.contains("gguf"),
            "{reason}"
        );
    }
}
