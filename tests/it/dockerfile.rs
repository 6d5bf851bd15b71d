//! No engine runs here, so the Dockerfile is read: every file it copies exists and is sent along.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::root;

#[derive(Debug, Default)]
struct Stage {
    name: Option<String>,
    base: String,
    /// Sources in this checkout.
    sources: Vec<String>,
    /// Stages that files come from.
    from: Vec<String>,
    user: Option<String>,
    has_healthcheck: bool,
    has_entry: bool,
}

/// Instructions with their continued lines joined, comments left out.
fn instructions(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

fn stages(text: &str) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for instruction in instructions(text) {
        let words: Vec<&str> = instruction.split_whitespace().collect();
        if words[0] == "FROM" {
            let name = words
                .iter()
                .position(|word| *word == "AS")
                .map(|at| words[at + 1].to_owned());
            stages.push(Stage {
                name,
                base: words[1].to_owned(),
                ..Stage::default()
            });
            continue;
        }
        let Some(stage) = stages.last_mut() else {
            assert_eq!(words[0], "ARG", "only ARG may stand before the first FROM");
            continue;
        };
        match words[0] {
            "COPY" | "ADD" => copy(stage, &words[1..]),
            "USER" => stage.user = Some(words[1].to_owned()),
            "HEALTHCHECK" => stage.has_healthcheck = words[1] != "NONE",
            "ENTRYPOINT" | "CMD" => stage.has_entry = true,
            _ => {}
        }
    }
    stages
}

fn copy(stage: &mut Stage, words: &[&str]) {
    let (flags, paths): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.starts_with("--"));
    let (_target, sources) = paths.split_last().expect("COPY has a target");
    match flags.iter().find_map(|flag| flag.strip_prefix("--from=")) {
        Some(from) => stage.from.push(from.to_owned()),
        None => stage
            .sources
            .extend(sources.iter().map(|source| (*source).to_owned())),
    }
}

fn read() -> Vec<Stage> {
    stages(&fs::read_to_string(root().join("Dockerfile")).unwrap())
}

#[test]
fn every_file_it_copies_exists_and_is_sent_along() {
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let ignored: BTreeSet<&str> = ignored
        .lines()
        .map(|line| line.trim().trim_start_matches("**/").trim_matches('/'))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let sources: Vec<String> = read().into_iter().flat_map(|stage| stage.sources).collect();
    assert!(!sources.is_empty());
    for source in sources {
        let path = source.trim_matches('/');
        assert!(root().join(path).exists(), "COPY {source}: no such file");
        let first = path.split('/').next().unwrap();
        assert!(
            !ignored.contains(path) && !ignored.contains(first),
            "COPY {source}: in .dockerignore"
        );
    }
}

#[test]
fn every_crate_of_the_workspace_is_copied_into_the_build() {
    let sources: Vec<String> = read().into_iter().flat_map(|stage| stage.sources).collect();
    for needed in [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "loadtest",
        "models",
        "routes",
    ] {
        assert!(
            sources
                .iter()
                .any(|source| source.trim_matches('/') == needed),
            "{needed}"
        );
    }
}

#[test]
fn stages_refer_to_stages_before_them() {
    let mut before = BTreeSet::new();
    for stage in read() {
        for from in &stage.from {
            assert!(
                before.contains(from),
                "COPY --from={from}: no such stage before"
            );
        }
        before.extend(stage.name);
    }
}

#[test]
fn the_image_is_small_and_runs_as_nobody_special() {
    let stages = read();
    let last = stages.last().unwrap();
    assert!(last.base.contains("slim"), "{}", last.base);
    assert!(
        last.sources.is_empty(),
        "the last stage takes files from stages alone"
    );
    let user = last.user.as_deref().unwrap_or("root");
    assert!(user != "root" && !user.starts_with('0'), "runs as {user}");
    assert!(last.has_healthcheck && last.has_entry);
}
