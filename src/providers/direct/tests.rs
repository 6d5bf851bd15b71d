//! Against a scripted server on a real socket: which connection a request takes, and what becomes of
//! it. What an answer means is tested with the upstream.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::transport::tests::rules;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nx-sum: 1\r\n\r\n";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

struct Scene {
    listener: TcpListener,
    direct: Direct,
}

impl Scene {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let direct = Direct::new(uri.parse().unwrap(), &rules(), Duration::from_secs(5));
        Self { listener, direct }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    async fn send(&self) -> Result<Response, SendError> {
        let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
        *request.method_mut() = http::Method::POST;
        self.direct.send(request).await
    }

    /// Sends, and reads the answer to its end.
    async fn ask(&self) -> Vec<u8> {
        let Ok(mut response) = self.send().await else {
            panic!("no answer");
        };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            body.extend_from_slice(&chunk);
        }
        body
    }

    fn kept(&self) -> usize {
        self.direct.idle().count()
    }
}

/// Reads one request and answers it. False when the client has closed instead.
async fn serve(socket: &mut TcpStream, answer: &[u8]) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        if socket.read_buf(&mut request).await.unwrap() == 0 {
            return false;
        }
    }
    socket.write_all(answer).await.unwrap();
    true
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_was_read() {
    let scene = Scene::new().await;
    let serving = async {
        let mut socket = scene.accept().await;
        for answer in [ANSWER, CHUNKED, EMPTY, ANSWER] {
            assert!(serve(&mut socket, answer).await);
        }
        socket
    };
    let asking = async {
        for body in ["ok", "ok", "", "ok"] {
            assert_eq!(scene.ask().await, body.as_bytes());
            assert_eq!(scene.kept(), 1);
        }
    };
    tokio::join!(serving, asking);
}

#[tokio::test]
async fn a_connection_is_not_kept_against_its_servers_word() {
    let scene = Scene::new().await;
    let serving = async {
        for _ in 0..2 {
            assert!(serve(&mut scene.accept().await, LAST).await);
        }
    };
    let asking = async {
        for _ in 0..2 {
            assert_eq!(scene.ask().await, b"ok");
            assert_eq!(scene.kept(), 0);
        }
    };
    tokio::join!(serving, asking);
}

/// Seen with clients that find out only by sending: a request on a connection closed long ago fails,
/// though it was never received.
#[tokio::test]
async fn a_kept_connection_that_its_server_closed_is_passed_over() {
    let scene = Scene::new().await;
    let (mut socket, body) = tokio::join!(
        async {
            let mut socket = scene.accept().await;
            assert!(serve(&mut socket, ANSWER).await);
            socket
        },
        scene.ask()
    );
    assert_eq!(body, b"ok");
    assert_eq!(scene.kept(), 1);
    socket.shutdown().await.unwrap();
    // The server's end is known here once ours was closed for it.
    while scene.kept() > 0 {
        scene.direct.idle().sweep(Instant::now());
        tokio::task::yield_now().await;
    }
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
    let serving = async { serve(&mut scene.accept().await, ANSWER).await };
    let (is_served, body) = tokio::join!(serving, scene.ask());
    assert!(is_served);
    assert_eq!(body, b"ok");
}

#[tokio::test]
async fn what_a_server_says_unasked_ends_its_connection() {
    let scene = Scene::new().await;
    let serving = async {
        let mut socket = scene.accept().await;
        assert!(serve(&mut socket, &[ANSWER, ANSWER].concat()).await);
        // Ours is closed, and what was said unasked answers nobody.
        while !matches!(socket.read(&mut [0; 1]).await, Ok(0) | Err(_)) {}
        let mut socket = scene.accept().await;
        assert!(serve(&mut socket, CHUNKED).await);
        socket
    };
    let asking = async {
        assert_eq!(scene.ask().await, b"ok");
        assert_eq!(scene.ask().await, b"ok");
    };
    let (_socket, ()) = tokio::join!(serving, asking);
    assert_eq!(scene.kept(), 1);
}

#[tokio::test]
async fn an_answer_dropped_before_its_end_closes_its_connection() {
    let scene = Scene::new().await;
    let serving = async {
        let mut socket = scene.accept().await;
        serve(&mut socket, &ANSWER[..ANSWER.len() - 1]).await;
        socket.read(&mut [0; 1]).await.unwrap()
    };
    let asking = async {
        let mut response = scene.send().await.ok().unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), "o");
        drop(response);
    };
    let (left, ()) = tokio::join!(serving, asking);
    assert_eq!(left, 0);
    assert_eq!(scene.kept(), 0);
}

#[tokio::test]
async fn no_more_connections_are_kept_than_may_be_and_none_for_longer() {
    let scene = Scene::new().await;
    let count = rules().idle_count_max + 1;
    let serving = async {
        let mut sockets = Vec::new();
        for _ in 0..count {
            sockets.push(scene.accept().await);
        }
        for socket in &mut sockets {
            serve(socket, ANSWER).await;
        }
        sockets
    };
    let asking = futures::future::join_all((0..count).map(|_| scene.ask()));
    let (_sockets, bodies) = tokio::join!(serving, asking);
    assert!(bodies.iter().all(|body| body == b"ok"));
    assert_eq!(scene.kept(), rules().idle_count_max);
    scene.direct.idle().sweep(Instant::now());
    assert_eq!(scene.kept(), rules().idle_count_max);
    scene.direct.idle().sweep(Instant::now() + rules().idle_max);
    assert_eq!(scene.kept(), 0);
}

/// The runtime gives a task so much to do and then makes it wait for the others: whoever waits
/// without a waker of the task's would wait for ever.
#[tokio::test]
async fn a_task_that_has_done_much_is_still_woken() {
    let scene = Scene::new().await;
    let serving = async {
        let mut socket = scene.accept().await;
        for _ in 0..50 {
            assert!(serve(&mut socket, CHUNKED).await);
        }
    };
    let asking = async {
        for _ in 0..50 {
            // Until nothing is left of what this task may do at one go.
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
            assert_eq!(scene.ask().await, b"ok");
        }
    };
    tokio::join!(serving, asking);
}
