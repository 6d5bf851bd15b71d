//! Against a scripted server on a real socket. Where time matters, the configured patience is tiny
//! and nothing is asserted about how long things took.

use domain::{ChatEvent, ChatRequest, Findings, HealthState, Outbound, Reply, Trust, collect};
use futures::StreamExt;
use tokio::io::AsyncReadExt;
pub(super) use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use wire::openai::decode_request;

use super::*;
pub(super) use crate::transport::tests::both_ways;
use crate::transport::tests::transport;
use crate::{Auth, Secret};

pub(super) const KEY: &str = "sk-very-secret";
pub(super) const REPLY: &str = r#"{"id":"chatcmpl-9","model":"theirs-1","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
pub(super) const FIRST_CHUNK: &str = "data: {\"model\":\"theirs-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hel\"}}]}\n\n";
pub(super) const LAST_CHUNKS: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

/// What the server does once its bytes are written.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    Close,
    /// A TCP reset, as a crashed process leaves it.
    Reset,
    /// Keeps silent until the client closes.
    Wait,
}

pub(super) struct Server(pub TcpListener);

impl Server {
    pub async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/v1", self.0.local_addr().unwrap())
    }

    /// Serves one request and gives its head and body as they came.
    pub async fn answer(&self, reply: &[u8], ending: Ending) -> (String, String) {
        let (socket, _) = self.0.accept().await.unwrap();
        answer_on(socket, reply, ending).await
    }
}

async fn answer_on(mut socket: TcpStream, reply: &[u8], ending: Ending) -> (String, String) {
    let request = read_request(&mut socket).await;
    // The client may have seen enough and left.
    let _ = socket.write_all(reply).await;
    match ending {
        Ending::Close => {}
        Ending::Reset => socket.set_zero_linger().unwrap(),
        Ending::Wait => while matches!(socket.read(&mut [0; 64]).await, Ok(1..)) {},
    }
    request
}

pub(super) async fn read_request(socket: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let (_, length) = head.split_once("content-length: ").expect("a length");
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if body.len() == length {
                break;
            }
        }
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "cut request");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

pub(super) fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}

pub(super) fn json(status: &str, body: &str) -> Vec<u8> {
    response(status, "content-type: application/json\r\n", body)
}

/// A body without a length: it lasts until the connection closes.
pub(super) fn events(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}

pub(super) fn config(base_url: &str) -> UpstreamConfig {
    let mut config = UpstreamConfig::new("cloud", base_url, "theirs", Trust::Public);
    config.auth = Auth::bearer(Secret::new(KEY));
    config
}

pub(super) fn upstream(server: &Server) -> Upstream {
    Upstream::new(config(&server.url("http")), transport()).unwrap()
}

pub(super) fn request(members: &str) -> ChatRequest {
    let body = format!(r#"{{"model":"m",{members}"messages":[{{"role":"user","content":"hi"}}]}}"#);
    decode_request(&Bytes::from(body)).unwrap()
}

pub(super) fn outbound(request: ChatRequest) -> Outbound {
    let findings = Findings::default();
    Outbound::seal(
        "req-1".into(),
        "theirs".into(),
        request,
        &findings,
        Trust::Public,
    )
}

pub(super) const STREAM: &str = r#""stream":true,"#;

pub(super) async fn chat(upstream: &Upstream, members: &str) -> Result<Vec<Seen>, BackendError> {
    let stream = upstream.chat(outbound(request(members))).await?;
    Ok(stream.collect().await)
}

pub(super) type Seen = Result<ChatEvent, BackendError>;

pub(super) async fn whole(upstream: &Upstream, members: &str) -> Result<Reply, BackendError> {
    collect(upstream.chat(outbound(request(members))).await?).await
}

/// The error that a chat ends in, before or within its stream.
pub(super) async fn failure(upstream: &Upstream, members: &str) -> String {
    match chat(upstream, members).await {
        Err(error) => format!("{error:?}"),
        Ok(events) => {
            let (last, before) = events.split_last().expect("an event");
            assert!(before.iter().all(Result::is_ok), "{events:?}");
            format!("{:?}", last.as_ref().expect_err("a clean end"))
        }
    }
}

/// The failure of a chat that is answered with `reply`, the same whichever way it goes.
pub(super) async fn failure_after(reply: &[u8], ending: Ending, members: &str) -> String {
    let mut errors = Vec::new();
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let (_, error) = tokio::join!(server.answer(reply, ending), failure(&upstream, members));
        errors.push(error);
    }
    assert_eq!(errors[0], errors[1]);
    errors.remove(0)
}

#[tokio::test]
async fn a_whole_reply_comes_back_as_events() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let body = json("200 OK", REPLY);
        let (_, reply) = tokio::join!(server.answer(&body, Ending::Close), whole(&upstream, ""),);
        let reply = reply.unwrap();
        assert_eq!(reply.started.model, "theirs-1");
        assert_eq!(reply.choices[0].text(), "hello");
        assert_eq!(reply.usage.unwrap().prompt_tokens.0, 3);
    }
}

