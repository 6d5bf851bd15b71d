use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response as Reply};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::gguf::builder::Builder;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Script = dyn Fn(&Asked) -> Reply<Body> + Send + Sync;

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    range: Option<String>,
    if_range: Option<String>,
    authorization: Option<String>,
}

/// A server on this machine that answers by script and remembers what it was asked.
struct Server {
    base: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(script: impl Fn(&Asked) -> Reply<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let mut tasks = JoinSet::new();
        let seen = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let asked = asked_of(&request);
                        let reply = script(&asked);
                        seen.lock().unwrap().push(asked);
                        async move { Ok::<_, Infallible>(reply) }
                    });
                    // A cut on purpose ends in an error here.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            base: base.parse().unwrap(),
            asked,
            _tasks: tasks,
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn request(&self, path: &str) -> PullRequest {
        PullRequest {
            source: self.base.join(path).unwrap().as_str().parse().unwrap(),
            name: None,
            sha256: None,
            hub: self.hub(),
        }
    }

    fn hub(&self) -> Hub {
        Hub {
            base: self.base.clone(),
            token: Some(Token::new("hub-token")),
        }
    }
}

fn asked_of(request: &Request<Incoming>) -> Asked {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    Asked {
        path: request.uri().path().to_owned(),
        range: header("range"),
        if_range: header("if-range"),
        authorization: header("authorization"),
    }
}

fn whole(bytes: &[u8]) -> Body {
    let full = Full::new(Bytes::copy_from_slice(bytes));
    full.map_err(|never| match never {}).boxed_unsync()
}

/// Sends `bytes`, then breaks the connection, once they have left the server's buffer.
fn cut(bytes: &[u8]) -> Body {
    let first = Ok(Frame::data(Bytes::copy_from_slice(bytes)));
    let then_break = async {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        Err(std::io::Error::other("cut on purpose"))
    };
    let frames = stream::iter([first]).chain(stream::once(then_break));
    StreamBody::new(frames).boxed_unsync()
}

fn status(status: u16) -> Reply<Body> {
    Reply::builder().status(status).body(whole(b"")).unwrap()
}

/// A server of ranges, as RFC 9110 has it; every first answer stops after `cut_at` bytes.
fn ranged(
    file: &'static [u8],
    etag: &'static str,
    cut_at: usize,
) -> impl Fn(&Asked) -> Reply<Body> {
    move |asked: &Asked| {
        let is_same = asked.if_range.as_deref() == Some(etag);
        let from = asked
            .range
            .as_deref()
            .filter(|_| is_same)
            .and_then(|range| {
                range
                    .strip_prefix("bytes=")?
                    .strip_suffix('-')?
                    .parse()
                    .ok()
            });
        let reply = Reply::builder().header("etag", etag);
        match from {
            Some(from) => reply
                .status(206)
                .header(
                    "content-range",
                    format!("bytes {from}-{}/{}", file.len() - 1, file.len()),
                )
                .body(whole(&file[from..]))
                .unwrap(),
            None => reply
                .header("content-length", file.len())
                .body(cut(&file[..cut_at]))
                .unwrap(),
        }
    }
}

fn model() -> &'static [u8] {
    Box::leak(Builder::model().build().into_boxed_slice())
}

fn serve_whole(file: &'static [u8]) -> impl Fn(&Asked) -> Reply<Body> {
    move |_: &Asked| Reply::new(whole(file))
}

#[derive(Default)]
struct Steps(Mutex<Vec<Step>>);

impl Progress for Steps {
    fn step(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }
}

struct Bench {
    dir: TempDir,
    depot: Depot,
    client: Client,
    steps: Steps,
}

impl Bench {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        Self {
            depot: Depot::open(dir.path().join("models")).with_space(|_| None),
            client: Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .tls_certs_only([])
                .build()
                .unwrap(),
            steps: Steps::default(),
            dir,
        }
    }

    async fn pull(&self, request: PullRequest) -> Result<Entry, PullError> {
        self.depot.pull(&self.client, request, &self.steps).await
    }

    fn steps(&self) -> Vec<Step> {
        self.steps.0.lock().unwrap().clone()
    }

    fn files(&self) -> Vec<String> {
        let Ok(dir) = std::fs::read_dir(self.depot.dir()) else {
            return Vec::new();
        };
        let mut files: Vec<String> = dir
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with("manifest"))
            .collect();
        files.sort();
        files
    }
}

