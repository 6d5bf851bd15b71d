//! A Redis or Valkey of a test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// In its folder.
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// Dropping it ends the process.
pub struct Server {
    port: u16,
    folder: TempDir,
    /// Of a cluster.
    bus_port: Option<u16>,
    /// It finds again what it had, where it is stopped.
    is_lasting: bool,
    /// It speaks TLS alone, with the certificate and key in its folder.
    is_encrypted: bool,
    child: Option<Child>,
}

impl Server {
    /// One that keeps what it has in memory. `None` where neither is installed, which is said.
    pub fn start() -> Option<Self> {
        Self::begin(false, false)
    }

    /// One that writes down what it has.
    pub fn start_lasting() -> Option<Self> {
        Self::begin(true, false)
    }

    /// One that is a node of a cluster.
    pub fn start_node() -> Option<Self> {
        Self::begin(false, true)
    }

    /// One that speaks TLS alone, with a certificate and its key in PEM.
    pub fn start_encrypted(certificate: &str, key: &str) -> Option<Self> {
        let mut server = Self::made(false, false)?;
        std::fs::write(server.folder.path().join(CERTIFICATE), certificate).unwrap();
        std::fs::write(server.folder.path().join(KEY), key).unwrap();
        server.is_encrypted = true;
        server.begin_process();
        if !server.is_up() {
            eprintln!("skipped: the Redis that is installed does not start with TLS");
            return None;
        }
        Some(server)
    }

    fn begin(is_lasting: bool, is_node: bool) -> Option<Self> {
        let mut server = Self::made(is_lasting, is_node)?;
        server.run();
        Some(server)
    }

    fn made(is_lasting: bool, is_node: bool) -> Option<Self> {
        let Some(_) = program() else {
            eprintln!("skipped: neither redis-server nor valkey-server is installed");
            return None;
        };
        Some(Self {
            port: free_port(),
            bus_port: is_node.then(free_port),
            folder: tempfile::tempdir().unwrap(),
            is_lasting,
            is_encrypted: false,
            child: None,
        })
    }

    pub fn url(&self) -> String {
        let scheme = if self.is_encrypted { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Makes a cluster of two nodes, of which the other one has all keys.
    pub fn meet(&self, other: &Self) {
        other.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let (port, bus) = (other.port.to_string(), other.bus_port.unwrap().to_string());
        self.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        let began = Instant::now();
        while !self.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
            assert!(began.elapsed() < PATIENCE, "they meet");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Begins, or begins again.
    pub fn run(&mut self) {
        self.begin_process();
        assert!(self.is_up(), "it listens");
    }

    fn begin_process(&mut self) {
        let appends = if self.is_lasting { "yes" } else { "no" };
        let port = self.port.to_string();
        let ports: &[&str] = match self.is_encrypted {
            false => &["--port", &port],
            true => &[
                "--port",
                "0",
                "--tls-port",
                &port,
                "--tls-cert-file",
                CERTIFICATE,
                "--tls-key-file",
                KEY,
                "--tls-ca-cert-file",
                CERTIFICATE,
                "--tls-auth-clients",
                "no",
            ],
        };
        let child = Command::new(program().unwrap())
            .current_dir(self.folder.path())
            .args(ports)
            .args(["--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", appends, "--dir"])
            .arg(self.folder.path())
            .args(self.bus_port.iter().flat_map(|port| {
                let words = ["--cluster-enabled", "yes", "--cluster-port"];
                words
                    .map(str::to_owned)
                    .into_iter()
                    .chain([port.to_string()])
            }))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until it listens, or has ended.
    fn is_up(&mut self) -> bool {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let child = self.child.as_mut().unwrap();
            if child.try_wait().unwrap().is_some() || began.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
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

/// It is free now, and nobody takes it who was not given it.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn program() -> Option<&'static str> {
    ["redis-server", "valkey-server"].into_iter().find(|name| {
        let mut command = Command::new(name);
        let found = command.arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    })
}