#[tokio::test]
async fn a_streamed_reply_comes_back_as_events() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let reply = events(&format!("{FIRST_CHUNK}{LAST_CHUNKS}"));
        let (_, reply) = tokio::join!(
            server.answer(&reply, Ending::Close),
            whole(&upstream, STREAM),
        );
        assert_eq!(reply.unwrap().choices[0].text(), "hello");
    }
}

#[tokio::test]
async fn either_form_of_reply_is_taken_whichever_was_asked_for() {
    let streamed = events(&format!("{FIRST_CHUNK}{LAST_CHUNKS}"));
    for (members, reply) in [(STREAM, json("200 OK", REPLY)), ("", streamed)] {
        let server = Server::bind().await;
        let upstream = upstream(&server);
        let (_, reply) = tokio::join!(
            server.answer(&reply, Ending::Close),
            whole(&upstream, members),
        );
        assert_eq!(reply.unwrap().choices[0].text(), "hello");
    }
}

#[tokio::test]
async fn a_reply_that_names_no_model_gets_the_one_asked_for() {
    let nameless = r#"{"choices":[{"message":{"content":"a"}}]}"#;
    let stream = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    for (members, reply) in [("", json("200 OK", nameless)), (STREAM, events(stream))] {
        let server = Server::bind().await;
        let upstream = upstream(&server);
        let (_, reply) = tokio::join!(
            server.answer(&reply, Ending::Close),
            whole(&upstream, members),
        );
        assert_eq!(reply.unwrap().started.model, "theirs");
    }
}

#[tokio::test]
async fn the_request_carries_key_id_and_every_field_untouched() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let mut config = config(&server.url("http"));
        config.headers = vec![("openai-organization".into(), "org-1".into())];
        let upstream = Upstream::new(config, transport).unwrap();
        let members = r#""x_vendor": {"b": 1.50, "a": "\u00e9"},"#;
        let reply = json("200 OK", REPLY);
        let ((head, body), _) = tokio::join!(
            server.answer(&reply, Ending::Close),
            whole(&upstream, members),
        );
        assert!(
            head.starts_with("POST /v1/chat/completions HTTP/1.1"),
            "{head}"
        );
        for line in [
            "authorization: Bearer sk-very-secret",
            "x-request-id: req-1",
            "openai-organization: org-1",
            "content-type: application/json",
            "accept: application/json",
        ] {
            assert!(head.lines().any(|had| had == line), "{line} in {head}");
        }
        let host = format!("host: {}", server.0.local_addr().unwrap());
        assert_eq!(head.lines().filter(|had| *had == host).count(), 1, "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert!(!head.contains("accept-encoding"), "{head}");
        assert_eq!(
            body,
            r#"{"model":"theirs","x_vendor":{"b": 1.50, "a": "\u00e9"},"messages":[{"role":"user","content":"hi"}]}"#
        );
    }
}

#[tokio::test]
async fn a_streamed_request_asks_for_events_and_usage() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let reply = events(&format!("{FIRST_CHUNK}{LAST_CHUNKS}"));
        let ((head, body), _) = tokio::join!(
            server.answer(&reply, Ending::Close),
            whole(&upstream, STREAM),
        );
        assert!(head.contains("accept: text/event-stream"), "{head}");
        let streaming = r#""stream":true,"stream_options":{"include_usage":true}}"#;
        assert!(body.ends_with(streaming), "{body}");
    }
}

