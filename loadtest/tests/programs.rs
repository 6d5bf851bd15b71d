//! The two programs, as a shell starts them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Ended with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_driver_measures_a_running_upstream_and_writes_its_figures() {
    let mut upstream = Running(
        Command::new(env!("CARGO_BIN_EXE_fake-upstream"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut address = String::new();
    BufReader::new(upstream.0.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("figures/report.json");
    // Twice the same server: what is "added" is noise, and only its presence is looked at.
    let target = |name: &str| format!("{name},{},bench,{}", address.trim(), upstream.0.id());
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([
            "run",
            "--rounds",
            "2",
            "--window-ms",
            "50",
            "--connections",
            "2",
        ])
        .args([
            "--streams",
            "4",
            "--stream-tokens",
            "3",
            "--stream-gap-ms",
            "1",
        ])
        .args(["--target", &target("direct"), "--target", &target("again")])
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}");
    assert!(table.contains("| whole c=2 | again |"), "{table}");
    let figures: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap();
    assert_eq!(figures["run"]["samples"].as_array().unwrap().len(), 12);
    let streams = figures["rows"].as_array().unwrap().last().unwrap();
    assert_eq!(streams["answered"], 8);
    assert!(streams["added_p50_us"].is_number());
}

#[test]
fn a_target_that_does_not_answer_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([
            "run",
            "--target",
            "nobody,127.0.0.1:1,bench",
            "--rounds",
            "1",
        ])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
}
