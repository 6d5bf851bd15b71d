//! A server of OpenAI's and Anthropic's dialects whose replies, speed and failures are set by its
//! configuration or, for one request, by a marker in its text (see [`Behaviour`]).
//!
//! Beside that it answers as a model would that does as it is told: it ends at stop strings and at the
//! bound of its tokens, calls the tool it is forced to, and keeps to a format. It refuses what the
//! provider would refuse, so that what a proxy makes of a request shows.
//!
//! It runs on a thread of its own with a single-threaded runtime. Ending it drops that runtime, so
//! every open connection breaks at once, as when a process is killed. Each reply's head and first
//! bytes leave in one write, and Nagle's algorithm is off: what a proxy adds is not hidden behind
//! our own delays.

mod behaviour;
mod chat;
mod content;
mod embeddings;
mod messages;
mod record;
mod sample;
mod script;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub use behaviour::{Behaviour, Mishap};
pub use record::{Counts, Seen};

use record::Record;
use script::Body;

/// Large enough for any request a test sends; a proxy that inflates bodies is told so.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How the server answers when a request does not say otherwise.
#[derive(Clone, Debug)]
pub struct FakeConfig {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What `/v1/models` lists. Any model name is answered.
    pub models: Vec<String>,
    /// When set, every request must carry it as its bearer.
    pub key: Option<String>,
    /// Keeps requests for [`FakeUpstream::seen`]; off for measurements.
    pub records: bool,
    pub behaviour: Behaviour,
    /// Some chats fail all the same.
    pub flaky: Option<Flaky>,
}

/// Chats that fail by chance, before anything of their answer is sent: with 500, 503 or 429 in turn of
/// chance.
#[derive(Clone, Copy, Debug)]
pub struct Flaky {
    /// Of all chats, in percent.
    pub percent: u32,
    /// The same seed fails the same chats, counted from the first.
    pub seed: u64,
}

impl Flaky {
    /// How the chat with this number fails, if it does.
    fn mishap(self, number: u64) -> Option<Mishap> {
        let chance = mixed(self.seed ^ mixed(number));
        let status = [500, 503, 429][(chance >> 32) as usize % 3];
        (chance % 100 < u64::from(self.percent)).then_some(Mishap::Status {
            status,
            retry_after_s: None,
        })
    }
}

/// The finalizer of SplitMix64 (G. Steele, D. Lea and C. Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: vec!["bench".to_owned()],
            key: None,
            records: true,
            behaviour: Behaviour::default(),
            flaky: None,
        }
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct FakeUpstream {
    addr: SocketAddr,
    record: Arc<Record>,
    report: Arc<Mutex<String>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Connections that wait to be accepted. The standard library's 128 would make a proxy's burst of
/// more wait for a second, and the figures speak of that.
const BACKLOG_MAX: i32 = 4_096;

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    Ok(socket.into())
}

