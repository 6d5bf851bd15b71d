//! A running hedge and a client for it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use loadtest::{FakeConfig, FakeUpstream};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longer than anything here takes on a slow machine; reaching it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Settings of every node: free ports, and no metrics of one test in another's.
const BASE: &str = "listen = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";

/// How long Redis or Postgres is away, beyond what it takes to be noticed. With `HEDGE_TEST_AWAY=30` so many
/// seconds.
pub fn away() -> Duration {
    Duration::from_secs(wanted("HEDGE_TEST_AWAY", 0) as u64)
}

/// How much of something a test has: as the variable `name` says, where there is one.
pub fn wanted(name: &str, otherwise: usize) -> usize {
    let text = std::env::var_os(name).and_then(|it| it.into_string().ok());
    text.map_or(otherwise, |it| it.parse().unwrap())
}

/// The command, with nothing of the developer's own settings but the model to test with.
pub fn hedge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedge"));
    for (name, _) in std::env::vars_os() {
        let is_setting = name.to_string_lossy().starts_with("HEDGE_");
        if is_setting && name != "HEDGE_LOCAL__MODEL" {
            command.env_remove(name);
        }
    }
    command
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Sends the signal called `name`, as in `-KILL`.
pub fn signal(pid: u32, name: &str) {
    let pid = pid.to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success());
}

/// A node under test. Dropping it ends the process.
pub struct Hedge {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Hedge {
    /// Starts with `config` after the base settings and waits until it can answer.
    pub async fn start(config: &str) -> Self {
        let hedge = Self::launch(config);
        hedge.until_ready().await;
        hedge
    }

    /// A node without a local model before `fake`, whose models are `fake/bench` and `fake/other`.
    pub async fn before(fake: &FakeUpstream, config: &str) -> Self {
        let config = format!("{config}\n[local]\nenabled = false\n{}", upstream(fake, ""));
        Self::start(&config).await
    }

    /// Starts and returns as soon as the ports are known.
    pub fn launch(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hedge.toml");
        std::fs::write(&file, format!("{BASE}{config}")).unwrap();
        Self::launch_in(folder)
    }

    /// Ends it in order and starts it again, over the same files.
    pub async fn restarted(mut self) -> Self {
        self.terminate();
        let fresh = tempfile::tempdir().unwrap();
        let folder = std::mem::replace(&mut self.folder, fresh);
        assert!(self.ended_well().await);
        let hedge = Self::launch_in(folder);
        hedge.until_ready().await;
        hedge
    }

    /// Kills it, with no time for anything, and starts it again over the same files.
    pub async fn killed(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let fresh = tempfile::tempdir().unwrap();
        let folder = std::mem::replace(&mut self.folder, fresh);
        let hedge = Self::launch_in(folder);
        hedge.until_ready().await;
        hedge
    }

    /// Writes another configuration, which it reads when it is started again.
    pub fn configure(&self, config: &str) {
        let file = self.folder.path().join("hedge.toml");
        std::fs::write(file, format!("{BASE}{config}")).unwrap();
    }

    fn launch_in(folder: TempDir) -> Self {
        let file = folder.path().join("hedge.toml");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = hedge()
            .args(["serve", "--config"])
            .arg(&file)
            .env("XDG_DATA_HOME", folder.path())
            .env("FAKE_KEY", "cloud-key")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let banner = BufReader::new(child.stdout.take().unwrap());
        let (mut addr, mut admin) = (None, None);
        for line in banner.lines() {
            let line = line.unwrap();
            let address = |after: &str, before: &str| {
                let (_, rest) = line.split_once(after)?;
                rest.split_once(before)?.0.parse().ok()
            };
            addr = addr.or_else(|| address(" serves http://", "/v1"));
            admin = admin.or_else(|| address("metrics  http://", "/metrics"));
            if addr.is_some() && admin.is_some() {
                break;
            }
        }
        let (Some(addr), Some(admin)) = (addr, admin) else {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
            panic!("hedge did not start:\n{log}");
        };
        Self {
            addr,
            admin,
            child,
            folder,
        }
    }