#[tokio::test]
async fn every_status_becomes_a_decision() {
    let error = r#"{"error":{"message":"bad n","type":"invalid_request_error","param":"n","code":"invalid_value"}}"#;
    let rejected = |status: u16| {
        format!(
            "Rejected {{ status: {status}, reason: BadRequest {{ param: Some(\"n\"), code: \
             Some(\"invalid_value\"), message: \"bad n\" }} }}"
        )
    };
    let unknown = || "ModelUnknown { model: \"theirs\" }".to_owned();
    let context = r#"{"error":{"message":"This model's maximum context length is 10 tokens. However, your messages resulted in 12 tokens.","code":"context_length_exceeded"}}"#;
    let too_long = "ContextExceeded { asked: Tokens(12), limit: Tokens(10) }";
    let failed = |status: u16| format!("Failed {{ status: {status} }}");
    let cases: Vec<(&str, &str, &str, String)> = vec![
        ("400 Bad Request", "", error, rejected(400)),
        ("404 Not Found", "", error, unknown()),
        ("413 Too Large", "", error, rejected(413)),
        ("415 Unsupported", "", error, rejected(415)),
        ("422 Unprocessable", "", error, rejected(422)),
        ("400 Bad Request", "", context, too_long.into()),
        ("404 Not Found", "", "<html>", failed(404)),
        ("405 Not Allowed", "", "", failed(405)),
        (
            "401 Unauthorized",
            "",
            error,
            "Credentials { status: 401 }".into(),
        ),
        (
            "402 Payment",
            "",
            error,
            "Credentials { status: 402 }".into(),
        ),
        (
            "403 Forbidden",
            "",
            error,
            "Credentials { status: 403 }".into(),
        ),
        ("408 Timeout", "", error, "TimedOut(Request)".into()),
        (
            "429 Slow",
            "",
            error,
            "RateLimited { retry_after: None }".into(),
        ),
        (
            "429 Slow",
            "retry-after: 7\r\n",
            error,
            "RateLimited { retry_after: Some(7s) }".into(),
        ),
        ("500 Oops", "", error, failed(500)),
        ("502 Oops", "", "<html>", failed(502)),
        ("504 Oops", "", "", failed(504)),
        (
            "503 Busy",
            "",
            error,
            "Overloaded { retry_after: 0ns }".into(),
        ),
        (
            "529 Busy",
            "retry-after: 3\r\n",
            "",
            "Overloaded { retry_after: 3s }".into(),
        ),
        (
            "307 Elsewhere",
            "location: http://127.0.0.1:9/\r\n",
            "",
            failed(307),
        ),
        ("204 Nothing", "", "", failed(204)),
    ];
    for (status, headers, body, expected) in cases {
        let reply = response(status, headers, body);
        let seen = failure_after(&reply, Ending::Close, STREAM).await;
        assert_eq!(seen, expected, "{status}");
    }
}

#[tokio::test]
async fn an_error_body_without_sense_or_end_is_still_a_rejection() {
    let huge = "x".repeat(1 << 20);
    for body in ["", "<html>", "{}", &huge] {
        let reply = response("400 Bad Request", "", body);
        let seen = failure_after(&reply, Ending::Close, "").await;
        assert!(seen.contains("status 400 and gave no reason"), "{seen}");
    }
}

