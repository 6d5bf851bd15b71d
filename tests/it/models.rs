//! Several models on one machine: loaded on demand, unloaded when idle or in another's way.

use std::path::Path;
use std::process::Command;

use futures::future::join;
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Hedge, ask, eventually, hedge, root, with};

const QUESTION: &str = "What is the capital of Portugal?";
/// So that memory is what is said, whatever the machine.
const FIXED: &str = "prefix_cache_bytes_max = 0\n";

/// A folder of models: copies of the bundled one, with a file of settings for each.
fn models(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, settings) in files {
        let model = folder.path().join(format!("{name}.gguf"));
        std::fs::copy(root().join("models/hedge-tiny.gguf"), model).unwrap();
        let settings = format!("model = \"./{name}.gguf\"\n{settings}");
        std::fs::write(folder.path().join(format!("{name}.toml")), settings).unwrap();
    }
    folder
}

/// A node whose default model is loaded on demand too, and that computes every reply.
async fn start(folder: &TempDir, local: &str) -> Hedge {
    let folder = folder.path();
    let config = format!(
        "[cache]\nenabled = false\n[local]\nload = \"demand\"\nmodels_dir = {folder:?}\n{FIXED}{local}"
    );
    Hedge::start(&config).await
}

async fn view(hedge: &Hedge, model: &str) -> Value {
    let json = hedge.admin_get("/admin/v1/models").await.json();
    let models = json["models"].as_array().unwrap();
    let found = models.iter().find(|it| it["name"] == model);
    found
        .unwrap_or_else(|| panic!("no {model} in {json}"))
        .clone()
}