    /// Waits until every backend can answer. `/readyz` alone is satisfied by one of them, and with
    /// an upstream at hand that is before the local model has loaded.
    pub async fn until_ready(&self) {
        eventually("ready", async || {
            let reply = self.get("/readyz").await;
            reply.status == StatusCode::OK && !reply.text.contains("starting")
        })
        .await;
    }

    /// Puts another file in the place of its own, as a careful editor does.
    pub fn reconfigure(&self, config: &str) {
        let [next, file] = ["next.toml", "hedge.toml"].map(|name| self.folder.path().join(name));
        std::fs::write(&next, config).unwrap();
        std::fs::rename(next, file).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that holds the model, where there is one.
    #[cfg_attr(
        not(feature = "llama"),
        expect(dead_code, reason = "asked by local tests alone")
    )]
    pub fn engine_pid(&self) -> Option<u32> {
        self.engine_pids().first().copied()
    }

    /// The processes that hold models, one each.
    pub fn engine_pids(&self) -> Vec<u32> {
        let parent = self.pid().to_string();
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        let ours = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let stat = std::fs::read_to_string(path.join("stat")).ok()?;
            // The name before it may hold anything.
            let (_, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let is_running = fields.next()? != "Z";
            let is_ours = fields.next()? == parent;
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            (is_running && is_ours).then_some(pid)
        });
        ours.collect()
    }

    /// Asks the process to end in order, as an orchestrator does.
    pub fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
    }

    /// Whether the process ended well; waits for it.
    pub async fn ended_well(mut self) -> bool {
        let mut child = std::mem::replace(&mut self.child, Command::new("true").spawn().unwrap());
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        let status = tokio::time::timeout(PATIENCE, ended).await;
        status.expect("hedge ends when told to").unwrap().success()
    }

    /// Another command, with the same configuration and folders.
    pub fn command(&self, name: &str) -> Command {
        let mut command = hedge();
        command
            .args([name, "--config"])
            .arg(self.folder.path().join("hedge.toml"))
            .env("XDG_DATA_HOME", self.folder.path())
            .env("FAKE_KEY", "cloud-key");
        command
    }

    /// The configuration that it runs with.
    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("hedge.toml")
    }

    /// Its `XDG_DATA_HOME`.
    pub fn data_home(&self) -> &Path {
        self.folder.path()
    }

    /// Where it keeps what is called `name`.
    pub fn data_path(&self, name: &str) -> PathBuf {
        self.folder.path().join("hedge").join(name)
    }

    /// A file of its data folder.
    pub fn kept(&self, name: &str) -> String {
        std::fs::read_to_string(self.data_path(name)).unwrap()
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, Bytes::new())).await
    }

    /// A whole chat, or the refusal.
    pub async fn chat(&self, body: &Value) -> Reply {
        self.send(chat_request(body)).await
    }

    /// A chat's head and unread body.
    pub async fn open(&self, body: &Value) -> Streamed {
        open(self.addr, chat_request(body)).await
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        open(self.addr, request).await.read().await
    }

    /// The metrics, as Prometheus reads them. All of them are on their page.
    pub async fn metrics(&self) -> String {
        let text = self.admin_get("/metrics").await.text;
        crate::metrics::check(&text);
        text
    }

    /// To the operator's listener, in JSON.
    pub async fn admin_post(&self, path: &str, body: &str) -> Reply {
        self.admin_send(Method::POST, path, body).await
    }

    /// The same by any method.
    pub async fn admin_send(&self, method: Method, path: &str, body: &str) -> Reply {
        let mut request = request(method, path, Bytes::from(body.to_owned()));
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert("content-type", json);
        open(self.admin, request).await.read().await
    }

    /// From the operator's listener.
    pub async fn admin_get(&self, path: &str) -> Reply {
        let request = request(Method::GET, path, Bytes::new());
        open(self.admin, request).await.read().await
    }
}

