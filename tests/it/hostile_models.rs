//! Spoilt model files before the engine's process, with this one as its parent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use domain::{Backend, ChatRequest, Findings, Message, Outbound, Role, Tokens, Trust, collect};
use engine::{EngineConfig, LoadError, Program, Remote};
use futures::StreamExt;
use loadtest::Sound;
use tokio::task::JoinSet;

use crate::harness::{Hedge, PATIENCE, ask, eventually, fake, hedge, root, signal, upstream};
use http::StatusCode;

const FILES: u64 = 200;
/// Files under trial at once.
const AT_ONCE: usize = 4;

/// What became of a file, or of the process that was given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Not given to llama.cpp.
    Refused,
    RefusedByLlama,
    /// The process ended each time.
    EndedLoading,
    /// It loaded, and its answer failed: it gave no numbers, or the process ended.
    NoAnswer,
    Answered,
}

fn sound() -> Sound {
    Sound::read(std::fs::read(root().join("models/hedge-tiny.gguf")).unwrap()).unwrap()
}

fn program() -> Program {
    Program {
        path: PathBuf::from(env!("CARGO_BIN_EXE_hedge")),
        args: ["engine", "--log", "off"].map(str::to_owned).to_vec(),
        environment: vec![("GGML_NO_BACKTRACE".to_owned(), "1".to_owned())],
    }
}

fn question() -> Outbound {
    let request = ChatRequest {
        output_tokens_max: Some(Tokens(4)),
        ..ChatRequest::new(
            "m",
            vec![Message::new(
                Role::User,
                "What is the capital of Portugal? \u{0}\u{7f} 𝄞",
            )],
        )
    };
    let findings = Findings::default();
    Outbound::seal("r".into(), "m".into(), request, &findings, Trust::Device)
}

/// Loads the file in a process of its own and asks it once.
async fn tried(path: &Path) -> (Outcome, String) {
    let mut config = EngineConfig::new(path, "m");
    config.threads = Some(1);
    let started = tokio::time::timeout(PATIENCE, Remote::start(config, program())).await;
    let (remote, driver) = match started.expect("a load ends, one way or the other") {
        Ok(started) => started,
        Err(LoadError::Elsewhere { words }) if words.contains("not given to llama.cpp") => {
            return (Outcome::Refused, words);
        }
        Err(LoadError::Elsewhere { words }) => return (Outcome::RefusedByLlama, words),
        Err(error) => return (Outcome::EndedLoading, error.to_string()),
    };
    let mut driving = JoinSet::new();
    driving.spawn(driver.run());
    let answer = async { collect(remote.chat(question()).await?).await };
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    let outcome = match answer.expect("a reply ends, one way or the other") {
        Ok(_) => (Outcome::Answered, String::new()),
        Err(error) => (Outcome::NoAnswer, error.to_string()),
    };
    remote.stop();
    driving.join_next().await.unwrap().unwrap();
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_spoilt_models_leave_the_parent_as_it_was() {
    let sound = sound();
    let folder = tempfile::tempdir().unwrap();
    let trials = futures::stream::iter(0..FILES).map(|seed| {
        let spoilt = sound.spoilt(seed);
        let path = folder.path().join(format!("{seed}.gguf"));
        async move {
            std::fs::write(&path, &spoilt.bytes).unwrap();
            let (outcome, words) = tried(&path).await;
            std::fs::remove_file(&path).unwrap();
            if matches!(outcome, Outcome::EndedLoading | Outcome::NoAnswer) {
                eprintln!("{outcome:?}: {}: {words}", spoilt.what);
            }
            if outcome == Outcome::Refused {
                assert!(words.contains(": not a usable GGUF file: "), "{words}");
            }
            outcome
        }
    });
    let outcomes: Vec<Outcome> = trials.buffer_unordered(AT_ONCE).collect().await;
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome).or_insert(0) += 1;
    }
    eprintln!("{counts:?}");
    assert_eq!(counts.values().sum::<u64>(), FILES);
    let (outcome, words) = tried(&root().join("models/hedge-tiny.gguf")).await;
    assert_eq!(outcome, Outcome::Answered, "{words}");
}

/// A file that is replaced while the node runs is looked over again by the next process.
#[tokio::test]
async fn a_file_replaced_by_a_spoilt_one_costs_the_local_model_and_nothing_else() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::copy(root().join("models/hedge-tiny.gguf"), &path).unwrap();
    let config = format!("[local]\nmodel = {path:?}\n{}", upstream(&fake, ""));
    let hedge = Hedge::start(&config).await;
    let engine = hedge.engine_pid().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // More tensors than there are bytes for.
    bytes[12] = 0xff;
    let spoilt = folder.path().join("spoilt");
    std::fs::write(&spoilt, bytes).unwrap();
    std::fs::rename(&spoilt, &path).unwrap();
    signal(engine, "-KILL");
    eventually("the model is given up", async || {
        hedge.get("/readyz").await.text.contains("quarantined")
    })
    .await;
    let reply = hedge.chat(&ask("fake/bench", "hello")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert!(hedge.log().contains("tensors, more than"), "no reason");
}

#[tokio::test]
async fn a_spoilt_file_is_refused_at_the_start_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut bytes = std::fs::read(root().join("models/hedge-tiny.gguf")).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&path, bytes).unwrap();
    let output = hedge()
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("HEDGE_LOCAL__MODEL", &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("past the end of the file"), "{said}");
}