async fn state(hedge: &Hedge, model: &str) -> String {
    view(hedge, model).await["state"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn answers(hedge: &Hedge, model: &str) {
    let reply = hedge.chat(&ask(model, QUESTION)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    assert!(reply.content().contains("Lisbon"), "{}", reply.text);
    assert_eq!(reply.route(), format!("local:{model}"));
}

/// What one copy of the model is foretold to take.
async fn need(hedge: &Hedge) -> u64 {
    let need = &view(hedge, "a").await["memory_bytes_predicted"];
    need.as_u64().unwrap()
}

fn lives(pid: &Value) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn a_model_is_loaded_by_its_first_request_and_leaves_when_nobody_asks() {
    let folder = models(&[("a", "keep_alive_s = 1\nwarm_up = true\n"), ("b", "")]);
    let hedge = start(&folder, "").await;
    assert_eq!(hedge.engine_pid(), None, "nothing is loaded yet");
    let listed = hedge.get("/v1/models").await.text;
    for name in ["\"local\"", "\"a\"", "\"b\"", "\"hedge-tiny\""] {
        assert!(listed.contains(name), "{name} in {listed}");
    }
    answers(&hedge, "a").await;
    let seen = view(&hedge, "a").await;
    assert_eq!(seen["loads"], 1, "{seen}");
    let pid = seen["pid"].clone();
    if seen["state"] == "loaded" {
        assert!(lives(&pid), "{seen}");
    }
    assert_eq!(state(&hedge, "b").await, "unloaded");
    eventually("the idle model is unloaded", async || {
        state(&hedge, "a").await == "unloaded"
    })
    .await;
    assert!(!lives(&pid));
    assert_eq!(hedge.get("/readyz").await.status, StatusCode::OK);
    answers(&hedge, "a").await;
    let seen = view(&hedge, "a").await;
    assert_eq!(
        (&seen["loads"], &seen["idle_unloads"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(view(&hedge, "b").await["loads"], 0);
}

#[tokio::test]
async fn without_a_time_to_stay_a_model_leaves_after_its_reply() {
    let folder = models(&[("a", "keep_alive_s = 0\n")]);
    let hedge = start(&folder, "").await;
    answers(&hedge, "a").await;
    eventually("it is unloaded", async || {
        view(&hedge, "a").await["idle_unloads"] == 1
    })
    .await;
}

#[tokio::test]
async fn the_one_not_asked_for_longest_makes_room_for_another() {
    let folder = models(&[("a", ""), ("b", ""), ("c", "pinned = true\n")]);
    let need = need(&start(&folder, "").await).await;
    let budget = need * 5 / 2;
    let hedge = start(&folder, &format!("memory_bytes_max = {budget}\n")).await;
    answers(&hedge, "c").await;
    answers(&hedge, "a").await;
    // Pinned, the first stays, though it was not asked for since.
    answers(&hedge, "b").await;
    let states = [
        state(&hedge, "a").await,
        state(&hedge, "b").await,
        state(&hedge, "c").await,
    ];
    assert_eq!(states, ["unloaded", "loaded", "loaded"]);
    assert_eq!(view(&hedge, "a").await["memory_unloads"], 1);
    answers(&hedge, "a").await;
    assert_eq!(state(&hedge, "b").await, "unloaded");
    let metrics = hedge.metrics().await;
    for line in [
        r#"hedge_model_unloads_total{model="b",kind="memory"} 1"#,
        r#"hedge_model_state{model="c",state="loaded"} 1"#,
        &format!("hedge_model_memory_budget_bytes {budget}"),
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
}

#[tokio::test]
async fn a_model_that_answers_is_never_unloaded_and_others_wait_for_it() {
    let folder = models(&[("a", "stall_ms_max = 100000\n"), ("b", "")]);
    let need = need(&start(&folder, "").await).await;
    let budget = need * 3 / 2;
    let config = format!("memory_bytes_max = {budget}\nload_wait_ms_max = 8000\n");
    let hedge = start(&folder, &config).await;
    // More than sockets hold for a reader who does not read, so that it never ends by itself.
    let more = json!({"max_tokens": 3000, "ignore_eos": true, "stream": true, "n": 8,
        "logprobs": true, "top_logprobs": 20});
    let long = with(ask("a", "Tell me about everything, at length."), more);
    // Unread, it goes on for as long as the test likes.
    let mut reply = hedge.open(&long).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.next().await.is_some());
    let refused = hedge.chat(&ask("b", QUESTION)).await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        refused.text
    );
    let wait: u32 = refused.header("retry-after").parse().unwrap();
    assert!(wait >= 1, "{:?}", refused.headers);
    assert_eq!(state(&hedge, "a").await, "loaded");
    eventually("the log has the numbers", async || {
        let log = hedge.log();
        log.contains("no memory for the model") && log.contains("local.memory_bytes_max is")
    })
    .await;
    // Its reader leaves, and with the reply the model may.
    drop(reply);
    answers(&hedge, "b").await;
    assert_eq!(view(&hedge, "a").await["memory_unloads"], 1);
}

#[tokio::test]
async fn one_who_waits_for_memory_is_answered_when_it_is_free() {
    let folder = models(&[("a", ""), ("b", "")]);
    let need = need(&start(&folder, "").await).await;
    let budget = need * 3 / 2;
    let hedge = start(&folder, &format!("memory_bytes_max = {budget}\n")).await;
    // Both at once, and again: each has the memory in turn.
    for _ in 0..2 {
        join(answers(&hedge, "a"), answers(&hedge, "b")).await;
    }
}

#[tokio::test]
async fn models_are_shown_as_a_table() {
    let folder = models(&[("a", ""), ("huge", "context_tokens_max = 1000\n")]);
    let hedge = start(&folder, "").await;
    answers(&hedge, "a").await;
    let shown = |arguments: &[&str]| {
        let url = format!("http://{}", hedge.admin);
        let output = command()
            .args(["ps", "--url", &url])
            .args(arguments)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = shown(&[]);
    let line = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{table}"))
            .to_owned()
    };
    assert!(line("MODEL").contains("UNLOADS"), "{table}");
    assert!(
        line("a ").contains("loaded") && line("a ").contains("MiB"),
        "{table}"
    );
    assert!(line("huge").contains("unloaded"), "{table}");
    let json: Value = serde_json::from_str(&shown(&["--json"])).unwrap();
    assert_eq!(json["models"][1]["name"], "a", "{json}");
    let layers = |of: &str| json["models"][1][of].as_u64().unwrap();
    let is_built = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));
    assert!(is_built || layers("gpu_layers") == 0, "{json}");
    assert!(layers("layers") > 1, "{json}");
    let column = format!(" {}/{} ", layers("gpu_layers"), layers("layers"));
    assert!(line("a ").contains(&column), "{table}");
    let resident = json["models"][1]["memory_bytes_resident"].as_u64().unwrap();
    let predicted = json["models"][1]["memory_bytes_predicted"]
        .as_u64()
        .unwrap();
    assert!(resident > 1024 * 1024, "{json}");
    assert!(resident <= predicted, "more than was foretold: {json}");
    // The clients' listener does not tell.
    let elsewhere = hedge.get("/admin/v1/models").await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
}

fn command() -> Command {
    hedge()
}

#[test]
fn check_refuses_a_budget_that_is_too_small_with_the_numbers() {
    let folder = models(&[("a", "load = \"start\"\n")]);
    let file = folder.path().join("hedge.conf");
    let dir = folder.path();
    let config = format!("[local]\nmodels_dir = {dir:?}\nmemory_bytes_max = 16777216\n");
    std::fs::write(&file, config).unwrap();
    for command in ["check", "doctor", "serve"] {
        let mut hedge = self::command();
        hedge.arg(command).arg("--config").arg(&file);
        let output = hedge.env("XDG_DATA_HOME", dir).output().unwrap();
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!output.status.success(), "{command}: {said}");
        let words = "local.memory_bytes_max is 16 MiB";
        assert!(said.contains(words), "{command}: {said}");
    }
}