#[tokio::test]
async fn a_pulled_model_is_listed_and_found() {
    let file = model();
    let server = Server::start(serve_whole(file)).await;
    let bench = Bench::new();
    let mut request = server.request("/tiny.gguf?token=secret");
    request.sha256 = Some(Sha256Digest::of(file));
    let entry = bench.pull(request).await.unwrap();
    assert_eq!(entry.name, "tiny");
    assert_eq!(entry.architecture.as_deref(), Some("llama"));
    assert!(!entry.source.contains("secret"));
    assert_eq!(bench.depot.list().unwrap(), [entry]);
    let path = bench.depot.find("tiny").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), file);
    assert_eq!(bench.files(), ["tiny.gguf"]);
    assert!(bench.steps().contains(&Step::Received(file.len() as u64)));
    assert_eq!(bench.steps().last(), Some(&Step::Checking));
    // Somebody else's server gets no token of the hub's... but this one is the hub's origin.
    assert_eq!(
        server.asked()[0].authorization.as_deref(),
        Some("Bearer hub-token")
    );
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let file = model();
    let server = Server::start(ranged(file, "\"v1\"", 300)).await;
    let bench = Bench::new();
    bench.pull(server.request("/tiny.gguf")).await.unwrap();
    let path = bench.depot.find("tiny").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), file);
    let ranges: Vec<_> = server
        .asked()
        .into_iter()
        .map(|asked| asked.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=300-".to_owned())]);
    assert!(bench.steps().contains(&Step::Resuming));
}

#[tokio::test]
async fn a_later_pull_goes_on_with_an_earlier_part() {
    let file = model();
    let server = Server::start(ranged(file, "\"v1\"", 300)).await;
    let bench = Bench::new();
    std::fs::create_dir_all(bench.depot.dir()).unwrap();
    let part = bench.depot.dir().join("tiny.gguf.part");
    std::fs::write(&part, &file[..100]).unwrap();
    let label = Label {
        source: server.base.join("/tiny.gguf").unwrap().to_string(),
        etag: "\"v1\"".into(),
    };
    std::fs::write(part::label_path(&part), toml::to_string(&label).unwrap()).unwrap();
    bench.pull(server.request("/tiny.gguf")).await.unwrap();
    assert_eq!(server.asked()[0].range.as_deref(), Some("bytes=100-"));
    assert_eq!(server.asked().len(), 1);
    assert_eq!(bench.files(), ["tiny.gguf"]);
}

#[tokio::test]
async fn a_part_of_another_version_is_begun_anew() {
    let file = model();
    let server = Server::start(serve_whole(file)).await;
    let bench = Bench::new();
    std::fs::create_dir_all(bench.depot.dir()).unwrap();
    let part = bench.depot.dir().join("tiny.gguf.part");
    std::fs::write(&part, [0x55; 100]).unwrap();
    let label = Label {
        source: server.base.join("/tiny.gguf").unwrap().to_string(),
        etag: "\"old\"".into(),
    };
    std::fs::write(part::label_path(&part), toml::to_string(&label).unwrap()).unwrap();
    bench.pull(server.request("/tiny.gguf")).await.unwrap();
    let path = bench.depot.find("tiny").unwrap();
    assert_eq!(std::fs::read(path).unwrap(), file);
}