#[tokio::test]
async fn a_reply_of_the_wrong_kind_is_garbled() {
    let gzip = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let cases = [
        (
            response("200 OK", "content-type: text/html\r\n", "<html>"),
            "neither JSON nor",
        ),
        (response("200 OK", gzip, "\u{1f}"), "compressed"),
        (json("200 OK", "nonsense"), "no chat completion"),
        (json("200 OK", "{}"), "no choices"),
        (json("200 OK", ""), "no chat completion"),
        (events("data: nonsense\n\n"), "malformed"),
        (events(&format!("{FIRST_CHUNK}data: {{]\n\n")), "malformed"),
    ];
    for (reply, words) in cases {
        let seen = failure_after(&reply, Ending::Close, STREAM).await;
        assert!(
            seen.starts_with("Garbled") && seen.contains(words),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn a_whole_reply_beyond_the_bound_is_refused_unread() {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n";
    let seen = failure_after(head.as_bytes(), Ending::Wait, "").await;
    assert!(seen.contains("too large"), "{seen}");
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_interrupted_and_never_whole() {
    let begun = events(FIRST_CHUNK);
    let half_reply = &json("200 OK", REPLY)[..150];
    for (reply, members) in [(&begun[..], STREAM), (half_reply, "")] {
        for ending in [Ending::Close, Ending::Reset] {
            let seen = failure_after(reply, ending, members).await;
            assert_eq!(seen, "Interrupted");
        }
    }
}

#[tokio::test]
async fn an_error_inside_the_stream_ends_it() {
    let reply = events(&format!(
        "{FIRST_CHUNK}data: {{\"error\":{{\"message\":\"m\",\"code\":503}}}}\n\n{LAST_CHUNKS}"
    ));
    let seen = failure_after(&reply, Ending::Wait, STREAM).await;
    assert_eq!(seen, "Failed { status: 503 }");
}

#[tokio::test]
async fn a_sent_request_is_not_sent_again() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let mut count = 0;
        let serve = async {
            loop {
                server.answer(b"", Ending::Reset).await;
                count += 1;
            }
        };
        let seen = tokio::select! {
            biased;
            seen = failure(&upstream, STREAM) => seen,
            () = serve => unreachable!("it serves for ever"),
        };
        assert!(seen.starts_with("Unreachable"), "{seen}");
        assert_eq!(count, 1);
        assert_eq!(upstream.health().state, HealthState::Ready);
    }
}

/// How often the stand-in is asked, whatever goes wrong, and what the pipeline is told: it decides
/// whether the same upstream, another or nobody is asked next. A request that a connection took is
/// sent once.
#[tokio::test]
async fn the_fault_table() {
    let error = r#"{"error":{"message":"no"}}"#;
    let filtered = r#"{"error":{"message":"no","code":"content_filter"}}"#;
    let wordless_context = r#"{"error":{"message":"no","code":"context_length_exceeded"}}"#;
    let status = |status: &str| json(status, error);
    let call = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\
                \"id\":\"c\",\"function\":{\"name\":\"run\",\"arguments\":\"{\\\"a\"}}]}}]}\n\n";
    let rows: Vec<(&str, Vec<u8>, Ending, &str)> = vec![
        ("reset", Vec::new(), Ending::Reset, "unreachable"),
        (
            "closed unanswered",
            Vec::new(),
            Ending::Close,
            "unreachable",
        ),
        ("no head in time", Vec::new(), Ending::Wait, "timed_out"),
        (
            "no event in time",
            events(": wait\n\n"),
            Ending::Wait,
            "timed_out",
        ),
        (
            "nothing after an event",
            events(FIRST_CHUNK),
            Ending::Wait,
            "timed_out",
        ),
        ("400", status("400 Bad"), Ending::Close, "rejected"),
        (
            "400, filtered",
            json("400 Bad", filtered),
            Ending::Close,
            "content_refused",
        ),
        (
            "400, too long",
            json("400 Bad", wordless_context),
            Ending::Close,
            "rejected",
        ),
        ("401", status("401 Who"), Ending::Close, "credentials"),
        ("404", status("404 Gone"), Ending::Close, "model_unknown"),
        ("408", status("408 Late"), Ending::Close, "timed_out"),
        ("413", status("413 Large"), Ending::Close, "rejected"),
        ("429", status("429 Slow"), Ending::Close, "rate_limited"),
        ("500", status("500 Oops"), Ending::Close, "failed"),
        ("502", status("502 Oops"), Ending::Close, "failed"),
        ("503", status("503 Busy"), Ending::Close, "overloaded"),
        ("529", status("529 Busy"), Ending::Close, "overloaded"),
        (
            "malformed",
            json("200 OK", "nonsense"),
            Ending::Close,
            "garbled",
        ),
        (
            "cut mid-stream",
            events(FIRST_CHUNK),
            Ending::Reset,
            "interrupted",
        ),
        (
            "cut mid-tool-call",
            events(call),
            Ending::Reset,
            "interrupted",
        ),
    ];
    for (name, reply, ending, label) in rows {
        for transport in both_ways() {
            let server = Server::bind().await;
            let mut config = config(&server.url("http"));
            config.first_event_timeout = Duration::from_millis(100);
            config.idle_timeout = Duration::from_millis(30);
            let upstream = Upstream::new(config, transport).unwrap();
            let mut asked = 0;
            let serve = async {
                loop {
                    let (socket, _) = server.0.accept().await.unwrap();
                    asked += 1;
                    answer_on(socket, &reply, ending).await;
                }
            };
            let told = async {
                match upstream.chat(outbound(request(STREAM))).await {
                    Err(error) => error.as_label(),
                    Ok(stream) => {
                        let events: Vec<Seen> = stream.collect().await;
                        let last = events.last().expect("an event").as_ref();
                        last.expect_err("a clean end").as_label()
                    }
                }
            };
            let told = tokio::select! {
                told = told => told,
                () = serve => unreachable!("it serves for ever"),
            };
            assert_eq!((told, asked), (label, 1), "{name}");
            assert_eq!(upstream.health().state, HealthState::Ready, "{name}");
        }
    }
}

/// A TLS handshake that breaks is a connection that never came to be.
#[tokio::test]
async fn a_broken_connect_is_tried_again_and_then_given_up() {
    let server = Server::bind().await;
    let upstream = Upstream::new(config(&server.url("https")), transport()).unwrap();
    let mut count = 0;
    let serve = async {
        loop {
            drop(server.0.accept().await);
            count += 1;
        }
    };
    let seen = tokio::select! {
        biased;
        seen = failure(&upstream, STREAM) => seen,
        () = serve => unreachable!("it serves for ever"),
    };
    assert_eq!(seen, "Unreachable(\"no connection could be made\")");
    assert_eq!(count, 1 + UpstreamConfig::CONNECT_RETRIES_MAX_DEFAULT);
}

#[tokio::test]
async fn three_chats_without_a_connection_take_the_upstream_down() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        // Nobody listens there any more.
        drop(server);
        for _ in 0..2 {
            let seen = failure(&upstream, "").await;
            assert_eq!(seen, "Unreachable(\"no connection could be made\")");
            assert_eq!(upstream.health().state, HealthState::Ready);
        }
        failure(&upstream, "").await;
        assert_eq!(upstream.health().state, HealthState::Down);
    }
}

/// A server that takes the connection and never answers the TLS greeting.
#[tokio::test]
async fn a_connect_that_hangs_ends_by_the_upstreams_own_patience() {
    let server = Server::bind().await;
    let mut config = config(&server.url("https"));
    config.connect_timeout = Duration::from_millis(30);
    let upstream = Upstream::new(config, transport()).unwrap();
    assert_eq!(failure(&upstream, STREAM).await, "TimedOut(Connect)");
}

