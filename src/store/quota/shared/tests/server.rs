//! A Redis or Valkey of a test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// Dropping it ends the process.
pub struct Server {
    port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl Server {
    /// `None` where neither is installed, which is said.
    pub fn start() -> Option<Self> {
        let Some(_) = program() else {
            eprintln!("skipped: neither redis-server nor valkey-server is installed");
            return None;
        };
        // It is free now, and nobody takes it who was not given it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            port,
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        server.run();
        Some(server)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Begins, with nothing of what was before.
    pub fn run(&mut self) {
        let child = Command::new(program().unwrap())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "it listens");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As a machine that is gone.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What it answers.
    pub fn ask(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        request += "*1\r\n$4\r\nQUIT\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.starts_with('-'), "{answer}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn program() -> Option<&'static str> {
    ["redis-server", "valkey-server"].into_iter().find(|name| {
        let mut command = Command::new(name);
        let found = command.arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    })
}