/// No strong validator: what came cannot be trusted to belong to the same file.
#[tokio::test]
async fn without_a_validator_nothing_is_continued() {
    let file = model();
    let server = Server::start(ranged(file, "W/\"weak\"", 300)).await;
    let bench = Bench::new();
    let error = bench.pull(server.request("/tiny.gguf")).await.unwrap_err();
    assert!(
        matches!(error, PullError::Interrupted { received: 300, total: Some(total) } if total == file.len() as u64),
        "{error}"
    );
    assert!(server.asked().iter().all(|asked| asked.range.is_none()));
    assert!(bench.depot.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_wrong_digest_is_thrown_away() {
    let server = Server::start(serve_whole(model())).await;
    let bench = Bench::new();
    let mut request = server.request("/tiny.gguf");
    request.sha256 = Some(Sha256Digest::of(b"other"));
    let error = bench.pull(request).await.unwrap_err();
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    assert_eq!(bench.files(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_model_is_refused() {
    let mut corrupt = Builder::model().build();
    corrupt.truncate(corrupt.len() - 30);
    let corrupt: &'static [u8] = Box::leak(corrupt.into_boxed_slice());
    let cases: [(&'static [u8], &str); 2] = [
        (b"<html>sign in</html>", "no GGUF file"),
        (corrupt, "past the end"),
    ];
    for (file, words) in cases {
        let server = Server::start(serve_whole(file)).await;
        let bench = Bench::new();
        let error = bench.pull(server.request("/tiny.gguf")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(bench.files(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn statuses_are_told_apart() {
    let cases: [(u16, &str); 5] = [
        (404, "nothing at that address"),
        (401, "HF_TOKEN"),
        (403, "HF_TOKEN"),
        (500, "status 500"),
        (416, "broke off"),
    ];
    for (code, words) in cases {
        let server = Server::start(move |_: &Asked| status(code)).await;
        let bench = Bench::new();
        let error = bench.pull(server.request("/tiny.gguf")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{code}: {error}");
    }
    let bench = Bench::new();
    let server = Server::start(|_: &Asked| status(200)).await;
    let gone = server.request("/tiny.gguf");
    drop(server);
    let error = bench.pull(gone).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn too_little_room_is_seen_before_writing() {
    let server = Server::start(serve_whole(model())).await;
    let mut bench = Bench::new();
    bench.depot =
        Depot::open(bench.dir.path().join("models")).with_space(|_| Some(RESERVE_BYTES + 10));
    let error = bench.pull(server.request("/tiny.gguf")).await.unwrap_err();
    assert!(matches!(error, PullError::NoSpace { .. }), "{error}");
}

/// The check passed, and the disk filled up meanwhile: `/dev/full` fails every write so.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_fills_up_is_named() {
    let server = Server::start(serve_whole(model())).await;
    let bench = Bench::new();
    std::fs::create_dir_all(bench.depot.dir()).unwrap();
    let part = bench.depot.dir().join("tiny.gguf.part");
    std::os::unix::fs::symlink("/dev/full", part).unwrap();
    let error = bench.pull(server.request("/tiny.gguf")).await.unwrap_err();
    assert!(matches!(error, PullError::DiskFull), "{error}");
    assert!(bench.depot.list().unwrap().is_empty());
}

/// The hub names the digest on its own answer and sends the client elsewhere for the bytes.
#[tokio::test]
async fn the_hub_is_listed_followed_and_held_to_its_digest() {
    let file = model();
    let storage = Server::start(serve_whole(file)).await;
    let elsewhere = storage.base.join("/blob").unwrap().to_string();
    for (stated, is_right) in [
        (Sha256Digest::of(file), true),
        (Sha256Digest::of(b"other"), false),
    ] {
        let elsewhere = elsewhere.clone();
        let hub = Server::start(move |asked: &Asked| match asked.path.as_str() {
            "/api/models/o/r" => Reply::new(whole(
                br#"{"siblings":[{"rfilename":"README.md"},{"rfilename":"m.gguf"}],"cardData":{"license":"mit"}}"#,
            )),
            "/o/r/resolve/main/m.gguf" => Reply::builder()
                .status(302)
                .header("location", &elsewhere)
                .header("x-linked-etag", format!("\"{stated}\""))
                .body(whole(b""))
                .unwrap(),
            _ => status(404),
        })
        .await;
        let bench = Bench::new();
        let request = PullRequest {
            source: "o/r".parse().unwrap(),
            name: Some("mine".into()),
            sha256: None,
            hub: hub.hub(),
        };
        let pulled = bench.pull(request).await;
        if is_right {
            let entry = pulled.unwrap();
            assert_eq!(entry.source, "hf:o/r:m.gguf");
            assert_eq!(entry.licence.as_deref(), Some("mit"));
            assert_eq!(entry.name, "mine");
        } else {
            assert!(matches!(pulled, Err(PullError::Digest { .. })));
        }
        assert!(
            hub.asked()
                .iter()
                .all(|asked| asked.authorization.is_some())
        );
    }
    let leaked = storage
        .asked()
        .iter()
        .any(|asked| asked.authorization.is_some());
    assert!(!leaked, "the token stays with the hub");
}

#[tokio::test]
async fn redirects_lead_to_https_and_end() {
    for location in ["http://far.example/m.gguf", "ftp://x/m.gguf", "/tiny.gguf"] {
        let server = Server::start(move |_: &Asked| {
            Reply::builder()
                .status(302)
                .header("location", location)
                .body(whole(b""))
                .unwrap()
        })
        .await;
        let bench = Bench::new();
        let error = bench.pull(server.request("/tiny.gguf")).await.unwrap_err();
        assert!(matches!(error, PullError::Redirect), "{location}: {error}");
    }
}