#[tokio::test]
async fn silence_ends_by_the_patience_for_its_phase() {
    let comments = events(": wait\n\n: wait\n\n");
    let begun = events(FIRST_CHUNK);
    let half_whole = &json("200 OK", REPLY)[..150];
    for (reply, members, phase) in [
        (&b""[..], STREAM, "FirstEvent"),
        (&b""[..], "", "FirstEvent"),
        (&comments, STREAM, "FirstEvent"),
        (half_whole, "", "FirstEvent"),
        (&begun, STREAM, "BetweenEvents"),
    ] {
        let server = Server::bind().await;
        let mut config = config(&server.url("http"));
        config.first_event_timeout = Duration::from_millis(200);
        config.whole_reply_timeout = Duration::from_millis(200);
        config.idle_timeout = Duration::from_millis(30);
        let upstream = Upstream::new(config, transport()).unwrap();
        let (_, seen) = tokio::join!(
            server.answer(reply, Ending::Wait),
            failure(&upstream, members),
        );
        assert_eq!(seen, format!("TimedOut({phase})"));
    }
}

/// The server's side ends only when it sees the connection closed.
#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let begun = events(FIRST_CHUNK);
        tokio::join!(server.answer(&begun, Ending::Wait), async {
            let chat = upstream.chat(outbound(request(STREAM))).await;
            let mut stream = chat.unwrap();
            assert!(matches!(
                stream.next().await,
                Some(Ok(ChatEvent::Started(_)))
            ));
            drop(stream);
        });
    }
}

#[tokio::test]
async fn dropping_the_call_before_its_answer_closes_the_connection() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let (taken, was_taken) = tokio::sync::oneshot::channel();
        let serve = async {
            let (mut socket, _) = server.0.accept().await.unwrap();
            read_request(&mut socket).await;
            taken.send(()).unwrap();
            while matches!(socket.read(&mut [0; 64]).await, Ok(1..)) {}
        };
        let leave = async {
            tokio::select! {
                _ = upstream.chat(outbound(request(STREAM))) => unreachable!("nobody answers"),
                _ = was_taken => {}
            }
        };
        tokio::join!(serve, leave);
    }
}