impl FakeUpstream {
    /// Listens before it returns: the first connection need not wait or retry.
    ///
    /// # Errors
    /// The address is taken, or the thread cannot start.
    pub fn start(config: FakeConfig) -> io::Result<Self> {
        let listener = listen(config.listen)?;
        let addr = listener.local_addr()?;
        let record = Arc::new(Record::new(config.records));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let report = Arc::default();
        let service = Arc::new(Service {
            config,
            record: Arc::clone(&record),
            report: Arc::clone(&report),
        });
        let thread = std::thread::Builder::new()
            .name("fake-upstream".to_owned())
            .spawn(move || runtime.block_on(serve(service, listener, stopped)))?;
        Ok(Self {
            addr,
            record,
            report,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What an SDK calls the base URL.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// The chat requests so far, oldest first; at most the last 256.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.record.seen()
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.record.counts()
    }

    /// What `/metrics` says from now on, as an inference engine does; at first nothing.
    pub fn set_report(&self, text: &str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone_into(&mut report);
    }

    /// Ends the server: the port refuses connections and open replies break off.
    pub fn kill(self) {
        drop(self);
    }

    /// Serves until the process ends.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already, and there is nothing left to do.
            drop(thread.join());
        }
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Service {
    config: FakeConfig,
    record: Arc<Record>,
    report: Arc<Mutex<String>>,
}

/// Accepts until `stopped` resolves. Returning drops every connection.
async fn serve(service: Arc<Service>, listener: StdListener, stopped: oneshot::Receiver<()>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let accept = async {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: a moment later there may be some.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            connections.spawn(serve_connection(Arc::clone(&service), stream));
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped => {}
    }
}

async fn serve_connection(service: Arc<Service>, stream: TcpStream) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let handle = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
    });
    // An error here is the peer's leaving or a break we were asked to make.
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), handle)
            .await,
    );
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/_seen") => return json(StatusCode::OK, &self.record.to_json()),
            (&Method::DELETE, "/_seen") => {
                self.record.clear();
                return json(StatusCode::OK, "{}");
            }
            _ => {}
        }
        if !self.lets_in(&head) {
            let error = match messages::is_spoken(&head) {
                true => messages::error,
                false => error,
            };
            return error(StatusCode::UNAUTHORIZED, "Incorrect API key provided");
        }
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/health" | "/api/version") => json(StatusCode::OK, "{}"),
            (&Method::GET, "/metrics") => {
                let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
                json(StatusCode::OK, &report)
            }
            (&Method::GET, "/v1/models") => {
                let list = match messages::is_spoken(&head) {
                    true => messages::models,
                    false => chat::models,
                };
                json(StatusCode::OK, &list(&self.config.models))
            }
            (&Method::POST, path) => {
                let path = path.to_owned();
                match Limited::new(body, BODY_BYTES_MAX).collect().await {
                    Ok(body) => self.asked(&path, &head, body.to_bytes()).await,
                    Err(_) => error(StatusCode::PAYLOAD_TOO_LARGE, "the body cannot be read"),
                }
            }
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    /// Anthropic's clients have a header of their own for the key.
    fn lets_in(&self, head: &http::request::Parts) -> bool {
        let Some(key) = &self.config.key else {
            return true;
        };
        let (name, expected) = match messages::is_spoken(head) {
            true => (HeaderName::from_static("x-api-key"), key.clone()),
            false => (AUTHORIZATION, format!("Bearer {key}")),
        };
        let sent = head.headers.get(name);
        sent.is_some_and(|sent| sent.as_bytes() == expected.as_bytes())
    }

    async fn asked(&self, path: &str, head: &http::request::Parts, body: Bytes) -> Response<Body> {
        match path {
            "/v1/chat/completions" | "/v1/completions" => self.chat(head, body).await,
            "/v1/messages" => self.message(head, &body).await,
            "/v1/messages/count_tokens" => count(head, &body),
            "/v1/embeddings" => match serde_json::from_slice(&body) {
                Ok(ask) => json(StatusCode::OK, &embeddings::embeddings(&ask)),
                Err(_) => error(StatusCode::BAD_REQUEST, "the body asks for no embeddings"),
            },
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    async fn chat(&self, head: &http::request::Parts, body: Bytes) -> Response<Body> {
        let number = self.record.counts().asked;
        let open = self.record.open(head, &body);
        let Ok(ask) = serde_json::from_slice::<chat::Ask>(&body) else {
            return error(StatusCode::BAD_REQUEST, "the body is no chat request");
        };
        if let Some(fault) = ask.fault() {
            return error(StatusCode::BAD_REQUEST, &fault);
        }
        let behaviour = self.behaviour(ask.last_text(), number);
        let answer = chat::Answer::new(&ask, behaviour, open);
        if ask.is_streamed() {
            answer.streamed().await
        } else {
            answer.whole().await
        }
    }

    async fn message(&self, head: &http::request::Parts, body: &Bytes) -> Response<Body> {
        let number = self.record.counts().asked;
        let open = self.record.open(head, body);
        let Ok(ask) = serde_json::from_slice::<Value>(body) else {
            return messages::error(StatusCode::BAD_REQUEST, "the body is no JSON");
        };
        if let Some(fault) = messages::fault(&head.headers, &ask) {
            return messages::error(StatusCode::BAD_REQUEST, &fault);
        }
        let behaviour = self.behaviour(messages::last_text(&ask), number);
        let answer = messages::Answer::new(&ask, behaviour, open);
        answer.response().await
    }

    /// How the chat with that number goes.
    fn behaviour(&self, text: &str, number: u64) -> Behaviour {
        let mut behaviour = self.config.behaviour.for_text(text);
        if let Some(mishap) = self.config.flaky.and_then(|it| it.mishap(number)) {
            behaviour.mishap = Some(mishap);
        }
        behaviour
    }
}

fn count(head: &http::request::Parts, body: &Bytes) -> Response<Body> {
    let ask: Value = serde_json::from_slice(body).unwrap_or_default();
    match messages::fault_of_prompt(&head.headers, &ask) {
        Some(fault) => messages::error(StatusCode::BAD_REQUEST, &fault),
        None => json(StatusCode::OK, &messages::count(&ask)),
    }
}

fn json(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::copy_from_slice(body.as_bytes()))
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    let body = serde_json::json!({"error": {
        "message": message, "type": "fake_error", "param": null, "code": null,
    }});
    json(status, &body.to_string())
}

#[cfg(test)]
mod tests;