impl Drop for Hedge {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- hedge's log:\n{}", self.log());
        }
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An `[[upstreams]]` entry for `fake`, with further lines.
pub fn upstream(fake: &FakeUpstream, more: &str) -> String {
    format!(
        "\n[[upstreams]]\nname = \"fake\"\nbase_url = \"{}\"\nkey = \"env:FAKE_KEY\"\n\
         models = [\"bench\", \"other\"]\n{more}\n",
        fake.base_url()
    )
}

/// An upstream that asks for the key that nodes under test send.
pub fn fake() -> FakeUpstream {
    FakeUpstream::start(FakeConfig {
        key: Some("cloud-key".to_owned()),
        ..FakeConfig::default()
    })
    .unwrap()
}

/// A chat body with one user message.
pub fn ask(model: &str, text: &str) -> Value {
    json!({"model": model, "temperature": 0, "messages": [{"role": "user", "content": text}]})
}

/// `body` with the fields of `more` put over it.
pub fn with(mut body: Value, more: Value) -> Value {
    let (Value::Object(fields), Value::Object(more)) = (&mut body, more) else {
        panic!("both are objects");
    };
    fields.extend(more);
    body
}

pub fn request(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Full::new(body))
        .unwrap()
}

pub fn chat_request(body: &Value) -> Request<Full<Bytes>> {
    let mut request = request(
        Method::POST,
        "/v1/chat/completions",
        Bytes::from(body.to_string()),
    );
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    request
}

/// Sends on a connection of its own. Dropping what comes back closes that connection.
pub async fn open(addr: SocketAddr, request: Request<Full<Bytes>>) -> Streamed {
    try_open(addr, request).await.unwrap()
}

/// The same to somebody who may be gone.
pub async fn try_open(
    addr: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> Result<Streamed, Box<dyn std::error::Error>> {
    let host = http::HeaderValue::from_str(&addr.to_string()).unwrap();
    request.headers_mut().entry(HOST).or_insert(host);
    let stream = TcpStream::connect(addr).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    let mut drive = JoinSet::new();
    drive.spawn(async move { drop(connection.await) });
    let reply = tokio::time::timeout(PATIENCE, sender.send_request(request))
        .await
        .expect("an answer begins in time")?;
    let (head, body) = reply.into_parts();
    Ok(Streamed {
        status: head.status,
        headers: head.headers,
        body,
        _drive: drive,
    })
}

/// An answer whose body is still unread.
pub struct Streamed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    _drive: JoinSet<()>,
}

impl Streamed {
    /// The next stretch of the body; `None` at its end, whether good or broken.
    pub async fn next(&mut self) -> Option<Bytes> {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
        let frame = frame.expect("the answer goes on in time")?;
        frame.ok()?.into_data().ok()
    }

    pub async fn read(mut self) -> Reply {
        let mut bytes = Vec::new();
        while let Some(more) = self.next().await {
            bytes.extend_from_slice(&more);
        }
        Reply {
            status: self.status,
            headers: self.headers,
            text: String::from_utf8(bytes).expect("bodies are UTF-8"),
        }
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default()
    }

    pub fn route(&self) -> &str {
        self.header("x-hedge-route")
    }

    pub fn reason(&self) -> &str {
        self.header("x-hedge-reason")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// The text of the first choice of a whole reply.
    pub fn content(&self) -> String {
        let json = self.json();
        let content = json["choices"][0]["message"]["content"].as_str();
        content
            .unwrap_or_else(|| panic!("no content: {json}"))
            .to_owned()
    }

    /// The chunks of a streamed reply, without `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        self.text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    /// The first choice's text, from all chunks.
    pub fn streamed_text(&self) -> String {
        self.chunks()
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect()
    }

    pub fn is_done(&self) -> bool {
        self.text.ends_with("data: [DONE]\n\n")
    }
}

/// Waits until `holds` does, and fails when it never does. Not a measurement: the bound is far
/// beyond what is expected.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, wait).await;
    assert!(held.is_ok(), "never came to be: {what}");
}