#[tokio::test]
async fn the_key_shows_nowhere() {
    let server = Server::bind().await;
    let mut config = config(&server.url("http"));
    config.headers = vec![("api-key".into(), KEY.into())];
    assert!(!format!("{config:?}").contains(KEY));
    let upstream = Upstream::new(config, transport()).unwrap();
    assert!(!format!("{upstream:?}").contains(KEY));
    let body = format!(r#"{{"error":{{"message":"odd: {KEY}","param":"{KEY}"}}}}"#);
    for status in ["400 Bad Request", "401 Unauthorized", "500 Oops"] {
        let reply = json(status, &body);
        let (_, seen) = tokio::join!(server.answer(&reply, Ending::Close), failure(&upstream, ""),);
        assert!(!seen.contains(KEY), "{seen}");
    }
}

#[test]
fn faults_of_a_configuration_are_named() {
    use UpstreamConfigError as E;
    type Change = fn(&mut UpstreamConfig);
    let cases: [(Change, E); 10] = [
        (
            |config| config.base_url = "a.example/v1".into(),
            E::UrlMalformed,
        ),
        (
            |config| config.base_url = "ftp://a.example".into(),
            E::UrlScheme,
        ),
        (
            |config| config.base_url = "localhost:80".into(),
            E::UrlScheme,
        ),
        (
            |config| config.base_url = "https://u@a.example".into(),
            E::UrlCredentials,
        ),
        (
            |config| config.base_url = "https://a.example?k=1".into(),
            E::UrlQuery,
        ),
        (
            |config| config.base_url = "https://a.example#k".into(),
            E::UrlQuery,
        ),
        (
            |config| config.auth = Auth::bearer(Secret::new("a\nb")),
            E::KeyUnsendable,
        ),
        (
            |config| config.headers = vec![("a b".into(), "c".into())],
            E::HeaderMalformed { name: "a b".into() },
        ),
        (
            |config| config.headers = vec![("Authorization".into(), "c".into())],
            E::HeaderReserved {
                name: "Authorization".into(),
            },
        ),
        (|config| config.default_model.clear(), E::NoDefaultModel),
    ];
    for (change, expected) in cases {
        let mut config = config("https://a.example/v1");
        change(&mut config);
        assert_eq!(Upstream::new(config, transport()).unwrap_err(), expected);
    }
}

#[test]
fn constraints_are_for_upstreams_known_to_take_them() {
    for takes in [false, true] {
        let mut config = config("http://127.0.0.1:9/v1");
        config.structured_outputs = takes;
        let upstream = Upstream::new(config, transport()).unwrap();
        let abilities = upstream.card().models[0].abilities;
        assert_eq!(abilities.has(domain::Ability::Constraints), takes);
        assert!(abilities.has(domain::Ability::JsonSchema));
    }
}

#[test]
fn the_card_lists_the_default_first_and_any_last() {
    for (listed, expected) in [
        (&[][..], &["theirs", "*"][..]),
        (&["b", "theirs", "b"], &["theirs", "b"]),
        (&["*", "b"], &["theirs", "b", "*"]),
    ] {
        let mut config = config("https://a.example/v1");
        config.models = listed.iter().map(|name| (*name).to_owned()).collect();
        let upstream = Upstream::new(config, transport()).unwrap();
        let models = upstream.card().models.iter();
        let names: Vec<&str> = models.map(|model| model.name.as_str()).collect();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn a_long_body_is_written_off_the_network_threads() {
    let words = "words ".repeat(300_000);
    let mut asked = request("");
    asked.messages = vec![domain::Message::new(domain::Role::User, &words)];
    asked.source = None;
    let quirks = Arc::default();
    for (body_bytes, is_away) in [(100, false), (words.len(), true)] {
        let call = outbound(asked.clone()).of_body_bytes(body_bytes);
        let mut written = pin!(encode(
            &wire::openai::Chat,
            &quirks,
            &call,
            Continues::Never
        ));
        assert_eq!(
            futures::poll!(written.as_mut()).is_pending(),
            is_away,
            "{body_bytes}"
        );
    }
}

/// A dialect that differs from OpenAI's in everything an upstream asks it for.
#[derive(Debug)]
struct Telegraph;

impl ClientDialect for Telegraph {
    fn dialect(&self) -> domain::Dialect {
        domain::Dialect::Bedrock
    }

    fn target(&self, model: &str, delivery: Delivery) -> std::borrow::Cow<'static, str> {
        match delivery {
            Delivery::Whole => format!("/lines/{model}:wire").into(),
            Delivery::Streamed { .. } => format!("/lines/{model}:tick?alt=dots").into(),
        }
    }

    fn headers(&self) -> &'static [(&'static str, &'static str)] {
        &[("x-morse", "1865"), ("x-speed", "slow")]
    }

    fn encode_request(&self, model: &str, request: &ChatRequest) -> Result<Bytes, BackendError> {
        match request.choices {
            1 => Ok(Bytes::from(format!("{model} STOP"))),
            _ => Err(BackendError::declined("n", "one telegram at a time")),
        }
    }

    fn decode_reply(&self, body: &[u8]) -> Result<Reply, BackendError> {
        wire::openai::decode_reply(body.strip_prefix(b"WHOLE").unwrap_or_default())
    }

    fn decoder(&self) -> Box<dyn wire::StreamDecoder> {
        wire::openai::Chat.decoder()
    }

    fn media_type(&self) -> &'static str {
        "application/x-dots"
    }

    fn decode_error(&self, body: &[u8]) -> Option<wire::openai::ErrorReply> {
        wire::openai::decode_error(body.strip_prefix(b"SORRY")?)
    }
}

pub(super) fn by_telegraph(server: &Server, transport: Transport) -> Upstream {
    let mut config = config(&server.url("http"));
    config.dialect = &Telegraph;
    config.headers = vec![("x-speed".into(), "fast".into())];
    Upstream::new(config, transport).unwrap()
}

#[tokio::test]
async fn an_upstream_speaks_its_own_dialect() {
    let dots = "content-type: application/x-dots; v=1\r\n";
    let reply = format!("WHOLE{REPLY}");
    let stream = format!("{FIRST_CHUNK}{LAST_CHUNKS}");
    for (members, reply, line, accept) in [
        (
            "",
            json("200 OK", &reply),
            "/v1/lines/theirs:wire",
            "application/json",
        ),
        (
            STREAM,
            response("200 OK", dots, &stream),
            "/v1/lines/theirs:tick?alt=dots",
            "application/x-dots",
        ),
    ] {
        for transport in both_ways() {
            let server = Server::bind().await;
            let upstream = by_telegraph(&server, transport);
            let ((head, body), reply) = tokio::join!(
                server.answer(&reply, Ending::Close),
                whole(&upstream, members),
            );
            assert_eq!(reply.unwrap().choices[0].text(), "hello");
            assert!(
                head.starts_with(&format!("POST {line} HTTP/1.1\r\n")),
                "{head}"
            );
            let accept = format!("accept: {accept}");
            for line in [accept.as_str(), "x-morse: 1865", "x-speed: fast"] {
                assert!(head.lines().any(|had| had == line), "{line} in {head}");
            }
            assert_eq!(body, "theirs STOP");
        }
    }
}

