//! A running relay, and how a machine becomes its edge.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use http::Method;
use loadtest::FakeUpstream;
use tempfile::TempDir;

use crate::harness::{Hedge, eventually, hedge, open, request};

pub const RELAY: &str = "relay-hq";
pub const EDGE: &str = "branch-7";

/// The command, in a folder of its own and with nothing from beyond it.
pub fn hedge_in(folder: &Path) -> Command {
    let mut command = hedge();
    command
        .current_dir(folder)
        .env("XDG_DATA_HOME", folder)
        .env("XDG_CONFIG_HOME", folder);
    command
}

/// Dropping it ends the process.
pub struct Relay {
    pub address: SocketAddr,
    /// That `init` printed.
    pub token: String,
    admin: SocketAddr,
    child: Child,
    folder: TempDir,
}

/// What a command printed after the address.
pub fn token_in(said: &str) -> String {
    let token = said
        .split_whitespace()
        .find(|word| word.starts_with("hedge-join-1."));
    token
        .unwrap_or_else(|| panic!("no token in {said}"))
        .to_owned()
}

impl Relay {
    /// Initialised and started before `fake`, with `settings` in its `[gateway]`.
    pub async fn start(fake: &FakeUpstream, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let said = init(folder.path());
        let file = folder.path().join("relay.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("[gateway]\n", &format!("[gateway]\n{settings}\n"));
        let upstream = crate::harness::upstream(fake, "");
        let more = format!(
            "\n[aliases]\nbench = \"fake/bench\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [local]\nenabled = false\n{upstream}"
        );
        std::fs::write(&file, format!("{text}{more}")).unwrap();
        Self::run(folder, &said, "").await
    }

    /// Runs what `init` made, which printed `said`.
    pub async fn run(folder: TempDir, said: &str, more: &str) -> Self {
        if !more.is_empty() {
            let file = folder.path().join("relay.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, format!("{text}{more}")).unwrap();
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = hedge_in(folder.path())
            .arg("relay")
            .env("FAKE_KEY", "cloud-key")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let banner = BufReader::new(child.stdout.take().unwrap());
        let (mut address, mut admin) = (None, None);
        for line in banner.lines() {
            let line = line.unwrap();
            let after = |before: &str, end: &str| {
                let (_, rest) = line.split_once(before)?;
                let (found, _) = rest.split_once(end)?;
                let (_, found) = found.split_once("//").unwrap_or(("", found));
                found.parse().ok()
            };
            address = address.or_else(|| after(" relays ", " as "));
            admin = admin.or_else(|| after("metrics  http://", "/metrics"));
            if address.is_some() && admin.is_some() {
                break;
            }
        }
        let (Some(address), Some(admin)) = (address, admin) else {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
            panic!("the relay did not start:\n{log}");
        };
        Self {
            address,
            admin,
            token: token_in(said),
            child,
            folder,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub fn init(&self) -> String {
        init(self.folder())
    }

    /// Runs `hedge relay` with `arguments`, which must go well, and returns what it says.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = hedge_in(self.folder())
            .arg("relay")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Joins with `token` into the folder called `member`.
    pub fn join(&self, token: &str, member: &str) -> (bool, String) {
        let output = hedge_in(self.folder())
            .args(["relay", "join", &self.url(), token, "--dir", member])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// Joins as the first edge. A relay without TLS is joined with it, and then goes without: what has to
    /// be done by hand where something in front ends TLS. Here one of the same folder's files takes its
    /// place meanwhile, and what it let in is let in by this one.
    pub fn joined(&self) -> (bool, String) {
        let text = std::fs::read_to_string(self.path("relay.toml")).unwrap();
        if !text.contains("\ntls = false\n") {
            return self.join(&self.token, "member");
        }
        let folder = tempfile::tempdir().unwrap();
        let (own, copy) = (self.path("relay"), folder.path().join("relay"));
        for name in ["", "edges", "tokens"] {
            std::fs::create_dir_all(copy.join(name)).unwrap();
            for entry in std::fs::read_dir(own.join(name)).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let to = copy.join(name).join(path.file_name().unwrap());
                    std::fs::copy(&path, to).unwrap();
                }
            }
        }
        let with_tls = text.replace("tls = false\nclient_certificates = false\n", "");
        let with_tls = with_tls.replace(own.to_str().unwrap(), copy.to_str().unwrap());
        std::fs::write(folder.path().join("relay.toml"), with_tls).unwrap();
        let mut child = hedge_in(folder.path())
            .arg("relay")
            .env("FAKE_KEY", "cloud-key")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let banner = BufReader::new(child.stdout.take().unwrap());
        let line = banner.lines().map_while(Result::ok);
        let mut line = line.filter_map(|line| {
            let (_, rest) = line.split_once(" relays https://")?;
            let (address, _) = rest.split_once(" as ")?;
            address.parse::<SocketAddr>().ok()
        });
        let address = line.next().unwrap();
        let url = format!("https://localhost:{}", address.port());
        let output = hedge_in(self.folder())
            .args(["relay", "join", &url, &self.token, "--dir", "member"])
            .output()
            .unwrap();
        drop(child.kill());
        drop(child.wait());
        let key = format!("edges/{EDGE}.pub");
        std::fs::copy(copy.join(&key), own.join(&key)).unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// Where the edge finds the relay from now on.
    pub fn reach_by(&self, url: &str) {
        let file = self.path("member/member.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| {
            if line.starts_with("url = ") {
                format!("url = \"{url}\"")
            } else {
                line.to_owned()
            }
        });
        let text: Vec<String> = lines.collect();
        std::fs::write(&file, text.join("\n")).unwrap();
    }

    /// Joins, and starts the edge.
    pub async fn edge(&self, more: &str) -> Hedge {
        let (is_well, said) = self.joined();
        assert!(is_well, "{said}");
        self.joined_edge(more).await
    }

    /// Starts the edge that has joined, once the relay knows it: a file that was put there by hand it sees
    /// at its next look.
    pub async fn joined_edge(&self, more: &str) -> Hedge {
        eventually("the relay knows its edge", async || {
            !self.metrics().await.contains("\nhedge_relay_edges 0\n")
        })
        .await;
        let relays = std::fs::read_to_string(self.path("hedge.toml")).unwrap();
        Hedge::start(&format!("{more}\n[local]\nenabled = false\n{relays}")).await
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    pub async fn metrics(&self) -> String {
        let asked = request(Method::GET, "/metrics", bytes::Bytes::new());
        let text = open(self.admin, asked).await.read().await.text;
        crate::metrics::check(&text);
        text
    }

    /// What the edge's doctor says.
    pub fn doctor(&self) -> (bool, String) {
        let output = hedge_in(self.folder())
            .arg("doctor")
            .env("HEDGE_LISTEN", "127.0.0.1:0")
            .env("HEDGE_ADMIN__LISTEN", "127.0.0.1:0")
            .env("HEDGE_LOCAL__ENABLED", "false")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }
}

fn init(folder: &Path) -> String {
    let output = hedge_in(folder)
        .args([
            "relay",
            "init",
            "--name",
            RELAY,
            "--url",
            "https://localhost:0",
        ])
        .args(["--edge", EDGE, "--model", "bench"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("--- the relay's log:\n{log}");
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