#[tokio::test]
async fn a_dialects_own_refusals_are_read_and_foreign_streams_are_not() {
    let error = r#"SORRY{"error":{"message":"bad n","param":"n"}}"#;
    for (reply, words) in [
        (json("400 Bad Request", error), "message: \"bad n\""),
        (json("400 Bad Request", &error[5..]), "gave no reason"),
        (events(FIRST_CHUNK), "neither JSON nor"),
    ] {
        let server = Server::bind().await;
        let upstream = by_telegraph(&server, transport());
        let (_, seen) = tokio::join!(
            server.answer(&reply, Ending::Close),
            failure(&upstream, STREAM),
        );
        assert!(seen.contains(words), "{seen}");
    }
}

#[tokio::test]
async fn what_a_dialect_cannot_say_is_declined_and_never_sent() {
    let server = Server::bind().await;
    let upstream = by_telegraph(&server, transport());
    let seen = tokio::select! {
        biased;
        seen = failure(&upstream, r#""n":2,"#) => seen,
        _ = server.0.accept() => unreachable!("nothing is sent"),
    };
    assert!(seen.starts_with("Declined"), "{seen}");
    assert!(seen.contains("one telegram"), "{seen}");
}

fn prompt(members: &str) -> ChatRequest {
    use wire::ServerDialect;
    let body = format!("{{{members}\"model\":\"m\",\"prompt\":\"Once\"}}");
    let decoded = Completions.decode(&Bytes::from(body));
    decoded.unwrap().request
}

#[tokio::test]
async fn a_prompt_that_is_no_chat_goes_to_its_own_path() {
    let body =
        r#"{"model":"theirs-1","choices":[{"index":0,"text":" upon","finish_reason":"length"}]}"#;
    let chunk = "data: {\"choices\":[{\"index\":0,\"text\":\" upon\",\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";
    for base in ["/v1", "/v1/chat/completions"] {
        for (members, reply) in [("", json("200 OK", body)), (STREAM, events(chunk))] {
            let server = Server::bind().await;
            let url = server.url("http").replace("/v1", base);
            let upstream = Upstream::new(config(&url), transport()).unwrap();
            let call = outbound(prompt(members));
            let ((head, sent), reply) = tokio::join!(server.answer(&reply, Ending::Close), async {
                collect(upstream.chat(call).await?).await
            },);
            assert!(
                head.starts_with("POST /v1/completions HTTP/1.1\r\n"),
                "{head}"
            );
            assert!(sent.contains(r#""prompt":"Once""#), "{sent}");
            let reply = reply.unwrap();
            assert_eq!(reply.choices[0].text(), " upon");
            assert_eq!(reply.choices[0].reason, domain::FinishReason::Length);
        }
    }
}

#[tokio::test]
async fn an_upstream_of_another_dialect_takes_no_prompt_that_is_no_chat() {
    let server = Server::bind().await;
    let upstream = by_telegraph(&server, transport());
    let seen = tokio::select! {
        biased;
        seen = upstream.chat(outbound(prompt(""))) => seen.err().unwrap(),
        _ = server.0.accept() => unreachable!("nothing is sent"),
    };
    assert!(seen.may_try_next());
    match seen {
        BackendError::Declined { reason } => assert_eq!(reason.param.as_deref(), Some("prompt")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_that_broke_off_is_gone_on_with_in_the_upstreams_own_words() {
    use domain::{Message, Role};
    for (continues, resume, is_told) in [
        (Continues::Never, Resume::Never, false),
        (Continues::Message, Resume::Exact, false),
        (Continues::FinalMessage, Resume::Exact, true),
        (Continues::PrefixRepeated, Resume::Repeating, false),
    ] {
        let server = Server::bind().await;
        let mut config = config(&server.url("http"));
        config.continues = continues;
        let upstream = Upstream::new(config, transport()).unwrap();
        assert_eq!(upstream.resume("theirs"), resume);
        let mut asked = request("");
        asked.source = None;
        asked.messages.push(Message::new(Role::Assistant, "half"));
        for is_resuming in [true, false] {
            let mut call = outbound(asked.clone());
            if is_resuming {
                call = call.resuming();
            }
            let reply = json("200 OK", REPLY);
            let served = server.answer(&reply, Ending::Close);
            let (answered, (_, body)) = tokio::join!(upstream.chat(call), served);
            assert!(answered.is_ok());
            let has = |word: &str| body.contains(word);
            assert_eq!(has("continue_final_message"), is_told && is_resuming);
            let is_prefixed = continues == Continues::PrefixRepeated && is_resuming;
            assert_eq!(has("\"prefix\":true"), is_prefixed);
        }
    }
}

#[tokio::test]
async fn one_refused_connect_takes_the_link_down_and_an_answer_brings_it_back() {
    use domain::Link;
    for transport in both_ways() {
        let server = Server::bind().await;
        let address = server.0.local_addr().unwrap();
        let mut config = config(&server.url("http"));
        config.connect_retries_max = 0;
        let upstream = Upstream::new(config.clone(), transport.clone()).unwrap();
        config.trust = Trust::Tenant;
        let ours = Upstream::new(config, transport.clone()).unwrap();
        let link = std::sync::Arc::clone(transport.link());
        drop(server);
        assert!(whole(&ours, "").await.is_err());
        assert!(
            !link.is_offline(),
            "a machine of the operator's is not the link"
        );
        assert!(whole(&upstream, "").await.is_err());
        assert!(link.is_offline());
        let server = Server(TcpListener::bind(address).await.unwrap());
        let reply = json("200 OK", REPLY);
        let served = server.answer(&reply, Ending::Close);
        let (answered, _) = tokio::join!(whole(&upstream, ""), served);
        assert!(answered.is_ok() && !link.is_offline());
    }
}

const VECTORS: &str = r#"{"object":"list","data":[{"index":1,"embedding":[0.5,2]},{"index":0,"embedding":[1,0.25]}],"usage":{"prompt_tokens":5,"total_tokens":5}}"#;

async fn embed(upstream: &Upstream, texts: &[&str]) -> Result<domain::Embeddings, BackendError> {
    let messages = texts
        .iter()
        .map(|text| domain::Message::new(domain::Role::User, *text));
    let texts = ChatRequest::new("theirs", messages.collect());
    upstream.embed(outbound(texts), Some(2)).await
}

#[tokio::test]
async fn embeddings_are_asked_for_beside_the_chats() {
    for transport in both_ways() {
        let server = Server::bind().await;
        let upstream = Upstream::new(config(&server.url("http")), transport).unwrap();
        let answer = json("200 OK", VECTORS);
        let ((head, body), made) = tokio::join!(
            server.answer(&answer, Ending::Close),
            embed(&upstream, &["a", "b"]),
        );
        let made = made.unwrap();
        assert_eq!(made.vectors, [[1.0, 0.25], [0.5, 2.0]]);
        assert_eq!(made.prompt_tokens, 5);
        assert!(
            head.starts_with("POST /v1/embeddings HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains("authorization: Bearer sk-very-secret"),
            "{head}"
        );
        assert_eq!(
            body,
            r#"{"model":"theirs","input":["a","b"],"dimensions":2}"#
        );
    }
}

#[tokio::test]
async fn embeddings_fail_as_chats_do() {
    let error = r#"{"error":{"message":"bad","param":"input"}}"#;
    for (answer, words) in [
        (json("400 Bad", error), "Rejected"),
        (json("429 Slow", error), "RateLimited"),
        (json("200 OK", "{}"), "no embeddings"),
        (json("200 OK", REPLY), "no embeddings"),
        (events(FIRST_CHUNK), "a stream, unasked"),
        (json("200 OK", VECTORS)[..120].to_vec(), "Interrupted"),
    ] {
        let server = Server::bind().await;
        let upstream = upstream(&server);
        let (_, made) = tokio::join!(
            server.answer(&answer, Ending::Close),
            embed(&upstream, &["a", "b"]),
        );
        let seen = format!("{:?}", made.unwrap_err());
        assert!(seen.contains(words), "{words}: {seen}");
    }
    let server = Server::bind().await;
    let upstream = by_telegraph(&server, transport());
    let made = embed(&upstream, &["a"]).await;
    assert!(
        matches!(made, Err(BackendError::Declined { .. })),
        "{made:?}"
    );
}

/// What the header `name` of one request came with, each line.
async fn lines_of(
    name: &str,
    dialect: &'static dyn ClientDialect,
    asked: ChatRequest,
) -> Vec<String> {
    let mut ways = Vec::new();
    for transport in both_ways() {
        let server = Server::bind().await;
        let mut config = config(&server.url("http"));
        config.dialect = dialect;
        config.headers = vec![(name.into(), "ours-1".into())];
        let upstream = Upstream::new(config, transport).unwrap();
        let body = json("200 OK", REPLY);
        let call = outbound(asked.clone());
        let ((head, _), _) = tokio::join!(server.answer(&body, Ending::Close), upstream.chat(call));
        let lines = head.lines().filter_map(|line| {
            let (read, value) = line.split_once(": ")?;
            read.eq_ignore_ascii_case(name).then(|| value.to_owned())
        });
        ways.push(lines.collect::<Vec<_>>());
    }
    assert_eq!(ways[0], ways[1]);
    ways.remove(0)
}

#[tokio::test]
async fn betas_reach_providers_of_the_dialect_that_asked_beside_the_operators() {
    let mut asked = request("");
    asked.betas = vec!["b-1".into(), "b-2=v1".into()];
    let (openai, anthropic) = (&wire::openai::Chat, &wire::anthropic::Messages);
    let lines = lines_of("openai-beta", openai, asked.clone()).await;
    assert_eq!(lines, ["ours-1", "b-1,b-2=v1"]);
    let lines = lines_of("anthropic-beta", anthropic, asked.clone()).await;
    assert_eq!(lines, ["ours-1"]);
    asked.betas.clear();
    assert_eq!(lines_of("openai-beta", openai, asked).await, ["ours-1"]);
}
